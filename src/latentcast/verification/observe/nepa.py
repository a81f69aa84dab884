"""One forward pass of a NEPA as seen from outside, and its loss a token at a time.

The patch embeddings are computed by hand from the weights, the outputs are caught by a hook;
nothing of the objective's own bookkeeping is believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn.base import Encoder
from latentcast.objectives.base import Output
from latentcast.objectives.nepa import Nepa, NepaConfig
from latentcast.randomness import Draw
from latentcast.verification.observe.network import (
    corners,
    naive_patches,
    outputs_of,
    real,
    sequence,
    stirred,
    window,
)
from latentcast.verification.observe.twin import Twin


@dataclass
class Pass:
    """One forward pass of a stirred float64 objective.

    Attributes:
        z: CLS and patch embeddings, computed by hand from the weights.
        h: what the final norm gave, with its graph.
        output: of the objective.
    """

    objective: Nepa
    inputs: Inputs
    z: Tensor
    h: Tensor
    output: Output


def one_pass(twin: Twin, inputs: Inputs | None = None, trains: bool = True) -> Pass:
    objective = stirred_nepa(twin)
    inputs = real(twin) if inputs is None else inputs
    return again(objective, inputs, draw_of(twin, inputs) if trains else None)


def stirred_nepa(twin: Twin) -> Nepa:
    objective = stirred(twin.objective(), twin.seed)
    assert isinstance(objective, Nepa)
    return objective


def again(objective: Nepa, inputs: Inputs, draw: Draw | None) -> Pass:
    with outputs_of(sequence(objective).norm) as (normed,):
        output = objective(inputs, draw)
    return Pass(objective, inputs, embedded(sequence(objective), inputs), normed[0], output)


def draw_of(twin: Twin, inputs: Inputs) -> Draw:
    return Draw(twin.seed, 0, torch.arange(len(inputs.values)))


def embedded(encoder: Encoder, inputs: Inputs) -> Tensor:
    patches = naive_patches(encoder.tokenizer, inputs.values)
    cls = encoder.get_parameter("cls").detach().double().expand(len(patches), 1, -1)
    return torch.cat([cls, patches], dim=1)


def naive_cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors, in plain numbers."""
    x, y = a.detach().double().tolist(), b.detach().double().tolist()
    product = math.fsum(p * q for p, q in zip(x, y, strict=True))
    return product / math.sqrt(math.fsum(p * p for p in x) * math.fsum(q * q for q in y))


def naive_loss(
    h: Tensor, z: Tensor, shift: int, valid: list[list[bool]] | None = None
) -> tuple[float, int]:
    """``−mean cos(h_t, z_{t + shift})``, a sample and a token at a time; and of how many terms."""
    terms = []
    for sample in range(len(h)):
        for t in range(h.shape[1]):
            target = t + shift
            # From CLS on, a shift of 0 compares a token with itself; token 0 is never a target.
            if 1 <= target < z.shape[1] and (valid is None or valid[sample][target - 1]):
                terms.append(naive_cosine(h[sample, t], z[sample, target]))
    return -math.fsum(terms) / max(1, len(terms)), len(terms)


def with_padding(twin: Twin) -> tuple[Inputs, list[list[bool]]]:
    """Real samples whose ends, of different lengths, were not measured, and which patches were."""
    inputs = real(twin, 4)
    patch, size = twin.config.encoder.patch, twin.config.input.size
    places = corners(size, patch)
    valid = torch.ones_like(inputs.values, dtype=torch.bool)
    measured = [[True] * len(places) for _ in range(len(valid))]
    for sample, count in enumerate((0, 1, len(places) // 3, len(places))):
        for number in range(len(places) - count, len(places)):
            window(valid[sample], places[number], patch).fill_(False)
            measured[sample][number] = False
    return Inputs(torch.where(valid, inputs.values, 0.0), valid), measured


def is_nepa(twin: Twin) -> bool:
    return isinstance(twin.config.objective, NepaConfig)
