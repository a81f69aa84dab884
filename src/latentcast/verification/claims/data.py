"""From files to what an encoder sees: recordings of which every sample is known, held against it.

Images are in :mod:`latentcast.verification.claims.pixels`.
"""

from __future__ import annotations

import ast
import csv
import shutil
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from latentcast.data.manifest import QUARANTINE
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import leaks
from latentcast.evaluation.tasks import task
from latentcast.runs.new import open_run
from latentcast.signals.readers import read_recording
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.claims import batches, pixels
from latentcast.verification.claims.batches import normalised_by
from latentcast.verification.observe.data import (
    TWELVE,
    Floats,
    apart,
    beats,
    is_ecg,
    recordings,
    wave,
)
from latentcast.verification.observe.network import within
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 4: physical until the last moment"
PTBXL = "Strodthoff et al. 2021: PTB-XL, its folds and labels"
ROUNDING = 1.0 + 1e-3
"""Of half a count: float32 of a few mV is off by less than a thousandth of a count."""
Ints = npt.NDArray[np.int64]


# What a file says, in millivolts


def _units(subject: Subject) -> Evidence:
    """Read alone, and ingested: the record's R wave over what it is."""
    held, told, worst = recordings(subject), dict[str, Number](), 0.0
    half = held.scale / 2 * ROUNDING
    for name in ("millivolts", "microvolts", "volts"):
        truth = held.devices[name]
        read = read_recording(truth.file).signal.astype(np.float64)
        told[f"{name}: read, of what it is"] = float(np.abs(read).max() / abs(truth.signal).max())
        stored = held.stored(name)
        if not stored.size:
            told[f"{name}: stored"] = "in quarantine"
        worst = max(worst, apart(stored, truth.signal), apart(read, truth.signal) - 1e-6)
    told |= {"largest difference, mV": worst, "bound": half}
    return Evidence(worst <= half, told)


def _calibrated(subject: Subject) -> Evidence:
    """Counts per mV other than 1000, and a zero that is not 0."""
    held, told, worst = recordings(subject), dict[str, Number](), 0.0
    for name in ("coarse", "baseline"):
        truth, stored = held.devices[name].signal, held.stored(name)
        told[f"{name}: mean, mV"] = float(stored.mean()) if stored.size else "in quarantine"
        told[f"{name}: should be"] = float(truth.mean())
        worst = max(worst, apart(stored, truth))
    bound = held.scale / 2 * ROUNDING
    return Evidence(worst <= bound, told | {"largest difference, mV": worst, "bound": bound})


def _cohort_counts(subject: Subject, rows: Ints) -> Floats:
    store = recordings(subject).cohort.store
    taken = store.take(rows, np.zeros(len(rows), np.int64)).transpose(0, 2, 1)
    return np.asarray(taken.astype(np.float64))


def _in_place(subject: Subject, leads: tuple[str, ...]) -> tuple[float, list[str]]:
    """The largest difference of these leads from theirs, and which are nearer to another one."""
    held = recordings(subject)
    pairs = [
        (held.stored(name), held.devices[name].signal)
        for name in ("shuffled", "avf-before-avl", "eight-leads")
    ]
    cohort = held.cohort
    pairs.append((_cohort_counts(subject, np.array([4]))[0] * held.scale, cohort.signals[4]))
    worst, wrong = 0.0, list[str]()
    for stored, truth in pairs:
        for lead in leads:
            row = TWELVE.index(lead)
            if stored.shape != truth.shape:
                return float("inf"), ["in quarantine"]
            worst = max(worst, apart(stored[row], truth[row]))
            found = TWELVE[int(np.abs(truth - stored[row]).mean(1).argmin())]
            if found != lead:
                wrong.append(f"{lead} holds {found}")
    return worst, wrong


def _order(subject: Subject) -> Evidence:
    held = recordings(subject)
    worst, wrong = _in_place(subject, TWELVE)
    bound = 2 * held.scale * ROUNDING  # a lead made of two rounded ones
    told: dict[str, Number] = {
        "leads of the store": " ".join(held.device_store.leads),
        "wrong": ", ".join(wrong[:4]) or "none", "largest difference, mV": worst, "bound": bound,
    }  # fmt: skip
    same = held.device_store.leads == held.cohort.store.leads == TWELVE
    return Evidence(same and not wrong and worst <= bound, told)


