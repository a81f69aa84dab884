"""Data from outside: normalisation, labels that were lost, leads in another order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError
from latentcast.verification.evidence import at_most, equal, first_of, none
from latentcast.verification.foreign.verified import Lines, Verified

Array = npt.ArrayLike
CLOSE = 0.01
"""Of a deviation, by which a channel's mean and deviation may differ from the recorded ones."""
FITS = 0.1
"""Of a lead, what may be left of it when it is computed from I and II; noise of filters is less."""
LIMB = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""Leads of the limbs as sums of I and II."""


def verify_normalisation(rows: Array, mean: Array, deviation: Array) -> Verified:
    """Hold the statistics that a training normalises by against the rows that it trains on.

    Args:
        rows: all training rows, ``(rows, channels, ...)``; missing samples are NaN.
        mean, deviation: of each channel, as training uses them.
    """
    lines = Lines("the values themselves, summed in float64")
    values = np.asarray(rows, dtype=np.float64)
    axes = (0, *range(2, values.ndim))
    used = np.asarray(mean, np.float64).reshape(-1), np.asarray(deviation, np.float64).reshape(-1)
    if any(len(x) != values.shape[1] for x in used):
        raise LatentcastError(
            f"verify_normalisation: rows have {values.shape[1]} channels, mean {len(used[0])} and "
            f"deviation {len(used[1])}; give (rows, channels, ...) and a number for each channel"
        )
    finite = bool(np.isfinite(used).all()) and float(used[1].min()) > 0
    lines.add("data.statistics-finite", "Mean and deviation are finite, and no deviation is 0.",
              equal("finite and above 0", finite, True))  # fmt: skip
    right = np.nanmean(values, axis=axes), np.nanstd(values, axis=axes)
    gaps = [np.abs(a - b) / np.maximum(right[1], 1e-300) for a, b in zip(used, right, strict=True)]
    worst = [float(gap.max()) if np.isfinite(gap).all() else math.inf for gap in gaps]
    lines.add(
        "data.statistics", "Mean and deviation are those of the training rows.",
        at_most("difference of a mean, in deviations", worst[0], CLOSE),
        at_most("difference of a deviation", worst[1], CLOSE),
        channel=int(np.nan_to_num(gaps[0] + gaps[1], nan=math.inf).argmax()),
    )  # fmt: skip
    return Verified(tuple(lines))


def verify_labels(
    statements: Iterable[Iterable[str]], targets: Array, classes: Sequence[str]
) -> Verified:
    """Hold the targets of a training against the statements they were made of.

    Args:
        statements: of each record the codes that it has, whatever number stands beside them (the
            keys of PTB-XL's ``scp_codes``).
        targets: ``(records, classes)``, above 0 where a record has the class.
        classes: the code of each column.
    """
    lines = Lines("PTB-XL (Wagner et al. 2020): a code with likelihood 0 is a statement, too")
    codes = [set(one) for one in statements]
    marked = np.asarray(targets) > 0
    if marked.shape != (len(codes), len(classes)):
        raise LatentcastError(
            f"verify_labels: targets are {marked.shape}, and there are {len(codes)} records and "
            f"{len(classes)} classes; give (records, classes)"
        )
    stated = np.array([[name in one for name in classes] for one in codes], dtype=bool)
    lost, made = (stated & ~marked).sum(0), (marked & ~stated).sum(0)
    which = [f"{classes[i]} {marked[:, i].sum()} of {stated[:, i].sum()}" for i in
             np.argsort(-lost, kind="stable") if lost[i]]  # fmt: skip
    lines.add("data.labels-kept", "Each statement of a class is a label.",
              equal("lost", int(lost.sum()), 0), none("left", which),
              of=int(stated.sum()))  # fmt: skip
    lines.add("data.labels-stated", "Each label is a statement.",
              equal("made up", int(made.sum()), 0))  # fmt: skip
    empty = [name for name, column in zip(classes, stated.T, strict=True) if not column.any()]
    lines.add("data.classes", "Each class is a code that some record has.",
              equal("codes of no record", len(empty), 0), none("which", empty))  # fmt: skip
    return Verified(tuple(lines))


def verify_leads(signals: Array, leads: Sequence[str]) -> Verified:
    """Hold the order of ECG leads against physics: four leads are sums of I and II.

    V1 to V6, and I beside II, are bound by no law, so nothing is said of them.

    Args:
        signals: before normalisation, ``(records, leads, samples)``, as a network gets them.
        leads: the name of each row.

    Raises:
        LatentcastError: I or II is not among the leads.
    """
    lines = Lines("Einthoven: II = I + III; Goldberger: aVR, aVL, aVF")
    values = np.nan_to_num(np.asarray(signals, dtype=np.float64))
    rows = {name.upper(): row for row, name in enumerate(leads)}
    if values.ndim != 3 or values.shape[1] != len(leads) or not {"I", "II"} <= set(rows):
        raise LatentcastError(
            f"verify_leads: signals are {values.shape} and leads {first_of(leads)}; give (records, "
            "leads, samples) and a name for each lead, I and II among them"
        )
    first, second = values[:, rows["I"]], values[:, rows["II"]]
    wrong, worst = list[str](), 0.0
    for name, (a, b) in LIMB.items():
        if name.upper() not in rows:
            continue
        expected = a * first + b * second
        size = max(float(np.linalg.norm(expected)), 1e-300)
        gaps = {str(leads[row]): float(np.linalg.norm(values[:, row] - expected)) / size
                for row in range(len(leads))}  # fmt: skip
        own = gaps[leads[rows[name.upper()]]]
        worst = max(worst, own)
        best = min(gaps, key=lambda lead: gaps[lead])
        if own > FITS:
            wrong.append(f"{name} lies in the row of {best}" if gaps[best] <= FITS else
                         f"{name} in none")  # fmt: skip
    lines.add("data.leads", "III, aVR, aVL and aVF are the sums of I and II that they are.",
              equal("elsewhere", len(wrong), 0), none("which", wrong),
              largest_rest=worst)  # fmt: skip
    return Verified(tuple(lines))
