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

from latentcast.config import Config
from latentcast.data.loader import CropLoader
from latentcast.data.manifest import QUARANTINE
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import leaks
from latentcast.evaluation.tasks import task
from latentcast.pretrain import fitted, open_run
from latentcast.signals.preprocess import EcgPreprocess
from latentcast.signals.readers import read_recording
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.claims import pixels
from latentcast.verification.known import TWELVE, Floats, beats, is_ecg, recordings, wave
from latentcast.verification.observing import within
from latentcast.verification.rehearsal import once
from latentcast.verification.subject import Subject

OURS = "our design, law 4: physical until the last moment"
PTBXL = "Strodthoff et al. 2021: PTB-XL, its folds and labels"
ROUNDING = 1.0 + 1e-3
"""Of half a count: float32 of a few mV is off by less than a thousandth of a count."""
Ints = npt.NDArray[np.int64]


def _config(subject: Subject, store: Store) -> Config:
    """The twin, normalised by another store."""
    changes = {"input.normalisation": None, "train.micro_batches": 1}
    return fitted(subject.config.updated(changes), store)


def _apart(a: Floats, b: Floats) -> float:
    """The largest difference; infinite where one is longer."""
    if a.shape != b.shape or not a.size:
        return float("inf")
    return float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())


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
        worst = max(worst, _apart(stored, truth.signal), _apart(read, truth.signal) - 1e-6)
    told |= {"largest difference, mV": worst, "bound": half}
    return Evidence(worst <= half, told)


def _calibrated(subject: Subject) -> Evidence:
    """Counts per mV other than 1000, and a zero that is not 0."""
    held, told, worst = recordings(subject), dict[str, Number](), 0.0
    for name in ("coarse", "baseline"):
        truth, stored = held.devices[name].signal, held.stored(name)
        told[f"{name}: mean, mV"] = float(stored.mean()) if stored.size else "in quarantine"
        told[f"{name}: should be"] = float(truth.mean())
        worst = max(worst, _apart(stored, truth))
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
            worst = max(worst, _apart(stored[row], truth[row]))
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


def _einthoven(subject: Subject) -> Evidence:
    """In batches as they travel, in counts; each identity adds up to three roundings."""
    store = recordings(subject).cohort.store
    config = _config(subject, store)
    loader = CropLoader(store, store.rows("train"), config)
    batches = [loader.batch(attempt).samples for attempt in range(6)]
    batches.append(subject.batch().samples)
    worst = dict.fromkeys(("III = II − I", "aVR = −(I + II) / 2", "aVL = I − II / 2",
                           "aVF = II − I / 2"), 0.0)  # fmt: skip
    for batch in batches:
        counts = batch.numpy().astype(np.float64)
        i, ii, iii, r, left, f = (counts[..., n] for n in range(6))
        valid = (counts[..., :6] > -32768).all(-1)
        gaps = (iii - (ii - i), r + (i + ii) / 2, left - (i - ii / 2), f - (ii - i / 2))
        for name, gap in zip(worst, gaps, strict=True):
            worst[name] = max(worst[name], float(np.abs(gap[valid]).max()))
    return within({f"{name}, counts": (gap, 1.5 * ROUNDING) for name, gap in worst.items()})


