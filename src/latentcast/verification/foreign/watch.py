"""Somebody's training, watched: students and teachers are found at its first optimizer step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from torch.optim.optimizer import Optimizer

from latentcast.errors import LatentcastError
from latentcast.runs.new import surroundings
from latentcast.verification.foreign.average import Average, Momentum
from latentcast.verification.foreign.batches import Batches
from latentcast.verification.foreign.events import Observer, Session
from latentcast.verification.foreign.gradients import Gradients
from latentcast.verification.foreign.heap import Heap
from latentcast.verification.foreign.pairs import find_pairs
from latentcast.verification.foreign.schedules import Schedules
from latentcast.verification.foreign.verified import Lines, Verified
from latentcast.verification.foreign.weights import Weights
from latentcast.verification.report.lines import Line, Report, Section
from latentcast.verification.report.page import write_report

STEPS = 8
"""Optimizer steps that are watched."""


class Watch:
    """What is measured of one training; ``with watched() as watch`` makes it.

    Attributes:
        session: the events; after its last step the training goes on unwatched.
    """

    def __init__(
        self, steps: int | None = STEPS, seconds: float | None = None,
        momentum: Momentum | None = None, ended: Callable[[], object] = lambda: None,
        total: int | None = None,
    ) -> None:  # fmt: skip
        self._averages = _Averages(momentum)
        observers = [
            Gradients(), Schedules(total), Batches(), Weights(self._averages.ids), self._averages,
        ]  # fmt: skip
        self.session = Session(observers, steps, seconds, ended)
        self._begun = time.perf_counter()

    @property
    def steps(self) -> int:
        """Optimizer steps that were taken."""
        return self.session.taken

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """All that was measured, once the session is over."""
        found = [line for observer in self.session.observers for line in observer.lines()]
        failed = Lines()
        for name, problem in self.session.failures.items():
            failed.unmeasured("watch.probe", f"The probe '{name}' came to its end.", problem)
        return (*found, *failed)

    @property
    def verified(self) -> Verified:
        return Verified(self.lines)

    @property
    def holds(self) -> bool:
        """No line is broken."""
        return self.verified.holds

    def report(self, name: str) -> Report:
        """The lines as a report, under the name of the training."""
        seconds = time.perf_counter() - self._begun
        facts = {"optimizer steps": self.steps, "averages": len(self._averages.found)}
        section = Section(name, "training", self.lines, facts, seconds)
        return Report((section,), surroundings())

    def write(self, folder: Path, name: str) -> Path:
        """The report as files; the path of its page."""
        return write_report(self.report(name), folder)


class _Averages(Observer):
    """Finds what is averaged, and has each pair observed.

    It looks at the first step, and once more at the second: an average may be made by its first
    update, as that of a callback is which gets the model when a step is over.
    """

    name = "averages"

    def __init__(self, momentum: Momentum | None) -> None:
        self.momentum = momentum
        self.found = list[Average]()
        self._again = False

    def start(self, optimizer: Optimizer) -> None:
        self._find(self.session.heap, optimizer)

    def before(self, optimizer: Optimizer, step: int) -> None:
        if step == 1 and not self._again:
            self._again = True
            self._find(Heap.now(), optimizer)

    def _find(self, heap: Heap, optimizer: Optimizer) -> None:
        places = {average.pair.teacher()[0].data_ptr() for average in self.found}
        for pair in find_pairs(heap, optimizer):
            if pair.teacher()[0].data_ptr() in places:
                continue
            average = Average(pair, self.momentum, found=True)
            average.session = self.session
            average.start(optimizer)
            self.found.append(average)
            self.session.observers.append(average)

    def ids(self) -> set[int]:
        """Of the weights and modules of what is an average."""
        teachers = [a.pair.teacher_module for a in self.found if a.is_average]
        parts = [module for module in teachers if module is not None]
        return {id(p) for m in parts for p in m.parameters()} | {
            id(part) for m in parts for part in m.modules()
        }


@contextmanager
def watched(
    steps: int | None = STEPS, seconds: float | None = None, momentum: Momentum | None = None,
    total: int | None = None,
) -> Iterator[Watch]:  # fmt: skip
    """Watch the training that runs in this context, whatever it is::

        with watched() as watch:
            train()
        assert watch.holds, watch.verified

    Args:
        steps: optimizer steps to look at; None for all.
        seconds: looks no longer than that after the first step.
        momentum: what that of an average should be, a number or a function of the step from 0.
        total: optimizer steps of the whole training; its scheduler is followed to the last one.

    Raises:
        LatentcastError: no torch optimizer took a step.
    """
    gc.collect()  # networks of an earlier training are in no one's way
    watch = Watch(steps, seconds, momentum, total=total)
    with watch.session:
        yield watch
    if not watch.steps:
        raise LatentcastError("watched: no torch optimizer took a step; train inside of it")
