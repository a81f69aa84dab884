"""The published tables at full size: built without memory, counted, run; schedules evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from latentcast.config import Config
from latentcast.config.network import Transformer
from latentcast.engine.optimizer import adamw
from latentcast.engine.schedules import Schedules
from latentcast.nn.blocks import MLP, LayerScale, QKNorm
from latentcast.nn.hierarchy import Hierarchy
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.nepa import Nepa
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.network import attention_calls, finest, outputs_of, within
from latentcast.verification.observe.rotary import measured_turns, stacks
from latentcast.verification.observe.twin import Subject

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


def _nepa(encoder: int, tokens: int, shape: Shape, patch: tuple[int, ...],
          **run: Any) -> Published:  # fmt: skip
    same: dict[str, Any] = {"decay": (0.05, 0.05), "epsilon": 1e-12, "cls": True, "qk_norm": True,
                            "layer_scale": 1e-5, "theta": 100.0}  # fmt: skip
    return Published(encoder, tokens, shape, patch, **same, **run)


def _ijepa(encoder: int, tokens: int, shape: Shape, patch: tuple[int, ...],
           predictor: int, narrow: Shape, epochs: int) -> Published:  # fmt: skip
    steps = 625 * epochs  # 1,281,167 images in whole batches of 2048
    return Published(
        encoder, tokens, shape, patch, steps, 25_000, (2e-4 + 8e-4 / 25_000, 1e-3, 1e-6),
        (0.04, 0.4), (0.9, 0.999), (0.996, 1.0 - 0.004 / steps), 1e-6, False, False, None, None,
        predictor, narrow,
    )  # fmt: skip


_ECG: dict[str, Any] = {
    "steps": 100_000, "warmup": 10_000, "lr": (1e-7, 1e-3, 0.0), "betas": (0.9, 0.99),
    "momentum": None,
}  # fmt: skip
_IMAGENET: dict[str, Any] = {
    "steps": 500_455, "warmup": 12_511, "lr": (4.8e-3 / 12_511, 4.8e-3, 0.0), "betas": (0.9, 0.95),
    "momentum": (0.9999, 0.9999),
}  # fmt: skip

PUBLISHED: dict[str, Published] = {
    "nepa-ecg-small": _nepa(14_318_592, 201, (384, 8, 6, 1536), (384, 12, 25), **_ECG),
    "nepa-ecg-base": _nepa(85_306_368, 201, (768, 12, 12, 3072), (768, 12, 25), **_ECG),
    "nepa-image-base": _nepa(85_527_552, 257, (768, 12, 12, 3072), (768, 3, 14, 14), **_IMAGENET),
    "nepa-image-large": _nepa(
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


# -- parameters -------------------------------------------------------------------------------


def counted(config: Config) -> dict[str, int]:
    """Parameters of encoder and predictors by the formulae of a transformer."""
    encoder, width = config.encoder, config.encoder.width
    values = config.input.channels * encoder.patch ** len(config.input.size)
    total = values * width + width + (width if encoder.cls else 0)
    total += _stack_count(config, encoder) + 2 * width
    found = {"encoder": total}
    if not isinstance(config.objective, JepaConfig):
        return found
    jepa, widths = config.objective, [width]
    for level in jepa.coarser:
        found["encoder"] += widths[-1] * level.width + level.width  # the merge
        found["encoder"] += _stack_count(config, level) + 2 * level.width
        widths.append(level.width)
    if jepa.fusion:
        found["encoder"] += sum(b * a + a for a, b in pairwise(widths))
    sizes = [jepa.predictor, *(level.predictor for level in jepa.coarser)]
    found["predictors"] = 0
    for n, (size, own) in enumerate(zip(sizes, widths, strict=True)):
        ends = own * size.width + size.width + size.width * own + own
        found["predictors"] += ends + size.width + _stack_count(config, size) + 2 * size.width
        if jepa.top_down and n + 1 < len(sizes):
            found["predictors"] += widths[n + 1] * size.width + size.width
    return found


def _stack_count(config: Config, size: Transformer) -> int:
    encoder, width, hidden = config.encoder, size.width, size.mlp_width
    qkv = 3 * width * width + (3 * width if encoder.qkv_bias else 0)
    attention = qkv + width * width + width
    if encoder.qk_norm and encoder.qk_norm_affine:
        attention += 2 * (width // size.heads) * (2 if encoder.qk_norm_bias else 1)
    mlp = (2 if encoder.gated_mlp else 1) * (width * hidden + hidden) + hidden * width + width
    scale = 2 * width if encoder.layer_scale is not None else 0
    return size.depth * (attention + mlp + 4 * width + scale)


def _parameters(subject: Subject) -> Evidence:
    objective = unallocated(subject.recipe)
    measured = {"encoder": _count(objective.encoder("student"))}
    if isinstance(objective, Jepa):
        measured["predictors"] = _count(objective.predictors)
    expected = counted(subject.recipe)
    told: dict[str, Number] = {}
    for name, number in measured.items():
        told[name], told[f"{name}, expected"] = number, expected[name]
    return Evidence(measured == expected, told)


def _published_count(subject: Subject) -> Evidence:
    objective, row = unallocated(subject.recipe), PUBLISHED[subject.recipe.recipe]
    encoder = _count(objective.encoder("student"))
    predictor = _count(objective.predictors) if isinstance(objective, Jepa) else 0
    told: dict[str, Number] = {"encoder": encoder, "encoder, published": row.encoder}
    if row.predictor:
        told |= {"predictor": predictor, "predictor, published": row.predictor}
    return Evidence((encoder, predictor) == (row.encoder, row.predictor), told)


# -- shapes -----------------------------------------------------------------------------------


@torch.no_grad()
def _shapes(subject: Subject) -> Evidence:
    """Sizes as the network at full size shows them when it runs."""
    config = subject.recipe
    objective = unallocated(config)
    row = PUBLISHED.get(config.recipe)
    values = torch.zeros(2, config.input.channels, *config.input.size, device="meta")
    measured, expected = {}, {}
    encoder = finest(objective)
    hidden = [block.get_submodule("mlp.up") for block in encoder.blocks]
    with attention_calls() as calls, outputs_of(*hidden) as up:
        out = encoder.transform(encoder.embed(values), tuple(config.input.size))
    measured["encoder"] = _ran([call.q for call in calls], [own[0] for own in up])
    measured["output"] = str(tuple(out.shape))
    patches = math.prod(n // config.encoder.patch for n in config.input.size)
    tokens = row.tokens if row else patches + config.encoder.cls
    size = config.encoder
    shape = row.shape if row else (size.width, size.depth, size.heads, size.mlp_width)
    expected["encoder"], expected["output"] = str(shape), str((2, tokens, shape[0]))
    weight = (config.input.channels, *(config.encoder.patch,) * len(config.input.size))
    measured["patch"] = str(tuple(encoder.patches.weight.shape))
    expected["patch"] = str(row.patch if row else (shape[0], *weight))
    if isinstance(objective, Jepa):
        _add_levels(objective, config, row, values, measured, expected)
    told: dict[str, Number] = {}
    for name, found in measured.items():
        told[name], told[f"{name}, expected"] = found, expected[name]
    return Evidence(measured == expected, told)


def _ran(queries: list[Tensor], hidden: list[Tensor]) -> str:
    """Width, depth, heads and MLP width, of the attentions that were computed."""
    heads = {(q.shape[1], q.shape[3]) for q in queries}
    widths = {h.shape[-1] for h in hidden}
    if len(heads) != 1 or len(widths) != 1 or len(queries) != len(hidden):
        return f"{len(queries)} attentions {sorted(heads)}, {len(hidden)} MLPs {sorted(widths)}"
    count, head = heads.pop()
    return str((count * head, len(queries), count, widths.pop()))


def _add_levels(
    objective: Jepa, config: Config, row: Published | None, values: Tensor,
    measured: dict[str, str], expected: dict[str, str],
) -> None:  # fmt: skip
    jepa = config.objective
    assert isinstance(jepa, JepaConfig)
    encoder = objective.student
    assert isinstance(encoder, Hierarchy)
    levels = encoder(values)
    sides = [n // config.encoder.patch for n in config.input.size]
    sizes = [jepa.predictor, *(level.predictor for level in jepa.coarser)]
    widths = [config.encoder.width, *(level.width for level in jepa.coarser)]
    strides = [1, *(level.stride for level in jepa.coarser)]
    for n, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        sides = [side // strides[n] for side in sides]
        cells = math.prod(sides)
        measured[f"level {n}"] = str(tuple(level.values.shape))
        expected[f"level {n}"] = str((2, cells, widths[n]))
        predictor = objective.predictors[n]
        hidden = [b.get_submodule("mlp.up") for b in predictor.get_submodule("blocks").children()]
        asked = torch.zeros(4, 2, 3, dtype=torch.int64, device="meta")
        with attention_calls() as calls, outputs_of(*hidden) as up:
            said = predictor(level.values[:, :5], level.places[:, :5], asked, tuple(sides))
        measured[f"predictor {n}"] = _ran([c.q for c in calls], [own[0] for own in up])
        narrow = (size.width, size.depth, size.heads, size.mlp_width)
        printed = row.narrow if row and row.narrow else narrow
        expected[f"predictor {n}"] = str(printed)
        measured[f"prediction {n}"] = str(tuple(said.shape))
        expected[f"prediction {n}"] = str((4, 2, 3, widths[n]))


# -- switches and numbers ---------------------------------------------------------------------


def _switches(subject: Subject) -> Evidence:
    """What is on and off, and the constants, as modules show them when they are tried."""
    row = PUBLISHED[subject.recipe.recipe]
    full, live = unallocated(subject.recipe), subject.objective()
    kinds = [type(module) for module in full.encoder("student").modules()]
    depth = row.shape[1]
    measured: dict[str, Number] = {
        "QK-norms": kinds.count(QKNorm), "LayerScales": kinds.count(LayerScale),
        "CLS": finest(full).prefix,
        "qkv biases": sum(n.endswith("qkv.bias") for n, _ in finest(full).named_parameters()),
    }  # fmt: skip
    expected: dict[str, Number] = {
        "QK-norms": 2 * depth * row.qk_norm,
        "LayerScales": 2 * depth * (row.layer_scale is not None),
        "CLS": int(row.cls), "qkv biases": depth,
    }  # fmt: skip
    numbers = {"epsilon": (_measured_epsilon(live), row.epsilon)}
    if row.layer_scale is not None:
        gains = [m.gain.detach() for m in live.modules() if isinstance(m, LayerScale)]
        numbers["LayerScale"] = (float(torch.cat(gains).double().mean()), row.layer_scale)
    mlp = next(m for m in live.modules() if isinstance(m, MLP))
    one = mlp.activation(torch.ones(1, dtype=torch.float64))
    numbers["activation at 1"] = (float(one), (1 + math.erf(1 / math.sqrt(2))) / 2)
    if row.theta is not None:
        numbers["theta"] = (_measured_theta(live.double(), subject), row.theta)
    apart = {name: abs(a / b - 1) for name, (a, b) in numbers.items()}
    bounds = {f"{name}, relative difference": (gap, 1e-5) for name, gap in apart.items()}
    evidence = within(bounds, **{name: a for name, (a, _) in numbers.items()})
    return Evidence(evidence.holds and measured == expected, measured | dict(evidence.numbers))


def _measured_epsilon(objective: Objective) -> float:
    """Of the first norm: what mean square it gives to ones and minus ones times 1e-5."""
    norm = finest(objective).get_submodule("blocks.0.norm1")
    assert isinstance(norm, nn.LayerNorm)
    x = torch.ones(1, norm.normalized_shape[0], dtype=torch.float64)
    x[:, ::2] = -1
    with torch.no_grad():
        square = float(norm.double()(x * 1e-5).square().mean())
    return 1e-10 * (1 / square - 1)


def _measured_theta(objective: Objective, subject: Subject) -> float:
    """From how much faster the first pair turns than the second; K pairs an axis."""
    patch = subject.config.encoder.patch
    axes = len(subject.config.input.size)
    stack = next(stacks(objective, (16 * patch,) * axes))
    turns = measured_turns(stack)["query of block 1"]
    step = torch.angle(turns[:, -1, :2] / turns[:, -2, :2]) if axes == 1 else torch.angle(
        turns[:, -1, :2] / turns[:, -17, :2]
    )  # fmt: skip
    fast, slow = step.mean(0).tolist()
    return float((fast / slow) ** stack.pairs)


def _schedules(subject: Subject) -> Evidence:
    row, schedules = PUBLISHED[subject.recipe.recipe], Schedules.of(subject.recipe)
    last, peak, fall = row.steps - 1, row.warmup - 1, row.steps - row.warmup
    numbers = {
        "lr of the first step": (schedules.lr(0), row.lr[0]),
        "lr where the warm-up ends": (schedules.lr(peak), row.lr[1]),
        "lr of the last step": (schedules.lr(last), row.lr[2]),
        "lr halfway up": (schedules.lr(row.warmup // 2 - 1), _halfway(row)),
        "lr a quarter down": (
            schedules.lr(peak + fall // 4), _cosine(row.lr[1], row.lr[2], fall // 4, fall)
        ),
        "lr halfway down": (
            schedules.lr(peak + fall // 2), _cosine(row.lr[1], row.lr[2], fall // 2, fall)
        ),
        "weight decay of the first step": (
            schedules.weight_decay(0), _cosine(*row.decay, 1, row.steps)
        ),
        "weight decay after a quarter": (
            schedules.weight_decay(row.steps // 4 - 1),
            _cosine(*row.decay, row.steps // 4, row.steps),
        ),
        "weight decay of the last step": (schedules.weight_decay(last), row.decay[1]),
    }  # fmt: skip
    if row.momentum is not None:
        first, end = row.momentum
        numbers["momentum of the first step"] = (schedules.momentum(0), first)
        quarter = first + (end - first) * (row.steps // 4) / last
        numbers["momentum after a quarter"] = (schedules.momentum(row.steps // 4), quarter)
        numbers["momentum of the last step"] = (schedules.momentum(last), end)
    # Between momenta of the last steps of a run lie some 1e-8.
    bounds = {f"{name}: difference": (abs(a - b), 1e-9 * max(abs(b), 1e-3))
              for name, (a, b) in numbers.items()}  # fmt: skip
    return within(bounds, **{name: a for name, (a, _) in numbers.items()})


def _halfway(row: Published) -> float:
    """Linear from the start, one step before the first, to the peak."""
    rise = (row.lr[1] - row.lr[0]) / (row.warmup - 1)
    return row.lr[0] + rise * (row.warmup // 2 - 1)


def _cosine(start: float, end: float, done: int, total: int) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done / total)) / 2


def _optimizer(subject: Subject) -> Evidence:
    """Betas and epsilon of the optimizer itself, and how many weights of each kind it decays."""
    row = PUBLISHED[subject.recipe.recipe]
    objective = unallocated(subject.recipe)
    optimizer = adamw(objective, subject.recipe.optimizer)
    betas = {tuple(group["betas"]) for group in optimizer.param_groups}
    eps = {float(group["eps"]) for group in optimizer.param_groups}
    student = _count(objective.student) if isinstance(objective, Nepa | Jepa) else 0
    held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    wanted = student + (_count(objective.predictors) if isinstance(objective, Jepa) else 0)
    decayed = [p for g in optimizer.param_groups if g["decayed"] for p in g["params"]]
    others = [p for g in optimizer.param_groups if not g["decayed"] for p in g["params"]]
    wrong = sum(p.numel() for p in decayed if p.ndim < 2)
    missed = sum(
        p.numel() for p in others if p.ndim in (2, 4)
    )  # CLS has three axes, as 1-D patches
    told: dict[str, Number] = {
        "betas": str(sorted(betas)), "betas, published": str([row.betas]), "eps": str(sorted(eps)),
        "parameters held": held, "parameters that are trained": wanted,
        "biases, norms and gains that are decayed": wrong, "matrices that are not": missed,
    }  # fmt: skip
    holds = betas == {row.betas} and eps == {1e-8} and held == wanted and wrong == missed == 0
    return Evidence(holds, told)


def _is_published(subject: Subject) -> bool:
    return subject.recipe.recipe in PUBLISHED


SOURCE = "published tables of NEPA, NEPA-ECG and I-JEPA"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "table.parameters", "Parameters are those the sizes of the recipe amount to.",
        "formulae of a transformer", _parameters,
    ),
    Claim(
        "table.published-count", "Parameters are those published.",
        SOURCE, _published_count, _is_published,
    ),
    Claim(
        "table.shapes", "Run at full size, width, depth, heads, MLP, tokens are as in the table.",
        SOURCE, _shapes,
    ),
    Claim(
        "table.switches", "Norms, gains, biases, CLS, epsilon, theta and GELU are as published.",
        SOURCE, _switches, _is_published,
    ),
    Claim(
        "table.schedules", "Learning rate, weight decay and momentum pass the published points.",
        SOURCE, _schedules, _is_published,
    ),
    Claim(
        "table.optimizer", "AdamW has the published betas, and decays matrices alone.",
        SOURCE, _optimizer, _is_published,
    ),
)  # fmt: skip
