"""JEPA: predict a slowly moving teacher's tokens in the places that are hidden from the student."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast import randomness
from latentcast.batch import Inputs
from latentcast.config import OBJECTIVES, Config, EncoderConfig, SinCos
from latentcast.nn.backbones import build_encoder
from latentcast.nn.cells import gather, gather_flags, parents
from latentcast.nn.hierarchy import Hierarchy, Tokens
from latentcast.nn.initialise import initialise
from latentcast.nn.predictor import Predictor
from latentcast.objectives.base import Objective, Output, Part, Role, View, measured_patches
from latentcast.objectives.jepa.config import JepaConfig
from latentcast.objectives.jepa.masks import Masks, MaskSampler, in_all_leads, mask_sampler
from latentcast.objectives.regularizers import SigReg, VicReg, covariance, sigreg, variance
from latentcast.randomness import Draw


@OBJECTIVES.register
class Jepa(Objective):
    """``L = Σ_ℓ w_ℓ · mean smooth_l1(predictor_ℓ(context), LN(teacher_ℓ(input)))`` over targets.

    One level is I-JEPA (Assran et al. 2023; smooth-L1 as in its code, not the L2 of its paper),
    more are H-JEPA: the student encodes the visible patches and everything above them, a predictor
    for each level predicts the hidden cells of that level, and each prediction is compared with
    the token that the average of the student's weights makes of the whole input.

    Args:
        student: the stack to train.
        predictors: one for each level.
        masks: draws context and targets.
        config: weights of the levels, kind of target, regularizer.
    """

    settings = JepaConfig
    predicted_from = "the recording outside a tenth of it around the patch"

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
    def of(cls, config: Config) -> Self:
        jepa = config.objective
        assert isinstance(jepa, JepaConfig)
        blocks = block_settings(config)
        student = Hierarchy(build_encoder(config), jepa.coarser, jepa.fusion, blocks)
        settings = [jepa.predictor, *(level.predictor for level in jepa.coarser)]
        hints: list[int | None] = [None] * len(settings)
        if jepa.top_down:
            hints[:-1] = student.widths[1:]
        predictors = [
            Predictor(own, blocks, width, hint, rows)
            for own, width, hint, rows in zip(
                settings, student.widths, hints, student.rows, strict=True
            )
        ]
        return cls(student, predictors, mask_sampler(config), jepa)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        valid = measured_patches(self.student, inputs)
        fixed = Draw(0, 0, torch.arange(len(inputs.values), device=inputs.values.device))
        masks = self.masks(draw or fixed, valid)
        return self.energy(inputs.values, valid, masks, draw, inputs.clean)

    def energy(
        self,
        values: Tensor,
        valid: Tensor | None,
        masks: Masks,
        draw: Draw | None,
        clean: Tensor | None = None,
    ) -> Output:
        """The loss for given masks.

        Args:
            values: ``(B, channels, *size)``.
            valid: ``(B, N)`` bool, measured patches; None when all were.
            masks: context and targets.
            draw: randomness of a training step; None is evaluation.
            clean: the values before augmentation, for the teacher; None where they are the same.
        """
        size = tuple(values.shape[2:])
        recorded = values if clean is None or self.teacher is None else clean
        targets, teacher_tokens = self.targets(recorded, valid)
        context = self.student(values, valid, masks.context, draw)
        fused = self.student.fused(context, size)
        predictions = self.predict(fused, teacher_tokens, masks.targets, size)

        means: list[Tensor] = []
        weights: list[Tensor] = []
        scalars: dict[str, Tensor] = {}
        views: list[View] = []
        for n, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
            target_ids = masks.targets[n]
            target_valid = gather_valid(teacher_tokens[n], target_ids)
            mean, count = _smooth_l1(prediction, gather(target, target_ids), target_valid)
            means.append(mean)
            # A level counts by its share and not by how many cells it has: each of its targets
            # weighs share / (targets of a sample), so that pieces of a batch, joined by weight,
            # give the mean of the whole batch whatever is not valid in them.
            weights.append(count * (self.shares[n] * len(values) / target_ids.numel()))
            scalars[f"level{n}_loss"] = mean.detach()
            views += _views(n, context[n], teacher_tokens[n], target, prediction, target_valid)
        weight = torch.stack(weights).sum()
        # Normalised before it multiplies: of one level it is 1, and the loss is the mean itself.
        shares = [own / weight.clamp(min=1e-6) for own in weights]
        loss = torch.stack([share * mean for share, mean in zip(shares, means, strict=True)]).sum()
        if self.config.regularizer is not None:
            trained = context if self.teacher is not None else teacher_tokens
            loss, scalars["regularizer"] = self._regularized(loss, trained, draw)
        tokens, tokens_valid = context[0].values, context[0].valid
        return Output(loss, weight.detach(), scalars, views, tokens, tokens_valid)

    def targets(self, values: Tensor, valid: Tensor | None) -> tuple[list[Tensor], list[Tokens]]:
        """The targets of each level ``(B, cells, width)``, and the tokens they were made of.

        The teacher's output on the whole input, layer-normed without affine, without gradient,
        drop-path or augmentation (I-JEPA, section 3). Without a teacher, the student's as it is.
        """
        if self.teacher is None:
            tokens = self.student(values, valid)
            return [level.values for level in tokens], tokens
        with torch.no_grad():
            teacher_tokens = self.teacher(values, valid)
            return [self._normalised(level) for level in teacher_tokens], teacher_tokens

    def _normalised(self, level: Tokens) -> Tensor:
        if self.config.target_norm == "layer":
            return F.layer_norm(level.values, level.values.shape[-1:])
        return instance_norm(level.values, level.valid)

    def predict(
        self,
        context: list[Tokens],
        teacher_tokens: list[Tokens],
        target_ids: Sequence[Tensor],
        size: tuple[int, ...],
    ) -> list[Tensor]:
        """Predictions for cells of each level, coarse to fine if ``top_down``.

        Args:
            context: the student's levels.
            teacher_tokens: levels of the whole input; only which cells were measured is read.
            target_ids: cells to predict, for each level ``(M, B, T)`` int64.

        Returns:
            for each level ``(M, B, T, width)``.
        """
        grids = self.student.grids(size)
        predictions: list[Tensor] = []
        hint: Tensor | None = None
        for n in reversed(range(len(grids))):
            level, predictor = context[n], self.predictors[n]
            target_valid = gather_valid(teacher_tokens[n], target_ids[n])
            if n + 1 < len(grids) and hint is not None:
                hint = hint[:, parents(grids[n], grids[n + 1], hint.device)]
            tokens = (level.values, level.ids)
            predictions.insert(
                0, predictor(*tokens, target_ids[n], grids[n], level.valid, target_valid, hint)
            )
            if self.config.top_down and n > 0:  # the coarse prediction of every cell, for below
                every = teacher_tokens[n].ids.unsqueeze(0)
                hint = predictor(*tokens, every, grids[n], level.valid, None, hint)[0]
        return predictions

    def _regularized(
        self, loss: Tensor, trained: list[Tokens], draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        """``(1 − λ) · prediction + λ · regularizer``, averaged over the levels (LeJEPA).

        ``trained`` has a gradient: the student's context, without a teacher the whole input.
        """
        regularizer = self.config.regularizer
        assert regularizer is not None
        seed, step = (0, 0) if draw is None else (draw.seed, draw.step)
        penalties = []
        for n, level in enumerate(trained):
            rows = level.values.flatten(0, 1)
            weight = None if level.valid is None else level.valid.flatten().to(rows.dtype)
            match regularizer:
                case SigReg(slices=slices):
                    stream = randomness.key(seed, step, f"sigreg {n}")
                    penalties.append(sigreg(rows, stream, slices=slices, weight=weight))
                case VicReg(variance=v, covariance=c):
                    spread = variance(rows, weight=weight)
                    penalties.append(v * spread + c * covariance(rows, weight=weight))
        penalty = torch.stack(penalties).mean()
        return (1 - regularizer.weight) * loss + regularizer.weight * penalty, penalty.detach()

    @torch.no_grad()
    def patch_errors(self, inputs: Inputs, role: Role = "teacher") -> Tensor:
        """``1 − cos`` of each patch with its prediction from all others outside its block.

        The grid is tiled with blocks of about a tenth of the patches, each hidden in turn; of
        leads × time with spans in all leads.
        ``(B, N)``, NaN where not valid. ``role`` chooses whose tokens of the input are predicted.
        """
        values, valid = inputs.values, measured_patches(self.student, inputs)
        size, batch = tuple(values.shape[2:]), len(values)
        grid = self.student.grid(size)
        patches, leads = math.prod(grid), self.student.lead_rows
        teacher_tokens: list[Tokens] = self.encoder(role)(values, valid)
        target = self._normalised(teacher_tokens[0])
        errors = values.new_zeros(batch, patches)
        for block in torch.arange(patches // (leads or 1), device=values.device).tensor_split(10):
            if not len(block):
                continue
            hidden = block if leads is None else in_all_leads(block, grid)
            visible = torch.ones(patches, dtype=torch.bool, device=values.device)
            visible[hidden] = False
            context_ids = visible.nonzero().squeeze(1).expand(batch, -1)
            target_ids = hidden.expand(1, batch, -1)
            context = self.student.fused(self.student(values, valid, context_ids), size)
            # Of the coarser levels only the hints matter: one cell is predicted for form's sake.
            cell = [target_ids.new_zeros(1, batch, 1)] * (len(teacher_tokens) - 1)
            predicted = self.predict(context, teacher_tokens, [target_ids, *cell], size)[0]
            wide = torch.promote_types(values.dtype, torch.float32)
            errors[:, hidden] = 1 - F.cosine_similarity(
                predicted[0].to(wide), target[:, hidden].to(wide), dim=-1
            ).to(errors.dtype)
        return errors if valid is None else errors.masked_fill(~valid, torch.nan)

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
        student = self.student.flops(size, round(context))
        teacher = self.student.flops(size)
        grids = self.student.grids(size)
        predictors = 0
        for n, (predictor, (blocks, targets)) in enumerate(
            zip(self.predictors, levels, strict=True)
        ):
            assert isinstance(predictor, Predictor)
            cells = math.prod(grids[n])
            tokens = round(context) if n == 0 else cells
            predictors += predictor.flops(tokens, blocks, round(targets), cells)
            if self.config.top_down and n > 0:
                predictors += predictor.flops(tokens, 1, cells, cells)
        return 3 * (student + predictors) + (teacher if self.teacher is not None else 3 * teacher)


def block_settings(config: Config) -> EncoderConfig:
    """The kind of block of predictors and coarser levels: the encoder's own, or a plain one where
    the encoder is no transformer."""
    encoder = config.encoder
    if isinstance(encoder, EncoderConfig):
        return encoder
    return EncoderConfig(
        patch=encoder.patch, qk_norm=False, layer_scale=None, norm_eps=1e-6, causal=False,
        cls=False, positions=SinCos(),
    )  # fmt: skip


def _views(
    level: int,
    context: Tokens,
    teacher_tokens: Tokens,
    target: Tensor,
    prediction: Tensor,
    target_valid: Tensor | None,
) -> list[View]:
    part: Part = "encoder" if level == 0 else "merge"
    rows = prediction.detach().transpose(0, 1).flatten(1, 2)
    valid = None if target_valid is None else target_valid.transpose(0, 1).flatten(1, 2)
    return [
        View("context", context.values.detach(), part, level, context.valid),
        View("target", target.detach(), part, level, teacher_tokens.valid),
        View("prediction", rows, "predictor", level, valid),
    ]


def instance_norm(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Each channel of ``(B, N, width)`` to mean 0, variance 1 over the valid tokens of a sample."""
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    if valid is None:
        weight = wide.new_ones(wide.shape[:2]).unsqueeze(-1)
    else:
        weight = valid.unsqueeze(-1).to(wide.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    centred = wide - (wide * weight).sum(1, keepdim=True) / count
    variance = (centred.square() * weight).sum(1, keepdim=True) / count
    return centred * (variance + 1e-5).rsqrt()


def gather_valid(level: Tokens, target_ids: Tensor) -> Tensor | None:
    """Which of the cells ``(M, B, T)`` were measured; None when all were."""
    return None if level.valid is None else gather_flags(level.valid, target_ids)


def _smooth_l1(predicted: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Smooth-L1 (β = 1) over the valid targets, at least in float32: its mean, and of how many."""
    wide = torch.promote_types(predicted.dtype, torch.float32)
    predicted, target = predicted.to(wide), target.to(wide)
    if valid is None:  # the very call of I-JEPA, so that one level equals it to the last bit
        count = predicted.new_full((), predicted[..., 0].numel())
        return F.smooth_l1_loss(predicted, target), count
    error = F.smooth_l1_loss(predicted, target, reduction="none").mean(-1)
    count = valid.sum().to(wide)
    return torch.where(valid, error, 0).sum() / count.clamp(min=1), count
