"""Arrays in memory and sources of one's own become the store that files of them would become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecg_files import to_counts, write_wfdb
from image_files import coloured, digits, quarantine

from latentcast.data.arrays import write_store
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.images.source import ImageSource
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording
from latentcast.source import Annotation, RecordRef

TWELVE: dict[str, Any] = {"sampling_rate": 500, "leads": CANONICAL_LEADS, "quiet": True}
RECORDINGS = [synthetic_recording(50 + i, 500, 2.0 + i / 10, seed=i) for i in range(6)]
SIGNALS = [recording.signal for recording in RECORDINGS]


def test_arrays_of_any_length_become_what_their_files_become(tmp_path: Path) -> None:
    for i, recording in enumerate(RECORDINGS):
        write_wfdb(tmp_path / "in", recording, f"r{i}")
    files = ingest(tmp_path / "in", tmp_path / "files", quiet=True).store
    stored = [to_counts(recording).T / 1000 for recording in RECORDINGS]  # as files hold them
    ids = [f"r{i}" for i in range(6)]
    store = write_store(tmp_path / "out", signals=stored, record_ids=ids, **TWELVE).store
    assert (tmp_path / "out/shard-00000.npy").read_bytes() == (
        tmp_path / "files/shard-00000.npy"
    ).read_bytes()
    assert store.record_ids.tolist() == files.record_ids.tolist()
    assert store.folds.tolist() == files.folds.tolist()
    assert store.manifest.statistics == files.manifest.statistics


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1000), ("mV", 1), ("V", 1e-3)])
def test_the_unit_of_an_array_counts(tmp_path: Path, unit: str, factor: float) -> None:
    signals = [signal * factor for signal in SIGNALS]
    store = write_store(tmp_path, signals=signals, unit=unit, **TWELVE).store
    for row, recording in enumerate(RECORDINGS):
        assert np.abs(store.recording(row).signal - recording.signal).max() < 6e-4


def test_patients_labels_folds_and_metadata_are_each_records_own(tmp_path: Path) -> None:
    store = write_store(
        tmp_path,
        signals=np.stack([signal[:, :1000] for signal in SIGNALS]),
        record_ids=[f"ecg {i}" for i in range(6)],
        patient_ids=["a", "b", "a", None, "c", "a"],
        labels=["AF", ["AF", "LBBB"], [], {"NORM": 0.0}, "", "NORM"],
        folds=[1, 9, 10, None, 2, 1],
        metadata=[{"age": 40 + i} for i in range(6)],
        **TWELVE,
    ).store
    assert store.patient_ids.tolist() == ["a", "b", "a", "", "c", "a"]
    assert [store.labels.of(row) for row in range(6)] == [
        {"AF": 1.0}, {"AF": 1.0, "LBBB": 1.0}, {}, {"NORM": 0.0}, {}, {"NORM": 1.0},
    ]  # fmt: skip
    assert store.classes == ("AF", "LBBB", "NORM") and store.class_ids.tolist() == [
        0, -1, -1, 2, -1, 2,
    ]  # fmt: skip
    assert store.folds.tolist()[:3] == [1, 9, 10] and store.metadata(4)["age"] == 44


@pytest.mark.parametrize(
    ("labels", "names", "classes", "ids"),
    [
        (np.array([2, 7, -1, 7, 2, 10]), None, ("2", "7", "10"), [0, 1, -1, 1, 0, 2]),
        ([0, 1, 1, -1, 0, 1], ["cat", "ant"], ("cat", "ant"), [0, 1, 1, -1, 0, 1]),
        (np.array(["b", "a", "b", "b", "a", "c"]), None, ("a", "b", "c"), [1, 0, 1, 1, 0, 2]),
        (np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]], ["x", "z", "y"], ("x", "z", "y"),
         [0, 1, 2, 0, 1, 2]),
    ],
)  # fmt: skip
def test_labels_in_every_form(
    tmp_path: Path, labels: Any, names: Any, classes: tuple[str, ...], ids: list[int]
) -> None:
    """The same for images, recordings, and what is read back of them."""
    images = digits()[0][:6]
    records = {"image": {"images": images}, "ecg": {"signals": SIGNALS, **TWELVE}}
    for kind, data in records.items():
        data = {**data, "quiet": True, "labels": labels, "label_names": names}
        store = write_store(tmp_path / kind, **data).store
        assert store.classes == classes and store.class_ids.tolist() == ids
        assert store.labels.ids().tolist() == ids


def test_images_in_memory_may_have_patients_several_labels_and_metadata(tmp_path: Path) -> None:
    images = np.stack([coloured(image) for image in digits()[0][:40]])
    matrix = np.stack([np.arange(40) % 2, np.arange(40) % 3 == 0], axis=1).astype(int)
    patients = [f"p{i % 8}" for i in range(40)]
    store = write_store(
        tmp_path, images=images, labels=matrix, label_names=["odd", "third"],
        patient_ids=patients, metadata=[{"site": i} if i == 5 else {} for i in range(40)],
        quiet=True,
    ).store  # fmt: skip
    assert np.array_equal(store.take(np.arange(40)), images)
    assert store.labels.indicator(["odd", "third"]).tolist() == matrix.astype(bool).tolist()
    several, none = matrix.sum(axis=1) == 2, matrix.sum(axis=1) == 0
    assert (store.class_ids[several | none] == -1).all() and (store.class_ids >= 0).sum() == 20
    assert store.patient_ids.tolist() == patients and store.patients == 8
    folds = {patient: set() for patient in patients}
    for patient, fold in zip(patients, store.folds.tolist(), strict=True):
        folds[patient].add(fold)
    assert all(len(of_patient) == 1 for of_patient in folds.values())
    assert store.metadata(5) == {"site": 5} and store.metadata(6) == {}
    assert len(list(store.all_metadata())) == 40
    store.verify()
    assert "metadata.jsonl" in store.files


def test_splits_of_the_caller_are_kept(tmp_path: Path) -> None:
    splits = ["train", "test", "val", "train", "dev", "train"]
    store = write_store(tmp_path, signals=SIGNALS, splits=splits, **TWELVE).store
    assert store.rows("test").tolist() == [1] and store.rows("validation").tolist() == [2, 4]


def test_the_same_arrays_again_do_nothing_and_others_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "out", signals=SIGNALS, **TWELVE)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    write_store(tmp_path / "out", signals=SIGNALS, **TWELVE)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    changed = [*SIGNALS[:5], SIGNALS[5] * 1.01]
    for signals, more in ((changed, {}), (SIGNALS, {"unit": "uV"}), (SIGNALS, {"folds": [1] * 6})):
        with pytest.raises(LatentcastError, match="'arrays' has changed"):
            write_store(tmp_path / "out", signals=signals, **TWELVE, **more)


def test_a_bad_record_costs_itself_and_no_other(tmp_path: Path) -> None:
    signals = [*SIGNALS[:3], SIGNALS[3] * np.nan, SIGNALS[4] * 100, SIGNALS[0]]
    metadata = [{"age": np.int64(3)} if row == 1 else {} for row in range(6)]
    result = write_store(tmp_path, signals=signals, metadata=metadata, **TWELVE)
    assert (result.records, result.quarantined) == (2, 4)
    reasons = quarantine(tmp_path)
    assert "metadata that JSON cannot hold" in reasons["record-000001"]
    assert "all NaN" in reasons["record-000003"] and "any ECG has" in reasons["record-000004"]
    assert "same samples as record-000000" in reasons["record-000005"]


def test_samples_that_are_not_finite_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signals = [signal.astype(np.float64) for signal in SIGNALS]
    signals[2][:, 100:110] = np.nan
    signals[4][1, :3] = np.inf
    signals[4][3, 0] = -1e300  # no float32
    store = write_store(tmp_path, signals=signals, **TWELVE | {"quiet": False}).store
    assert "120 samples are NaN and 4 infinite; they are stored as" in capsys.readouterr().err
    assert [store.metadata(row) for row in (0, 2, 4)] == [
        {}, {"nan_samples": 120}, {"infinite_samples": 4},
    ]  # fmt: skip
    assert (~store.recording(4).valid).sum() == 4


def test_ecgs_that_were_normalised_over_their_data_set_are_not_taken_for_millivolts_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signals = np.stack([recording.signal[:, :1000] for recording in RECORDINGS])
    spread = signals.std((0, 2), keepdims=True)
    for name, scale, answers in (("mV", 1.0, False), ("z", 1 / spread, True)):
        moved = (signals - signals.mean((0, 2), keepdims=True)) * scale
        write_store(tmp_path / name, signals=moved, folds=[1] * 6, **TWELVE | {"quiet": False})
        assert ("were the ECGs normalised" in capsys.readouterr().err) == answers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": digits()[0][:6]}, "takes signals or images; give one"),
        ({"signals": None}, "takes signals or images; give one"),
        ({"leads": None}, "need their sampling_rate .* and leads"),
        ({"sampling_rate": 0}, "sampling_rate 0: is no sampling rate"),
        ({"sampling_rate": "500"}, "'sampling_rate' is '500'; give a number: of the"),
        ({"fs": "100"}, "'fs' is '100'; give a number: sampling rate"),
        ({"leads": "I,II"}, r"'leads' is 'I,II'; give a list, leads=\['I', 'II'\]"),
        ({"leads": ["I", "II"]}, r"signals\[0\]: has shape \(12, 1000\); with 2 leads"),
        ({"signals": [SIGNALS[0], SIGNALS[1].T]}, r"signals\[1\]: .*or transpose it"),
        ({"signals": [SIGNALS[0] + 1j]}, r"signals\[0\]: holds complex"),
        ({"signals": np.zeros((12, 50))}, r"signals\[0\]: has shape \(50,\)"),
        ({"unit": "mmHg"}, "unit 'mmHg': is no voltage"),
        ({"leads": [*CANONICAL_LEADS[:11], "V66"]}, "lead 'V66': is no known lead name"),
        ({"record_ids": ["a"] * 6}, "record_ids: hold one twice"),
        ({"patient_ids": ["a"]}, "patient_ids: has 1 entries for 6 records"),
        ({"labels": ["a"]}, "labels: has 1 entries for 6 records"),
        ({"labels": [1.5] * 6}, "'labels' holds 1.5; give a list of text, whole numbers, lists"),
        ({"labels": [0, 1, 2, 0, 1, 3], "label_names": ["a", "b", "c"]}, "labels: hold 3"),
        ({"labels": np.ones((6, 2))}, "one of label_names a column"),
        ({"labels": np.full((6, 2), 2), "label_names": ["a", "b"]}, "a matrix holds 0 and 1"),
        ({"splits": ["trian"] * 6}, "splits: 'trian' is none; did you mean 'train'"),
        ({"splits": ["train"] * 6, "folds": [1] * 6}, "give one of the two"),
        ({"layout": "records,leads,samples"}, "layout: is for files, arrays is none"),
        ({"size": 8}, "--size: is for images"),
    ],
)  # fmt: skip
def test_arguments_that_contradict_each_other_are_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        write_store(tmp_path / "out", **{"signals": SIGNALS, **TWELVE, **changes})
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="sampling_rate: is of signals; leave it out of im"):
        write_store(tmp_path, images=digits()[0], sampling_rate=500)
    with pytest.raises(LatentcastError, match="images: holds float64.*astype"):
        write_store(tmp_path, images=digits()[0] / 255)
    with pytest.raises(
        LatentcastError, match="--scale: is for recordings, arrays is read as images"
    ):
        write_store(tmp_path, images=digits()[0][:5], scale=0.1, quiet=True)


# Sources of one's own ------------------------------------------------------------------------


class Hearts(RecordingSource):
    """Twenty recordings that are made when they are read; the smallest source there is."""

    name = "hearts"

    def refs(self) -> list[RecordRef]:
        return [RecordRef(f"heart {i}", split="test" if i < 4 else "train") for i in range(20)]

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        seed = int(ref.record_id.split()[1])
        if seed == 7:
            raise ZeroDivisionError("no heart")
        made = synthetic_recording(60 + seed, 250, 2.0, seed, record_id=ref.record_id)
        return made, Annotation(
            patient_id=f"p{seed // 2}", labels={"fast": 1.0} if seed > 9 else {}
        )


class Digits(ImageSource):
    """Images without a file, with the classes in an order of their own."""

    name, classes = "digits", tuple("9876543210")

    def refs(self) -> list[RecordRef]:
        return [RecordRef(f"digit {i}", row=i) for i in range(30)]

    def read(self, ref: RecordRef) -> tuple[np.ndarray, Annotation]:
        images, labels = digits()
        label = "eleven" if ref.row == 3 else str(labels[ref.row])
        return images[ref.row][:, :, None], Annotation(labels={label: 1.0})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_of_ones_own_is_read_as_files_are(tmp_path: Path, workers: int) -> None:
    result = ingest(Hearts(), tmp_path / "out", workers=workers, quiet=True)
    store = result.store
    assert (result.records, result.quarantined) == (19, 1) and store.sampling_rate == 250
    assert quarantine(tmp_path / "out") == {
        "heart 7": "cannot be read (ZeroDivisionError: no heart)"
    }
    assert store.record_ids[store.rows("test")].tolist() == [f"heart {i}" for i in range(4)]
    assert store.patient_ids[5] == "p2" and store.labels.counts() == {"fast": 10}
    assert np.array_equal(store.take([0])[0], to_counts(synthetic_recording(60, 250, 2.0, 0)))
    assert ingest(Hearts(), tmp_path / "out", quiet=True).records == 19
    resampled = ingest(Hearts(), tmp_path / "slow", fs=100, leads=["II"], quiet=True).store
    assert (resampled.sampling_rate, resampled.leads) == (100, ("II",))


def test_a_source_of_images_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    store = ingest(Digits(), tmp_path, quiet=True).store
    labels = [str(label) for row, label in enumerate(digits()[1][:30]) if row != 3]
    assert store.classes == tuple("9876543210")
    assert [store.classes[i] for i in store.class_ids] == labels
    assert (
        "label 'eleven', which is none of the source's classes" in quarantine(tmp_path)["digit 3"]
    )


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="'source' is a list; give a path or a Source"):
        ingest(RECORDINGS, tmp_path)  # type: ignore[arg-type]
