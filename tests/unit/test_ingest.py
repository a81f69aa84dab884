"""Ingest loses nothing, guesses nothing, and gives the same bytes however it is run."""

from __future__ import annotations

import csv
import json
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecg_files import (
    BUNDLED,
    DATA,
    contents,
    header_lines,
    to_counts,
    write_challenge,
    write_some,
    write_wfdb,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import Command
from latentcast.data import ingest as module
from latentcast.data.arrays import write_store
from latentcast.data.codecs.counts import CountsTarget
from latentcast.data.convert import Converter
from latentcast.data.folds import Folds, stable_fold
from latentcast.data.ingest import IngestResult, ingest
from latentcast.data.inspect import describe
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers.wfdb_folder import WfdbFolder
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.synthetic import synthetic_recording


def quarantine(store: Path) -> dict[str, str]:
    with (store / "quarantine.csv").open(newline="") as file:
        return {row["record"]: row["reason"] for row in csv.DictReader(file)}


def microvolts(recording: Recording) -> np.ndarray:
    return to_counts(recording)


def test_the_store_holds_every_sample_of_every_record(tmp_path: Path) -> None:
    recordings = write_some(tmp_path / "in", 5)
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    assert store.record_ids.tolist() == [f"r{i:03d}" for i in range(5)]
    assert store.leads == CANONICAL_LEADS and store.sampling_rate == 500
    for i, recording in enumerate(recordings):
        assert np.array_equal(store.take([i])[0], microvolts(recording))
        again = store.recording(i)
        assert np.allclose(again.signal, recording.signal, atol=6e-4) and again.valid.all()
    store.verify()
    assert quarantine(tmp_path / "out") == {}


def test_a_source_with_avf_before_avl_and_upper_case_names_is_stored_in_canonical_order(
    tmp_path: Path,
) -> None:
    """NEPA defect 8: MIMIC-IV stores aVF before aVL, and names were nowhere."""
    recording = synthetic_recording()
    order = [0, 1, 2, 3, 5, 4, *range(6, 12)]
    disk = replace(
        recording,
        signal=recording.signal[order],
        leads=tuple(CANONICAL_LEADS[i].upper() for i in order),
    )
    write_wfdb(tmp_path / "in", disk, "mimic")
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    assert np.array_equal(store.take([0])[0], microvolts(recording))
    assert "quality_findings" not in store.metadata(0)


def test_a_channel_swap_that_names_hide_is_reported_and_the_record_kept(tmp_path: Path) -> None:
    recording = synthetic_recording()
    names = list(CANONICAL_LEADS)
    names[4], names[5] = names[5], names[4]
    write_wfdb(tmp_path / "in", recording, "a", leads=names)
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    (finding,) = store.metadata(0)["quality_findings"]
    assert finding["message"] == "aVL and aVF look swapped"


def test_bad_records_go_to_quarantine_with_the_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder, recording = tmp_path / "in", synthetic_recording(seed=99)
    write_some(folder, 3, 10)
    write_wfdb(folder, recording, "cut")
    (folder / "cut.dat").write_bytes((folder / "cut.dat").read_bytes()[:-1])
    write_wfdb(folder, recording, "gone")
    (folder / "gone.dat").unlink()
    write_wfdb(folder, replace(recording, signal=recording.signal * np.float32(np.nan)), "nan")
    flat = np.tile(np.arange(12, dtype=np.float32)[:, None], (1, 5000))
    write_wfdb(folder, replace(recording, signal=flat), "flat")
    eleven = replace(recording, signal=recording.signal[:11], valid=recording.valid[:11],
                     leads=CANONICAL_LEADS[:11])  # fmt: skip
    write_wfdb(folder, eleven, "eleven")
    write_wfdb(folder, synthetic_recording(sampling_rate=250), "slow")
    write_wfdb(folder, recording, "named", leads=(*CANONICAL_LEADS[:11], "V66"))
    write_wfdb(folder, synthetic_recording(50, 500, 10, seed=0), "twin")
    write_wfdb(folder, recording, "huge", gain="10/mV")
    (folder / "text.hea").write_text("no header at all\n")
    result = ingest(folder, tmp_path / "out", quiet=True)
    reasons = quarantine(tmp_path / "out")
    expected = {
        "cut": "is truncated, 119999 bytes of 120000",
        "gone": "'gone.dat' is missing",
        "nan": "all NaN",
        "flat": "no lead is valid",
        "eleven": "lacks lead V6",
        "slow": "sampling rate is 250 Hz, the store has 500",
        "named": "if 'V66' is V6, read it with --rename V66=V6",
        "twin": "same samples as r000",
        "huge": "more than any ECG has",
        "text": "no WFDB record line",
    }
    assert reasons.keys() == expected.keys()
    for record, reason in expected.items():
        assert reason in reasons[record]
    assert (result.records, result.quarantined) == (3, 10)
    assert result.store.record_ids.tolist() == ["r000", "r001", "r002"]


def test_eleven_leads_can_be_kept_with_the_missing_one_masked(tmp_path: Path) -> None:
    recording = synthetic_recording()
    eleven = replace(recording, signal=recording.signal[:11], valid=recording.valid[:11],
                     leads=CANONICAL_LEADS[:11])  # fmt: skip
    write_wfdb(tmp_path / "in", eleven, "a")
    store = ingest(tmp_path / "in", tmp_path / "out", missing_leads="mask", quiet=True).store
    samples = store.take([0])[0]
    assert (samples[:, 11] == INVALID).all()
    assert np.array_equal(samples[:, :11], microvolts(recording)[:, :11])
    assert store.manifest.statistics.mean[11] is None, "no number may stand for an unseen lead"


def test_nan_flat_and_saturated_stretches_are_masked_and_measured_values_kept(
    tmp_path: Path,
) -> None:
    signal = synthetic_recording().signal.copy()
    signal[0, 100:200] = np.nan
    signal[6] = 0.7
    signal[9, 2000:2200] = 9.0
    write_wfdb(tmp_path / "in", replace(synthetic_recording(), signal=signal), "a")
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    samples = store.take([0])[0]
    expected = np.zeros((5000, 12), bool)
    expected[100:200, 0] = expected[:, 6] = expected[2000:2200, 9] = True
    assert np.array_equal(samples == INVALID, expected)
    again = store.recording(0)
    assert np.array_equal(~again.valid.T, expected)
    assert np.allclose(again.signal[9, 2000:2200], 9.0) and np.allclose(again.signal[6], 0.7)
    assert np.isnan(again.signal[0, 100:200]).all()


def test_another_rate_is_resampled_only_when_asked(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "in", synthetic_recording(sampling_rate=250, noise=0, wander=0), "a")
    write_wfdb(tmp_path / "in", synthetic_recording(70, 500, seed=1), "b")
    store = ingest(tmp_path / "in", tmp_path / "out", fs=500, quiet=True).store
    assert len(store) == 2 and store.lengths.tolist() == [5000, 5000]
    assert store.metadata(0)["source_sampling_rate"] == 250
    reference = synthetic_recording(sampling_rate=500, noise=0, wander=0)
    error = store.recording(0).signal - reference.signal
    assert np.abs(error[:, 50:-50]).max() < 0.01
    with pytest.raises(LatentcastError, match="fs 500 there, not set here"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)


def test_statistics_are_of_all_valid_training_samples_and_of_nothing_else(tmp_path: Path) -> None:
    """NEPA defect 12: statistics came from the first 10,000 records in file order."""
    rng = np.random.default_rng(0)
    signals_ = rng.normal(0.3, 0.5, (60, 2, 400)).astype(np.float32)
    signals_[rng.random(signals_.shape) < 0.01] = np.nan
    signals_[5, 1] = 4.0
    folds = 1 + np.arange(60) % 10
    signals_[folds >= 9] += 7.0
    np.save(tmp_path / "a.npy", signals_)
    (tmp_path / "a.csv").write_text("fold\n" + "\n".join(map(str, folds)) + "\n")
    store = ingest(
        tmp_path / "a.npy", tmp_path / "out", sampling_rate=100, leads=["I", "V1"], unit="mV",
        layout="records,leads,samples", quiet=True,
    ).store  # fmt: skip
    train = signals_[folds < 9].astype(np.float64)
    train[np.flatnonzero(np.flatnonzero(folds < 9) == 5)[0], 1] = np.nan
    statistics = store.manifest.statistics
    assert statistics.records == 48
    assert statistics.samples == tuple((~np.isnan(train)).sum(axis=(0, 2)).tolist())
    assert np.allclose(statistics.mean, np.nanmean(train, axis=(0, 2)), atol=2e-5)
    assert np.allclose(statistics.std, np.nanstd(train, axis=(0, 2)), atol=2e-5)


def test_folds_come_from_the_patient_and_keep_one_patient_together(tmp_path: Path) -> None:
    """NEPA defect 15: splits by record put one patient on both sides."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.normal(size=(200, 1, 50)).astype(np.float32))
    patients = [f"p{i % 40}" for i in range(200)]
    (tmp_path / "a.csv").write_text("patient_id\n" + "\n".join(patients) + "\n")
    store = ingest(
        tmp_path / "a.npy", tmp_path / "out", sampling_rate=100, leads=["I"], unit="mV",
        layout="records,leads,samples", shortest=0, quiet=True,
    ).store  # fmt: skip
    by_patient: dict[str, set[int]] = {}
    for patient, fold in zip(store.patient_ids.tolist(), store.folds.tolist(), strict=True):
        by_patient.setdefault(patient, set()).add(fold)
    assert all(len(folds) == 1 for folds in by_patient.values()) and len(by_patient) == 40
    assert stable_fold("p7") == 8, "a fold must never move between versions"
    rows = np.sort(np.concatenate([store.rows(s) for s in ("train", "validation", "test")]))
    assert np.array_equal(rows, np.arange(200))


def test_ptbxl_files_give_labels_patients_folds_and_a_row_for_what_is_missing(
    tmp_path: Path,
) -> None:
    store = ingest(DATA, tmp_path / "out", fs=500, quiet=True).store
    assert store.record_ids.tolist() == [f"{i:05d}" for i in range(1, 6)]
    assert store.patient_ids[0] == "15709" and store.folds[0] == 3
    assert store.labels.of(0) == {"NORM": 100.0, "LVOLT": 0.0, "SR": 0.0}
    assert store.labels.indicator(["SR", "NORM"])[0].all()
    assert len(quarantine(tmp_path / "out")) == 15
    assert store.metadata(0)["device"] == "CS-12   E"


def test_challenge_files_are_ingested_with_their_codes(tmp_path: Path) -> None:
    for i, codes in enumerate(["426783006", "164889003,426783006"]):
        write_challenge(tmp_path / "in", synthetic_recording(seed=i), f"JS{i}", [f"Dx: {codes}"])
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    assert store.labels.codes == ("164889003", "426783006")
    assert store.labels.indicator(store.labels.codes).tolist() == [[False, True], [True, True]]


def test_the_carried_ecgs_are_ingested_as_they_are(tmp_path: Path) -> None:
    result = ingest(BUNDLED, tmp_path / "out", quiet=True)
    store = result.store
    assert (len(store), result.quarantined, store.patients) == (2980, 0, 2893)
    sizes = [len(store.rows(split)) for split in ("train", "validation", "test")]
    assert sizes == [2322, 330, 328]
    patients = [set(store.patient_ids[store.rows(s)]) for s in ("train", "validation", "test")]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    store.verify()


def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(LatentcastError, match="is not empty and holds no store"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_output_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(LatentcastError, match="cannot be written.*choose another --out"):
        ingest(tmp_path / "in", tmp_path / "file" / "out", quiet=True)


def test_a_disk_that_fills_up_is_a_clear_error_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch
) -> None:
    write_some(tmp_path / "in", 6, 1.0)
    add, calls = module.ShardWriter.add, []

    def full(self, record, position):
        calls.append(position)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        add(self, record, position)

    monkeypatch.setattr(module.ShardWriter, "add", full)
    with pytest.raises(LatentcastError, match="No space left.*it goes on"):
        ingest(tmp_path / "in", tmp_path / "out", shard_bytes=2 * 500 * 24, quiet=True)
    monkeypatch.undo()
    ingest(tmp_path / "in", tmp_path / "out", shard_bytes=2 * 500 * 24, quiet=True)
    ingest(tmp_path / "in", tmp_path / "uninterrupted", shard_bytes=2 * 500 * 24, quiet=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")


def test_nothing_to_ingest_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(LatentcastError, match="holds no records"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_when_every_record_is_bad_ingest_fails_and_a_fixed_source_works(tmp_path: Path) -> None:
    recordings = write_some(tmp_path / "in", 3)
    for path in (tmp_path / "in").glob("*.dat"):
        path.write_bytes(b"")
    with pytest.raises(LatentcastError, match=r"none of its 3 records.*r000\.dat: is truncated"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert len(quarantine(tmp_path / "out")) == 3
    for i, recording in enumerate(recordings):
        write_wfdb(tmp_path / "in", recording, f"r{i:03d}")
    assert ingest(tmp_path / "in", tmp_path / "out", quiet=True).records == 3


def test_amplitudes_beyond_a_microvolt_store_fit_a_coarser_scale(tmp_path: Path) -> None:
    big = replace(synthetic_recording(), signal=synthetic_recording().signal * np.float32(40))
    write_wfdb(tmp_path / "in", big, "a", gain="100/mV")
    counts = np.rint(big.signal.T * 100)
    (tmp_path / "in" / "a.dat").write_bytes(counts.astype("<i2").tobytes())
    lines = (tmp_path / "in" / "a.hea").read_text().splitlines()
    fixed = [lines[0]]
    for line, column in zip(lines[1:], counts.T.astype(np.int64), strict=True):
        words = line.split()
        words[5:7] = [str(column[0]), str(column.sum() % 65536)]
        fixed.append(" ".join(words))
    (tmp_path / "in" / "a.hea").write_text("\n".join(fixed))
    with pytest.raises(LatentcastError, match="coarser --scale"):
        ingest(tmp_path / "in", tmp_path / "fine", quiet=True)
    store = ingest(tmp_path / "in", tmp_path / "coarse", scale=0.01, quiet=True).store
    assert np.array_equal(store.take([0])[0], counts)
    assert np.allclose(store.recording(0).signal, counts.T / 100)


def test_microvolts_called_volts_or_the_reverse_are_refused(tmp_path: Path) -> None:
    microvolts_ = np.stack([to_counts(synthetic_recording(seed=i)).T for i in range(2)])
    np.save(tmp_path / "a.npy", microvolts_)
    array = {
        "sampling_rate": 500,
        "leads": CANONICAL_LEADS,
        "layout": "records,leads,samples",
        "quiet": True,
    }
    with pytest.raises(LatentcastError, match="more than any ECG has .* --unit uV"):
        ingest(tmp_path / "a.npy", tmp_path / "large", unit="mV", **array)
    with pytest.raises(LatentcastError, match="no lead spans more than.*check gain and unit"):
        ingest(tmp_path / "a.npy", tmp_path / "small", unit="nV", **array)
    store = ingest(tmp_path / "a.npy", tmp_path / "right", unit="uV", **array).store
    assert np.array_equal(store.take([0, 1]), microvolts_.transpose(0, 2, 1))


def test_an_error_nobody_foresaw_costs_one_record_and_is_named(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 3)

    class Source(WfdbFolder):
        def read(self, ref):
            if ref.record_id == "r001":
                raise ZeroDivisionError("division\nby zero" + " again" * 99)
            return super().read(ref)

    assert ingest(Source(tmp_path / "in"), tmp_path / "out", quiet=True).records == 2
    ((record, reason),) = quarantine(tmp_path / "out").items()
    assert record == "r001" and len(reason) <= 160
    assert reason.startswith("cannot be read (ZeroDivisionError: division by zero again")


class ReadAlone(WfdbFolder):
    def read(self, ref):
        return super().read(ref)


class CheckedAlone(CountsTarget):
    def _needs_no_change(self, sample: Recording) -> bool:
        return False


FAULTS = {
    "none": lambda x: x,
    "flat": lambda x: np.vstack([x[:150], np.repeat(x[150:151], 150, 0), x[300:]]),
    "one flat lead": lambda x: np.where(np.arange(12) == 4, 7, x),
    "just flat": lambda x: np.vstack([x[:150], np.repeat(x[150:151], 100, 0), x[250:]]),
    "not quite flat": lambda x: np.vstack([x[:150], np.repeat(x[150:151], 99, 0), x[249:]]),
    "rests": lambda x: np.repeat(x[::20], 20, 0),
    "clipped": lambda x: np.minimum(9 * x, [1500 * (lead + 1) for lead in range(12)]),
    "padded": lambda x: np.vstack([0 * x[:9], x[9:]]),
    "swapped": lambda x: x[:, [1, 0, *range(2, 12)]],
    "inverted": lambda x: np.where(np.arange(12) == 3, -x, x),
    "not measured": lambda x: np.where(np.arange(12) == 8, -32768, x),
    "normalised": lambda x: np.rint(1000 * (x - x.mean(0)) / x.std(0)),
    "reaches": lambda x: np.rint(1000 * (x - x.min(0)) / np.ptp(x, 0)),
    "faint": lambda x: np.arange(len(x))[:, None] % 5 + np.arange(12) % 2 - 2,
    "short": lambda x: x[:90],
}
EDITS = {
    "none": lambda header: header,
    "first value": lambda header: re.sub(r"(16 0 )(-?\d+)", r"\g<1>77", header, count=1),
    "checksum": lambda header: re.sub(r"\d+ 0 V6", "77 0 V6", header),
    "gain": lambda header: header.replace("1000.0(0)/mV", "500(3)/mV"),
    "huge gain": lambda header: header.replace("1000.0(0)/mV", "0.02(0)/uV"),
    "no gain": lambda header: header.replace("1000.0(0)/mV", "0", 1),
    "cut": lambda header: header.replace(" 400\n", " 401\n", 1),
    "other order": lambda header: header.replace(" II\n", " V9\n"),
    "a comment": lambda header: header + "# Age: 50\n#Dx: 426783006\n",
    "odd line ends": lambda header: header + "#Age: 40\x0bSex: F\x85#Dx: 1\r\n# Hx: é",
    "a time": lambda header: header.replace(" 400\n", " 400 11:54:00 25/06/2148\n", 1),
    "more digits": lambda header: header.replace(" 400\n", " 4000\n", 1),
    "other name": lambda header: re.sub("^r", "q", header, flags=re.M),
    "other file": lambda header: header.replace(".dat", ".dot"),
    "fillers": lambda header: re.sub(r"16 0 -?\d+ -?\d+", "16 0 0 0", header),
    "plus signs": lambda header: re.sub(r"16 0 (\d)", r"16 0 +\1", header),
    "no last line end": lambda header: header[:-1],
    "blanks": lambda header: header.replace(" 0 V", "  0   V"),
    "no signal line": lambda header: header.replace(" 16 ", " x ", 1),
}


@settings(max_examples=15)
@example([(fault, "none") for fault in FAULTS])
@example([("none", edit) for edit in EDITS])
@given(st.lists(st.tuples(st.sampled_from([*FAULTS]), st.sampled_from([*EDITS])), min_size=2))
def test_records_that_are_read_and_checked_together_are_judged_like_one_alone(kinds) -> None:
    with tempfile.TemporaryDirectory() as name:
        for n, (fault, edit) in enumerate(kinds):
            recording = synthetic_recording(50 + n, 100, 4, seed=n)
            counts = FAULTS[fault](to_counts(recording)).astype("<i2")
            text = header_lines(f"r{n:02d}", f"r{n:02d}.dat", counts, CANONICAL_LEADS, rate=100)
            Path(name, f"r{n:02d}.hea").write_text(EDITS[edit](text))
            counts.tofile(Path(name, f"r{n:02d}.dat"))
        results = []
        for source, target in ((WfdbFolder, CountsTarget), (ReadAlone, CheckedAlone)):
            opened = source(Path(name))
            goal = target(CANONICAL_LEADS, 100.0, 0.001, False, False, 1.0)
            results.append(Converter(opened, goal, Folds(opened.refs()))(opened.refs()))
    together, alone = results
    assert together == alone and len(alone) == len(kinds)


def test_an_array_at_another_rate_keeps_its_seconds(tmp_path: Path, command: Command) -> None:
    recordings = [synthetic_recording(60 + i, 500, 4, seed=i) for i in range(12)]
    for i, recording in enumerate(recordings):
        write_wfdb(tmp_path / "files", recording, f"a-{i:06d}")
    np.save(tmp_path / "a.npy", np.stack([microvolts(recording).T for recording in recordings]))
    files = ingest(tmp_path / "files", tmp_path / "of-files", fs=100, quiet=True).store
    path, leads = tmp_path / "a.npy", ",".join(CANONICAL_LEADS)
    axes = ("--unit", "uV", "--layout", "records,leads,samples", "--leads", leads)
    fast = (path, "--out", tmp_path / "fast", "--sampling-rate", 500)
    assert command("ingest", *fast, *axes).status == 0
    failed = command("train", "nepa-ecg-tiny", "--data", fast[2], "--out", tmp_path / "run")
    (advice,) = re.findall(r"re-ingest with (--fs \d+)\n", failed.err)
    alone = command("ingest", path, "--out", tmp_path / "alone", *advice.split(), *axes)
    assert alone.status == 2 and "its --sampling-rate;" in alone.err and "--fs is" in alone.err
    slow = command("ingest", path, "--out", tmp_path / "slow", *fast[3:], *advice.split(), *axes)
    assert slow.status == 0
    store = Store.open(tmp_path / "slow")
    assert store.lengths.tolist() == [400] * 12 == files.lengths.tolist()
    assert np.array_equal(store.take(range(12)), files.take(range(12)))
    options = Store.open(fast[2]).manifest.provenance["options"]
    assert options["fs"] == 500 and "sampling_rate" not in options, "recorded as before"


def test_eight_stored_leads_become_twelve_and_three_stay_three(tmp_path: Path) -> None:
    signal = synthetic_recording().signal
    for names in (("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), ("V2", "II", "V5")):
        rows = [CANONICAL_LEADS.index(name) for name in names]
        path = tmp_path / f"{len(names)}.npy"
        np.save(path, signal[None, rows])
        store = ingest(
            path, tmp_path / f"out{len(names)}", sampling_rate=500, leads=names, unit="mV",
            layout="records,leads,samples", quiet=True,
        ).store  # fmt: skip
        assert store.leads == (CANONICAL_LEADS if len(names) == 8 else ("II", "V2", "V5"))
        expected = signal[[CANONICAL_LEADS.index(name) for name in store.leads]]
        assert np.allclose(store.recording(0).signal, expected, atol=6e-4)


def test_some_leads_of_a_source_can_be_chosen(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "in", synthetic_recording(), "a")
    store = ingest(tmp_path / "in", tmp_path / "out", leads=["V5", "ii"], quiet=True).store
    assert store.leads == ("II", "V5")
    assert np.array_equal(store.take([0])[0], microvolts(synthetic_recording())[:, [1, 10]])


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, capfd) -> None:
    write_some(tmp_path / "in", 3)
    ingest(tmp_path / "in", tmp_path / "out")
    output = capfd.readouterr().err
    assert "ingest: 3/3 records" in output and "quarantined" in output and "\x1b" not in output


def test_the_manifest_is_a_function_of_source_and_options(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 2)
    ingest(tmp_path / "in", tmp_path / "a", quiet=True)
    time.sleep(1.1)
    ingest(tmp_path / "in", tmp_path / "b", quiet=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    text = (tmp_path / "a" / "manifest.json").read_text()
    assert json.loads(text)["provenance"]["kind"] == "wfdb" and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("factor", "options", "doubt"),
    [
        (1, {}, "in the split"),  # three patients are in no three splits
        (40, {"scale": 0.005}, "half of the records span .* mV or more, which no ECG does"),
        (1e-3, {"scale": 1e-6}, "half of the records span .* mV or less, which no ECG does"),
        (1, {"sampling_rate": 250, "fs": 500}, "recordings have a lower rate than --fs"),
    ],
)
def test_a_store_that_cannot_be_right_is_made_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], factor: float, options: dict, doubt: str
) -> None:
    signals = [factor * synthetic_recording(seed=i, seconds=4).signal for i in range(3)]
    about = {"sampling_rate": 500, "leads": CANONICAL_LEADS} | options
    store = write_store(tmp_path / "out", signals=signals, **about).store
    said = capfd.readouterr().err
    assert len(re.findall(doubt, said)) == 1 and "no record is in the split" in said
    records = describe(store).contents["records"]
    assert records.startswith("3, patients unknown, each record counts as one")
    for row in describe(store).channels[2]:
        assert all(float(value) for value in row[1:3]), "a number that is not 0 is shown as 0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"workers": 0}, "--workers 0: must be at least 1"),
     ({"workers": -3}, "--workers -3: must be at least 1"),
     ({"sampling_rate": 5}, "sampling rate of 5 Hz: is too low for an ECG")],
)  # fmt: skip
def test_an_option_that_cannot_be_meant_is_taken(
    tmp_path: Path, arguments: dict, words: str
) -> None:
    about = {"sampling_rate": 500, "leads": CANONICAL_LEADS} | arguments
    with pytest.raises(LatentcastError, match=words):
        write_store(tmp_path / "out", signals=[synthetic_recording().signal], **about)


def test_hours_of_a_million_records_are_not_by_the_rate_of_this_run(small_store: Path) -> None:
    store = Store.open(small_store)
    done = IngestResult(store, len(store), 0, seconds=2.0, read=200)
    size = sum((small_store / name).stat().st_size for name in store.files) / len(store)
    assert done.projection == (
        f"100 records/s; a million such records take 2.8 hours and {size / 1e3:.3g} GB"
    )
    assert replace(done, read=100).projection is None
