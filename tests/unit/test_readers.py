"""WFDB, Challenge and array files: what is read is what was written, and damage is named."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecg_files import DATA, to_counts, write_challenge, write_wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dev.fuzz.xml_files import write_muse
from latentcast.data import formats
from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import read_recording, wfdb
from latentcast.signals.readers.comments import annotation_of
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.readers.wfdb_folder import WfdbFolder
from latentcast.signals.recording import Recording, from_signal
from latentcast.signals.synthetic import synthetic_recording
from latentcast.source import Annotation, BadRecord, RecordRef

RECORDING = synthetic_recording(70)
HEADERS = sorted(DATA.rglob("*.hea"))


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.stem)
def test_original_files_equal_the_wfdb_package_sample_for_sample(header: Path) -> None:
    package = pytest.importorskip("wfdb")
    theirs = package.rdrecord(str(header.with_suffix("")))
    ours = read_recording(header)
    assert np.array_equal(ours.signal, theirs.p_signal.T.astype(np.float32))
    assert ours.sampling_rate == theirs.fs
    assert [name.upper() for name in ours.leads] == [name.upper() for name in theirs.sig_name]


@pytest.mark.parametrize(
    ("gain", "factor", "baseline"),
    [
        ("1000.0(0)/mV", 1.0, 0),
        ("1000/mv", 1.0, 0),
        ("204.8(-13)/mV", 1.0, -13),
        ("1(5)/uV", 1e-3, 5),
        ("1/µV", 1e-3, 0),
        ("1e6/V", 1e3, 0),
        ("200", 1.0, 0),
    ],
)
def test_gain_baseline_and_unit_become_millivolts(
    tmp_path: Path, gain: str, factor: float, baseline: int
) -> None:
    header = write_wfdb(tmp_path, RECORDING, "a", gain=gain)
    per_unit = float(gain.split("/")[0].split("(")[0])
    expected = (to_counts(RECORDING).T.astype(np.float64) - baseline) / per_unit * factor
    assert np.allclose(read_recording(header).signal, expected, rtol=1e-6, atol=0)


def test_adc_zero_is_the_baseline_where_none_is_written(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path, RECORDING, "a", gain="1000/mV")
    header.write_text(header.read_text().replace(" 16 0 ", " 16 100 "))
    shift = RECORDING.signal - read_recording(header).signal
    assert np.allclose(shift, 0.1, atol=6e-4)


def test_minus_32768_is_an_invalid_sample_and_no_voltage(tmp_path: Path) -> None:
    signal = RECORDING.signal.copy()
    signal[4, 10:20] = np.nan
    header = write_wfdb(tmp_path, replace(RECORDING, signal=signal), "a", gain="1000(7)/mV")
    recording = read_recording(header)
    assert np.isnan(recording.signal[4, 10:20]).all()
    assert (~recording.valid).sum() == 10


def test_challenge_codes_are_labels_and_its_comments_metadata(tmp_path: Path) -> None:
    comments = ["Age: 56", "Sex: Female", "Dx: 426783006,164889003"]
    write_challenge(tmp_path, RECORDING, "JS1", comments)
    recording, annotation = wfdb.read(tmp_path / "JS1.hea")
    assert np.array_equal(recording.signal, (to_counts(RECORDING).T / 1000).astype(np.float32))
    assert annotation.labels == {"426783006": 1.0, "164889003": 1.0}
    assert annotation.metadata == {"age": 56.0, "sex": "female"}


LUDB = ["<age>: >89", "<sex>: F", "<diagnoses>:", "Rhythm: Sinus bradycardia.",
        "Electric axis of the heart: normal.", "Left atrial hypertrophy."]  # fmt: skip


@pytest.mark.parametrize(
    ("comments", "labels", "metadata", "patient"),
    [
        (["Dx: none"], [], {}, None),
        (["Dx: NaN,Unknown,59118001", "Age: NaN", "Sex: Unknown"], ["59118001"], {}, None),
        (["Age: 056Y", "Gender: m"], [], {"age": 56.0, "sex": "male"}, None),
        (["age 7", "sex F"], [], {"age": 7.0, "sex": "female"}, None),
        (["69 M 1085 1629 x1"], [], {"age": 69.0, "sex": "male"}, None),
        (["Age: 6 months"], [], {"age_text": "6 months"}, None),
        (["Rhythm: Atrial flutter, typical.", "a note"], ["Atrial flutter, typical"],
         {"rhythm": "Atrial flutter, typical"}, None),
        (LUDB, ["Sinus bradycardia", "Electric axis of the heart: normal",
                "Left atrial hypertrophy"],
         {"age": 90.0, "sex": "female", "rhythm": "Sinus bradycardia"}, None),
        (["<age>: 65 <sex>: F <diagnoses>: Coronary artery disease, arterial hypertension",
          "patient 1"], ["Coronary artery disease", "arterial hypertension"],
         {"age": 65.0, "sex": "female"}, "1"),
    ],
)  # fmt: skip
def test_comments_of_each_data_set_are_read(
    comments: list[str], labels: list[str], metadata: dict[str, object], patient: str | None
) -> None:
    found = annotation_of(comments)
    assert list(found.labels) == labels and found.patient_id == patient
    named = ("age", "age_text", "sex", "rhythm", "diagnoses", "dx", "gender")
    assert {key: found.metadata[key] for key in named if key in found.metadata} == metadata


def test_signals_of_several_files_make_one_record(tmp_path: Path) -> None:
    counts = to_counts(RECORDING).astype("<i2")
    write_wfdb(tmp_path, RECORDING, "a")
    lines = (tmp_path / "a.hea").read_text().splitlines()
    lines[4:] = [line.replace("a.dat", "b.dat") for line in lines[4:]]
    (tmp_path / "a.hea").write_text("\n".join(lines))
    (tmp_path / "a.dat").write_bytes(counts[:, :3].tobytes())
    (tmp_path / "b.dat").write_bytes(counts[:, 3:].tobytes())
    recording = read_recording(tmp_path / "a")
    assert np.array_equal(recording.signal, (counts.T / 1000).astype(np.float32))


def test_without_a_length_in_the_header_a_shorter_file_ends_early_and_is_masked(
    tmp_path: Path,
) -> None:
    two = replace(RECORDING, signal=RECORDING.signal[:2], valid=RECORDING.valid[:2],
                  leads=("I", "II"))  # fmt: skip
    counts = to_counts(two).astype("<i2")
    (tmp_path / "a.dat").write_bytes(counts[:, 0].tobytes())
    (tmp_path / "b.dat").write_bytes(counts[:4000, 1].tobytes())
    header = "a 2 500\n"
    for file, lead, column in (("a", "I", counts[:, 0]), ("b", "II", counts[:4000, 1])):
        total = int(column.astype(np.int64).sum()) % 65536
        header += f"{file}.dat 16 1000/mV 16 0 {column[0]} {total} 0 {lead}\n"
    (tmp_path / "a.hea").write_text(header)
    recording = read_recording(tmp_path / "a")
    assert recording.samples == 5000
    assert recording.valid[0].all() and recording.valid[1, :4000].all()
    assert not recording.valid[1, 4000:].any()


def _cut(folder: Path) -> None:
    data = (folder / "a.dat").read_bytes()
    (folder / "a.dat").write_bytes(data[:-10])


def _flip(folder: Path) -> None:
    data = bytearray((folder / "a.dat").read_bytes())
    data[5000] ^= 1
    (folder / "a.dat").write_bytes(data)


def _swap_sign(folder: Path) -> None:
    # Two changes that cancel in the sum: only the initial value can tell.
    counts = np.frombuffer((folder / "a.dat").read_bytes(), "<i2").reshape(-1, 12).copy()
    counts[0, 3] += 5
    counts[1, 3] -= 5
    (folder / "a.dat").write_bytes(counts.tobytes())


def _edit(old: str, new: str):
    def damage(folder: Path) -> None:
        text = (folder / "a.hea").read_text()
        assert old in text
        (folder / "a.hea").write_text(text.replace(old, new))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "a.dat: is truncated, 119990 bytes of 120000"),
        (_flip, "contradicts its checksum in the header"),
        (_swap_sign, "signal aVR begins with"),
        (lambda folder: (folder / "a.dat").unlink(), "'a.dat' is missing"),
        (lambda folder: (folder / "a.hea").write_text(""), "header is empty"),
        (
            lambda folder: (folder / "a.hea").write_bytes(b"\xff\xfe\x00"),
            "<binary> is no WFDB record line .words",
        ),
        (_edit("a 12 500", "a 13 500"), "announces 13 signals and describes 12"),
        (_edit("a 12 500 5000", "a 12"), "no sampling rate"),
        (_edit("/mV", "/mmHg"), "'mmHg': is no voltage"),
        (_edit("1000.0(0)/mV", "0"), "not calibrated"),
        (_edit("a.dat 16 1000.0(0)/mV", "../a.dat 16 1000.0(0)/mV"), "leads out of the folder"),
        (_edit("1000.0(0)/mV", "abc"), "gain 'abc' cannot be read"),
    ],
)
def test_a_damaged_record_is_refused_with_the_reason(tmp_path: Path, damage, reason: str) -> None:
    write_wfdb(tmp_path, RECORDING, "a")
    read_recording(tmp_path / "a")
    damage(tmp_path)
    with pytest.raises(BadRecord, match=reason):
        read_recording(tmp_path / "a")


@pytest.mark.parametrize(
    ("start", "new", "reason"),
    [
        (0, b"MATLAB 5.0 MAT-file", "is a MATLAB 5 file"),
        (0, (10).to_bytes(4, "little"), "no MATLAB 4 matrix of int16"),
        (4, (11).to_bytes(4, "little"), "has 11 rows, the header 12 leads"),
        (8, (4999).to_bytes(4, "little"), "has 4999 samples, the header 5000"),
        (16, (5).to_bytes(4, "little"), "samples begin at byte 25, the header has 24"),
    ],
)
def test_a_mat_file_of_another_kind_is_refused(
    tmp_path: Path, start: int, new: bytes, reason: str
) -> None:
    write_challenge(tmp_path, RECORDING, "a", [])
    data = bytearray((tmp_path / "a.mat").read_bytes())
    data[start : start + len(new)] = new
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(BadRecord, match=reason):
        read_recording(tmp_path / "a.mat")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.int16, st.tuples(st.integers(1, 12), st.integers(1, 300))))
def test_any_samples_survive_the_round_trip(tmp_path: Path, counts: np.ndarray) -> None:
    signal = np.where(counts == -32768, np.nan, counts / 1000).astype(np.float32)
    recording = from_signal(signal, CANONICAL_LEADS[: len(signal)], 250.0, "r")
    again = read_recording(write_wfdb(tmp_path, recording, "r"))
    assert np.array_equal(again.signal, signal, equal_nan=True)
    assert again.leads == recording.leads and again.sampling_rate == 250.0


def test_other_formats_go_through_the_wfdb_package(tmp_path: Path) -> None:
    package = pytest.importorskip("wfdb")
    signal = np.round(RECORDING.signal[:2].T.astype(np.float64), 3)
    package.wrsamp(
        "h", fs=360, units=["mV", "mV"], sig_name=["MLII", "V5"], p_signal=signal,
        fmt=["212", "212"], adc_gain=[200, 200], baseline=[0, 0], write_dir=str(tmp_path),
    )  # fmt: skip
    recording = read_recording(tmp_path / "h")
    assert recording.leads == ("II", "V5") and recording.sampling_rate == 360
    assert np.abs(recording.signal - signal.T).max() <= 0.0026


def test_segments_of_a_long_record_are_not_records_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("wfdb")
    half = replace(RECORDING, signal=RECORDING.signal[:, :2500], valid=RECORDING.valid[:, :2500])
    write_wfdb(tmp_path, half, "long_1")
    write_wfdb(tmp_path, half, "long_2")
    (tmp_path / "long.hea").write_text("long/2 12 500 5000\nlong_1 2500\nlong_2 2500\n")
    source = open_source(tmp_path)
    assert [ref.record_id for ref in source.refs()] == ["long"]
    recording, _ = source.read(source.refs()[0])
    assert np.array_equal(recording.signal[:, :2500], recording.signal[:, 2500:])
    assert recording.leads == CANONICAL_LEADS


def test_one_name_in_two_folders_is_two_records(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "Person_01", RECORDING, "rec_1")
    write_wfdb(tmp_path / "Person_02", synthetic_recording(80, seed=1), "rec_1")
    write_wfdb(tmp_path / "Person_02", synthetic_recording(90, seed=2), "rec_2")
    ids = [ref.record_id for ref in open_source(tmp_path).refs()]
    assert ids == ["Person_01/rec_1", "Person_02/rec_1", "rec_2"]


def test_ptbxl_labels_are_the_codes_present_whatever_their_likelihood() -> None:
    source = open_source(DATA, fs=100)
    recording, annotation = source.read(source.refs()[0])
    assert annotation.labels == {"NORM": 100.0, "LVOLT": 0.0, "SR": 0.0}
    assert (annotation.patient_id, annotation.fold) == ("15709", 3)
    assert annotation.metadata["age"] == 56.0
    assert annotation.metadata["report"] == "sinusrhythmus periphere niederspannung"
    assert recording.record_id == "00001_lr" and source.refs()[0].record_id == "00001"


def test_two_rates_of_the_same_ecgs_are_never_mixed() -> None:
    with pytest.raises(LatentcastError, match="choose with --fs 100 or --fs 500"):
        open_source(DATA)
    for rate in (100, 500):
        source = open_source(DATA, fs=rate)
        rates = {source.read(ref)[0].sampling_rate for ref in source.refs() if not ref.problem}
        assert rates == {float(rate)}


def test_a_row_without_file_and_a_file_without_row_are_both_listed() -> None:
    source = open_source(DATA, fs=500)
    missing = [ref for ref in source.refs() if ref.problem]
    assert len(source.refs()) == 20 and len(missing) == 15
    assert "records500/00000/00006_hr.hea is missing" in str(missing[0].problem)


def test_a_file_that_is_not_in_the_table_is_listed(tmp_path: Path) -> None:
    (tmp_path / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,scp_codes,strat_fold,filename_lr,filename_hr\n"
        "1,7,{'SR': 0.0},2,,r/1\n2,8,oops,3,,r/2\n"
    )
    for name in ("1", "2", "3"):
        write_wfdb(tmp_path / "r", RECORDING, name)
    refs = open_source(tmp_path).refs()
    assert [(ref.record_id, bool(ref.problem)) for ref in refs] == [
        ("00001", False),
        ("line 3", True),
        ("3", True),
    ]
    assert "is not listed" in str(refs[2].problem) and "line 3" in str(refs[1].problem)


def test_sha256sums_beside_the_records_are_checked(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path / "r", RECORDING, "a")
    (tmp_path / "SHA256SUMS.txt").write_text(f"{'0' * 64}  r/a.dat\n")
    source = open_source(tmp_path)
    with pytest.raises(BadRecord, match=r"a\.dat: contradicts its checksum in SHA256SUMS.txt"):
        source.read(source.refs()[0])
    unchecked = open_source(tmp_path, verify_checksums=False)
    assert unchecked.read(unchecked.refs()[0])[0].samples == read_recording(header).samples


ARRAY = {"sampling_rate": 500, "leads": list(CANONICAL_LEADS), "unit": "mV"}


@pytest.mark.parametrize("layout", ["records,leads,samples", "records,samples,leads"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_in_both_layouts(tmp_path: Path, layout: str, suffix: str) -> None:
    # As many records as leads as samples: no shape could tell the axes apart.
    signals = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    stored = signals if layout == "records,leads,samples" else signals.transpose(0, 2, 1)
    path = tmp_path / f"a{suffix}"
    np.save(path, stored) if suffix == ".npy" else np.savez(path, signals=stored)
    source = open_source(path, layout=layout, **ARRAY)
    for i, ref in enumerate(source.refs()):
        assert np.array_equal(source.read(ref)[0].signal, signals[i])


@pytest.mark.parametrize("missing", ["sampling_rate", "leads", "unit", "layout"])
def test_an_array_with_anything_missing_is_refused(tmp_path: Path, missing: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 12, 50), np.float32))
    options = {**ARRAY, "layout": "records,leads,samples", missing: None}
    with pytest.raises(LatentcastError, match="does not name its --" + missing.replace("_", "-")):
        open_source(tmp_path / "a.npy", **options)


def test_an_array_that_contradicts_its_layout_is_refused_not_transposed(tmp_path: Path) -> None:
    """NEPA defect 13: arrays were transposed by a guess from their shape."""
    np.save(tmp_path / "a.npy", np.zeros((3, 50, 12), np.float32))
    with pytest.raises(LatentcastError, match=r"\(3, 50, 12\).* is records,samples,leads"):
        open_source(tmp_path / "a.npy", layout="records,leads,samples", **ARRAY)


def test_an_array_saved_anew_is_read_anew(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        np.savez(tmp_path / "a.npz", np.full((1, 12, 50), value))
        source = open_source(tmp_path / "a.npz", layout="records,leads,samples", **ARRAY)
        assert (source.read(source.refs()[0])[0].signal == value).all()


def test_pickles_inside_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(LatentcastError, match="no readable array file"):
        open_source(tmp_path / "a.npy", layout="records,leads,samples", **ARRAY)


def test_a_table_beside_an_array_gives_ids_patients_folds_and_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 12, 50), np.float32))
    (tmp_path / "a.csv").write_text(
        "record_id,patient_id,fold,labels,age\nx1,p1,9,AF;LBBB,70\nx2,p2,,,\n"
    )
    source = open_source(tmp_path / "a.npy", layout="records,leads,samples", **ARRAY)
    refs = source.refs()
    first, second = (source.read(ref)[1] for ref in refs)
    assert [ref.record_id for ref in refs] == ["x1", "x2"]
    assert (first.patient_id, first.fold, first.labels) == ("p1", 9, {"AF": 1.0, "LBBB": 1.0})
    assert first.metadata == {"age": "70"}
    assert (second.patient_id, second.fold, second.labels) == ("p2", None, {})


def test_a_table_with_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 12, 50), np.float32))
    (tmp_path / "m.csv").write_text("record_id\nx1\n")
    with pytest.raises(LatentcastError, match="has 1 rows, the array 2 records"):
        open_source(
            tmp_path / "a.npy",
            layout="records,leads,samples",
            metadata=tmp_path / "m.csv",
            **ARRAY,
        )


def test_a_folder_without_records_says_so(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="holds no records"):
        open_source(tmp_path)
    with pytest.raises(LatentcastError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(LatentcastError, match="--unit: is in the headers of .*leave it out"):
        open_source(DATA, fs=100, unit="mV")
    with pytest.raises(LatentcastError, match="--layout: is for .*kind array or hdf5, .* as wfdb"):
        open_source(DATA, fs=100, layout="records,leads,samples")


class Lines(RecordingSource):
    """One record a line, in whole microvolts: a format of the laboratory next door."""

    kind = "lines"

    def __init__(self, path: Path, *, fs: float | None = None) -> None:
        self.path, self.name, self.sampling_rate = path, path.name, fs

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.suffix == ".lines"

    def refs(self) -> list[RecordRef]:
        return [RecordRef(f"line {n}", row=n) for n in range(len(self._rows()))]

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        signal = np.array([self._rows()[ref.row].split()], np.float32) / 1000
        return from_signal(
            signal, ("II",), self.sampling_rate or 100.0, ref.record_id
        ), Annotation()

    def _rows(self) -> list[str]:
        return self.path.read_text().splitlines()


def test_a_new_format_is_a_class_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.random.default_rng(0).integers(-900, 900, (3, 600))
    text = "\n".join(" ".join(map(str, row)) for row in counts.tolist())
    (tmp_path / "a.lines").write_text(text)
    with pytest.raises(LatentcastError, match="is of no format read here"):
        ingest(tmp_path / "a.lines", tmp_path / "out", quiet=True)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, Lines))
    store = ingest(tmp_path / "a.lines", tmp_path / "out", fs=200, leads=["II"], quiet=True).store
    assert np.array_equal(store.take([0, 1, 2])[..., 0], counts) and store.sampling_rate == 200
    with pytest.raises(LatentcastError, match="--unit: is for .*, .* is read as lines; leave it"):
        ingest(tmp_path / "a.lines", tmp_path / "out", unit="mV", quiet=True)


def test_samples_of_one_frame_are_not_averaged(tmp_path: Path) -> None:
    """II at 500 Hz and V1 at 125 Hz, in frames of four and one."""
    fast, slow = np.arange(2000) % 700, np.arange(500) % 300
    frames = np.hstack([fast.reshape(500, 4), slow[:, None]]).astype("<i2")
    (tmp_path / "a.dat").write_bytes(frames.tobytes())
    sums = [f"16 0 {x[0]} {int(x.sum()) % 65536} 0" for x in (fast, slow)]
    (tmp_path / "a.hea").write_text(
        f"a 2 125 500\na.dat 16x4 1000/mV {sums[0]} II\na.dat 16 1000/mV {sums[1]} V1\n"
    )
    recording = read_recording(tmp_path / "a")
    assert recording.sampling_rate == 500 and recording.samples == 2000
    assert np.array_equal(recording.signal[0], (fast / 1000).astype(np.float32))
    assert np.abs(recording.signal[1, 40:1000:4] * 1000 - slow[10:250]).max() < 5


@pytest.mark.parametrize(("format", "encoding"), [("16", "latin-1"), ("32", "utf-8")])
def test_micro_is_no_volt(tmp_path: Path, format: str, encoding: str) -> None:
    counts = np.arange(1000)
    (tmp_path / "a.dat").write_bytes(counts.astype("<i4" if format == "32" else "<i2").tobytes())
    line = f"a.dat {format} 1/µV 16 0 0 {int(counts.sum()) % 65536} 0 II"
    (tmp_path / "a.hea").write_bytes(f"a 1 500 1000\n{line}\n".encode(encoding))
    assert np.allclose(read_recording(tmp_path / "a").signal[0], counts / 1000)


@pytest.mark.parametrize("root", ["..", "records500", "records500/00000"])
def test_the_table_of_ptbxl_is_found_above_and_below(tmp_path: Path, root: str) -> None:
    shutil.copytree(DATA, tmp_path / "top" / "1.0.3")
    source = open_source(tmp_path / "top" / "1.0.3" / root, fs=100)
    refs = source.refs()
    assert {ref.record_id for ref in refs} == {file.stem[:5] for file in DATA.rglob("*_lr.hea")}
    assert {ref.file[:10] for ref in refs} == {"records100" if root == ".." else "records500"}
    assert source.read(refs[0])[1].patient_id and "was found in" in source.remarks[0]


def test_paths_of_another_machine_in_the_table_of_ptbxl_are_followed(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "in")
    table = tmp_path / "in" / "ptbxl_database.csv"
    foreign = r"C:\ptb\records100\00000" + "\\"
    table.write_text(table.read_text().replace("records100/00000/", foreign))
    refs = open_source(tmp_path / "in", fs=100).refs()
    assert refs and not [ref.problem for ref in refs if ref.problem]
    table.unlink()
    assert "neither in the folder nor" in open_source(tmp_path / "in").remarks[0]


def test_files_beside_the_records_of_ptbxl_cost_its_patients_or_themselves(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "in" / "ptbxl")
    write_muse(muse := tmp_path / "in" / "muse.xml", RECORDING)
    sources = [open_source(tmp_path / "in", fs=100)]
    shutil.copy(muse, tmp_path / "in" / "ptbxl" / "more.xml")
    sources.append(open_source(tmp_path / "in" / "ptbxl", fs=100))
    write_wfdb(tmp_path / "in" / "site", RECORDING, "00001")
    sources.append(open_source(tmp_path / "in", fs=100))
    ids = {file.stem[:5] for file in DATA.rglob("*_lr.hea")}
    others = [["muse"], ["more"], ["muse", "more", "site/00001"]]
    for source, more in zip(sources, others, strict=True):
        assert {ref.record_id for ref in source.refs()} == {*ids, *more}
        by_id = {ref.record_id: ref for ref in source.refs()}
        assert all(source.read(by_id[name])[1].fold for name in ids)
        assert all(source.read(by_id[name])[0].samples for name in more)
    write_wfdb(tmp_path / "in" / "ptbxl" / "others", RECORDING, "x")
    remarks = open_source(tmp_path / "in" / "ptbxl", fs=100).remarks
    assert any("1 headers are in no folder that" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("time", "date"),
    [
        ("10:35:17 02/03/2019", "2019-03-02T10:35:17"),
        ("9:05:17.250 2/3/2019", "2019-03-02T09:05:17"),
        ("05-May-2020 09:49:17", None),  # of the Challenge: when the file was made
        ("10:35:17", None),
        ("25:00:00 02/03/2019", None),
        ("10:35:17 31/02/2019", None),
    ],
)
def test_when_a_wfdb_record_began_is_lost(tmp_path: Path, time: str, date: str | None) -> None:
    header = write_wfdb(tmp_path, RECORDING, "a")
    first, *lines = header.read_text().splitlines()
    header.write_text("\n".join([f"{first} {time}", *lines]))
    assert read_recording(header).metadata.get("recording_date") == date
    ((_, together),) = WfdbFolder(tmp_path).read_together(WfdbFolder(tmp_path).refs())
    assert together.metadata.get("recording_date") == date


def test_an_archive_beside_records_is_left_out_unsaid(tmp_path: Path) -> None:
    (tmp_path / "more.tar.xz").write_bytes(b"")
    with pytest.raises(LatentcastError, match=r"name one file, .*more\.tar\.xz"):
        open_source(tmp_path)
    with pytest.raises(LatentcastError, match="unpack it"):
        open_source(tmp_path / "more.tar.xz")
    write_wfdb(tmp_path, RECORDING, "a")
    assert "more.tar.xz" in open_source(tmp_path).remarks[0]


def test_records_in_a_linked_folder_are_read(tmp_path: Path) -> None:
    for place in ("here", "there/deep", "far"):
        write_wfdb(tmp_path / place, RECORDING, place[:2])
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "further").symlink_to(tmp_path / "far")
    (tmp_path / "here" / "round").symlink_to(tmp_path)
    source = open_source(tmp_path / "here")
    assert [ref.file for ref in source.refs()] == ["he.hea", "link/deep/th.hea"]
    assert "link/further" in source.remarks[0]
    assert source.read(source.refs()[1])[0].samples == RECORDING.samples
