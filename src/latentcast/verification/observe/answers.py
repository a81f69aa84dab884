"""A labelled set of which every feature is written here: what a probe reports of it can be counted.

The samples only say which record and which window they are; a source looks its tokens up.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.data.store import Store
from latentcast.evaluation.tasks.base import Kind, Targets
from latentcast.verification.observe.pictures import Pictures, is_image
from latentcast.verification.observe.recordings import Recordings
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
SIZES = {"train": 84, "validation": 26, "test": 32}
SPLITS = tuple(SIZES)
WINDOW, RATE, SCALE = 20, 100.0, 0.005
TOKENS, WIDTH = 3, 4
KINDS: tuple[Kind, ...] = ("multi-label", "multi-class", "regression")
NAMES: Mapping[str, tuple[str, ...]] = {
    "multi-label": ("often", "seldom", "once", "nobody trained", "nobody tested"),
    "multi-class": ("red", "green", "blue"),
    "regression": ("height",),
}


@dataclass(frozen=True, eq=False)
class Answers:
    """Records in the order of the store.

    Attributes:
        split: of each record.
        patients: "" of none; all of images.
        sex: of recordings.
        hidden: what the features are drawn from, ``(records, 3)``.
        without_target: records that are of no task.
        without_token: records in which no source finds a valid token.
        samples: by its bytes, the record and the place of the window.
    """

    store: Store
    split: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]
    sex: npt.NDArray[np.str_]
    hidden: Floats
    without_target: Sequence[int]
    without_token: Sequence[int]
    samples: Mapping[bytes, tuple[int, int]]

    def rows(self, split: str) -> Array:
        """Of a split all records, in order."""
        return np.flatnonzero(self.split == split)

    def read(self, split: str) -> Array:
        """Of a split the records that are scored."""
        left_out = {*self.without_target, *self.without_token}
        return np.array([row for row in self.rows(split) if row not in left_out])

    def targets(self, kind: Kind) -> Targets:
        mask = np.ones(len(self.store), dtype=bool)
        mask[list(self.without_target)] = False
        return Targets(self.values(kind), mask, NAMES[kind], kind)

    def values(self, kind: Kind) -> Array:
        """What the task says of each record: related to what the features are drawn from."""
        x, rows = self.hidden, np.arange(len(self.split))
        if kind == "regression":
            return np.asarray(170.0 + 8.0 * x[:, 0] + 2.0 * np.sin(7.0 * rows))
        if kind == "multi-class":
            return np.asarray((x + 0.9 * np.sin(3.0 * rows[:, None] + np.arange(3))).argmax(1))
        test, (once, *_) = self.split == "test", self.read("test")
        seldom = x[:, 1] + 0.7 * np.cos(5.0 * rows) > 1.0
        third = x[:, 2] + 0.5 * np.cos(2.0 * rows) > 0.8
        return np.stack(
            [
                x[:, 0] + 0.8 * np.sin(4.0 * rows) > 0.0,
                seldom,
                np.where(test, rows == once, third),
                (self.split != "train") & (rows % 4 == 0),
                ~test & (rows % 3 == 0),
            ],
            1,
        )

    def task(self, kind: Kind) -> Any:
        return SimpleNamespace(name="answers", targets=lambda store: self.targets(kind))


class Written:
    """A source that looks its tokens up, of each layer what it has of the hidden numbers.

    Args:
        noise: of each layer; the less, the better.
    """

    causal = False

    def __init__(self, answers: Answers, name: str, noise: Mapping[str, float], seed: int) -> None:
        self.answers, self.name, self.layer_names = answers, name, tuple(noise)
        image = answers.store.modality == "image"
        self.leads, self.sampling_rate = () if image else answers.store.leads, RATE
        self.scale, self.length = SCALE, WINDOW
        generator = np.random.Generator(np.random.PCG64(seed))
        shape = (len(answers.split), 3, TOKENS, WIDTH)
        mixing = np.random.default_rng(11).normal(size=(3, WIDTH))
        signal = (answers.hidden @ mixing)[:, None, None]
        self.tokens = {
            layer: (signal + size * generator.normal(size=shape)).astype(np.float32)
            for layer, size in noise.items()
        }
        self.valid = generator.random(shape[:3]) < 0.8
        self.valid[:, :, 0] = True
        self.valid[list(answers.without_token)] = False

    def token_layers(self, samples: Any) -> tuple[list[Tensor], Tensor]:
        places = [self.answers.samples[one.tobytes()] for one in np.ascontiguousarray(samples)]
        rows, windows = map(list, zip(*places, strict=True))
        valid = torch.from_numpy(self.valid[rows, windows])
        layers = [torch.from_numpy(part[rows, windows]) for part in self.tokens.values()]
        # Whoever reads a token that is not valid shows.
        return [torch.where(valid[..., None], part, torch.nan) for part in layers], valid

    def windows(self, how: str = "strided") -> slice:
        """Of a record; an image is one."""
        if how == "centre":
            return slice(2, 3)
        return slice(0, 1 if self.answers.store.modality == "image" else 2)

    def pooled(self, layer: str, pooling: str, how: str = "strided") -> Floats:
        """The features ``(records, F)`` in float64; NaN of a record without a token."""
        own = self.windows(how)
        tokens = np.where(self.valid[:, own, :, None], self.tokens[layer][:, own], np.nan)
        tokens = tokens.astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of records without a token
            parts = [np.nanmean(tokens, 2)] + [np.nanstd(tokens, 2)] * ("std" in pooling)
        return np.asarray(np.concatenate(parts, 2).mean(1))


def answers(twin: Twin) -> Answers:
    """Of recordings or of images, as the twin reads them; made once."""
    return twin.once("answers", lambda: _made(twin, "answers", SIZES))


def elsewhere(twin: Twin) -> Answers:
    """Others from another place, fewer."""
    sizes = {"train": 12, "validation": 12, "test": 24}
    return twin.once("elsewhere", lambda: _made(twin, "elsewhere", sizes))


def _made(twin: Twin, name: str, sizes: Mapping[str, int]) -> Answers:
    return (_images if is_image(twin) else _recordings)(twin, name, sizes)


def _recordings(twin: Twin, name: str, sizes: Mapping[str, int]) -> Answers:
    """Two records a patient, some of none; each of two windows, the second ends with it."""
    folds = [fold for split, size in sizes.items()
             for fold in np.resize({"train": range(1, 9), "validation": [9], "test": [10]}[split],
                                   size).tolist()]  # fmt: skip
    count, generator = len(folds), np.random.default_rng(len(name))
    patients = [""] * count
    for split, size in sizes.items():
        begin = sum(sizes[other] for other in SPLITS[: SPLITS.index(split)])
        for n in range(0, size - 6, 2):
            # Of one split are eight folds: a patient is of one of them.
            other = n + 1 if split != "train" else n + 8 if n % 16 < 8 else n - 8
            if other < size - 6:
                patients[begin + n] = patients[begin + other] = f"{name} {split} {n}"
    sex = ["unknown" if n % 11 == 0 else "fm"[n % 3 > 0] for n in range(count)]
    rows = [
        {"record_id": f"{name} {n:03d}", "patient_id": patients[n], "strat_fold": str(folds[n]),
         "scp_codes": "{}", "sex": sex[n]}
        for n in range(count)
    ]  # fmt: skip
    signal = np.rint(generator.normal(size=(count, 12, WINDOW * 3 // 2)) * 200) * SCALE
    sources = Recordings(twin.folder / "answers", RATE, WINDOW, SCALE)
    store = sources._cohort(name, signal, rows).store
    order = [int(record.split()[1]) for record in store.record_ids.tolist()]
    starts = (0, WINDOW // 2, WINDOW // 4)  # of two that step by half of one; of the centre
    samples = {
        store.take([row], [start], WINDOW)[0].tobytes(): (row, place)
        for row in range(count) for place, start in enumerate(starts)
    }  # fmt: skip
    of_split = np.repeat(SPLITS, list(sizes.values()))[order]
    return _answers(store, of_split, np.array(patients)[order], np.array(sex)[order], samples)


def _images(twin: Twin, name: str, sizes: Mapping[str, int]) -> Answers:
    generator = np.random.default_rng(len(name))
    parts = {"train": "train", "validation": "val", "test": "test"}
    images = {parts[split]: generator.integers(0, 256, (size, 4, 4, 3), dtype=np.uint8)
              for split, size in sizes.items()}  # fmt: skip
    labels = {part: np.arange(len(own)) % 3 for part, own in images.items()}
    store = Pictures(twin.folder / "answers", 4, 4, 3)._ingested(name, images, labels)
    split = np.array([name.partition("-")[0] for name in store.record_ids.tolist()])
    samples = {store.take([row])[0].tobytes(): (row, 0) for row in range(len(store))}
    nobody = np.full(len(split), "")
    return _answers(store, split, nobody, nobody, samples)


def _answers(
    store: Store, split: Array, patients: Array, sex: Array,
    samples: Mapping[bytes, tuple[int, int]],
) -> Answers:  # fmt: skip
    hidden = np.random.default_rng(len(split)).normal(size=(len(split), 3))
    train, validation, test = (np.flatnonzero(split == one) for one in SPLITS)
    without_target = [int(train[4]), int(train[9]), int(test[3])]
    without_token = [int(validation[5]), int(test[8]), int(test[20])]
    return Answers(store, split, patients, sex, hidden, without_target, without_token, samples)
