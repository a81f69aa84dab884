"""The contract between an objective and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.hierarchy import Hierarchy
from latentcast.randomness import Draw

Role = Literal["student", "teacher"]
Part = Literal["encoder", "merge", "predictor"]


@dataclass(frozen=True)
class View:
    """A representation for the collapse monitor to look at.

    Attributes:
        tokens: ``(B, N, width)``, detached.
        part: what made them, and so whom an alarm names.
        valid: ``(B, N)`` bool, which tokens count; None when all do.
    """

    tokens: Tensor
    part: Part
    valid: Tensor | None = None


@dataclass(frozen=True)
class Output:
    """What one forward pass of an objective gives.

    Attributes:
        loss: scalar, the mean of its terms.
        weight: scalar, how many terms the mean is over. Micro-batches are joined by weight, so
            that pieces of a batch give the gradient of the whole also when some tokens are not
            valid.
        scalars: named scalars for the log, detached.
        views: named representations for the collapse monitor.
    """

    loss: Tensor
    weight: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """An equation over encoders. It owns modules; it never sees an optimizer, rank or file."""

    @abstractmethod
    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        """The loss of one (micro-)batch; ``draw`` None is evaluation."""

    @abstractmethod
    def initialise(self, seed: int) -> None:
        """Draw the initial weights, a function of the seed alone; teachers equal students."""

    @abstractmethod
    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(student, teacher) modules; the engine moves the second towards the first."""

    @abstractmethod
    def encoder(self, role: Role) -> PatchEncoder | Hierarchy:
        """The encoder to read out. Without a teacher both roles are the student."""

    @abstractmethod
    def patch_errors(self, inputs: Inputs, role: Role = "teacher") -> Tensor:
        """``1 − cos`` of each patch with its prediction: ``(B, N)``, NaN where not valid."""

    @abstractmethod
    def step_flops(self, size: tuple[int, ...]) -> int:
        """Operations in the matrix products of one sample's training step, backward included."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters an optimizer may see, by name: those that require a gradient."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay leaves a parameter alone: biases, norms, gains and CLS."""
        return parameter.ndim <= 1 or name.endswith("cls")
