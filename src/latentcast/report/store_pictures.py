"""What only a store can show of an encoder: its features, its errors, and its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import extract, readable
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.subgroups import groupings, in_order
from latentcast.evaluation.tasks import Targets
from latentcast.report.embedding import LEAST
from latentcast.report.patch_error import mean_over_leads
from latentcast.report.picture import Picture
from latentcast.report.pictures import Colours, FeatureMap, Surprise
from latentcast.report.token_maps import token_maps

COLOURED_BY = ("device", "site", "sex")
"""Keys of the metadata that a map is coloured by, where records differ in them."""


def store_pictures(
    encoder: Encoder, store: Store, targets: Targets, probe: ProbeReport | None
) -> tuple[list[Picture], list[str]]:
    """Pictures of the test fold, and a remark for each that is left out.

    Args:
        targets: of the task whose classes colour the map.
        probe: whose layer and pooling are read; without one the encoder's own layer, mean + std of
            recordings and mean of images.
    """
    noun = "image" if store.modality == "image" else "record"
    layer, pooling, windows = encoder.layer, "mean" if noun == "image" else "mean+std", None
    if probe is not None:
        tested = probe.readings()[0]
        layer, pooling, windows = tested.layer, tested.pooling, probe.windows
    rows = store.rows("test")
    rows = rows[targets.mask[rows]]
    if not len(rows):
        return [], [f"without pictures of {store.path}: its test fold has no {noun} of the task"]
    layers = extract(encoder, store, rows, pooling=pooling, windows=windows or "strided")
    read = readable(layers)
    rows, features = rows[read], layers[layer][read]
    drawn, remarks = list[Picture](), list[str]()
    if store.modality == "ecg" and encoder.predicted_from and len(rows):
        drawn.append(_surprise(encoder, store, rows).picture())
    if len(rows):
        drawn += token_maps(encoder, store, rows)
    if len(rows) < LEAST:
        remarks.append(f"without a map of the features: {len(rows)} test {noun}s are too few")
        return drawn, remarks
    labels, classes = _colours(targets, rows)
    of_metadata = _metadata(store, rows)
    where = f"layer {layer}, {pooling}"
    return [
        *drawn, *FeatureMap(features, labels, classes, where, noun, of_metadata).pictures(),
    ], remarks  # fmt: skip


def _colours(
    targets: Targets, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Membership (rows, classes) in what a map is coloured by; of numbers in their quarters."""
    values = targets.values[rows]
    if targets.kind == "multi-label":
        return values, targets.names
    if targets.kind == "multi-class":
        return values[:, None] == np.arange(len(targets.names)), targets.names
    edges = np.unique(np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    ends = list(pairwise(edges)) or [(edges[0], edges[0])]
    place = np.searchsorted(edges[1:-1], values, side="right")
    names = tuple(f"{targets.names[0]} {low:.4g} to {high:.4g}" for low, high in ends)
    return place[:, None] == np.arange(len(names)), names


def _metadata(store: Store, rows: npt.NDArray[np.int64]) -> Mapping[str, Colours]:
    """By each key in which these records differ, unless every value is a record's own."""
    found = {}
    for key in COLOURED_BY:
        try:
            (grouping,) = groupings(store, [key])
        except LatentcastError:  # no record has it, or too many values to tell apart
            continue
        groups = grouping.groups[rows]
        names = sorted(np.unique(groups).tolist(), key=in_order)
        if len(names) > 1:
            found[key] = Colours(groups[:, None] == np.array(names), tuple(names))
    return found


def _surprise(encoder: Encoder, store: Store, rows: npt.NDArray[np.int64]) -> Surprise:
    """The record whose mean prediction error is the median: neither the best nor the worst."""
    complete = rows[store.lengths[rows] >= encoder.length][:256]
    candidates = complete if len(complete) else rows[:256]
    errors = encoder.patch_errors(store.take(candidates, length=encoder.length))
    errors = mean_over_leads(errors, encoder.config.input.lead_rows)
    predicted = np.isfinite(errors)
    total, count = np.where(predicted, errors, 0).sum(axis=1), predicted.sum(axis=1)
    # A record without a single predicted patch counts as the worst.
    means = np.divide(total, count, out=np.full(len(total), np.inf), where=count > 0)
    typical = int(np.argsort(means)[len(means) // 2])
    return Surprise(
        store.recording(int(candidates[typical])),
        errors[typical],
        encoder.patch_seconds,
        encoder.predicted_from or "",
    )
