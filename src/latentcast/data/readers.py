"""Records converted by several processes, or threads, at the same time, in their order."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal as signals
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from multiprocessing.connection import wait
from typing import Any, TypeVar

from latentcast.data.cluster import Cluster, RayExecutor
from latentcast.data.codecs.pixels import usable_processors
from latentcast.data.convert import Converted, Converter, Rejected
from latentcast.data.shared_payloads import SharedPayloads
from latentcast.errors import LatentcastError
from latentcast.images.source import ImageSource
from latentcast.source import RecordRef

Item = TypeVar("Item")
Result = TypeVar("Result")
_FORKS = sys.platform == "linux"
_REUSED = 2**25 - 2**16
"""Bytes: just below the most that glibc takes for a threshold."""
_SMALL = 4
"""Batches of small images that are one: sending one takes longer than converting some images."""
_convert: Callable[[Sequence[Any]], list[Any]] | None = None
"""Of a reader process."""


def convert_in_order(
    converter: Converter, refs: Sequence[RecordRef], workers: int | Cluster | None
) -> Generator[Converted | Rejected]:
    """Results in the order of ``refs``; at most a few batches are in memory."""
    source, size = converter.source, converter.source.batch
    workers = usable_processors() if workers is None else workers
    if isinstance(source, ImageSource):
        threads = converter.target.pool == "threads" or not (source.forked and _FORKS)
        size *= 1 if threads else _SMALL
        yield from in_order(converter, refs, workers, size, source.name, threads=threads)
        return
    if isinstance(workers, Cluster) or workers <= 1 or len(refs) <= size or not _FORKS:
        yield from in_order(converter, refs, workers, size, source.name)
        return
    shared = SharedPayloads.of(converter, _under_way(workers) + 1)
    batches = [refs[i : i + size] for i in range(0, len(refs), size)]
    for found in in_order(shared, list(enumerate(batches)), workers, 1, source.name):
        yield from shared.received(found)


def in_order(
    convert: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    workers: int | Cluster | None,
    size: int,
    name: str,
    *,
    threads: bool = False,
) -> Generator[Result]:
    """What ``convert`` makes of batches of ``size`` items, in their order.

    Args:
        convert: goes to each process once, and so may be large; results are small.
        workers: processes, or threads; None for the usable processors, 1 for none; or a cluster.
        name: of the source, for an error.

    Raises:
        LatentcastError: a process died.
    """
    workers = usable_processors() if workers is None else workers
    batches = (items[i : i + size] for i in range(0, len(items), size))
    if not isinstance(workers, Cluster) and (workers <= 1 or len(items) <= size):
        for batch in batches:
            yield from convert(batch)
        return
    pool, call, calls = _pool(convert, workers, threads)
    with pool:
        pending: deque[Future[list[Result]]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(call, batch))
                if len(pending) > _under_way(calls):
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenExecutor as error:
            raise LatentcastError(
                f"{name}: a reader process died; run again with --workers 1 to see where"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _under_way(workers: int) -> int:
    """Batches that wait or are converted while another one is consumed."""
    return 2 * workers


def _pool(
    convert: Callable[[Sequence[Item]], list[Result]], workers: int | Cluster, threads: bool
) -> tuple[Executor, Callable[[Sequence[Item]], list[Result]], int]:
    """What converts batches at the same time, what it is to call, and how many at a time."""
    if isinstance(workers, Cluster):
        cluster = RayExecutor(workers)
        return cluster, convert, cluster.calls
    if threads:
        return ThreadPoolExecutor(workers), convert, workers
    # Forked workers start in milliseconds and share what the source has loaded.
    context = multiprocessing.get_context("fork" if _FORKS else "spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (convert,))
    return pool, _convert_batch, workers


def tune_process() -> None:
    """For a process that is there to read records: not for somebody's program.

    glibc gives freed memory back to the system only where it is more than what is freed here,
    untouched (mallopt(3), M_MMAP_THRESHOLD); else the arrays of every batch are new pages, which
    cost more than the arithmetic. And garbage is not looked for among what has been imported, nor
    after every seven hundred objects.
    """
    bytearray(_REUSED)
    gc.freeze()
    gc.set_threshold(100_000)


def _start_worker(convert: Callable[[Sequence[Any]], list[Any]]) -> None:
    global _convert
    _convert = convert
    tune_process()
    # Ctrl-C reaches the whole group; what it means is up to the parent.
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed ingest must not leave its readers behind, waiting for work that never comes.
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _convert_batch(items: Sequence[Any]) -> list[Any]:
    assert _convert is not None
    return _convert(items)
