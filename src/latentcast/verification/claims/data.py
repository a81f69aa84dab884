"""From files to a store: recordings of which every sample is fixed, compared with it.

Storage formats are in :mod:`.formats`, what an encoder sees in :mod:`.batches`, images in
:mod:`.pixels`.
"""

from __future__ import annotations

import ast
import csv
import shutil
from importlib.util import find_spec

import numpy as np

from latentcast.data.manifest import QUARANTINE
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import leaks
from latentcast.evaluation.tasks import task
from latentcast.runs.new import open_run
from latentcast.signals.readers import read_recording
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, none, true
from latentcast.verification.observe.recordings import (
    HALF_A_COUNT,
    TWELVE,
    Floats,
    apart,
    beats,
    config_for,
    has_twelve_leads,
    recordings,
    wave,
)
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 4: physical until the last moment"
PTBXL = "Strodthoff et al. 2021: PTB-XL, its folds and labels"
SPLITS = ("train", "validation", "test")

NEEDS = has_twelve_leads


# The content of a file, in millivolts


@claim("data.calibration", "Counts become millivolts by the gain, the zero and the unit of their "
       "header: a recording written in mV, uV or V comes out in the same millivolts.",
       source="WFDB, header(5); specification 6, pain 9: voltage units")  # fmt: skip
def calibration(twin: Twin) -> Evidence:
    """Read alone, and ingested."""
    fixtures, parts = recordings(twin), list[Evidence]()
    for name in ("millivolts", "microvolts", "volts", "coarse", "baseline"):
        record, stored = fixtures.devices[name], fixtures.stored(name)
        alone = read_recording(record.file).signal.astype(np.float64)
        gap = apart(stored, record.signal) / fixtures.scale
        parts += [
            at_most(f"{name}: read, mV", apart(alone, record.signal), 2e-6),
            at_most(f"{name}: stored, counts", gap, HALF_A_COUNT),
        ]
    return all_of(*parts)


@claim("data.lead-order", "Leads are found by name: whatever order a file has them in, aVF before "
       "aVL too, they come out I II III aVR aVL aVF V1 to V6; limb leads that it lacks are "
       "computed from I and II.",
       source="specification, defect 8: no lead names; Einthoven 1912; Goldberger "
       "1942")  # fmt: skip
def lead_order(twin: Twin) -> Evidence:
    """Each lead of four sources against its own wave, and which wave it is nearest to."""
    fixtures = recordings(twin)
    pairs = [
        (fixtures.stored(name), fixtures.devices[name].signal)
        for name in ("shuffled", "avf-before-avl", "eight-leads")
    ]
    pairs.append((_cohort_counts(twin)[4] * fixtures.scale, fixtures.cohort.signals[4]))
    worst, others = dict.fromkeys(TWELVE, 0.0), list[str]()
    for stored, signal in pairs:
        for row, lead in enumerate(TWELVE):
            if stored.shape != signal.shape:  # in quarantine
                worst[lead] = float("inf")
                continue
            worst[lead] = max(worst[lead], apart(stored[row], signal[row]) / fixtures.scale)
            nearest = TWELVE[int(np.abs(signal - stored[row]).mean(1).argmin())]
            others += [f"{lead} is {nearest}"] * (nearest != lead)
    return all_of(
        none("leads that are another", others),
        # A lead that is made of two rounded ones is off by more than theirs.
        *(at_most(f"{lead}, counts", gap, 4 * HALF_A_COUNT) for lead, gap in worst.items()),
        true("leads of the stores",
             fixtures.device_store.leads == fixtures.cohort.store.leads == TWELVE),
    )  # fmt: skip


def _cohort_counts(twin: Twin) -> Floats:
    cohort = recordings(twin).cohort
    rows = np.arange(len(cohort.signals))
    counts = cohort.store.take(rows, np.zeros(len(rows), np.int64)).transpose(0, 2, 1)
    return np.asarray(counts.astype(np.float64))


# Time


def peaks(signal: Floats, rate: float) -> Floats:
    """Seconds of the R waves: the top of each stretch above half of the highest one."""
    high = np.concatenate([[0], (signal > signal.max() / 2).astype(int), [0]])
    begins, ends = np.flatnonzero(np.diff(high) > 0), np.flatnonzero(np.diff(high) < 0)
    tops = [b + int(signal[b:e].argmax()) for b, e in zip(begins, ends, strict=True)]
    return np.array(tops) / rate


@claim("data.rhythm", "A rhythm of known rate keeps it, and its R waves their time, through "
       "resampling and store.", source=OURS)  # fmt: skip
