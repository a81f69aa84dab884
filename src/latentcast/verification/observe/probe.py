"""A probe of known data, run by the library's own protocol and watched from outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.evaluation import classification, features, protocol
from latentcast.evaluation.tasks import task
from latentcast.verification.observe.data import is_ecg, pictures, recordings
from latentcast.verification.observe.rehearsal import once
from latentcast.verification.observe.twin import Subject

Array = npt.NDArray[Any]
State = tuple[dict[str, Tensor], dict[str, bool]]
"""Of a module: :func:`state_of`."""


@contextmanager
def watched(owner: Any, name: str) -> Iterator[list[tuple[tuple[Any, ...], Any]]]:
    """Every call of a function while the context lasts: its arguments, and what it gave."""
    live, seen = getattr(owner, name), list[tuple[tuple[Any, ...], Any]]()

    def watching(*args: Any, **said: Any) -> Any:
        given = live(*args, **said)
        seen.append((args, given))
        return given

    setattr(owner, name, watching)
    try:
        yield seen
    finally:
        setattr(owner, name, live)


@dataclass(frozen=True)
class Fit:
    """A fitted head, as numbers.

    Attributes:
        layer: that it read, where it says so.
        numbers: all that was fitted or chosen, by name.
    """

    head: Any
    layer: str
    numbers: Mapping[str, Array]

    @classmethod
    def of(cls, head: Any) -> Fit:
        told: dict[str, Array] = {}
        for name in ("penalty", "validation", "weights", "intercepts", "bank", "labels", "classes"):
            value = getattr(head, name, None)
            if value is not None:
                told[name] = np.asarray(value)
        if (by := getattr(head, "standardise", None)) is not None:
            told |= {"mean": by.mean, "std": by.std}
        return cls(head, getattr(head, "layer", ""), told)

    def differs(self, other: Fit) -> list[str]:
        """Names of the numbers that are not the same bits."""
        names = sorted(set(self.numbers) | set(other.numbers))
        found = [
            name for name in names
            if name not in self.numbers or name not in other.numbers
            or not np.array_equal(self.numbers[name], other.numbers[name])
        ]  # fmt: skip
        return found + ["layer"] * (self.layer != other.layer)


@dataclass(frozen=True)
class Scored:
    """What a probe of the trained encoder and its floor did.

    Attributes:
        report: as the protocol gives it.
        fits: heads in the order in which they were fitted for the table.
        before, after: weights, modes and flags of the encoder.
    """

    report: Any
    fits: tuple[Fit, ...]
    before: State
    after: State


def encoder(subject: Subject) -> Encoder:
    """What a user loads of the subject's run; a new one each time."""
    return Encoder.from_pretrained(subject.trained().folder)


def store(subject: Subject) -> Store:
    """The known data that is probed."""
    return recordings(subject).cohort.store if is_ecg(subject) else pictures(subject).store


def scored(subject: Subject) -> Scored:
    """The trained encoder on the known data; the same probe when asked again."""
    return once(subject, "scored", lambda: score(subject, store(subject)))


def score(subject: Subject, held: Store) -> Scored:
    """A probe of the trained encoder by the protocol of the data."""
    source: Any = encoder(subject)
    before = state_of(source.objective)
    if held.modality == "ecg":
        with watched(protocol, "fit_probe") as fitted:
            report: Any = protocol.probe([source], held, task("superdiagnostic"), resamples=25)
        fits = [Fit.of(head) for _, head in fitted]
    else:
        with watched(classification, "_read") as read:
            report = classification.classify([source], held, k=5, resamples=25)
        fits = [Fit.of(head) for _, (head, _) in read]
    return Scored(report, tuple(fits), before, state_of(source.objective))


