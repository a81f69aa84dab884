"""Masks: disjoint, unbiased, the same for a sample wherever it is drawn; never an endless draw."""

from __future__ import annotations

import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentcast.config import Blocks, Config, ContextBlocks, LevelConfig, ReferenceBlocks
from latentcast.errors import LatentcastError
from latentcast.nn.cells import parents
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.mask_shapes import (
    MaskShape,
    block_extent,
    reference_extent,
)
from latentcast.objectives.jepa.masks import (
    BlockMasks,
    Masks,
    MaskSampler,
    StretchMasks,
    mask_sampler,
)
from latentcast.objectives.jepa.reference_masks import ReferenceMasks
from latentcast.randomness import Draw
from latentcast.recipes import recipe

CPU = torch.device("cpu")
STATISTICS = Path(__file__).parents[1] / "parity" / "ijepa_mask_statistics.json"
BLOCKS_1D = Blocks(targets=3, target_scale=(0.1, 0.15), least_context=4)
LEVEL = LevelConfig.model_validate(
    {"stride": 2, "masks": {"targets": 2, "target_scale": (0.1, 0.15)}}
)


def levels(count: int, **finest: Any) -> dict[str, Any]:
    masks = Blocks(targets=2, target_scale=(0.1, 0.15), least_context=4)
    changed = JepaConfig(masks=masks, coarser=(LEVEL,) * count).model_dump()
    return {"objective": changed, **finest}


