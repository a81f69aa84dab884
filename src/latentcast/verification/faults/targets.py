"""Bugs of a JEPA's targets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.nn.hierarchy import Hierarchy, Level, Tokens
from latentcast.objectives import jepa
from latentcast.objectives.base import Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.jepa import (
    has_teacher,
    is_hierarchy,
    marked,
    spread_over,
    taught,
)

Targets = tuple[list[Tensor], list[Tokens]]


def _targets(change: Any) -> AbstractContextManager[None]:
    """``Jepa.targets`` of an objective with a teacher is ``change(self, values, valid)``."""

    def make(was: Any) -> Any:
        def targets(self: Jepa, values: Tensor, valid: Tensor | None) -> Targets:
            if self.teacher is None:
                found: Targets = was(self, values, valid)
                return found
            changed: Targets = change(self, values, valid)
            return changed

        return targets

    return replaced(Jepa, "targets", make)


def _normalised(self: Jepa, levels: list[Tokens]) -> Targets:
    return [F.layer_norm(t.values, t.values.shape[-1:]) for t in levels], levels


def _of_the_student() -> AbstractContextManager[None]:
    @torch.no_grad()
    def change(self: Jepa, values: Tensor, valid: Tensor | None) -> Targets:
        return _normalised(self, self.student(values, valid))

    return _targets(change)


def _with_gradient() -> AbstractContextManager[None]:
    """The teacher has gone with the stop-gradient: the student is pulled at both ends."""

    def change(self: Jepa, values: Tensor, valid: Tensor | None) -> Targets:
        return _normalised(self, self.student(values, valid))

    return _targets(change)


@contextmanager
def _teacher_trained() -> Iterator[None]:
    """A teacher that was not frozen, and no ``no_grad`` around it."""

    def built(was: Any) -> Any:
        def init(self: Jepa, *args: Any) -> None:
            was(self, *args)
            if self.teacher is not None:
                self.teacher.requires_grad_(True)

        return init

    def change(self: Jepa, values: Tensor, valid: Tensor | None) -> Targets:
        assert self.teacher is not None
        return _normalised(self, self.teacher(values, valid))

    with ExitStack() as stack:
        stack.enter_context(replaced(Jepa, "__init__", built))
        stack.enter_context(_targets(change))
        yield


@contextmanager
def _told_of(change: Any) -> Iterator[None]:
    """Targets that are given the pass's masks and draw: ``change(self, values, valid, *told)``."""
    told: list[tuple[Masks, Draw | None]] = []

    def energised(was: Any) -> Any:
        def energy(
            self: Jepa, values: Tensor, valid: Tensor | None, masks: Masks, draw: Draw | None
        ) -> Output:
            told.append((masks, draw))
            try:
                out: Output = was(self, values, valid, masks, draw)
                return out
            finally:
                told.pop()

        return energy

    def targeted(was: Any) -> Any:
        def targets(self: Jepa, values: Tensor, valid: Tensor | None) -> Targets:
            if not told or self.teacher is None:
                plain: Targets = was(self, values, valid)
                return plain
            found: Targets = change(self, values, valid, *told[-1])
            return found

        return targets

    with ExitStack() as stack:
        stack.enter_context(replaced(Jepa, "energy", energised))
        stack.enter_context(replaced(Jepa, "targets", targeted))
        yield


def _of_masked_input() -> AbstractContextManager[None]:
    @torch.no_grad()
    def change(
        self: Jepa, values: Tensor, valid: Tensor | None, masks: Masks, draw: Draw | None
    ) -> Targets:
        assert self.teacher is not None
        grid, patch = self.student.patches.grid(values.shape[2:]), self.student.patches.patch
        hidden = torch.ones(len(values), self.student.patches.unfold(values).shape[1]).bool()
        for block in masks.targets[0]:
            hidden &= ~marked(block, hidden.shape[1])
        flags = spread_over(hidden, grid, patch, values.shape[1])
        return _normalised(self, self.teacher(torch.where(flags, values, 0), valid))

    return _told_of(change)


def _of_the_context() -> AbstractContextManager[None]:
    """The teacher sees what its own target blocks are, and nothing around them."""

    @torch.no_grad()
    def change(
        self: Jepa, values: Tensor, valid: Tensor | None, masks: Masks, draw: Draw | None
    ) -> Targets:
        assert self.teacher is not None
        grid, patch = self.student.patches.grid(values.shape[2:]), self.student.patches.patch
        asked = torch.zeros(len(values), self.student.patches.unfold(values).shape[1]).bool()
        for block in masks.targets[0]:
            asked |= marked(block, asked.shape[1])
        flags = spread_over(asked, grid, patch, values.shape[1])
        return _normalised(self, self.teacher(torch.where(flags, values, 0), valid))

    return _told_of(change)


def _dropping() -> AbstractContextManager[None]:
    @torch.no_grad()
    def change(
        self: Jepa, values: Tensor, valid: Tensor | None, masks: Masks, draw: Draw | None
    ) -> Targets:
        assert self.teacher is not None
        return _normalised(self, self.teacher(values, valid, None, draw))

    return _told_of(change)