def _swapped(subject: Subject) -> Evidence:
    worst, wrong = _in_place(subject, ("aVL", "aVF"))
    bound = 2 * recordings(subject).scale * ROUNDING
    told: dict[str, Number] = {
        "wrong": ", ".join(wrong) or "none", "largest difference, mV": worst, "bound": bound,
    }  # fmt: skip
    return Evidence(not wrong and worst <= bound, told)


def _derived(subject: Subject) -> Evidence:
    held = recordings(subject)
    truth, stored = held.devices["eight-leads"].signal, held.stored("eight-leads")
    if stored.shape != truth.shape:
        return Evidence(False, {"a record with I, II and V1 to V6": "in quarantine"})
    bound = 2 * held.scale * ROUNDING
    return within({
        f"{lead}, mV": (apart(stored[TWELVE.index(lead)], truth[TWELVE.index(lead)]), bound)
        for lead in ("III", "aVR", "aVL", "aVF")
    })  # fmt: skip


# Time


def peaks(signal: Floats, rate: float) -> Floats:
    """Seconds of the R waves: the top of each stretch above half of the highest one."""
    above = np.concatenate([[0], (signal > signal.max() / 2).astype(int), [0]])
    begins, ends = np.flatnonzero(np.diff(above) > 0), np.flatnonzero(np.diff(above) < 0)
    tops = [b + int(signal[b:e].argmax()) for b, e in zip(begins, ends, strict=True)]
    return np.array(tops) / rate


def _rhythm(subject: Subject) -> Evidence:
    held = recordings(subject)
    told, holds = dict[str, Number](), True
    for name, bpm in (("millivolts", 72.0), ("faster", 97.0)):
        if name not in held.devices:
            continue
        stored = held.stored(name)
        if not stored.size:
            return Evidence(False, {name: "in quarantine"})
        found = peaks(stored[1], held.device_store.sampling_rate)
        seconds = stored.shape[1] / held.device_store.sampling_rate
        known = beats(bpm, 0.0, seconds - 0.05)
        rate = float(60 * (len(found) - 1) / np.ptp(found)) if len(found) > 1 else float("nan")
        off = float(abs(found - known).max()) if len(found) == len(known) else float("inf")
        told |= {f"{name}: beats a minute": rate, f"{name}: written with": bpm,
                 f"{name}: R waves off by, s": off}  # fmt: skip
        holds = holds and abs(rate - bpm) <= 1.0 and off <= 1.01 / held.rate
    return Evidence(holds, told | {"bound, a minute": 1.0, "bound, s": 1.01 / held.rate})


def _resampled(subject: Subject) -> Evidence:
    """Against the formula at the new rate, away from the ends, where the filter sees half."""
    held = recordings(subject)
    stored, seed = held.stored("faster"), 10 + len("faster")
    truth = wave(held.rate, round(held.devices["faster"].signal.shape[1] / 2.5), seed, 97.0)
    if stored.shape != truth.shape:
        told: dict[str, Number] = {"samples": stored.shape[1], "should be": truth.shape[1]}
        return Evidence(False, told)
    edge = truth.shape[1] // 20
    worst = apart(stored[:, edge:-edge], truth[:, edge:-edge])
    return within({"largest difference, mV": (worst, 0.03)}, samples=stored.shape[1])


def _alias(subject: Subject) -> Evidence:
    held = recordings(subject)
    name, rate = "humming", held.rate
    stored, row = held.stored(name), TWELVE.index("V1")
    samples = round(held.devices[name].signal.shape[1] / 2.5)
    if stored.shape[1] != samples:
        return Evidence(False, {"samples": stored.shape[1], "should be": samples})
    rest = stored[row] - wave(rate, samples, 10 + len(name), 97.0)[row]
    time = np.arange(samples) / rate
    mirrored = abs((rest * np.exp(-2j * np.pi * 0.2 * rate * time)).mean()) * 2
    return within(
        {"amplitude at its mirror image, mV": (float(mirrored), 0.01)},
        written=f"0.3 mV at {0.8 * rate:g} Hz",
    )


def _round_trip(subject: Subject) -> Evidence:
    cohort = recordings(subject).cohort
    scale = recordings(subject).scale
    rows = np.arange(len(cohort.signals))
    stored = _cohort_counts(subject, rows)
    gap = np.abs(stored * scale - cohort.signals)[cohort.valid]
    back = cohort.store.recording(6).signal.astype(np.float64)
    worst = max(float(gap.max()), apart(back, cohort.signals[6]))
    told: dict[str, Number] = {
        "records": len(rows), "samples": int(cohort.valid.sum()),
        "largest difference, counts": worst / scale, "bound": 0.5 * ROUNDING,
        "mean difference, counts": float(gap.mean() / scale),
    }  # fmt: skip
    return Evidence(worst / scale <= 0.5 * ROUNDING, told)


