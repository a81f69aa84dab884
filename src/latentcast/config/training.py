"""How a run is optimised: AdamW and its schedules, the EMA, length and batch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentcast.config.settings import (
    Beta,
    Count,
    NotNegative,
    Positive,
    Settings,
    Share,
    divisor_near,
)


class OptimizerConfig(Settings):
    """AdamW and its schedules; all of them functions of the optimizer step."""

    lr: NotNegative = 1e-3
    start_lr: NotNegative = 0.0
    """The warm-up's first value is one step above this; I-JEPA starts at a fifth of its peak."""
    final_lr: NotNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 10_000
    weight_decay: NotNegative = 0.05
    final_weight_decay: NotNegative | None = None
    """Cosine from ``weight_decay`` to this over the run; None keeps it constant."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Positive = 1e-8
    clip_grad_norm: Positive | None = 1.0


class EmaConfig(Settings):
    """Momentum of the averaged weights: base to final, linear over all steps."""

    base: Share = 0.9999
    final: Share = 0.9999
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps for which the momentum stays at ``base`` before it starts to move."""


class TrainConfig(Settings):
    """How long, how much at a time, how often to look."""

    steps: Count = 100_000
    batch_size: Count = 256
    micro_batches: Count = 1
    """Gradient accumulation: the batch is split into this many pieces."""
    random_crop: bool = True
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    log_every: Count = 50
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    """The newest ones."""
    keep_every: Count | None = None
    """And for ever those of every so many steps."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batches "
                f"{self.micro_batches}; use {divisor_near(self.batch_size, self.micro_batches)}"
            )
        return self
