"""Every number of a probe's report, counted plainly from the features and labels it read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from latentcast import randomness
from latentcast.evaluation import metrics, protocol
from latentcast.evaluation.heads import PATHS, attentive
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tasks.base import Kind
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, none
from latentcast.verification.observe import plain_scores as plain
from latentcast.verification.observe.answers import KINDS, NAMES, SPLITS, Answers, Written, answers
from latentcast.verification.observe.compared import differences, numbers_of, refusal
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.probe import calls_of
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"
RESAMPLES, SEED, COMPARED = 30, 3, 50
HEADS = ("kNN", "linear", "attentive")
FITTED = 2e-6
"""What float32 features and networks leave of a number that is not a rank."""


@dataclass(frozen=True)
class Probed:
    """A probe of two sources by all heads, and what each reading was fitted to."""

    report: ProbeReport
    sources: tuple[Written, ...]
    chosen: list[tuple[tuple[Any, ...], Any]]


def probed(twin: Twin, kind: Kind) -> Probed:
    """Fewer steps of the attentive head, and layers compared on some of the training records."""

    def read() -> Probed:
        own = answers(twin)
        sources = (Written(own, "tested", {"lower": 1.1, "upper": 0.6}, 1),
                   Written(own, "floor", {"lower": 0.7, "upper": 2.0}, 2))  # fmt: skip
        with (
            mock.patch.multiple(attentive, EPOCHS=1, LEAST_STEPS=4, LOOKS=2),
            mock.patch.object(protocol, "COMPARED", COMPARED),
            calls_of(protocol, "choose_layer") as chosen,
        ):
            report = protocol.probe(
                sources, own.store, own.task(kind), heads=[name.upper() for name in HEADS],
                resamples=RESAMPLES, seed=SEED, by=() if is_image(twin) else ("sex",),
                provenance={"who": "we"},
            )  # fmt: skip
        return Probed(report, sources, chosen)

    return twin.once(f"answers of {kind}", read)


@claim("probe.report", "Every number of a probe's report is that which counting the test records "
       "gives: scores, intervals, subgroups, curves, thresholds, calibration, differences, floors, "
       "records and labels.", source=OURS)  # fmt: skip
def report(twin: Twin) -> Evidence:
    """Of a set whose features are written here, by three heads and for three kinds of tasks; the
    heads are those of the probe, their predictions are made here."""
    parts, numbers = list[Evidence](), 0
    for kind in KINDS:
        found = probed(twin, kind)
        expected = _expected(answers(twin), kind, found)
        numbers += numbers_of(found.report)
        parts.append(none(f"{kind}: differs", differences(found.report, expected, FITTED)))
    return all_of(*parts, above("numbers compared", numbers, 3000))


@claim("probe.arguments", "A probe refuses layers, poolings, heads, keys and sources that there "
       "are not, and splits without a label; a named layer is read as it is named.",
       source=OURS)  # fmt: skip
def arguments(twin: Twin) -> Evidence:
    own, wrong = answers(twin), list[str]()
    tested = Written(own, "tested", {"lower": 1.1, "upper": 0.6}, 1)
    other = Written(own, "other", {"lower": 1.1, "upper": 0.6}, 2)
    path, usual = own.store.path, dict[str, Any](heads=["knn"], resamples=3)

    def answer(sources: Any = (tested,), **options: Any) -> Any:
        task = options.pop("task", own.task("regression"))
        return refusal(lambda: protocol.probe(sources, own.store, task, **usual | options))

    lacking = own.task("regression")
    some = own.targets("regression")
    of_train = dataclasses.replace(some, mask=some.mask & (own.split != "validation"))
    lacking.targets = lambda _: of_train
    for found, words in (
        (answer(layer="middle"), "layer middle: does not exist; known: all, lower, upper, joined"),
        (answer(pooling="cls"), "pooling cls: no objective here trains"),
        (answer(pooling="median"), "pooling median: no such pooling"),
        (answer(heads=["forest"]), "head forest: does not exist"),
        (answer(heads=["attentive"], layer="joined"), "layer joined: head attentive reads"),
        (answer((tested, tested)), "probe: two sources have one name; name them apart"),
        (answer(resamples=0), "probe: resamples 0; ask for one or more"),
        (answer(by=["age"]), "by age: no record has 'age' in its metadata"),
        (
            answer(task=lacking),
            f"{path}: no record of task answers in the validation split; name this split",
        ),
    ):
        wrong += [] if found.startswith(words) else [f"{found[:90]!r} and not {words!r}"]
    named = protocol.probe([tested, other], own.store, own.task("multi-class"), layer="upper",
                           heads=["linear", "kNN"], resamples=3)  # fmt: skip
    read = [(row.name, row.head, row.choice, row.layer) for row in named.rows]
    wrong += differences(read, [(source, head, "named", "upper") for source in ("tested", "other")
                                for head in ("linear", "kNN")], at="rows")  # fmt: skip
    few = protocol.probe([tested], own.store, own.task("multi-class"), **usual, pooling="mean")
    wrong += differences(few.compared, len(own.read("train")), at="compared")
    usual_heads = protocol.probe([tested], own.store, own.task("regression"), resamples=1)
    heads = ["kNN", "linear"] if is_image(twin) else ["linear"]
    wrong += differences([row.head for row in usual_heads.rows], heads, at="heads of themselves")
    patients = len(set(plain.owners(own.patients[own.read("test")])))
    with mock.patch.object(metrics, "FEWEST", 1 + patients):
        bare = protocol.probe([tested], own.store, own.task("regression"), **usual)
    ends = (bare.bootstrap["resamples"], bare.rows[0].score.main.low)
    wrong += differences(ends, (0, None), at="too few for an interval")
    with mock.patch.object(metrics, "FEWEST", patients):
        enough = protocol.probe([tested], own.store, own.task("regression"), **usual)
    wrong += differences(enough.bootstrap["resamples"], 3, at="just enough for an interval")
    return all_of(none("answers that are others", wrong))


def _expected(own: Answers, kind: Kind, found: Probed) -> dict[str, Any]:
    image, names = own.store.modality == "image", NAMES[kind]
    pooling, labels = "mean" if image else "mean+std", own.values(kind)
    train, validation, test = (own.read(split) for split in SPLITS)
    if kind == "multi-label":
        kept = [n for n in range(len(names)) if 0 < labels[train, n].sum() < len(train)]
        names, y = tuple(names[n] for n in kept), labels[:, kept]
    else:
        y = labels
    counts = plain.resamples(own.patients[test], RESAMPLES, SEED)
    groups = [] if image else [
        ("sex", name, own.sex[test] == name) for name in sorted(set(own.sex[test].tolist()))
    ]  # fmt: skip
    rows, differing = list[plain.Plain](), list[plain.Plain]()
    first = dict[str, tuple[str, plain.Counted]]()
    calls = iter(found.chosen)
    for source in found.sources:
        for name in HEADS:
            readings = ["chosen on validation"]
            if source is not found.sources[0]:
                readings.append("layer of tested")
            own_layer = ""
            for choice in readings:
                at = first[name][0] if choice.startswith("layer") else ""
                if at and at == own_layer:
                    continue
                _, (layer, head) = next(calls)
                own_layer = layer
                predictions, shares = _predicted(head, name, source, layer, pooling, kind, names)
                counted, resampled = plain.score(
                    kind, y[test], predictions[test], names, counts,
                    shares[test] if kind == "multi-class" else None,
                )  # fmt: skip
                if kind != "regression":
                    counted = plain.with_probabilities(
                        counted, kind, names, counts, (shares[validation], y[validation]),
                        (shares[test], y[test]),
                    )  # fmt: skip
                    of = predictions if kind == "multi-label" else shares
                    counted["curves"] = plain.curves(kind, y[test], of[test], names)
                counted["subgroups"] = [
                    plain.subgroup(
                        kind, y[test], predictions[test], names, counts, own.patients[test], group
                    )
                    for group in groups
                ]
                reached = plain.mean(_main(kind, y[validation], predictions[validation]))
                penalty = _best_penalty(source, name, layer, kind, y, pooling, own)
                rows.append({
                    "name": source.name, "head": name, "choice": choice,
                    "layer": at or _best_layer(source, name, kind, y, pooling, own, layer),
                    "pooling": "attention" if name == "attentive" else pooling,
                    "penalty": penalty, "validation": reached, "score": counted,
                })  # fmt: skip
                if name not in first:
                    first[name] = layer, resampled
                    continue
                gap, gaps = first[name][1].beside(resampled)
                differing.append({
                    "name": "tested", "reference": source.name, "head": name, "choice": choice,
                    "estimate": gap, "p": plain.p_value(gaps),
                })  # fmt: skip
    adjusted = plain.holm([float(one["p"]) for one in differing])
    for one, p in zip(differing, adjusted, strict=True):
        one["holm"] = p
    of_task = {split: set(own.rows(split)) - set(own.without_target) for split in SPLITS}
    return {
        "protocol": "answers, splits train/validation/test, "
        "kNN (k = 20) and linear probe and attentive probe",
        "task": "answers", "kind": kind, "modality": own.store.modality,
        "metric": next(iter(plain.METRICS[kind])),
        "records": {split: len(own.read(split)) for split in SPLITS},
        "records_without_target": {s: len(own.rows(s)) - len(of_task[s]) for s in SPLITS},
        "records_without_token": {s: len(of_task[s]) - len(own.read(s)) for s in SPLITS},
        "labels": _supports(own, kind), "floors": plain.floors(kind, y[train], y[test]),
        "lower_is_better": ["MAE"] if kind == "regression" else [],
        "compared": COMPARED if kind == "multi-class" else len(train),
        "rows": rows, "differences": differing, "leaks": [],
        "data": {"store": str(own.store.path), "shards": own.store.checksums}
        | ({} if image else {"sampling_rate": 100.0}),
        "bootstrap": {
            "resamples": RESAMPLES, "level": 0.95, "seed": SEED,
            "unit": "image" if image else "patient",
            "units": len(set(plain.owners(own.patients[test]))),
        },
        "windows": "strided", "provenance": {"who": "we"}, "notes": [],
    }  # fmt: skip


def _main(kind: Kind, y: Array, predictions: Array) -> Array:
    (metric, *_) = plain.METRICS[kind].values()
    return metric(y, predictions, 1 + int(max(y.max(), predictions.max())) if y.ndim == 1 else 0)


def _predicted(
    head: Any, name: str, source: Written, layer: str, pooling: str, kind: Kind,
    names: tuple[str, ...],
) -> tuple[Array, Array]:  # fmt: skip
    """Of all records what the metric reads, and the probabilities; by the numbers of the head."""
    x = _features(source, layer, pooling)
    if name == "linear":
        z = (x - head.standardise.mean) / head.standardise.std
        outputs = z @ head.weights + head.intercepts
    elif name == "kNN":
        votes = _votes(head, x, kind, len(names))
        return (votes.argmax(1) if kind == "multi-class" else votes), votes
    else:
        outputs = _attended(head, source, layer)
        if kind == "regression":
            outputs = outputs[:, 0] * head.spread + head.centre
    if kind == "multi-label":
        return outputs, 1 / (1 + np.exp(-outputs))
    if kind == "regression":
        return outputs, outputs
    odds = np.exp(outputs - outputs.max(1, keepdims=True))
    return outputs.argmax(1), odds / odds.sum(1, keepdims=True)


def _features(source: Written, layer: str, pooling: str) -> Array:
    """In float32, as they are fitted to; 0 of a record without a token, which is in no score."""
    names = source.layer_names if layer == "joined" else (layer,)
    parts = [source.pooled(one, pooling) for one in names]
    return np.nan_to_num(np.concatenate(parts, 1)).astype(np.float32).astype(np.float64)


def _votes(head: Any, x: Array, kind: Kind, classes: int) -> Array:
    """Of the twenty nearest by the cosine."""
    bank, found = head.bank.astype(np.float64), []
    sizes = np.linalg.norm(bank, axis=1)
    for query in x:
        cosine = bank @ query / np.maximum(sizes * np.linalg.norm(query), 1e-30)
        near = np.argsort(-cosine, kind="stable")[:20]
        weight = np.exp(cosine[near] / 0.07)
        targets = head.targets[near]
        if kind == "multi-class":
            targets = targets[:, None] == np.arange(classes)
        found.append((weight @ targets) / weight.sum())
    return np.round(found, 12)  # of neighbours that agree, the share is 1


def _attended(head: Any, source: Written, layer: str) -> Array:
    """The network of the head on the valid tokens of one record at a time."""
    found = []
    with torch.no_grad():
        for tokens, flags in zip(source.tokens[layer], source.valid, strict=True):
            windows = source.windows()
            own = torch.from_numpy(tokens[windows][flags[windows]])
            if not len(own):
                own = torch.zeros(1, tokens.shape[-1])
            read = (own - head.mean) / head.std
            valid = torch.ones(1, len(own), dtype=torch.bool)
            found.append(head.network(read[None], valid)[0].double().numpy())
    return np.array(found)


def _best_penalty(
    source: Written, name: str, layer: str, kind: Kind, y: Array, pooling: str, own: Answers
) -> float | None:
    """Of all that are tried the one with the best validation score, of equal ones the strongest."""
    if name != "linear":
        return None
    return max(_tried(source, layer, kind, y, pooling, own, own.read("train")))[2]


def _tried(
    source: Written, layer: str, kind: Kind, y: Array, pooling: str, own: Answers, train: Array
) -> list[tuple[float, float, float]]:
    """Of each penalty its validation score, a number that is higher of stronger ones, and it."""
    x, validation = _features(source, layer, pooling).astype(np.float32), own.read("validation")
    found = list[tuple[float, float, float]]()
    for head in PATHS["linear"][kind](x[train], y[train]):
        reached = plain.mean(_main(kind, y[validation], head.predict(x[validation])))
        if kind == "multi-class" and found and reached < max(found)[0]:
            break  # the weakest cost most
        assert head.penalty is not None
        found.append((reached, -head.penalty, head.penalty))
    return found


def _best_layer(
    source: Written, name: str, kind: Kind, y: Array, pooling: str, own: Answers, chosen: str
) -> str:
    """Of all layers the one with the best validation score, of equal ones the first."""
    if name == "attentive":
        return chosen  # counted in probe.attentive
    some, reached = own.read("train"), dict[str, float]()
    if kind == "multi-class":
        order = randomness.permutation(randomness.key(SEED, "layer choice"), len(some))
        some = some[sorted(order[:COMPARED])]
    validation = own.read("validation")
    for layer in (*source.layer_names, "joined"):
        if name == "linear":
            reached[layer] = max(_tried(source, layer, kind, y, pooling, own, some))[0]
            continue
        x = _features(source, layer, pooling)
        head = dataclasses.make_dataclass("Bank", ["bank", "targets"])(x[some], y[some])
        votes = _votes(head, x[validation], kind, len(NAMES[kind]))
        votes = votes.argmax(1) if kind == "multi-class" else votes
        reached[layer] = plain.mean(_main(kind, y[validation], votes))
    return max(reached, key=reached.__getitem__)


def _supports(own: Answers, kind: Kind) -> list[Mapping[str, Any]]:
    """Records of each label and split, and why one has no score."""
    if kind == "regression":
        return []
    y, found = own.values(kind), list[Mapping[str, Any]]()
    for c, name in enumerate(NAMES[kind]):
        present = y[:, c] if kind == "multi-label" else y == c
        why = {"nobody trained": "no positive in train", "nobody tested": "no positive in test"}
        found.append({
            "name": name, "left_out": why.get(name),
            "positives": {split: int(present[own.read(split)].sum()) for split in SPLITS},
        })  # fmt: skip
    return found
