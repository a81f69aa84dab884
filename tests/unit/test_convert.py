"""Converted files hold what was read, or are refused; anonymous ones name nobody."""

from __future__ import annotations

import csv
import lzma
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from ecg_files import write_wfdb

from conftest import Command
from latentcast.signals.anonymize import MOST_DAYS, Key, anonymize
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording
from latentcast.signals.writers import FILE_WRITERS
from latentcast.workflows.convert import convert

DEVICES = Path(__file__).parents[1] / "data" / "devices"
DICOM = DEVICES.with_name("formats") / "guangxi_teaching_sinus_rhythm.dcm"
ABOUT = ["Age: 51", "Sex: Female", "Patient ID: p7", "Dx: 426783006,164889003",
         "recording_date: 1984-11-22T09:10:00", "device: ELI 250"]  # fmt: skip
CARRIED = {
    "wfdb": {"patient_id", "age", "sex", "recording_date", "device", "labels"},
    "edf": {"patient_id", "sex", "recording_date", "device"},
    "parquet": {"patient_id", "age", "sex", "recording_date", "device", "labels"},
    "csv": set(),
}


def original(folder: Path, *, gap: bool = False) -> Recording:
    """As it is read: in microvolts, but for a lead of small amplitude."""
    recording = synthetic_recording(60, 250, 4)
    if gap:
        recording.signal[3, 100:140] = np.nan
    return read_recording(write_wfdb(folder, recording, "r1", comments=ABOUT))


def about(recording: Recording) -> dict[str, object]:
    return {"patient_id": recording.patient_id, **recording.metadata}


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("kind", FILE_WRITERS)
def test_what_is_read_again_is_what_was_read(tmp_path: Path, kind: str, gap: bool) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    recording = original(tmp_path / "in", gap=gap)
    done = convert([tmp_path / "in"], kind, tmp_path / "out")
    if gap and kind == "edf":
        [(name, reason)] = done.rejected
        assert "r1" in name and "lead aVR has 40 samples that were not measured" in reason
        return
    assert (done.written, done.rejected) == (1, [])
    [row] = csv.DictReader((tmp_path / "out" / "records.csv").open())
    rate = float(row["sampling_rate"])
    again = read_recording(tmp_path / "out" / row["file"], sampling_rate=rate)
    assert again.leads == recording.leads and again.sampling_rate == rate == 250
    # Counts of whole microvolts are no others in a finer step.
    np.testing.assert_allclose(again.signal, recording.signal, atol=1e-6, equal_nan=True)
    assert np.isnan(again.signal).sum() == 40 * gap
    same = {key for key, value in about(recording).items() if about(again).get(key) == value}
    # The reader of WFDB keeps the comment of the patient as well.
    same -= {"patient id"}
    assert same == CARRIED[kind]
    lacking = {"patient_id", *recording.metadata} - CARRIED[kind] - {"patient id"}
    assert done.not_in_files.keys() - {"sampling_rate", "patient id"} == lacking
    assert (row["patient_id"], row["labels"]) == ("p7", "426783006;164889003")


