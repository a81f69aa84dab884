"""JEPA: predict what a slowly moving teacher says of the places the student cannot see."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast import randomness
from latentcast.batch import Inputs
from latentcast.config import Config, JepaConfig, SigReg, VicReg
from latentcast.nn.cells import gather, gather_flags, parents
from latentcast.nn.hierarchy import Hierarchy, Tokens
from latentcast.nn.initialise import initialise
from latentcast.nn.predictor import Predictor
from latentcast.nn.tokens import token_validity
from latentcast.objectives.base import Objective, Output, Part, Role, View
from latentcast.objectives.masks import Masks, MaskSampler, mask_sampler
from latentcast.objectives.regularizers import covariance, sigreg, variance
from latentcast.randomness import Draw


class Jepa(Objective):
    """``L = Σ_ℓ w_ℓ · mean smooth_l1(predictor_ℓ(context), LN(teacher_ℓ(input)))`` over targets.

    One level is I-JEPA (Assran et al. 2023; smooth-L1 as in its code, not the L2 of its paper),
    more are H-JEPA: the student encodes the visible patches and everything above them, a predictor
    for each level is asked for the hidden cells of that level, and the answer is compared with
    what the average of the student's weights says about the whole input.

    Args:
        student: the stack to train.
        predictors: one for each level.
        masks: draws context and targets.
        config: weights of the levels, kind of target, regularizer.
    """

    def __init__(
        self,
        student: Hierarchy,
        predictors: Sequence[Predictor],
        masks: MaskSampler,
        config: JepaConfig,
    ) -> None:
        super().__init__()
        self.student = student
        self.predictors = nn.ModuleList(predictors)
        self.masks, self.config = masks, config
        self.teacher: Hierarchy | None = None
        if config.target == "teacher":
            self.teacher = copy.deepcopy(student).requires_grad_(False)
        weights = [config.weight, *(level.weight for level in config.coarser)]
        self.shares = [weight / sum(weights) for weight in weights]

    @classmethod
    def of(cls, config: Config) -> Jepa:
        jepa = config.objective
        assert isinstance(jepa, JepaConfig)
        student = Hierarchy.of(config)
        settings = [jepa.predictor, *(level.predictor for level in jepa.coarser)]
        hints: list[int | None] = [None] * len(settings)
        if jepa.top_down:
            hints[:-1] = student.widths[1:]
        predictors = [
            Predictor(own, config.encoder, width, hint)
            for own, width, hint in zip(settings, student.widths, hints, strict=True)
        ]
        return cls(student, predictors, mask_sampler(config), jepa)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        valid = self._valid(inputs)
        fixed = Draw(0, 0, torch.arange(len(inputs.values), device=inputs.values.device))
        masks = self.masks(draw or fixed, valid)
        return self.energy(inputs.values, valid, masks, draw)

    def energy(
        self, values: Tensor, valid: Tensor | None, masks: Masks, draw: Draw | None
    ) -> Output:
        """The loss for given masks.

        Args:
            values: ``(B, channels, *size)``.
            valid: ``(B, N)`` bool, measured patches; None when all were.
            masks: context and targets.
            draw: randomness of a training step; None is evaluation.
        """
        size = tuple(values.shape[2:])
        targets, whole = self.targets(values, valid)
        context = self.student(values, valid, masks.context, draw)
        predictions = self.predict(self.student.fused(context, size), whole, masks.targets, size)

        means: list[Tensor] = []
        weights: list[Tensor] = []
        scalars: dict[str, Tensor] = {}
        views: dict[str, View] = {}
        for n, (predicted, target) in enumerate(zip(predictions, targets, strict=True)):
            asked = masks.targets[n]
            told = _told(whole[n], asked)
            mean, count = _smooth_l1(predicted, gather(target, asked), told)
            means.append(mean)
            # A level counts by its share and not by how many cells it has: each of its targets
            # weighs share / (targets of a sample), so that pieces of a batch, joined by weight,
            # give the mean of the whole whatever is not valid in them.
            weights.append(count * (self.shares[n] * len(values) / asked.numel()))
            scalars[f"level{n}_loss"] = mean.detach()
            views |= self._views(n, context[n], whole[n], target, predicted, told)
        weight = torch.stack(weights).sum()
        # Normalised before it multiplies: of one level it is 1, and the loss is the mean itself.
        shares = [own / weight.clamp(min=1e-6) for own in weights]
        loss = torch.stack([share * mean for share, mean in zip(shares, means, strict=True)]).sum()
        if self.config.regularizer is not None:
            trained = context if self.teacher is not None else whole
            loss, scalars["regularizer"] = self._regularized(loss, trained, draw)
        return Output(loss, weight.detach(), scalars, views)

    def targets(self, values: Tensor, valid: Tensor | None) -> tuple[list[Tensor], list[Tokens]]:
        """What there is to predict at each level ``(B, cells, width)``, and what it was made of.

        The teacher's output on the whole input, layer-normed without affine, without gradient,
        drop-path or augmentation (I-JEPA, section 3). Without a teacher, the student's as it is.
        """
        if self.teacher is None:
            whole = self.student(values, valid)
            return [level.values for level in whole], whole
        with torch.no_grad():
            whole = self.teacher(values, valid)
            return [self._normalised(level) for level in whole], whole

    def _normalised(self, level: Tokens) -> Tensor:
        if self.config.target_norm == "layer":
            return F.layer_norm(level.values, level.values.shape[-1:])
        return instance_norm(level.values, level.seen)

    def predict(
        self,
        context: list[Tokens],
        whole: list[Tokens],
        asked: Sequence[Tensor],
        size: tuple[int, ...],
    ) -> list[Tensor]:
        """Predictions for the asked cells of each level, coarse to fine if ``top_down``.

        Args:
            context: the student's levels.
            whole: levels of the whole input; only which cells were measured is read.
            asked: for each level ``(M, B, T)`` int64.

        Returns:
            for each level ``(M, B, T, width)``.
        """
        grids = self.student.grids(size)
        predictions: list[Tensor] = []
        hint: Tensor | None = None
        for n in reversed(range(len(grids))):
            level, predictor = context[n], self.predictors[n]
            told = _told(whole[n], asked[n])
            if n + 1 < len(grids) and hint is not None:
                hint = hint[:, parents(grids[n], grids[n + 1], hint.device)]
            given = (level.values, level.places)
            predictions.insert(0, predictor(*given, asked[n], grids[n], level.seen, told, hint))
            if self.config.top_down and n > 0:  # the coarse prediction of every cell, for below
                every = whole[n].places.unsqueeze(0)
                hint = predictor(*given, every, grids[n], level.seen, None, hint)[0]
        return predictions

    def _regularized(
        self, loss: Tensor, trained: list[Tokens], draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        """``(1 − λ) · prediction + λ · regularizer``, averaged over the levels (LeJEPA).

        ``trained`` is what has a gradient: the student's context, without a teacher the whole.
        """
        chosen = self.config.regularizer
        assert chosen is not None
        seed, step = (0, 0) if draw is None else (draw.seed, draw.step)
        penalties = []
        for n, level in enumerate(trained):
            rows = level.values.flatten(0, 1)
            counted = None if level.seen is None else level.seen.flatten().to(rows.dtype)
            match chosen:
                case SigReg(slices=slices):
                    stream = randomness.key(seed, step, f"sigreg {n}")
                    penalties.append(sigreg(rows, stream, slices=slices, weight=counted))
                case VicReg(variance=v, covariance=c):
                    narrow = variance(rows, weight=counted)
                    penalties.append(v * narrow + c * covariance(rows, weight=counted))
        penalty = torch.stack(penalties).mean()
        return (1 - chosen.weight) * loss + chosen.weight * penalty, penalty.detach()

    def _views(
        self,
        n: int,
        context: Tokens,
        whole: Tokens,
        target: Tensor,
        predicted: Tensor,
        told: Tensor | None,
    ) -> dict[str, View]:
        made: Part = "encoder" if n == 0 else "merge"
        rows = predicted.detach().transpose(0, 1).flatten(1, 2)
        asked = None if told is None else told.transpose(0, 1).flatten(1, 2)
        return {
            f"level{n}_context": View(context.values.detach(), made, context.seen),
            f"level{n}_target": View(target.detach(), made, whole.seen),
            f"level{n}_prediction": View(rows, "predictor", asked),
        }

    @torch.no_grad()
    def patch_errors(self, inputs: Inputs, role: Role = "teacher") -> Tensor:
        """``1 − cos`` of each patch with its prediction from all others outside its block.

        The grid is tiled with blocks of about a tenth of the patches, each hidden in turn.
        ``(B, N)``, NaN where not valid. ``role`` chooses whose reading of the input is predicted.
        """
        values, valid = inputs.values, self._valid(inputs)
        size, batch = tuple(values.shape[2:]), len(values)
        patches = math.prod(self.student.grids(size)[0])
        whole: list[Tokens] = self.encoder(role)(values, valid)
        target = self._normalised(whole[0])
        errors = values.new_zeros(batch, patches)
        for hidden in torch.arange(patches, device=values.device).tensor_split(10):
            if not len(hidden):
                continue
            rest = torch.ones(patches, dtype=torch.bool, device=values.device)
            rest[hidden] = False
            kept = rest.nonzero().squeeze(1).expand(batch, -1)
            asked = hidden.expand(1, batch, -1)
            context = self.student.fused(self.student(values, valid, kept), size)
            # Of the coarser levels only the hints matter: one cell is asked for form's sake.
            cell = [asked.new_zeros(1, batch, 1)] * (len(whole) - 1)
            predicted = self.predict(context, whole, [asked, *cell], size)[0]
            wide = torch.promote_types(values.dtype, torch.float32)
            errors[:, hidden] = 1 - F.cosine_similarity(
                predicted[0].to(wide), target[:, hidden].to(wide), dim=-1
            ).to(errors.dtype)
        return errors if valid is None else errors.masked_fill(~valid, torch.nan)

    def _valid(self, inputs: Inputs) -> Tensor | None:
        """Measured patches; None when all are, where looking costs no sync with a device."""
        if inputs.valid is None:
            return None
        valid = token_validity(inputs.valid, self.student.patches)
        return None if valid.device.type == "cpu" and bool(valid.all()) else valid

    def initialise(self, seed: int) -> None:
        self.student.initialise(seed)
        for n, predictor in enumerate(self.predictors):
            initialise(predictor, seed, f"initialise predictor {n}")
        if self.teacher is not None:
            self.teacher.load_state_dict(self.student.state_dict())

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [] if self.teacher is None else [(self.student, self.teacher)]

    def encoder(self, role: Role) -> Hierarchy:
        return self.student if role == "student" or self.teacher is None else self.teacher

    def step_flops(self, size: tuple[int, ...]) -> int:
        context, levels = self.masks.sizes()
        student = self.student.forward_flops(size, round(context))
        whole = self.student.forward_flops(size)
        grids = self.student.grids(size)
        predictors = 0
        for n, (predictor, (blocks, asks)) in enumerate(zip(self.predictors, levels, strict=True)):
            assert isinstance(predictor, Predictor)
            cells = math.prod(grids[n])
            known = round(context) if n == 0 else cells
            predictors += predictor.forward_flops(known, blocks, round(asks), cells)
            if self.config.top_down and n > 0:
                predictors += predictor.forward_flops(known, 1, cells, cells)
        return 3 * (student + predictors) + (whole if self.teacher is not None else 3 * whole)


def instance_norm(tokens: Tensor, seen: Tensor | None) -> Tensor:
    """Each channel of ``(B, N, width)`` to mean 0, variance 1 over the seen tokens of a sample."""
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    if seen is None:
        counted = wide.new_ones(wide.shape[:2]).unsqueeze(-1)
    else:
        counted = seen.unsqueeze(-1).to(wide.dtype)
    count = counted.sum(1, keepdim=True).clamp(min=1)
    centred = wide - (wide * counted).sum(1, keepdim=True) / count
    variance = (centred.square() * counted).sum(1, keepdim=True) / count
    return centred * (variance + 1e-5).rsqrt()


def _told(level: Tokens, asked: Tensor) -> Tensor | None:
    """Which of the asked cells ``(M, B, T)`` were measured; None when all were."""
    return None if level.seen is None else gather_flags(level.seen, asked)


def _smooth_l1(predicted: Tensor, target: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor]:
    """Smooth-L1 (β = 1) over the told targets, at least in float32: its mean, and of how many."""
    wide = torch.promote_types(predicted.dtype, torch.float32)
    predicted, target = predicted.to(wide), target.to(wide)
    if told is None:  # the very call of I-JEPA, so that one level equals it to the last bit
        count = predicted.new_full((), predicted[..., 0].numel())
        return F.smooth_l1_loss(predicted, target), count
    error = F.smooth_l1_loss(predicted, target, reduction="none").mean(-1)
    count = told.sum().to(wide)
    return torch.where(told, error, 0).sum() / count.clamp(min=1), count
