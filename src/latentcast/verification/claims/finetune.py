"""Fine-tuning: who is trained on, at which rates, what is chosen on which split, and crops."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from latentcast.artifacts.choice import CHOICE
from latentcast.config import EncoderConfig
from latentcast.data.manifest import SPLITS
from latentcast.evaluation.predictions import predict
from latentcast.evaluation.supervision import supervision
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, none
from latentcast.verification.observe.config import has_transformer
from latentcast.verification.observe.finetune import (
    BATCH,
    DECAY,
    EPOCHS,
    LR,
    TASK,
    attached,
    tuned,
    tuned_beside_other_test_labels,
)
from latentcast.verification.observe.probe import can_be_probed, rows_of
from latentcast.verification.observe.recordings import has_twelve_leads, recordings
from latentcast.verification.observe.twin import Twin

OURS = "our protocol, docs of workflows/finetune.py"


def _has_blocks(twin: Twin) -> bool:
    return can_be_probed(twin) and has_transformer(twin)


@claim("finetune.patients", "Folds that are drawn for a label table, and the share of the training "
       "labels that is used, keep the records of a patient together; a smaller share is a subset "
       "of a larger one.", source=OURS, about=has_twelve_leads)  # fmt: skip
def patients(twin: Twin) -> Evidence:
    cohort = recordings(twin).cohort
    owner = np.array([row["patient_id"] for row in cohort.rows])
    store = attached(twin, "drawn", np.arange(len(owner)) % 3 == 0, stratify=True)
    drawn = supervision(store, TASK).targets.folds
    assert drawn is not None
    split_of = {fold: split for split, folds in SPLITS.items() for fold in folds}
    torn = [p for p in np.unique(owner) if len({split_of[f] for f in drawn[owner == p]}) > 1]
    used = [supervision(tuned(twin).store, TASK, share, seed=3).rows["train"] for share in
            (0.2, 0.5, 1.0)]  # fmt: skip
    train = rows_of(twin, "train")
    halved = [
        (share, p)
        for share, rows in zip((0.2, 0.5, 1.0), used, strict=True)
        for p in np.unique(owner[rows])
        if not set(train[owner[train] == p]) <= set(rows)
    ]
    return all_of(
        none("patients in two splits", torn),
        equal("splits that have records", len({split_of[fold] for fold in drawn}), 3),
        none("patients of whom a part is used", halved),
        none("of a smaller share and not of a larger one",
             [row for few, more in pairwise(used)
              for row in few if row not in more]),
        equal("patients used of 16, a fifth", len(np.unique(owner[used[0]])), 4),
    )  # fmt: skip


@claim("finetune.test-unseen", "Checkpoint, weights, temperature and thresholds do not depend on "
       "the labels of the test split.", source=OURS, about=can_be_probed)  # fmt: skip
def test_labels(twin: Twin) -> Evidence:
    """Two fine-tunings that differ in every label of the test split and in nothing else."""
    one, other = tuned(twin), tuned_beside_other_test_labels(twin)
    first, second = one.classifier, other.classifier
    weights, again = (found.network.state_dict() for found in (first, second))
    return all_of(
        none("weights that differ", [n for n in weights if not torch.equal(weights[n], again[n])]),
        equal("the same choice", (one.result.run / CHOICE).read_text()
              == (other.result.run / CHOICE).read_text(), True),
        equal("test records whose label is another", _others(twin), len(rows_of(twin, "test"))),
        above("thresholds", len(first.choice.thresholds), 0),
        test_score=one.result.score.main.value, of_the_other_labels=other.result.score.main.value,
    )  # fmt: skip


def _others(twin: Twin) -> int:
    """Test records of which the two tables have different labels, as the task reads them."""
    test = rows_of(twin, "test")
    folder = twin.folder / "tuned beside other test labels store"
    stores = tuned(twin).store, type(tuned(twin).store).open(folder)
    own, other = (supervision(store, TASK).targets.values[test] for store in stores)
    return int((own != other).sum())


@claim("finetune.crops", "The prediction of a recording is the mean of the probabilities of its "
       "crops, which step by half of one to its end.",
       source="Strodthoff et al. 2021: test crops averaged", about=has_twelve_leads)  # fmt: skip
def crops(twin: Twin) -> Evidence:
    """Against a loop over crops that are cut here, one at a time. Outputs are spread out to 0 to 4
    first: those of a barely trained network hardly differ."""
    found, rows = tuned(twin).classifier, np.array([4, 7])
    cohort, length = recordings(twin).cohort, twin.config.input.size[0]

    def cut(row: int) -> list[npt.NDArray[np.int16]]:
        counts = cohort.counts()[row].T.astype(np.int16)
        room = len(counts) - length
        starts = (*range(0, room, length // 2), room)
        return [counts[start : start + length][None] for start in starts]

    with torch.no_grad():
        outputs = [np.array([float(found.outputs(part)) for part in cut(row)]) for row in rows]
    least = min(part.min() for part in outputs)
    gain = 4 / max(max(part.max() for part in outputs) - least, 1e-12)

    def spread_out(samples: npt.NDArray[Any]) -> torch.Tensor:
        outputs: torch.Tensor = (found.outputs(samples).double() - least) * gain
        return outputs

    measured = predict(spread_out, found.network, cohort.store, rows, length, found.settings)
    naive = [1 / (1 + np.exp(-(part - least) * gain)) for part in outputs]
    apart = [
        max(abs(value[0] - crops.mean()), abs(spread[0] - crops.std()))
        for value, spread, crops in zip(measured.values, measured.spread, naive, strict=True)
    ]
    return all_of(
        at_most("largest difference of a mean or a spread", float(max(apart)), 1e-4),
        above("spread over the crops", float(max(crops.std() for crops in naive)), 0.01),
        crops=len(naive[0]),
    )


@claim("finetune.schedule", "The learning rate of the head rises to its peak for a tenth of the "
       "steps and falls to 0 by half a cosine; the steps are so many epochs of the labelled "
       "training records.", source=OURS, about=can_be_probed)  # fmt: skip
def schedule(twin: Twin) -> Evidence:
    found = tuned(twin)
    steps = EPOCHS * math.ceil(len(rows_of(twin, "train")) / BATCH)
    warmup = steps // 10
    worst = 0.0
    for done, rates in enumerate(found.rates, start=1):
        angle = math.pi * (done - warmup) / (steps - warmup)
        expected = LR * (done / warmup if done < warmup else (1 + math.cos(angle)) / 2)
        worst = greatest(worst, abs(rates["student.head.linear.weight"] - expected))
    return all_of(
        equal("steps", len(found.rates), steps),
        at_most("largest difference of a rate", worst, 1e-12),
        above("steps of the warm-up", warmup, 1),
    )


@claim("finetune.layer-decay", "Each layer learns at a constant share of the rate of the layer "
       "above it: the head and the last norm at the rate, the patches at the smallest.",
       source="Clark et al. 2020; BEiT's layer-wise decay", about=_has_blocks)  # fmt: skip
def layer_decay(twin: Twin) -> Evidence:
    """By the names of the parameters."""
    encoder, found = twin.config.encoder, tuned(twin)
    assert isinstance(encoder, EncoderConfig)
    wrong, layers = [], set[int]()
    for name, rate in found.rates[-2].items():
        block = re.search(r"\.blocks\.(\d+)\.", name)
        above_it = 0
        if block:
            above_it = encoder.depth - int(block[1])
        elif ".encoder." in name and ".encoder.norm." not in name:
            above_it = encoder.depth + 1
        layers.add(above_it)
        top = found.rates[-2]["student.head.linear.weight"]
        if not math.isclose(rate, top * DECAY**above_it, rel_tol=1e-9):
            wrong.append(name)
    return all_of(
        none("parameters at another rate", wrong), equal("layers", len(layers), encoder.depth + 2)
    )
