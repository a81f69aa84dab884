"""The image protocol: frozen encoder, kNN and a linear head, official splits, one look at test.

Every source (the encoder under test, the same architecture at initialisation, the pixels) is read
in the same way by each of the two heads: the layer is the one with the highest validation
accuracy, for each source and head on its own; the head is then fitted on all training images and
scored once on the test split. The order is in :func:`classify`; what came out is a
:class:`~latentcast.evaluation.classification_results.ClassificationReport`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.evaluation import duplicates, knn, metrics
from latentcast.evaluation.classification_results import (
    ClassificationReport,
    ClassSupport,
    HeadDifference,
    HeadRow,
)
from latentcast.evaluation.features import ImageFeatureSource, extract_images, pooling_of
from latentcast.evaluation.metrics import Estimate
from latentcast.evaluation.multinomial import fit_head
from latentcast.evaluation.results import OWN
from latentcast.nn.pooling import check_pooling

SPLITS = duplicates.SPLITS
COMPARED = 10_000  # training images on which layers are compared: 45,000 take five times as long

Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Head(Protocol):
    """Fitted to the training features of one layer."""

    @property
    def penalty(self) -> float | None: ...
    @property
    def validation(self) -> float:
        """Accuracy on the validation images."""
        ...

    def classify(self, features: Features) -> Integers:
        """The class (N,) of raw features (N, F)."""
        ...


Fit = Callable[[Features, Integers, Features, Integers], Head]


@dataclass(frozen=True)
class Neighbours:
    """kNN as a head: it keeps the training images, and has no penalty to choose."""

    bank: Features
    labels: Integers
    k: int
    validation: float = float("nan")
    penalty: float | None = None

    @classmethod
    def fit(
        cls,
        train: Features,
        labels: Integers,
        validation: Features,
        validation_labels: Integers,
        *,
        k: int,
    ) -> Neighbours:
        found = knn.predict(train, labels, validation, k=k)
        return cls(train, labels, k, float((found == validation_labels).mean()))

    def classify(self, features: Features) -> Integers:
        return knn.predict(self.bank, self.labels, features, k=self.k)


@dataclass(frozen=True)
class _Reading:
    """One source read by one head at one layer: which test images it got right."""

    source: str
    head: str
    choice: str
    layer: str
    pooling: str
    penalty: float | None
    validation: float
    hits: Bools


def classify(
    sources: Sequence[ImageFeatureSource],
    store: Store,
    *,
    layer: str = "all",
    pooling: str = "mean",
    k: int = knn.K,
    pretraining: Store | None = None,
    resamples: int = 1000,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> ClassificationReport:
    """Score ``sources[0]`` on the store's classes next to the floors ``sources[1:]``.

    ``layer`` names a layer of the first source, or ``all``: every source then chooses its own on
    the validation split, for each head, from at most COMPARED training images. A floor that has
    the first source's layers is also read at the layer that one chose. ``k`` is the number of
    neighbours. ``pretraining`` is the store the encoder was trained on, for the search for
    copies. ``resamples`` bootstrap resamples of the test images are drawn by ``seed``. Images
    without a label are left out, and counted.

    Raises LatentcastError for an unknown layer, for ``cls``, for images that two splits share,
    and for a store without labels, with one class only, or with an empty split.
    """
    tested = sources[0]
    check_pooling(pooling, causal=tested.causal)
    if layer not in ("all", *tested.layer_names):
        known = ("all", *tested.layer_names)
        raise LatentcastError(f"layer {layer}: {tested.name} has none; {nearest(layer, known)}")
    if len({source.name for source in sources}) < len(sources):
        raise LatentcastError("probe: two sources have one name; name them apart")
    if k < 1 or resamples < 1:
        raise LatentcastError(f"probe: k is {k}, resamples {resamples}; ask for one or more")
    held = {split: store.rows(split) for split in SPLITS}
    labelled = {split: rows[store.class_ids[rows] >= 0] for split, rows in held.items()}
    _check_classes(store, labelled)
    for finding in duplicates.check(store, pretraining):
        raise LatentcastError(
            f"{store.path}: {finding.kind}: {finding.count} cases "
            f"({', '.join(finding.examples)}); {finding.message}"
        )

    rows = np.concatenate(list(labelled.values()))
    places = np.split(np.arange(len(rows)), np.cumsum([len(labelled[s]) for s in SPLITS])[:-1])
    y = store.class_ids[rows].astype(np.int64)
    heads: dict[str, Fit] = {
        "kNN": lambda *data: Neighbours.fit(*data, k=k),
        "linear": fit_head,
    }
    readings: list[_Reading] = []
    chosen: dict[str, str] = {}
    for source in sources:
        features = extract_images(source, store, rows, pooling=pooling)
        for name, fit in heads.items():
            wanted = [(OWN, "all") if layer not in features else ("named", layer)]
            if source is not tested and chosen[name] in features and layer == "all":
                wanted.append((f"layer of {tested.name}", chosen[name]))
            heads_at: dict[str, tuple[Head, Bools]] = {}
            for choice, at in wanted:
                if at == "all":
                    at = _best_layer(features, y, places, fit, seed)
                if at not in heads_at:
                    heads_at[at] = _read(features[at], y, places, fit)
                head, hits = heads_at[at]
                chosen.setdefault(name, at)
                how = pooling_of(source, pooling)
                readings.append(
                    _Reading(
                        source.name, name, choice, at, how, head.penalty, head.validation, hits
                    )
                )
    table, differences = _estimates(readings, resamples, seed)
    return ClassificationReport(
        images={split: len(found) for split, found in labelled.items()},
        images_left_out={split: len(held[split]) - len(labelled[split]) for split in SPLITS},
        classes=_supports(store, labelled),
        majority=float((y[places[2]] == np.bincount(y[places[0]]).argmax()).mean()),
        k=k,
        compared=min(COMPARED, len(places[0])),
        rows=table,
        differences=differences,
        data={"store": str(store.path), "shards": store.checksums},
        bootstrap={
            "resamples": resamples,
            "level": metrics.LEVEL,
            "seed": seed,
            "unit": "image",
            "units": len(places[2]),
        },
        provenance=dict(provenance or {}),
    )


def _check_classes(store: Store, labelled: Mapping[str, Integers]) -> None:
    if not store.classes or not any(len(rows) for rows in labelled.values()):
        raise LatentcastError(
            f"{store.path}: holds no labels; ingest images in one folder a class, or arrays with "
            "labels beside them"
        )
    for split, rows in labelled.items():
        if not len(rows):
            raise LatentcastError(
                f"{store.path}: no labelled image in the {split} split; ingest a larger part of "
                "the source"
            )
    present = np.unique(store.class_ids[labelled["train"]])
    if len(present) < 2:
        raise LatentcastError(
            f"{store.path}: all labelled images of the train split are of class "
            f"'{store.classes[present[0]]}'; ingest images of two classes or more"
        )


def _best_layer(
    layers: Mapping[str, Features], y: Integers, places: Sequence[Integers], fit: Fit, seed: int
) -> str:
    """The layer with the highest validation accuracy; a draw goes to the earlier one."""
    if len(layers) == 1:
        return next(iter(layers))
    train, validation, _ = places
    order = randomness.permutation(randomness.key(seed, "layer choice"), len(train))
    some = train[np.sort(order[:COMPARED])]
    if len(np.unique(y[some])) < 2:
        some = train
    accuracies = {
        name: fit(held[some], y[some], held[validation], y[validation]).validation
        for name, held in layers.items()
    }
    return max(accuracies, key=accuracies.__getitem__)


def _read(
    features: Features, y: Integers, places: Sequence[Integers], fit: Fit
) -> tuple[Head, Bools]:
    """The head fitted on all training images, and which test images it gets right."""
    train, validation, test = places
    head = fit(features[train], y[train], features[validation], y[validation])
    return head, head.classify(features[test]) == y[test]


def redrawn_accuracies(hits: Bools, resamples: int, seed: int) -> Floats:
    """Accuracy (resamples, readings) of ``hits`` (images, readings), images drawn anew.

    Every reading sees the same draws, which is what makes their differences paired.
    """
    images, readings = hits.shape
    stream = randomness.key(seed, "bootstrap")
    accuracies = np.empty((resamples, readings))
    values = hits.astype(np.float64)
    # One resample at a time: all counts at once are gigabytes for a large test split.
    for r in range(resamples):
        picks = randomness.uniform(stream, np.arange(r * images, (r + 1) * images)) * images
        accuracies[r] = np.bincount(picks.astype(np.int64), minlength=images) @ values / images
    return accuracies


def _estimates(
    readings: Sequence[_Reading], resamples: int, seed: int
) -> tuple[tuple[HeadRow, ...], tuple[HeadDifference, ...]]:
    """Intervals of every reading, and of the first source minus every other, head by head."""
    hits = np.stack([reading.hits for reading in readings], axis=1)
    values, redrawn = hits.mean(axis=0), redrawn_accuracies(hits, resamples, seed)
    first: dict[str, int] = {}
    table: list[HeadRow] = []
    differences: list[HeadDifference] = []
    for i, x in enumerate(readings):
        accuracy = _estimate(values[i], redrawn[:, i])
        table.append(
            HeadRow(
                x.source, x.head, x.choice, x.layer, x.pooling, x.penalty, x.validation, accuracy
            )
        )
        if (own := first.setdefault(x.head, i)) == i:
            continue
        gap = _estimate(values[own] - values[i], redrawn[:, own] - redrawn[:, i])
        differences.append(HeadDifference(readings[own].source, x.source, x.head, x.choice, gap))
    return tuple(table), tuple(differences)


def _estimate(value: float, redrawn: Floats) -> Estimate:
    low, high = np.quantile(redrawn, [(1 - metrics.LEVEL) / 2, (1 + metrics.LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def _supports(store: Store, labelled: Mapping[str, Integers]) -> tuple[ClassSupport, ...]:
    counts = {
        split: np.bincount(store.class_ids[rows], minlength=len(store.classes)).tolist()
        for split, rows in labelled.items()
    }
    return tuple(
        ClassSupport(name, {split: held[c] for split, held in counts.items()})
        for c, name in enumerate(store.classes)
    )
