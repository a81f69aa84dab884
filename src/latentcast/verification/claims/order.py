"""Which sample comes when: rows are recognised by the bytes that were read."""

from __future__ import annotations

import sys
from contextlib import closing
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from latentcast.batch import Batch
from latentcast.config import Config, EcgInput
from latentcast.data.fit import reading
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 1: data order and crops are functions of (seed, step, sample)"
BATCH = 32
EPOCHS = 3
Ints = npt.NDArray[np.int64]


def _loader(twin: Twin, config: Config) -> Loader:
    """A new one, on a store that is opened anew."""
    return reading(Store.open(twin.store.path), config)[0]


def _config(twin: Twin, shift: int = 0) -> Config:
    changes = {"batch_size": BATCH, "micro_batches": 1, "seed": twin.seed + shift}
    config = twin.config
    if isinstance(config.input, EcgInput):  # records in full: their bytes are unique
        length = int(twin.store.lengths.max())
        longest = config.input.model_copy(update={"length": length})
        config = config.model_copy(update={"input": longest})
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def _epochs(twin: Twin) -> Ints:
    """The records of each epoch in the order in which they are read; -1 for what is none."""
    rows = {twin.store.take([row]).tobytes(): row for row in range(len(twin.store))}
    loader = _loader(twin, _config(twin))
    count = EPOCHS * len(_training(twin))
    visits: list[int] = []
    for attempt in range(-(-count // BATCH)):
        visits += [rows.get(one.numpy().tobytes(), -1) for one in loader.batch(attempt).samples]
    return np.array(visits[:count]).reshape(EPOCHS, -1)


def _training(twin: Twin) -> list[int]:
    """Rows of the training split, by their folds."""
    folds = twin.store.manifest.splits["train"]
    return [row for row, fold in enumerate(twin.store.folds.tolist()) if fold in folds]


@claim("order.once-per-epoch", "Each sample of the training split is read once an epoch, and no "
       "other; an epoch ends inside a batch and nothing is dropped.", source=OURS)  # fmt: skip
def once_per_epoch(twin: Twin) -> Evidence:
    rows, epochs = _training(twin), _epochs(twin)
    wrong = [n for n, epoch in enumerate(epochs) if sorted(epoch.tolist()) != rows]
    different = [len(set(epoch.tolist())) for epoch in epochs]
    return all_of(
        equal("epochs that are no permutation", len(wrong), 0),
        records=len(rows), batch=BATCH,
        **{"different ones in each epoch": " ".join(map(str, different))},
    )  # fmt: skip


@claim("order.another-each-epoch", "The order is shuffled, and another one each epoch.",
       source=OURS)  # fmt: skip
def another_each_epoch(twin: Twin) -> Evidence:
    epochs = _epochs(twin)
    alike = greatest(
        *(float((epochs[a] == epochs[b]).mean()) for a in range(EPOCHS) for b in range(a))
    )
    rising = float((np.diff(epochs, axis=1) > 0).mean())
    return all_of(
        # About one record stays in its place by chance; nine do in one of a million pairs.
        at_most("largest share in the same place", alike, 8 / epochs.shape[1]),
        at_most("share that rises, from a half", abs(rising - 0.5), 0.15),
    )


@claim("order.by-seed", "What attempt n reads is a function of the seed and n: of no global "
       "generator, and not of what was read before.", source=OURS)  # fmt: skip
def by_seed(twin: Twin) -> Evidence:
    """Read in one go and from the middle, after others drew from every global generator."""
    stream = _loader(twin, _config(twin)).stream(0)
    in_order = [next(stream)[0] for _ in range(9)]
    stream.close()
    np.random.seed(7)
    torch.manual_seed(7)
    alone = _loader(twin, _config(twin)).batch(8)
    other = _loader(twin, _config(twin, shift=1)).batch(8)
    return all_of(
        true("attempt 8 is the same in order and alone", _same(in_order[8], alone)),
        true("and another under another seed", not torch.equal(other.samples, alone.samples)),
    )


def _same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.samples, other.samples) and torch.equal(one.ids, other.ids)


@claim("order.by-readers", "Reader processes read the batches that this process would.",
       source="our design, law 1: the state is the step")  # fmt: skip
def by_readers(twin: Twin) -> Evidence:
    alone = _loader(twin, _config(twin))
    machine = twin.config.machine.model_copy(update={"workers": 1})
    config = _config(twin).model_copy(update={"machine": machine})
    differing = 0
    # A process that is started runs the script of its parent first, guarded or not; here the
    # script is that of the user, who need not guard it for a verification.
    unnamed = {"__spec__": None, "__file__": None}
    nameless = mock.patch.multiple(sys.modules["__main__"], create=True, **unnamed)
    with nameless, closing(_loader(twin, config).stream(4)) as stream:
        for attempt in (4, 5, 6):
            differing += not _same(next(stream)[0], alone.batch(attempt))
    return all_of(equal("batches that differ", differing, 0), batches=3)
