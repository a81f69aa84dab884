"""Files that hold one ECG each: what is read is what was written, and damage is named."""

from __future__ import annotations

import struct
from binascii import crc_hqx
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecg_files import write_wfdb

from dev.fuzz.ecg_files import (
    counts_of,
    renew_scp_sums,
    write_dicom,
    write_edf,
    write_hdf5,
    write_ishne,
    write_lead_table,
    write_scp,
)
from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import read_recording, scp
from latentcast.signals.readers.file_format import ReadOptions
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording
from latentcast.source import BadRecord

RECORDING = synthetic_recording(60, 100, 3)
FORMATS = Path(__file__).parents[1] / "data" / "formats"
Write = Callable[[Path, Recording], None]
WRITERS: dict[str, Write] = {
    "scp": write_scp,
    "dicom": write_dicom,
    "edf": write_edf,
    "bdf": lambda path, recording: write_edf(path, recording, wide=True),
    "ishne": write_ishne,
    "table of leads": write_lead_table,
}


def write(folder: Path, kind: str, recording: Recording = RECORDING) -> Path:
    """Under a name that says nothing of the format."""
    if kind == "dicom":
        pytest.importorskip("pydicom")
    WRITERS[kind](path := folder / f"{kind.replace(' ', '-')}.ecg", recording)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_millivolts_leads_and_rate_are_those_that_were_written(tmp_path: Path, kind: str) -> None:
    rate = 100.0 if kind == "table of leads" else None
    read = read_recording(write(tmp_path, kind), sampling_rate=rate)
    assert read.leads == RECORDING.leads and read.sampling_rate == 100
    assert np.allclose(read.signal, counts_of(RECORDING).T / 1000.0, rtol=1e-6, atol=1e-9)
    assert read.valid.all()


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "table of leads"])
def test_patient_age_sex_and_date_are_those_in_the_file(tmp_path: Path, kind: str) -> None:
    read = read_recording(write(tmp_path, kind))
    assert read.patient_id == "p7"
    assert (read.metadata["age"], read.metadata["sex"]) == (51, "female")
    assert read.metadata["recording_date"] == "2002-11-22T09:10:00" and read.metadata["device"]


@pytest.mark.parametrize("kind", ["scp", "ishne", "edf", "dicom"])
def test_files_without_a_patient_are_all_of_patient_00(tmp_path: Path, kind: str) -> None:
    data = bytearray((path := write(tmp_path, kind)).read_bytes().replace(b"p7", b"00", 1))
    if kind == "ishne":
        data[8:10] = struct.pack("<H", crc_hqx(data[10:522], 0xFFFF))
    path.write_bytes(data)
    if kind == "scp":
        renew_scp_sums(path)
    assert read_recording(path).patient_id is None


@pytest.mark.parametrize("kind", ["scp", "ishne", "edf", "dicom"])
def test_a_file_that_is_cut_off_is_not_read_as_a_shorter_one(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    for size in (700, len(path.read_bytes()) - 40):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(BadRecord):
            read_recording(path)


def test_no_changed_byte_of_an_scp_file_is_read(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path, "scp", synthetic_recording(60, 100, 1)).read_bytes())
    for place in range(0, len(data), 97):
        (changed := data.copy())[place] ^= 4
        (file := tmp_path / "changed.scp").write_bytes(changed)
        with pytest.raises(BadRecord):
            scp.read(file, ReadOptions())


@pytest.mark.parametrize("order", [0, 1, 2])
def test_scp_differences_of_every_order_give_the_same_samples(tmp_path: Path, order: int) -> None:
    write_scp(path := tmp_path / "a", RECORDING, differences=order)
    assert np.allclose(read_recording(path).signal.T * 1000, counts_of(RECORDING), atol=1e-3)


def test_scp_less_a_reference_beat_is_refused_by_name(tmp_path: Path) -> None:
    write_scp(path := tmp_path / "a", RECORDING, flags=5)
    with pytest.raises(BadRecord, match="reference beat"):
        read_recording(path)


def test_an_scp_table_that_switches_to_another_is_followed() -> None:
    code, switch = scp.Code, scp.Code(0, 2, switch=True)
    tables = [{(1, 0): code(0, 3), (1, 1): switch}, {(1, 0): code(4, 0), (1, 1): code(0, -5)}]
    assert scp.decode(bytes([0b01101010, 0b00100000]), tables, 4) == [3, -5, -6, 4]


