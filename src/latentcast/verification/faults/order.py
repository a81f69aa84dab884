"""Bugs of data order and crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np

from latentcast import randomness
from latentcast.batch import Batch
from latentcast.data import loader, order
from latentcast.data.loader import Loader
from latentcast.data.order import Ints, Order
from latentcast.data.store import Store
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.ema import CLASSIC, HJEPA, Patch, several
from latentcast.verification.observe.data import is_ecg
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 1"


@contextmanager
def _permuted(drawn: Callable[[int, int, int], Ints]) -> Iterator[None]:
    """What is kept of permutations is forgotten before and after."""
    kept = order._permutation
    kept.cache_clear()
    with replaced(order, "_permutation", lambda was: drawn):
        yield
    kept.cache_clear()


def _same_each_epoch() -> Patch:
    def drawn(seed: int, epoch: int, n: int) -> Ints:
        return randomness.permutation(randomness.key(seed, "order", 0), n)

    return _permuted(drawn)


def _global_generator() -> Patch:
    """Kept for the epoch, as a sampler keeps it; the next process draws another one."""
    kept: dict[tuple[int, int], Ints] = {}

    def drawn(seed: int, epoch: int, n: int) -> Ints:
        if epoch not in {known for known, _ in kept} or len(kept) > 2:
            kept.clear()
            kept[epoch, n] = np.random.permutation(n).astype(np.int64)
        return kept[epoch, n]

    return _permuted(drawn)


def _not_by_seed() -> Patch:
    def drawn(seed: int, epoch: int, n: int) -> Ints:
        return randomness.permutation(randomness.key(0, "order", epoch), n)

    return _permuted(drawn)


def _not_shuffled() -> Patch:
    return _permuted(lambda seed, epoch, n: np.arange(n))


def _with_replacement() -> Patch:
    def drawn(seed: int, epoch: int, n: int) -> Ints:
        draws = randomness.uniform(randomness.key(seed, "order", epoch), np.arange(n))
        found: Ints = (draws * n).astype(np.int64)
        return found

    return _permuted(drawn)


def _drops_the_last(batch: int = 32) -> Patch:
    """An epoch is as many whole batches as there are, and the next begins after them."""

    def make(was: Any) -> Any:
        def at(self: Order, positions: Ints) -> Ints:
            count = len(self.rows)
            epochs, places = np.divmod(positions, max(1, count // batch * batch))
            found: Ints = self.rows[
                [order._permutation(self.seed, int(e), count)[p]
                 for e, p in zip(epochs, places, strict=True)]
            ]  # fmt: skip
            return found

        return at

    return replaced(Order, "at", make)


def _all_splits() -> Patch:
    def make(was: Any) -> Any:
        return lambda self, split: np.arange(len(self))

    return several(replaced(Store, "rows", make), replaced(Store, "rows", make))


def _read_late() -> Patch:
    """What a reader is asked for is a batch behind what its answer is taken for."""

    def make(was: Any) -> Any:
        def read(store: Any, requests: Any, *rest: Any) -> Any:
            ahead = iter(requests)
            first = next(ahead)
            return was(store, chain([first, first], ahead), *rest)

        return read

    return replaced(loader, "read", make)


# Crops


def _starts(change: Callable[[Loader, Ints, Ints, Ints], Ints]) -> Patch:
    """Crops begin elsewhere: given room, ids and rows."""

    def make(was: Any) -> Any:
        def starts(self: Loader, ids: Ints, rows: Ints) -> Ints:
            room = np.maximum(0, self.store.lengths[rows] - self.length)
            return change(self, room, ids, rows)

        return starts

    return replaced(Loader, "starts", make)


def _drawn(loader: Loader, room: Ints, counters: Ints) -> Ints:
    stream = randomness.key(loader.train.seed, "crop")
    found: Ints = (randomness.uniform(stream, counters) * (room + 1)).astype(np.int64)
    return found


def _outside() -> Patch:
    """The length of the record where its room was meant."""
    return _starts(lambda loader, room, ids, rows: _drawn(
        loader, np.where(room > 0, room + loader.length, 0), ids))  # fmt: skip


def _one_for_all() -> Patch:
    return _starts(lambda loader, room, ids, rows: _drawn(loader, room, np.full_like(ids, ids[0])))


def _one_for_ever() -> Patch:
    return _starts(lambda loader, room, ids, rows: _drawn(loader, room, rows))


def _first_half() -> Patch:
    return _starts(lambda loader, room, ids, rows: _drawn(loader, room // 2, ids))


def _never_last() -> Patch:
    """The upper end of the draw is left out."""
    return _starts(lambda loader, room, ids, rows: _drawn(loader, np.maximum(room - 1, 0), ids))


def _anyhow() -> Patch:
    def change(loader: Loader, room: Ints, ids: Ints, rows: Ints) -> Ints:
        found: Ints = (np.random.random(len(ids)) * (room + 1)).astype(np.int64)
        return found

    return _starts(change)


def _begin() -> Patch:
    """The first samples where the middle was meant."""
    return _starts(lambda loader, room, ids, rows: _drawn(loader, room, ids)
                   if loader.train.random_crop else np.zeros_like(room))  # fmt: skip


def _leads_apart() -> Patch:
    """One lead begins some samples after the others."""

    def make(was: Any) -> Any:
        def batch(self: Any, attempt: int) -> Batch:
            made: Batch = was(self, attempt)
            if isinstance(self, Loader) and self.length < int(self.store.lengths.max()):
                made.samples[:, :, 1] = made.samples[:, :, 1].roll(5, dims=1)
            return made

        return batch

    return replaced(Loader, "batch", make)


def _random(subject: Subject) -> bool:
    return is_ecg(subject) and subject.config.train.random_crop


FAULTS: tuple[Fault, ...] = (
    Fault("order.same-each-epoch", "Every epoch has the first one's order.",
          "set_epoch forgotten", _same_each_epoch, ("order.another-each-epoch",)),
    Fault("order.not-shuffled", "The order is that of the store.", CLASSIC, _not_shuffled,
          ("order.another-each-epoch",)),
    Fault("order.global-generator", "The order is drawn from NumPy's global generator.", CLASSIC,
          _global_generator, ("order.by-seed",)),
    Fault("order.not-by-seed", "All seeds have the same order.", CLASSIC, _not_by_seed,
          ("order.by-seed",)),
    Fault("order.with-replacement", "Samples are drawn with replacement.", CLASSIC,
          _with_replacement, ("order.once-per-epoch",)),
    Fault("order.drops-the-last", "What does not fill a batch is never seen.",
          f"{HJEPA}: drop_last", _drops_the_last, ("order.once-per-epoch",)),
    Fault("order.all-splits", "Validation and test are trained on.", CLASSIC, _all_splits,
          ("order.once-per-epoch",)),
    Fault("order.read-late", "With reader processes every batch is the one before.", CLASSIC,
          _read_late, ("order.by-readers",)),
    Fault("crop.outside", "A crop may begin where its record ends.", CLASSIC, _outside,
          ("crop.inside",), _random),
    Fault("crop.leads-apart", "One lead is cropped later than the others.", CLASSIC, _leads_apart,
          ("crop.inside",), _random),
    Fault("crop.one-for-all", "All samples of a batch are cropped at the same place.", CLASSIC,
          _one_for_all, ("crop.per-sample",), _random),
    Fault("crop.first-half", "Crops never reach the end of a record.", CLASSIC, _first_half,
          ("crop.per-sample",), _random),
    Fault("crop.never-last", "The last sample of a record is in no crop.", CLASSIC,
          _never_last, ("crop.per-sample",), _random),
    Fault("crop.one-for-ever", "A record is always cropped at the same place.", CLASSIC,
          _one_for_ever, ("crop.per-visit",), _random),
    Fault("crop.global-generator", "Crops are drawn from NumPy's global generator.", OURS, _anyhow,
          ("crop.by-seed",), _random),
    Fault("crop.begin", "Where no crop is drawn, it is the beginning of the record.", CLASSIC,
          _begin, ("crop.middle",), is_ecg),
)  # fmt: skip