def test_another_reader_finds_the_same_samples_at_the_same_times(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    recording = original(tmp_path / "in")
    for kind in ("wfdb", "edf"):
        convert([tmp_path / "in"], kind, tmp_path / kind)  # type: ignore[arg-type]
    record = wfdb.rdrecord(str(tmp_path / "wfdb" / "r1"))
    assert record.fs == 250 and np.abs(record.p_signal.T - recording.signal).max() < 1e-3
    # By the offsets that the format has: 13 signals, the last one of onsets; a second a record.
    data = (tmp_path / "edf" / "r1.edf").read_bytes()
    assert (data[168:184], data[244:252].strip()) == (b"01.01.8509.10.00", b"1")
    largest = np.array([float(data[256 + 13 * 112 + 8 * n :][:8]) for n in range(12)])
    counts = np.frombuffer(data[256 * 14 :], "<i2").reshape(4, -1)[:, : 12 * 250]
    microvolts = counts.reshape(4, 12, 250) * largest[:, None] / 32767
    assert np.abs(microvolts.swapaxes(0, 1).reshape(12, -1) / 1000 - recording.signal).max() < 1e-3


def test_one_bad_file_stops_no_other_and_nothing_is_overwritten(
    tmp_path: Path, command: Command
) -> None:
    for folder in ("a", "b"):
        original(tmp_path / folder)
    (tmp_path / "bad.scp").write_bytes(b"@ MFR")
    sources = (tmp_path / "a", tmp_path / "bad.scp", tmp_path / "b" / "r1.hea")
    out = tmp_path / "out"
    answer = command("convert", *sources, "--to", "csv", "--out", out)
    assert answer.status == 1 and "bad.scp: " in answer.err
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert files.keys() == {"r1.csv", "r1-2.csv", "records.csv"}
    again = command("convert", sources[0], "--to", "csv", "--out", out)
    assert again.status == 2 and "is not empty" in again.err
    assert files == {file.name: file.read_bytes() for file in out.iterdir()}


def test_two_processes_write_other_files_than_one(tmp_path: Path) -> None:
    files = [
        write_wfdb(tmp_path / str(n), synthetic_recording(60 + n, 250, 4), "r1") for n in range(6)
    ]
    (tmp_path / "bad.scp").write_bytes(b"@ MFR")
    written = []
    for workers in (1, 2):
        out = tmp_path / f"out-{workers}"
        done = convert([*files, tmp_path / "bad.scp"], "wfdb", out, workers=workers)
        assert done.written == 6 and len(done.rejected) == 1
        written.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert len(written[0]) == 13 and written[0] == written[1]


def test_a_file_that_comes_back_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FILE_WRITERS["wfdb"]

    def write(recording: Recording, path: Path) -> np.ndarray:
        wrong = recording.signal.copy()
        wrong[2, 7] += 0.01
        return right.write(replace(recording, signal=wrong), path)

    monkeypatch.setitem(FILE_WRITERS, "wfdb", replace(right, write=write))
    original(tmp_path / "in")
    done = convert([tmp_path / "in"], "wfdb", tmp_path / "out")
    assert "with an error of 0.01 mV" in done.rejected[0][1]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["records.csv"]


def identifiers(path: Path) -> set[str]:
    """Texts of a vendor's file that may name somebody, or say when."""
    if path.suffix == ".dcm":
        pydicom = pytest.importorskip("pydicom")
        elements = list(pydicom.dcmread(path).iterall())
        texts = [str(e.value) for e in elements if e.VR in ("PN", "LO", "DA", "DT", "UI", "LT")]
    else:
        xml = path.read_bytes().decode("utf-8", "replace")
        texts = re.findall(r">([^<>]{5,60})</", xml) + re.findall(r'="([^"<>]{5,60})"', xml)
        days = {f"{y}-{m}-{d}" for y, m, d in re.findall(r"\b(\d{4})-?(\d\d)-?(\d\d)", xml)}
        texts += [*days, path.stem]
    return {t for t in texts if len(t) > 4 and not re.fullmatch(r"[\d.]{5}|\d\d:\d\d:\d\d|\W+", t)}


@pytest.mark.parametrize("kind", ["wfdb", "edf", "parquet"])
def test_anonymous_files_hold_nothing_that_names_a_patient(
    tmp_path: Path, kind: str, command: Command
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    sources = [DICOM]
    for file in DEVICES.glob("*.xz"):
        sources.append(tmp_path / f"Jane-Doe-{file.stem}")
        sources[-1].write_bytes(lzma.decompress(file.read_bytes()))
    out, key = tmp_path / "out", tmp_path / "key"
    arguments = ("--to", kind, "--out", out, "--anonymize", "--key", key)
    answer = command("convert", *sources, *arguments)
    assert answer.status == 0 and "is a new key" in answer.out, answer
    data = b"".join(file.name.encode() + file.read_bytes() for file in out.iterdir())
    data = re.sub(rb"ECG |\d+\.?\d*\(0\)/mV|mV|EDF|Startdate", b"", data)
    # Names of columns and leads are in the files of recorders as well.
    words = {
        "record",
        "Female",
        "female",
        "device",
        "patient",
        "label",
        "report",
        "metadata",
        "-32768",
    }
    found = {text for source in sources for text in identifiers(source) if text.encode() in data}
    assert found - words <= {"-32768"}
    assert len({text for source in sources for text in identifiers(source)}) > 100


def test_records_of_a_patient_stay_together_and_a_key_gives_the_same_names(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key, other = Key.create(path), Key(b"0" * 32)
    assert Key.read(path) == key and path.stat().st_mode & 0o77 == 0
    days = [datetime(2020, 3, 1, 8, 30), datetime(2020, 3, 11, 9, 0)]
    records = [
        replace(original(tmp_path / f"{n}"), record_id=f"r{n}", metadata={
            "recording_date": day.isoformat(), "age": 93.0, "labels": {"AFIB": 1.0, "Mr Doe": 1.0},
            "report": "Mr Doe", "exam_id": 17,
        })
        for n, day in enumerate(days)
    ]  # fmt: skip
    one, two = (anonymize(record, key) for record in records)
    assert one.patient_id == two.patient_id != anonymize(records[0], other).patient_id
    assert one.record_id != two.record_id
    dates = [datetime.fromisoformat(r.metadata["recording_date"]) for r in (one, two)]
    assert dates[1] - dates[0] == days[1] - days[0]
    assert timedelta(1) <= days[0] - dates[0] <= timedelta(MOST_DAYS)
    assert one.metadata.keys() == {"recording_date", "age", "labels"}
    assert (one.metadata["age"], one.metadata["labels"]) == (90.0, {"AFIB": 1.0})