def _norm(change: Any) -> AbstractContextManager[None]:
    return replaced(Jepa, "_normalised", lambda was: change)


def _not_normed() -> AbstractContextManager[None]:
    return _norm(lambda self, level: level.values)


def _batch_normed() -> AbstractContextManager[None]:
    def change(self: Jepa, level: Tokens) -> Tensor:
        rows = level.values.flatten(0, 1)
        return (level.values - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()

    return _norm(change)


def _token_normed() -> AbstractContextManager[None]:
    def change(self: Jepa, level: Tokens) -> Tensor:
        return F.layer_norm(level.values.mT, level.values.shape[1:2]).mT

    return _norm(change)


def _affine() -> AbstractContextManager[None]:
    """The gain and offset of the teacher's own last norm once more."""

    def change(self: Jepa, level: Tokens) -> Tensor:
        assert self.teacher is not None
        width = level.values.shape[-1:]
        own = next(
            module
            for module in self.teacher.modules()
            if isinstance(module, nn.LayerNorm) and module.weight.shape == width
        )
        return F.layer_norm(level.values, width, own.weight, own.bias)

    return _norm(change)


def _before_the_blocks() -> AbstractContextManager[None]:
    """A coarse target is the merged finer output, not what the level makes of it."""

    @torch.no_grad()
    def change(self: Jepa, values: Tensor, valid: Tensor | None) -> Targets:
        assert isinstance(self.teacher, Hierarchy)
        whole = self.teacher(values, valid)
        grids = self.teacher.grids(tuple(values.shape[2:]))
        merged = [whole[0]]
        for n, level in enumerate(self.teacher.coarser):
            assert isinstance(level, Level)
            below, told = whole[n].on_grid(whole[n].values.shape[1])
            cells = level.merge(below, told, grids[n], grids[n + 1])
            merged.append(Tokens(cells, whole[n + 1].places, whole[n + 1].seen))
        return _normalised(self, merged)[0], whole

    return _targets(change)


def _unmeasured_counted() -> AbstractContextManager[None]:
    return replaced(jepa, "instance_norm", lambda was: lambda tokens, seen: was(tokens, None))


FAULTS: tuple[Fault, ...] = (
    Fault(
        "targets.of-the-student",
        "Targets come from the student's weights, detached.",
        "classic: the wrong network",
        _of_the_student,
        ("targets.teacher", "targets.untouched", "jepa.loss"),
        taught,
    ),
    Fault(
        "targets.with-gradient",
        "Targets are the student's, and the stop-gradient is gone.",
        "classic: a dropped stop-gradient",
        _with_gradient,
        ("targets.no-gradient", "targets.teacher"),
        has_teacher,
    ),
    Fault(
        "targets.teacher-trained",
        "The teacher is not frozen and runs with gradient.",
        "classic: requires_grad left on",
        _teacher_trained,
        ("targets.no-gradient", "targets.untouched"),
        has_teacher,
    ),
    Fault(
        "targets.of-masked-input",
        "The teacher is shown the input without its targets.",
        "classic: the mask on the wrong side",
        _of_masked_input,
        ("targets.whole-input",),
        has_teacher,
    ),
    Fault(
        "targets.of-the-blocks",
        "The teacher is shown the target blocks and nothing around them.",
        "classic: cutting before the teacher instead of after it",
        _of_the_context,
        ("targets.whole-input",),
        has_teacher,
    ),
    Fault(
        "targets.drop-path",
        "The teacher drops paths and moves coordinates as in training.",
        "spec of H-JEPA, defect D18",
        _dropping,
        ("targets.deterministic",),
        has_teacher,
    ),
    Fault(
        "targets.not-normed",
        "Targets are the teacher's output as it is.",
        "spec of H-JEPA, defect D10",
        _not_normed,
        ("targets.layer-normed", "jepa.loss"),
        taught,
    ),
    Fault(
        "targets.batch-normed",
        "Targets are normed over the batch.",
        "classic: the wrong axes",
        _batch_normed,
        ("targets.layer-normed",),
        taught,
    ),
    Fault(
        "targets.normed-over-tokens",
        "Targets are normed over the tokens of a sample.",
        "classic: the wrong axis",
        _token_normed,
        ("targets.layer-normed",),
        taught,
    ),
    Fault(
        "targets.unmeasured-counted",
        "Instance norm counts tokens that were not measured.",
        "classic: a mean over a padded axis",
        _unmeasured_counted,
        ("targets.instance-normed",),
        has_teacher,
    ),
    Fault(
        "targets.affine",
        "Targets are normed with the gain and offset of the teacher's last norm.",
        "spec of JEPA, 1.4 (no affine)",
        _affine,
        ("targets.layer-normed",),
        taught,
    ),
    Fault(
        "targets.before-the-blocks",
        "A coarse target is the pooled finer output, without the level's own blocks.",
        "spec of H-JEPA, 2.1: levels that are an average of the finest",
        _before_the_blocks,
        ("targets.layer-normed", "jepa.loss"),
        lambda subject: taught(subject) and is_hierarchy(subject),
    ),
)
