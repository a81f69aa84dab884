"""The operations of a training step, as they are logged and benchmarked, counted while they run."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from latentcast.config import ReferenceBlocks
from latentcast.objectives.averaged import Averaged
from latentcast.objectives.base import Objective
from latentcast.objectives.cpc import Cpc
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.jepa.masks import Masks
from latentcast.objectives.masked import Masked
from latentcast.objectives.views import TwoViews
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal
from latentcast.verification.observe.config import jepa_of, patch_by_patch, sampler_of
from latentcast.verification.observe.jepa import is_hierarchy, is_jepa
from latentcast.verification.observe.masks import draws
from latentcast.verification.observe.network import attention_calls
from latentcast.verification.observe.twin import Twin

PRODUCTS = ("aten.addmm", "aten.mm", "aten.convolution")


def _counted(run: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attentions that run, in one pass.

    Those inside of attention by its own shapes, since what computes it differs between machines.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter, attention_calls() as calls:
        run()
    products = counter.get_flop_counts().get("Global", {})
    found = sum(int(n) for op, n in products.items() if str(op) in PRODUCTS)
    return found + sum(4 * c.q.shape[:3].numel() * c.k.shape[2] * c.q.shape[3] for c in calls)


def _of_step(objective: Objective, values: torch.Tensor) -> int:
    """Of a step on one sample: three passes through what is trained, one through a teacher."""
    match objective:
        case TwoViews():
            # Two views, each through the objective and the projector, of the size they are cut to.
            cut = values.new_zeros(*values.shape[:2], *objective.size)
            row = values.new_zeros(
                1, objective.projector.layers[0].get_parameter("weight").shape[1]
            )
            own = _counted(lambda: objective.projector(row, row.new_ones(1)))
            # A row norm adds up its one row by a product with it, once for each width.
            widths = [norm.get_parameter("weight").numel() for norm in objective.projector.norms]
            own -= 2 * 2 * sum(widths)
            return 2 * (_of_step(objective.base, cut) + 3 * own)
        case Jepa():
            return _of_jepa(objective, values)
        case Masked():
            grid = objective.student.grid(tuple(values.shape[2:]))
            network = _counted(lambda: objective.student.encode(values))
            tokens = values.new_zeros(1, math.prod(grid), objective.student.width)
            masked = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            head = _counted(lambda: objective.predictor(tokens, masked, grid, None))
            return 3 * (network + head) + network
        case Averaged():
            network = _counted(lambda: objective.student.encode(values))
            if isinstance(objective, Cpc):
                patches, width = (
                    math.prod(objective.student.grid(values.shape[2:])),
                    objective.student.width,
                )
                for (
                    _
                ) in objective.predictors:  # of each patch a prediction, and its scores with all
                    network += 2 * patches * width * width + 2 * patches * patches * width
            return 3 * network
    raise TypeError(type(objective).__name__)


def _can_be_counted(twin: Twin) -> bool:
    """Whether it is an objective that is restated here; somebody's own is not."""
    objective = twin.objective()
    base = objective.base if isinstance(objective, TwoViews) else objective
    return patch_by_patch(twin) and isinstance(base, Jepa | Masked | Averaged)


def _of_jepa(objective: Jepa, values: torch.Tensor) -> int:
    config = objective.config
    sampler: Any = objective.masks
    context, levels = sampler.sizes()
    size = tuple(values.shape[2:])
    grids = objective.student.grids(size)
    kept = torch.arange(round(context))[None]
    forward = _counted(lambda: objective.student.fused(objective.student(values), size))
    student = _counted(lambda: objective.student.fused(objective.student(values, None, kept), size))
    heads = 0
    for n, (predictor, (blocks, cells)) in enumerate(
        zip(objective.predictors, levels, strict=True)
    ):
        every = torch.arange(math.prod(grids[n]))[None]
        read = kept if n == 0 else every
        tokens = values.new_zeros(1, read.shape[1], objective.student.widths[n])
        above_it = n + 1 < len(grids) and config.top_down
        hint = (
            values.new_zeros(1, every.shape[1], objective.student.widths[n + 1])
            if above_it
            else None
        )
        queries = [torch.zeros(int(blocks), 1, round(cells), dtype=torch.int64)]
        if config.top_down and n > 0:
            queries.append(every[None])
        for query in queries:
            run = partial(predictor, tokens, read, query, grids[n], None, None, hint)
            heads += _counted(run)
    return 3 * (student + heads) + (forward if objective.teacher is not None else 3 * forward)


@claim("loop.flops", "The operations of a step that are logged and benchmarked are those of its "
       "matrix products, convolutions and attentions: three passes through what is trained, and "
       "one through a teacher.", source="Kaplan et al. 2020, appendix B: a backward pass is two "
       "forward ones", about=_can_be_counted)  # fmt: skip
def flops(twin: Twin) -> Evidence:
    """By torch's own counter, of one sample; with the recipe's two views where it has them, and
    of a hierarchy with fusion and top-down predictions, too."""
    views, values = twin.config.objective.views, twin.inputs().values[:1]
    changes = {} if views is None else {"objective.views": views.model_dump()}
    ways: dict[str, dict[str, Any]] = {"as configured": changes | {"train.micro_batches": 1}}
    if is_hierarchy(twin):
        joined = {"objective.fusion": True, "objective.top_down": True}
        ways["with fusion and top-down"] = ways["as configured"] | joined
    parts = []
    for name, own in ways.items():
        objective = twin.objective(own)
        logged = objective.step_flops(tuple(values.shape[2:]))
        parts.append(equal(f"{name}: operations", logged, _of_step(objective, values)))
    return all_of(*parts)


def _draws_shapes(twin: Twin) -> bool:
    return is_jepa(twin) and jepa_of(twin.recipe).masks.kind != "reference"


@claim("masks.mean-sizes", "The sizes that operations are counted from are those of the masks that "
       "are drawn, on average over the shapes of a run.", source="our design, objectives/jepa",
       about=_draws_shapes)  # fmt: skip
def mean_sizes(twin: Twin) -> Evidence:
    """Masks of a step of each of a run's few shapes."""
    sampler, masks = sampler_of(twin.config), jepa_of(twin.config).masks
    assert not isinstance(masks, ReferenceBlocks)
    found: dict[int, Masks] = {}
    for draw in draws(twin.config, 200):
        found.setdefault(draw.choice("mask-shape", masks.shapes), sampler(draw, None))
    context, levels = sampler.sizes()
    parts = [
        equal("shapes met", len(found), masks.shapes),
        at_most(
            "context, difference", abs(context - _mean([m.context for m in found.values()])), 1e-9
        ),
    ]
    for n, (blocks, cells) in enumerate(levels):
        targets = [m.targets[n] for m in found.values()]
        parts += [
            equal(f"level {n}: blocks", blocks, len(targets[0])),
            at_most(f"level {n}: cells, difference", abs(cells - _mean(targets)), 1e-9),
        ]
    return all_of(*parts)


def _mean(places: list[torch.Tensor]) -> float:
    return sum(ids.shape[-1] for ids in places) / len(places)
