"""Two labelled stores that share what they must not, and by hand what is to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.verification.observe.pictures import Pictures, is_image
from latentcast.verification.observe.recordings import Recordings
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
Found = tuple[str, str, int, tuple[str, ...], str]
"""Of a finding the kind, severity, count and examples, and words of its message."""
RATE, SAMPLES = 100.0, 460


@dataclass(frozen=True)
class Shared:
    """A store that is probed and others that were trained on.

    Attributes:
        within: what is to be found in the store alone.
        among: a store that was trained on, and what is to be found besides.
        copies: of the first store and the last other one, ids of records that are one.
    """

    store: Store
    within: Sequence[Found]
    among: Sequence[tuple[str, Store, Sequence[Found]]]
    copies: Sequence[tuple[str, str]]


def shared(twin: Twin) -> Shared:
    return twin.once("shared", lambda: _images(twin) if is_image(twin) else _recordings(twin))


def _recordings(twin: Twin) -> Shared:
    """Six patients in two splits, a waveform in two, a copy of another gain; recordings without a
    sample, which are no copies of each other."""
    waves = [_noise(n) for n in range(24)]
    folds = [1] * 9 + [9] * 6 + [10] * 9
    patients = [f"p{n}" for n in range(24)]
    for n in range(6):
        patients[9 + n] = patients[n]
    patients[22] = patients[23] = ""
    own = list(waves)
    own[17] = 1.4 * own[3][:, 60:] + 0.2
    own[17] = np.pad(own[17], ((0, 0), (0, 60)), mode="edge")
    store = _store(twin, "one", "ecg", own, folds, patients, [f"r{n:02d}" for n in range(24)])
    # Not before: ingest takes one recording once.
    _overwrite(store, {"r08": None, "r23": None, "r16": "r02"})
    within: list[Found] = [
        ("patient in two splits", "error", 6, ("p0", "p1", "p2", "p3", "p4"), "re-ingest"),
        ("recording in two splits", "error", 1, ("r16",), "remove the copies"),
        ("similar recordings in two splits", "warning", 1, ("r17",), "equal training recordings"),
    ]
    # Of the trained ones 0 to 6, of its own test split 7: nobody was trained on that.
    theirs = [
        waves[18],
        0.7 * waves[19],
        waves[20] + 0.25 * _noise(99),
        _noise(50),
        _noise(51),
        1.3 * waves[22],
        waves[22] + 0.25 * _noise(98),
        waves[21],
    ]
    names = ["x0", "x1", "x2", "r19", "r22", "x5", "r21", "r20"]
    owners = ["q0", "q1", "q2", "p19", "", "p21", "q6", "p20"]
    copies: list[Found] = [
        ("test recording in pretraining", "error", 1, ("r18",), "pretrain without them"),
        ("same test recording in pretraining", "error", 1, ("r22",), "gain, sampling rate or"),
        ("similar test recording in pretraining", "warning", 1, ("r20",), "as one ECG in two"),
        ("test record and patient in pretraining", "error", 1, ("r19",), "by record and patient"),
    ]
    by_chance = "come from one.npy (array) and other.npy (array), so the ids may agree by chance"
    one_name = "both stores come from one.npy (array)"
    among = [
        (name, _store(twin, name, folder, theirs, [1, 2, 3, 4, 5, 6, 7, 10], owners, names), [
            *copies,
            ("record id in pretraining", severity, 2, ("r21", "r22"), words),
            ("patient id in pretraining", severity, 2, ("p19", "p21"), words),
        ])
        for name, folder, severity, words in (("one", "again", "error", one_name),
                                              ("other", "ecg", "warning", by_chance))
    ]  # fmt: skip
    pairs = [("r18", "x0"), ("r19", "x1"), ("r20", "x2"), ("r21", "r20"), ("r22", "x5"),
             ("r22", "r21")]  # fmt: skip
    return Shared(store, within, among, pairs)


def _noise(seed: int) -> Array:
    """Twelve leads of slow noise: of two no stretch is alike."""
    noise = np.random.Generator(np.random.PCG64(seed)).normal(size=(12, SAMPLES + 8))
    return np.stack([np.convolve(lead, np.ones(9) / 9, mode="valid") for lead in noise])


def _store(
    twin: Twin, name: str, folder: str, waves: Sequence[Array], folds: Sequence[int],
    patients: Sequence[str], ids: Sequence[str],
) -> Store:  # fmt: skip
    rows = [
        {"record_id": record, "patient_id": patient, "strat_fold": str(fold), "scp_codes": "{}"}
        for record, patient, fold in zip(ids, patients, folds, strict=True)
    ]
    source = Recordings(twin.folder / "shared" / folder, RATE, SAMPLES, 0.005)
    return source._cohort(name, np.stack(waves), rows).store


def _overwrite(store: Store, by: Mapping[str, str | None]) -> None:
    """Give records the samples of another one, or none that is valid."""
    shard = np.load(store.path / store.manifest.shards[0].file, mmap_mode="r+")
    counts = store.modality == "ecg"
    begins = (
        np.concatenate([[0], np.cumsum(store.lengths)]) if counts else np.arange(len(store) + 1)
    )
    for name, other in by.items():
        row = store.row_of(name)
        here = slice(int(begins[row]), int(begins[row + 1]))
        begin = 0 if other is None else int(begins[store.row_of(other)])
        length = here.stop - here.start
        shard[here] = -32768 if other is None else shard[begin : begin + length].copy()
    shard.flush()


def _images(twin: Twin) -> Shared:
    """A picture in two splits, others that is nearly one, and pictures of the other store."""
    generator = np.random.default_rng(13)
    images = {split: generator.integers(40, 200, (size, 16, 16, 3), dtype=np.uint8)
              for split, size in (("train", 12), ("val", 8), ("test", 8))}  # fmt: skip
    images["test"][4] = images["train"][5] + 3
    images["test"][5] = images["train"][6] // 2
    store = Pictures(twin.folder / "shared", 16, 16, 3)._ingested("one", images, {})
    _overwrite(store, {"test-000002": "train-000003"})
    theirs = {split: generator.integers(40, 200, (3, 16, 16, 3), dtype=np.uint8)
              for split in ("train", "val", "test")}  # fmt: skip
    theirs["train"][0], theirs["test"][1] = images["test"][6], images["test"][7]
    theirs["train"][2] = images["test"][0] + 2
    other = Pictures(twin.folder / "shared", 16, 16, 3)._ingested("other", theirs, {})
    within: list[Found] = [
        ("image in two splits", "error", 1, ("test-000002",), "remove the copies"),
        (
            "similar images in two splits",
            "warning",
            2,
            ("test-000004", "test-000005"),
            "--patients",
        ),
    ]
    among: list[Found] = [
        ("test image in pretraining", "error", 1, ("test-000006",), "pretrain without them"),
    ]
    pairs = [("test-000000", "train-000002"), ("test-000006", "train-000000"),
             ("test-000007", "test-000001")]  # fmt: skip
    return Shared(store, within, [("other", other, among)], pairs)
