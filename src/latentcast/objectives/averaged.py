"""An encoder that is trained, and an average of its weights that takes no part in the loss."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.base import Encoder
from latentcast.objectives.base import Objective, Role, measured_patches


class Averaged(Objective):
    """Base of objectives without a teacher; with an average of the weights, that is read out.

    Args:
        student: trained.
        teacher: whether an average of its weights is kept.
    """

    def __init__(self, student: Encoder, teacher: bool) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False) if teacher else None

    def valid(self, inputs: Inputs) -> Tensor | None:
        """``(B, N)`` bool, the measured patches; None when all are."""
        return measured_patches(self.student, inputs)

    def initialise(self, seed: int) -> None:
        self.student.initialise(seed)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.student.state_dict())

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [] if self.teacher is None else [(self.student, self.teacher)]

    def encoder(self, role: Role) -> Encoder:
        return self.student if role == "student" or self.teacher is None else self.teacher

    def step_flops(self, size: tuple[int, ...]) -> int:
        return 3 * self.student.flops(size)  # a backward pass is two forward passes