def rhythm(twin: Twin) -> Evidence:
    fixtures, parts = recordings(twin), list[Evidence]()
    for name, bpm in (("millivolts", 72.0), ("faster", 97.0)):
        if name not in fixtures.devices:
            continue
        stored = fixtures.stored(name)
        parts.append(true(f"{name}: stored", bool(stored.size)))
        if not stored.size:
            continue
        # A peak that the record's end cuts may be found or not.
        end = stored.shape[1] / fixtures.device_store.sampling_rate - 0.15
        found = peaks(stored[1], fixtures.device_store.sampling_rate)
        found, written = found[found < end], beats(bpm, 0.0, end)
        rate = float(60 * (len(found) - 1) / np.ptp(found)) if len(found) > 1 else float("nan")
        parts.append(at_most(f"{name}: beats a minute, from {bpm:g}", abs(rate - bpm), 1.0))
        parts.append(
            at_most(f"{name}: R waves off by, s", apart(found, written), 1.01 / fixtures.rate)
        )
    return all_of(*parts)


def _resamples(twin: Twin) -> bool:
    return find_spec("scipy") is not None


def _at_new_rate(twin: Twin, name: str) -> tuple[Floats, Floats]:
    """What is stored of a faster recording, and its wave without the tone at the stored rate."""
    fixtures = recordings(twin)
    samples = round(fixtures.devices[name].signal.shape[1] / 2.5)
    return fixtures.stored(name), wave(fixtures.rate, samples, 10 + len(name), 97.0)


@claim("data.resampled", "A resampled recording is the same wave at the new rate.",
       source=OURS, about=_resamples)  # fmt: skip
def resampled(twin: Twin) -> Evidence:
    """Against the formula at the new rate, away from the ends, where the filter sees half."""
    stored, signal = _at_new_rate(twin, "faster")
    edge = signal.shape[1] // 20
    gap = apart(stored[:, edge:-edge], signal[:, edge:-edge])
    return all_of(
        equal("samples", stored.shape[1], signal.shape[1]),
        at_most("largest difference, mV", gap, 0.03),
    )


@claim("data.anti-alias", "What the new rate cannot hold does not come back as something else.",
       source=OURS, about=_resamples)  # fmt: skip
def anti_alias(twin: Twin) -> Evidence:
    (stored, signal), rate = _at_new_rate(twin, "humming"), recordings(twin).rate
    same_length = equal("samples", stored.shape[1], signal.shape[1])
    if not same_length.holds:
        return same_length
    row, time = TWELVE.index("V1"), np.arange(signal.shape[1]) / rate
    rest = stored[row] - signal[row]
    mirrored = abs((rest * np.exp(-2j * np.pi * 0.2 * rate * time)).mean()) * 2
    return all_of(
        same_length,
        at_most("amplitude at its mirror image, mV", float(mirrored), 0.01),
        written=f"0.3 mV at {0.8 * rate:g} Hz",
    )


@claim("data.round-trip", "What the store gives back is what was read, within half a count.",
       source=OURS)  # fmt: skip
def round_trip(twin: Twin) -> Evidence:
    scale, cohort = recordings(twin).scale, recordings(twin).cohort
    gaps = np.abs(_cohort_counts(twin) * scale - cohort.signals)[cohort.valid] / scale
    alone = apart(cohort.store.recording(6).signal.astype(np.float64), cohort.signals[6])
    return all_of(
        at_most("largest difference, counts", float(gaps.max()), HALF_A_COUNT),
        at_most("of a recording", alone / scale, HALF_A_COUNT),
        records=len(cohort.signals), samples=len(gaps), mean_difference=float(gaps.mean()),
    )  # fmt: skip


# Labels, patients, splits


@claim("data.labels", "A label is there when its code is, whatever likelihood it carries.",
       source="specification, defect 5: rhythm labels deleted")  # fmt: skip
def labels(twin: Twin) -> Evidence:
    """Likelihood 0.0 is "unknown" in PTB-XL, and what nearly every rhythm statement carries."""
    cohort = recordings(twin).cohort
    store, parts = cohort.store, list[Evidence]()
    statements = [set(ast.literal_eval(row["scp_codes"])) for row in cohort.rows]
    for code in ("NORM", "IMI", "LVH", "SR"):
        present = np.array([code in codes for codes in statements])
        found = store.labels.indicator([code])[:, 0] if code in store.labels.codes else ~present
        parts.append(equal(f"{code}: records that differ", int((found != present).sum()), 0))
    targets = task("superdiagnostic", store).targets(store)
    classes = dict(zip(targets.names, targets.values.sum(0).tolist(), strict=True))
    expected = {"NORM": 20, "MI": 20, "HYP": 20, "CD": 0, "STTC": 0}
    return all_of(
        *parts,
        equal("superclasses", str(sorted(classes.items())), str(sorted(expected.items()))),
        equal("records of the task", int(targets.mask.sum()), 40),
    )


