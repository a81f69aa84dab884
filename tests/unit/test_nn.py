"""Patches, positions and blocks against plain references."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latentcast.batch import Inputs
from latentcast.config import EncoderConfig, Rotary
from latentcast.errors import LatentcastError
from latentcast.nn import blocks, cpu_attention
from latentcast.nn.base import Encoder, mask_patches
from latentcast.nn.blocks import Attention, Block, LayerScale, drop_path
from latentcast.nn.initialise import initialise
from latentcast.nn.positions import (
    augment_coordinates,
    patch_coordinates,
    rotary_tables,
    rotate,
)
from latentcast.nn.tokens import PatchEmbedding
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.build import build
from latentcast.randomness import Draw
from latentcast.recipes import recipe

CPU = torch.device("cpu")


def encoder(axes: int = 1, **changes: object) -> PatchEncoder:
    settings = {
        "patch": 5,
        "width": 24,
        "depth": 2,
        "heads": 2,
        "mlp_width": 48,
        "layer_scale": 1.0,
    }
    made = PatchEncoder(EncoderConfig(**{**settings, **changes}), 3, axes, patch_seconds=0.05)  # type: ignore[arg-type]
    made.initialise(0)
    return made.double()


def draw(step: int = 0, batch: int = 2) -> Draw:
    return Draw(0, step, torch.arange(batch))


# Patches


@pytest.mark.parametrize(("axes", "size"), [(1, (40,)), (2, (15, 20))])
def test_patch_embedding_equals_the_strided_convolution(axes: int, size: tuple[int, ...]) -> None:
    embedding = PatchEmbedding(3, axes, 5, 7).double()
    torch.nn.init.normal_(embedding.weight)
    torch.nn.init.normal_(embedding.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    convolve = F.conv1d if axes == 1 else F.conv2d
    expected = convolve(x, embedding.weight, embedding.bias, stride=5).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(x), expected)


def test_remainder_samples_are_refused_not_dropped() -> None:
    with pytest.raises(LatentcastError, match="crop or pad it to a multiple of 5"):
        PatchEmbedding(3, 1, 5, 7)(torch.randn(1, 3, 42))


def test_a_patch_counts_when_half_of_its_values_are_valid() -> None:
    valid = torch.ones(1, 4, 20, dtype=torch.bool)
    valid[0, 0] = False  # one flat lead of four
    valid[0, :, 12:] = False  # padding from the middle of patch 3 on
    assert PatchEmbedding(4, 1, 5, 7).valid(valid).tolist() == [[True, True, False, False]]


# Positions


def test_normalized_coordinates_are_patch_centres_in_row_major_order() -> None:
    coordinates = patch_coordinates((2, 4), Rotary(), None, CPU)
    assert coordinates.shape == (8, 2)
    assert coordinates[:4, 0].tolist() == [-0.5] * 4
    assert coordinates[:4, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_seconds_keep_the_time_scale_of_another_length() -> None:
    """NEPA defect 10: a 2.5 s crop must not be stretched to the span of 10 s."""
    positions = Rotary(coordinates="seconds")
    long, short = (patch_coordinates((n,), positions, 0.05, CPU) for n in (200, 50))
    assert torch.equal(long[:50], short)
    stretched = [patch_coordinates((n,), Rotary(), 0.05, CPU).diff(dim=0)[0] for n in (200, 50)]
    assert float(stretched[1] / stretched[0]) == pytest.approx(4, rel=1e-4)  # what they did


def test_seconds_tell_neighbouring_patches_apart() -> None:
    """NEPA defect 10: normalised coordinates turn neighbours by 0.063 rad only."""
    fast = {
        kind: float(
            (2 * math.pi * patch_coordinates((200,), Rotary(coordinates=kind), 0.05, CPU)).diff(
                dim=0
            )[0]
        )
        for kind in ("normalized", "seconds")
    }
    assert fast["normalized"] == pytest.approx(0.0628, abs=1e-3)
    assert fast["seconds"] == pytest.approx(math.pi / 4, rel=1e-4)


@pytest.mark.parametrize("axes", [1, 2])
def test_rotary_tables_equal_a_naive_double_loop(axes: int) -> None:
    grid, head, theta = ((6,), 8, 100.0) if axes == 1 else ((2, 3), 8, 100.0)
    coordinates = patch_coordinates(grid, Rotary(), None, CPU).double()
    cosine, sine = rotary_tables(coordinates, head, theta, prefix=1)
    pairs = head // (2 * axes)
    for token, place in enumerate(coordinates.tolist(), start=1):
        angles = [2 * math.pi * c * theta ** (-k / pairs) for c in place for k in range(pairs)] * 2
        torch.testing.assert_close(
            cosine[token], torch.tensor([math.cos(a) for a in angles]).double()
        )
        torch.testing.assert_close(
            sine[token], torch.tensor([math.sin(a) for a in angles]).double()
        )


def test_cls_is_not_rotated() -> None:
    tables = encoder().tables((40,), CPU)
    x = torch.randn(1, 2, 9, 12, dtype=torch.float64)
    assert torch.equal(rotate(x, tables)[:, :, 0], x[:, :, 0])
    assert not torch.equal(rotate(x, tables)[:, :, 1], x[:, :, 1])


def test_rotation_keeps_norms() -> None:
    x = torch.randn(2, 2, 9, 12, dtype=torch.float64)
    rotated = rotate(x, encoder().tables((40,), CPU))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))


@settings(max_examples=25)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
def test_logits_depend_on_relative_offset_only(a: int, b: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    positions = Rotary(coordinates="seconds")
    cosine, sine = rotary_tables(
        patch_coordinates((80,), positions, 0.05, CPU).double(), 16, 100.0, prefix=0
    )

    def logit(i: int, j: int) -> float:
        return float(rotate(q, (cosine[i], sine[i])) @ rotate(k, (cosine[j], sine[j])))

    assert logit(a, b) == pytest.approx(logit(a + shift, b + shift), abs=1e-5)


def test_augmentation_acts_in_training_only_and_by_step() -> None:
    made = encoder(positions=Rotary(rescale=2.0))
    still = made.tables((40,), CPU)
    assert torch.equal(still[0], made.tables((40,), CPU)[0])
    moved = [made.tables((40,), CPU, draw(step))[0] for step in (0, 1, 0)]
    assert not torch.equal(moved[0], still[0])
    assert not torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2])


def test_rescale_is_log_uniform_between_its_bounds() -> None:
    coordinates = torch.ones(1, 1)
    factors = [
        float(augment_coordinates(coordinates, Rotary(rescale=2.0), draw(n))) for n in range(2000)
    ]
    logs = torch.tensor(factors).log2()
    assert 0.5 <= min(factors) and max(factors) <= 2.0
    assert abs(float(logs.mean())) < 0.05 and float(logs.std()) == pytest.approx(3**-0.5, rel=0.05)


# Blocks


@pytest.mark.parametrize("change", [{}, {"qk_norm_affine": True, "qk_norm_bias": True},
                                    {"gated_mlp": True, "activation": "silu"}, {"qkv_bias": False},
                                    {"qk_norm": False}, {"layer_scale": None}])  # fmt: skip
def test_block_equals_a_naive_one(change: dict[str, object]) -> None:
    made = encoder(**change)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    block = made.blocks[1]
    assert isinstance(block, Block)
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    tables = made.tables((40,), CPU)
    torch.testing.assert_close(block(x, tables), _naive_block(block, x, tables))


def _naive_block(
    block: Block, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    attention, mlp = block.attention, block.mlp
    normed = block.norm1(x)
    q, k, v = (F.linear(normed, w, b) for w, b in zip(
        attention.qkv.weight.chunk(3),
        attention.qkv.bias.chunk(3) if attention.qkv.bias is not None else [None] * 3,
        strict=True,
    ))  # fmt: skip
    heads = []
    for h in range(2):
        part = slice(h * 12, (h + 1) * 12)
        qh = rotate(attention.q_norm(q[..., part]), tables)
        kh = rotate(attention.k_norm(k[..., part]), tables)
        rows = []
        for token in range(x.shape[1]):
            scores = (kh[:, : token + 1] @ qh[:, token, :, None])[..., 0] / math.sqrt(12)
            rows.append((scores.softmax(-1)[:, None] @ v[:, : token + 1, part])[:, 0])
        heads.append(torch.stack(rows, 1))
    x = x + block.scale1(attention.proj(torch.cat(heads, -1)))
    normed = block.norm2(x)
    hidden = mlp.up(normed)
    hidden = F.gelu(hidden) if mlp.gate is None else F.silu(mlp.gate(normed)) * hidden
    return x + block.scale2(mlp.down(hidden))


SHORT = {
    "causal, turned, normed": (True, True, 32, False),
    "of a context: positions of its own for each sample, padding": (False, False, 64, True),
    "narrow heads": (False, False, 16, False),
}


@pytest.mark.parametrize("case", SHORT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_attention_and_its_gradient_are_those_of_the_kernel(
    case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal, normed, head, padded = SHORT[case]
    settings = EncoderConfig(
        patch=5, width=2 * head, depth=1, heads=2, causal=causal, qk_norm=normed, cls=causal
    )
    torch.manual_seed(0)
    attention = Attention(settings)
    x = torch.randn(3, 20, 2 * head, requires_grad=True)
    angles = torch.randn(3, 1, 20, head // 2) if padded else torch.randn(20, head // 2)
    angles = torch.cat([angles, angles], dim=-1)
    valid = torch.rand(3, 20) < 0.7 if padded else None
    if valid is not None:
        valid[2] = False  # it attends to everything
    weights = torch.randn(3, 20, 2 * head)

    def both() -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            out = attention(x, (angles.cos(), angles.sin()), valid)
        inner = [x, attention.qkv.weight]
        return [out.detach().float(), *torch.autograd.grad((out.float() * weights).sum(), inner)]

    monkeypatch.setattr(cpu_attention, "MULTIPLIES_BF16", True)
    fast = both()
    with monkeypatch.context() as compiled:  # where the operations are written out
        compiled.setattr(torch.compiler, "is_compiling", lambda: True)
        written_out = both()
    monkeypatch.setattr(blocks, "short_attention", None)  # so that it was not used in both
    monkeypatch.setattr(blocks, "computed_in", lambda qkv: None)
    bound = 1e-5 if dtype is torch.float32 else 1.5e-2
    for one, same, other in zip(fast, written_out, both(), strict=True):
        assert float((one - other).norm() / other.norm()) < bound
        assert float((same - other).norm() / other.norm()) < bound
        assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["nepa-ecg-tiny", "ijepa-ecg-tiny"])
def test_losses_with_short_attention_are_those_with_the_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = build(recipe(name))
    torch.manual_seed(0)
    inputs, losses = Inputs(torch.randn(16, 12, 1000)), []
    monkeypatch.setattr(cpu_attention, "MULTIPLIES_BF16", True)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(float(objective(inputs, draw(batch=16)).loss.detach()))
        monkeypatch.setattr(blocks, "computed_in", lambda qkv: None)
    assert 0 < abs(losses[0] - losses[1]) < 2e-5 * max(1, abs(losses[1]))


def test_layer_scale_of_1e_5_leaves_a_block_almost_the_identity() -> None:
    made = encoder(layer_scale=1e-5)
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    out = made.blocks[0](x, made.tables((40,), CPU))
    assert 0 < float((out - x).detach().abs().max()) < 1e-4


def test_drop_path_stays_active_beside_layer_scale() -> None:
    """The public H-JEPA loses drop-path when LayerScale is on (jepa.md D18)."""
    made = encoder(layer_scale=1.0, drop_path=0.5)
    block = made.blocks[1]
    assert isinstance(block, Block)
    x = torch.randn(64, 9, 24, dtype=torch.float64)
    tables = made.tables((40,), CPU)
    once = block(x, tables, block.keep(draw(0, 64)))
    assert not torch.equal(once, block(x, tables))
    assert torch.equal(once, block(x, tables, block.keep(draw(0, 64))))
    assert not torch.equal(once, block(x, tables, block.keep(draw(1, 64))))


def test_drop_path_keeps_the_expectation_and_drops_whole_samples() -> None:
    x = torch.ones(20_000, 3)
    dropped = drop_path(x, draw(0, 20_000).for_samples("s") >= 0.3, 0.3)
    kinds = dropped.unique()
    assert kinds.tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(dropped[:, 0], dropped[:, 2])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)


def test_drop_path_rate_grows_linearly_with_depth() -> None:
    made = encoder(depth=4, drop_path=0.3)
    assert [b.drop_rate for b in made.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])  # type: ignore[union-attr]


# Encoder


def test_cls_starts_as_small_as_the_weights() -> None:
    """NEPA defect 16: the ECG port left CLS at unit variance, three times a patch's norm."""
    made = PatchEncoder(EncoderConfig(), 12, 1, 0.05)
    made.initialise(0)
    assert 0.015 < float(made.cls.std()) < 0.025
    assert 0.019 < float(made.patches.weight.std()) < 0.021
    for module in made.modules():
        if isinstance(module, torch.nn.Linear):
            assert 0.018 < float(module.weight.std()) < 0.022
            assert module.bias is None or not module.bias.any()
        if isinstance(module, LayerScale):
            assert torch.equal(module.gain, torch.full_like(module.gain, 1e-5))


