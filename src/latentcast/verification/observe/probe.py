"""A probe of labelled fixtures, run by the library's own protocol and watched from outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.evaluation import features, protocol
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tasks import task
from latentcast.verification.observe.pictures import pictures
from latentcast.verification.observe.recordings import has_twelve_leads, is_ecg, recordings
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
State = tuple[dict[str, Tensor], dict[str, bool]]
"""Of a module: :func:`state_of`."""
RESAMPLES = 25
FITTED = ("penalty", "validation", "weights", "intercepts", "bank", "targets", "classes")
"""What is fitted or chosen, in heads of all kinds."""
Calls = list[tuple[tuple[Any, ...], Any]]


def can_be_probed(twin: Twin) -> bool:
    """There are labelled fixtures in its shape."""
    return not is_ecg(twin) or has_twelve_leads(twin)


@contextmanager
def calls_of(owner: Any, name: str) -> Iterator[Calls]:
    """Every call of a function while the context lasts: its arguments, and its result."""
    live, calls = getattr(owner, name), Calls()

    def recording(*args: Any, **options: Any) -> Any:
        result = live(*args, **options)
        calls.append((args, result))
        return result

    with mock.patch.object(owner, name, recording):
        yield calls


@dataclass(frozen=True)
class Fit:
    """A fitted head, as numbers.

    Attributes:
        layer: that it reads.
        numbers: all that was fitted or chosen, by name.
    """

    head: Any
    layer: str
    numbers: Mapping[str, Array]

    @classmethod
    def of(cls, layer: str, head: Any) -> Fit:
        fitted = {name: getattr(head, name, None) for name in FITTED}
        numbers = {name: np.asarray(value) for name, value in fitted.items() if value is not None}
        if (scale := getattr(head, "standardise", None)) is not None:
            numbers |= {"mean": scale.mean, "std": scale.std}
        return cls(head, layer, numbers)

    def differs(self, other: Fit) -> list[str]:
        """Names of the numbers that are not the same bits."""
        names = sorted(set(self.numbers) | set(other.numbers))
        differing = [
            name for name in names
            if name not in self.numbers or name not in other.numbers
            or not np.array_equal(self.numbers[name], other.numbers[name])
        ]  # fmt: skip
        return differing + ["layer"] * (self.layer != other.layer)


@dataclass(frozen=True)
class Scored:
    """A probe of the trained encoder.

    Attributes:
        report: as the protocol gives it.
        fits: heads in the order in which they were fitted for the table.
        before, after: weights, modes and flags of the encoder.
    """

    report: ProbeReport
    fits: tuple[Fit, ...]
    before: State
    after: State


def encoder(twin: Twin) -> Encoder:
    """What a user loads of the twin's run; a new one each time."""
    return Encoder.from_pretrained(twin.trained().folder, device="cpu")


def labelled_store(twin: Twin) -> Store:
    """The fixtures that are probed: of every record or image the label is written here."""
    return recordings(twin).cohort.store if is_ecg(twin) else pictures(twin).store


def scored(twin: Twin) -> Scored:
    """The trained encoder on the labelled fixtures; the same probe when asked again."""
    return twin.once("scored", lambda: score(twin, labelled_store(twin)))


def score(twin: Twin, store: Store) -> Scored:
    """A probe of the trained encoder by the protocol of the data."""
    source: Any = encoder(twin)
    before = state_of(source.objective)
    with calls_of(protocol, "choose_layer") as read:
        report = protocol.probe([source], store, task(None, store), resamples=RESAMPLES)
    fits = tuple(Fit.of(layer, head) for _, (layer, head) in read)
    return Scored(report, fits, before, state_of(source.objective))


def other_test(twin: Twin) -> Store:
    """The same data but for its test split, of which every sample and label is another."""
    own = labelled_store(twin)
    folder = twin.folder / "another test split"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(own.path, folder)
    changed = Store.open(folder)
    test = own.rows("test")
    shard = np.load(folder / own.manifest.shards[0].file, mmap_mode="r+")
    if changed.modality == "ecg":
        begins = np.concatenate([[0], np.cumsum(changed.lengths)])
        first, second = changed.labels.codes.index("NORM"), changed.labels.codes.index("IMI")
        for row in test.tolist():
            here = slice(int(begins[row]), int(begins[row + 1]))
            shard[here] = shard[here][::-1] // 2 + 37
            codes = slice(int(changed.labels.indptr[row]), int(changed.labels.indptr[row + 1]))
            labels = changed.labels.indices[codes]
            swapped = np.where(labels == first, second, np.where(labels == second, first, labels))
            changed.labels.indices[codes] = swapped
    else:
        for row in test.tolist():
            shard[row] = 255 - shard[row] // 2
        changed.class_ids[test] = (changed.class_ids[test] + 1) % 3
    shard.flush()
    return changed


