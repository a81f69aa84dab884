"""The contract between an objective and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.encoder import PatchEncoder
from latentcast.randomness import Draw

Role = Literal["student", "teacher"]


@dataclass(frozen=True)
class Output:
    """What one forward pass of an objective gives.

    Attributes:
        loss: scalar, the mean of its terms.
        weight: scalar, how many terms the mean is over. Micro-batches are joined by weight, so
            that pieces of a batch give the gradient of the whole also when some tokens are not
            valid.
        scalars: named scalars for the log, detached.
        views: named representations ``(B, N, width)`` for the collapse monitor, detached.
        valid: ``(B, N)`` bool, which rows of the views count; None when all do.
    """

    loss: Tensor
    weight: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    views: Mapping[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None


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
    def encoder(self, role: Role) -> PatchEncoder:
        """The encoder to read out. Without a teacher both roles are the student."""

    @abstractmethod
    def forward_flops(self, size: tuple[int, ...]) -> int:
        """Operations of one sample's forward pass in matrix products."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters an optimizer may see, by name: those that require a gradient."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay leaves a parameter alone: biases, norms, gains and CLS."""
        return parameter.ndim <= 1 or name.endswith("cls")
