"""Masked latent prediction for encoders that read a masked input."""

from __future__ import annotations

import copy
import math
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import OBJECTIVES, Config
from latentcast.config.objective import Grid, ObjectiveConfig
from latentcast.config.settings import Activation, Count, Settings, Share
from latentcast.nn.backbones import build_encoder
from latentcast.nn.base import Encoder, zero_patches
from latentcast.nn.conv_norm import Norm
from latentcast.nn.conv_predictor import ConvPredictor
from latentcast.nn.initialise import initialise
from latentcast.nn.ranks import centred, summed
from latentcast.objectives.base import Objective, Output, Role, View, measured_patches
from latentcast.objectives.jepa.masks import block_cells
from latentcast.randomness import Draw


class ConvPredictorConfig(Settings):
    """Dilated convolutions over the grid of tokens."""

    width: Count = 128
    depth: Count = 2
    """Convolutions; the dilation doubles from one to the next."""
    kernel: Count = 7
    """Tokens a side; odd."""
    norm: Norm = "batch"
    activation: Activation = "relu"


class MaskedConfig(ObjectiveConfig):
    """Masked latent prediction (objectives/masked.py)."""

    kind: str = "masked"
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Share of the tokens that the spans would mask if none overlapped another."""
    mask_span: Count = 5
    """Tokens a side of a span."""
    visible_weight: Share = 0.25
    """Of a token that is not masked in the loss; a masked one counts 1."""
    predictor: ConvPredictorConfig = ConvPredictorConfig()

    @property
    def whole_batch(self) -> str | None:
        return "kind"  # targets are standardised over the batch

    def spans(self, grid: Grid) -> int:
        """Spans a sample."""
        cells = math.prod([self.mask_span] * len(grid))
        return max(1, round(self.mask_ratio * math.prod(grid) / cells))

    def check(self, config: Config) -> None:
        encoder = config.encoder
        if encoder.causal:
            raise ValueError(
                "encoder.causal is true: what is masked is predicted from both sides; set "
                "encoder.causal=false"
            )
        if encoder.prefix:
            raise ValueError("encoder.cls is true: nothing here trains it; set encoder.cls=false")
        if config.ema is None:
            raise ValueError("ema is null: the targets are a teacher's; set ema.base=0.99")
        grid = encoder.grid(config.input.size)
        if self.mask_span >= min(grid):
            raise ValueError(
                f"objective.mask_span {self.mask_span} leaves nothing of a grid of {grid} tokens; "
                f"use at most {max(1, min(grid) // 2)}, or a smaller encoder.patch"
            )
        if self.predictor.kernel % 2 == 0:
            raise ValueError(
                f"objective.predictor.kernel {self.predictor.kernel} has no middle; use "
                f"{self.predictor.kernel + 1}"
            )


@OBJECTIVES.register
class Masked(Objective):
    """``L = Σ w · smooth_l1(p(f(x ⊙ (1 − m)), m), (f̄(x) − μ) / σ) / Σ w`` over tokens.

    The student ``f`` reads the input with spans of patches set to 0, the predictor ``p`` its tokens
    and which of them were masked; the teacher ``f̄``, the average of the student, reads all of the
    input. ``μ`` and ``σ`` are those of each channel of its tokens over the batch, so that a
    constant answer earns nothing; ``w`` is 1 at masked tokens, ``visible_weight`` at the others,
    and 0 at those that are not valid. After data2vec (Baevski et al. 2022), which predicts with
    the student itself and normalises each sample.
    """

    settings = MaskedConfig

    def __init__(self, student: Encoder, config: MaskedConfig, axes: int) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        own = config.predictor
        self.predictor = ConvPredictor(
            student.width, own.width, own.depth, own.kernel, own.norm, own.activation, axes
        )

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.objective, MaskedConfig)
        return cls(build_encoder(config), config.objective, len(config.input.size))

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        values, size = inputs.values, tuple(inputs.values.shape[2:])
        grid = self.student.grid(size)
        valid = measured_patches(self.student, inputs)
        draw_or_first = draw or Draw(0, 0, torch.arange(len(values)))
        masked = span_masks(self.config, draw_or_first, grid).to(values.device)
        with torch.no_grad():
            clean = values if inputs.clean is None else inputs.clean
            target = standardised(self.teacher.encode(clean, valid), valid)
        visible = zero_patches(values, masked, grid)
        tokens = self.student.encode(visible, valid, draw=draw)
        prediction = self.predictor(tokens, masked, grid, valid)
        error = F.smooth_l1_loss(prediction.to(target.dtype), target, reduction="none").mean(-1)
        weight = torch.where(masked, 1.0, self.config.visible_weight).to(error.dtype)
        if valid is not None:
            weight = torch.where(valid, weight, 0)
        total = weight.sum()
        loss = (error * weight).sum() / total.clamp(min=1e-6)
        return Output(
            loss=loss,
            weight=total,
            views=(
                View("context", tokens.detach(), "encoder", valid=valid),
                View("target", target, "encoder", valid=valid),
                View("prediction", prediction.detach(), "predictor", valid=valid),
            ),
            tokens=tokens,
            valid=valid,
        )

    def initialise(self, seed: int) -> None:
        self.student.initialise(seed)
        initialise(self.predictor, seed, "initialise predictor")
        self.teacher.load_state_dict(self.student.state_dict())

    def ema_pairs(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        return [(self.student, self.teacher)]

    def encoder(self, role: Role) -> Encoder:
        return self.student if role == "student" else self.teacher

    def step_flops(self, size: tuple[int, ...]) -> int:
        encoder, cells = self.student.flops(size), math.prod(self.student.grid(size))
        # A backward pass is two forward passes; the teacher has none.
        return 3 * (encoder + self.predictor.flops(cells)) + encoder


def span_masks(config: MaskedConfig, draw: Draw, grid: Grid) -> Tensor:
    """Which cells are masked: bool ``(B, N)``. Spans may overlap and reach the ends."""
    span = (config.mask_span,) * len(grid)
    cells = block_cells(draw, "masked", grid, span, config.spans(grid)).flatten(1)
    masked = torch.zeros(len(cells), math.prod(grid), dtype=torch.bool, device=cells.device)
    return masked.scatter_(1, cells, True)


def standardised(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Each channel of ``(B, N, width)`` less its mean, over its deviation plus 0.001, in the valid
    tokens of the batch of all ranks; at least in float32."""
    with torch.autocast(tokens.device.type, enabled=False):
        rows = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).flatten(0, 1)
        counted = rows.new_ones(len(rows)) if valid is None else valid.flatten().to(rows.dtype)
        rows, total = centred(rows, counted)
        deviation = (summed(counted @ rows.square()) / total.clamp(min=1)).sqrt()
        return (rows / (deviation + 1e-3)).view(tokens.shape)
