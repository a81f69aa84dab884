"""Processes that fill shared buffers from a store, and the error when one of them dies.

Nothing here imports torch, so that a reader starts in tenths of a second and stays small.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import time
import traceback
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from itertools import cycle
from math import prod
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError

Array = npt.NDArray[Any]
Request = tuple[npt.NDArray[np.int64], Any, Any]
"""The arguments of ``store.take`` before ``out``; images have neither starts nor length."""

AHEAD = 2
"""Requests under way per reader: one that it reads, one that waits."""
SPARE = 2
"""Buffers that the consumer may hold while it waits for the next one, at no cost."""
_FREE_SECONDS, _SHARE_OF_CHECKS = 1e-3, 0.01


def read(
    store: Store,
    requests: Iterator[Request],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    workers: int,
) -> Generator[Array]:
    """``store.take(*request)`` for each request, in their order, read by processes.

    What is handed out lies in shared memory and is used again once nothing refers to it any more:
    new pages for every batch cost ten times what copying into old ones does, which is also why
    torch's DataLoader (a new file in shared memory a batch) is not fast enough. A consumer that
    keeps more than a few arrays gets the following ones from its own process, in memory of its own.

    Args:
        shape, dtype: of every array.
        workers: how many processes; they are gone when the iterator is closed.

    Raises:
        LatentcastError: a shard vanished or was cut short, or a reader died.
    """
    shards = Shards(store)
    # Never fork: this process has threads (torch's, the reading ahead), and a fork keeps the locks
    # they hold for ever. Spawn and not forkserver, whose one gain would be sharing an import that
    # this module keeps short, and whose server stays until the end.
    context = multiprocessing.get_context("spawn")
    size = prod(shape)
    width = np.dtype(dtype).itemsize
    slots = workers * AHEAD + SPARE
    memory = context.RawArray("b", slots * size * width)
    free, pending = deque(range(slots)), deque[tuple[Reader, int]]()
    readers: list[Reader] = []

    def stop() -> None:
        for reader in readers:
            reader.stop()

    # Readers ignore SIGTERM, which is all that multiprocessing sends at exit before it
    # waits for them; a stream that an error left open must not keep the program from ending.
    atexit.register(stop)
    # The store is not sent: each process opens it and makes memory maps of its own.
    arguments = (store, shards, memory, shape, dtype)
    try:
        for _ in range(workers):
            readers.append(Reader(context, shards, arguments))
        turns = cycle(readers)
        while True:
            while free and len(pending) < workers * AHEAD:
                reader, slot = next(turns), free.popleft()
                reader.send(slot, next(requests))
                pending.append((reader, slot))
            if not pending:
                shards.check()
                yield store.take(*next(requests))
                continue
            reader, slot = pending.popleft()
            reader.answer()
            buffer = np.frombuffer(memory, dtype, size, slot * size * width)
            weakref.finalize(buffer, free.append, slot).atexit = False
            yield buffer.reshape(shape)
    finally:
        atexit.unregister(stop)
        stop()


class Reader:
    """One process that takes requests from a pipe and fills the buffer each of them names."""

    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        shards: Shards,
        arguments: tuple[Any, ...],
    ) -> None:
        """``arguments`` are those of :func:`_serve` after the pipe."""
        self.shards = shards
        self.line, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, *arguments), daemon=True, name="latentcast-reader"
        )
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe, and is seen at once

    def send(self, slot: int, request: Request) -> None:
        try:
            self.line.send((slot, request))
        except OSError:
            raise self._died() from None

    def answer(self) -> None:
        """Wait until the oldest request is done.

        Raises:
            LatentcastError: a shard is damaged, or the process died.
        """
        try:
            problem = self.line.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if problem is not None:
            raise problem

    def stop(self) -> None:
        """End the process, whatever it is at; it only reads."""
        self.line.close()
        self.process.kill()
        self.process.join()

    def _died(self) -> LatentcastError:
        self.process.join(timeout=10)
        self.shards.check(now=True)  # a shard cut short under a reader kills it: name that instead
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name  # Windows has but a few of them
            how = f"was ended by {name}"
            fix = {
                "SIGKILL": "memory may have run out: lower machine.workers, and resume",
                "SIGBUS": "the disk could not deliver a page: check it and its log, "
                "stage the store on another with machine.stage, and resume",
            }.get(name, "resume, with machine.workers=0 if it happens again")
        else:
            how = f"ended with exit code {code}, its traceback is above"
            fix = (
                "a script that trains with machine.workers does so under "
                "if __name__ == '__main__':, or sets machine.workers=0"
            )
        return LatentcastError(f"machine.workers: reader process {self.process.pid} {how}; {fix}")


class Shards:
    """The shard files of a store as they were when it was opened.

    A process that reads a memory map past the end of a file that was cut short is killed (SIGBUS)
    without a word. Looking at the sizes first makes an error of it, except in the instant between.
    A file that is removed can still be read by who has it open, but by nobody who resumes.
    """

    def __init__(self, store: Store) -> None:
        paths = [store.path / file for file in store.checksums]
        self.sizes = {path: path.stat().st_size for path in paths}
        self.due = 0.0

    def check(self, *, now: bool = False) -> None:
        """Compare the sizes, unless that has just taken long; with ``now`` always.

        Raises:
            LatentcastError: names the file that vanished or was cut short.
        """
        begun = time.monotonic()
        if begun < self.due and not now:
            return
        for path, size in self.sizes.items():
            try:
                found = path.stat().st_size
            except OSError as error:
                raise LatentcastError(
                    f"{path}: vanished while it was read ({error.strerror}); restore it from a "
                    f"copy, or remove {path.parent} and ingest again, then run the same command "
                    "again to resume"
                ) from None
            if found != size:
                raise LatentcastError(
                    f"{path}: has {found} bytes and had {size} when it was opened; restore it from "
                    f"a copy, or remove {path.parent} and ingest again, then run the same command "
                    "again to resume"
                )
        # A thousand shards take a millisecond on a local disk and may take a second on a cluster's:
        # then it is done less often, so that it takes a hundredth of the time.
        ended = time.monotonic()
        self.due = ended + max(0.0, ended - begun - _FREE_SECONDS) / _SHARE_OF_CHECKS


def _serve(
    line: Connection,
    store: Store,
    shards: Shards,
    memory: Any,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
) -> None:
    # Schedulers and Ctrl-C signal the whole group; what it means is up to the trainer, which needs
    # its readers for the step in hand. They end with the pipe, also when the trainer is killed.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    buffers = np.frombuffer(memory, dtype).reshape(-1, *shape)
    while True:
        try:
            slot, request = line.recv()
        except (EOFError, OSError):
            return
        problem: Exception | None = None
        try:
            shards.check()
            store.take(*(*request, buffers[slot]))
        except Exception as error:
            if not isinstance(error, LatentcastError):
                error.add_note(f"in a reader process:\n{traceback.format_exc()}")
            problem = error
        try:
            line.send(problem)
        except OSError:
            return
