"""The convolutional tokenizer: a token shows its own patch, and both objectives train on it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentcast.batch import Batch, Inputs
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import accumulate
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Schedules
from latentcast.nn.base import mask_patches
from latentcast.nn.conv_tokenizer import ConvEncoderConfig, ConvPatchEncoder
from latentcast.objectives.build import build
from latentcast.recipes import recipe

SIZES = {1: (40,), 2: (10, 15)}


def encoder(axes: int) -> ConvPatchEncoder:
    """Patches of 5, and a kernel that is longer than a patch."""
    config = ConvEncoderConfig(
        width=24, depth=1, heads=2, mlp_width=48, patch=5, stem_width=6, causal=False
    )
    made = ConvPatchEncoder(config, 3, axes, patch_seconds=0.05)
    made.initialise(0)
    return made


@pytest.mark.parametrize("axes", [1, 2])
def test_a_token_depends_on_its_own_patch_only(axes: int) -> None:
    """Otherwise hidden content would reach a context, and a NEPA target show its neighbour."""
    made, size = encoder(axes).double(), SIZES[axes]
    generator = torch.Generator().manual_seed(0)
    values, noise = torch.randn(2, 2, 3, *size, generator=generator, dtype=torch.float64)
    tokens, grid = made.tokenizer(values), made.grid(size)
    for patch in range(math.prod(grid)):
        ids = torch.full((2, 1), patch)
        own = mask_patches(torch.ones_like(values), ids, grid) == 1
        same = made.tokenizer(torch.where(own, values, noise)) == tokens
        assert same[:, patch].all() and same.sum() == same[:, patch].numel()


@pytest.mark.parametrize("axes", [1, 2])
def test_flops_agree_with_counted_ones(axes: int) -> None:
    made, size = encoder(axes), SIZES[axes]
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        made.transform(made.embed(torch.randn(1, 3, *size)), size)
    assert counter.get_total_flops() == made.flops(size)
    made.can_drop = False  # as where convolutions cross patches, so that all is read
    assert made.flops(size, 1) == made.flops(size)


@pytest.mark.parametrize(
    "name", ["nepa-ecg-tiny", "hjepa-ecg-tiny", "nepa-image-tiny", "ijepa-image-tiny"]
)
def test_objectives_train_on_it(name: str) -> None:
    changes: dict[str, Any] = {
        "encoder.kind": "conv_transformer", "encoder.stem_width": 6, "encoder.width": 24,
        "encoder.depth": 1, "encoder.heads": 2, "encoder.mlp_width": 48, "train.batch_size": 4,
        "optimizer.warmup_steps": 1,
    }  # fmt: skip
    config = recipe(name).updated(changes)
    objective = build(config)
    optimizer, schedules = build_optimizer(objective, config.optimizer), Schedules.of(config)
    before = {n: p.clone() for n, p in objective.trainable().items() if ".conv" in n}
    batch = Batch(torch.randn(4, config.input.channels, *config.input.size), torch.arange(4))
    context = Context(torch.device("cpu"), torch.float32)
    for step in range(2):
        output = accumulate(objective, lambda x, _: Inputs(x), [batch], 0, State(step), context)
        assert math.isfinite(float(output.loss))
        schedules.apply(optimizer, step)
        optimizer.step()
        optimizer.zero_grad()
    after = objective.trainable()
    assert len(before) == 4 and not any(torch.equal(after[n], before[n]) for n in before)
