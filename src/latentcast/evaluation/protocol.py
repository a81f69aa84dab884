"""The probe protocol: frozen encoder, shallow heads, official folds, one look at the test fold.

Every source (the encoder under test, the same architecture at initialisation, a floor without any
learning) is read in the same way by each head: fit on the training folds, choose layer and penalty
by the task's metric on the validation fold, score once on the test fold. The order is in
:func:`probe`; its result is a :class:`~latentcast.evaluation.results.ProbeReport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.data.manifest import SPLITS as FOLDS_OF
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation import comparisons, leaks, metrics
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.estimate import LEVEL
from latentcast.evaluation.features import (
    FeatureSource,
    Noted,
    Windows,
    extract,
    pooling_of,
    readable,
)
from latentcast.evaluation.heads import HEADS, READ_TOKENS, Fit, Head, knn
from latentcast.evaluation.probabilities import probabilities_of, with_calibrated_head
from latentcast.evaluation.ranking import ranking_curves
from latentcast.evaluation.results import OWN, Difference, Finding, LabelSupport, ProbeReport, Row
from latentcast.evaluation.subgroups import Grouping, groupings, subgroups
from latentcast.evaluation.tasks import Kind, Targets, Task, ptbxl
from latentcast.evaluation.tokens import TokenLayers
from latentcast.nn.pooling import JOINED, check_pooling, with_joined

SPLITS = ("train", "validation", "test")
COMPARED = 10_000
"""Training records on which a multi-class head compares layers: 45,000 take five times as long."""

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def probe(
    sources: Sequence[FeatureSource],
    store: Store,
    task: Task,
    *,
    heads: Sequence[str] | None = None,
    layer: str = "all",
    pooling: str | None = None,
    windows: Windows = "strided",
    trained_on: Sequence[Store] = (),
    resamples: int = 1000,
    seed: int = 0,
    by: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    cache: FeatureCache | None = None,
    allow_leaks: bool = False,
) -> ProbeReport:
    """Score ``sources[0]`` on ``task`` next to the floors ``sources[1:]``.

    Args:
        sources: all that are read; a record in which one of them finds no valid token is left out
            for all, and counted.
        store: labelled.
        task: see :func:`latentcast.evaluation.tasks.task`.
        heads: names of :data:`~latentcast.evaluation.heads.HEADS`; linear for recordings, kNN and
            linear for images by default.
        layer: a layer of the first source, ``joined`` (all of them), or ``all``: every source then
            chooses among its own and all joined on the validation fold, for each head. A floor that
            has the first source's layers is also read at the layer that one chose, if it chose
            another itself.
        pooling: mean+std for recordings and mean for images by default.
        windows: how a record longer than a source's window is read, see
            :func:`~latentcast.evaluation.features.extract`.
        trained_on: the stores that the first source was trained on, for the search for leaks.
        resamples: of the test fold's patients, drawn by ``seed``.
        by: keys of the metadata whose values make subgroups of the test split.
        provenance: of the caller, to stand in the report.
        cache: of features; without one they are computed.
        allow_leaks: score in spite of a leak, which then stands in the report.

    Raises:
        LatentcastError: an unknown layer, head or key of the metadata, ``cls``, a leak, a task the
            store cannot serve.
    """
    tested = sources[0]
    images = store.modality == "image"
    heads = heads_of(heads or (("kNN", "linear") if images else ("linear",)))
    pooling = pooling or usual_pooling(store)
    check_pooling(pooling, causal=tested.causal)
    check_layer(layer, tested.layer_names, heads)
    if len({source.name for source in sources}) < len(sources):
        raise LatentcastError("probe: two sources have one name; name them apart")
    if resamples < 1:
        raise LatentcastError(f"probe: resamples {resamples}; ask for one or more")
    targets = task.targets(store)
    store, groups = targets.divide(store), groupings(store, by)
    findings = leaks_of(store, trained_on)
    if not allow_leaks:
        refuse_leaks(findings, store)
    every = {split: store.rows(split) for split in SPLITS}
    of_task = {split: rows[targets.mask[rows]] for split, rows in every.items()}
    refuse_empty(of_task, store, f"no record of task {task.name}")
    rows = np.concatenate(list(of_task.values()))
    # All sources before any fit: every number below is about the records that all of them read.
    read_features = extract if cache is None else cache.extract
    features = [
        read_features(source, store, rows, pooling=pooling, windows=windows) for source in sources
    ]
    read = np.all([readable(layers) for layers in features], axis=0)
    ends = np.cumsum([len(part) for part in of_task.values()])
    places = [part[read[part]] for part in np.split(np.arange(len(rows)), ends[:-1])]
    split_rows = {split: rows[part] for split, part in zip(SPLITS, places, strict=True)}
    refuse_empty(split_rows, store, f"no record of task {task.name} with a valid token")
    train, _, test = places
    names, values = trainable(task, targets, split_rows["train"], store)
    y = values[rows]
    patients = store.patient_ids[rows[test]]
    resamples = metrics.resamples_of(patients, resamples)
    counts = metrics.draw(patients, resamples, seed)
    groups = [Grouping(one.by, one.groups[rows[test]]) for one in groups]

    table: list[Row] = []
    differences: list[Difference] = []
    chosen: dict[str, str] = {}
    references: dict[str, metrics.Resampled] = {}
    for source, pooled in zip(sources, features, strict=True):
        for name in heads:
            fit, how = HEADS[name][targets.kind], pooling_of(source, pooling)
            layers: Mapping[str, Any] = pooled
            if name in READ_TOKENS:
                fit, how = partial(fit, seed=seed), "attention"
                layers = TokenLayers(source, store, rows, windows)
            readings = [("named", layer)] if layer in layers else [(OWN, "all")]
            if source is not tested and layer == "all" and chosen[name] in layers:
                readings.append((f"layer of {tested.name}", chosen[name]))
            own_choice = ""
            for choice, at in readings:
                if at == own_choice:
                    continue  # the source chose the layer of the tested one itself
                considered = layers if at == "all" else {at: layers[at]}
                at, head = choose_layer(considered, y, places, fit, targets.kind, seed)
                own_choice = at
                predictions, shares = head.predict(layers[at][test]), None
                if targets.kind == "multi-class":
                    shares = probabilities_of(head, layers[at][test], targets.kind, len(names))
                score, resampled = metrics.score(
                    targets.kind, y[test], predictions, names, counts, shares
                )
                of_validation, of_test = ((layers[at][part], y[part]) for part in places[1:])
                score = with_calibrated_head(
                    score, targets.kind, names, head, of_validation, of_test, counts
                )
                subgrouped = subgroups(
                    targets.kind, y[test], predictions, names, counts, patients, groups
                )
                curves = ranking_curves(targets.kind, y[test], predictions, names, shares)
                score = replace(score, subgroups=subgrouped, curves=curves)
                table.append(
                    Row(source.name, name, choice, at, how, head.penalty, head.validation, score)
                )
                chosen.setdefault(name, at)
                if references.setdefault(name, resampled) is not resampled:
                    gap = metrics.difference(references[name], resampled)
                    p = comparisons.p_value(references[name], resampled)
                    differences.append(Difference(tested.name, source.name, name, choice, gap, p))
    measured = metrics.METRICS[targets.kind]
    return ProbeReport(
        protocol=_protocol(store, task, heads, targets.folds is not None),
        task=task.name,
        kind=targets.kind,
        modality=store.modality,
        metric=measured[0].name,
        records={split: len(part) for split, part in split_rows.items()},
        records_without_target={s: len(every[s]) - len(of_task[s]) for s in SPLITS},
        records_without_token={s: len(of_task[s]) - len(split_rows[s]) for s in SPLITS},
        labels=supports_of(targets, split_rows, names),
        floors={metric.name: metric.floor(y[train], y[test]) for metric in measured},
        lower_is_better=tuple(m.name for m in measured if not m.higher_is_better),
        compared=min(COMPARED, len(train)) if targets.kind == "multi-class" else len(train),
        rows=tuple(table),
        differences=comparisons.adjusted(differences),
        leaks=tuple(findings),
        data={"store": str(store.path), "shards": store.checksums}
        | ({} if images else {"sampling_rate": store.sampling_rate}),
        bootstrap={
            "resamples": resamples,
            "level": LEVEL,
            "seed": seed,
            # Where no patient is named, every record is one of its own.
            "unit": "patient" if (patients != "").any() else "image" if images else "record",
            "units": len(np.unique(metrics.patient_numbers(patients))),
        },
        windows=windows,
        provenance=dict(provenance or {}),
        notes=tuple(source.note for source in sources if isinstance(source, Noted) and source.note),
    )


def heads_of(names: Sequence[str]) -> list[str]:
    """Names of :data:`~latentcast.evaluation.heads.HEADS`, whatever their capitals.

    Raises:
        LatentcastError: no such head.
    """
    by_name = {name.lower(): name for name in HEADS}
    for name in names:
        if name.lower() not in by_name:
            raise LatentcastError(f"head {name}: does not exist; {nearest(name, HEADS)}")
    return [by_name[name.lower()] for name in names]


def usual_pooling(store: Store) -> str:
    """The pooling that suits the tokens of a store's samples."""
    return "mean" if store.modality == "image" else "mean+std"


