"""The initial weights of the live objective, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latentcast.nn.blocks import QKNorm
from latentcast.nn.tokens import PatchEmbedding
from latentcast.objectives.base import Objective
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, greatest
from latentcast.verification.observe.config import has_transformer, transformer_of
from latentcast.verification.observe.twin import Twin

NEEDS = has_transformer

SOURCE = "NEPA and I-JEPA reference code, as their training leaves it"


def _drawn(objective: Objective, patch_std: float) -> Iterator[tuple[str, Tensor, float]]:
    """Every tensor that is drawn, and the standard deviation it is to have."""
    for name, module in objective.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{name}.weight", module.weight.detach().double(), 0.02
        elif isinstance(module, PatchEmbedding):
            yield f"{name}.weight", module.weight.detach().double(), patch_std
    for name, parameter in objective.named_parameters():
        if parameter.ndim == 3 and name.endswith(("cls", "mask_token")):
            yield name, parameter.detach().double(), 0.02


@claim("initial.std", "Weights and tokens, CLS among them, begin normal and at standard deviation "
       "0.02, patch weights at their own.",
       source=f"{SOURCE} (no rescaling by depth); ECG port, defect 16: CLS")  # fmt: skip
def std(twin: Twin) -> Evidence:
    """In standard errors of a normal sample of that size: 6 are no accident in 20,000 tensors. The
    fourth moment over the squared second is 3, of a uniform one 1.8."""
    worst, where, shape, least, count = 0.0, "", 0.0, math.inf, 0
    for name, values, expected in _drawn(twin.objective(), transformer_of(twin.recipe).patch_std):
        n = values.numel()
        square = float(values.square().mean())
        off = max(
            abs(math.sqrt(square) / expected - 1) * math.sqrt(2 * n),
            abs(float(values.mean())) / expected * math.sqrt(n),
        )
        least = min(least, float((values - values.mean()).abs().max()) / expected)
        count += 1
        if not off <= worst:
            worst, where = off, f"{name}: {math.sqrt(square):.4g}, should be {expected:.4g}"
        if n >= 1000:
            kurtosis = float(values.pow(4).mean()) / max(square, 1e-30) ** 2
            shape = greatest(shape, abs(kurtosis - 3) / math.sqrt(24 / n))
    return all_of(
        at_most("standard errors off", worst, 6.5),
        above("least spread of a tensor, of its deviation", least, 0.005),
        at_most("standard errors from a normal one's fourth moment", shape, 9.0),
        where=where, tensors=count,
    )  # fmt: skip


@claim("initial.offsets", "Biases begin at 0, norms at 1 and 0.", source=SOURCE)
def offsets(twin: Twin) -> Evidence:
    objective, worst, count = twin.objective(), 0.0, 0
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False):
            norm = isinstance(module, nn.LayerNorm | QKNorm)
            if norm or name == "bias":
                expected = 1.0 if norm and name == "weight" else 0.0
                gap = float((parameter.detach() - expected).abs().max())
                worst, count = max(worst, math.inf if math.isnan(gap) else gap), count + 1
    return all_of(at_most("largest difference from 0 or 1", worst, 0.0), tensors=count)


@claim("initial.seeded", "They are a function of the seed alone, each tensor drawn by itself.",
       source="our design, law 1")  # fmt: skip
def seeded(twin: Twin) -> Evidence:
    """The same seed gives the same bits, another seed and another tensor give other numbers."""
    patch_std = transformer_of(twin.recipe).patch_std
    torch.manual_seed(1)
    first = {name: values for name, values, _ in _drawn(twin.objective(), patch_std)}
    torch.manual_seed(2)
    again = {name: values for name, values, _ in _drawn(twin.objective(), patch_std)}
    objective = twin.objective()
    objective.initialise(twin.config.train.seed + 1)
    other = {name: values for name, values, _ in _drawn(objective, patch_std)}
    same = greatest(*(float((first[name] - again[name]).abs().max()) for name in first))
    alike = max(_alike(first[name], other[name]) for name in first)
    twins, pair = _most_alike({n: v for n, v in first.items() if "teacher." not in n})
    return all_of(
        at_most("difference with one seed", same, 0.0),
        at_most("correlation with another seed, in standard errors", alike, 6.5),
        at_most("correlation of two tensors, in standard errors", twins, 6.5),
        pair=pair,
    )


def _most_alike(drawn: dict[str, Tensor]) -> tuple[float, str]:
    """The largest correlation of two tensors of one size, in standard errors, and whose it is."""
    most, pair = 0.0, ""
    for size in {values.numel() for values in drawn.values() if values.numel() > 500}:
        names = [name for name, values in drawn.items() if values.numel() == size]
        rows = torch.stack([drawn[name].flatten() for name in names])
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
        alike = (rows @ rows.T).fill_diagonal_(0).abs() * math.sqrt(size)
        if float(alike.max()) > most:
            most, at = float(alike.max()), int(alike.argmax())
            pair = f"{names[at // len(names)]}, {names[at % len(names)]}"
    return most, pair


def _alike(a: Tensor, b: Tensor) -> float:
    x, y = a.flatten(), b.flatten()
    return abs(float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-30))) * math.sqrt(len(x))
