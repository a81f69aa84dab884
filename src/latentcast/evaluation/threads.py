"""One torch thread for each of the small fixed computations of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the same bits on any machine, and no threads that wait on another.

    On two cores shared with other work, torch's threaded eigh of 768 x 768 took up to 11 s and
    on one thread 0.1 s; the random convolutions of 2,980 records 42 s and on one thread 13 s.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results in order, computed on all cores, each with one torch thread: the same bits."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        # A thread that began with more would set MKL, which is one for all threads, back to that.
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)
