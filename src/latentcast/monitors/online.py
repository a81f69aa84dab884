"""Do the features get better? kNN and a linear head on a fixed labelled panel, while training.

The numbers are watched and never reported. The panel is small, and the head's penalty is chosen
on the validation records it is scored on; a report comes from :mod:`latentcast.evaluation.protocol`
and its test split, which is not touched here.

The linear head is the exact minimum of a convex loss, found anew at each look by an optimizer of
its own: the numbers are then a function of the weights alone. A head trained along with the
network would be one more state to save, would lag behind the features it reads, and its number
would mix how good they are with how long it has been trained.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from latentcast import randomness
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine.context import Context
from latentcast.engine.loop import Preprocess
from latentcast.evaluation.estimate import FEWEST
from latentcast.evaluation.heads import HEADS
from latentcast.evaluation.tasks import Kind, default_task, label_tasks, task
from latentcast.nn.modes import evaluating
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
        targets: of the rows: bool ``(N, labels)``, or the class ``(N,)``.
        kind: of the task.
        summary: what there is to see, or why there is nothing, for the log.
    """

    config: Config
    store: Store
    rows: Ints
    fitted: int
    targets: npt.NDArray[Any]
    kind: Kind
    summary: str

    @classmethod
    def of(cls, store: Store, config: Config) -> Panel:
        """Drawn by the run's seed: the same for all of its looks, and for those after a resume."""
        every = config.train.evaluate_every
        found: _Labelled | str = "train.evaluate_every is null"
        if every is not None:
            found = _labelled(store, config.train.seed)
        if isinstance(found, str):
            nothing, reason = np.zeros(0, dtype=np.int64), f"no online evaluation: {found}"
            return cls(config, store, nothing, 0, nothing, "multi-label", reason)
        rows = np.concatenate([found.train, found.validation])
        steps = config.train.steps
        often = "every step" if every == 1 else f"every {every} steps"
        when = often if every and every < steps else "at the first and last step"
        few = ", too few to mean anything" if len(found.validation) < FEWEST else ""
        return cls(
            config,
            store,
            rows,
            len(found.train),
            found.values[rows],
            found.kind,
            f"online evaluation {when}: kNN and a linear probe of block "
            f"{_depth(config)}, {found.measure}, fitted to {len(found.train)} of the training "
            f"split, scored on {len(found.validation)} of the validation split{few}; to watch, "
            "not to report",
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
        """``online_knn`` and ``online_linear``: accuracy of classes, macro AUROC of labels.

        Every rank calls it and gets the same: shards are gathered by all ranks or by none. NaN
        where a score is undefined, as of features that are not finite. Nothing of the training is
        changed: not weights, modes, random numbers or compiled code.
        """
        features, read = self._features(objective, preprocess, context)
        # A record of which no patch is valid has no features, whatever the weights are.
        train, validation = (
            part[read[part]] for part in np.split(np.arange(len(read)), [self.fitted])
        )
        targets = self.targets
        if self.kind == "multi-label":
            targets = targets[:, _both(targets[train]) & _both(targets[validation])]
        scores = {}
        for head in ("kNN", "linear"):
            score = math.nan
            if targets[0].size and np.isfinite(features[read]).all():
                fit = HEADS[head][self.kind]
                with suppress(FloatingPointError):  # not converged: no reason to stop
                    score = fit(
                        features[train], targets[train], features[validation], targets[validation]
                    ).validation
            scores[f"online_{head.lower()}"] = score
        return scores

    def _features(
        self, objective: Objective, preprocess: Preprocess, context: Context
    ) -> tuple[Features, Bools]:
        """Pooled features ``(N, F)`` of the teacher, and of which records there are any."""
        network, layer = objective.encoder("teacher"), _depth(self.config)
        how: Pooling = "mean" if self.store.modality == "image" else "mean+std"
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
                if valid is None:
                    valid = torch.ones_like(tokens[..., 0], dtype=torch.bool)
                parts.append(pool(tokens.float(), valid, how).cpu())
                read.append(valid.any(dim=1).cpu())
        return torch.cat(parts).numpy(), torch.cat(read).numpy()

    def _samples(self, rows: Ints) -> npt.NDArray[Any]:
        """Whole images, or of each recording the window in its middle."""
        if self.store.modality == "image":
            return np.asarray(self.store.take(rows))
        (length,) = self.config.input.size
        starts = np.maximum(self.store.lengths[rows] - length, 0) // 2
        return np.asarray(self.store.take(rows, starts, length))


def _depth(config: Config) -> int:
    """The block that is read, counted from 1: three quarters up.

    The last ones turn to what the objective asks for. Of the tiny recipes on PTB-XL the linear
    probe separates the trained NEPA from the untrained one by 0.06 in AUROC there, by 0.01 at the
    final norm (docs/decisions.md).
    """
    return -(-3 * config.encoder.depth // 4)


def _eager(config: Config) -> AbstractContextManager[Any]:
    """Uncompiled: sizes and modes that training never has would be compiled beside its own,
    and at the limit of recompilations training itself would fall back, to other bits."""
    return torch.compiler.set_stance("force_eager") if config.machine.compile else nullcontext()


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


class _Labelled(NamedTuple):
    """Rows of the two splits, the targets of the whole store, and the measure in words."""

    train: Ints
    validation: Ints
    values: npt.NDArray[Any]
    kind: Kind
    measure: str


def _labelled(store: Store, seed: int) -> _Labelled | str:
    """Of the task that suits the store: of very many classes CLASSES that the seed draws, of very
    many labels the LABELS that most training records carry. A record with none is left out."""
    if (name := default_task(store)) is None:
        if columns := label_tasks(store):
            names = ", ".join(columns[:6]) + ", ..." * (len(columns) > 6)
            return (
                f"its labels are columns of a table ({names}), and training looks only at labels "
                f"of the store's source; latentcast probe RUN --task {shlex.quote(columns[0])} "
                "scores a column"
            )
        return NO_LABELS
    targets = task(name, store).targets(store)
    store = targets.divide(store)
    train = store.rows("train")
    values, mask = targets.values, targets.mask
    if targets.kind == "multi-class":
        present = np.unique(values[train[mask[train]]])
        stream = randomness.key(seed, "online classes")
        drawn = present[randomness.permutation(stream, len(present))[:CLASSES]]
        mask &= np.isin(values, drawn)
        measure = f"accuracy over {len(drawn)} classes"
    elif name == "labels":
        frequent = np.argsort(-values[train].sum(axis=0), kind="stable")[:LABELS]
        values = values[:, frequent[values[train][:, frequent].any(axis=0)]]
        mask = np.asarray(values.any(axis=1))
    rows = []
    for split in ("train", "validation"):
        of_split = store.rows(split)
        of_split = of_split[mask[of_split]]
        stream = randomness.key(seed, "online panel", split)
        order = randomness.permutation(stream, len(of_split))
        rows.append(of_split[np.sort(order[:SIZE])])
    train, validation = rows
    if not len(train) or not len(validation):
        return NO_LABELS
    if targets.kind == "multi-class":
        if len(np.unique(values[train])) < 2:
            return "all labelled training records are of one class"
    else:
        both = _both(values[train]) & _both(values[validation])
        if not both.any():
            return "no label is both present and absent in its train and in its validation split"
        values = values[:, both]
        measure = f"macro AUROC over {both.sum()} {name}" + " classes" * (name != "labels")
    return _Labelled(train, validation, values, targets.kind, measure)


def _both(labels: npt.NDArray[Any]) -> Bools:
    """Which labels have positives and negatives."""
    return np.asarray(labels.any(axis=0) & ~labels.all(axis=0))
