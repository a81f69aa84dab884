"""What a recipe's masks cover: how often each patch is context and target, and a few of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.config import Config
from latentcast.errors import LatentcastError, missing_extra
from latentcast.nn.cells import Grid, parents
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.masks import mask_sampler
from latentcast.objectives.masked import MaskedConfig, span_masks
from latentcast.randomness import Draw
from latentcast.report.style import LIGHT, TEXT_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCH = 128
STEPS = 50
EXAMPLES = 6

Values = npt.NDArray[np.float64]


class Marks(NamedTuple):
    """Bool ``(samples, cells)`` of the patches that are context, and of the targets by level.

    ``sizes`` are those of the tensors of a batch, which a compiled network is compiled for.
    """

    context: Tensor
    targets: tuple[Tensor, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Coverage:
    """How often each patch had which part, over :data:`STEPS` batches of :data:`BATCH` samples.

    Attributes:
        grids: cells along each axis at every level, the patches first.
        context: ``(N,)`` share of samples in which a patch was context.
        targets: for each level ``(cells,)``, the share in which a cell was in a target block.
        shared: samples in which a context patch lay under a target; 0 unless the masks leak.
        shapes: different (context, targets) sizes that occurred.
        milliseconds: median time to draw one batch.
        examples: masks of the first samples.
    """

    grids: tuple[Grid, ...]
    context: Values
    targets: tuple[Values, ...]
    shared: int
    shapes: int
    milliseconds: float
    examples: Marks


def coverage(config: Config) -> Coverage:
    """Draw the masks of the first steps of a run and count; of two views, those of a view.

    Raises:
        LatentcastError: the objective has no masks.
    """
    config = config.of_views
    grids, sampler = config.grids, _sampler(config)
    context = np.zeros(math.prod(grids[0]))
    targets = [np.zeros(math.prod(grid)) for grid in grids]
    shared, shapes, times, examples = 0, set(), [], None
    cpu = torch.device("cpu")
    for step in range(STEPS):
        ids = torch.arange(BATCH) + step * BATCH
        start = time.perf_counter()
        masks = sampler(Draw(config.train.seed, step, ids))
        times.append(time.perf_counter() - start)
        examples = examples or masks
        context += masks.context.sum(0).numpy()
        hidden = torch.zeros_like(masks.context)
        for level, covered in enumerate(masks.targets):
            targets[level] += covered.sum(0).numpy()
            hidden |= covered[:, parents(grids[0], grids[level], cpu)]
        shared += int((masks.context & hidden).any(1).sum())
        shapes.add(masks.sizes)
    assert examples is not None
    samples = STEPS * BATCH
    shares, milliseconds = tuple(t / samples for t in targets), float(np.median(times)) * 1e3
    return Coverage(grids, context / samples, shares, shared, len(shapes), milliseconds, examples)


def _sampler(config: Config) -> Callable[[Draw], Marks]:
    """Masks of a batch; LatentcastError for an objective without."""
    grids, objective = config.grids, config.objective
    if isinstance(objective, MaskedConfig):
        settings = objective

        def spans(draw: Draw) -> Marks:
            masked = span_masks(settings, draw, grids[0])
            return Marks(~masked, (masked,), (math.prod(grids[0]),))

        return spans
    if not isinstance(objective, JepaConfig):
        raise LatentcastError(
            f"{config.recipe}: objective {objective.kind} hides nothing; "
            "name a JEPA recipe (latentcast recipes)"
        )
    sampler, cells = mask_sampler(config), [math.prod(grid) for grid in grids]

    def blocks(draw: Draw) -> Marks:
        masks = sampler(draw, None)
        sizes = masks.context.shape[1], *(n for ids in masks.targets for n in ids.shape[::2])
        targets = tuple(
            _marked(ids.transpose(0, 1).flatten(1), count)
            for ids, count in zip(masks.targets, cells, strict=True)
        )
        return Marks(_marked(masks.context, cells[0]), targets, sizes)

    return blocks


def plot_coverage(found: Coverage) -> Figure:
    """Context and targets of every level as maps, and below them masks of single samples.

    Raises:
        LatentcastError: matplotlib is missing.
    """
    try:
        from matplotlib.colors import LinearSegmentedColormap, ListedColormap
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing masks") from error
    levels = len(found.targets)
    columns = max(levels + 1, EXAMPLES if len(found.grids[0]) > 1 else 1)
    flat = len(found.grids[0]) == 1
    maps = [("context", found.context, found.grids[0])] + [
        (f"targets {n}" if levels > 1 else "targets", share, grid)
        for n, (share, grid) in enumerate(zip(found.targets, found.grids, strict=True))
    ]
    shades = {
        "context": LinearSegmentedColormap.from_list("context", ["#ffffff", LIGHT["model"]]),
        "targets": LinearSegmentedColormap.from_list("targets", ["#ffffff", LIGHT["other"]]),
    }
    colours = ["#ffffff", LIGHT["model"], *(LIGHT[f"class-{2 + n}"] for n in range(levels))]
    samples: dict[str, Any] = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": levels + 1}
    if flat:
        figure = Figure(figsize=(10, 0.75 * (len(maps) + 1) + 1.7), facecolor="white")
        ratios = [1.0] * len(maps) + [3.2]
        rows = figure.subplots(len(maps) + 1, 1, gridspec_kw={"height_ratios": ratios})
        figure.subplots_adjust(left=0.03, right=0.985, top=0.93, bottom=0.05, hspace=0.9)
        for axes, (name, share, _) in zip(rows, maps, strict=False):
            _map(axes, name, share[None], shades[name.split()[0]])
        drawn = np.stack([_example(found, n) for n in range(EXAMPLES)])
        rows[-1].imshow(drawn, aspect="auto", interpolation="nearest", **samples)
        rows[-1].set_yticks([])
        _title(rows[-1], _legend(levels, f"{EXAMPLES} samples"))
        return figure
    figure = Figure(figsize=(1.75 * columns, 4.9), facecolor="white")
    grid = figure.subplots(2, columns, squeeze=False)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.9, bottom=0.03, hspace=0.3, wspace=0.18)
    for axes, (name, share, extent) in zip(grid[0], maps, strict=False):
        _map(axes, name, share.reshape(extent), shades[name.split()[0]])
    for axes in grid[0][len(maps) :]:
        axes.remove()
    for n, axes in enumerate(grid[1]):
        drawn = _example(found, n).reshape(found.grids[0])
        axes.imshow(drawn, interpolation="nearest", **samples)
        axes.set(xticks=[], yticks=[])
    _title(grid[1][0], _legend(levels, f"{columns} samples"))
    return figure


def _map(axes: Axes, name: str, share: Values, shade: Any) -> None:
    axes.imshow(share, cmap=shade, vmin=0, vmax=1, aspect="auto" if len(share) == 1 else "equal",
                interpolation="nearest")  # fmt: skip
    axes.set(xticks=[], yticks=[])
    _title(axes, f"{name}: {share.min():.0%}–{share.max():.0%}")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=TEXT_POINTS, color=LIGHT["ink"])


def _legend(levels: int, what: str) -> str:
    kinds = "targets" if levels == 1 else "targets of level " + ", ".join(map(str, range(levels)))
    return f"{what}: context dark blue, {kinds} coloured, the rest not used"


def _example(found: Coverage, sample: int) -> Values:
    """One sample on the patch grid: 0 unused, 1 context, 2 + level for a target."""
    drawn = np.zeros(math.prod(found.grids[0]))
    cpu = torch.device("cpu")
    for level in reversed(range(len(found.targets))):  # finer targets over coarser ones
        covered = found.examples.targets[level][sample]
        drawn[covered[parents(found.grids[0], found.grids[level], cpu)].numpy()] = 2 + level
    drawn[found.examples.context[sample].numpy()] = 1
    return drawn


def _marked(places: Tensor, cells: int) -> Tensor:
    marked = torch.zeros(len(places), cells, dtype=torch.bool)
    return marked.scatter_(1, places, True)
