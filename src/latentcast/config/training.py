"""How a run is optimised: AdamW and its schedules, the EMA, length and batch."""

from __future__ import annotations

import math
from itertools import pairwise
from os.path import expanduser
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from latentcast.config.settings import (
    Beta,
    Count,
    NotNegative,
    Positive,
    Settings,
    Share,
)
from latentcast.signals.suspicions import Flag


class MuonConfig(Settings):
    """Muon (Jordan et al. 2024) for the matrices within blocks; the rest stays AdamW's."""

    lr: Positive = 0.02
    """At the peak; warm-up and decay are those of ``optimizer.lr``. An update has the same size
    whatever the gradient: of an orthogonal matrix."""
    momentum: Beta = 0.95
    iterations: Count = 5
    """Of the polynomial that makes a matrix orthogonal."""


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
    muon: MuonConfig | None = None
    """None: AdamW moves everything. ``{}`` is Muon as published."""


class EmaConfig(Settings):
    """Momentum of the averaged weights, linear over the run; each step is one update.

    A momentum is a horizon only together with a batch size: the weights of one step are half
    forgotten after ``half_life = batch_size · ln 2 / −ln momentum`` samples. Given as
    ``half_life``, the horizon stays when the batch changes, ``momentum = 0.5 ** (batch_size /
    half_life)``, which is the scaling rule of Busbridge et al. 2023, ``momentum ** κ`` for a batch
    κ times as large. In published settings:

    =================================  ============  =====  ===================
    run                                momentum      batch  half-life, samples
    =================================  ============  =====  ===================
    NEPA on ImageNet                   0.9999        4096   28.4 million
    ``nepa-ecg-small`` (momentum ours) 0.9999        256    1.77 million
    I-JEPA on ImageNet, first step     0.996 → 1     2048   354 thousand
    ECG-JEPA, first step               0.998 → .9995 2048   709 thousand
    =================================  ============  =====  ===================

    ``base`` or ``half_life`` is given, never both.
    """

    base: Share | None = None
    """Momentum of the first steps, good for one batch size."""
    half_life: Positive | None = None
    """Samples after which the weights of the first steps count half, whatever the batch size."""
    final: Share | None = None
    """Momentum that the last step comes to; None stays at the first one. 1 freezes the average at
    the end, at every batch size."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps for which the momentum stays as it begins before it starts to move."""

    @model_validator(mode="after")
    def _one_horizon(self) -> Self:
        if self.base is None and self.half_life is None:
            raise ValueError(
                "neither base nor half_life is given; write half_life in samples, or base, a "
                "momentum for this batch size (0.9999 with 256 samples)"
            )
        if self.base is not None and self.half_life is not None:
            raise ValueError(
                f"base {self.base:g} and half_life {self.half_life:g} both say how far the average "
                "reaches; set base=null (and final=null to stay there), or half_life=null"
            )
        return self

    def momenta(self, batch_size: int) -> tuple[float, float]:
        """Momentum of the first and of the last steps, in batches of this many samples."""
        if self.half_life is not None:
            first = 0.5 ** (batch_size / self.half_life)
        else:
            assert self.base is not None  # one of the two is given
            first = self.base
        return first, first if self.final is None else self.final

    def horizon(self, batch_size: int) -> float:
        """Half-life in samples of the first steps; 0 without memory, infinite at momentum 1."""
        if self.half_life is not None:
            return self.half_life
        assert self.base is not None
        if self.base in (0.0, 1.0):
            return math.inf if self.base else 0.0
        return batch_size * math.log(0.5) / math.log(self.base)


LOOKS = ("log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "keep_every")
"""Keys of ``train`` that change nothing that is learned; a run may be resumed under others."""


class TrainConfig(Settings):
    """How long, how much at a time, how often to look."""

    steps: Count = 100_000
    stretches: tuple[tuple[Count, Count], ...] = ()
    """Of a run that was trained on: until which step its schedules ran over how many steps.
    Written by the run itself, so that what it became is a function of its configuration."""
    batch_size: Count = 256
    micro_batches: Count = 1
    """Gradient accumulation: the batch is split into this many pieces."""
    random_crop: bool = True
    leave_out: tuple[Flag, ...] = ()
    """Training records with a finding of one of these kinds are not trained on (docs/signals.md);
    validation and test records stay."""
    seed: int = 0
    init: Annotated[str, AfterValidator(expanduser)] | None = None
    """Run folder or exported file whose weights training starts from; None draws them."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    log_every: Count = 50
    evaluate_every: Count | None = 1000
    """kNN and a linear probe on a small labelled panel, if the store has labels; None never."""
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    """The newest ones."""
    keep_every: Count | None = None
    """And for ever those of every so many steps."""

    @model_validator(mode="after")
    def _has_samples_for_all(self) -> Self:
        if self.batch_size < self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into micro_batches "
                f"{self.micro_batches}; set train.micro_batches to at most {self.batch_size}"
            )
        ends = [0, *(until for until, _ in self.stretches)]
        if any(end >= after for end, after in pairwise(ends)):
            raise ValueError(
                f"stretches {self.stretches} must end one after the other; leave stretches out, "
                "the run itself writes it"
            )
        if ends[-1] >= self.steps:
            raise ValueError(
                f"steps {self.steps} is not more than the {ends[-1]} after which the run was "
                "trained on; set steps to more"
            )
        return self

    def steps_at(self, step: int) -> int:
        """Over how many steps the schedules run at a step, counted from 0."""
        return next((total for until, total in self.stretches if step < until), self.steps)
