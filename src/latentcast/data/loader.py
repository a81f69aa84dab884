"""Integer batches from a store, by step number, read ahead of the training step."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from latentcast import randomness
from latentcast.batch import Batch
from latentcast.config import Config, EcgInput
from latentcast.data.order import Ints, Order
from latentcast.data.store import Store
from latentcast.data.workers import Request, Shards, read
from latentcast.errors import LatentcastError

Item = TypeVar("Item")


class Loader:
    """What a rank reads for each attempt: a function of (seed, attempt), whoever reads it.

    Crops of recordings, int16 ``(B, length, leads)``, or whole images, uint8 ``(B, height, width,
    channels)``, of which crops are drawn on the device.

    Args:
        store: what to read from.
        rows: of the training split.
        config: gives batch size (of all ranks together), micro-batches, seed and reader processes.
        ranks: this rank and how many there are.
        targets: one row for each record of the store, for :attr:`Batch.targets`.

    Raises:
        LatentcastError: the batch is too small to give each rank a sample of each micro-batch, the
            images have another number of channels, or there is no target for each record.
    """

    def __init__(
        self,
        store: Store,
        rows: Ints,
        config: Config,
        ranks: tuple[int, int] = (0, 1),
        targets: npt.NDArray[Any] | None = None,
    ) -> None:
        self.store, self.train, self.workers = store, config.train, config.machine.workers
        self.order = Order(rows, config.train.seed)
        self.targets = targets
        self.places = places(config, *ranks)
        self.length = 0
        """Samples of a crop; 0 for images, which are read as they are."""
        if targets is not None and len(targets) != len(store):
            raise LatentcastError(
                f"targets: has {len(targets)} rows, {store.path} {len(store)} records; give one "
                "row a record, in the order of the store"
            )
        if isinstance(config.input, EcgInput):
            self.length = config.input.length
        elif store.channels != config.input.channels:
            raise LatentcastError(
                f"{store.path}: its images have {store.channels} channels, input.channels is "
                f"{config.input.channels}; set input.channels to {store.channels}"
            )

    def request(self, ids: Ints) -> Request:
        """The arguments of ``store.take`` for these places in the order of visits."""
        rows = self.order.at(ids)
        if not self.length:
            return rows, None, None
        return rows, self.starts(ids, rows), self.length

    def starts(self, ids: Ints, rows: Ints) -> Ints:
        """First sample of each crop, always inside the record; 0 where the record is shorter."""
        room: Ints = np.maximum(0, self.store.lengths[rows] - self.length)
        if not self.train.random_crop:
            middle: Ints = room // 2
            return middle
        draws = randomness.uniform(randomness.key(self.train.seed, "crop"), ids)
        starts: Ints = (draws * (room + 1)).astype(np.int64)
        return starts

    def ids(self, attempt: int) -> Ints:
        """This rank's places of an attempt in the endless order of visits."""
        return attempt * self.train.batch_size + self.places

    def batch(self, attempt: int, most: int | None = None) -> Batch:
        """What this rank reads for one attempt, or the first of it: integers as in the store."""
        ids = self.ids(attempt)[:most]
        return self._batch(self.store.take(*self.request(ids)), ids)

    def stream(self, attempt: int) -> Generator[list[Batch]]:
        """This rank's micro-batches of this attempt and of all that follow, read ahead.

        By ``machine.workers`` processes, or with 0 by a thread of this one; they are the same
        batches. A batch may be kept as long as one likes, but many that are kept come slower.

        Raises:
            LatentcastError: a shard vanished or was cut short, or a reader process died.
        """
        return self._by_readers(attempt) if self.workers else ahead(self._alone(attempt))

    def _batch(self, samples: npt.NDArray[Any], ids: Ints) -> Batch:
        targets = None
        if self.targets is not None:
            targets = torch.from_numpy(self.targets[self.order.at(ids)])
        return Batch(torch.from_numpy(samples), torch.from_numpy(ids), targets)

    def _alone(self, attempt: int) -> Generator[list[Batch]]:
        shards = Shards(self.store)
        for number in count(attempt):
            shards.check()
            yield split(self.batch(number), self.train.micro_batches)

    def _by_readers(self, attempt: int) -> Generator[list[Batch]]:
        requests = (self.request(self.ids(number)) for number in count(attempt))
        store = self.store
        shape: tuple[int, ...]
        if self.length:
            shape, dtype = (self.length, len(store.leads)), "int16"
        else:
            shape, dtype = (store.height, store.width, store.channels), "uint8"
        shape = (len(self.places), *shape)
        with closing(read(store, requests, shape, dtype, self.workers)) as arrays:
            for number in count(attempt):
                batch = self._batch(next(arrays), self.ids(number))
                yield split(batch, self.train.micro_batches)