def test_initialisation_is_a_function_of_the_seed() -> None:
    a, b, c = (PatchEncoder(EncoderConfig(), 12, 1, 0.05) for _ in range(3))
    for elsewhere, (made, seed) in enumerate(((a, 1), (b, 1), (c, 2))):
        torch.manual_seed(elsewhere)  # the global generator must not matter
        made.initialise(seed)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.cls, c.cls)


class ConvNet(Encoder):
    """A residual convolution over the whole grid: no token can be left out of it."""

    can_drop = causal = False
    width, layer_names = 8, ("embedding", "mixed")

    def __init__(self, axes: int) -> None:
        super().__init__()
        conv: Any = (nn.Conv1d, nn.Conv2d)[axes - 1]
        self.patches, self.mix = PatchEmbedding(3, axes, 5, 8), conv(8, 8, 3, padding="same")

    tokenizer = property(lambda self: self.patches)
    of = classmethod(lambda cls, config: cls(len(config.input.size)))

    def embed(self, values: torch.Tensor) -> torch.Tensor:
        return self.patches(values)

    def layers(
        self, tokens: torch.Tensor, size: Any, draw: Any = None, kept: Any = None, valid: Any = None
    ) -> list[torch.Tensor]:
        assert kept is None
        mixed = self.mix(tokens.transpose(1, 2).unflatten(2, self.grid(size)))
        return [tokens, tokens + mixed.flatten(2).transpose(1, 2)]

    def grid(self, size: Any) -> tuple[int, ...]:
        return self.patches.grid(size)

    def valid(self, mask: torch.Tensor) -> torch.Tensor:
        return self.patches.valid(mask)

    def flops(self, size: Any, kept: int | None = None) -> int:
        patches = math.prod(self.grid(size))
        return self.patches.flops(patches) + 2 * patches * self.mix.weight.numel()

    def initialise(self, seed: int) -> None:
        initialise(self, seed)