def other_test(subject: Subject) -> Store:
    """The same data but for its test split, of which every sample and label is another."""
    own = store(subject)
    folder = subject.folder / "another test split"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(own.path, folder)
    changed = type(own).open(folder)
    test = own.rows("test")
    shard = np.load(folder / own.manifest.shards[0].file, mmap_mode="r+")
    if changed.modality == "ecg":
        begins = np.concatenate([[0], np.cumsum(changed.lengths)])
        first, second = changed.labels.codes.index("NORM"), changed.labels.codes.index("IMI")
        for row in test.tolist():
            here = slice(int(begins[row]), int(begins[row + 1]))
            shard[here] = shard[here][::-1] // 2 + 37
            codes = slice(int(changed.labels.indptr[row]), int(changed.labels.indptr[row + 1]))
            held = changed.labels.indices[codes]
            swapped = np.where(held == first, second, np.where(held == second, first, held))
            changed.labels.indices[codes] = swapped
    else:
        for row in test.tolist():
            shard[row] = 255 - shard[row] // 2
        changed.class_ids[test] = (changed.class_ids[test] + 1) % 3
    shard.flush()
    return changed


def readings(
    subject: Subject, source: Any, rows: Array, pooling: str = "mean"
) -> dict[str, npt.NDArray[np.float32]]:
    """Features by layer, as the protocol extracts them."""
    held = store(subject)
    if held.modality == "ecg":
        return features.extract(source, held, rows, pooling=pooling)
    return features.extract_images(source, held, rows, pooling=pooling)


def truth(subject: Subject) -> Array:
    """What the source says of each row: bool ``(rows, 3)`` for HYP, MI and NORM, or the class of
    each image."""
    if not is_ecg(subject):
        held = pictures(subject)
        labels = np.zeros(len(held.store), np.int64)
        for split, own in held.labels.items():
            labels[held.rows(split)] = own
        return labels
    codes = [str(row["scp_codes"]) for row in recordings(subject).cohort.rows]
    return np.array([[word in code for word in ("LVH", "IMI", "NORM")] for code in codes])


def rows_of(subject: Subject, split: str) -> Array:
    """Rows of a split by what the source says."""
    if is_ecg(subject):
        folds = {"train": range(1, 9), "validation": (9,), "test": (10,)}[split]
        return recordings(subject).cohort.members(*folds)
    return np.sort(pictures(subject).rows({"validation": "val"}.get(split, split)))


class Foreign(nn.Module):
    """Somebody's network: it has what changes in training mode, and is in it."""

    name, layer_names, causal = "foreign", ("only",), False

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        wanted = subject.config.input
        self.scale = getattr(wanted, "scale", 1.0)
        self.sampling_rate = getattr(wanted, "sampling_rate", 0.0)
        self.leads = getattr(wanted, "leads", ())
        self.length = getattr(wanted, "length", 0)
        self.norm = nn.BatchNorm1d(wanted.channels)
        self.drop = nn.Sequential(nn.Dropout(0.5), nn.Linear(wanted.channels, 4))
        with torch.no_grad():
            for n, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape) + 0.1 * n)
        self.train()
        self.norm.eval()  # modes of its own, to be given back

    def token_layers(self, samples: Array) -> tuple[list[Tensor], Tensor]:
        parts = torch.from_numpy(samples.astype(np.float32)).flatten(1, -2)
        step = parts.shape[1] // 4
        parts = parts[:, : 4 * step].reshape(len(parts), 4, step, -1).mean(2) * self.scale
        tokens = self.drop(self.norm(parts.transpose(1, 2)).transpose(1, 2))
        return [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool)


def state_of(module: nn.Module) -> State:
    """Copies of weights and buffers; modes, and whether gradients are asked for, by name."""
    tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}
    flags = {f"{name} trains": one.training for name, one in module.named_modules()}
    flags |= {f"{name} asks": one.requires_grad for name, one in module.named_parameters()}
    return tensors, flags


def naive_auroc(positive: Array, scores: Array) -> float:
    """Over all pairs of a positive and a negative; ties half; NaN where there is no pair."""
    won, pairs = 0.0, 0
    for up in scores[positive]:
        for down in scores[~positive]:
            won, pairs = won + float(up > down) + 0.5 * float(up == down), pairs + 1
    return won / pairs if pairs else float("nan")


def mean_of_defined(values: list[float]) -> float:
    """NaN left out."""
    kept = [value for value in values if value == value]
    return sum(kept) / len(kept) if kept else float("nan")
