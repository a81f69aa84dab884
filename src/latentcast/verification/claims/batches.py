"""From the store to what an encoder sees of a recording: crops, gaps, normalisation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from latentcast.config import Config
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.fit import fitted
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.data import Floats, apart, is_ecg, recordings
from latentcast.verification.observe.network import within
from latentcast.verification.observe.rehearsal import once
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 4: physical until the last moment"
ROUNDING = 1.0 + 1e-3
"""Of half a count: float32 of a few mV is off by less than a thousandth of a count."""


def normalised_by(subject: Subject, store: Store) -> Config:
    """The twin, normalised by another store."""
    changes = {"input.normalisation": None, "train.micro_batches": 1}
    return fitted(subject.config.updated(changes), store)


def _einthoven(subject: Subject) -> Evidence:
    """In batches as they travel, in counts; each identity adds up to three roundings."""
    store = recordings(subject).cohort.store
    config = normalised_by(subject, store)
    loader = Loader(store, store.rows("train"), config)
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


def _masked(subject: Subject) -> Evidence:
    """Gaps and an electrode that was off: after normalisation 0, and not valid."""
    cohort = recordings(subject).cohort
    rows = np.array([0, 2, 20])
    config = normalised_by(subject, cohort.store)
    loader = Loader(cohort.store, rows, config)
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
    store, config = held.device_store, normalised_by(subject, held.device_store)
    loader = Loader(store, np.array([store.row_of("short")]), config)
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


def _crops(subject: Subject) -> tuple[Floats, int]:
    """When each sample of ninety crops of two records was taken: ``(crops, length, leads)``."""

    def made() -> tuple[Floats, int]:
        held = recordings(subject)
        config = normalised_by(subject, held.clock)
        loader = Loader(held.clock, held.clock.rows("train"), config)
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
    given = normalised_by(subject, cohort.store).input.normalisation
    assert given is not None
    off = max(apart(np.array(given.mean), mean), apart(np.array(given.std), std))
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
    config = normalised_by(subject, cohort.store)
    wanted = config.input
    loader = Loader(cohort.store, cohort.store.rows("train"), config)
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
        {"largest difference": (apart(given, clipped), bound)},
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


def _crops_at_random(subject: Subject) -> bool:
    return is_ecg(subject) and subject.config.train.random_crop


def _clips(subject: Subject) -> bool:
    return is_ecg(subject) and getattr(subject.config.input, "clip", None) is not None


CLAIMS: tuple[Claim, ...] = (
    Claim("data.einthoven", "In a batch the limb leads obey Einthoven and Goldberger, to the "
          "rounding of their counts.", "Einthoven 1912; Goldberger 1942", _einthoven, is_ecg),
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
)  # fmt: skip
