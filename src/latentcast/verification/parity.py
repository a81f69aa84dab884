"""Agreement with numbers of the public reference implementations.

A parity file is a ``safetensors`` file with random weights and inputs, what the reference
computed from them, and its configuration in the metadata. Two kinds are read here: *forward*
(outputs, loss, gradients, classifier logits) and *trajectory* (the weights after several
optimizer steps).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentcast.artifacts.public_nepa import encoder_config, from_public, to_public
from latentcast.batch import Batch, Inputs
from latentcast.config import OptimizerConfig
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import accumulate, gradient_norm
from latentcast.engine.optimizer import adamw
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.nn.encoder import PatchEncoder
from latentcast.objectives.nepa import Nepa

OUTPUTS = 1e-5
GRADIENTS = 1e-4
TRAJECTORY = 1e-5


@dataclass(frozen=True)
class Agreement:
    """One quantity, ours against the reference's.

    Attributes:
        absolute: largest absolute difference.
        relative: ``absolute`` over the scale of the quantity.
        tolerance: bound on ``relative``; the scale of outputs and weights is at least 1, so for
            them it is also an absolute bound.
    """

    quantity: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.relative < self.tolerance  # False for NaN


def compare(file: Path) -> list[Agreement]:
    """All quantities of a parity file.

    Raises:
        LatentcastError: the file cannot be read or is not of the documented form.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); give a parity file") from None
    if "config" not in metadata or not any(name.startswith("weights.") for name in tensors):
        raise LatentcastError(
            f"{file}: has no 'config' in its metadata or no weights.*; it is not a parity file"
        )
    public = json.loads(metadata["config"])
    if "num_hidden_layers" not in public:
        raise LatentcastError(f"{file}: is not a NEPA parity file; this version compares NEPA")
    if "trajectory" in metadata:
        return _trajectory(tensors, public, json.loads(metadata["trajectory"]))
    return _forward(tensors, public)


def _forward(tensors: dict[str, Tensor], public: dict[str, Any]) -> list[Agreement]:
    encoder = _encoder(tensors, public)
    objective = Nepa(encoder, teacher=False)
    signal = tensors["input"]
    embedding = encoder.embed(signal)
    hidden = encoder.transform(embedding, tuple(signal.shape[2:]))
    output = objective(Inputs(signal), None)
    output.loss.backward()

    found = [
        _agree("input embedding", embedding, tensors["output.input_embedding"]),
        _agree("last hidden state", hidden, tensors["output.last_hidden_state"]),
        _agree("loss", output.loss.reshape(1), tensors["output.loss"]),
    ]
    for pooling in ("mean", "last"):
        if f"output.logits_{pooling}" in tensors:
            logits = _classify(hidden, pooling, _under(tensors, f"weights_head_{pooling}."), public)
            found.append(_agree(f"logits ({pooling})", logits, tensors[f"output.logits_{pooling}"]))
    gradients = to_public({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    reference = _under(tensors, "grads.")
    for name in sorted(reference.keys() | gradients.keys()):
        if name not in reference or name not in gradients:
            found.append(Agreement(f"gradient {name} (one side only)", nan, nan, GRADIENTS))
            continue
        # A key's bias has no gradient in exact arithmetic, so what the reference holds there is
        # rounding: the scale is that of the whole module, weight and bias together.
        module = name.rpartition(".")[0]
        scale = max(
            (float(t.abs().max()) for n, t in reference.items() if n.rpartition(".")[0] == module),
            default=0.0,
        )
        found.append(_agree(f"gradient {name}", gradients[name], reference[name], GRADIENTS, scale))
    return found


def _classify(
    hidden: Tensor, pooling: str, head: dict[str, Tensor], public: dict[str, Any]
) -> Tensor:
    """Mean of the patch tokens → LayerNorm → Linear, or the last token → Linear."""
    if pooling == "mean":
        features = hidden[:, 1:].mean(1)
        features = F.layer_norm(
            features, features.shape[-1:], head["fc_norm.weight"], head["fc_norm.bias"],
            public["layer_norm_eps"],
        )  # fmt: skip
    else:
        features = hidden[:, -1]
    return F.linear(features, head["classifier.weight"], head["classifier.bias"])


class _WithReferenceDecay(Nepa):
    """NEPA with the reference's decay groups: it decays CLS, we do not."""

    decayed: frozenset[str] = frozenset()

    def undecayed(self, name: str, parameter: torch.nn.Parameter) -> bool:
        return name not in self.decayed


def _trajectory(
    tensors: dict[str, Tensor], public: dict[str, Any], told: dict[str, Any]
) -> list[Agreement]:
    """Take the reference's steps with the engine's accumulation, clipping, optimizer and order."""
    objective = _WithReferenceDecay(_encoder(tensors, public), teacher=False).double()
    objective.decayed = frozenset(_our_names(told["decayed"]))
    steps, pieces = len(told["lr"]), told["micro_batches"]
    adam = OptimizerConfig(betas=told["betas"], eps=told["eps"])
    optimizer = adamw(objective, adam)
    schedules = Schedules(
        lr=lambda step: float(told["lr"][step]),
        weight_decay=lambda step: float(told["weight_decay"]),
        momentum=lambda step: 0.0,
    )
    context = Context(torch.device("cpu"), torch.float32)
    losses = []
    for step in range(steps):
        schedules.apply(optimizer, step)
        signals = [tensors[f"batch.{step}.{piece}"].double() for piece in range(pieces)]
        batches = [Batch(signal, torch.arange(len(signal))) for signal in signals]
        losses.append(accumulate(objective, Inputs, batches, 0, State(step), context).loss)
        gradient_norm(objective, told["clip_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
    found = [_agree("loss of each step", torch.stack(losses), torch.tensor(told["loss"]))]
    final = to_public(dict(objective.student.named_parameters()))
    for name, expected in sorted(_under(tensors, "final.").items()):
        found.append(_agree(f"final {name}", final[name], expected, TRAJECTORY))
    return found


def _encoder(tensors: dict[str, Tensor], public: dict[str, Any]) -> PatchEncoder:
    config = encoder_config(public)
    # The numbers were computed without augmentation of the coordinates.
    config = config.model_copy(
        update={"positions": config.positions.model_copy(update={"rescale": None})}
    )
    weights = from_public(_under(tensors, "weights."))
    channels, axes = weights["patches.weight"].shape[1], weights["patches.weight"].ndim - 2
    encoder = PatchEncoder(config, channels, axes)
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as problem:
        raise LatentcastError(
            f"weights.*: do not fit the config ({problem}); check the file"
        ) from None
    return encoder


def _our_names(decayed: list[str]) -> set[str]:
    """Parameter names of the objective for public names; q, k, v are one parameter here."""
    shapes = {name: torch.empty(0) for name in decayed}
    return {f"student.{name}" for name in from_public(shapes)}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _agree(
    quantity: str,
    ours: Tensor,
    reference: Tensor,
    tolerance: float = OUTPUTS,
    scale: float | None = None,
) -> Agreement:
    if ours.shape != reference.shape:
        return Agreement(f"{quantity} (shape {tuple(ours.shape)})", nan, nan, tolerance)
    difference = float((ours.detach().double() - reference.double()).abs().max())
    if scale is None:
        scale = max(1.0, float(reference.double().abs().max()))
    return Agreement(quantity, difference, difference / max(scale, 1e-30), tolerance)
