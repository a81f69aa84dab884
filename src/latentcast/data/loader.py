"""Integer batches from a store, by step number, read ahead of the training step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from latentcast import randomness
from latentcast.batch import Batch
from latentcast.config import Config, EcgInput
from latentcast.data.order import Ints, Order
from latentcast.data.store import Store


class CropLoader:
    """Crops of recordings: which ones and where is a function of (seed, attempt).

    Args:
        store: what to read from.
        rows: of the training split.
        config: gives crop length, batch size, micro-batches and seed.
    """

    def __init__(self, store: Store, rows: Ints, config: Config) -> None:
        assert isinstance(config.input, EcgInput)
        self.store, self.train = store, config.train
        self.length = config.input.length
        self.order = Order(rows, config.train.seed)

    def batch(self, attempt: int) -> Batch:
        """The whole batch of one attempt: int16 ``(B, length, leads)``."""
        rows = self.order.batch(attempt, self.train.batch_size)
        ids = self.order.positions(attempt, self.train.batch_size)
        samples = self.store.take(rows, self.starts(ids, rows), self.length)
        return Batch(torch.from_numpy(samples), torch.from_numpy(ids))

    def starts(self, ids: Ints, rows: Ints) -> Ints:
        """First sample of each crop, always inside the record; 0 where the record is shorter."""
        room: Ints = np.maximum(0, self.store.lengths[rows] - self.length)
        if not self.train.random_crop:
            middle: Ints = room // 2
            return middle
        draws = randomness.uniform(randomness.key(self.train.seed, "crop"), ids)
        starts: Ints = (draws * (room + 1)).astype(np.int64)
        return starts

    def stream(self, attempt: int) -> Iterator[list[Batch]]:
        """Micro-batches of this attempt and of all that follow, read ahead by a thread."""
        return ahead(lambda n: split(self.batch(n), self.train.micro_batches), attempt)


def split(batch: Batch, pieces: int) -> list[Batch]:
    """Cut a batch into equal micro-batches."""
    samples, ids = batch.samples.chunk(pieces), batch.ids.chunk(pieces)
    return [Batch(s, i) for s, i in zip(samples, ids, strict=True)]


def ahead(make: Callable[[int], list[Batch]], start: int, depth: int = 2) -> Iterator[list[Batch]]:
    """``make(start), make(start + 1), …``, prepared by a thread up to ``depth`` in advance.

    An exception in the thread is raised where the batch would have come.
    """
    ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def work() -> None:
        number = start
        while not stop.is_set():
            try:
                item: list[Batch] | BaseException = make(number)
            except BaseException as problem:
                item = problem
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            number += 1

    threading.Thread(target=work, daemon=True, name="latentcast-loader").start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