# Labels, patients, splits


def _labels(subject: Subject) -> Evidence:
    """Likelihood 0.0 is "not told" in PTB-XL, and what nearly every rhythm statement carries."""
    cohort = recordings(subject).cohort
    store, told = cohort.store, dict[str, Number]()
    said = [set(ast.literal_eval(row["scp_codes"])) for row in cohort.rows]
    holds = True
    for code in ("NORM", "IMI", "LVH", "SR"):
        known = np.array([code in codes for codes in said])
        found = store.labels.indicator([code])[:, 0] if code in store.labels.codes else ~known
        told[f"{code}: records"] = int(found.sum()) if code in store.labels.codes else 0
        told[f"{code}: should be"] = int(known.sum())
        holds = holds and bool((found == known).all())
    targets = task("superdiagnostic", store).targets(store)
    kept, classes = (
        targets.mask,
        dict(zip(targets.names, targets.values.sum(0).tolist(), strict=True)),
    )
    wanted = {"NORM": 20, "MI": 20, "HYP": 20, "CD": 0, "STTC": 0}
    told |= {"superclasses": str(classes), "records of the task": int(kept.sum())}
    return Evidence(holds and classes == wanted and int(kept.sum()) == 40, told)


def _patients(subject: Subject) -> Evidence:
    """By the source's folds and, where it has none, by the library's own."""
    held, crossing = recordings(subject), list[str]()
    for cohort in (held.cohort, held.unfolded):
        store, homes = cohort.store, dict[str, set[str]]()
        for split in ("train", "validation", "test"):
            for row in store.rows(split).tolist():
                homes.setdefault(cohort.rows[row]["patient_id"], set()).add(split)
        crossing += [patient for patient, splits in homes.items() if len(splits) > 1]
        unsaid = int((store.patient_ids == "").sum())
        crossing += ["a patient that was named and is not stored"] * bool(unsaid)
    told: dict[str, Number] = {"patients": 28, "in two splits": ", ".join(crossing) or "none"}
    return Evidence(not crossing, told)


def _folds(subject: Subject) -> Evidence:
    cohort = recordings(subject).cohort
    said = np.array([int(row["strat_fold"]) for row in cohort.rows])
    wrong = int((said != cohort.store.folds).sum())
    return Evidence(not wrong, {"records": len(said), "in another fold than the table's": wrong})


def _splits(subject: Subject) -> Evidence:
    held = recordings(subject)
    told, holds = dict[str, Number](), True
    for name, store in (("cohort", held.cohort.store), ("unfolded", held.unfolded.store)):
        parts = [store.rows(split).tolist() for split in ("train", "validation", "test")]
        every = sorted(row for part in parts for row in part)
        told[f"{name}: train, validation, test"] = " ".join(str(len(part)) for part in parts)
        told[f"{name}: records"] = len(store)
        holds = holds and every == list(range(40)) and len(store) == 40
    folds = held.cohort.store.folds
    right = np.where(folds <= 8, 0, folds - 8)
    for n, split in enumerate(("train", "validation", "test")):
        holds = holds and np.array_equal(held.cohort.store.rows(split), np.flatnonzero(right == n))
    return Evidence(holds, told)


def _quarantine(subject: Subject) -> Evidence:
    held = recordings(subject)
    store = held.device_store
    with (store.path / QUARANTINE).open(newline="") as table:
        reasons = {row["record"]: row["reason"] for row in csv.DictReader(table)}
    lost = sorted(set(held.devices) - set(store.record_ids.tolist()))
    let_in = sorted(set(store.record_ids.tolist()) & set(held.bad))
    unnamed = [name for name, why in held.bad.items() if why not in reasons.get(name, "")]
    told: dict[str, Number] = {
        "good": len(held.devices), "lost": ", ".join(lost) or "none", "bad": len(held.bad),
        "let in": ", ".join(let_in) or "none", "without their reason": ", ".join(unnamed) or "none",
    }  # fmt: skip
    return Evidence(not lost and not let_in and not unnamed, told)