IMAGE = recipe("ijepa-image-tiny").updated(
    {"objective.masks": Blocks(least_context=4).model_dump()}
)
ECG = recipe("ijepa-ecg-tiny").updated(
    {"objective.masks": ContextBlocks(least_block=3).model_dump()}
)
CASES = {
    "8 × 8": IMAGE,
    "10 × 6": IMAGE.updated({"input.height": 40, "input.width": 24}),
    "50 stretches": ECG,
    "50 blocks": ECG.updated({"objective.masks": BLOCKS_1D.model_dump()}),
    "three levels of 16 × 24": IMAGE.updated(levels(2, **{"input.height": 64, "input.width": 96})),
    "three levels of 80": ECG.updated(levels(2, **{"input.length": 1600})),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def config(request: pytest.FixtureRequest) -> Config:
    case: Config = request.param
    return case


def jepa_of(config: Config) -> JepaConfig:
    assert isinstance(config.objective, JepaConfig)
    return config.objective


def sampler_of(config: Config) -> MaskSampler:
    return mask_sampler(config)


def drawn(sampler: MaskSampler, step: int, batch: int = 8, first: int = 0, seed: int = 0) -> Masks:
    return sampler(Draw(seed, step, torch.arange(first, first + batch)), None)


def equal(one: Masks, other: Masks) -> bool:
    pairs = zip((one.context, *one.targets), (other.context, *other.targets), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def marked(ids: Tensor, patches: int) -> Tensor:
    """Ids ``(B, K)`` as flags ``(B, patches)``."""
    return torch.zeros(len(ids), patches, dtype=torch.bool).scatter(1, ids, True)


def covered(masks: Masks, grids: tuple[tuple[int, ...], ...]) -> Tensor:
    """The patches under any target of any level."""
    hidden = torch.zeros(len(masks.context), math.prod(grids[0]), dtype=torch.bool)
    for grid, targets in zip(grids, masks.targets, strict=True):
        cells = marked(targets.transpose(0, 1).flatten(1), math.prod(grid))
        hidden |= cells[:, parents(grids[0], grid, CPU)]
    return hidden


def visits(config: Config, steps: int = 100, batch: int = 64) -> tuple[Tensor, Tensor]:
    """How often each patch is context, and under a target, of all samples drawn."""
    sampler, patches = sampler_of(config), math.prod(config.grids[0])
    context, target = torch.zeros(patches), torch.zeros(patches)
    for step in range(steps):
        masks = drawn(sampler, step, batch)
        context += marked(masks.context, patches).sum(0)
        target += covered(masks, config.grids).sum(0)
    return context / (steps * batch), target / (steps * batch)


# Form


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_masks_are_ascending_ids_of_one_length(config: Config, batch: int) -> None:
    sampler = sampler_of(config)
    for step in range(5):
        masks = drawn(sampler, step, batch)
        assert len(masks.targets) == len(config.grids)
        for ids, grid in zip((masks.context, *masks.targets), (config.grids[0], *config.grids),
                                strict=True):  # fmt: skip
            assert ids.dtype == torch.int64 and ids.shape[-2] == batch
            assert bool((ids.diff(dim=-1) > 0).all())
            assert 0 <= int(ids.min()) and int(ids.max()) < math.prod(grid)
    assert sampler.sizes()[1][0][0] == len(drawn(sampler, 0).targets[0])


def test_a_target_is_a_whole_block_of_its_grid(config: Config) -> None:
    if jepa_of(config).masks.kind != "blocks":
        return
    masks = drawn(sampler_of(config), 3)
    for grid, targets in zip(config.grids, masks.targets, strict=True):
        for cells in targets.flatten(0, 1):
            axes = torch.stack(torch.unravel_index(cells, grid))
            sides = axes.amax(1) - axes.amin(1) + 1
            assert int(sides.prod()) == len(cells)


def test_masks_are_a_function_of_seed_step_and_sample(config: Config) -> None:
    sampler = sampler_of(config)
    first = drawn(sampler, 5)
    assert equal(first, drawn(sampler_of(config), 5))
    assert not equal(first, drawn(sampler, 5, seed=1))
    others = [drawn(sampler, step) for step in range(6, 60)]
    alike = [other for other in others if other.context.shape == first.context.shape]
    assert alike  # steps of the same shape, which differ all the same
    for one, *rest in zip(*((m.context, *m.targets) for m in (first, *alike)), strict=True):
        assert not any(torch.equal(one, other) for other in rest)
    assert len(torch.unique(first.context, dim=0)) == 8  # samples of one batch differ


def test_a_sample_has_the_same_masks_in_another_micro_batch(config: Config) -> None:
    sampler = sampler_of(config)
    batch, piece = drawn(sampler, 2, 8), drawn(sampler, 2, 3, first=5)
    assert torch.equal(batch.context[5:], piece.context)
    for all_, some in zip(batch.targets, piece.targets, strict=True):
        assert torch.equal(all_[:, 5:], some)


def test_few_shapes_so_that_compiled_code_stays_compiled(config: Config) -> None:
    masks_config = jepa_of(config).masks
    assert masks_config.kind != "reference"
    sampler, shapes = sampler_of(config), set()
    for step in range(1000):
        masks = drawn(sampler, step, 1)
        shapes.add((masks.context.shape[1], *(t.shape for t in masks.targets)))
    assert 1 < len(shapes) <= masks_config.shapes


class _Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_no_loop_runs_over_the_samples(config: Config) -> None:
    """jepa.md M6: the public collators take a second for a batch of 128."""
    sampler, counts = sampler_of(config), []
    drawn(sampler, 0)  # fills the caches
    for batch in (2, 64):
        with _Counting() as counting:
            drawn(sampler, 0, batch)
        counts.append(counting.count)
    assert counts[0] == counts[1] > 0


# Disjoint


def test_no_patch_of_a_context_lies_under_a_target(config: Config) -> None:
    """jepa.md M4: the original lets targets into the context when it gives up; never here."""
    sampler, patches = sampler_of(config), math.prod(config.grids[0])
    for step in range(8):  # 10,240 samples
        masks = drawn(sampler, step, 1280)
        assert not bool((marked(masks.context, patches) & covered(masks, config.grids)).any())


@settings(max_examples=150)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=2),
    st.integers(1, 5),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.floats(0.05, 20),
    st.integers(1, 12),
    st.integers(0, 2),
)
def test_any_request_is_an_error_before_training_or_drawn_disjoint(
    extents: list[int],
    targets: int,
    scale: float,
    context: float,
    aspect: float,
    least: int,
    coarser: int,
) -> None:
    masks = Blocks(
        targets=targets, target_scale=(scale / 2, scale), context_scale=(context / 2, context),
        target_aspect=(aspect, 2 * aspect), least_context=least,
    )  # fmt: skip
    grids = [tuple(extents)]
    while len(grids) <= coarser and not any(n % 2 for n in grids[-1]):
        grids.append(tuple(n // 2 for n in grids[-1]))
    own = {"targets": 1, "target_scale": masks.target_scale, "target_aspect": masks.target_aspect}
    level = LevelConfig.model_validate({"stride": 2, "masks": own})
    jepa = JepaConfig(masks=masks, coarser=(level,) * (len(grids) - 1))
    try:
        shapes = jepa.shapes(tuple(grids), seed=0)
    except ValueError as problem:
        assert "too small for the masks" in str(problem)
        return
    counts = (targets, *(1 for _ in grids[1:]))
    sampler = BlockMasks(tuple(grids), counts, shapes)
    for step in range(3):
        drawn_masks = drawn(sampler, step)
        assert drawn_masks.context.shape[1] >= least
        context_flags = marked(drawn_masks.context, math.prod(grids[0]))
        assert not bool((context_flags & covered(drawn_masks, tuple(grids))).any())


def _too_long(*signalled: object) -> None:
    raise TimeoutError("the masks are still being drawn")


@pytest.mark.parametrize("side", range(1, 8))
@pytest.mark.parametrize("kind", ["blocks", "reference"])
def test_tiny_grids_are_refused_or_work_and_never_hang(side: int, kind: str) -> None:
    """jepa.md M5: with the published settings the original never returns on 8 × 8 and 4 × 4."""
    try:
        config = IMAGE.updated(
            {"input.height": 4 * side, "input.width": 4 * side, "objective.masks": {"kind": kind}}
        )
    except LatentcastError as problem:
        assert re.search(r"too small for .*masks: .*; use ", str(problem))
        return
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(20)  # a draw that does not end must fail here, not stop all tests
    try:
        masks = drawn(sampler_of(config), 0)
    finally:
        signal.alarm(0)
    assert masks.context.shape[1] > 0


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_the_offered_least_context_is_one_that_works(patch: int) -> None:
    """An error must not offer a mend that is refused in its turn."""
    for targets in (2, 3, 4):
        changes: dict[str, Any] = {"encoder.patch": patch, "objective.masks.targets": targets,
                                   "objective.masks.least_context": 300}  # fmt: skip
        with pytest.raises(LatentcastError, match="too small for the masks") as raised:
            IMAGE.updated(changes)
        if offered := re.search(r"least_context (\d+)$", str(raised.value)):
            IMAGE.updated({**changes, "objective.masks.least_context": int(offered[1])})


# Unbiased


@pytest.mark.parametrize("name", ["8 × 8", "10 × 6", "50 stretches", "50 blocks"])
def test_every_patch_is_context_and_target_about_as_often(name: str) -> None:
    """jepa.md M1 and M3: the original never uses the last row and column, and hardly the lower."""
    for frequency in visits(CASES[name]):
        mean = float(frequency.mean())
        assert 0.4 * mean < float(frequency.min()) and float(frequency.max()) < 2.2 * mean


def test_corners_of_the_published_grid_are_visited_too() -> None:
    config = recipe("ijepa-image-base").updated({"input.height": 256, "input.width": 256})
    context, target = (f.view(16, 16) for f in visits(config, 60))
    for frequency in (context, target):
        corners = frequency[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert 0.6 * float(frequency.mean()) < float(corners.min())
        assert float(corners.max()) < 1.7 * float(frequency.mean())


def test_every_patch_is_visited_with_three_levels() -> None:
    context, target = visits(CASES["three levels of 16 × 24"], 60)
    assert float(context.min()) > 0.3 * float(context.mean())
    assert float(target.min()) > 0.5 * float(target.mean())


@pytest.mark.parametrize("name", ["8 × 8", "50 blocks", "three levels of 16 × 24"])
def test_contexts_are_equalised_without_regard_to_the_place(name: str) -> None:
    """jepa.md M3: cut from the front, contexts lose the bottom rows. Chi-square on what is free."""
    config = CASES[name]
    sampler, patches = sampler_of(config), math.prod(config.grids[0])
    counted, expected, spread = (torch.zeros(patches, dtype=torch.float64) for _ in range(3))
    for step in range(60):
        masks = drawn(sampler, step, 256)
        free = ~covered(masks, config.grids)
        share = masks.context.shape[1] / free.sum(1, keepdim=True).double()
        counted += marked(masks.context, patches).sum(0)
        expected += (free * share).sum(0)
        spread += (free * share * (1 - share)).sum(0)
    z = (counted - expected) / spread.sqrt()
    assert float(z.square().mean()) < 1 + 5 * math.sqrt(2 / patches)
    assert float(z.abs().max()) < 5


def test_scale_and_aspect_are_independent() -> None:
    """The original draws both from one number: small blocks are wide, large ones tall."""
    areas, aspects = [], []
    for seed in range(100):
        for shape in JepaConfig().shapes(((200, 200),), seed):
            ((height, width),) = shape.blocks
            areas.append(height * width)
            aspects.append(height / width)
    both = torch.tensor([areas, aspects], dtype=torch.float64)
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1  # standard error 0.035
    assert 0.75 <= min(aspects) + 0.02 < 0.8 and 1.45 < max(aspects) - 0.02 <= 1.5
    assert 0.149 < min(areas) / 200**2 < 0.155 and 0.195 < max(areas) / 200**2 < 0.201


@pytest.mark.parametrize("grid", [(16, 16), (14, 14), (16, 24), (200,)])
@pytest.mark.parametrize("scale", [0.1, 0.15, 0.2, 0.4])
def test_a_block_covers_its_share(grid: tuple[int, ...], scale: float) -> None:
    """Up to the rounding of its sides."""
    share = scale * math.prod(grid)
    for aspect in (0.75, 1.0, 1.5):
        covers = math.prod(block_extent(grid, scale, aspect))
        half = 0.5 * (math.sqrt(share * aspect) + math.sqrt(share / aspect)) + 0.25
        assert abs(covers - share) <= (1 if len(grid) == 1 else 1 + half)


@pytest.mark.parametrize("grid", [(4, 40), (50, 2), (3, 100)])
def test_a_block_too_tall_for_its_grid_takes_its_share_along_the_other_side(
    grid: tuple[int, int],
) -> None:
    """Images need not be square: a clamped side must not halve the target."""
    for aspect in (0.75, 1.0, 1.5):
        covers = math.prod(block_extent(grid, 0.2, aspect))
        assert abs(covers - 0.2 * math.prod(grid)) <= 1 + 0.5 * min(grid)


# Validity


def test_unmeasured_patches_are_context_only_at_need(config: Config) -> None:
    sampler, patches = sampler_of(config), math.prod(config.grids[0])
    for step in range(4):
        for share in (0.9, 0.5):
            # A recording that ends early, as padding leaves it.
            valid = torch.arange(patches).expand(32, -1) < patches * share
            masks = sampler(Draw(0, step, torch.arange(32)), valid)
            context = marked(masks.context, patches)
            if jepa_of(config).masks.kind == "blocks":
                enough = (valid & ~covered(masks, config.grids)).sum(1)
            else:
                enough = valid.sum(1)
            lacking = (masks.context.shape[1] - enough).clamp(min=0)
            assert torch.equal((context & ~valid).sum(1), lacking)


# Stretches


def test_stretches_keep_the_share_and_their_least_length() -> None:
    config = recipe("ijepa-ecg-small")
    sampler = sampler_of(config)
    for step in range(60):
        masks = drawn(sampler, step, 32)
        context = marked(masks.context, 200)
        assert 0.15 * 200 - 0.5 <= masks.context.shape[1] <= 0.25 * 200 + 0.5
        assert torch.equal(context, ~marked(masks.targets[0][0], 200))
        for row in context.tolist():
            lengths = [len(run) for run in re.findall("1+", "".join("01"[v] for v in row))]
            assert min(lengths) >= 10


def test_every_placement_of_stretches_is_drawn() -> None:
    sampler = StretchMasks(((7,),), (MaskShape(((3,),), 4, 2),))
    found = {tuple(row) for row in drawn(sampler, 0, 500).context.tolist()}
    expected = {
        (a, a + 1, b, b + 1) for a in range(6) for b in range(a + 2, 6)
    }  # two stretches of two, side by side or apart
    assert found == expected


def test_levels_above_stretches_hide_cells_without_context() -> None:
    """Every placement leaves the promised number, whatever the stretches touch (10⁴ samples)."""
    config = recipe("hjepa-ecg-small")
    sampler, counts = sampler_of(config), [torch.zeros(50), torch.zeros(10)]
    for step in range(80):
        masks = sampler(Draw(3, step, torch.arange(128) + 128 * step), None)
        context = torch.zeros(128, 200, dtype=torch.bool).scatter(1, masks.context, True)
        for level, stride, cells in ((1, 4, 50), (2, 20, 10)):
            touched = context.view(128, cells, stride).any(2)
            target_ids = masks.targets[level][0]
            assert target_ids.shape[1] >= 1 and bool((target_ids.diff(dim=1) > 0).all())
            assert not touched.gather(1, target_ids).any()
            counts[level - 1] += torch.bincount(target_ids.flatten(), minlength=cells)
    for times in counts:  # no cell is forgotten, the last one included
        assert float(times.min()) > 0.5 * float(times.mean())


def test_stretches_that_could_touch_every_cell_of_a_level_are_refused() -> None:
    with pytest.raises(LatentcastError, match=r"touch every cell of level 1 \(2\).*smaller"):
        recipe("hjepa-ecg-tiny").updated({"objective.coarser.0.stride": 25})


# The reference's own


def reference(grid: tuple[int, int]) -> ReferenceMasks:
    return ReferenceMasks(grid, ReferenceBlocks())


def test_reference_context_is_always_the_same_square() -> None:
    """jepa.md M2: 15 × 15 on a 16 × 16 grid, which leaves it one place."""
    scales = [0.85 + 0.15 * n / 50 for n in range(51)]
    extents = {reference_extent((16, 16), s, (1.0, 1.0), (0.85, 1.0)) for s in scales}
    assert extents == {(15, 15)}


def test_reference_never_uses_the_last_row_and_column() -> None:
    covered_ids = torch.zeros(256, dtype=torch.bool)
    for step in range(40):
        context, targets = reference((16, 16))(Draw(0, step, torch.arange(8)))
        covered_ids[context.flatten()] = True
        covered_ids[targets.flatten()] = True
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[:15, :15] = True
    assert torch.equal(covered_ids.view(16, 16), inside)


@pytest.mark.parametrize(
    "original", json.loads(STATISTICS.read_text()), ids=lambda t: str(t["grid"])
)
def test_reference_counts_agree_with_the_originals(original: dict[str, Any]) -> None:
    """Within four standard errors of both samples; quantiles also within their rounding."""
    grid, count = tuple(original["grid"]), 600
    contexts, targets = [], []
    for step in range(count):
        context, blocks = reference(grid)(Draw(1, step, torch.arange(original["batch"])))
        contexts.append(context.shape[1])
        targets.append(blocks.shape[2])
    for ours, theirs in (
        (contexts, original["context_tokens"]),
        (targets, original["target_tokens"]),
    ):
        values = torch.tensor(ours, dtype=torch.float64)
        error = theirs["std"] * math.sqrt(1 / count + 1 / original["draws"])
        assert abs(float(values.mean()) - theirs["mean"]) < 4 * error
        assert float(values.std()) == pytest.approx(theirs["std"], rel=0.12)
        for name, widening in (("q05", 2.1), ("q50", 1.25), ("q95", 2.1)):
            if name in theirs:
                quantile = float(values.quantile(int(name[1:]) / 100))
                assert abs(quantile - theirs[name]) < 4 * widening * error + 1
    values_theirs = {int(v): n for v, n in original["target_tokens"]["values"].items()}
    assert set(targets) == set(values_theirs)
    for value, n in values_theirs.items():
        share = n / original["draws"]
        error = math.sqrt(share * (1 - share) * (1 / count + 1 / original["draws"]))
        assert abs(targets.count(value) / count - share) < 4 * error


@pytest.mark.parametrize("patch", [4, 8])
def test_reference_on_a_grid_where_the_original_hangs_is_refused(patch: int) -> None:
    with pytest.raises(LatentcastError, match="too small for the reference's masks.*use obj"):
        IMAGE.updated({"encoder.patch": patch, "objective.masks": {"kind": "reference"}})


def test_reference_whose_context_block_is_too_small_is_refused() -> None:
    """A context of five patches is never more than ten: it would be drawn for ever."""
    with pytest.raises(LatentcastError, match=r"objective\.masks: .*context.*min_keep"):
        recipe("ijepa-image-base").updated(
            {"objective.masks": {"kind": "reference", "context_scale": [0.02, 0.03]}}
        )


def test_reference_on_recordings_is_refused() -> None:
    with pytest.raises(LatentcastError, match="made for images; use objective.masks.kind=blocks"):
        ECG.updated({"objective.masks": {"kind": "reference"}})
