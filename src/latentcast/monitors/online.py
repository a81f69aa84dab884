"""Do the features get better? kNN and a linear probe on a fixed labelled panel, while training.

The numbers are watched and never reported. The panel is small, and the probe's penalty is chosen
on the validation records it is scored on; a report comes from :mod:`latentcast.evaluation.protocol`
and its test split, which is not touched here.

The probe is the exact minimum of a convex loss, found anew at each look by an optimizer of its
own: the numbers are then a function of the weights alone. A head trained along with the network
would be one more state to save, would lag behind the features it reads, and its number would mix
how good they are with how long it has been trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from latentcast import randomness
from latentcast.config import Config
from latentcast.data.image_store import ImageStore
from latentcast.data.store import Store
from latentcast.engine.context import Context
from latentcast.engine.loop import Preprocess
from latentcast.evaluation import knn
from latentcast.evaluation.features import evaluating
from latentcast.evaluation.heads import fit_probe
from latentcast.evaluation.metrics import auroc, macro
from latentcast.evaluation.multinomial import fit_head
from latentcast.evaluation.tasks import Task, task
from latentcast.nn.pooling import BATCH, Pooling, pool
from latentcast.objectives.base import Objective

SIZE = 512
"""Samples of each split at the most: a look costs what ten training steps of the demo do."""
CLASSES, LABELS = 32, 16
"""At the most: of a thousand classes the panel would hold half an image each."""
NO_LABELS = "the store has no labels in its train and validation splits"

Features = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Panel:
    """A fixed draw of labelled training and validation samples, and what is read from it.

    Attributes:
        config: of the run.
        store: what it is trained on.
        rows: ``(N,)`` of the store, those of the training split first; none when there are no
            labels.
        fitted: how many of them the heads are fitted to; the others are scored.
        targets: of images the class ``(N,)``, of recordings the labels, bool ``(N, labels)``.
        summary: what there is to see, or why there is nothing, for the log.
    """

    config: Config
    store: Store | ImageStore
    rows: Ints
    fitted: int
    targets: Ints | Bools
    summary: str

    @classmethod
    def of(cls, store: Store | ImageStore, config: Config) -> Panel:
        """Drawn by the run's seed: the same for all of its looks, and for those after a resume."""
        every, seed = config.train.evaluate_every, config.train.seed
        found: _Labelled | str = "train.evaluate_every is null"
        if every is not None:
            found = (
                _images(store, seed) if isinstance(store, ImageStore) else _recordings(store, seed)
            )
        if isinstance(found, str):
            nothing = np.zeros(0, dtype=np.int64)
            return cls(config, store, nothing, 0, nothing, f"no online evaluation: {found}")
        return cls(
            config,
            store,
            np.concatenate([found.train, found.validation]),
            len(found.train),
            found.targets,
            f"online evaluation every {every} steps: kNN and a linear probe of block "
            f"{_depth(config)}, {found.what}, fitted to {len(found.train)} of the training split, "
            f"scored on {len(found.validation)} of the validation split; to watch, not to report",
        )

    def due(self, step: int) -> bool:
        """Whether the row of this step takes a look.

        The first row does, which shows where the untrained network stands, the last one, and the
        first at or after every multiple of ``train.evaluate_every``.
        """
        train = self.config.train
        if not len(self.rows) or train.evaluate_every is None:
            return False
        return step in (1, train.steps) or step % train.evaluate_every < train.log_every

    def look(
        self, objective: Objective, preprocess: Preprocess, context: Context
    ) -> dict[str, float]:
        """``online_knn`` and ``online_linear``: accuracy of images, macro AUROC of recordings.

        Every rank calls it and gets the same: shards are gathered by all ranks or by none. NaN
        where nothing can be said, as of features that are not finite. Nothing of the training is
        changed: not weights, modes, random numbers or compiled code.
        """
        features, read = self._features(objective, preprocess, context)
        # A record of which no patch is valid has no features, whatever the weights are.
        train, validation = (
            part[read[part]] for part in np.split(np.arange(len(read)), [self.fitted])
        )
        if not np.isfinite(features[read]).all():
            return _named(math.nan, math.nan)
        if isinstance(self.store, ImageStore):
            return _accuracies(features, self.targets.astype(np.int64), train, validation)
        return _areas(features, self.targets.astype(np.bool_), train, validation)

    def _features(
        self, objective: Objective, preprocess: Preprocess, context: Context
    ) -> tuple[Features, Bools]:
        """Pooled features ``(N, F)`` of the teacher, and of which records there are any."""
        network, layer = objective.encoder("teacher"), _depth(self.config)
        how: Pooling = "mean" if isinstance(self.store, ImageStore) else "mean+std"
        parts, read = [], []
        # no_grad and not inference_mode: a table that is computed and kept here is one that the
        # next training step reads.
        with torch.no_grad(), evaluating(network), _eager(self.config), _gathered(objective):
            for begin in range(0, len(self.rows), BATCH):
                samples = torch.from_numpy(self._samples(self.rows[begin : begin + BATCH]))
                inputs = preprocess(samples.to(context.device), None)
                valid = None
                if inputs.valid is not None:
                    valid = network.valid(inputs.valid)
                with context.autocast():
                    tokens = network.read(inputs.values, valid)[layer]
                counted = (
                    torch.ones_like(tokens[..., 0], dtype=torch.bool) if valid is None else valid
                )
                parts.append(pool(tokens.float(), counted, how).cpu())
                read.append(counted.any(dim=1).cpu())
        return torch.cat(parts).numpy(), torch.cat(read).numpy()

    def _samples(self, rows: Ints) -> npt.NDArray[np.int16] | npt.NDArray[np.uint8]:
        """Whole images, or of each recording the window in its middle."""
        if isinstance(self.store, ImageStore):
            return self.store.take(rows)
        (length,) = self.config.input.size
        return self.store.take(rows, np.maximum(self.store.lengths[rows] - length, 0) // 2, length)


def _depth(config: Config) -> int:
    """The block that is read, counted from 1: three quarters up.

    The last ones turn to what the objective asks for. Of the tiny recipes on PTB-XL the linear
    probe tells the trained NEPA from the untrained one by 0.06 in AUROC there, and by 0.01 at the
    final norm (docs/decisions.md).
    """
    return -(-3 * config.encoder.depth // 4)


@contextmanager
def _eager(config: Config) -> Iterator[None]:
    """As Python says it: sizes and modes that training never has would be compiled beside its own,
    and at the limit of recompilations training itself would fall back, to other bits."""
    if not config.machine.compile:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _gathered(objective: Objective) -> Iterator[None]:
    """FSDP gathers a block when it is called, and all else when the objective is, which here is
    not."""
    shards: Any = objective
    if not hasattr(shards, "unshard"):
        yield
        return
    shards.unshard()
    try:
        yield
    finally:
        shards.reshard()


def _accuracies(
    features: Features, classes: Ints, train: Ints, validation: Ints
) -> dict[str, float]:
    fitted, scored = (features[train], classes[train]), (features[validation], classes[validation])
    hits = knn.predict(*fitted, scored[0]) == scored[1]
    try:
        linear = fit_head(*fitted, *scored).validation
    except FloatingPointError:  # not converged: a number less to watch, no reason to stop
        linear = math.nan
    return _named(float(hits.mean()), linear)


def _areas(features: Features, labels: Bools, train: Ints, validation: Ints) -> dict[str, float]:
    labels = labels[:, _told(labels[train]) & _told(labels[validation])]
    if not labels.shape[1]:
        return _named(math.nan, math.nan)
    rows, similarities = knn.neighbours(features[train], features[validation])
    shares = []
    for label in labels[train].astype(np.int64).T:
        votes = knn.vote(label[rows], similarities, 2)
        shares.append(votes[:, 1] / votes.sum(axis=1))
    areas = auroc(labels[validation], np.stack(shares, axis=1))
    try:
        linear = fit_probe({"": features}, labels, train, validation).validation
    except FloatingPointError:
        linear = math.nan
    return _named(float(macro(areas)), linear)


def _named(neighbours: float, linear: float) -> dict[str, float]:
    return {"online_knn": neighbours, "online_linear": linear}


class _Labelled(NamedTuple):
    """Rows of the store, the targets of those of both in order, and what is measured."""

    train: Ints
    validation: Ints
    targets: Ints | Bools
    what: str


def _images(store: ImageStore, seed: int) -> _Labelled | str:
    """At most CLASSES classes, drawn by the seed where there are more."""
    known = np.unique(store.labels[store.rows("train")])
    known = known[known >= 0]
    drawn = randomness.permutation(randomness.key(seed, "online classes"), len(known))[:CLASSES]
    chosen = np.isin(store.labels, known[drawn])
    train, validation = _draw(store, chosen, seed)
    if not len(train) or not len(validation):
        return NO_LABELS
    if len(np.unique(store.labels[train])) < 2:
        return "all labelled training images are of one class"
    targets = store.labels[np.concatenate([train, validation])]
    return _Labelled(train, validation, targets, f"accuracy over {len(drawn)} classes")


def _recordings(store: Store, seed: int) -> _Labelled | str:
    """The superdiagnostic classes where all codes are statements of PTB-XL, otherwise the LABELS
    codes that most training records carry. Records with none of them are left out."""
    held = [code for code, n in store.labels.counts(store.rows("train")).items() if n]
    asked, kind = task("superdiagnostic"), "superdiagnostic classes"
    diagnoses = {code for codes in asked.members.values() for code in codes}
    if not set(held) <= set(task("all").classes) or not diagnoses & set(held):
        asked, kind = Task("labels", {code: (code,) for code in held[:LABELS]}), "labels"
    if not held:
        return NO_LABELS
    labels, labelled = asked.targets(store.labels)
    train, validation = _draw(store, labelled, seed)
    if not len(train) or not len(validation):
        return NO_LABELS
    told = _told(labels[train]) & _told(labels[validation])
    if not told.any():
        return "no label is both present and absent in its train and in its validation split"
    targets = labels[np.concatenate([train, validation])][:, told]
    return _Labelled(train, validation, targets, f"macro AUROC over {told.sum()} {kind}")


def _draw(store: Store | ImageStore, of: Bools, seed: int) -> tuple[Ints, Ints]:
    """Rows of the train and of the validation split that are among ``of``, in order."""
    drawn = []
    for split in ("train", "validation"):
        rows = store.rows(split)
        rows = rows[of[rows]]
        stream = randomness.key(seed, "online panel", split)
        drawn.append(rows[np.sort(randomness.permutation(stream, len(rows))[:SIZE])])
    return drawn[0], drawn[1]


def _told(labels: Bools) -> Bools:
    """Which labels have positives and negatives."""
    return np.asarray(labels.any(axis=0) & ~labels.all(axis=0))
