"""One move of a teacher: which momentum, and which student's weights, explain it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

AVERAGED = 1e-3
"""How far from the formula a teacher's step may be, relative to it, beyond its type's roundings."""


@dataclass(frozen=True)
class State:
    """Both networks at the last event, and which that was."""

    what: str  # "forward", "before" or "after" the optimizer, "end" of the step function
    teacher: Tensor
    student: Tensor


@dataclass(frozen=True)
class Move:
    """A change of the teacher, somewhere after an event.

    Attributes:
        what: that event.
        steps: the optimizer had taken by then.
        rounding: norm of what the teacher's type may round away, over the move's.
        left, stale_left: the share of the move that no momentum explains, with the student's
            weights of now and with those of the last move.
        unsure: of the momentum, at worst; ``deviation`` is its standard deviation.
        gain: 1 − momentum, from the better of both; ``scaled_gain`` also lets the teacher be
            scaled, which the rounding of the momentum to its type does.
    """

    what: str
    steps: int
    rounding: float
    left: float = 0.0
    stale_left: float = math.inf
    unsure: float = 0.0
    deviation: float = 0.0
    gain: float = 0.0
    scaled_gain: float = 0.0

    @property
    def late(self) -> bool:
        """After an optimizer's step, with no forward pass between."""
        return self.what in ("after", "end") and self.steps > 0

    @property
    def stale(self) -> bool:
        return self.stale_left <= AVERAGED < self.left


def fit(delta: Tensor, towards: Tensor, rounding: float) -> tuple[float, float]:
    """The gain that explains a move best, and the share of it left over beyond roundings."""
    square = float(towards.square().sum())
    if square == 0.0:
        return 0.0, math.inf
    gain = float((delta * towards).sum()) / square
    left = max(0.0, float((delta - gain * towards).norm()) - rounding)
    return gain, left / max(float(delta.norm()), 1e-300)


def scaled_fit(delta: Tensor, towards: Tensor, teacher: Tensor) -> float:
    """The gain, where the move may also scale the teacher."""
    size = max(float(teacher.norm()), 1e-300)
    unit = teacher / size
    across = towards - float(unit @ towards) * unit
    square = float(across @ across)
    return float(delta @ across) / square if square else 0.0
