"""The residual network: statistics of valid cells, layers of finer grids, running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentcast.errors import LatentcastError
from latentcast.nn.backbones import build_encoder
from latentcast.nn.batch_norm import BatchNorm
from latentcast.nn.conv_norm import to_maps, to_tokens
from latentcast.nn.pooling import pool
from latentcast.nn.resnet import ResNet
from latentcast.objectives.masked import standardised
from latentcast.recipes import recipe

SIZES = {"conv-ecg-tiny": (160,), "ijepa-image-tiny": (16, 24)}
SMALL: dict[str, Any] = {"encoder.width": 24, "encoder.stem_width": 6, "input.length": 160}
IMAGE = {"encoder": {"kind": "resnet", "patch": 8, "width": 24, "stem_width": 6, "kernels": [3]},
         "objective": {"kind": "masked", "mask_span": 2}}  # fmt: skip


def encoder(name: str = "conv-ecg-tiny") -> ResNet:
    changes = SMALL if "ecg" in name else IMAGE
    made = build_encoder(recipe(name).updated(changes))
    assert isinstance(made, ResNet)
    made.initialise(0)
    return made


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("some", [False, True])
def test_a_batch_norm_is_its_formula_over_valid_cells(some: bool) -> None:
    norm, x = BatchNorm(3).double(), noise(4, 3, 2, 5).double() * 3 + 1
    nn.init.normal_(norm.weight)
    valid = torch.rand(4, 1, 2, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    if not some:
        valid[:] = True
    rows = x.movedim(1, -1)[valid[:, 0]]
    expected = (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt() * norm.weight
    x = x.where(valid, torch.tensor(1e9, dtype=torch.float64))  # what is not valid is not read
    y = norm(x, valid if some else None)
    torch.testing.assert_close(y.movedim(1, -1)[valid[:, 0]], expected)
    norm.follow(torch.zeros(()))
    torch.testing.assert_close(norm.running_mean, rows.mean(0))
    torch.testing.assert_close(norm.running_variance, rows.var(0, correction=0))


def test_running_statistics_follow_the_steps_that_count() -> None:
    norm, means = BatchNorm(2), []
    for step in range(30):
        for _ in range(2):  # recomputed for the backward pass
            norm(noise(2, 2, 1, 3) * torch.nan if step == 5 else noise(2, 2, 1, 3) + step)
        assert not means or torch.equal(norm.running_mean, means[-1])  # not in a forward pass
        norm.follow(torch.tensor(float(step == 5)))
        means.append(norm.running_mean.clone())
    assert torch.equal(means[5], means[4]) and int(norm.batches) == 29
    base = noise(2, 2, 1, 3).mean((0, 2, 3))
    torch.testing.assert_close(means[4], base + 2)  # an even mean at first
    torch.testing.assert_close(means[29], means[28] + 0.05 * (base + 29 - means[28]))
    norm.eval()
    norm(noise(2, 2, 1, 3))
    assert norm.batch is None


@pytest.mark.parametrize("name", SIZES)
def test_tokens_of_finer_layers_stand_patch_by_patch(name: str) -> None:
    """The k-th stretch of tokens is of the k-th patch, so that its validity is repeated."""
    made, size = encoder(name).eval(), SIZES[name]
    grid = made.grid(size)
    layers = made.read(noise(2, 12 if len(size) == 1 else 3, *size))
    counts = [layer.shape[1] // layers[-1].shape[1] for layer in layers]
    assert counts == [n ** len(size) for n in (4, 2, 1, 1)]
    cells = torch.arange(layers[0].shape[1]).view(1, -1, 1).float()
    assert torch.equal(to_tokens(to_maps(cells, grid, 4), grid, 4), cells)
    where = to_maps(torch.arange(len(cells[0])).view(1, -1, 1) // counts[0], grid, 4)[0, 0]
    rows, columns = where.shape
    for row in range(rows):
        for column in range(columns):
            place = column // 4 if len(grid) == 1 else row // 4 * grid[1] + column // 4
            assert int(where[row, column]) == place
    valid = torch.rand(2, layers[-1].shape[1], generator=torch.Generator().manual_seed(0)) > 0.5
    kept = [layers[0][n].unflatten(0, (-1, counts[0]))[valid[n]].flatten(0, 1) for n in (0, 1)]
    torch.testing.assert_close(pool(layers[0], valid, "std"),
                               torch.stack([k.std(0, correction=0) for k in kept]))  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
def test_padding_of_a_short_recording_changes_nothing_of_it(training: bool) -> None:
    made, x = encoder().double().train(training), noise(3, 12, 160).double()
    x[..., 96:] = 0
    valid = torch.arange(20).expand(3, -1) < 12
    padded, alone = made.read(x, valid), made.read(x[..., :96])
    for one, other in zip(padded, alone, strict=True):
        torch.testing.assert_close(one[:, : other.shape[1]], other)
        assert not one[:, other.shape[1] :].any()


@pytest.mark.parametrize("name", SIZES)
def test_flops_agree_with_counted_ones(name: str) -> None:
    made, size = encoder(name), SIZES[name]
    x = noise(1, 12 if len(size) == 1 else 3, *size)
    with FlopCounterMode(display=False) as counter:
        made.transform(made.embed(x), size)
    assert counter.get_total_flops() == made.flops(size)


def test_targets_are_standardised_over_the_valid_tokens_of_the_batch() -> None:
    tokens, valid = noise(4, 5, 3).double() * 7 + 2, torch.ones(4, 5, dtype=torch.bool)
    valid[1:, 3:] = False
    rows = tokens[valid]
    expected = (rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-3)
    torch.testing.assert_close(standardised(tokens, valid)[valid], expected)
    torch.testing.assert_close(standardised(tokens, None), standardised(tokens, valid | True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder.patch": 12, "input.length": 504}, "patch 12 .*; use a patch of 8"),
        ({"encoder.patch": 32}, "patch 32 .*; use a patch of 16"),
        ({"encoder.kernels": [15, 8]}, "8 has no middle; use odd numbers, as 9"),
        ({"encoder.causal": True}, "encoder.causal=false"),
        ({"machine.recompute": True}, "encoder.norm=group or machine.recompute=false"),
        ({"train.micro_batches": 2}, "train.micro_batches=1"),
        (
            {"objective.mask_span": 64},
            r"leaves nothing of a grid of \(64,\) tokens; use at most 32",
        ),
        ({"objective.predictor.kernel": 4}, "kernel 4 has no middle; use 5"),
        ({"ema": None}, "set ema.base=0.99"),
    ],
)
def test_what_it_cannot_be_trained_with_is_refused(changes: Any, sentence: str) -> None:
    alone = {"objective.views": None, "input.length": 512}
    with pytest.raises(LatentcastError, match=sentence):
        recipe("conv-ecg-tiny").updated(alone | changes)
