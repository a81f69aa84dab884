"""The moving average of weights that makes a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ema:
    """``θ_teacher ← m θ_teacher + (1 − m) θ_student`` for parameters; buffers are copied.

    The engine calls :meth:`update` once for each optimizer step, after it, so the teacher averages
    the weights that training just produced. The lists are gathered once: one fused call moves
    them all.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        self._students: list[Tensor] = []
        self._teachers: list[Tensor] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []
        for student, teacher in pairs:
            self._students += [p.detach() for p in student.parameters()]
            self._teachers += [p.detach() for p in teacher.parameters()]
            self._buffers += zip(student.buffers(), teacher.buffers(), strict=True)
        if len(self._students) != len(self._teachers):
            raise ValueError("a student and its teacher must have the same parameters")

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        if self._teachers:
            torch._foreach_lerp_(self._teachers, self._students, 1.0 - momentum)
        for ours, theirs in self._buffers:
            theirs.copy_(ours)

    @torch.no_grad()
    def distance(self) -> float:
        """Euclidean distance of teacher and student over the norm of the student."""
        if not self._teachers:
            return 0.0
        gaps = torch._foreach_sub(self._teachers, self._students)
        gap = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gaps)))
        size = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._students)))
        return float(gap / size)
