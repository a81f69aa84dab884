"""The attentive head on frozen tokens: a linear layer on what a trained query attends to.

The same network as ``latentcast finetune --head attentive`` puts on an encoder
(:class:`~latentcast.nn.heads.AttentiveHead`), here on tokens that do not change. What
kweimann/ECG-JEPA calls its linear evaluation is this head; it is stronger than a linear head on
the mean, so the two belong in two columns. It is no convex problem: the schedule is fixed (AdamW, a
cosine after a warm-up), and of twenty looks at the validation records the best is kept.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from latentcast import randomness
from latentcast.errors import LatentcastError
from latentcast.evaluation.heads.base import Array, Floats, validation_score
from latentcast.evaluation.tasks.base import Kind
from latentcast.evaluation.threads import one_thread
from latentcast.evaluation.tokens import TokenFeatures
from latentcast.nn.heads import AttentiveHead
from latentcast.nn.initialise import initialise

EPOCHS, LEAST_STEPS, LOOKS = 20, 600, 20
WARMUP = 0.1
BATCH = 64
RATE, DECAY = 2e-3, 0.05


@dataclass(frozen=True, eq=False)
class Attentive:
    """A fitted head; there is no penalty to choose, but the step that is kept.

    ``mean`` and ``std`` (D,) are those of the valid training tokens; ``centre`` and ``spread``
    those of the targets of a regression, else 0 and 1.
    """

    network: AttentiveHead
    mean: Tensor
    std: Tensor
    kind: Kind
    centre: float
    spread: float
    step: int
    validation: float = float("nan")
    penalty: float | None = None

    def outputs(self, tokens: TokenFeatures) -> Floats:
        """Logits, or values in units of the training targets, float64 ``(N, outputs)``."""
        parts = []
        with torch.no_grad(), one_thread():
            for begin in range(0, len(tokens), BATCH):
                places = np.arange(begin, min(begin + BATCH, len(tokens)))
                values, valid = tokens.batch(places)
                parts.append(self.network((values - self.mean) / self.std, valid).double().numpy())
        return np.concatenate(parts)

    def predict(self, tokens: TokenFeatures) -> Array:
        """A score of each label ``(N, labels)``, the class ``(N,)``, or the value ``(N,)``."""
        outputs = self.outputs(tokens)
        if self.kind == "multi-class":
            return np.asarray(outputs.argmax(axis=1))
        return outputs[:, 0] * self.spread + self.centre if self.kind == "regression" else outputs

    def label_shares(self, tokens: TokenFeatures) -> Floats:
        """The probability of each label, ``(N, labels)``."""
        return torch.from_numpy(self.outputs(tokens)).sigmoid().numpy()

    def class_shares(self, tokens: TokenFeatures, classes: int) -> Floats:
        """The probability of each class ``(N, classes)``, 0 of those after the last one trained."""
        outputs = torch.from_numpy(self.outputs(tokens)).softmax(dim=1)
        return F.pad(outputs, (0, classes - outputs.shape[1])).numpy()


def fit(
    train: TokenFeatures,
    targets: Array,
    validation: TokenFeatures,
    validation_targets: Array,
    kind: Kind,
    seed: int = 0,
) -> Attentive:
    """Train on the training records; of :data:`LOOKS` looks keep the one with the best score of
    the task's metric on the validation records, of equal ones the first.

    Args:
        targets: bool ``(N, labels)``, class indices ``(N,)``, or numbers ``(N,)``.
        seed: of the initial weights and of the order of the records.

    Raises:
        LatentcastError: the validation records decide nothing.
    """
    outputs = targets.shape[1] if kind == "multi-label" else 1
    if kind == "multi-class":
        outputs = int(targets.max()) + 1
    centre, spread = 0.0, 1.0
    if kind == "regression":
        centre, spread = float(targets.mean()), float(targets.std()) or 1.0
    y = torch.from_numpy(
        np.asarray((targets - centre) / spread if kind == "regression" else targets)
    )
    with one_thread():
        mean, std = _scale(train)
        network = AttentiveHead(train.width, outputs)
        initialise(network, seed, "head")
        decayed = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": others, "weight_decay": 0.0},
        ]
        # Fused, a step of a wide head costs a third less; scores are the same.
        optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY, fused=True)
        per_epoch = math.ceil(len(train) / BATCH)
        steps = max(EPOCHS * per_epoch, LEAST_STEPS)
        looks = {math.ceil(steps * (n + 1) / LOOKS) for n in range(LOOKS)}
        best: Attentive | None = None
        for step in range(1, steps + 1):
            epoch, batch = divmod(step - 1, per_epoch)
            if batch == 0:
                stream = randomness.key(seed, f"attentive head, epoch {epoch}")
                order = randomness.permutation(stream, len(train))
            _set_rate(optimizer, step / steps)
            places = order[batch * BATCH : (batch + 1) * BATCH]
            values, valid = train.batch(places)
            with torch.enable_grad():
                found = network((values - mean) / std, valid)
                loss = _loss(found, y[torch.from_numpy(places)], kind)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step in looks:
                head = Attentive(network, mean, std, kind, centre, spread, step)
                score = validation_score(kind, validation_targets, head.predict(validation))
                if best is None or score > best.validation:
                    kept = copy.deepcopy(network).requires_grad_(False)
                    best = replace(head, network=kept, validation=score)
    if best is None or not all(p.isfinite().all() for p in best.network.parameters()):
        raise LatentcastError(
            "attentive head: its training left the finite numbers; probe an earlier checkpoint, or "
            "use --head linear"
        )
    return best


def _loss(outputs: Tensor, targets: Tensor, kind: Kind) -> Tensor:
    if kind == "multi-class":
        return F.cross_entropy(outputs, targets)
    targets = targets.to(outputs.dtype).reshape(outputs.shape)
    if kind == "regression":
        return F.mse_loss(outputs, targets)
    return F.binary_cross_entropy_with_logits(outputs, targets)


def _set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Linear to RATE in the first WARMUP of the steps, then a cosine to 0."""
    after = (progress - WARMUP) / (1 - WARMUP)
    share = progress / WARMUP if after < 0 else (1 + math.cos(math.pi * after)) / 2
    for group in optimizer.param_groups:
        group["lr"] = RATE * share


def _scale(tokens: TokenFeatures) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all valid tokens, 1 where it is constant."""
    count, sums, squares = 0, *(np.zeros(tokens.width) for _ in range(2))
    for begin in range(0, len(tokens), BATCH):
        values, valid = tokens.batch(np.arange(begin, min(begin + BATCH, len(tokens))))
        chosen: npt.NDArray[np.float64] = values[valid].double().numpy()
        count, sums = count + len(chosen), sums + chosen.sum(axis=0)
        squares = squares + (chosen**2).sum(axis=0)
    mean = sums / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    std = np.where(std <= 1e-6 * np.maximum(np.abs(mean), 1e-30), 1.0, std)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