@claim("data.patients", "No patient is in two splits.",
       source="specification, defect 15")  # fmt: skip
def patients(twin: Twin) -> Evidence:
    """By the source's folds and, where it has none, by the library's own."""
    fixtures, crossing, unnamed = recordings(twin), list[str](), 0
    for cohort in (fixtures.cohort, fixtures.unfolded):
        store, homes = cohort.store, dict[str, set[str]]()
        for split in SPLITS:
            for row in store.rows(split).tolist():
                homes.setdefault(cohort.rows[row]["patient_id"], set()).add(split)
        crossing += [patient for patient, splits in homes.items() if len(splits) > 1]
        unnamed += int((store.patient_ids == "").sum())
    return all_of(
        none("in two splits", crossing),
        equal("records whose patient is not stored", unnamed, 0),
        patients=28,
    )


@claim("data.splits", "Train, validation and test share no record and leave none out; folds that "
       "a source gives are kept: 1 to 8, 9, 10.", source=PTBXL)  # fmt: skip
def splits(twin: Twin) -> Evidence:
    fixtures, parts = recordings(twin), list[Evidence]()
    for name, store in (("cohort", fixtures.cohort.store), ("unfolded", fixtures.unfolded.store)):
        rows = sorted(row for split in SPLITS for row in store.rows(split).tolist())
        parts.append(true(f"{name}: each record in one split", rows == list(range(40))))
        parts.append(equal(f"{name}: records", len(store), 40))
    folds = np.array([int(row["strat_fold"]) for row in fixtures.cohort.rows])
    number = np.where(folds <= 8, 0, folds - 8)
    stored = fixtures.cohort.store
    wrong = [
        split for n, split in enumerate(SPLITS)
        if not np.array_equal(stored.rows(split), np.flatnonzero(number == n))
    ]  # fmt: skip
    return all_of(
        *parts,
        equal("records in another fold than the table's", int((folds != stored.folds).sum()), 0),
        none("splits of other records", wrong),
    )


@claim("data.quarantine", "A record that cannot be used is left out by name and reason, and costs "
       "no other record.",
       source="our design, law 6: nothing fails quietly")  # fmt: skip
def quarantine(twin: Twin) -> Evidence:
    fixtures = recordings(twin)
    store = fixtures.device_store
    with (store.path / QUARANTINE).open(newline="") as table:
        reasons = {row["record"]: row["reason"] for row in csv.DictReader(table)}
    stored = set(store.record_ids.tolist())
    return all_of(
        none("lost", sorted(set(fixtures.devices) - stored)),
        none("let in", sorted(stored & set(fixtures.bad))),
        none("without their reason",
             [name for name, why in fixtures.bad.items() if why not in reasons.get(name, "")]),
        good=len(fixtures.devices), bad=len(fixtures.bad),
    )  # fmt: skip


@claim("data.leaks", "A test recording that was pretrained on is found, under another name too, "
       "and so is a patient in two splits.",
       source="specification, defect 15")  # fmt: skip
def leaks_found(twin: Twin) -> Evidence:
    """A copy under another name, and a patient in two splits; and nothing where no leak is."""
    fixtures = recordings(twin)
    found = {f.kind: f for f in leaks.check(fixtures.leaking.store, fixtures.cohort.store)}
    parts = []
    for kind, example in (("test recording in pretraining", "other-3"),
                          ("patient in two splits", "a")):  # fmt: skip
        leak = found.get(kind)
        examples = "" if leak is None else ", ".join(leak.examples)
        parts.append(equal(kind, examples, example))
        parts.append(equal(f"{kind}: severity", "" if leak is None else leak.severity, "error"))
    quiet = leaks.check(fixtures.cohort.store, fixtures.clock)
    return all_of(*parts, equal("found in clean stores", len(quiet), 0))


@claim("data.checksums", "A run does not begin on a store that is damaged.",
       source="our design, law 6: nothing fails quietly")  # fmt: skip
def checksums(twin: Twin) -> Evidence:
    """A bit of a shard turned."""
    clock = recordings(twin).clock
    folder = twin.folder / "damaged store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(clock.path, folder)
    shard = folder / clock.manifest.shards[0].file
    raw = bytearray(shard.read_bytes())
    raw[-1001] ^= 1
    shard.write_bytes(raw)
    store, answer = Store.open(folder), "begins"
    try:
        open_run(twin.folder / "damaged run", config_for(twin, store), store)
    except LatentcastError as problem:
        answer = str(problem)
    return all_of(true("refused by the name of the file", shard.name in answer), answer=answer)
