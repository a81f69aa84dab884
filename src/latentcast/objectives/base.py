"""The contract between an objective and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.config import Config, ObjectiveConfig
from latentcast.errors import LatentcastError
from latentcast.nn.base import Readable
from latentcast.nn.state_space import DYNAMICS_RATE, is_dynamics
from latentcast.randomness import Draw

Role = Literal["student", "teacher"]
Part = Literal["encoder", "merge", "predictor"]
ViewRole = Literal["context", "target", "prediction", "output"]


@dataclass(frozen=True)
class View:
    """A representation for the collapse monitor.

    Attributes:
        role: ``target`` (what is predicted), ``prediction`` (of targets of the same level),
            ``context`` (the tokens a prediction is made from), or ``output`` (of an encoder that
            predicts by itself).
        tokens: ``(B, N, width)``, detached.
        part: the part of the network that an alarm names.
        level: of the hierarchy, 0 for the finest.
        valid: ``(B, N)`` bool, which tokens count; None when all do.
    """

    role: ViewRole
    tokens: Tensor
    part: Part
    level: int = 0
    valid: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """What one forward pass of an objective gives.

    Attributes:
        loss: scalar, the mean of its terms.
        weight: scalar, how many terms the mean is over. Micro-batches are joined by weight, so
            that pieces of a batch give the gradient of the whole also when some tokens are not
            valid.
        scalars: named scalars for the log, detached. ``copy_last_loss`` is the loss of repeating
            the last patch, for objectives that predict the next one.
        views: representations for the collapse monitor, one for each role and level.
        tokens: ``(B, N, width)``, the student's output tokens of every input of the batch, not
            detached; None where an objective has none.
        valid: ``(B, N)`` bool, which of ``tokens`` count; None when all do.
    """

    loss: Tensor
    weight: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    views: Sequence[View] = ()
    tokens: Tensor | None = None
    valid: Tensor | None = None


def measured_patches(encoder: Readable, inputs: Inputs) -> Tensor | None:
    """``(B, N)`` bool, which patches hold enough that was measured; None when all do.

    Looked up on a CPU alone, where that costs no wait for a device: much is cheaper without flags.
    """
    if inputs.valid is None:
        return None
    valid = encoder.valid(inputs.valid)
    return None if valid.device.type == "cpu" and bool(valid.all()) else valid


class Objective(nn.Module, ABC):
    """An equation over encoders. It owns modules; it never sees an optimizer, rank or file.

    A new objective is one file with its settings and this class, and one line in
    :mod:`latentcast.objectives.build`.
    """

    settings: ClassVar[type[ObjectiveConfig]]
    predicted_from: ClassVar[str | None] = None
    """What :meth:`patch_errors` predicts a patch from, in words for reports; None without them."""

    @classmethod
    @abstractmethod
    def of(cls, config: Config) -> Self:
        """The objective of a run, not initialised yet."""

    @abstractmethod
    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        """The loss of one (micro-)batch; ``draw`` None is evaluation."""

    @abstractmethod
    def initialise(self, seed: int) -> None:
        """Draw the initial weights, a function of the seed alone; teachers equal students."""

    @abstractmethod
    def encoder(self, role: Role) -> Readable:
        """The encoder to read out. Without a teacher both roles are the student."""

    @abstractmethod
    def step_flops(self, size: tuple[int, ...]) -> int:
        """Operations in the matrix products of one sample's training step, backward included."""

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(student, teacher) modules; the engine moves the second towards the first."""
        return []

    def patch_errors(self, inputs: Inputs, role: Role = "teacher") -> Tensor:
        """``1 − cos`` of each patch with its prediction: ``(B, N)``, NaN where not valid.

        Raises:
            LatentcastError: this objective predicts no patches (:attr:`predicted_from` is None).
        """
        raise LatentcastError(
            f"{type(self).__name__}: predicts no single patches, so it has no patch errors; read "
            "its features instead (Encoder.embed)"
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters an optimizer may see, by name: those that require a gradient."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def lr_scale(self, name: str) -> float:
        """The learning rate of a parameter as a multiple of that of the schedule."""
        return DYNAMICS_RATE if is_dynamics(name) else 1.0

    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay leaves a parameter alone: biases, norms, gains, CLS, the vectors of
        leads, and the dynamics of a state space."""
        own = name.endswith(("cls", "leads.weight")) or is_dynamics(name)
        return parameter.ndim <= 1 or own