def test_an_edf_gap_is_not_measured_and_a_slower_lead_keeps_its_time(tmp_path: Path) -> None:
    write_edf(path := tmp_path / "a.edf", RECORDING, starts=(0, 1, 2.5))
    read = read_recording(path)
    assert read.samples == 350 and not read.valid[:, 200:250].any()
    assert np.allclose(read.signal[:, 250:].T * 1000, counts_of(RECORDING)[200:], atol=1e-3)
    write_edf(path, RECORDING, slow=("V6",))
    slow, fast = read_recording(path).signal[[11, 11]], RECORDING.signal[11]
    assert np.abs(slow - fast)[:, 20:-20].max() < 0.2 * np.abs(fast).max()


def test_edf_equals_what_another_library_writes(tmp_path: Path) -> None:
    edfio = pytest.importorskip("edfio")
    signals = [
        edfio.EdfSignal(row.astype(float), 100, label=f"ECG {lead}", physical_dimension="mV")
        for lead, row in zip(RECORDING.leads, RECORDING.signal, strict=True)
    ]
    edfio.Edf(signals).write(tmp_path / "a.edf")
    step = np.ptp(RECORDING.signal) / 65535
    assert np.abs(read_recording(tmp_path / "a.edf").signal - RECORDING.signal).max() <= step


def test_a_dicom_file_equals_what_its_library_scales() -> None:
    pydicom = pytest.importorskip("pydicom")
    path = FORMATS / "guangxi_teaching_sinus_rhythm.dcm"
    theirs = pydicom.dcmread(path).waveform_array(0).T / 1000
    assert np.allclose(read_recording(path).signal, theirs, atol=1e-6)


def edit_dicom(folder: Path, edit: Callable[[Any, Any], None]) -> Path:
    """A file of which its rhythm (the second group) was changed."""
    file = pytest.importorskip("pydicom").dcmread(path := write(folder, "dicom"))
    edit(file, file.WaveformSequence[1])
    file.save_as(path)
    return path


def test_a_channel_that_dicom_marks_as_off_is_measured(tmp_path: Path) -> None:
    def edit(_: Any, rhythm: Any) -> None:
        rhythm.ChannelDefinitionSequence[1].ChannelStatus = ["DISCONNECTED"]
        rhythm.ChannelDefinitionSequence[2].ChannelStatus = ["OK", "QUESTIONABLE"]

    read = read_recording(edit_dicom(tmp_path, edit))
    assert np.isnan(read.signal).all(1).tolist() == [lead == "II" for lead in read.leads]
    assert read.metadata["leads_off"] == ["II"]


def test_leads_that_begin_at_other_times_are_read_as_one(tmp_path: Path) -> None:
    def edit(_: Any, rhythm: Any) -> None:
        rhythm.ChannelDefinitionSequence[1].ChannelTimeSkew = "0.02"

    with pytest.raises(BadRecord, match="skewed by whole samples"):
        read_recording(edit_dicom(tmp_path, edit))


def test_breathing_beside_a_dicom_ecg_costs_the_ecg(tmp_path: Path) -> None:
    def edit(file: Any, rhythm: Any) -> None:
        breathing = deepcopy(rhythm)
        breathing.MultiplexGroupLabel, breathing.SamplingFrequency = "RESP", "25"
        for channel in breathing.ChannelDefinitionSequence:
            channel.ChannelSourceSequence[0].CodeValue = "2:9999"
        file.WaveformSequence.insert(0, breathing)

    read = read_recording(edit_dicom(tmp_path, edit))
    assert read.leads == RECORDING.leads and read.sampling_rate == 100
    assert read.metadata["groups_left_out"] == 1


def test_seconds_behind_those_that_an_edf_header_counts_are_lost(tmp_path: Path) -> None:
    path = write(tmp_path, "edf")
    data = path.read_bytes()
    path.write_bytes(data[:236] + b"2       " + data[244:])
    with pytest.raises(BadRecord, match="announces 2 records, and holds 3"):
        read_recording(path)


def test_one_odd_channel_costs_that_channel(tmp_path: Path) -> None:
    path = write(tmp_path, "edf")
    path.write_bytes(path.read_bytes().replace(b"ECG V2", b"Resp  "))
    read = read_recording(path)
    assert "V2" not in read.leads and len(read.leads) == 11
    assert read.metadata["channels_left_out"] == ["Resp"]


def test_a_table_of_leads_asks_for_its_rate_and_its_unit(tmp_path: Path) -> None:
    path = write(tmp_path, "table of leads")
    with pytest.raises(BadRecord, match="sampling_rate=500"):
        read_recording(path)
    path.write_text(path.read_text().replace(" (uV)", ""))
    with pytest.raises(BadRecord, match="unit='mV'"):
        read_recording(path, sampling_rate=100)


