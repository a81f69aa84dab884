"""An encoder must see of a recording what the store holds of it, to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED, DATA, write_wfdb

from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.signals.counts import to_counts
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import INVALID, Recording, select_leads
from latentcast.signals.resample import resample
from latentcast.signals.synthetic import synthetic_recording
from latentcast.source import BadRecord

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def _some_nan(signal: np.ndarray) -> None:
    signal[0, 100:200] = np.nan
    signal[7, :] = np.nan


def _flat_lead(signal: np.ndarray) -> None:
    signal[6] = 0.7


def _saturated(signal: np.ndarray) -> None:
    signal[9, 2000:2200] = 9.0


def _swapped(signal: np.ndarray) -> None:
    signal[[4, 5]] = signal[[5, 4]]


@pytest.mark.parametrize("spoil", [_some_nan, _flat_lead, _saturated, _swapped])
@pytest.mark.parametrize("names", [CANONICAL_LEADS, EIGHT, CANONICAL_LEADS[::-1]])
def test_a_recording_given_to_an_encoder_differs_from_the_one_in_the_store(
    tmp_path: Path, spoil: Callable[[np.ndarray], None], names: tuple[str, ...]
) -> None:
    recording = synthetic_recording()
    signal = recording.signal.copy()
    spoil(signal)
    stored = replace(recording, signal=signal, valid=~np.isnan(signal))
    header = write_wfdb(tmp_path / "in", select_leads(stored, names, mask_missing=False), "a")
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    counts = to_counts(read_recording(header), store.leads, store.scale)
    assert counts.dtype == np.int16 and counts.flags.c_contiguous
    assert np.array_equal(counts, store.take([0])[0])
    assert (counts == INVALID).any() or spoil is _swapped or names == EIGHT


def test_a_masked_lead_differs_from_the_one_in_the_store(tmp_path: Path) -> None:
    eleven = select_leads(synthetic_recording(), CANONICAL_LEADS[:11], mask_missing=False)
    header = write_wfdb(tmp_path / "in", eleven, "a")
    store = ingest(tmp_path / "in", tmp_path / "out", missing_leads="mask", quiet=True).store
    counts = to_counts(read_recording(header), store.leads, store.scale, mask_missing=True)
    assert np.array_equal(counts, store.take([0])[0])
    with pytest.raises(BadRecord, match=r'a: lacks lead V6; .*missing_leads="mask"'):
        to_counts(read_recording(header), store.leads, store.scale)


@pytest.mark.parametrize("files", ["records100", "records500"])
@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_original_files_differ_from_the_store(tmp_path: Path, files: str, rate: float) -> None:
    folder = tmp_path / files  # without the table, which would choose the files of the rate
    shutil.copytree(DATA / files, folder)
    spoilt = replace(synthetic_recording(sampling_rate=500.0), record_id="clipped")
    spoilt.signal[9, 2000:2200] = 9.0
    write_wfdb(folder, spoilt, "clipped")
    store = ingest(folder, tmp_path / "out", fs=rate, workers=1, quiet=True).store
    assert len(store) == len(list(folder.rglob("*.hea")))
    for file in folder.rglob("*.hea"):
        recording = read_recording(file)
        stored = store.take([store.row_of(file.stem)])[0]
        counts = to_counts(recording, store.leads, store.scale, sampling_rate=rate)
        assert np.array_equal(counts, stored)
        again = to_counts(resample(recording, rate), store.leads, store.scale)
        assert np.array_equal(again, stored)


def test_the_carried_ecgs_differ_from_the_store(tmp_path: Path) -> None:
    source = open_source(BUNDLED)
    store = ingest(BUNDLED, tmp_path / "out", quiet=True).store
    # The first have clipped and flat stretches among them, and one part is decoded once only.
    rows = range(400)
    masked = 0
    for row, ref in zip(rows, source.refs(), strict=False):
        counts = to_counts(source.read(ref)[0], store.leads, store.scale)
        assert np.array_equal(counts, store.take([row])[0])
        masked += bool((counts == INVALID).any())
    assert masked > 0, "else the mask was not compared"
    _again_from_the_store(store, rows)


def _again_from_the_store(store: Store, rows: range) -> None:
    for row in rows:
        counts = to_counts(store.recording(row), store.leads, store.scale)
        assert np.array_equal(counts, store.take([row])[0])


@pytest.mark.parametrize(("factor", "reason"), [(60, "beyond ±32.767 mV"), (1e-3, "no lead spans")])
def test_an_amplitude_that_does_not_fit_is_clipped_or_rounded_away(
    factor: float, reason: str
) -> None:
    recording: Recording = synthetic_recording(record_id="r7")
    wrong = replace(recording, signal=recording.signal * np.float32(factor))
    with pytest.raises(BadRecord, match=f"r7: .*{reason}.*unit$"):
        to_counts(wrong, CANONICAL_LEADS, 0.001)


def test_the_callers_recording_is_changed() -> None:
    signal = synthetic_recording().signal.copy()
    _flat_lead(signal)
    recording = replace(synthetic_recording(), signal=signal)
    before = recording.signal.copy(), recording.valid.copy()
    to_counts(recording, CANONICAL_LEADS, 0.001)
    assert np.array_equal(recording.signal, before[0]) and np.array_equal(
        recording.valid, before[1]
    )
