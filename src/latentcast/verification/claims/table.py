"""The published tables at full size: built without memory, counted, run; schedules evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.config.network import Transformer
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Schedules
from latentcast.nn.blocks import MLP, LayerScale, QKNorm
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.recipes import recipe
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal
from latentcast.verification.observe.config import (
    has_linear_patches,
    jepa_of,
    strides_of,
    transformer_of,
)
from latentcast.verification.observe.network import (
    attention_calls,
    finest,
    measured_epsilon,
    outputs_of,
)
from latentcast.verification.observe.rotary import measured_turns, stacks
from latentcast.verification.observe.twin import Twin

NEEDS = has_linear_patches

SOURCE = "published tables of NEPA, NEPA-ECG and I-JEPA"
Shape = tuple[int, int, int, int]
"""Width, depth, heads, MLP width."""


@dataclass(frozen=True)
class Published:
    """A row of a published table, as printed or as its formulae give it.

    Attributes:
        encoder, predictor: parameters; 0 for no predictor.
        tokens: CLS included.
        shape: width, depth, heads, MLP width.
        narrow: the same of the predictor.
        input: keys of the configuration and what is printed for them.
        patch: of its weight.
        layer_scale, theta: None for none.
        lr: of the first step, the peak, of the last step.
        decay: of the first and the last step.
        momentum: of the first and the last step; None where the table has none.
    """

    encoder: int
    tokens: int
    shape: Shape
    patch: tuple[int, ...]
    steps: int
    warmup: int
    lr: tuple[float, float, float]
    decay: tuple[float, float]
    betas: tuple[float, float]
    momentum: tuple[float, float] | None
    epsilon: float
    cls: bool
    qk_norm: bool
    layer_scale: float | None
    theta: float | None
    predictor: int = 0
    narrow: Shape | None = None
    input: Mapping[str, Any] = field(default_factory=dict)


def _ijepa(encoder: int, tokens: int, shape: Shape, patch: tuple[int, ...],
           predictor: int, narrow: Shape, epochs: int) -> Published:  # fmt: skip
    steps = 625 * epochs  # 1,281,167 images in whole batches of 2048
    return Published(
        encoder, tokens, shape, patch, steps, 25_000, (2e-4 + 8e-4 / 25_000, 1e-3, 1e-6),
        (0.04, 0.4), (0.9, 0.999), (0.996, 1.0 - 0.004 / steps), 1e-6, False, False, None, None,
        predictor, narrow,
        {"input.height": 224, "input.width": 224, "input.crop_scale": (0.3, 1.0),
         "input.flip": False, "train.batch_size": 2048},
    )  # fmt: skip


_NEPA: dict[str, Any] = {
    "decay": (0.05, 0.05), "epsilon": 1e-12, "cls": True, "qk_norm": True, "layer_scale": 1e-5,
    "theta": 100.0,
}  # fmt: skip
_ECG = _NEPA | {
    "steps": 100_000, "warmup": 10_000, "lr": (1e-7, 1e-3, 0.0), "betas": (0.9, 0.99),
    "momentum": None,
    "input": {"input.sampling_rate": 500.0, "input.length": 5000, "input.clip": 5.0,
              "encoder.positions.rescale": 2.0, "encoder.causal": True},
}  # fmt: skip
_IMAGENET = _NEPA | {
    "steps": 500_455, "warmup": 12_511, "lr": (4.8e-3 / 12_511, 4.8e-3, 0.0), "betas": (0.9, 0.95),
    "momentum": (0.9999, 0.9999),
    "input": {"input.height": 224, "input.width": 224, "train.batch_size": 4096,
              "encoder.positions.rescale": 2.0, "encoder.causal": True},
}  # fmt: skip

PUBLISHED: dict[str, Published] = {
    "nepa-ecg-small": Published(14_318_592, 201, (384, 8, 6, 1536), (384, 12, 25), **_ECG),
    "nepa-ecg-base": Published(85_306_368, 201, (768, 12, 12, 3072), (768, 12, 25), **_ECG),
    "nepa-image-base": Published(
        85_527_552, 257, (768, 12, 12, 3072), (768, 3, 14, 14), **_IMAGENET
    ),
    "nepa-image-large": Published(
        302_967_808, 257, (1024, 24, 16, 4096), (1024, 3, 14, 14), **_IMAGENET
    ),
    "ijepa-image-huge": _ijepa(
        630_434_560, 256, (1280, 32, 16, 5120), (1280, 3, 14, 14), 22_279_424, (384, 12, 16, 1536),
        epochs=300,
    ),
    "ijepa-image-base": _ijepa(
        85_646_592, 196, (768, 12, 12, 3072), (768, 3, 16, 16), 11_238_912, (384, 6, 12, 1536),
        epochs=600,
    ),
}  # fmt: skip
"""14,318,592 is printed with NEPA-ECG; the others follow from the printed sizes, and are what the
papers round (ViT-H/14 630 M and its predictor 22 M, ViT-B/16 85.6 M)."""


def unallocated(config: Config) -> Objective:
    """The whole objective without its memory."""
    with torch.device("meta"):
        return assemble(config)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counted(config: Config) -> dict[str, int]:
    """Parameters of encoder and predictors by the formulae of a transformer."""
    encoder, width = transformer_of(config), config.encoder.width
    rows = config.input.lead_rows
    values = (config.input.channels if rows is None else 1) * encoder.patch ** len(
        config.input.size
    )
    total = values * width + width + (width if encoder.cls else 0) + (rows or 0) * width
    total += _stack_count(config, encoder) + 2 * width
    found = {"encoder": total}
    if not isinstance(config.objective, JepaConfig):
        return found
    jepa, widths = config.objective, [width]
    for level in jepa.coarser:
        found["encoder"] += widths[-1] * level.width + level.width  # the merge
        found["encoder"] += _stack_count(config, level) + 2 * level.width
        found["encoder"] += _lead_count(config, len(widths)) * level.width
        widths.append(level.width)
    if jepa.fusion:
        found["encoder"] += sum(b * a + a for a, b in pairwise(widths))
    sizes = [jepa.predictor, *(level.predictor for level in jepa.coarser)]
    found["predictors"] = 0
    for n, (size, own) in enumerate(zip(sizes, widths, strict=True)):
        ends = own * size.width + size.width + size.width * own + own
        found["predictors"] += _lead_count(config, n) * size.width
        found["predictors"] += ends + size.width + _stack_count(config, size) + 2 * size.width
        if jepa.top_down and n + 1 < len(sizes):
            found["predictors"] += widths[n + 1] * size.width + size.width
    return found


def _lead_count(config: Config, level: int) -> int:
    """Vectors of leads, where a level has more than one row of them."""
    rows = 1 if config.input.lead_rows is None else config.grids[level][0]
    return rows if rows > 1 else 0


def _stack_count(config: Config, size: Transformer) -> int:
    encoder, width, hidden = transformer_of(config), size.width, size.mlp_width
    qkv = 3 * width * width + (3 * width if encoder.qkv_bias else 0)
    attention = qkv + width * width + width
    if encoder.qk_norm and encoder.qk_norm_affine:
        attention += 2 * (width // size.heads) * (2 if encoder.qk_norm_bias else 1)
    mlp = (2 if encoder.gated_mlp else 1) * (width * hidden + hidden) + hidden * width + width
    scale = 2 * width if encoder.layer_scale is not None else 0
    return size.depth * (attention + mlp + 4 * width + scale)


@claim("table.parameters", "Parameters are those the sizes of the recipe amount to, and those "
       "published where they are.", source=f"formulae of a transformer; {SOURCE}")  # fmt: skip
def parameters(twin: Twin) -> Evidence:
    objective, expected = unallocated(twin.recipe), counted(twin.recipe)
    measured = {"encoder": _count(objective.encoder("student"))}
    if isinstance(objective, Jepa):
        measured["predictors"] = _count(objective.predictors)
    parts = [equal(name, number, expected[name]) for name, number in measured.items()]
    if row := _row(twin):
        parts.append(equal("encoder, published", measured["encoder"], row.encoder))
        if row.predictor:
            parts.append(equal("predictor, published", measured["predictors"], row.predictor))
    return all_of(*parts)


def _row(twin: Twin) -> Published | None:
    """Of the table; none for a recipe that is not published or was changed."""
    name = twin.recipe.recipe
    shipped = name in PUBLISHED and not configuration.differences(twin.recipe, recipe(name))
    return PUBLISHED[name] if shipped else None


def _is_published(twin: Twin) -> bool:
    return _row(twin) is not None


@claim("table.shapes", "Run at full size, width, depth, heads, MLP, tokens are as in the table.",
       source=SOURCE)  # fmt: skip
@torch.no_grad()
def shapes(twin: Twin) -> Evidence:
    config, objective, row = twin.recipe, unallocated(twin.recipe), _row(twin)
    values = torch.zeros(2, config.input.channels, *config.input.size, device="meta")
    encoder, size = finest(objective), transformer_of(config)
    embedded = encoder.embed(values)
    ran, out = _ran(encoder.blocks, encoder.transform, embedded, tuple(config.input.size))
    rows = config.input.lead_rows
    patches = math.prod(n // size.patch for n in config.input.size) * (rows or 1)
    tokens = row.tokens if row else patches + size.cls
    shape = row.shape if row else (size.width, size.depth, size.heads, size.mlp_width)
    channels = config.input.channels if rows is None else 1
    patch = (shape[0], channels, *(size.patch,) * len(config.input.size))
    weight = encoder.get_parameter("patches.weight")
    parts = [
        equal("encoder", ran, str(shape)),
        equal("output", str(tuple(out.shape)), str((2, tokens, shape[0]))),
        equal("patch", str(tuple(weight.shape)), str(row.patch if row else patch)),
    ]
    if isinstance(objective, Jepa):
        parts += _levels(objective, config, row, values)
    return all_of(*parts)


def _ran(blocks: Iterable[nn.Module], run: Callable[..., Tensor], *args: Any) -> tuple[str, Tensor]:
    """Width, depth, heads and MLP width, of the attentions that were computed; and the output."""
    hidden = [block.get_submodule("mlp.up") for block in blocks]
    with attention_calls() as calls, outputs_of(*hidden) as up:
        out = run(*args)
    heads = {(call.q.shape[1], call.q.shape[3]) for call in calls}
    widths = {own[0].shape[-1] for own in up}
    if len(heads) != 1 or len(widths) != 1 or len(calls) != len(up):
        return f"{len(calls)} attentions {sorted(heads)}, {len(up)} MLPs {sorted(widths)}", out
    count, head = heads.pop()
    return str((count * head, len(calls), count, widths.pop())), out


def _levels(
    objective: Jepa, config: Config, row: Published | None, values: Tensor
) -> list[Evidence]:
    jepa = jepa_of(config)
    rows, parts = config.input.lead_rows, list[Evidence]()
    sides = [n // config.encoder.patch for n in config.input.size]
    sides = sides if rows is None else [rows, *sides]
    sizes = [jepa.predictor, *(level.predictor for level in jepa.coarser)]
    widths = [config.encoder.width, *(level.width for level in jepa.coarser)]
    axes = len(sides)
    strides = [(1,) * axes, *(strides_of(level, axes) for level in jepa.coarser)]
    for n, (level, size) in enumerate(zip(objective.student(values), sizes, strict=True)):
        sides = [side // stride for side, stride in zip(sides, strides[n], strict=True)]
        predictor = objective.predictors[n]
        blocks = predictor.get_submodule("blocks").children()
        cells = torch.zeros(4, 2, 3, dtype=torch.int64, device="meta")
        places = level.values[:, :5], level.ids[:, :5]
        ran, out = _ran(blocks, predictor, *places, cells, tuple(sides))
        narrow = (size.width, size.depth, size.heads, size.mlp_width)
        printed = row.narrow if row and row.narrow else narrow
        expected = str((2, math.prod(sides), widths[n]))
        parts += [
            equal(f"level {n}", str(tuple(level.values.shape)), expected),
            equal(f"predictor {n}", ran, str(printed)),
            equal(f"prediction {n}", str(tuple(out.shape)), str((4, 2, 3, widths[n]))),
        ]
    return parts


@claim("table.input", "What an encoder sees, and how its positions are stretched in training, is "
       "as published.", source=SOURCE, about=_is_published)  # fmt: skip
def inputs(twin: Twin) -> Evidence:
    """Of the recipe as it ships: no formula stands between these and what is printed."""
    row, own = _row(twin), twin.recipe.model_dump()
    assert row is not None
    parts = []
    for key, published in row.input.items():
        found: Any = own
        for part in key.split("."):
            found = found[part]
        parts.append(equal(key, str(found), str(published)))
    return all_of(*parts)


@claim("table.switches", "Norms, gains, biases, CLS, epsilon, theta and GELU are as published.",
       source=SOURCE, about=_is_published)  # fmt: skip
def switches(twin: Twin) -> Evidence:
    row = _row(twin)
    assert row is not None
    full, live = unallocated(twin.recipe), twin.objective().double()
    kinds = [type(module) for module in full.encoder("student").modules()]
    depth, biases = row.shape[1], [n for n, _ in finest(full).named_parameters()]
    parts = [
        equal("QK-norms", kinds.count(QKNorm), 2 * depth * row.qk_norm),
        equal("LayerScales", kinds.count(LayerScale), 2 * depth * (row.layer_scale is not None)),
        equal("CLS", finest(full).prefix, int(row.cls)),
        equal("qkv biases", sum(name.endswith("qkv.bias") for name in biases), depth),
    ]
    norm = finest(live).get_submodule("blocks.0.norm1")
    assert isinstance(norm, nn.LayerNorm)
    mlp = next(m for m in live.modules() if isinstance(m, MLP))
    one = float(mlp.activation(torch.ones(1, dtype=torch.float64)))
    numbers = {
        "epsilon": (measured_epsilon(norm, row.epsilon), row.epsilon),
        "activation at 1": (one, (1 + math.erf(1 / math.sqrt(2))) / 2),
    }
    if row.layer_scale is not None:
        gains = [m.gain.detach() for m in live.modules() if isinstance(m, LayerScale)]
        numbers["LayerScale"] = (float(torch.cat(gains).mean()), row.layer_scale)
    if row.theta is not None:
        numbers["theta"] = (_measured_theta(live, twin), row.theta)
    for name, (measured, expected) in numbers.items():
        parts.append(at_most(f"{name}, relative difference", abs(measured / expected - 1), 1e-5))
    return all_of(*parts, **{name: measured for name, (measured, _) in numbers.items()})


def _measured_theta(objective: Objective, twin: Twin) -> float:
    """From how much faster the first pair turns than the second; K pairs an axis."""
    axes = len(twin.config.input.size)
    stack = next(stacks(objective, (16 * twin.config.encoder.patch,) * axes))
    turns = measured_turns(stack)["query of block 1"]
    step = torch.angle(turns[:, -1, :2] / turns[:, -2 if axes == 1 else -17, :2])
    fast, slow = step.mean(0).tolist()
    return float((fast / slow) ** stack.pairs)


@claim("table.schedules", "Learning rate, weight decay and momentum pass the published points.",
       source=SOURCE, about=_is_published)  # fmt: skip
def schedules(twin: Twin) -> Evidence:
    row, live = _row(twin), Schedules.of(twin.recipe)
    assert row is not None
    last, peak, fall = row.steps - 1, row.warmup - 1, row.steps - row.warmup
    quarter = row.steps // 4
    # Linear from the start, one step before the first, to the peak.
    halfway = row.lr[0] + (row.lr[1] - row.lr[0]) / peak * (row.warmup // 2 - 1)
    numbers = {
        "lr of the first step": (live.lr(0), row.lr[0]),
        "lr where the warm-up ends": (live.lr(peak), row.lr[1]),
        "lr of the last step": (live.lr(last), row.lr[2]),
        "lr halfway up": (live.lr(row.warmup // 2 - 1), halfway),
        "weight decay of the last step": (live.weight_decay(last), row.decay[1]),
    }
    for name, n in (("a quarter", fall // 4), ("halfway", fall // 2)):
        numbers[f"lr {name} down"] = (live.lr(peak + n), _cosine(*row.lr[1:], n, fall))
    for name, n in (("of the first step", 1), ("after a quarter", quarter)):
        expected = _cosine(*row.decay, n, row.steps)
        numbers[f"weight decay {name}"] = (live.weight_decay(n - 1), expected)
    if row.momentum is not None:
        first, end = row.momentum
        points = {"of the first step": 0, "after a quarter": quarter, "of the last step": last}
        for name, n in points.items():
            numbers[f"momentum {name}"] = (live.momentum(n), first + (end - first) * n / last)
    # Between momenta of the last steps of a run lie some 1e-8.
    return all_of(
        *(at_most(f"{name}: difference", abs(a - b), 1e-9 * max(abs(b), 1e-3))
          for name, (a, b) in numbers.items()),
        **{name: a for name, (a, _) in numbers.items()},
    )  # fmt: skip


def _cosine(start: float, end: float, done: int, total: int) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done / total)) / 2


@claim("table.optimizer", "AdamW has the published betas, and decays matrices alone.",
       source=SOURCE, about=_is_published)  # fmt: skip
def optimizer(twin: Twin) -> Evidence:
    row = _row(twin)
    assert row is not None
    objective = unallocated(twin.recipe)
    groups = build_optimizer(objective, twin.recipe.optimizer).param_groups
    trained = _count(objective.encoder("student"))
    trained += _count(objective.predictors) if isinstance(objective, Jepa) else 0
    decayed = [p for group in groups if group["decayed"] for p in group["params"]]
    others = [p for group in groups if not group["decayed"] for p in group["params"]]
    # CLS has three axes, as 1-D patches
    matrices = sum(p.numel() for p in others if p.ndim in (2, 4))
    return all_of(
        equal("betas", str({tuple(group["betas"]) for group in groups}), str({row.betas})),
        equal("eps", str({float(group["eps"]) for group in groups}), str({1e-8})),
        equal("parameters", sum(p.numel() for p in (*decayed, *others)), trained),
        equal("biases, norms and gains that are decayed",
              sum(p.numel() for p in decayed if p.ndim < 2), 0),
        equal("matrices that are not", matrices, 0),
    )  # fmt: skip