def check_layer(layer: str, names: tuple[str, ...], heads: Sequence[str]) -> None:
    """Raises LatentcastError: it is neither ``all``, nor one of them, nor ``joined`` for heads that
    read it."""
    if layer not in ("all", *with_joined(names)):
        # A layer near by in spelling is no better guess than any other.
        raise LatentcastError(
            f"layer {layer}: does not exist; known: {', '.join(('all', *with_joined(names)))}"
        )
    if layer == JOINED and layer not in names and READ_TOKENS & set(heads):
        raise LatentcastError(
            f"layer {layer}: head {', '.join(READ_TOKENS & set(heads))} reads the tokens of one "
            "layer; name one, or all to choose one"
        )


def leaks_of(store: Store, trained_on: Sequence[Store]) -> list[Finding]:
    """All leaks within ``store`` and between its test fold and each of the stores of a training."""
    found = list[Finding]()
    for pretraining in trained_on or (None,):
        found += [leak for leak in leaks.check(store, pretraining) if leak not in found]
    return found


def refuse_leaks(findings: Sequence[Finding], store: Store) -> None:
    """Raises LatentcastError: one of them makes a test score meaningless."""
    for finding in findings:
        if finding.severity == "error":
            raise LatentcastError(
                f"{store.path}: {finding.kind}: {finding.count} cases "
                f"({', '.join(finding.examples)}); {finding.message} (--allow-leaks scores all the "
                "same, and writes the leak into the scores)"
            )


