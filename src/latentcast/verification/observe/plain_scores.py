"""Every number of a score, counted plainly: over pairs, records and thresholds, in float64.

Nothing of the library's metrics is called. A resample is the list of the records that were drawn,
as often as they were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast import randomness

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Plain = dict[str, Any]
ENOUGH, MOST_CLASSES, BINS = 10, 20, 15
AT_THRESHOLDS = "macro F1 at thresholds of validation"


def owners(patients: Array) -> list[str]:
    """Whose each record is; one without a patient is a patient of its own."""
    return [name or f"record {n}" for n, name in enumerate(patients.tolist())]


def resamples(patients: Array, count: int, seed: int) -> Array:
    """How often each record is drawn, ``(count, records)``, a patient at a time."""
    names = owners(patients)
    numbers = {name: n for n, name in enumerate(dict.fromkeys(names))}
    stream, rows = randomness.key(seed, "bootstrap"), []
    for r in range(count):
        counters = np.arange(r * len(numbers), (r + 1) * len(numbers))
        drawn = [int(u * len(numbers)) for u in randomness.uniform(stream, counters)]
        rows.append([drawn.count(numbers[name]) for name in names])
    return np.array(rows)


def area(positive: Array, scores: Array) -> float:
    """AUROC over all pairs."""
    gaps = scores[positive][:, None] - scores[~positive]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean()) if gaps.size else math.nan


def precision(positive: Array, scores: Array) -> float:
    """Average precision: at each positive the share of positives among all called with it."""
    if positive.all() or not positive.any():
        return math.nan
    own = [positive[scores >= score].mean() for score in scores[positive]]
    return float(np.mean(own))


def by_label(one: Callable[[Array, Array], float]) -> Callable[[Array, Array, int], Floats]:
    return lambda y, x, _: np.array(
        [one(own, scores) for own, scores in zip(y.T, x.T, strict=True)]
    )


def accuracy(y: Array, predicted: Array, _: int) -> Floats:
    return np.array([np.mean(y == predicted)])


def recalls(y: Array, predicted: Array, classes: int) -> Floats:
    return np.array([
        (predicted[y == c] == c).mean() if (y == c).any() else math.nan for c in range(classes)
    ])  # fmt: skip


def f1_of_classes(y: Array, predicted: Array, classes: int) -> Floats:
    """Of each class that occurs or is predicted."""
    found = []
    for c in range(classes):
        hits = float(np.sum((y == c) & (predicted == c)))
        own = (hits, float(np.sum(y == c)), float(np.sum(predicted == c)))
        found.append(_f1(*own) if own[1] + own[2] else math.nan)
    return np.array(found)


def areas_of_classes(y: Array, shares: Array, classes: int) -> Floats:
    return np.array([area(y == c, shares[:, c]) for c in range(shares.shape[1])])


def explained(y: Array, predicted: Array, _: int) -> Floats:
    total = ((y - y.mean()) ** 2).sum()
    return np.array([1 - ((y - predicted) ** 2).sum() / total if total else math.nan])


def error(y: Array, predicted: Array, _: int) -> Floats:
    return np.array([np.abs(y - predicted).mean()])


def _f1(hits: float, actual: float, called: float) -> float:
    """The harmonic mean of precision and recall, as one division: equal ones are equal."""
    return 2 * hits / (actual + called)


METRICS: dict[str, dict[str, Callable[[Array, Array, int], Floats]]] = {
    "multi-label": {"macro AUROC": by_label(area), "macro AP": by_label(precision)},
    "multi-class": {"accuracy": accuracy, "balanced accuracy": recalls, "macro F1": f1_of_classes},
    "regression": {"R²": explained, "MAE": error},
}


def mean(values: Array) -> float:
    """Of those that are defined."""
    defined = [float(value) for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two values beside its place."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def interval(value: float, redrawn: Sequence[float]) -> Plain:
    """The middle 95 % of the resamples in which it is defined."""
    defined = [one for one in redrawn if not math.isnan(one)]
    if math.isnan(value) or not defined:
        return {"value": value, "low": math.nan, "high": math.nan}
    low, high = quantile(defined, 0.025), quantile(defined, 0.975)
    return {"value": value, "low": low, "high": high}


UNDEFINED = {"value": math.nan, "low": math.nan, "high": math.nan}


class Counted:
    """A metric of some predictions, by label, of all records and of each resample."""

    def __init__(
        self,
        metric: Callable[[Array, Array, int], Floats],
        targets: Array,
        predictions: Array,
        counts: Array,
    ) -> None:
        self.targets = targets
        classes = 1 + int(max(targets.max(), predictions.max())) if targets.ndim == 1 else 0
        self.columns = metric(targets, predictions, classes)
        self.redrawn = []
        for times in counts:
            drawn = np.repeat(np.arange(len(targets)), times)
            self.redrawn.append(metric(targets[drawn], predictions[drawn], classes))

    def of_label(self, place: int) -> Plain:
        single = self._single(place)
        redrawn = [] if single else [float(one[place]) for one in self.redrawn]
        return interval(float(self.columns[place]), redrawn)

    def mean(self, chosen: Array | None = None) -> Plain:
        places = [n for n in range(len(self.columns)) if chosen is None or chosen[n]]
        redrawn = [] if self.alone(places) else [mean(one[places]) for one in self.redrawn]
        return interval(mean(self.columns[places]), redrawn)

    def alone(self, places: Sequence[int]) -> bool:
        """Whether each label that has a score hangs on a single record."""
        defined = [n for n in places if not math.isnan(self.columns[n])]
        return self.targets.ndim == 2 and bool(defined) and all(map(self._single, defined))

    def _single(self, place: int) -> bool:
        if self.targets.ndim == 1:
            return False
        positives = int(self.targets[:, place].sum())
        return positives == 1 or positives == len(self.targets) - 1

    def beside(self, other: Counted) -> tuple[Plain, list[float]]:
        """The difference, and that of each resample."""
        gaps = [mean(a) - mean(b) for a, b in zip(self.redrawn, other.redrawn, strict=True)]
        alone = self.alone(range(len(self.columns)))
        return interval(mean(self.columns) - mean(other.columns), [] if alone else gaps), gaps


def p_value(gaps: Sequence[float]) -> float:
    defined = [gap for gap in gaps if not math.isnan(gap)]
    if not defined:
        return math.nan
    rarer = min(sum(gap <= 0 for gap in defined), sum(gap >= 0 for gap in defined))
    return min(1.0, 2 * (1 + rarer) / (1 + len(defined)))


def holm(values: Sequence[float]) -> list[float]:
    """By its definition: of the smaller ones, and of how many are not."""
    defined = sorted(value for value in values if not math.isnan(value))
    steps = [min(1.0, (len(defined) - n) * value) for n, value in enumerate(defined)]
    return [
        math.nan if math.isnan(value) else max(steps[: defined.index(value) + 1])
        for value in values
    ]


def enough(targets: Array) -> Array:
    positives = targets.sum(0)
    return np.array([ENOUGH <= n < len(targets) for n in positives])


def score(
    kind: str, targets: Array, predictions: Array, names: Sequence[str], counts: Array,
    shares: Array | None = None,
) -> tuple[Plain, Counted]:  # fmt: skip
    """What :class:`~latentcast.evaluation.estimate.Score` has, without what probabilities give."""
    (_, main), *others = METRICS[kind].items()
    counted = Counted(main, targets, predictions, counts)
    further = {name: Counted(metric, targets, predictions, counts) for name, metric in others}
    if shares is not None:
        further["macro AUROC"] = Counted(areas_of_classes, targets, shares, counts)
    found: Plain = {
        "main": counted.mean(), "supported": None, "labels": [],
        "others": {name: one.mean() for name, one in further.items()}, "supported_others": {},
        "points": [], "calibration": None, "subgroups": [], "curves": [],
    }  # fmt: skip
    if kind == "multi-label":
        chosen = enough(targets)
        found["supported"] = counted.mean(chosen)
        found["supported_others"] = {name: one.mean(chosen) for name, one in further.items()}
        found["labels"] = [
            {"name": name, "positives": int(targets[:, c].sum()), "records": len(targets),
             "auroc": counted.of_label(c), "average_precision": further["macro AP"].of_label(c)}
            for c, name in enumerate(names)
        ]  # fmt: skip
    return found, counted


def with_probabilities(
    found: Plain, kind: str, names: Sequence[str], counts: Array,
    validation: tuple[Array, Array], test: tuple[Array, Array],
) -> Plain:  # fmt: skip
    """With calibration and operating points: probabilities and targets of both splits."""
    labels = kind == "multi-label"
    heat = temperature(validation[0], validation[1])
    chosen_on, shares = (divided(one, heat, labels) for one in (validation[0], test[0]))
    present = test[1] if labels else np.eye(len(names), dtype=bool)[test[1]]
    errors = [calibration_error(p, y) for p, y in zip(shares.T, present.T, strict=True)]
    found |= {"calibration": {
        "temperature": heat, "error": float(np.mean(errors)),
        "labels": dict(zip(names, errors, strict=True)),
        "bins": bins(shares.ravel(), present.ravel()),
    }}  # fmt: skip
    if not labels:
        return found
    at = [threshold(p, y) for p, y in zip(chosen_on.T, validation[1].T, strict=True)]
    return with_points(found, names, at, test[1], shares, counts)


def with_points(
    found: Plain, names: Sequence[str], at: Sequence[float], targets: Array, shares: Array,
    counts: Array,
) -> Plain:  # fmt: skip
    def rates(place: int) -> Callable[[Array, Array, int], Floats]:
        return lambda y, p, _: np.array([
            _rates(own, scores, t)[place]
            for own, scores, t in zip(y.T, p.T, at, strict=True)
        ])  # fmt: skip

    counted = [Counted(rates(n), targets, shares, counts) for n in range(4)]
    keys = ("sensitivity", "specificity", "ppv", "f1")
    points = [
        {"name": name, "threshold": at[c]}
        | {key: one.of_label(c) for key, one in zip(keys, counted, strict=True)}
        for c, name in enumerate(names)
    ]
    f1 = {AT_THRESHOLDS: counted[3].mean()}
    of_enough = {AT_THRESHOLDS: counted[3].mean(enough(targets))}
    return found | {
        "points": points, "others": found["others"] | f1,
        "supported_others": found["supported_others"] | of_enough,
    }  # fmt: skip


def _rates(positive: Array, shares: Array, threshold: float) -> tuple[float, ...]:
    if math.isnan(threshold):
        return (math.nan,) * 4
    called = shares >= threshold
    hits = float((positive & called).sum())

    def ratio(part: float, of: float) -> float:
        return part / of if of else math.nan

    f1 = _f1(hits, float(positive.sum()), float(called.sum())) if positive.any() else math.nan
    rejected = float((~positive & ~called).sum())
    return (ratio(hits, float(positive.sum())), ratio(rejected, float((~positive).sum())),
            ratio(hits, float(called.sum())), f1)  # fmt: skip


def threshold(shares: Array, positive: Array) -> float:
    """The highest of those with the best F1."""
    if not positive.any():
        return math.nan
    tried = sorted(set(shares.tolist()), reverse=True)
    return float(max(tried, key=lambda t: _rates(positive, shares, t)[3]))


def divided(shares: Array, heat: float, labels: bool) -> Floats:
    """Probabilities whose logits are divided by a temperature."""
    if heat == 1:
        return np.asarray(shares)
    p = np.maximum(shares, 1e-300)
    if labels:
        logits = np.log(p) - np.log(1 - np.minimum(shares, 1 - 1e-16))
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-logits / heat)))
    odds = p ** (1 / heat)
    return np.asarray(odds / odds.sum(1, keepdims=True))


def loss(shares: Array, targets: Array) -> float:
    """Mean cross-entropy, of labels or of classes."""
    p = np.minimum(np.maximum(shares, 1e-12), 1 - 1e-12)
    if targets.ndim == 1:
        return float(np.mean([-math.log(row[c]) for row, c in zip(p, targets, strict=True)]))
    return float(np.mean(np.where(targets, -np.log(p), -np.log(1 - p))))


def temperature(shares: Array, targets: Array) -> float:
    """Of 81 from a tenth to ten, at equal ratios; 1 where the best is one of the ends."""
    tried = [0.1 * 100 ** (n / 80) for n in range(81)]
    losses = [loss(divided(shares, t, targets.ndim == 2), targets) for t in tried]
    best = losses.index(min(losses))
    return 1.0 if best in (0, 80) else tried[best]


def calibration_error(shares: Array, positive: Array) -> float:
    found = bins(shares, positive)
    return float(sum(one["count"] * abs(one["predicted"] - one["positive"]) for one in found)
                 / len(shares))  # fmt: skip


def bins(shares: Array, positive: Array) -> list[Plain]:
    places = np.array([min(int(p * BINS), BINS - 1) for p in shares])
    return [
        {"low": n / BINS, "high": (n + 1) / BINS, "count": int((places == n).sum()),
         "predicted": float(shares[places == n].mean()),
         "positive": float(positive[places == n].mean())}
        for n in range(BINS) if (places == n).any()
    ]  # fmt: skip


def curves(kind: str, targets: Array, scores: Array, names: Sequence[str]) -> list[Plain]:
    """Of at most eight labels, of fewer than sixty records, so that no point is left out."""
    present = targets if kind == "multi-label" else np.eye(len(names), dtype=bool)[targets]
    found = []
    for c, name in enumerate(names):
        own, of = scores[:, c], present[:, c]
        if of.all() or not of.any():
            continue
        points = [(0.0, 0.0, 0.0)]
        for t in sorted(set(own.tolist()), reverse=True):
            called = own >= t
            points.append((of[called].sum() / of.sum(), (~of)[called].sum() / (~of).sum(),
                           of[called].mean()))  # fmt: skip
        points[0] = (0.0, 0.0, points[1][2])
        keys = ("sensitivity", "false_positives", "precision")
        columns = zip(*points, strict=True)
        found.append(
            {"name": name}
            | {
                key: [round(float(v), 4) for v in column]
                for key, column in zip(keys, columns, strict=True)
            }
        )
    return found


def subgroup(
    kind: str, targets: Array, predictions: Array, names: Sequence[str], counts: Array,
    patients: Array, groups: tuple[str, str, Array],
) -> Plain:  # fmt: skip
    """Of one value of a key: its name, and which records have it; a record without a patient is
    somebody else's."""
    by, name, inside = groups
    y, x = targets[inside], predictions[inside]
    drawn = [times[inside] for times in counts if times[inside].any()]
    records, labels = int(inside.sum()), kind == "multi-label"
    found: Plain = {
        "by": by, "name": name, "records": records,
        "positives": int(y.sum()) if labels else None,
        "averaged": 0, "main": UNDEFINED, "labels": [], "too_few": "",
    }  # fmt: skip
    chosen = enough(y) if labels else np.ones(1, dtype=bool)
    if records < ENOUGH:
        return found | {"too_few": f"fewer than {ENOUGH} records"}
    if len(set(owners(patients[inside]))) < ENOUGH:
        return found | {"too_few": f"fewer than {ENOUGH} patients"}
    if not chosen.any():
        return found | {"too_few": f"no label with {ENOUGH} or more positives and a negative"}
    if not labels:
        (metric, *_) = METRICS[kind].values()
        return found | {"main": Counted(metric, y, x, np.array(drawn)).mean()}
    own = [name for name, kept in zip(names, chosen, strict=True) if kept]
    scored, counted = score(kind, y[:, chosen], x[:, chosen], own, np.array(drawn))
    return found | {"averaged": int(chosen.sum()), "main": counted.mean(),
                    "labels": scored["labels"]}  # fmt: skip


def floors(kind: str, train: Array, test: Array) -> Mapping[str, float]:
    """The scores of one prediction for all."""
    constant: Any = 0.0
    if kind == "multi-class":
        values, times = np.unique(train, return_counts=True)
        constant = values[times.argmax()]
    elif kind == "regression":
        constant = sum(train) / len(train)
    predictions = np.full(test.shape, constant)
    return {name: Counted(metric, test, predictions, np.zeros((0, len(test)), int)).mean()["value"]
            for name, metric in METRICS[kind].items()}  # fmt: skip
