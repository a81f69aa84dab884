"""The moving average of weights that makes a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from latentcast.engine.parallel import local_shards
from latentcast.engine.ranks import ALONE, Ranks
from latentcast.nn.batch_norm import BatchNorm


class Ema:
    """``θ_teacher ← m θ_teacher + (1 − m) θ_student`` for parameters; buffers are copied, but for
    those of batch norms (:mod:`latentcast.engine.running_statistics`).

    The engine calls :meth:`update` once for each optimizer step, after it, so the teacher averages
    the weights that training just produced. The lists are gathered once: one call moves them
    all. Of a model in shards each rank averages its own.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]], ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._students: list[Tensor] = []
        self._teachers: list[Tensor] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []
        for student, teacher in pairs:
            self._students += local_shards([p.detach() for p in student.parameters()])
            self._teachers += local_shards([p.detach() for p in teacher.parameters()])
            self._buffers += zip(_buffers(student), _buffers(teacher), strict=True)
        if len(self._students) != len(self._teachers):
            raise ValueError("a student and its teacher must have the same parameters")

    @torch.no_grad()
    def update(self, momentum: float, refused: Tensor | None = None) -> None:
        """Move the teacher, unless the step was ``refused`` (1 on the device of the weights)."""
        gain = 1.0 - momentum
        if self._teachers and refused is None:
            torch._foreach_lerp_(self._teachers, self._students, gain)
        elif self._teachers and refused is not None:
            gated: Tensor = gain * (1 - refused)
            gains = [gated] * len(self._teachers)
            torch._foreach_lerp_(self._teachers, self._students, gains)
        for ours, theirs in self._buffers:
            theirs.copy_(ours)

    @torch.no_grad()
    def distance(self) -> float:
        """Euclidean distance of teacher and student over the norm of the student."""
        if not self._teachers:
            return 0.0
        gaps = torch._foreach_sub(self._teachers, self._students)
        squares = [
            torch.stack(torch._foreach_norm(tensors)).double().square().sum()
            for tensors in (gaps, self._students)
        ]
        # Of whole copies every rank counts the same, and the ratio stays.
        gap, size = self._ranks.summed(torch.stack(squares)).sqrt().tolist()
        return float(gap / size)


def _buffers(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        if not isinstance(part, BatchNorm):
            yield from part.buffers(recurse=False)
