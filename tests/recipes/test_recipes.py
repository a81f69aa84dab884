"""Every recipe is built as published and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latentcast.batch import Batch
from latentcast.config import Config, EcgInput, Normalisation
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import accumulate, gradient_norm
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build
from latentcast.objectives.jepa import JepaConfig
from latentcast.recipes import RECIPES, recipe


def count(name: str) -> int:
    with torch.device("meta"):
        from latentcast.nn.transformer import PatchEncoder

        return sum(p.numel() for p in PatchEncoder.of(recipe(name)).parameters())


def test_nepa_ecg_small_is_the_published_table_to_the_digit() -> None:
    made = recipe("nepa-ecg-small")
    encoder, optimizer = made.encoder, made.optimizer
    assert count("nepa-ecg-small") == 14_318_592
    assert (encoder.width, encoder.depth, encoder.heads, encoder.mlp_width) == (384, 8, 6, 1536)
    assert (encoder.patch, made.input.size, made.input.channels) == (25, (5000,), 12)
    assert (optimizer.lr, optimizer.warmup_steps, optimizer.weight_decay) == (1e-3, 10_000, 0.05)
    assert optimizer.betas == (0.9, 0.99)
    assert (encoder.layer_scale, encoder.qk_norm, encoder.qk_norm_affine) == (1e-5, True, False)
    assert (encoder.qkv_bias, encoder.gated_mlp, encoder.norm_eps) == (True, False, 1e-12)
    assert (encoder.positions.theta, encoder.positions.rescale) == (100, 2.0)
    assert encoder.positions.coordinates == "normalized"
    assert isinstance(made.input, EcgInput)
    assert (made.input.clip, made.input.sampling_rate, made.train.random_crop) == (5, 500, True)
    assert made.encoder.causal


@pytest.mark.parametrize(
    ("name", "shape"),
    [("nepa-ecg-base", (768, 12, 12, 3072)), ("nepa-image-base", (768, 12, 12, 3072)),
     ("nepa-image-large", (1024, 24, 16, 4096))],
)  # fmt: skip
def test_published_widths(name: str, shape: tuple[int, ...]) -> None:
    e = recipe(name).encoder
    assert (e.width, e.depth, e.heads, e.mlp_width) == shape
    assert e.qk_norm_affine == (name == "nepa-image-large")


def test_original_image_hyper_parameters() -> None:
    made = recipe("nepa-image-base")
    assert made.optimizer.lr == pytest.approx(4.8e-3)
    assert made.optimizer.betas == (0.9, 0.95)
    assert made.train.batch_size == 4096 and made.ema is not None and made.ema.base == 0.9999
    assert made.optimizer.warmup_steps / made.train.steps == pytest.approx(0.025, rel=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_two_steps(name: str) -> None:
    config = shrunk(recipe(name))
    objective, context = build(config), Context(torch.device("cpu"), torch.float32)
    optimizer, schedules = build_optimizer(objective, config.optimizer), Schedules.of(config)
    preprocess: Any
    if isinstance(config.input, EcgInput):
        samples = torch.randint(-1000, 1000, (2, *config.input.size, 12), dtype=torch.int16)
        preprocess = EcgPreprocess(config.input)
    else:
        samples = torch.randint(
            0, 256, (2, *config.input.size, config.input.channels), dtype=torch.uint8
        )
        preprocess = ImagePreprocess(config.input)
    before = [p.detach().clone() for p in objective.trainable().values()]
    for step in range(2):
        schedules.apply(optimizer, step)
        batch = Batch(samples, torch.arange(2))
        output = accumulate(objective, preprocess, [batch], 0, State(step), context)
        assert torch.isfinite(output.loss) and torch.isfinite(gradient_norm(objective, 1.0))
        optimizer.step()
        optimizer.zero_grad()
    after = objective.trainable().values()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.ndim > 1)


def shrunk(config: Config) -> Config:
    """The recipe with its own shape of block, at most two of them, and unit statistics."""
    changes: dict[str, Any] = {"encoder.depth": 2}
    attends = "heads" in type(config.encoder).model_fields
    if attends and config.encoder.width > 500:  # the large ones take seconds to minutes a step
        changes |= {"encoder.width": 320, "encoder.heads": 4, "encoder.mlp_width": 1280}
    if isinstance(config.objective, JepaConfig):
        changes["objective.predictor.depth"] = 1
        for number in range(len(config.objective.coarser)):
            changes[f"objective.coarser.{number}.predictor.depth"] = 1
    channels = config.input.channels
    unit = Normalisation(mean=(0.0,) * channels, std=(1.0,) * channels)
    changes["input.normalisation"] = unit.model_dump()
    return config.updated(changes)


def test_every_recipe_survives_its_own_yaml(tmp_path: Path) -> None:
    from latentcast import config as configuration

    for name in RECIPES:
        (tmp_path / "c.yaml").write_text(recipe(name).to_yaml())
        assert configuration.load(tmp_path / "c.yaml") == recipe(name)
        assert recipe(name).recipe == name


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(LatentcastError, match="did you mean 'nepa-ecg-small'"):
        recipe("nepa-ecg-smal")
    several = "mean 'ijepa-ecg-tiny' or 'ijepa-ecg-leads-tiny' or 'ijepa-image-tiny'"
    with pytest.raises(LatentcastError, match=several):
        recipe("ijepa-tiny")