def _leaks(subject: Subject) -> Evidence:
    """A copy under another name, and a patient in two splits; and silence where there is none."""
    held = recordings(subject)
    found = {f.kind: f for f in leaks.check(held.leaking.store, held.cohort.store)}
    copy = found.get("test recording in pretraining")
    patient = found.get("patient in two splits")
    quiet = leaks.check(held.cohort.store, held.clock)
    told: dict[str, Number] = {
        "copies": "none" if copy is None else ", ".join(copy.examples), "should be": "other-3",
        "patients in two splits": "none" if patient is None else ", ".join(patient.examples),
        "a should be": "a", "said of clean stores": len(quiet),
    }  # fmt: skip
    errors = copy is not None and patient is not None and copy.severity == patient.severity
    right = errors and copy is not None and patient is not None and copy.severity == "error"
    if not right or copy is None or patient is None:
        return Evidence(False, told)
    exact = copy.examples == ("other-3",) and patient.examples == ("a",)
    return Evidence(exact and not quiet, told)


def _damaged(subject: Subject) -> Evidence:
    """A bit of a shard turned: a run that would begin on it does not."""
    held = recordings(subject)
    folder = subject.folder / "damaged store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(held.clock.path, folder)
    shard = folder / held.clock.manifest.shards[0].file
    raw = bytearray(shard.read_bytes())
    raw[-1001] ^= 1
    shard.write_bytes(raw)
    store = Store.open(folder)
    try:
        open_run(subject.folder / "damaged run", normalised_by(subject, store), store)
    except LatentcastError as problem:
        return Evidence(shard.name in str(problem), {"said": str(problem)[-120:]})
    return Evidence(False, {"said": "nothing"})


def _resamples(subject: Subject) -> bool:
    return is_ecg(subject) and find_spec("scipy") is not None


CLAIMS: tuple[Claim, ...] = (
    Claim("data.units", "A recording written in mV, uV or V comes out in the same millivolts.",
          "specification 6, pain 9: voltage units", _units, is_ecg),
    Claim("data.calibration", "Counts become millivolts by the gain and zero of their header.",
          "WFDB, header(5)", _calibrated, is_ecg),
    Claim("data.lead-order", "Leads are found by name: whatever order a file has them in, they "
          "come out I II III aVR aVL aVF V1 to V6.", "specification, defect 8: no lead names",
          _order, is_ecg),
    Claim("data.avl-avf", "aVL and aVF are what they say, also of a source that writes aVF first.",
          "specification, defect 8: MIMIC-IV-ECG against PTB-XL", _swapped, is_ecg),
    Claim("data.derived-leads", "Limb leads that a file lacks are computed from I and II.",
          "Einthoven 1912; Goldberger 1942", _derived, is_ecg),
    Claim("data.rhythm", "A rhythm of known rate keeps it, and its R waves their time, through "
          "resampling and store.", OURS, _rhythm, is_ecg),
    Claim("data.resampled", "A resampled recording is the same wave at the new rate.", OURS,
          _resampled, _resamples),
    Claim("data.anti-alias", "What the new rate cannot hold does not come back as something else.",
          OURS, _alias, _resamples),
    Claim("data.round-trip", "What the store gives back is what was read, within half a count.",
          OURS, _round_trip, is_ecg),
    Claim("data.labels", "A label is there when its code is, whatever likelihood it carries.",
          "specification, defect 5: rhythm labels deleted", _labels, is_ecg),
    Claim("data.patients", "No patient is in two splits.", "specification, defect 15", _patients,
          is_ecg),
    Claim("data.folds", "Folds that a source gives are kept.", PTBXL, _folds, is_ecg),
    Claim("data.splits", "Train, validation and test share no record and leave none out: folds 1 "
          "to 8, 9, 10.", PTBXL, _splits, is_ecg),
    Claim("data.quarantine", "A record that cannot be used is left out by name and reason, and "
          "costs no other record.", "our design, law 6: nothing fails quietly", _quarantine,
          is_ecg),
    Claim("data.leaks", "A test recording that was pretrained on is found, under another name "
          "too, and so is a patient in two splits.", "specification, defect 15", _leaks, is_ecg),
    Claim("data.checksums", "A run does not begin on a store that is damaged.",
          "our design, law 6: nothing fails quietly", _damaged, is_ecg),
    *batches.CLAIMS,
    *pixels.CLAIMS,
)  # fmt: skip
