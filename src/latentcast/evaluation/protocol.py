"""The probe protocol: frozen encoder, linear head, official folds, one look at the test fold.

Every source (the encoder under test, the same architecture at initialisation, fixed random
convolutions) is read in the same way: fit on the training folds, choose layer and penalty by
macro AUROC on the validation fold, score once on the test fold. The order is in :func:`probe`;
what came out is a :class:`~latentcast.evaluation.results.ProbeReport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation import leaks, metrics
from latentcast.evaluation.features import FeatureSource, Windows, extract, pooling_of, readable
from latentcast.evaluation.heads import Bools, Floats, fit_probe
from latentcast.evaluation.results import OWN, Difference, LabelSupport, ProbeReport, Row
from latentcast.evaluation.tasks import Task
from latentcast.nn.pooling import check_pooling

SPLITS = ("train", "validation", "test")


def probe(
    sources: Sequence[FeatureSource],
    store: Store,
    task: Task,
    *,
    layer: str = "all",
    pooling: str = "mean+std",
    windows: Windows = "strided",
    pretraining: Store | None = None,
    resamples: int = 1000,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> ProbeReport:
    """Score ``sources[0]`` on ``task`` next to the floors ``sources[1:]``.

    ``layer`` names a layer of the first source, or ``all``: every source then chooses its own on
    the validation fold. A floor that has the first source's layers is also read at the layer
    that one chose. ``windows`` says how a record longer than a source's window is read, see
    :func:`~latentcast.evaluation.features.extract`. ``pretraining`` is the store the encoder was
    trained on, for the search for leaks. ``resamples`` bootstrap resamples of the test fold's
    patients are drawn by ``seed``. A record in which some source finds no valid token is left out
    for all of them, and counted.

    Raises LatentcastError for an unknown layer, for ``cls``, for a leak, and for a task the store
    cannot serve.
    """
    tested = sources[0]
    check_pooling(pooling, causal=tested.causal)
    if layer not in ("all", *tested.layer_names):
        known = ("all", *tested.layer_names)
        raise LatentcastError(f"layer {layer}: {tested.name} has none; {nearest(layer, known)}")
    if len({source.name for source in sources}) < len(sources):
        raise LatentcastError("probe: two sources have one name; name them apart")
    findings = leaks.check(store, pretraining)
    _refuse(findings)

    targets, kept = task.targets(store.labels)
    asked = {name: (held := store.rows(name))[kept[held]] for name in SPLITS}
    _refuse_empty(asked, store, f"no record of task {task.name}")
    rows = np.concatenate(list(asked.values()))
    # All sources before any fit: every number below is about the records that all of them read.
    features = [
        extract(source, store, rows, pooling=pooling, windows=windows) for source in sources
    ]
    read = np.all([readable(layers) for layers in features], axis=0)
    ends = np.cumsum([len(held) for held in asked.values()])
    places = [held[read[held]] for held in np.split(np.arange(len(rows)), ends[:-1])]
    split_rows = {name: rows[held] for name, held in zip(SPLITS, places, strict=True)}
    _refuse_empty(split_rows, store, f"no record of task {task.name} with a valid token")
    train, validation, test = places
    trainable = _trainable(targets[split_rows["train"]])
    if not trainable.any():
        raise LatentcastError(
            f"{store.path}: no label of task {task.name} has both positives and negatives in the "
            "train split; ingest a larger part of the source"
        )
    classes = [name for name, held in zip(task.classes, trainable, strict=True) if held]
    y = targets[rows][:, trainable]
    patients = store.patient_ids[rows[test]]
    bootstrap: dict[str, Any] = {"resamples": resamples, "level": metrics.LEVEL, "seed": seed}

    table: list[Row] = []
    differences: list[Difference] = []
    reference: Floats | None = None
    chosen = layer
    for source, layers in zip(sources, features, strict=True):
        readings = [(OWN if layer == "all" else "named", layer)]
        if source is not tested:
            readings = [(OWN, "all")] if layer == "all" or layer not in layers else readings
            if layer == "all" and chosen in layers:
                readings.append((f"layer of {tested.name}", chosen))
        for choice, name in readings:
            considered = layers if name == "all" else {name: layers[name]}
            head = fit_probe(considered, y, train, validation)
            logits = head.scores(layers[head.layer][test])
            score = metrics.score(y[test], logits, classes, patients, **bootstrap)
            how = pooling_of(source, pooling)
            table.append(
                Row(source.name, choice, head.layer, how, head.penalty, head.validation, score)
            )
            if reference is None:
                reference, chosen = logits, head.layer
                continue
            estimate = metrics.paired_difference(y[test], reference, logits, patients, **bootstrap)
            differences.append(Difference(tested.name, source.name, choice, estimate))
    return ProbeReport(
        protocol=_protocol(store, task),
        task=task.name,
        records={name: len(held) for name, held in split_rows.items()},
        records_left_out={name: len(asked[name]) - len(split_rows[name]) for name in SPLITS},
        labels=_supports(task, targets, split_rows, trainable),
        rows=tuple(table),
        differences=tuple(differences),
        leaks=tuple(findings),
        data={
            "store": str(store.path),
            "sampling_rate": store.sampling_rate,
            "shards": store.checksums,
        },
        bootstrap=bootstrap | _unit(patients),
        windows=windows,
        provenance=dict(provenance or {}),
    )


def _refuse(findings: Sequence[leaks.Finding]) -> None:
    for finding in findings:
        if finding.severity == "error":
            raise LatentcastError(
                f"{finding.kind}: {finding.count} cases ({', '.join(finding.examples)}); "
                f"{finding.message}"
            )


def _refuse_empty(
    split_rows: Mapping[str, npt.NDArray[np.int64]], store: Store, lacking: str
) -> None:
    for name, held in split_rows.items():
        if not len(held):
            raise LatentcastError(
                f"{store.path}: {lacking} in the {name} split; ingest a larger part of the source"
            )


def _unit(patients: npt.NDArray[np.str_]) -> dict[str, Any]:
    """What the bootstrap drew: patients, or records where no patient is known."""
    return {
        "unit": "patient" if (patients != "").any() else "record",
        "units": len(np.unique(metrics.patient_numbers(patients))),
    }


def _trainable(targets: Bools) -> Bools:
    positives = targets.sum(axis=0)
    both: Bools = (positives > 0) & (positives < len(targets))
    return both


def _supports(
    task: Task,
    targets: Bools,
    split_rows: Mapping[str, npt.NDArray[np.int64]],
    trainable: Bools,
) -> tuple[LabelSupport, ...]:
    supports = []
    for c, name in enumerate(task.classes):
        positives = {split: int(targets[rows, c].sum()) for split, rows in split_rows.items()}
        reason = None
        if not trainable[c]:
            reason = "no positive" if positives["train"] == 0 else "no negative"
            reason += " in train"
        elif positives["test"] in (0, len(split_rows["test"])):
            reason = "no positive" if positives["test"] == 0 else "no negative"
            reason += " in test"
        supports.append(LabelSupport(name, positives, reason))
    return tuple(supports)


def _protocol(store: Store, task: Task) -> str:
    folds = "/".join(_range(store.manifest.splits[name]) for name in SPLITS)
    return f"PTB-XL {task.name}, folds {folds}, linear probe"


def _range(folds: Sequence[int]) -> str:
    ordered = sorted(folds)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}–{ordered[-1]}"
    return "+".join(str(fold) for fold in ordered)
