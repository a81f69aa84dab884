"""Rows and cohorts of an evaluation, counted: what :mod:`.two_stores` ought to score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.heads import HEADS, PATHS
from latentcast.evaluation.question import Group, Member
from latentcast.evaluation.tasks.base import Kind
from latentcast.verification.observe import plain_scores as plain
from latentcast.verification.observe.answers import (
    NAMES,
    SPLITS,
    Answers,
    answers,
    elsewhere,
)
from latentcast.verification.observe.twin import Twin
from latentcast.verification.observe.two_stores import (
    DRAWS,
    DROPPED,
    RESAMPLES,
    SEED,
    SHOTS,
    of_missing,
    sources_of,
    targets_elsewhere,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cohort:
    """What is scored: the rows, their targets by name, resamples and groups."""

    name: str
    values: Array
    names: tuple[str, ...]
    counts: Array
    patients: Array
    groups: list[tuple[str, str, Array]]
    record: dict[str, Any]
    features: Any


class Table:
    """What an evaluation of one task has to say."""

    def __init__(self, twin: Twin, kind: Kind, heads: Sequence[str]) -> None:
        self.kind, self.heads = kind, heads
        self.own, self.other = answers(twin), elsewhere(twin)
        self.image = self.own.store.modality == "image"
        self.y = self.own.values(kind)
        self.read = {split: self.own.read(split) for split in SPLITS}
        self.groups = sources_of(twin)
        self.cohorts = [self._home()]
        if not self.image:
            self.cohorts.append(self._incomplete())
        self.cohorts.append(self._elsewhere())

    def _record(self, name: str, external: bool, **own: Any) -> dict[str, Any]:
        store, patients = own.pop("store"), own.pop("patients")
        return {
            "task": self.kind, "kind": self.kind, "metric": next(iter(plain.METRICS[self.kind])),
            "store": name, "path": str(store.path), "shards": store.checksums, "external": external,
            "units": len(set(plain.owners(patients))), "unit": "image" if self.image else "patient",
            "floors": plain.floors(self.kind, self.y[self.read["train"]], own.pop("values")),
            "unused": (), "cross_validation": "", **own,
        }  # fmt: skip

    def _cohort(self, name: str, rows: Array, values: Array, names: tuple[str, ...], of: Answers,
                record: dict[str, Any], features: Any) -> Cohort:  # fmt: skip
        sexes = [] if self.image else sorted(set(of.sex[rows].tolist()))
        patients = of.patients[rows]
        groups = [("sex", one, of.sex[rows] == one) for one in sexes]
        counts = plain.resamples(patients, RESAMPLES, SEED)
        return Cohort(name, values, names, counts, patients, groups, record, features)

    def _home(self) -> Cohort:
        own, read, rows = self.own, self.read, self.read["test"]
        of_task = {s: set(own.rows(s)) - set(own.without_target) for s in SPLITS}
        record = self._record(
            "here", False, store=own.store, patients=own.patients[rows], values=self.y[rows],
            records={s: len(read[s]) for s in SPLITS},
            without_target={s: len(own.rows(s)) - len(of_task[s]) for s in SPLITS},
            without_token={s: len(of_task[s]) - len(read[s]) for s in SPLITS},
            labels=self._labels(NAMES[self.kind], self.y, read, "train"),
            cross_validation=self._division(),
        )  # fmt: skip
        return self._cohort("here", rows, self.y[rows], NAMES[self.kind], own, record,
                            lambda source, layer: _features(source, 0, layer)[rows])  # fmt: skip

    def _incomplete(self) -> Cohort:
        """The test records without some leads, by seed and name of the record."""
        own, test = self.own, self.read["test"]
        missing = np.zeros((len(own.split), 12), dtype=bool)
        for row in test.tolist():
            stream = randomness.key(SEED, "missing leads", str(own.store.record_ids[row]))
            missing[row, randomness.permutation(stream, 12)[:DROPPED]] = True
        shift, unread = of_missing(missing)
        rows = test[~unread[test]]
        name = f"here, {DROPPED} of 12 leads missing"
        read = {"train": self.read["train"], "test": rows}
        record = self._record(
            name, False, store=own.store, patients=own.patients[rows], values=self.y[rows],
            records={"test": len(rows)}, without_target={"test": 0},
            without_token={"test": len(test) - len(rows)},
            labels=self._labels(NAMES[self.kind], self.y, read, "test"),
        )  # fmt: skip
        return self._cohort(name, rows, self.y[rows], NAMES[self.kind], own, record,
                            lambda source, layer: (_features(source, 0, layer)
                                                   + shift[:, None])[rows])  # fmt: skip

    def _elsewhere(self) -> Cohort:
        """All its records of the task, but for classes that were not trained."""
        other, theirs = self.other, targets_elsewhere(self.other, self.kind)
        unused: tuple[str, ...] = ()
        values, rows = theirs.values, np.flatnonzero(theirs.mask)
        if self.kind == "multi-class":
            values = 2 - (values - 1)  # by name: theirs are the other way round, after one more
            foreign = theirs.values[rows] == 0
            unused = (f"{foreign.sum()} records of classes that were not trained",)
            rows = rows[~foreign]
        elif self.kind == "multi-label":
            unused = ("1 labels that were not trained",)
        read = np.array([row for row in rows if row not in other.without_token])
        record = self._record(
            "elsewhere", True, store=other.store, patients=other.patients[read],
            values=values[read], records={"test": len(read)},
            without_target={"test": int((~theirs.mask).sum())},
            without_token={"test": len(rows) - len(read)}, unused=unused,
            labels=self._labels(theirs.names, theirs.values, {"train": read, "test": read}, "test"),
        )  # fmt: skip
        return self._cohort("elsewhere", read, values[read], theirs.names, other, record,
                            lambda source, layer: _features(source, 1, layer)[read])  # fmt: skip

    def _labels(self, names: Sequence[str], y: Array, rows: Mapping[str, Array],
                first: str) -> list[Any]:  # fmt: skip
        """Of each label its positives, and why it has no score: in the first split that lacks
        any, of those that are looked at."""
        found = []
        for c, name in enumerate(names if self.kind != "regression" else ()):
            present = y[:, c] if self.kind == "multi-label" else y == c
            positives = {split: int(present[own].sum()) for split, own in rows.items()}
            why = None
            for split in dict.fromkeys((first, "test")) if self.kind == "multi-label" else ():
                if why is None and positives[split] in (0, len(rows[split])):
                    why = f"no {'negative' if positives[split] else 'positive'} in {split}"
            found.append({"name": name, "positives": positives, "left_out": why})
        return found

    def _folds(self) -> tuple[Array, str]:
        """The group of each training record: neighbouring folds."""
        folds = self.own.store.folds[self.read["train"]]
        names = sorted(set(folds.tolist()))
        parts = [names[n : n + 2] for n in range(0, 8, 2)]
        place = [next(n for n, part in enumerate(parts) if fold in part) for fold in folds]
        return np.array(place), ", ".join("+".join(map(str, part)) for part in parts)

    def _left_out(self) -> list[int]:
        """Labels that three of the groups cannot teach."""
        if self.kind != "multi-label":
            return []
        groups, y = self._folds()[0], self.y[self.read["train"]]
        parts = [y[groups != n] for n in range(4)]
        return [c for c in range(y.shape[1])
                if any(part[:, c].all() or not part[:, c].any() for part in parts)]  # fmt: skip

    def _division(self) -> str:
        without = ", ".join(NAMES[self.kind][c] for c in self._left_out())
        return (
            f"CV: {len(self.read['train'])} training records, each predicted by a head that was "
            f"fitted without its group (folds {self._folds()[1]})"
            + f"; without {without}"
            * bool(without)
        )

    def _draws(self) -> Iterator[tuple[str, int, Array, list[int]]]:
        """Amount, number, training rows, and the labels that they can teach."""
        train = np.array([row for row in self.own.rows("train")
                          if row not in self.own.without_target])  # fmt: skip
        for number in range(DRAWS):
            yield self._drawn(f"{SHOTS} shots", number, train[self._shots(train, number)])
        yield self._drawn("1", 0, train)

    def _drawn(self, amount: str, number: int, train: Array) -> tuple[str, int, Array, list[int]]:
        train = train[~np.isin(train, self.own.without_token)]
        if self.kind != "multi-label":
            return amount, number, train, []
        y = self.y[train]
        return amount, number, train, [c for c in range(y.shape[1]) if 0 < y[:, c].sum() < len(y)]

    def _shots(self, train: Array, seed: int) -> Array:
        """Of each label, class or nothing the records of the first patients that have it."""
        names = plain.owners(self.own.patients[train])
        every = sorted(set(names))
        order = [
            every[n] for n in randomness.permutation(randomness.key(seed, "labels"), len(every))
        ]
        y = self.y[train]
        if self.kind == "regression":
            members = [np.ones(len(train), bool)]
        elif self.kind == "multi-class":
            members = [y == c for c in range(3)]
        else:
            members = [*y.T, np.asarray(~y.any(1))]
        chosen = np.zeros(len(train), bool)
        for own in members:
            having = {names[n] for n in np.flatnonzero(own)}
            first = set([name for name in order if name in having][:SHOTS])
            chosen |= own & np.array([name in first for name in names])
        return chosen

    def rows(self) -> list[dict[str, Any]]:
        found = dict[tuple[str, ...], list[Any]]()
        within = dict[tuple[str, ...], list[Any]]()
        for group in self.groups:
            for member in group.members:
                for head in self.heads:
                    self._of_member(group, member, head, found, within)
        means = {key: np.mean([one[1] for one in own], 0) for key, own in found.items()}
        own_within = {key: np.mean([one[2] for one in own], 0) for key, own in within.items()}
        kinds = {group.name: group.kind for group in self.groups}
        rows = []
        for key, own in found.items():
            source, head, store, amount = key
            difference, p = self._difference(key, means)
            readings = [one[0] for one in own]
            rows.append({
                "source": source, "kind": kinds[source], "head": head, "task": self.kind,
                "store": store, "amount": amount, "main": _interval(means[key]),
                "seeds": _spread(readings, [one[1][0] for one in own], "seed"),
                "draws": _spread(readings, [one[1][0] for one in own], "draw"),
                "difference": difference, "readings": readings, "p": p,
                "cross_validated": self._of_within(key, within, own_within),
            })  # fmt: skip
        blocks = dict.fromkeys((row["store"], row["amount"]) for row in rows)
        ordered = [row for block in blocks for row in rows
                   if (row["store"], row["amount"]) == block]  # fmt: skip
        for block in blocks:
            _holm([row for row in ordered if (row["store"], row["amount"]) == block])
        _holm([row["cross_validated"] for row in ordered if row["cross_validated"]])
        return [{name: row[name] for name in _ROW} for row in ordered]

    def _difference(self, key: Any, means: Mapping[Any, Array]) -> tuple[Any, Any]:
        """From the floor under the same head."""
        against = means.get(("floor", *key[1:]))
        if against is None or key[0] == "floor":
            return None, None
        gaps = means[key] - against
        return _interval(gaps), plain.p_value(gaps[1:].tolist())

    def _of_within(self, key: Any, within: Any, means: Any) -> Any:
        if key not in within:
            return None
        difference, p = self._difference(key, means)
        return {"main": _interval(means[key]), "layers": [one[0] for one in within[key]],
                "penalties": [one[1] for one in within[key]], "difference": difference, "p": p,
                "holm": None}  # fmt: skip

    def _of_member(self, group: Group, member: Member, head: str, found: Any, within: Any) -> None:
        names = list(_layers(member.reads))
        key = (group.name, head, "here", "1")
        within.setdefault(key, []).append(self._cross_validated(member.reads, head, names))
        for amount, number, train, taught in self._draws():
            y = self.y[:, taught] if self.kind == "multi-label" else self.y
            layer, fitted, reached = self._chosen(member.reads, head, names, train, y)
            labels = [NAMES[self.kind][c] for c in taught] or list(NAMES[self.kind])
            left_out = [name for name in NAMES[self.kind] if name not in labels]
            for cohort in self.cohorts:
                score, redrawn = self._scored(member.reads, layer, fitted, cohort, labels, y)
                reading = {
                    "run": member.run, "seed": member.seed, "draw": number, "layer": layer,
                    "penalty": fitted.penalty, "validation": reached, "records": len(train),
                    "left_out": left_out, "score": score,
                }  # fmt: skip
                own = (group.name, head, cohort.name, amount)
                found.setdefault(own, []).append((reading, redrawn))

    def _chosen(self, source: Any, head: str, names: Sequence[str], train: Array,
                y: Array) -> tuple[str, Any, float]:  # fmt: skip
        """By the validation records, of equal layers the first."""
        validation, best = self.read["validation"], ("", None, -math.inf)
        for layer in names:
            x = _features(source, 0, layer).astype(np.float32)
            fitted: Any = HEADS[head][self.kind](x[train], y[train], x[validation], y[validation])
            reached = plain.mean(self._metric(y[validation], fitted.predict(x[validation])))
            if reached > best[2]:
                best = (layer, fitted, reached)
        return best

    def _metric(self, y: Array, predictions: Array) -> Array:
        (metric, *_) = plain.METRICS[self.kind].values()
        return metric(y, predictions, 3)

    def _scored(self, source: Any, layer: str, fitted: Any, cohort: Cohort,
                labels: Sequence[str], y: Array) -> tuple[Any, Array]:  # fmt: skip
        x = cohort.features(source, layer).astype(np.float32)
        validation, values = self.read["validation"], cohort.values
        if self.kind == "multi-label":
            values = values[:, [cohort.names.index(name) for name in labels]]
        predictions, shares = fitted.predict(x), None
        if self.kind == "multi-class":
            shares = fitted.class_shares(x, 3)
        score, counted = plain.score(self.kind, values, predictions, labels, cohort.counts, shares)
        if self.kind != "regression":
            chosen_on = _features(source, 0, layer).astype(np.float32)[validation]
            of = (
                (lambda x: fitted.class_shares(x, 3)) if shares is not None else fitted.label_shares
            )
            score = plain.with_probabilities(
                score,
                self.kind,
                labels,
                cohort.counts,
                (of(chosen_on), y[validation]),
                (of(x), values),
            )
        score["subgroups"] = [
            plain.subgroup(
                self.kind, values, predictions, labels, cohort.counts, cohort.patients, group
            )
            for group in cohort.groups
        ]
        means = [plain.mean(counted.columns), *(plain.mean(one) for one in counted.redrawn)]
        return score, np.array(means)

    def _cross_validated(self, source: Any, head: str, names: Sequence[str]) -> tuple[Any, ...]:
        """Layer, penalty and scores of the best out-of-fold predictions."""
        train, groups = self.read["train"], self._folds()[0]
        left_out = self._left_out()
        y = self.y[train]
        if self.kind == "multi-label":
            y = y[:, [c for c in range(y.shape[1]) if c not in left_out]]
        best: tuple[Any, ...] = ("", None, None, -math.inf)
        for layer in names:
            x = _features(source, 0, layer).astype(np.float32)[train]
            predicted = dict[Any, Array]()
            for n in range(4):
                inside = groups == n
                for fitted in PATHS[head][self.kind](x[~inside], y[~inside]):
                    made = np.asarray(fitted.predict(x[inside]))
                    empty = np.zeros((len(y), *made.shape[1:]), made.dtype)
                    predicted.setdefault(fitted.penalty, empty)[inside] = made
            for penalty, own in predicted.items():
                reached = plain.mean(self._metric(y, own))
                if reached > best[3]:
                    best = (layer, penalty, own, reached)
        layer, penalty, own, _ = best
        (metric, *_) = plain.METRICS[self.kind].values()
        counted = plain.Counted(
            metric, y, own, plain.resamples(self.own.patients[train], RESAMPLES, SEED)
        )
        scores = [plain.mean(counted.columns), *(plain.mean(one) for one in counted.redrawn)]
        return layer, penalty, np.array(scores)


_ROW = ("source", "kind", "head", "task", "store", "amount", "main", "seeds", "draws", "difference",
        "readings", "p", "holm", "cross_validated")  # fmt: skip


def _layers(source: Any) -> tuple[str, ...]:
    first = source.first if isinstance(source, Concatenation) else source
    names: tuple[str, ...] = first.layer_names
    return (*names, "joined") if len(names) > 1 else names


def _features(source: Any, part: int, layer: str) -> Array:
    """The mean over tokens of all records of the first or the second store, as float32 has it; of
    two sources beside each other all layers of the second."""
    if isinstance(source, Concatenation):
        second = _features(source.second, part, _layers(source.second)[-1])
        return np.concatenate([_features(source.first, part, layer), second], 1)
    names = source.layer_names if layer == "joined" else (layer,)
    pooled = [source.parts[part].pooled(name, "mean") for name in names]
    return np.concatenate(pooled, 1).astype(np.float32).astype(np.float64)


def _interval(values: Array) -> plain.Plain:
    return plain.interval(float(values[0]), values[1:].tolist())


def _spread(readings: Sequence[Any], values: Sequence[float], over: str) -> Any:
    """Over trainings, or over draws: of the mean over the other."""
    parts = dict[Any, list[float]]()
    for reading, value in zip(readings, values, strict=True):
        parts.setdefault(reading[over], []).append(float(value))
    means = [sum(part) / len(part) for part in parts.values()]
    if len(means) < 2:
        return None
    mean = sum(means) / len(means)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in means) / (len(means) - 1))
    return {"n": len(means), "mean": mean, "sd": deviation, "low": min(means), "high": max(means)}


def _holm(rows: Sequence[dict[str, Any]]) -> None:
    """Give each its corrected p-value: the rows of a table are a family."""
    compared = [row for row in rows if row["p"] is not None]
    corrected = plain.holm([row["p"] for row in compared])
    for row in rows:
        row["holm"] = None
    for row, p in zip(compared, corrected, strict=True):
        row["holm"] = p
