"""Which sample comes when, and which part of it: known by what was read, byte for byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import numpy.typing as npt
import torch

from latentcast.config import Config, EcgInput
from latentcast.data.fit import reading
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.data import is_ecg
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 1: data order and crops are functions of (seed, step, sample)"
BATCH = 32
EPOCHS = 3
Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int16]


def _loader(subject: Subject, config: Config) -> Loader:
    """A new one, on a store that is opened anew."""
    return reading(Store.open(subject.store.path), config)[0]


def _config(subject: Subject, shift: int = 0) -> Config:
    changes = {"batch_size": BATCH, "micro_batches": 1, "seed": subject.seed + shift}
    config = subject.config
    if isinstance(config.input, EcgInput):  # whole records: the sample says which
        length = int(subject.store.lengths.max())
        whole = config.input.model_copy(update={"length": length})
        config = config.model_copy(update={"input": whole})
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def _records(subject: Subject) -> dict[bytes, int]:
    """Each record of the store by its bytes."""
    rows = range(len(subject.store))
    return {subject.store.take([row]).tobytes(): row for row in rows}


def _visits(subject: Subject) -> Ints:
    """The records in the order in which they are read."""
    known = _records(subject)
    loader = _loader(subject, _config(subject))
    count = EPOCHS * len(_training(subject))
    visits: list[int] = []
    for attempt in range(-(-count // BATCH)):
        visits += [known.get(one.numpy().tobytes(), -1) for one in loader.batch(attempt).samples]
    return np.array(visits[:count])


def _training(subject: Subject) -> list[int]:
    """Rows of the training split, told by their folds."""
    folds = subject.store.manifest.splits["train"]
    return [row for row, fold in enumerate(subject.store.folds.tolist()) if fold in folds]


def _each_once(subject: Subject) -> Evidence:
    rows = _training(subject)
    epochs = _visits(subject).reshape(EPOCHS, -1)
    wrong = [n for n, epoch in enumerate(epochs) if sorted(epoch.tolist()) != rows]
    seen = [len(set(epoch.tolist())) for epoch in epochs]
    told: dict[str, Number] = {
        "records": len(rows), "different ones in each epoch": " ".join(map(str, seen)),
        "epochs that are no permutation": len(wrong), "batch": BATCH,
    }  # fmt: skip
    return Evidence(not wrong, told)


def _another(subject: Subject) -> Evidence:
    epochs = _visits(subject).reshape(EPOCHS, -1)
    alike = max(
        float((epochs[a] == epochs[b]).mean()) for a in range(EPOCHS) for b in range(a)
    )  # fmt: skip
    # About one record stays in its place by chance; nine do in one of a million pairs.
    bound = 8 / epochs.shape[1]
    rising = float((np.diff(epochs, axis=1) > 0).mean())
    told: dict[str, Number] = {
        "largest share in the same place": alike, "bound": bound,
        "share that rises": rising, "of a shuffled one": "0.5 ± 0.15",
    }  # fmt: skip
    return Evidence(alike <= bound and abs(rising - 0.5) <= 0.15, told)


def _by_seed(subject: Subject) -> Evidence:
    """Read in one go and from the middle, after others drew from every global generator."""
    first = _loader(subject, _config(subject))
    stream = first.stream(0)
    upto = [next(stream)[0] for _ in range(9)]
    stream.close()
    np.random.seed(7)
    torch.manual_seed(7)
    middle = _loader(subject, _config(subject)).batch(8)
    same = torch.equal(upto[8].samples, middle.samples) and torch.equal(upto[8].ids, middle.ids)
    other = _loader(subject, _config(subject, shift=1)).batch(8)
    differs = not torch.equal(other.samples, middle.samples)
    told: dict[str, Number] = {
        "attempt 8, read in order and alone, alike": same, "under another seed": "another"
        if differs else "the same",
    }  # fmt: skip
    return Evidence(same and differs, told)


def _by_readers(subject: Subject) -> Evidence:
    """Three batches that a process read, beside those of this one."""
    alone = _loader(subject, _config(subject))
    machine = subject.config.machine.model_copy(update={"workers": 1})
    config = _config(subject).model_copy(update={"machine": machine})
    differing = 0
    with _unnamed_main(), closing(_loader(subject, config).stream(4)) as stream:
        for attempt in (4, 5, 6):
            read, own = next(stream)[0], alone.batch(attempt)
            same = torch.equal(read.samples, own.samples) and torch.equal(read.ids, own.ids)
            differing += not same
    return Evidence(not differing, {"batches": 3, "that differ": differing})


@contextmanager
def _unnamed_main() -> Iterator[None]:
    """A process that is started runs the script of its parent first, guarded or not; here the
    script is whoever asked for a verification, and must not be asked to guard itself for it."""
    main = sys.modules["__main__"].__dict__
    was: dict[str, object] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main |= {"__spec__": None, "__file__": None}
    try:
        yield
    finally:
        for name in ("__spec__", "__file__"):
            del main[name]
        main |= was


# Crops


def _cropped(subject: Subject, drawn: bool = True) -> tuple[Loader, int]:
    assert isinstance(subject.config.input, EcgInput) and subject.store.modality == "ecg"
    length = int(subject.store.lengths.min()) // 3
    config = _config(subject)
    third = subject.config.input.model_copy(update={"length": length})
    train = config.train.model_copy(update={"random_crop": drawn})
    loader = _loader(subject, config.model_copy(update={"input": third, "train": train}))
    return loader, length


def _starts(subject: Subject, attempts: range, drawn: bool = True) -> tuple[list[int], Ints, Ints]:
    """Where each crop begins, found in the record it must come from; -1 where it is nowhere.

    Returns:
        attempt, record and first sample of each visit.
    """
    loader, length = _cropped(subject, drawn)
    wholes = _loader(subject, _config(subject))
    known = _records(subject)
    when, rows, starts = [], [], []
    for attempt in attempts:
        crops = loader.batch(attempt).samples.numpy()
        for crop, record in zip(crops, wholes.batch(attempt).samples.numpy(), strict=True):
            when.append(attempt)
            rows.append(known.get(record.tobytes(), -1))
            starts.append(_place(crop, record, length))
    return when, np.array(rows), np.array(starts)


def _place(crop: Counts, record: Counts, length: int) -> int:
    for start in np.flatnonzero((record == crop[0]).all(1)):
        if start + length <= len(record) and np.array_equal(record[start : start + length], crop):
            return int(start)
    return -1


def _room(subject: Subject) -> int:
    assert subject.store.modality == "ecg"
    return int(subject.store.lengths.min()) - int(subject.store.lengths.min()) // 3


def _inside(subject: Subject) -> Evidence:
    _, _, starts = _starts(subject, range(8))
    outside = int((starts < 0).sum())
    # Many more are asked for, since few come near the end.
    rows, asked, length = _cropped(subject)[0].request(np.arange(20_000))
    assert subject.store.modality == "ecg"
    beyond = int(((asked < 0) | (asked + length > subject.store.lengths[rows])).sum())
    told: dict[str, Number] = {
        "crops": len(starts), "not in their record": outside, "of 20000 asked for, beyond": beyond,
        "first sample": f"{starts.min()} to {starts.max()}", "room": _room(subject),
    }  # fmt: skip
    return Evidence(outside == 0 and beyond == 0, told)


def _per_sample(subject: Subject) -> Evidence:
    when, _, starts = _starts(subject, range(8))
    room = _room(subject)
    fewest = min(len(set(starts[np.array(when) == a].tolist())) for a in set(when))
    mean = float(starts.mean()) / room
    wide = 6 / np.sqrt(12 * len(starts))
    told: dict[str, Number] = {
        "different starts in a batch": fewest, "of": BATCH, "mean start, of the room": mean,
        "uniform": f"0.5 ± {wide:.2f}", "least and most": f"{starts.min()} {starts.max()}",
        "room": room,
    }  # fmt: skip
    # Of many that are asked for, some begin at the very first sample and some end at the last.
    _, asked, _ = _cropped(subject)[0].request(np.arange(20_000))
    told["of 20000 asked for, first and last"] = f"{asked.min()} {asked.max()}"
    even = abs(mean - 0.5) <= wide
    ends = asked.min() == 0 and asked.max() == room
    return Evidence(fewest > BATCH // 2 and even and bool(ends), told)


def _per_visit(subject: Subject) -> Evidence:
    epoch = len(_training(subject))
    _, rows, starts = _starts(subject, range(-(-2 * epoch // BATCH)))
    first = dict(zip(rows[:epoch].tolist(), starts[:epoch].tolist(), strict=True))
    second = zip(rows[epoch : 2 * epoch].tolist(), starts[epoch:].tolist(), strict=False)
    met = [(first[row], start) for row, start in second if row in first]
    alike = sum(int(a) == int(b) for a, b in met) / max(1, len(met))
    told: dict[str, Number] = {
        "records met again": len(met),
        "share with the same crop": alike,
        "bound": 0.2,
    }
    return Evidence(len(met) == epoch and alike <= 0.2, told)


def _crop_by_seed(subject: Subject) -> Evidence:
    """Read in order and alone, after others drew from every global generator."""
    loader, _ = _cropped(subject)
    first = [loader.batch(attempt) for attempt in range(4)][3]
    np.random.seed(7)
    torch.manual_seed(7)
    again = _cropped(subject)[0].batch(3)
    same = torch.equal(first.samples, again.samples)
    return Evidence(same, {"crops of attempt 3, read in order and alone, alike": same})


def _middle(subject: Subject) -> Evidence:
    _, rows, starts = _starts(subject, range(2), drawn=False)
    assert subject.store.modality == "ecg"
    length = int(subject.store.lengths.min()) // 3
    middles = (subject.store.lengths[rows] - length) // 2
    told: dict[str, Number] = {
        "crops": len(starts), "not in the middle": int((starts != middles).sum()),
        "first sample": f"{starts.min()} to {starts.max()}",
        "of the middle": f"{middles.min()} to {middles.max()}",
    }  # fmt: skip
    return Evidence(bool((starts == middles).all()), told)


def _drawn(subject: Subject) -> bool:
    return is_ecg(subject) and subject.config.train.random_crop


CLAIMS: tuple[Claim, ...] = (
    Claim("order.once-per-epoch", "Each sample of the training split is read once an epoch, and no "
          "other; an epoch ends inside a batch and nothing is dropped.", OURS, _each_once),
    Claim("order.another-each-epoch", "The order is shuffled, and another one each epoch.",
          OURS, _another),
    Claim("order.by-seed", "What attempt n reads is a function of the seed and n: of no global "
          "generator, and not of what was read before.", OURS, _by_seed),
    Claim("order.by-readers", "Reader processes read the batches that this process would.",
          "our design, law 1: the state is the step", _by_readers),
    Claim("crop.inside", "A crop lies inside its record, all leads at the same time.",
          OURS, _inside, _drawn),
    Claim("crop.per-sample", "Crops are drawn for each sample, evenly over the record.",
          OURS, _per_sample, _drawn),
    Claim("crop.per-visit", "A record is cropped elsewhere when it is met again.",
          OURS, _per_visit, _drawn),
    Claim("crop.by-seed", "Where a crop begins is a function of seed and visit, of no global "
          "generator.", OURS, _crop_by_seed, _drawn),
    Claim("crop.middle", "Where none is drawn, a crop is the middle of its record.", OURS, _middle,
          is_ecg),
)  # fmt: skip
