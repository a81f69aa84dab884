"""Each way in which a test fold can leak is found, and nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ecg_files import DATA
from evaluation_stores import Images, write_store

from conftest import Command
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.evaluation.leaks import check, duplicates
from latentcast.signals.readers import read_recording
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.signals.resample import resample
from latentcast.source import Annotation, RecordRef

FOLDS = [1, 2, 9, 10, 10]


def records(seed: int = 0, n: int = 5) -> list[npt.NDArray[np.int16]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-900, 900, (30 + i, 2)).astype(np.int16) for i in range(n)]


def kinds(*stores: object) -> dict[str, tuple[str, ...]]:
    return {f"{f.severity}: {f.kind}": f.examples for f in check(*stores)}  # type: ignore[arg-type]


def test_a_clean_store_has_no_finding(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", records(), folds=FOLDS, patient_ids=["", "", "", "", "p"])
    assert check(store) == []
    assert check(store, store) == []  # pretrained on its own training split


def test_a_patient_in_two_splits_is_found_and_unknown_patients_are_not(tmp_path: Path) -> None:
    """NEPA defect 15: records were split at random, with five of each patient."""
    ids = ["a", "", "", "a", "b"]
    store = write_store(tmp_path / "a", records(), folds=FOLDS, patient_ids=ids)
    assert kinds(store) == {"error: patient in two splits": ("a",)}


def test_the_same_waveform_in_two_splits_is_found(tmp_path: Path) -> None:
    signals = records()
    signals[3] = signals[0].copy()
    store = write_store(tmp_path / "a", signals, folds=FOLDS)
    assert list(kinds(store)) == ["error: recording in two splits"]
    signals[3] = signals[4].copy()  # two copies within the test fold leak nothing
    assert check(write_store(tmp_path / "b", signals, folds=FOLDS)) == []


def test_recordings_without_a_valid_sample_are_not_copies_of_each_other(tmp_path: Path) -> None:
    signals = records()
    signals[0] = signals[4] = np.full((30, 2), INVALID, dtype=np.int16)
    assert check(write_store(tmp_path / "a", signals, folds=FOLDS)) == []


def test_test_records_in_the_pretraining_data_are_found(tmp_path: Path) -> None:
    """NEPA defect 15: no overlap check between pretraining and evaluation data."""
    store = write_store(tmp_path / "a", records(), folds=FOLDS)
    names = {"record_ids": [f"x{i}" for i in range(5)], "patient_ids": [f"y{i}" for i in range(5)]}
    other = records(seed=1)
    other[0] = records()[4]
    copied = write_store(tmp_path / "b", other, folds=FOLDS, **names)
    assert kinds(store, copied) == {"error: test recording in pretraining": ("r4",)}
    # The copy lies in the other store's test fold: it was not pretrained on.
    unread = write_store(tmp_path / "c", other[::-1], folds=FOLDS, **names)
    assert check(store, unread) == []


@pytest.mark.parametrize(
    ("source", "severity", "why"),
    [
        ("test", "error", "both stores come from test (array)"),
        ("other", "warning", "come from test (array) and other (array), so the ids may agree by"),
        ("", "warning", "an unnamed source"),
    ],
)
def test_ids_in_common_are_errors_where_both_stores_have_one_source(
    tmp_path: Path, source: str, severity: str, why: str
) -> None:
    """NEPA defect 15: a patient of the test fold may have been pretrained on."""
    patients = ["", "", "", "p3", ""]
    store = write_store(tmp_path / "a", records(), folds=FOLDS, patient_ids=patients)
    ids = ["r3", "r4", "n2", "n3", "n4"]
    other = write_store(
        tmp_path / "b",
        records(seed=1),
        folds=FOLDS,
        record_ids=ids,
        patient_ids=["p3", "", "", "", ""],
        source=source,
    )
    assert kinds(store, other) == {
        "error: test record and patient in pretraining": ("r3",),
        f"{severity}: record id in pretraining": ("r4",),
        f"{severity}: patient id in pretraining": ("p3",),
    }
    assert all(why in finding.message for finding in check(store, other)[1:])


def test_copies_of_images_across_splits_and_in_pretraining_are_found() -> None:
    store, other = Images(n=100), Images(n=40, seed=5, name="other")
    train, test = store.rows("train"), store.rows("test")
    store.pixels[train[1]] = store.pixels[train[0]]  # a copy within a split leaks nothing
    other.pixels[other.rows("test")[0]] = store.pixels[test[3]]  # was not trained on
    assert check(store) == check(store, store) == check(store, other) == []
    other.pixels[other.rows("train")[0]] = store.pixels[test[3]]
    assert kinds(store, other) == {"error: test image in pretraining": (f"images-{test[3]}",)}
    for one, two in (("train", "test"), ("validation", "test"), ("train", "validation")):
        leaky = Images(n=100)
        leaky.pixels[leaky.rows(one)[2]] = leaky.pixels[leaky.rows(two)[1]]
        leaky.class_ids[:] = -1  # labels or not, pretraining reads it
        assert list(kinds(leaky)) == ["error: image in two splits"]


def test_the_same_samples_in_other_splits_are_no_clean_pretraining() -> None:
    store, other = Images(n=40), Images(n=40)
    other.folds = store.folds % 5 + 1
    assert store.checksums == other.checksums
    assert list(kinds(store, other)) == ["error: test image in pretraining"]


def test_a_patient_of_images_in_two_splits_or_in_pretraining_is_found() -> None:
    store, other = Images(n=40), Images(n=40, seed=5)
    store.patient_ids[store.rows("test")[0]] = other.patient_ids[other.rows("train")[0]] = "p"
    assert list(kinds(store, other)) == ["warning: patient id in pretraining"]
    store.patient_ids[store.rows("train")[0]] = "p"
    assert kinds(store) == {"error: patient in two splits": ("p",)}


def test_frames_of_one_patient_in_two_splits_are_warned_about(digits_store: Path) -> None:
    """Nine images in ten of the same thing, and noise: no two are equal."""
    assert check(Store.open(digits_store)) == []  # a digit resembles others, and is not their copy
    store, rng = Images(n=300), np.random.default_rng(0)
    frames = np.repeat(rng.integers(10, 240, (30, *store.pixels.shape[1:])), 10, axis=0)
    store.pixels[:] = frames + rng.integers(-9, 10, frames.shape)
    assert list(kinds(store)) == ["warning: similar images in two splits"]
    assert "--patients" in check(store)[0].message
    store.folds[:] = np.repeat(np.arange(30) % 10 + 1, 10)  # by patient
    assert check(store) == []


def test_one_ecg_at_two_rates_in_two_splits_is_found(tmp_path: Path) -> None:
    files = sorted(DATA.rglob("*_[lh]r.hea"))
    for file in files:
        for part in (file, file.with_suffix(".dat")):
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(part, tmp_path / "in")
    splits = [f"{file.stem},{'train' if 'lr' in file.stem else 'test'},{n}"
              for n, file in enumerate(files)]  # fmt: skip
    (tmp_path / "labels.csv").write_text("\n".join(["id,split,n", *splits]))
    options = {"fs": 100, "labels": tmp_path / "labels.csv", "workers": 1, "quiet": True}
    store = ingest(tmp_path / "in", tmp_path / "out", **options).store
    found = [finding for finding in check(store) if finding.kind.startswith("similar")]
    assert [finding.count for finding in found] == [sum("hr" in file.stem for file in files)]
    own = ingest(DATA / "records500", tmp_path / "other", fs=500, workers=1, quiet=True).store
    assert "error: same test recording in pretraining" in kinds(store, own)


class Crops(RecordingSource):
    """Parts of real recordings at 500 Hz, of another gain and offset; odd ones run backwards."""

    kind = name = "crops"

    def refs(self) -> list[RecordRef]:
        return [RecordRef(f"crop-{n}", row=n) for n in range(20)]

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        file = sorted((DATA / "records100").rglob("*.hea"))[ref.row]
        recording = resample(read_recording(file), 500)
        begin = 137 * ref.row if ref.row % 2 == 0 else 0
        signal = 1.7 * recording.signal[:, begin : begin + 2300] + 0.1
        if ref.row % 2:
            signal = signal[:, ::-1].copy()
        return from_signal(signal, recording.leads, 500.0, ref.record_id), Annotation()


def test_a_crop_at_another_rate_and_gain_is_found_in_another_store_and_no_other_ecg(
    tmp_path: Path, small_store: Path, command: Command
) -> None:
    store = ingest(Crops(), tmp_path / "crops", fs=257, workers=1, quiet=True).store
    full = Store.open(small_store)
    found = {one: (other, how) for one, other, how in duplicates(store, full)}
    assert found.keys() == {f"crop-{n}" for n in range(0, 20, 2)}
    for name, (other, how) in found.items():
        row = int(name.removeprefix("crop-"))
        assert other == full.record_ids[row]
        assert abs(float(how.split()[-2]) + 137 * row / 500) < 0.02
    answer = command("inspect", small_store, "--against", small_store)
    assert answer.status == 0 and f"{len(full):,} records are in" in answer.out
