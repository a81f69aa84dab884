"""NEPA against its reference: one forward and backward pass, or several optimizer steps."""

from __future__ import annotations

from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.artifacts.public_nepa import encoder_config, from_public, to_public
from latentcast.batch import Batch, Inputs
from latentcast.config import OptimizerConfig
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import accumulate, gradient_norm
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.nepa import Nepa
from latentcast.verification.parity.agreement import GRADIENTS, TRAJECTORY, Agreement, agree, under


def forward(tensors: dict[str, Tensor], public: dict[str, Any]) -> list[Agreement]:
    encoder = _encoder(tensors, public)
    objective = Nepa(encoder, teacher=False)
    signal = tensors["input"]
    embedding = encoder.embed(signal)
    hidden = encoder.transform(embedding, tuple(signal.shape[2:]))
    output = objective(Inputs(signal), None)
    output.loss.backward()

    found = [
        agree("input embedding", embedding, tensors["output.input_embedding"]),
        agree("last hidden state", hidden, tensors["output.last_hidden_state"]),
        agree("loss", output.loss.reshape(1), tensors["output.loss"]),
    ]
    for pooling in ("mean", "last"):
        if f"output.logits_{pooling}" in tensors:
            logits = _classify(hidden, pooling, under(tensors, f"weights_head_{pooling}."), public)
            found.append(agree(f"logits ({pooling})", logits, tensors[f"output.logits_{pooling}"]))
    gradients = to_public({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    reference = under(tensors, "grads.")
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
        found.append(agree(f"gradient {name}", gradients[name], reference[name], GRADIENTS, scale))
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


def trajectory(
    tensors: dict[str, Tensor], public: dict[str, Any], run: dict[str, Any]
) -> list[Agreement]:
    """Take the reference's steps with the engine's accumulation, clipping, optimizer and order."""
    objective = _WithReferenceDecay(_encoder(tensors, public), teacher=False).double()
    # From public names, of which q, k and v are one parameter here.
    decayed = from_public({name: torch.empty(0) for name in run["decayed"]})
    objective.decayed = frozenset(f"student.{name}" for name in decayed)
    steps, pieces = len(run["lr"]), run["micro_batches"]
    optimizer = build_optimizer(objective, OptimizerConfig(betas=run["betas"], eps=run["eps"]))
    schedules = Schedules(
        lr=lambda step: float(run["lr"][step]),
        weight_decay=lambda step: float(run["weight_decay"]),
        momentum=lambda step: 0.0,
    )
    context = Context(torch.device("cpu"), torch.float32)
    losses = []
    for step in range(steps):
        schedules.apply(optimizer, step)
        signals = [tensors[f"batch.{step}.{piece}"].double() for piece in range(pieces)]
        batches = [Batch(signal, torch.arange(len(signal))) for signal in signals]
        losses.append(accumulate(objective, _as_they_are, batches, 0, State(step), context).loss)
        gradient_norm(objective, run["clip_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
    found = [agree("loss of each step", torch.stack(losses), torch.tensor(run["loss"]))]
    final = to_public(dict(objective.student.named_parameters()))
    for name, expected in sorted(under(tensors, "final.").items()):
        found.append(agree(f"final {name}", final[name], expected, TRAJECTORY))
    return found


def _encoder(tensors: dict[str, Tensor], public: dict[str, Any]) -> PatchEncoder:
    config = encoder_config(public)
    # The numbers were computed without augmentation of the coordinates.
    positions = config.positions.model_copy(update={"rescale": None})
    config = config.model_copy(update={"positions": positions})
    weights = from_public(under(tensors, "weights."))
    channels, axes = weights["patches.weight"].shape[1], weights["patches.weight"].ndim - 2
    encoder = PatchEncoder(config, channels, axes)
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as problem:
        raise LatentcastError(
            f"weights.*: do not fit the config ({problem}); check the file"
        ) from None
    return encoder


def _as_they_are(samples: Tensor, draw: object) -> Inputs:
    return Inputs(samples)