def features_of(
    twin: Twin, source: Any, rows: Array, pooling: str = "mean"
) -> dict[str, npt.NDArray[np.float32]]:
    """Features of the labelled fixtures by layer, as the protocol extracts them."""
    return features.extract(source, labelled_store(twin), rows, pooling=pooling)


def true_labels(twin: Twin) -> Array:
    """What the source has for each row: bool ``(rows, 3)`` for HYP, MI and NORM, or the class of
    each image."""
    if not is_ecg(twin):
        fixtures = pictures(twin)
        labels = np.zeros(len(fixtures.store), np.int64)
        for split, own in fixtures.labels.items():
            labels[fixtures.rows(split)] = own
        return labels
    codes = [str(row["scp_codes"]) for row in recordings(twin).cohort.rows]
    return np.array([[word in code for word in ("LVH", "IMI", "NORM")] for code in codes])


def rows_of(twin: Twin, split: str) -> Array:
    """Rows of a split by the source."""
    if is_ecg(twin):
        folds = {"train": range(1, 9), "validation": (9,), "test": (10,)}[split]
        return recordings(twin).cohort.members(*folds)
    return np.sort(pictures(twin).rows({"validation": "val"}.get(split, split)))


class Foreign(nn.Module):
    """Somebody's network: it has what changes in training mode, and is in it."""

    layer_names, causal = ("only",), False

    def __init__(self, twin: Twin, name: str = "foreign") -> None:
        super().__init__()
        self.name = name
        shape = twin.config.input
        self.scale = getattr(shape, "scale", 1.0)
        self.sampling_rate = getattr(shape, "sampling_rate", 0.0)
        self.leads = getattr(shape, "leads", ())
        self.length = getattr(shape, "length", 0)
        self.norm = nn.BatchNorm1d(shape.channels)
        self.drop = nn.Sequential(nn.Dropout(0.5), nn.Linear(shape.channels, 4))
        with torch.no_grad():
            for n, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape) + 0.1 * n)
        self.train()
        self.norm.eval()  # a mode of its own, to be restored

    def token_layers(self, samples: Array) -> tuple[list[Tensor], Tensor]:
        parts = torch.from_numpy(samples.astype(np.float32)).flatten(1, -2)
        step = parts.shape[1] // 4
        parts = parts[:, : 4 * step].reshape(len(parts), 4, step, -1).mean(2) * self.scale
        tokens = self.drop(self.norm(parts.transpose(1, 2)).transpose(1, 2))
        return [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool)


def state_of(module: nn.Module) -> State:
    """Copies of weights and buffers; modes, and whether gradients are required, by name."""
    tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}
    flags = {f"{name} trains": one.training for name, one in module.named_modules()}
    flags |= {
        f"{name} requires a gradient": one.requires_grad for name, one in module.named_parameters()
    }
    return tensors, flags


def changes_of_state(before: State, after: State) -> tuple[list[str], list[str]]:
    """Names of tensors and of flags that are not what they were."""
    (tensors, flags), (later, now) = before, after
    moved = sorted(tensors.keys() ^ later.keys())
    moved += [n for n in tensors.keys() & later.keys() if not torch.equal(tensors[n], later[n])]
    return moved, [name for name in flags if flags[name] != now[name]]


def naive_auroc(positive: Array, scores: Array) -> float:
    """Over all pairs of a positive and a negative; ties half; NaN where there is no pair."""
    won, pairs = 0.0, 0
    for up in scores[positive]:
        for down in scores[~positive]:
            won, pairs = won + float(up > down) + 0.5 * float(up == down), pairs + 1
    return won / pairs if pairs else float("nan")


def mean_of_defined(values: list[float]) -> float:
    """NaN left out."""
    defined = [value for value in values if value == value]
    return sum(defined) / len(defined) if defined else float("nan")


def counted_score(targets: Array, predictions: Array) -> float:
    """Macro AUROC pair by pair, of ``(rows, classes)``; or accuracy, of classes ``(rows,)``."""
    if targets.ndim == 1:
        return float((targets == predictions).mean())
    columns = zip(targets.T, predictions.T, strict=True)
    return mean_of_defined([naive_auroc(own, scores) for own, scores in columns])
