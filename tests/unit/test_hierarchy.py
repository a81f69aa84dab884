"""Levels above patches: true cells of a grid, tokens really dropped, nothing unmeasured let in."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentcast.config import EncoderConfig, LevelConfig, Rotary, SinCos
from latentcast.errors import LatentcastError
from latentcast.nn.blocks import Block
from latentcast.nn.cells import any_valid, gather, parents, pool
from latentcast.nn.hierarchy import Hierarchy, Level, Tokens
from latentcast.nn.positions import sincos
from latentcast.nn.transformer import PatchEncoder
from latentcast.randomness import Draw

CPU = torch.device("cpu")
SIZES = {1: (48,), 2: (16, 24)}  # in patches of 2: grids of 24, and of 8 × 12
POSITIONS = {"sincos": SinCos(), "rotary": Rotary(rescale=2.0)}
LEVELS = tuple(
    LevelConfig(stride=2, width=width, depth=depth, heads=2, mlp_width=32)
    for width, depth in ((16, 1), (24, 0))
)


def stack(axes: int = 2, levels: int = 2, fusion: bool = False, **encoder: Any) -> Hierarchy:
    config = EncoderConfig(
        **{"patch": 2, "width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "qk_norm": False,
           "layer_scale": None, "norm_eps": 1e-6, "causal": False, "cls": False,
           "positions": SinCos()} | encoder
    )  # fmt: skip
    seconds = 0.05 if axes == 1 else None
    made = Hierarchy(PatchEncoder(config, 3, axes, seconds), LEVELS[:levels], fusion)
    made.initialise(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)
    return made.double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def values(axes: int, batch: int = 3) -> Tensor:
    return normal(batch, 3, *SIZES[axes])


def some(axes: int, keep: int = 7, batch: int = 3) -> Tensor:
    """Patches to keep, ascending, others in each sample."""
    patches = math.prod(SIZES[axes]) // 2**axes
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randperm(patches, generator=generator)[:keep] for _ in range(batch)]
    return torch.stack(rows).sort(dim=1).values


# Cells


def naive_mean(tokens: Tensor, valid: Tensor, fine: tuple[int, ...], stride: int) -> Tensor:
    """The mean over the valid tokens of a cell, by loops."""
    coarse = tuple(n // stride for n in fine)
    out = torch.zeros(len(tokens), math.prod(coarse), tokens.shape[-1], dtype=torch.float64)
    for sample in range(len(tokens)):
        for number, cell in enumerate(itertools.product(*map(range, coarse))):
            members = []
            for inside in itertools.product(range(stride), repeat=len(fine)):
                place = 0
                for n, c, i in zip(fine, cell, inside, strict=True):
                    place = place * n + c * stride + i
                if valid[sample, place]:
                    members.append(tokens[sample, place])
            if members:
                out[sample, number] = torch.stack(members).mean(0)
    return out


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.integers(1, 3), st.floats(0, 1))
def test_pooling_is_the_mean_over_the_cells_of_the_grid(
    cells: list[int], stride: int, share: float
) -> None:
    """jepa.md D17: the public H-JEPA averages neighbours in a list, across row ends."""
    coarse = tuple(cells)
    fine = tuple(n * stride for n in coarse)
    tokens = normal(2, math.prod(fine), 3)
    valid = normal(2, math.prod(fine), seed=1).sigmoid() < share
    expected = naive_mean(tokens, valid, fine, stride)
    torch.testing.assert_close(pool(tokens, valid, fine, coarse), expected)
    every = torch.ones_like(valid)
    torch.testing.assert_close(
        pool(tokens, None, fine, coarse), naive_mean(tokens, every, fine, stride)
    )
    assert torch.equal(any_valid(valid, fine, coarse), pool(valid[..., None] + 0.0, None, fine,
                                                          coarse)[..., 0] > 0)  # fmt: skip


def test_no_cell_straddles_two_rows() -> None:
    """jepa.md D17: on a 14 × 14 grid, 7 of 49 groups of the public code do."""
    rows = torch.arange(14).repeat_interleave(14).double().view(1, 196, 1)
    pooled = pool(rows, None, (14, 14), (7, 7)).view(7, 7)
    assert torch.equal(pooled, (torch.arange(7) * 2 + 0.5).double().view(7, 1).expand(7, 7))


def test_parents_are_the_cells_that_pooling_uses() -> None:
    numbers = torch.arange(24).double()
    for fine, coarse in (((8, 12), (4, 6)), ((8, 12), (2, 4)), ((24,), (6,))):
        cells = numbers[: math.prod(coarse)]
        spread = cells[parents(fine, coarse, CPU)].view(1, -1, 1)
        assert torch.equal(pool(spread, None, fine, coarse).flatten(), cells)


def test_what_is_not_valid_may_be_nan() -> None:
    tokens = normal(1, 8, 2)
    valid = torch.tensor([[True, False] * 4])
    tokens[:, 1::2] = torch.nan
    tokens.requires_grad_()
    pooled = pool(tokens, valid, (8,), (4,))
    pooled.sum().backward()
    assert torch.equal(pooled[0], tokens[0, ::2])
    assert tokens.grad is not None and bool((tokens.grad[0, 1::2] == 0).all())


# Context


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS.keys())
def test_hidden_pixels_cannot_change_any_level(axes: int, positions: Any) -> None:
    made, kept, x = stack(axes, positions=positions), some(axes), values(axes)
    hidden = torch.ones(3, math.prod(SIZES[axes]) // 2**axes, dtype=torch.bool)
    hidden.scatter_(1, kept, False)
    grid = made.grids(SIZES[axes])[0]
    pixels = hidden.view(3, 1, *grid)
    for axis in range(axes):
        pixels = pixels.repeat_interleave(2, dim=2 + axis)
    other = torch.where(pixels, normal(*x.shape, seed=9), x)
    assert not torch.equal(x, other)
    for one, same in zip(made(x, kept=kept), made(other, kept=kept), strict=True):
        assert torch.equal(one.values, same.values)


def test_dropped_tokens_cost_nothing() -> None:
    """jepa.md D14: zeroed tokens still attend and still cost."""
    made, lengths = stack(), []
    for block in made.finest.blocks:
        block.register_forward_hook(lambda module, inputs, out: lengths.append(out.shape[1]))
    made(values(2), kept=some(2, keep=7))
    assert lengths == [7, 7]
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        made.float()(values(2, 1).float(), kept=some(2, keep=7, batch=1))
    assert counter.get_total_flops() == made.flops(SIZES[2], 7)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS.keys())
@pytest.mark.parametrize("step", [None, 3])
def test_kept_tokens_keep_their_own_places(axes: int, positions: Any, step: int | None) -> None:
    """The full sequence in which only the kept may be attended to says the same of them."""
    made, kept, x = stack(axes, levels=0, positions=positions).finest, some(axes), values(axes)
    draw = None if step is None else Draw(0, step, torch.arange(3))
    valid = torch.zeros(3, math.prod(SIZES[axes]) // 2**axes, dtype=torch.bool)
    valid.scatter_(1, kept, True)
    dropped = made.layers(made.embed(x), SIZES[axes], draw, kept)
    full = made.layers(made.embed(x), SIZES[axes], draw, valid=valid)
    for one, other in zip(dropped, full, strict=True):
        torch.testing.assert_close(one, gather(other, kept), rtol=1e-9, atol=1e-12)


def test_a_coarse_cell_is_made_of_its_visible_patches_only() -> None:
    made, kept, x = stack(), some(2), values(2)
    finest, middle, _ = made(x, kept=kept)
    grid, coarse = made.grids(SIZES[2])[:2]
    spread, valid = finest.on_grid(96)
    assert torch.equal(gather(spread, kept), finest.values) and valid is not None
    expected = made.coarser[0].merge.proj(naive_mean(spread, valid, grid, 2))
    merged = made.coarser[0].merge(spread, valid, grid, coarse)
    torch.testing.assert_close(merged, expected)
    assert middle.valid is not None
    assert torch.equal(middle.valid, any_valid(valid, grid, coarse))


def test_cells_without_a_visible_patch_are_attended_to_by_nothing() -> None:
    made, kept, x = stack(), some(2), values(2)
    finest, middle, _ = made(x, kept=kept)
    grid, coarse = made.grids(SIZES[2])[:2]
    level = made.coarser[0]
    assert isinstance(level, Level) and middle.valid is not None
    assert not bool(middle.valid.all(dim=1).any())
    merged = level.merge(*finest.on_grid(96), grid, coarse)
    merged = merged + sincos(coarse, 16, CPU, torch.float64)
    for sample in range(3):
        cells = merged[sample, middle.valid[sample]].unsqueeze(0)
        for block in level.blocks:
            cells = block(cells)
        torch.testing.assert_close(
            middle.values[sample, middle.valid[sample]], level.norm(cells)[0], rtol=1e-9, atol=1e-12
        )


# Validity


@pytest.mark.parametrize("axes", [1, 2])
def test_all_measured_stays_all_measured_at_each_level(axes: int) -> None:
    """jepa.md D13: the public H-JEPA sends the flags through a LayerNorm and loses all."""
    made, x = stack(axes), values(axes)
    patches = math.prod(SIZES[axes]) // 2**axes
    measured = made(x, torch.ones(3, patches, dtype=torch.bool))
    for level, silent in zip(measured, made(x), strict=True):
        assert level.valid is not None and bool(level.valid.all()) and silent.valid is None
        torch.testing.assert_close(level.values, silent.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("kept", [False, True])
def test_unmeasured_patches_reach_no_level_bit_for_bit(axes: int, kept: bool) -> None:
    made, x = stack(axes, fusion=True), values(axes)
    grid = made.grids(SIZES[axes])[0]
    valid = normal(3, math.prod(grid), seed=5) > 0
    valid[1] = torch.arange(math.prod(grid)) < 5  # whole coarse cells without a measured patch
    valid[2] = False
    pixels = valid.view(3, 1, *grid)
    for axis in range(axes):
        pixels = pixels.repeat_interleave(2, dim=2 + axis)
    context = some(axes, 9) if kept else None
    found = []
    for garbage in (0.0, 1e3):
        levels = made(torch.where(pixels, x, garbage), valid, context)
        found.append([*levels, *made.fused(levels, SIZES[axes])])
    for one, other in zip(*found, strict=True):
        assert one.valid is not None
        assert torch.equal(one.valid, other.valid)
        assert torch.equal(one.values[:2][one.valid[:2]], other.values[:2][other.valid[:2]])
        assert not bool(one.valid[2].any()) and bool(torch.isfinite(other.values).all())


# Fusion and reading


def test_fusion_tells_each_cell_of_the_cell_above_it() -> None:
    made, kept = stack(fusion=True), some(2)
    assert made.fusion is not None
    levels, grids = made(values(2), kept=kept), made.grids(SIZES[2])
    fused = made.fused(levels, SIZES[2])
    assert torch.equal(fused[2].values, levels[2].values)
    for n in (1, 0):
        lateral, rows, columns = made.fusion.lateral[n], grids[n][1], grids[n + 1][1]
        expected = levels[n].values.clone()
        for sample in range(3):
            for t, cell in enumerate(levels[n].ids[sample].tolist()):
                above = cell // rows // 2 * columns + cell % rows // 2
                expected[sample, t] += lateral(fused[n + 1].values[sample, above])
        torch.testing.assert_close(fused[n].values, expected)
        assert torch.equal(fused[n].ids, levels[n].ids)


def test_each_level_is_read_on_the_patch_grid() -> None:
    made, x = stack(fusion=True), values(2)
    layers = dict(zip(made.layer_names, made.read(x), strict=True))
    levels, grids = made(x), made.grids(SIZES[2])
    assert torch.equal(layers["norm"], levels[0].values)
    for n in (1, 2):
        pooled = pool(layers[f"level {n}"], None, grids[0], grids[n])
        torch.testing.assert_close(pooled, levels[n].values)
    assert torch.equal(layers["fused"], made.fused(levels, SIZES[2])[0].values)


def test_without_coarser_levels_it_is_the_patch_encoder() -> None:
    made, x, kept = stack(levels=0), values(2), some(2)
    (tokens,) = made(x, kept=kept)
    finest = made.finest
    assert torch.equal(tokens.values, finest.layers(finest.embed(x), SIZES[2], None, kept)[-1])
    assert made.layer_names == finest.layer_names


def test_flops_of_a_whole_stack_agree_with_counted_ones() -> None:
    made = stack(fusion=True).float()
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        made.read(values(2, 1).float())
    assert counter.get_total_flops() == made.flops(SIZES[2])


# Sizes


def test_other_sizes_are_encoded_too() -> None:
    made = stack()
    assert [t.values.shape[1] for t in made(normal(1, 3, 8, 40))] == [80, 20, 5]


@pytest.mark.parametrize(("size", "words"), [
    ((16, 20), r"\(4, 5\) cells: is no whole number of cells of 2"),
    ((16, 23), "not a whole number of patches of 2"),
])  # fmt: skip
def test_an_input_that_does_not_divide_is_an_error(size: tuple[int, int], words: str) -> None:
    """Nothing is dropped silently, as the integer division of the original drops it."""
    with pytest.raises(LatentcastError, match=words + ".*crop or pad"):
        stack()(normal(1, 3, *size))


def test_levels_do_not_change_the_initial_patch_encoder() -> None:
    one, three = stack(levels=0), stack(levels=2, fusion=True)
    for name, tensor in one.finest.state_dict().items():
        assert torch.equal(tensor, three.finest.state_dict()[name])


def test_drop_path_of_levels_is_drawn_apart() -> None:
    made = stack(levels=2)
    streams = [m.stream for m in made.modules() if isinstance(m, Block)]
    assert len(set(streams)) == len(streams) == 3


def test_tokens_of_all_cells_need_no_scatter_and_of_some_do() -> None:
    everything = Tokens(normal(2, 6, 3), torch.arange(6).expand(2, -1), None)
    assert everything.on_grid(6) == (everything.values, None)
    part = Tokens(normal(2, 2, 3), torch.tensor([[1, 4], [0, 5]]),
                  torch.tensor([[True, False], [True, True]]))  # fmt: skip
    spread, valid = part.on_grid(6)
    assert valid is not None and valid.nonzero().tolist() == [[0, 1], [1, 0], [1, 5]]
    assert torch.equal(spread[0, 1], part.values[0, 0])
    assert float(spread[0, [0, 2, 3, 5]].abs().sum()) == 0


def test_depth_0_is_merge_and_norm() -> None:
    made = stack()
    assert not made.coarser[1].blocks
    below, x = made.coarser[1].merge, values(2)
    levels, grids = made(x), made.grids(SIZES[2])
    merged = below(levels[1].values, None, grids[1], grids[2])
    positions = levels[2].values - made.coarser[1].norm(merged)
    assert float(positions.detach().abs().max()) > 1e-3  # its cells know where they are
    assert isinstance(below.proj, nn.Linear)
