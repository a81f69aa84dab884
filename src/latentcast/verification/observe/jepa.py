"""One forward pass of a JEPA as seen from outside: the input and output of each part.

By hooks and a wrapper of the mask sampler; nothing of the objective's own bookkeeping (its
scalars, its views) is believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.nn.hierarchy import Tokens
from latentcast.objectives.base import Output
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.jepa.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.observe.config import jepa_of, transformer_of
from latentcast.verification.observe.hooks import hooked
from latentcast.verification.observe.network import finest, naive_norm
from latentcast.verification.observe.twin import Twin

Grid = tuple[int, ...]
ROUNDING = 1e-10
"""Float64 in another order of summation; the quantities are of the order of 1."""
MATTERS = 1e-6
"""What has to move moves more than this, or the measurement would be of nothing."""
_ARGUMENTS = (
    "context", "context_ids", "target_ids", "grid", "context_valid", "target_valid", "hint",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of a predictor: its arguments by name, and its predictions."""

    arguments: Mapping[str, Any]
    out: Tensor


@dataclass
class Pass:
    """What was seen of one forward pass.

    Attributes:
        drawn: draw and masks of each call of the sampler.
        student, teacher: levels of each call, bottom-up.
        lengths: tokens in each call of the student's first block.
        calls: of each level's predictor.
    """

    output: Output
    drawn: list[tuple[Draw, Masks]] = field(default_factory=list)
    student: list[list[Tokens]] = field(default_factory=list)
    teacher: list[list[Tokens]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    calls: list[list[Call]] = field(default_factory=list)

    @property
    def context(self) -> list[Tokens]:
        """The levels of the context: those of the student's last call."""
        return self.student[-1]

    @property
    def places(self) -> Tensor:
        """``(B, K)``: the patches of the context that the finest predictor reads."""
        places: Tensor = self.calls[0][0].arguments["context_ids"]
        return places

    @property
    def targets(self) -> tuple[Tensor, ...]:
        """``(M, B, T)`` for each level: the cells that its predictor is to predict."""
        return tuple(calls[0].arguments["target_ids"] for calls in self.calls)

    @property
    def predictions(self) -> list[Tensor]:
        return [calls[0].out for calls in self.calls]


@dataclass
class _RecordedSampler:
    """A mask sampler that writes down what it draws."""

    sampler: Any
    drawn: list[tuple[Draw, Masks]]

    def __call__(self, draw: Draw, valid: Tensor | None = None) -> Masks:
        masks: Masks = self.sampler(draw, valid)
        self.drawn.append((draw, masks))
        return masks

    def sizes(self) -> Any:
        return self.sampler.sizes()


def observe(objective: Jepa, inputs: Inputs, draw: Draw | None) -> Pass:
    """A forward pass of the objective as the loop does it, recorded."""
    return watch(objective, lambda: objective(inputs, draw))[1]


def watch(objective: Jepa, run: Callable[[], Any]) -> tuple[Any, Pass]:
    """Whatever is run with it: its result, and what was recorded on the way."""
    found = Pass(Output(torch.zeros(()), torch.zeros(())), calls=[[] for _ in objective.predictors])

    def levels(into: list[list[Tokens]]) -> Any:
        return lambda module, args, out: into.append(out)

    def length(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.lengths.append((args[0] if args else kwargs["x"]).shape[1])

    def call(into: list[Call]) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
            named = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            into.append(Call({name: named.get(name) for name in _ARGUMENTS}, out))

        return hook

    handles = [objective.student.register_forward_hook(levels(found.student))]
    if objective.teacher is not None:
        handles.append(objective.teacher.register_forward_hook(levels(found.teacher)))
    first = finest(objective).blocks[0]
    handles.append(first.register_forward_pre_hook(length, with_kwargs=True))
    for predictor, calls in zip(objective.predictors, found.calls, strict=True):
        handles.append(predictor.register_forward_hook(call(calls), with_kwargs=True))
    sampler = _RecordedSampler(objective.masks, found.drawn)
    with hooked(handles), mock.patch.object(objective, "masks", sampler):
        result = run()
    if isinstance(result, Output):
        found.output = result
    return result, found


def live(twin: Twin, changes: Mapping[str, Any] | None = None, moved: bool = True) -> Jepa:
    """The twin in training mode and float64, its regularizer off unless ``changes`` say otherwise.

    Args:
        moved: with weights large enough to matter, every gain and bias away from 1 and 0, and a
            teacher that is no longer the student: at initialisation much of what could be wrong
            makes no difference.
    """
    # Without a teacher there has to be one: it is all that such a recipe has against collapse.
    alone = jepa_of(twin.config).target == "student"
    plain: dict[str, Any] = {} if alone else {"objective.regularizer": None}
    objective = twin.objective(plain | dict(changes or {}))
    assert isinstance(objective, Jepa)
    if moved:
        with torch.no_grad():
            for number, parameter in enumerate(objective.parameters()):
                parameter.mul_(4).add_(0.02 * noise(parameter.shape, number))
    return objective.double().train()


def one_pass(twin: Twin, changes: Mapping[str, Any] | None = None) -> tuple[Jepa, Pass]:
    """The moved twin, and its first training batch passed through it."""
    objective = live(twin, changes)
    return objective, observe(objective, Inputs(values(twin)), twin.draw())


def move(network: nn.Module) -> None:
    """All its weights elsewhere."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(0.3 * noise(parameter.shape, 500 + number))


def noise(shape: tuple[int, ...] | torch.Size, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def values(twin: Twin, attempt: int = 0) -> Tensor:
    """Preprocessed samples of the twin in float64; not one of them is missing."""
    return twin.inputs(attempt).values.double()


def spread_over(flags: Tensor, grid: Grid, patch: int, channels: int) -> Tensor:
    """Flags of patches ``(B, N)``, row-major, as flags of the input ``(B, channels, *size)``."""
    wide = flags.view(len(flags), 1, *grid)
    for axis in range(2, 2 + len(grid)):
        wide = wide.repeat_interleave(patch, axis)
    return wide.expand(-1, channels, *wide.shape[2:])


def patch_flags(twin: Twin, flags: Tensor) -> Tensor:
    """Flags of the twin's patches as flags of its input."""
    config = twin.config
    if (leads := config.input.lead_rows) is not None:
        wide = flags.view(len(flags), leads, -1)
        return wide.repeat_interleave(config.encoder.patch, 2)
    return spread_over(flags, config.grids[0], config.encoder.patch, config.input.channels)


def some_valid(twin: Twin, batch: int) -> Tensor:
    """``(B, N)`` of patches: all of a sample, half of one, the first third of one, none of one."""
    patches = math.prod(twin.config.grids[0])
    valid = torch.ones(batch, patches, dtype=torch.bool)
    valid[1] = noise((patches,), 7) > 0
    valid[2, patches // 3 :] = False
    valid[3] = False
    return valid


def marked(places: Tensor, cells: int) -> Tensor:
    """Places ``(B, K)`` as flags ``(B, cells)``."""
    flags = torch.zeros(len(places), cells, dtype=torch.bool)
    return flags.scatter(1, places, True)


@lru_cache(maxsize=64)
def parent_of_each(fine: Grid, coarse: Grid) -> tuple[int, ...]:
    """The coarse cell of each fine one by dividing its coordinates, one at a time."""
    strides = [n // m for n, m in zip(fine, coarse, strict=True)]
    found = []
    for cell in product(*map(range, fine)):
        above = [i // s for i, s in zip(cell, strides, strict=True)]
        found.append(int(np.ravel_multi_index(above, coarse)))
    return tuple(found)


def covered(targets: tuple[Tensor, ...], grids: tuple[Grid, ...]) -> Tensor:
    """``(B, N)`` bool: the patches that lie under a target ``(M, B, T)`` of any level."""
    batch = targets[0].shape[1]
    hidden = torch.zeros(batch, math.prod(grids[0]), dtype=torch.bool)
    for grid, blocks in zip(grids, targets, strict=True):
        cells = marked(blocks.transpose(0, 1).flatten(1), math.prod(grid))
        hidden |= cells[:, list(parent_of_each(grids[0], grid))]
    return hidden


def apart(one: Tensor, other: Tensor) -> float:
    """Largest difference; infinite when the shapes are not the same, or a number is NaN.

    Not NaN then, which ``max`` of several differences would pass over.
    """
    if one.shape != other.shape:
        return math.inf
    if not one.numel():
        return 0.0
    gap = float((one.detach().double() - other.detach().double()).abs().max())
    return math.inf if math.isnan(gap) else gap


def changes(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[float]:
    """:func:`apart` of each pair."""
    return [apart(a, b) for a, b in zip(one, other, strict=True)]


def values_of(levels: list[Tokens]) -> list[Tensor]:
    return [level.values for level in levels]


def normed(h: Tensor) -> Tensor:
    """Layer norm without scale or offset, by its formula."""
    return naive_norm(h, None, None, 1e-5)


def is_jepa(twin: Twin) -> bool:
    return isinstance(twin.recipe.objective, JepaConfig)


def is_hierarchy(twin: Twin) -> bool:
    return isinstance(twin.recipe.objective, JepaConfig) and bool(twin.recipe.objective.coarser)


def has_teacher(twin: Twin) -> bool:
    jepa = twin.recipe.objective
    return isinstance(jepa, JepaConfig) and jepa.target == "teacher"


def layer_normed_teacher(twin: Twin) -> bool:
    """A teacher whose output is layer-normed, as I-JEPA's."""
    return has_teacher(twin) and jepa_of(twin.recipe).target_norm == "layer"


def cells_with(flags: Tensor, fine: Grid, coarse: Grid) -> Tensor:
    """``(B, coarse cells)`` bool: the cells with any of the flagged patches ``(B, N)`` in them."""
    cells = torch.zeros(len(flags), math.prod(coarse), dtype=torch.bool)
    for patch, cell in enumerate(parent_of_each(fine, coarse)):
        cells[:, cell] |= flags[:, patch]
    return cells


def unaugmented(twin: Twin) -> dict[str, Any]:
    """Changes without what training draws beside the masks: drop-path and moved coordinates."""
    changes: dict[str, Any] = {"encoder.drop_path": 0.0}
    if transformer_of(twin.config).positions.kind == "rotary":
        changes |= {f"encoder.positions.{name}": None for name in ("rescale", "shift", "jitter")}
    return changes
