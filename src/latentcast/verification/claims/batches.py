"""From the store to what an encoder sees of a recording: gaps, ends, normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.batch import Batch
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest
from latentcast.verification.observe.recordings import (
    HALF_A_COUNT,
    Floats,
    apart,
    config_for,
    has_twelve_leads,
    recordings,
)
from latentcast.verification.observe.twin import Twin

NEEDS = has_twelve_leads


def _reading(twin: Twin, store: Store, rows: Any = None) -> tuple[Loader, EcgPreprocess]:
    """Loader and preprocessing of a store's rows, of its training split by default."""
    config = config_for(twin, store)
    chosen = store.rows("train") if rows is None else np.asarray(rows)
    return Loader(store, chosen, config), EcgPreprocess(config.input)  # type: ignore[arg-type]


def _windows(records: npt.NDArray[Any], loader: Loader, batch: Batch) -> npt.NDArray[Any]:
    """The part of each record ``(records, leads, samples)`` that a batch reads."""
    rows, starts, length = loader.request(batch.ids.numpy())
    pairs = zip(rows, starts, strict=True)
    return np.stack([records[row, :, start : start + length] for row, start in pairs])


@claim("data.einthoven", "In a batch the limb leads obey Einthoven and Goldberger, to the "
       "rounding of their counts.",
       source="Einthoven 1912; Goldberger 1942")  # fmt: skip
def einthoven(twin: Twin) -> Evidence:
    """In batches as they travel, in counts; each identity adds up to three roundings."""
    loader, _ = _reading(twin, recordings(twin).cohort.store)
    batches = [loader.batch(attempt).samples for attempt in range(6)]
    batches.append(twin.batch().samples)
    worst = dict.fromkeys(("III = II − I", "aVR = −(I + II) / 2", "aVL = I − II / 2",
                           "aVF = II − I / 2"), 0.0)  # fmt: skip
    for batch in batches:
        counts = batch.numpy().astype(np.float64)
        i, ii, iii, r, left, f = (counts[..., n] for n in range(6))
        valid = (counts[..., :6] > -32768).all(-1)
        gaps = (iii - (ii - i), r + (i + ii) / 2, left - (i - ii / 2), f - (ii - i / 2))
        for name, gap in zip(worst, gaps, strict=True):
            worst[name] = max(worst[name], float(np.abs(gap[valid]).max()))
    return all_of(*(at_most(f"{n}, counts", gap, 3 * HALF_A_COUNT) for n, gap in worst.items()))


@claim("data.invalid", "What was not measured, what is no signal and what is beyond the end of a "
       "record is 0 after normalisation and not valid; nothing else is.",
       source="specification, defects 11 and 14")  # fmt: skip
def invalid(twin: Twin) -> Evidence:
    """Gaps, an electrode that was off, and a record shorter than what is read."""
    fixtures = recordings(twin)
    cohort = fixtures.cohort
    loader, preprocess = _reading(twin, cohort.store, (0, 2, 20))
    largest, wrong, missing = 0.0, 0, 0
    for attempt in range(4):
        batch = loader.batch(attempt)
        inputs = preprocess(batch.samples)
        assert inputs.valid is not None
        measured = _windows(cohort.valid, loader, batch)
        values, valid = inputs.values.numpy(), inputs.valid.numpy()
        shape = equal("shape", str(values.shape), str(measured.shape))
        if not shape.holds:
            return shape
        missing += int((~measured).sum())
        largest = greatest(largest, float(np.abs(np.where(measured, 0, values)).max()))
        wrong += int((valid != measured).sum())
    short = fixtures.device_store
    loader, preprocess = _reading(twin, short, [short.row_of("short")])
    inputs, end = preprocess(loader.batch(0).samples), fixtures.devices["short"].signal.shape[1]
    assert inputs.valid is not None
    beyond, before = inputs.valid[..., end:], inputs.valid[..., :end]
    return all_of(
        equal("valid beyond the end of a record", int(beyond.sum()), 0),
        equal("not valid before it", int((~before).sum()), 0),
        at_most("largest value beyond it", float(inputs.values[..., end:].abs().max()), 0.0),
        above("samples not measured", missing, 0),
        at_most("largest value there", largest, 0.0),
        equal("flags that are wrong", wrong, 0),
    )


def _training_statistics(twin: Twin) -> tuple[Floats, Floats]:
    fixtures = recordings(twin)
    train = fixtures.cohort.members(*range(1, 9))
    return _statistics(
        fixtures.cohort.counts()[train] * fixtures.scale, fixtures.cohort.valid[train]
    )


def _statistics(values: Floats, valid: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each lead over records and time."""
    measured = np.where(valid, values, np.nan)
    return np.nanmean(measured, axis=(0, 2)), np.nanstd(measured, axis=(0, 2))


@claim("data.statistics", "Mean and deviation are those of all valid samples of the training "
       "split, and of no others.",
       source="specification, defect 12")  # fmt: skip
def statistics(twin: Twin) -> Evidence:
    fixtures = recordings(twin)
    mean, std = _training_statistics(twin)
    used = config_for(twin, fixtures.cohort.store).input.normalisation
    assert used is not None
    everyone = _statistics(fixtures.cohort.counts() * fixtures.scale, fixtures.cohort.valid)[1]
    return all_of(
        at_most("largest difference of a mean, mV", apart(np.array(used.mean), mean), 1e-9),
        at_most("of a deviation, mV", apart(np.array(used.std), std), 1e-9),
        equal(
            "records",
            fixtures.cohort.store.manifest.statistics.records,
            len(fixtures.cohort.members(*range(1, 9))),
        ),
        **{"deviation of lead II": used.std[1], "over all splits": float(everyone[1])},
    )


@claim("data.preprocess", "What an encoder sees is (counts · scale − mean) / std per lead, and "
       "after that clipped: the limit is in deviations.",
       source="specification 1.1: clip ±5; our design, law 4")  # fmt: skip
def preprocess(twin: Twin) -> Evidence:
    """An epoch of the cohort, compared with the formula in float64."""
    fixtures = recordings(twin)
    cohort = fixtures.cohort
    loader, floats = _reading(twin, cohort.store)
    mean, std = _training_statistics(twin)
    counts, values, expected = cohort.counts(), list[Floats](), list[Floats]()
    for attempt in range(-(-32 // twin.config.train.batch_size)):
        batch = loader.batch(attempt)
        values.append(floats(batch.samples).values.double().numpy())
        normal = (_windows(counts, loader, batch) * fixtures.scale - mean[:, None]) / std[:, None]
        expected.append(np.where(_windows(cohort.valid, loader, batch), normal, 0.0))
    measured, formula = np.concatenate(values), np.concatenate(expected)
    # A few roundings of float32, of the largest mV over the smallest deviation.
    bound = 4 * 2.0**-24 * float(np.abs(counts[cohort.valid]).max() * fixtures.scale / std.min())
    clip = getattr(twin.config.input, "clip", None)
    if clip is None:
        return all_of(at_most("largest difference", apart(measured, formula), bound))
    beyond = int((np.abs(formula) > clip + bound).sum())
    near = int((np.abs(np.abs(formula) - clip) <= bound).sum())
    at_limit = int((np.abs(measured) >= clip - bound).sum())
    return all_of(
        at_most("largest difference", apart(measured, np.clip(formula, -clip, clip)), bound),
        above("values beyond the limit, by the formula", beyond, 0),
        at_most("values at the limit, from these", abs(at_limit - beyond), near),
        at_most("largest value", float(np.abs(measured).max()), clip),
        largest_before=float(np.abs(formula).max()),
    )
