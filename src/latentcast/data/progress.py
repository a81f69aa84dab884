"""Progress of a long job: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich import progress as bars

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts records; ``with Progress("ingest", total, done) as p: p.advance(bad=False)``."""

    def __init__(self, name: str, total: int, done: int, *, quiet: bool) -> None:
        self.name, self.total, self.quiet = name, total, quiet
        self.first, self.done, self.bad = done, done, 0
        self._bar: bars.Progress | None = None

    def __enter__(self) -> Progress:
        self.started = self.last = time.monotonic()
        if self.first and not self.quiet:
            print(f"{self.name}: goes on after {self.first} records", file=sys.stderr)
        if not self.quiet and sys.stderr.isatty():
            from latentcast.terminal import Terminal

            self._bar = bars.Progress(
                bars.TextColumn("{task.description}", markup=False),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TextColumn("{task.fields[rate]} {task.fields[bad]}"),
                bars.TimeRemainingColumn(),
                console=Terminal(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self.name, total=self.total, completed=self.first, rate="", bad=""
            )
        return self

    def advance(self, *, bad: bool) -> None:
        self.done += 1
        self.bad += bad
        if self.quiet:
            return
        if self._bar is not None:
            if self.done % 16 == 0 or self.done == self.total:
                self._bar.update(
                    self._task,
                    completed=self.done,
                    rate=f"{self.rate():.0f} records/s",
                    bad=f"{self.bad} quarantined" if self.bad else "",
                )
        elif time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self._line()

    def rate(self) -> float:
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def _line(self) -> None:
        left = (self.total - self.done) / max(self.rate(), 1e-9)
        print(
            f"{self.name}: {self.done}/{self.total} records, {self.rate():.0f} records/s, "
            f"{self.bad} quarantined, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and kind is None:
            self._line()