def _derived(subject: Subject) -> Evidence:
    held = recordings(subject)
    truth, stored = held.devices["eight-leads"].signal, held.stored("eight-leads")
    if stored.shape != truth.shape:
        return Evidence(False, {"a record with I, II and V1 to V6": "in quarantine"})
    bound = 2 * held.scale * ROUNDING
    return within({
        f"{lead}, mV": (_apart(stored[TWELVE.index(lead)], truth[TWELVE.index(lead)]), bound)
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
    worst = _apart(stored[:, edge:-edge], truth[:, edge:-edge])
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
    worst = max(float(gap.max()), _apart(back, cohort.signals[6]))
    told: dict[str, Number] = {
        "records": len(rows), "samples": int(cohort.valid.sum()),
        "largest difference, counts": worst / scale, "bound": 0.5 * ROUNDING,
        "mean difference, counts": float(gap.mean() / scale),
    }  # fmt: skip
    return Evidence(worst / scale <= 0.5 * ROUNDING, told)


# What was not measured


def _masked(subject: Subject) -> Evidence:
    """Gaps and an electrode that was off: after normalisation 0, and not valid."""
    cohort = recordings(subject).cohort
    rows = np.array([0, 2, 20])
    config = _config(subject, cohort.store)
    loader = CropLoader(cohort.store, rows, config)
    preprocess = EcgPreprocess(config.input)  # type: ignore[arg-type]
    largest, wrongly, unseen = 0.0, 0, 0
    for attempt in range(4):
        batch = loader.batch(attempt)
        taken, starts, length = loader.request(batch.ids.numpy())
        inputs = preprocess(batch.samples)
        assert inputs.valid is not None
        truth = np.stack([
            cohort.valid[row, :, start : start + length]
            for row, start in zip(taken, starts, strict=True)
        ])  # fmt: skip
        unseen += int((~truth).sum())
        values, valid = inputs.values.numpy(), inputs.valid.numpy()
        if values.shape != truth.shape:
            return Evidence(False, {"shape": str(values.shape), "should be": str(truth.shape)})
        largest = max(largest, float(np.abs(np.where(truth, 0, values)).max()))
        wrongly += int((valid != truth).sum())
    told: dict[str, Number] = {"samples not measured": unseen, "largest value there": largest,
                               "flags that are wrong": wrongly}  # fmt: skip
    return Evidence(unseen > 0 and largest == 0 and not wrongly, told)


def _padded(subject: Subject) -> Evidence:
    held = recordings(subject)
    store, config = held.device_store, _config(subject, held.device_store)
    loader = CropLoader(store, np.array([store.row_of("short")]), config)
    inputs = EcgPreprocess(config.input)(loader.batch(0).samples)  # type: ignore[arg-type]
    assert inputs.valid is not None
    end = held.devices["short"].signal.shape[1]
    values, valid = inputs.values, inputs.valid
    told: dict[str, Number] = {
        "samples of the record": end, "of the crop": values.shape[-1],
        "valid beyond its end": int(valid[..., end:].sum()),
        "not valid before it": int((~valid[..., :end]).sum()),
        "largest value beyond it": float(values[..., end:].abs().max()),
    }  # fmt: skip
    right = not valid[..., end:].any() and bool(valid[..., :end].all())
    return Evidence(right and not values[..., end:].any(), told)


# Crops


def _crops(subject: Subject) -> tuple[Floats, int]:
    """When each sample of ninety crops of two records was taken: ``(crops, length, leads)``."""

    def made() -> tuple[Floats, int]:
        held = recordings(subject)
        config = _config(subject, held.clock)
        loader = CropLoader(held.clock, held.clock.rows("train"), config)
        batches = [loader.batch(attempt).samples.numpy() for attempt in range(15)]
        return held.told(np.concatenate(batches)), int(held.clock.lengths[0])

    return once(subject, "known crops", made)


def _inside(subject: Subject) -> Evidence:
    told, length = _crops(subject)
    outside = int(np.isnan(told).sum())
    steps = np.diff(told[..., 0], axis=1)
    even = bool(np.all(steps == 1))
    return Evidence(
        outside == 0 and even and float(told.max()) < length,
        {"crops": len(told), "samples outside the record": outside, "one after the other": even,
         "last sample": float(np.nanmax(told)), "of": length},
    )  # fmt: skip


def _same_instant(subject: Subject) -> Evidence:
    told, _ = _crops(subject)
    apart = np.nan_to_num(told.max(-1) - told.min(-1), nan=0.0)
    return Evidence(
        not apart.any(), {"crops": len(told), "leads apart by, samples": float(apart.max())}
    )


def _elsewhere(subject: Subject) -> Evidence:
    told, length = _crops(subject)
    room = length - told.shape[1]
    starts = told[:, 0, 0] / room
    different = len(set(starts.tolist()))
    numbers: dict[str, Number] = {
        "crops of two records": len(starts), "different starts": different,
        "first": float(starts.min()), "last": float(starts.max()), "bounds": "0.25 and 0.75",
    }  # fmt: skip
    spread = starts.min() <= 0.25 and starts.max() >= 0.75
    return Evidence(different > len(starts) / 3 and bool(spread), numbers)


# Normalisation


def _naive(values: Floats, valid: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each lead over records and time, by the formula."""
    means, deviations = [], []
    for lead in range(values.shape[1]):
        held = values[:, lead][valid[:, lead]]
        mean = held.sum() / held.size
        means.append(mean)
        deviations.append(np.sqrt(((held - mean) ** 2).sum() / held.size))
    return np.array(means), np.array(deviations)


def _training_statistics(subject: Subject) -> tuple[Floats, Floats]:
    def made() -> tuple[Floats, Floats]:
        held = recordings(subject)
        rows = held.cohort.members(*range(1, 9))
        return _naive(held.cohort.counts()[rows] * held.scale, held.cohort.valid[rows])

    return once(subject, "known statistics", made)


def _statistics(subject: Subject) -> Evidence:
    held = recordings(subject)
    cohort, counts = held.cohort, held.cohort.counts() * held.scale
    mean, std = _training_statistics(subject)
    given = _config(subject, cohort.store).input.normalisation
    assert given is not None
    off = max(_apart(np.array(given.mean), mean), _apart(np.array(given.std), std))
    everyone = _naive(counts, cohort.valid)[1]
    own = cohort.members(*range(1, 9))
    with_gaps = _naive(np.nan_to_num(counts[own], nan=-32.768), np.ones_like(cohort.valid[own]))[1]
    alone = np.mean([_naive(counts[[r]], cohort.valid[[r]])[1] for r in own], axis=0)
    told: dict[str, Number] = {
        "records": len(own), "largest difference, mV": off, "bound": 1e-9,
        "std of lead II": given.std[1], "by the formula": float(std[1]),
        "with held-out records": float(everyone[1]), "with gaps": float(with_gaps[1]),
        "mean of each record's": float(alone[1]),
    }  # fmt: skip
    return Evidence(off <= 1e-9, told)


def _epoch(subject: Subject) -> tuple[Floats, Floats, float]:
    """An epoch of the cohort: what preprocessing gave, what it should give before clipping by the
    formula in float64, and the bound of float32."""
    return once(subject, "known epoch", lambda: _epoch_of(subject))


def _epoch_of(subject: Subject) -> tuple[Floats, Floats, float]:
    held = recordings(subject)
    cohort = held.cohort
    config = _config(subject, cohort.store)
    wanted = config.input
    loader = CropLoader(cohort.store, cohort.store.rows("train"), config)
    preprocess = EcgPreprocess(wanted)  # type: ignore[arg-type]
    mean, std = _training_statistics(subject)
    counts, given, expected = cohort.counts(), list[Floats](), list[Floats]()
    for attempt in range(-(-32 // config.train.batch_size)):
        batch = loader.batch(attempt)
        rows, starts, length = loader.request(batch.ids.numpy())
        given.append(preprocess(batch.samples).values.double().numpy())
        for row, start in zip(rows, starts, strict=True):
            window = slice(start, start + length)
            normal = (counts[row, :, window] * held.scale - mean[:, None]) / std[:, None]
            expected.append(np.where(cohort.valid[row, :, window], normal, 0.0))
    # A few roundings of float32, of the largest mV over the smallest deviation.
    bound = 4 * 2.0**-24 * float(np.abs(counts[cohort.valid]).max() * held.scale / std.min())
    return np.concatenate(given), np.stack(expected), bound


def _preprocessed(subject: Subject) -> Evidence:
    given, expected, bound = _epoch(subject)
    clip = getattr(subject.config.input, "clip", None)
    clipped = expected if clip is None else np.clip(expected, -clip, clip)
    return within(
        {"largest difference": (_apart(given, clipped), bound)},
        samples=len(given), largest=float(np.abs(given).max()), clip=str(clip),
    )  # fmt: skip


def _clipped(subject: Subject) -> Evidence:
    """Deviations, and not millivolts, are what the limit is in."""
    given, expected, bound = _epoch(subject)
    clip = float(getattr(subject.config.input, "clip", 0.0))
    beyond = int((np.abs(expected) > clip + bound).sum())
    at = int((np.abs(given) >= clip - bound).sum())
    near = int((np.abs(np.abs(expected) - clip) <= bound).sum())
    told: dict[str, Number] = {
        "values beyond the limit, by the formula": beyond, "values at the limit": at,
        "largest": float(np.abs(given).max()), "limit": clip,
        "largest before": float(np.abs(expected).max()),
    }  # fmt: skip
    holds = beyond > 0 and abs(at - beyond) <= near and float(np.abs(given).max()) <= clip
    return Evidence(holds, told)


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
    targets, kept = task("superdiagnostic").targets(store.labels)
    classes = dict(zip(task("superdiagnostic").classes, targets.sum(0).tolist(), strict=True))
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
        open_run(subject.folder / "damaged run", _config(subject, store), store)
    except LatentcastError as problem:
        return Evidence(shard.name in str(problem), {"said": str(problem)[-120:]})
    return Evidence(False, {"said": "nothing"})


def _resamples(subject: Subject) -> bool:
    return is_ecg(subject) and find_spec("scipy") is not None


def _crops_at_random(subject: Subject) -> bool:
    return is_ecg(subject) and subject.config.train.random_crop


def _clips(subject: Subject) -> bool:
    return is_ecg(subject) and getattr(subject.config.input, "clip", None) is not None


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
    Claim("data.einthoven", "In a batch the limb leads obey Einthoven and Goldberger, to the "
          "rounding of their counts.", "Einthoven 1912; Goldberger 1942", _einthoven, is_ecg),
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
    Claim("data.invalid", "What was not measured, and what is no signal, is 0 after normalisation "
          "and not valid; nothing else is.", "specification, defects 11 and 14", _masked, is_ecg),
    Claim("data.padding", "Beyond the end of a record nothing is valid, and all is 0.",
          "specification, defect 14", _padded, is_ecg),
    Claim("data.crop-inside", "A crop lies inside its record, sample after sample.", OURS,
          _inside, is_ecg),
    Claim("data.same-instant", "All leads of a crop are of the same instant.", OURS,
          _same_instant, is_ecg),
    Claim("data.crop-varies", "A record is cropped elsewhere each time, over all of its length.",
          OURS, _elsewhere, _crops_at_random),
    Claim("data.statistics", "Mean and deviation are those of all valid samples of the training "
          "split, and of no others.", "specification, defect 12", _statistics, is_ecg),
    Claim("data.preprocess", "What an encoder sees is (counts · scale − mean) / std, clipped, "
          "per lead.", OURS, _preprocessed, is_ecg),
    Claim("data.clip-after", "The limit is in deviations: clipping comes after normalising.",
          "specification 1.1: clip ±5", _clipped, _clips),
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
    *pixels.CLAIMS,
)  # fmt: skip
