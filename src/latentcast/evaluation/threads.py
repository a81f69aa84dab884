"""One torch thread for the small fixed computations of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
