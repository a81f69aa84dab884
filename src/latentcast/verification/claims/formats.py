"""Every reader, and every format that it reads: the same millivolts, to the last digit."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.formats import open_source
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.signals.readers import read_recording
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.files import write_edf, write_ishne
from latentcast.verification.observe.formats import (
    ARRAYS,
    ORDER,
    ptbxl_rows,
    ptbxl_signals,
    write_array,
    write_formats,
    write_packed,
    write_ptbxl,
)
from latentcast.verification.observe.recordings import (
    HALF_A_COUNT,
    TWELVE,
    apart,
    has_twelve_leads,
    millivolts_of,
    recordings,
)
from latentcast.verification.observe.twin import Twin

READ = 2e-6
"""mV that a few roundings of float32 may take from a few mV."""

NEEDS = has_twelve_leads


def _ingested(twin: Twin, source: Path, **options: Any) -> Store | None:
    """None where every record was refused: that is a finding, and not the end of the probe."""
    try:
        return recordings(twin).ingested(source, **options)
    except LatentcastError:
        return None


@claim("data.formats", "Every storage format of WFDB, segments and the Challenge's matrices give "
       "the same millivolts: counts less their zero over their gain, in their unit, lead by lead.",
       source="WFDB, signal(5) and header(5); PhysioNet Challenge 2020")  # fmt: skip
def formats(twin: Twin) -> Evidence:
    """Read alone, and ingested."""
    fixtures, parts = recordings(twin), list[Evidence]()
    folder = fixtures.folder / "formats"
    records = write_formats(folder, fixtures.rate)
    store = _ingested(twin, folder)
    for name, record in records.items():
        alone = read_recording(record.file)
        gap = apart(millivolts_of(store, name), record.signal) / fixtures.scale
        signal = alone.signal[[alone.leads.index(lead) for lead in TWELVE]].astype(np.float64)
        parts += [
            at_most(f"{name}: read, mV", apart(signal, record.signal), READ),
            at_most(f"{name}: stored, counts", gap, HALF_A_COUNT),
        ]
    return all_of(*parts)


@claim("data.devices", "So do files of devices: an EDF by the ranges of its signals, an ISHNE by "
       "the resolution of each lead.",
       source="Kemp et al. 1992 (EDF); Badilini et al. 1998 (ISHNE)")  # fmt: skip
def devices(twin: Twin) -> Evidence:
    fixtures, parts = recordings(twin), list[Evidence]()
    folder = fixtures.folder / "single-files"
    folder.mkdir(parents=True)
    rate = float(round(fixtures.rate))
    for name, write in (("device.edf", write_edf), ("device.ecg", write_ishne)):
        record = write(folder / name, rate, twin.seed + 60)
        read = read_recording(record.file)
        signal = read.signal[[read.leads.index(lead) for lead in TWELVE]].astype(np.float64)
        parts += [
            at_most(f"{name}: mV", apart(signal, record.signal), READ),
            equal(f"{name}: Hz", read.sampling_rate, rate),
        ]
    return all_of(*parts)


@claim("data.arrays", "An array gives the same millivolts in whatever unit, layout and type of "
       "numbers it holds them.",
       source="our design, law 4: physical until the last moment")  # fmt: skip
def arrays(twin: Twin) -> Evidence:
    fixtures = recordings(twin)
    folder = fixtures.folder / "arrays"
    folder.mkdir(parents=True)
    layouts, parts = ("records,leads,samples", "records,samples,leads"), list[Evidence]()
    for n, (kind, layout) in enumerate(product(ARRAYS, layouts)):
        unit = kind[0]
        file = folder / f"array-{n}{('.npy', '.npz')[n % 2]}"
        signals = write_array(file, fixtures.rate, kind, layout, ORDER)
        source = open_source(
            file, sampling_rate=fixtures.rate, leads=ORDER, unit=unit, layout=layout
        )
        gaps = []
        for ref, signal in zip(source.refs(), signals, strict=True):
            read, _ = source.read(ref)
            rows = [read.leads.index(lead) for lead in TWELVE]
            gaps.append(apart(read.signal[rows].astype(np.float64), signal))
        parts.append(at_most(f"{unit}, {kind[2]}, {layout}: mV", greatest(*gaps), READ))
        if kind[2] == "i2":
            store = _ingested(
                twin, file, sampling_rate=fixtures.rate, leads=ORDER, unit=unit, layout=layout
            )
            stored = np.stack([millivolts_of(store, ref.record_id) for ref in source.refs()])
            gap = apart(stored, signals) / fixtures.scale
            parts.append(at_most(f"{unit}, {layout}: stored, counts", gap, HALF_A_COUNT))
    return all_of(*parts)


def _as_written(
    twin: Twin, form: str, write: Callable[[Path, float, npt.NDArray[np.int16]], None]
) -> Evidence:
    """Signals and annotations of PTB-XL's records, whatever they were stored as."""
    fixtures, rows = recordings(twin), ptbxl_rows()
    signals = ptbxl_signals(fixtures.rate, max(round(fixtures.rate), 60))
    write(fixtures.folder / form, fixtures.rate, signals)
    store = _ingested(twin, fixtures.folder / form)
    ids = [f"{int(row['ecg_id']):05d}" for row in rows]
    stored = [] if store is None else sorted(store.record_ids.tolist())
    if store is None or stored != ids:
        return all_of(equal("records", " ".join(stored), " ".join(ids)))
    gaps = [
        apart(millivolts_of(store, name), counts / 1000.0)
        for name, counts in zip(ids, signals, strict=True)
    ]
    places = [store.row_of(name) for name in ids]
    patients = [str(int(float(row["patient_id"]))) for row in rows]
    wrong = 0
    for code in ("NORM", "IMI", "SR"):
        present = [code in ast.literal_eval(row["scp_codes"]) for row in rows]
        wrong += int((store.labels.indicator([code])[places, 0] != np.array(present)).sum())
    return all_of(
        at_most("largest difference, counts", greatest(*gaps) / fixtures.scale, HALF_A_COUNT),
        true("patients", store.patient_ids[places].tolist() == patients),
        true("folds", store.folds[places].tolist() == [int(row["strat_fold"]) for row in rows]),
        equal("codes that differ", wrong, 0),
        records=len(ids),
    )


@claim("data.ptbxl", "PTB-XL's own folder gives the millivolts of its records with their "
       "patients, folds and codes.",
       source="Strodthoff et al. 2021: PTB-XL, its folds and labels")  # fmt: skip
def ptbxl(twin: Twin) -> Evidence:
    return _as_written(twin, "ptbxl", write_ptbxl)


@claim("data.packed", "So does its packed form, written from the description of its planes and "
       "not by our encoder.",
       source="our design: the bundled recordings")  # fmt: skip
def packed(twin: Twin) -> Evidence:
    return _as_written(twin, "packed", write_packed)
