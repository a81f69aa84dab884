"""Windows of requests that wait at the same time go through the network in one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.recordings import Counts
from latentcast.errors import LatentcastError

Outputs = tuple[npt.NDArray[Any], ...]
"""Arrays whose first axis is the windows."""
Kind = tuple[object, ...]
Run = Callable[[Counts, tuple[str, ...]], Outputs]


@dataclass(eq=False)
class _Job:
    """The windows of one recording, of which ``done`` have been through the network."""

    windows: Counts
    outputs: tuple[str, ...]
    future: Future[Outputs] = field(default_factory=Future)
    parts: list[Outputs] = field(default_factory=list)
    done: int = 0

    @property
    def kind(self) -> Kind:
        """Jobs of one kind can share a batch."""
        return self.windows.shape[1:], self.outputs


class Batcher:
    """One thread that runs the network over whatever waits.

    Windows of one shape are joined, at most ``most`` at a time; a recording with more of them
    waits between its batches like any other. Whoever waits no longer is left out.

    Args:
        run: the network: windows ``(B, samples, leads)`` and the names of what to compute, to
            arrays of ``B`` rows.
        most: windows of a batch.
        delay: seconds that the first window of a batch waits for others.
        observe: is told the windows of each batch and its seconds.
    """

    def __init__(
        self,
        run: Run,
        most: int,
        delay: float,
        observe: Callable[[int, float], None] = lambda windows, seconds: None,
    ) -> None:
        self._run, self._most, self._delay, self._observe = run, most, delay, observe
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="latentcast-network", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Windows that wait."""
        with self._changed:
            return sum(len(job.windows) - job.done for job in self._waiting)

    def submit(self, windows: Counts, outputs: Sequence[str]) -> Future[Outputs]:
        """The outputs of all windows of a recording; cancel what nobody waits for any more."""
        job = _Job(windows, tuple(outputs))
        with self._changed:
            if self._closed:
                raise LatentcastError("the server: is being stopped; start it again")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """End the thread; what waits is cancelled."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.future.cancel()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            if not batch:  # whoever waited went away
                continue
            jobs, pieces = zip(*batch, strict=True)
            started = time.perf_counter()
            try:
                joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
                outputs = self._run(joined, jobs[0].outputs)
            except Exception as error:
                for job in jobs:
                    _end(job, error)
                continue
            self._observe(len(joined), time.perf_counter() - started)
            begin = 0
            for job, piece in batch:
                job.parts.append(tuple(rows[begin : begin + len(piece)] for rows in outputs))
                begin += len(piece)
                if job.done == len(job.windows):
                    _end(job)

    def _next(self) -> list[tuple[_Job, Counts]] | None:
        """Jobs of one kind and their windows of the next batch; None when closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            until = time.monotonic() + self._delay
            while self._ready() < self._most and not self._closed:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            if self._closed:
                return None
            kind, batch, others = None, list[tuple[_Job, Counts]](), deque[_Job]()
            # A power of two: for each size of a batch oneDNN keeps what it has prepared, and 64 of
            # them were 400 MB. The rest goes with the next batch.
            room = 1 << (min(self._ready(), self._most).bit_length() - 1)
            while self._waiting and room:
                job = self._waiting.popleft()
                if job.future.done():  # cancelled, or a batch of it failed
                    continue
                if kind not in (None, job.kind):
                    others.append(job)
                    continue
                kind = job.kind
                piece = job.windows[job.done : job.done + room]
                job.done += len(piece)
                room -= len(piece)
                batch.append((job, piece))
                if job.done < len(job.windows):  # behind those that wait
                    self._waiting.append(job)
            self._waiting.extendleft(reversed(others))
            return batch

    def _ready(self) -> int:
        """Windows that can go with the first."""
        if not self._waiting:
            return 0
        kind = self._waiting[0].kind
        return sum(len(j.windows) - j.done for j in self._waiting if j.kind == kind)


def _end(job: _Job, error: Exception | None = None) -> None:
    """Give the result to whoever waits; nobody may wait any more."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if error is not None:
        job.future.set_exception(error)
    else:
        columns = zip(*job.parts, strict=True)
        job.future.set_result(tuple(np.concatenate(rows) for rows in columns))