def places(config: Config, rank: int, ranks: int) -> Ints:
    """Which places of a batch a rank reads.

    Raises:
        LatentcastError: the batch is too small to give each rank a sample of each micro-batch.
    """
    size, pieces = config.train.batch_size, config.train.micro_batches
    if pieces * ranks > size:
        raise LatentcastError(
            f"train.batch_size {size}: gives no sample to some of {pieces} micro-batches on "
            f"{ranks} ranks; set it to {pieces * ranks} or more, or lower train.micro_batches"
        )
    # Of each micro-batch the ranks hold consecutive parts, so that together they have the
    # pieces of one process and read each sample once.
    cut = np.array_split(np.arange(size), pieces)
    return np.concatenate([np.array_split(piece, ranks)[rank] for piece in cut])


def split(batch: Batch, pieces: int) -> list[Batch]:
    """Cut a batch into micro-batches whose sizes differ by one at most, the larger ones first.

    A rank's parts of the micro-batches, one after the other, are cut where they join.
    """
    samples, ids = batch.samples.tensor_split(pieces), batch.ids.tensor_split(pieces)
    targets = [None] * pieces if batch.targets is None else batch.targets.tensor_split(pieces)
    return [Batch(*piece) for piece in zip(samples, ids, targets, strict=True)]


def ahead(items: Generator[Item], depth: int = 2) -> Generator[Item]:
    """The same items, made by a thread up to ``depth`` in advance.

    An exception in the thread is raised where the item would have come. The thread ends with the
    iterator, and with the program where one was left open.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Item | None, problem: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, problem), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        with closing(items):
            try:
                for item in items:
                    put(item, None)
                    if stop.is_set():
                        return
            except BaseException as problem:
                put(None, problem)
            else:
                put(None, StopIteration())

    def end() -> None:
        stop.set()
        thread.join()

    # A daemon, since the interpreter waits for other threads before it calls what would stop this
    # one; and joined, since a thread that is inside of torch when it goes aborts the process.
    thread = threading.Thread(target=work, daemon=True, name="latentcast-loader")
    atexit.register(end)
    thread.start()
    try:
        while True:
            item, problem = ready.get()
            if isinstance(problem, StopIteration):
                return
            if problem is not None:
                raise problem
            assert item is not None
            yield item
    finally:
        end()
        atexit.unregister(end)


@contextmanager
def to_device(
    stream: Iterator[list[Batch]], device: torch.device
) -> Generator[Iterator[list[Batch]]]:
    """The same micro-batches on the device, the next ones on their way while a step runs.

    On a GPU a thread copies them into pinned memory and from there, on a stream of its own, to the
    device. Elsewhere nothing is done: a batch moves when it is used, or is where it belongs. The
    stream is closed afterwards, and with it the threads and processes that read ahead.
    """
    with ExitStack() as stack:
        if isinstance(stream, Generator):
            stack.enter_context(closing(stream))
        if device.type == "cuda":
            stream = stack.enter_context(closing(_copied(stream, device)))
        yield stream


def _copied(stream: Iterator[list[Batch]], device: torch.device) -> Generator[list[Batch]]:
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copies() -> Generator[tuple[list[Batch], torch.cuda.Event]]:
        for pieces in stream:
            with torch.cuda.stream(copying):  # also makes it this thread's device
                # Pinned memory is used again only after the copy out of it has ended.
                moved = [_pinned(piece).to(device) for piece in pieces]
                done = copying.record_event()
            yield moved, done

    with closing(ahead(copies(), depth=1)) as arriving:
        for moved, done in arriving:
            computing = torch.cuda.current_stream(device)
            computing.wait_event(done)
            for batch in moved:
                # Made on the other stream: not to be overwritten before this one has read it.
                for tensor in (batch.samples, batch.ids, batch.targets):
                    if tensor is not None:
                        tensor.record_stream(computing)
            yield moved


def _pinned(batch: Batch) -> Batch:
    targets = None if batch.targets is None else batch.targets.pin_memory()
    return Batch(batch.samples.pin_memory(), batch.ids.pin_memory(), targets)