@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions_are_drawn_from_the_seed_alone(axes: int) -> None:
    """They kept torch's global draw, so that two builds of one seed differed."""
    made = []
    for elsewhere, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(elsewhere)
        made.append(ConvNet(axes))
        made[-1].initialise(seed)
    one, same, other = (network.state_dict() for network in made)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["mix.weight"], other["mix.weight"])
    assert not one["mix.bias"].any()
    expected = one["mix.weight"][0].numel() ** -0.5
    assert float(one["mix.weight"].std()) == pytest.approx(expected, rel=0.15)


def test_a_parameter_that_nobody_draws_is_refused() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.ones(3))

    network = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Gated()))
    with pytest.raises(LatentcastError, match=r"1\.0\.gate: .*\(Gated\); .*initialise_own"):
        initialise(network, 0)
    Gated.initialise_own = lambda self, generator: nn.init.normal_(  # type: ignore[attr-defined]
        self.gate, generator=generator
    )
    initialise(network, 0)
    assert len(network[1][0].gate.unique()) == 3


@pytest.mark.parametrize("size", [(20,), (10, 15)])
def test_masked_patches_are_zero_and_the_others_as_they_were(size: tuple[int, ...]) -> None:
    grid = tuple(extent // 5 for extent in size)
    values = torch.rand(2, 3, *size, dtype=torch.float64) + 1
    values[(0, 0, *(0,) * len(size))] = torch.nan  # in patch 0, which is hidden there
    kept = torch.tensor([[1, 3], [0, 2]])
    expected = torch.zeros_like(values)
    for sample, ids in enumerate(kept.tolist()):
        for number, corner in enumerate(itertools.product(*map(range, grid))):
            if number in ids:
                cell = tuple(slice(5 * at, 5 * at + 5) for at in corner)
                expected[(sample, slice(None), *cell)] = values[(sample, slice(None), *cell)]
    assert torch.equal(mask_patches(values, kept, grid), expected)


@pytest.mark.parametrize("size", [(40,), (15, 20)])
def test_an_encoder_that_cannot_drop_tokens_masks_what_is_hidden(size: tuple[int, ...]) -> None:
    made = ConvNet(len(size))
    made.initialise(0)
    made.double()
    values, kept = torch.randn(2, 3, *size, dtype=torch.float64), torch.tensor([[0, 3], [4, 7]])
    context = made.encode(values, kept=kept)
    assert context.shape == (2, 2, 8)
    visible = mask_patches(torch.ones_like(values), kept, made.grid(size)) == 1
    hidden = torch.where(visible, values, torch.randn_like(values))
    assert torch.equal(made.encode(hidden, kept=kept), context)
    assert not torch.equal(made.encode(hidden), made.encode(values))
    other = torch.where(visible, torch.randn_like(values), values)
    assert not torch.isclose(made.encode(other, kept=kept), context).all(dim=-1).any()


def test_future_patches_cannot_reach_earlier_outputs() -> None:
    made = encoder()
    x = torch.randn(1, 3, 40, dtype=torch.float64)
    y = x.clone()
    y[..., 20:] = torch.randn(1, 3, 20, dtype=torch.float64)  # patches 5 to 8 of 8
    before, after = (made.layers(made.embed(v), (40,)) for v in (x, y))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[:, :5], other[:, :5])
        assert not torch.equal(one[:, 5], other[:, 5])


def test_other_lengths_are_encoded_too() -> None:
    """NEPA defect 2: a 2.5 s crop must not crash a model trained on 10 s."""
    made = encoder()
    for size in (10, 40, 100):
        values = torch.randn(1, 3, size, dtype=torch.float64)
        assert made.transform(made.embed(values), (size,)).shape == (1, 1 + size // 5, 24)


def test_forward_flops_agree_with_counted_ones() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    made = encoder(causal=False).float()
    values = torch.randn(1, 3, 40)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        made.transform(made.embed(values), (40,))
    assert counter.get_total_flops() == made.flops((40,))