def test_a_table_of_leads_in_another_dialect_is_read_alike(tmp_path: Path) -> None:
    text = "I (mV);II (mV)\r\n0,5;1,25\r\n;-2\r\n1;\r\n"
    (path := tmp_path / "a.csv").write_text("\ufeff" + text, encoding="utf-8")
    read = read_recording(path, sampling_rate=100).signal
    assert np.array_equal(read, np.float32([[0.5, np.nan, 1], [1.25, -2, np.nan]]), equal_nan=True)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"ANN  1.0", "an ISHNE annotation file"),
        (b"@ MFR ", "an MFER file"),
        (b"GDF 2.1", "a GDF"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, head: bytes, name: str) -> None:
    (path := tmp_path / "a.ecg").write_bytes(head + bytes(600))
    with pytest.raises(BadRecord, match=name):
        read_recording(path)


@pytest.mark.parametrize("kind", ["scp", "dicom", "edf", "ishne"])
def test_the_lowest_count_of_16_bits_is_a_voltage(tmp_path: Path, kind: str) -> None:
    signal = RECORDING.signal.copy()
    signal[4, 150] = -32.768
    path = tmp_path / "a.ecg"
    if kind == "scp":
        write_scp(path, replace(RECORDING, signal=signal), differences=0)
    else:
        path = write(tmp_path, kind, replace(RECORDING, signal=signal))
    read = read_recording(path)
    assert np.argwhere(~read.valid).tolist() == [[4, 150]]


def test_a_folder_of_mixed_files_is_one_store(tmp_path: Path) -> None:
    source = tmp_path / "mixed"
    write_wfdb(source, synthetic_recording(50, 100, 3), "wfdb")
    for n, kind in enumerate(WRITERS):
        if kind != "dicom":
            recording = replace(RECORDING, signal=RECORDING.signal * (1 + n / 10))
            write(source, kind, recording)
    (source / "mfer.dat").write_bytes(b"@ MFR " + bytes(600))
    (source / "preview.png").write_bytes(b"\x89PNG")
    (source / "many.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    result = ingest(source, tmp_path / "store", sampling_rate=100, workers=1, quiet=True)
    assert set(result.store.record_ids) == {
        "wfdb", "scp", "edf", "bdf", "ishne", "table-of-leads"
    }  # fmt: skip
    assert "an MFER file" in (tmp_path / "store" / "quarantine.csv").read_text()
    assert "is an HDF5 file of many" in (tmp_path / "store" / "quarantine.csv").read_text()
    assert any("preview.png" in remark for remark in open_source(source).remarks)


def test_hdf5_has_its_ids_and_its_padding_is_not_measured(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    write_hdf5(path := tmp_path / "part.hdf5", [RECORDING, synthetic_recording(80, 100, 3)])
    axes = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "unit": "mV",
            "layout": "records,samples,leads"}  # fmt: skip
    source = open_source(path, **axes)
    assert [ref.record_id for ref in source.refs()] == ["700", "701"]
    read, _ = source.read(source.refs()[0])
    assert np.array_equal(read.signal[:, 5:-7], RECORDING.signal)
    assert not read.valid[:, :5].any() and not read.valid[:, -7:].any()
    with pytest.raises(LatentcastError, match="--unit"):
        open_source(path, **(axes | {"unit": None}))


def test_patients_within_an_hdf5_file_are_lost(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for name, patients in (("a.h5", [b"p1", b"p1", b"unknown"]), ("b.h5", [b"p1", b"p2"])):
        write_hdf5(tmp_path / name, [RECORDING] * 3)
        with h5py.File(tmp_path / name, "a") as file:
            file["patient_id"] = np.array(patients)
    options = {"sampling_rate": 100, "leads": RECORDING.leads, "unit": "mV",
               "layout": "records,samples,leads"}  # fmt: skip
    source = open_source(tmp_path / "a.h5", **options)
    assert [source.read(ref)[1].patient_id for ref in source.refs()] == ["p1", "p1", None]
    with pytest.raises(LatentcastError, match=r"'patient_id' has shape \(2,\) for 3 recordings"):
        open_source(tmp_path / "b.h5", **options)


def test_a_wrong_size_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path, "scp").read_bytes())
    place = data.index(struct.pack("<IIB", 1, 300, 1))
    for lead in range(12):
        data[place + 9 * lead + 4 : place + 9 * lead + 8] = struct.pack("<I", 2**31)
    start = place - 18
    end = start + struct.unpack_from("<I", data, start + 4)[0]
    data[start : start + 2] = struct.pack("<H", crc_hqx(data[start + 2 : end], 0xFFFF))
    data[:2] = struct.pack("<H", crc_hqx(data[2:], 0xFFFF))
    (path := tmp_path / "a.scp").write_bytes(data)
    with pytest.raises(BadRecord, match="more than"):
        read_recording(path)
