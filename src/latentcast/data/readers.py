"""Records converted by several processes, or threads, at the same time, in their order."""

from __future__ import annotations

import multiprocessing
import os
import signal as signals
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from latentcast.data.codecs.pixels import usable_processors
from latentcast.data.convert import Converted, Converter, Rejected
from latentcast.errors import LatentcastError
from latentcast.source import RecordRef

_Convert = Callable[[Sequence[RecordRef]], list[Converted | Rejected]]
_converter: Converter | None = None
"""Of a reader process."""


def convert_in_order(
    converter: Converter, refs: Sequence[RecordRef], workers: int | None
) -> Generator[Converted | Rejected]:
    """Results in the order of ``refs``; at most a few batches are in memory."""
    if workers is None:
        workers = usable_processors()
    size = converter.source.batch
    batches = (refs[i : i + size] for i in range(0, len(refs), size))
    if workers <= 1 or len(refs) <= size:
        for batch in batches:
            yield from converter(batch)
        return
    pool, convert = _pool(converter, workers)
    with pool:
        pending: deque[Future[list[Converted | Rejected]]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(convert, batch))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise LatentcastError(
                f"{converter.source.name}: a reader process died; run again with --workers 1 to "
                "see where, finished shards are kept"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _pool(converter: Converter, workers: int) -> tuple[Executor, _Convert]:
    """What converts batches at the same time, and what it is to call."""
    if converter.target.pool == "threads":
        return ThreadPoolExecutor(workers), converter
    # Forked workers start in milliseconds and share what the source has loaded.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, context, _start_worker, (converter,)), _convert_batch


def _start_worker(converter: Converter) -> None:
    global _converter
    _converter = converter
    # Ctrl-C reaches the whole group; what it means is up to the parent.
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed ingest must not leave its readers behind, waiting for work that never comes.
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _convert_batch(refs: Sequence[RecordRef]) -> list[Converted | Rejected]:
    assert _converter is not None
    return _converter(refs)
