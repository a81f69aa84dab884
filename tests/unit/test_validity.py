"""Padding and dead leads reach loss and pooling as what they are: nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.artifacts.encoder import Encoder
from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.arrays import write_store
from latentcast.data.fit import fitted, reading
from latentcast.nn.pooling import POOLINGS
from latentcast.objectives.build import build
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.synthetic import synthetic_recording

NARROW = {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48,
          "train.batch_size": 4, "train.micro_batches": 1}  # fmt: skip
VIEWS = {"objective.views": {"projector": [16, 8], "augmentation": {"kind": "ecg"}}}
CONFIGS = {
    "nepa": recipe("nepa-ecg-tiny").updated(NARROW),
    "cpc": recipe("cpc-ecg-tiny").updated({**NARROW, "objective.negatives": "recording"}),
    "i-jepa": recipe("ijepa-ecg-tiny").updated(NARROW),
    "i-jepa, two views": recipe("ijepa-ecg-tiny").updated(NARROW | VIEWS),
    "i-jepa, instance norm": recipe("ijepa-ecg-tiny").updated(
        {**NARROW, "objective.target_norm": "instance"}
    ),
    "h-jepa": recipe("hjepa-ecg-tiny").updated(NARROW),
    "h-jepa, leads": recipe("hjepa-ecg-leads-tiny").updated(NARROW),
    "masked": recipe("conv-ecg-tiny").updated({"encoder.width": 24, "encoder.stem_width": 6,
                                               "objective.views": None}),
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Config:
    return CONFIGS[request.param]


def test_what_a_dead_lead_holds_changes_no_loss_and_no_embedding(
    config: Config, tmp_path: Path
) -> None:
    """V2 at 0, and at 3 mV with a step, in every second record; the others are its statistics."""
    found = []
    rate, seconds = config.input.sampling_rate, config.input.length / config.input.sampling_rate  # type: ignore[union-attr]
    for name, level in (("low", 0.0), ("high", 3.0)):
        made = [synthetic_recording(60 + n, rate, seconds, n) for n in range(12)]
        signals = np.stack([one.signal for one in made])
        signals[::2, 7] = level
        signals[::4, 7, signals.shape[2] // 2 :] = -level
        store = write_store(
            tmp_path / name, signals=signals, sampling_rate=rate, leads=CANONICAL_LEADS,
            unit="mV", quiet=True,
        ).store  # fmt: skip
        mine = fitted(config, store)
        objective = build(mine)
        loader, preprocess = reading(store, mine)
        batch, draw = loader.batch(0), Draw(0, 0, loader.batch(0).ids)
        output = objective(preprocess(batch.samples, draw), draw)
        encoder = Encoder(mine, objective)
        vectors = [encoder.embed(store, pooling=pooling) for pooling in POOLINGS]
        found.append((output.loss.item(), output.weight.item(), *vectors))
    for low, high in zip(*found, strict=True):
        assert np.array_equal(low, high)


def test_a_sample_of_padding_beside_others_changes_no_loss_and_no_gradient(config: Config) -> None:
    """And half of a sample that is padding is half of its terms, not a term of zeros."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 12, *config.input.size, generator=generator)
    valid = torch.ones(values.shape, dtype=torch.bool)
    valid[1, :, values.shape[2] // 2 :] = valid[4] = False
    values = torch.where(valid, values, 0.0)
    objective = build(config)
    found = []
    for count in (4, 5):
        objective.zero_grad()
        output = objective(Inputs(values[:count], valid[:count]), Draw(0, 0, torch.arange(count)))
        output.loss.backward()
        gradients = [p.grad.norm() for p in objective.parameters() if p.grad is not None]
        found.append(
            torch.stack([output.loss.detach(), output.weight, torch.stack(gradients).norm()])
        )
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_floats_that_are_not_valid_are_not_read(config: Config) -> None:
    mine = config.updated({"input.normalisation": {"mean": [0.0] * 12, "std": [1.0] * 12}})
    encoder = Encoder(mine, build(mine))
    values = torch.randn(2, 12, *config.input.size, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(values.shape, dtype=torch.bool)
    valid[:, 7] = valid[1, :, :400] = False
    layers, tokens = encoder(values, valid)
    others, _ = encoder(torch.where(valid, values, torch.nan), valid)
    for layer, other in zip(layers, others, strict=True):
        kept = tokens.repeat_interleave(layer.shape[1] // tokens.shape[1], dim=1)
        assert torch.equal(layer[kept], other[kept])
