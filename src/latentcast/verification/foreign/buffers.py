"""Buffers of a teacher: copied, averaged, its own; or left behind."""

from __future__ import annotations

import torch
from torch import nn

from latentcast.verification.evidence import equal
from latentcast.verification.foreign.sample import Sample
from latentcast.verification.foreign.verified import Lines


class Buffers:
    """The buffers of two networks, compared where the teacher is up to date.

    That is after an optimizer's step and before the next forward pass: there the student's
    counters and statistics are those that the teacher was averaged with.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        theirs = dict(student.named_buffers())
        self.names = [
            name for name, buffer in teacher.named_buffers()
            if name in theirs and theirs[name].shape == buffer.shape
        ]  # fmt: skip
        self.student, self.teacher = student, teacher
        a, b = self._now()
        self._sample = Sample(b)
        self._first = self._sample.take(a), self._sample.take(b)
        self._integer = [not buffer.is_floating_point() for buffer in b]
        self._idle = [_is_idle(teacher, name) for name in self.names]
        self.states: list[str] = []
        self.lost = 0
        """Integer buffers in which a number is smaller than it was at the start."""

    def _now(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        a, b = dict(self.student.named_buffers()), dict(self.teacher.named_buffers())
        return [a[name] for name in self.names], [b[name] for name in self.names]

    def compare(self) -> None:
        a, b = self._now()
        pairs = [self._sample.each(x) for x in (*self._first, *map(self._sample.take, (a, b)))]
        self.states, self.lost = [], 0
        for integer, (student0, teacher0, student, teacher) in zip(
            self._integer, zip(*pairs, strict=True), strict=True
        ):
            self.lost += integer and bool((teacher < teacher0).any())
            if torch.equal(student, teacher):
                self.states.append("equal")
            elif torch.equal(teacher0, teacher) and not torch.equal(student0, student):
                self.states.append("left behind")
            else:
                self.states.append("averaged or its own")

    def add(self, lines: Lines, batch_mode: bool) -> None:
        """The lines; a teacher in batch mode has counters and statistics of its own."""
        if not self.names:
            return
        if not self.states:
            self.compare()
        kinds = list(zip(self._integer, self.states, self.names, strict=True))
        floats = [state for integer, state, _ in kinds if not integer]
        numbers = {state.replace(" ", "_"): floats.count(state) for state in sorted({*floats})}
        behind = numbers.pop("left_behind", 0)
        if floats:
            lines.add(
                "ema.buffers",
                "The teacher's statistics follow its student's, as copies, averages or its own.",
                equal("left behind", behind, 0), **numbers,
            )  # fmt: skip
        other = [name for integer, state, name in kinds if integer and state != "equal"]
        sentence = "The teacher's integer buffers are its student's."
        idle = {name for name, unread in zip(self.names, self._idle, strict=True) if unread}
        if other and (batch_mode or (idle.issuperset(other) and not self.lost)):
            lines.note("ema.integer-buffers", sentence, its_own=len(other), first=other[0])
        elif any(self._integer):
            beside = {"first": other[0]} if other else {}
            lines.add("ema.integer-buffers", sentence, equal("different", len(other), 0), **beside)


def _is_idle(network: nn.Module, name: str) -> bool:
    """A BatchNorm counts its batches, and reads the count only where it has no momentum."""
    path, _, own = name.rpartition(".")
    part = network.get_submodule(path)
    return own == "num_batches_tracked" and getattr(part, "momentum", None) is not None
