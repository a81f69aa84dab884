"""A fine-tuning of labelled fixtures by the library's own workflow, and what its optimizer saw."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from latentcast.artifacts.classifier import Classifier
from latentcast.data.store import Store
from latentcast.data.tables.attached import label
from latentcast.verification.observe.probe import labelled_store, rows_of, true_labels
from latentcast.verification.observe.twin import Twin
from latentcast.workflows.finetune import FinetuneResult, finetune

TASK, EPOCHS, BATCH, LR, DECAY = "sick", 3, 4, 2e-3, 0.6
"""Batches so small that the warm-up takes more than one step."""


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned twin.

    Attributes:
        rates: learning rate of each parameter by name, at each step of the optimizer.
        store: with the table that it was trained on.
    """

    result: FinetuneResult
    rates: Sequence[dict[str, float]]
    store: Store

    @property
    def classifier(self) -> Classifier:
        return Classifier.from_pretrained(self.result.run, device="cpu")


def tuned(twin: Twin) -> Tuned:
    """The trained twin, fine-tuned on a label table; the same one when asked again."""
    return twin.once("tuned", lambda: _tuned(twin, "tuned", _sick(twin)))


def tuned_beside_other_test_labels(twin: Twin) -> Tuned:
    """Again, where the label of every test record is the other one."""
    sick, test = _sick(twin), rows_of(twin, "test")
    sick[test] = ~sick[test]
    return _tuned(twin, "tuned beside other test labels", sick)


def attached(twin: Twin, name: str, sick: npt.NDArray[np.bool_], stratify: bool = False) -> Store:
    """A copy of the labelled fixtures with a table of one label, written here."""
    folder = Path(shutil.copytree(labelled_store(twin).path, twin.folder / f"{name} store"))
    store, table = Store.open(folder), twin.folder / f"{name}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["record_id", TASK])
        writer.writerows(zip(store.record_ids.tolist(), sick.astype(int).tolist(), strict=True))
    label(store, table, name="labels", stratify=stratify)
    return Store.open(folder)


def _sick(twin: Twin) -> npt.NDArray[np.bool_]:
    """Each of the first labels of the fixtures, of images the first class."""
    labels = true_labels(twin)
    return np.asarray(labels == 0 if labels.ndim == 1 else labels[:, 0]).astype(bool)


def _tuned(twin: Twin, name: str, sick: npt.NDArray[np.bool_]) -> Tuned:
    store, rates = attached(twin, name, sick), list[dict[str, float]]()
    pretrained = twin.trained().folder  # before the hook: its steps are not those of a fine-tuning

    def look(optimizer: Optimizer, *_: Any) -> None:
        rates.append({n: g["lr"] for g in optimizer.param_groups for n in g["names"]})

    hook = register_optimizer_step_pre_hook(look)
    try:
        done = finetune(
            pretrained, store.path, twin.folder / name, TASK, epochs=EPOCHS,
            batch_size=BATCH, lr=LR, layer_decay=DECAY, seed=twin.seed, quiet=True,
        )  # fmt: skip
    finally:
        hook.remove()
    return Tuned(done, rates, store)
