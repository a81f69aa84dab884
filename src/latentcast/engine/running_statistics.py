"""The statistics that batch norms evaluate by, moved once for each step that counts."""

from __future__ import annotations

from torch import Tensor, nn

from latentcast.nn.batch_norm import BatchNorm
from latentcast.objectives.base import Objective


class RunningStatistics:
    """Those of all batch norms of an objective.

    A norm of a teacher which read no batch in this step, as where the teacher is only evaluated,
    takes over its student's.
    """

    def __init__(self, objective: Objective) -> None:
        students: dict[nn.Module, nn.Module] = {}
        for student, teacher in objective.ema_pairs():
            students |= dict(zip(teacher.modules(), student.modules(), strict=True))
        norms = [module for module in objective.modules() if isinstance(module, BatchNorm)]
        self._own = [norm for norm in norms if norm not in students]
        self._teachers = [(norm, students[norm]) for norm in norms if norm in students]

    def update(self, refused: Tensor) -> None:
        """Move them, unless the step was ``refused`` (1 on the device of the weights)."""
        for norm in self._own:
            norm.follow(refused)
        for norm, student in self._teachers:
            if norm.batch is not None:
                norm.follow(refused)
                continue
            for theirs, ours in zip(norm.buffers(), student.buffers(), strict=True):
                theirs.copy_(ours)
