"""Leads as tokens: a recording with any of its leads is read, probed, drawn and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Command
from latentcast.artifacts.encoder import Encoder
from latentcast.batch import Inputs
from latentcast.config import Blocks, Config, EcgAugmentation
from latentcast.data.ecg_augment import EcgAugment
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.objectives.jepa.masks import mask_sampler
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.signals.leads import LIMB_LEADS
from latentcast.signals.recording import Recording

TINY = "hjepa-ecg-leads-tiny"


@pytest.fixture(scope="module")
def config() -> Config:
    changes = {"encoder.width": 32, "encoder.mlp_width": 64, "train.steps": 6,
               "optimizer.warmup_steps": 2, "train.batch_size": 6, "train.precision": "fp32",
               "train.checkpoint_every": 3, "train.log_every": 1}  # fmt: skip
    return recipe(TINY).updated(changes)


def test_an_encoder_of_lead_tokens_does_all_that_others_do(
    config: Config, small_store: Path, tmp_path: Path, command: Command
) -> None:
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    for line in (
        ("train", "--config", file, "--data", small_store, "--out", run),
        ("probe", run, "--data", small_store, "--task", "all", "--layer", "all"),
        ("report", run, "--data", small_store, "--task", "all"),
        ("export", run, "--out", tmp_path / "encoder.safetensors"),
        ("masks", TINY, "--out", tmp_path / "masks.png"),
    ):
        answer = command(*line)
        assert answer.status == 0, f"{line}: {answer.err}"
    one, other = (Encoder.from_pretrained(at) for at in (run, tmp_path / "encoder.safetensors"))
    store = Store.open(small_store)
    assert np.array_equal(one.embed(store), other.embed(store))
    errors = one.patch_errors(store.take([0], length=1000)).reshape(12, 25)
    assert np.isfinite(errors).all() and errors.std(axis=0).min() > 0

    recording = store.recording(0)
    some = _with(recording, (*LIMB_LEADS, "V2"))
    masked = replace(recording, signal=recording.signal.copy(), valid=recording.valid.copy())
    gone = [n for n, name in enumerate(recording.leads) if name[0] == "V" and name != "V2"]
    masked.signal[gone], masked.valid[gone] = np.nan, False
    np.testing.assert_allclose(one.embed(some), one.embed(masked), rtol=1e-4, atol=1e-5)
    assert abs(one.embed(some) - one.embed(recording)).max() > 1e-4


def _with(recording: Recording, leads: tuple[str, ...]) -> Recording:
    rows = [recording.leads.index(name) for name in leads]
    return replace(
        recording, signal=recording.signal[rows], valid=recording.valid[rows], leads=leads
    )


def test_a_lead_that_a_view_loses_has_no_tokens() -> None:
    inputs = Inputs(torch.randn(16, 12, 1000, generator=torch.Generator().manual_seed(0)))
    settings, draw = EcgAugmentation(drop_leads=0.5), Draw(0, 0, torch.arange(16))
    for tokens in ("joint", "per_lead"):
        recording = recipe("ijepa-ecg-tiny").input.model_copy(update={"tokens": tokens})
        cut = EcgAugment(settings, recording, 500)(inputs, draw)  # type: ignore[arg-type]
        lost = (cut.values == 0).all(-1)
        assert lost.any()
        if tokens == "joint":
            assert cut.valid is None
        else:
            assert cut.valid is not None and torch.equal(cut.valid.any(-1), ~lost)


def test_masks_of_some_leads_are_blocks_of_leads_and_time_and_never_all_of_them() -> None:
    masks = Blocks(leads="some", targets=3, target_scale=(0.1, 0.15), target_aspect=(0.5, 1.0))
    config = recipe("ijepa-ecg-leads-tiny").updated({"objective.masks": masks.model_dump()})
    drawn = mask_sampler(config)(Draw(0, 0, torch.arange(32)), None)
    leads = drawn.targets[0] // 25
    heights = leads.amax(-1) - leads.amin(-1) + 1
    assert 2 <= int(heights.min()) and int(heights.max()) < 12
    free = torch.ones(32, 300).scatter(1, drawn.targets[0].transpose(0, 1).flatten(1), 0.0)
    assert free.gather(1, drawn.context).all()


def test_the_hierarchy_and_its_flat_twin_cost_the_same_operations() -> None:
    runs = [
        mine.train.steps * mine.train.batch_size * build_flops(mine)
        for mine in (recipe(TINY), recipe("ijepa-ecg-leads-tiny"), recipe("nepa-ecg-tiny"))
    ]
    assert max(runs) / min(runs) < 1.02


def build_flops(config: Config) -> int:
    from latentcast.objectives.build import assemble

    with torch.device("meta"):
        return assemble(config).step_flops(config.input.size)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (TINY, {"objective.coarser.0.stride": [5, 1]}, r"does not divide .*\(12, 25\).*use 4"),
        (TINY, {"objective.coarser.0.stride": [12, 1, 1]}, r"is for 3 axes, .* has 2; give one"),
        ("ijepa-ecg-leads-tiny", {"objective.masks": {"kind": "reference"}}, "made for images"),
    ],
)
def test_levels_and_masks_that_do_not_fit_the_leads(
    name: str, change: dict[str, object], words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        recipe(name).updated(change)