def refuse_empty(split_rows: Mapping[str, Ints], store: Store, lacking: str) -> None:
    """Raises LatentcastError: a split has no rows."""
    for split, rows in split_rows.items():
        if not len(rows):
            raise LatentcastError(
                f"{store.path}: {lacking} in the {split} split; name this split for some records, "
                "where the source or its table names splits, or ingest more of the source"
            )


def trainable(
    task: Task, targets: Targets, train: Ints, store: Store
) -> tuple[tuple[str, ...], Array]:
    """Names and values of what the training rows can teach: labels that are both present and
    absent among them. LatentcastError where they can teach nothing."""
    values = targets.values
    if targets.kind == "multi-label":
        both = np.asarray(values[train].any(axis=0) & ~values[train].all(axis=0))
        if both.any():
            names = tuple(name for name, kept in zip(targets.names, both, strict=True) if kept)
            return names, values[:, both]
        raise LatentcastError(
            f"{store.path}: no label of task {task.name} has both positives and negatives in the "
            "train split; ingest a larger part of the source, and give records without any of "
            "these labels one of their own, such as normal"
        )
    if len(np.unique(values[train])) > 1:
        return targets.names, values
    only = values[train][0]
    is_of = f"class '{targets.names[only]}'" if targets.kind == "multi-class" else f"{only:g}"
    raise LatentcastError(
        f"{store.path}: all records of task {task.name} in the train split are of {is_of}; "
        "ingest records that differ"
    )


def choose_layer(
    layers: Mapping[str, Any], y: Array, places: Sequence[Ints], fit: Fit, kind: Kind, seed: int
) -> tuple[str, Head]:
    """The layer with the highest validation score, and its head fitted on all training records.

    A draw goes to the earlier layer. Multi-class heads compare layers on at most COMPARED records.
    """
    train, validation, _ = places

    def fitted(layer: str, rows: Ints) -> Head:
        features = layers[layer]
        return fit(features[rows], y[rows], features[validation], y[validation])

    some = train
    if kind == "multi-class" and len(layers) > 1 and COMPARED < len(train):
        order = randomness.permutation(randomness.key(seed, "layer choice"), len(train))
        some = train[np.sort(order[:COMPARED])]
        if len(np.unique(y[some])) < 2:
            some = train
    heads = {layer: fitted(layer, some) for layer in layers}
    best = max(heads, key=lambda layer: heads[layer].validation)
    return best, heads[best] if some is train else fitted(best, train)


def supports_of(
    targets: Targets, split_rows: Mapping[str, Ints], trainable: Sequence[str]
) -> tuple[LabelSupport, ...]:
    """Of each label or class, whether it has a score or not; of a regression there is none."""
    if targets.kind == "regression":
        return ()
    present = targets.values
    if targets.kind == "multi-class":
        present = present[:, None] == np.arange(len(targets.names))
    supports = []
    for c, name in enumerate(targets.names):
        positives = {split: int(present[rows, c].sum()) for split, rows in split_rows.items()}
        reason = None
        if targets.kind == "multi-label":
            split = "test" if name in trainable else "train"
            if positives[split] in (0, len(split_rows[split])):
                lacking = "no positive" if positives[split] == 0 else "no negative"
                reason = f"{lacking} in {split}"
        supports.append(LabelSupport(name, positives, reason))
    return tuple(supports)


def _protocol(store: Store, task: Task, heads: Sequence[str], own_folds: bool) -> str:
    splits = store.manifest.splits
    folds = "folds " + "/".join(_range(splits[split]) for split in SPLITS)
    if task.name not in ptbxl.NAMES and splits == FOLDS_OF:
        folds = f"splits {'/'.join(SPLITS)}"  # the numbers are ours, nobody's data has them
    named = {"kNN": f"kNN (k = {knn.K})", "linear": "linear probe", "attentive": "attentive probe"}
    source = "PTB-XL " if task.name in ptbxl.NAMES else ""
    of_table = " of the label table" * own_folds
    return f"{source}{task.name}, {folds}{of_table}, " + " and ".join(named[head] for head in heads)


def _range(folds: Sequence[int]) -> str:
    ordered = sorted(folds)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}–{ordered[-1]}"
    return "+".join(str(fold) for fold in ordered)
