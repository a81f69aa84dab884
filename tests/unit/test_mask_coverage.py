"""The coverage report counts what the sampler draws, and its picture can be written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.cli import masks
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.masks import Masks, MaskSampler, mask_sampler
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.report import masks as coverage_report
from latentcast.report.masks import BATCH, STEPS, coverage, plot_coverage

REFERENCE = {"objective.masks": {"kind": "reference"}}


def sampler_of(config: Config) -> MaskSampler:
    assert isinstance(config.objective, JepaConfig)
    return mask_sampler(config)


def test_coverage_is_a_direct_count() -> None:
    config = recipe("hjepa-image-tiny")
    found, sampler = coverage(config), sampler_of(config)
    context, coarse, sizes = np.zeros(64), np.zeros(16), set()
    for step in range(STEPS):
        drawn = sampler(Draw(0, step, torch.arange(BATCH) + step * BATCH), None)
        sizes.add((drawn.context.shape[1], drawn.targets[0].shape[2], drawn.targets[1].shape[2]))
        for sample in range(BATCH):
            context[drawn.context[sample].numpy()] += 1
            coarse[np.unique(drawn.targets[1][:, sample].numpy())] += 1
    assert np.allclose(found.context, context / (STEPS * BATCH))
    assert np.allclose(found.targets[1], coarse / (STEPS * BATCH))
    assert found.shapes == len(sizes) and found.shared == 0


def test_the_reference_leaves_out_the_last_row_and_ours_does_not() -> None:
    ours = coverage(recipe("ijepa-image-base"))
    theirs = coverage(recipe("ijepa-image-base").updated(REFERENCE))
    last = slice(-14, None)
    assert theirs.context[last].max() == 0 and theirs.targets[0][last].max() == 0
    assert ours.context.min() > 0.1 and ours.targets[0].min() > 0.25


def test_a_leak_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe("ijepa-image-tiny")
    honest = sampler_of(config)

    def leaking(draw: Draw, valid: None) -> Masks:
        masks = honest(draw, valid)
        masks.context[0, 0] = masks.targets[0][0, 0, 0]
        return masks

    monkeypatch.setattr(coverage_report, "mask_sampler", lambda *arguments: leaking)
    assert coverage(config).shared == STEPS


@pytest.mark.parametrize(
    "name", ["ijepa-ecg-tiny", "hjepa-ecg-small", "hjepa-image-base", "conv-ecg-tiny"]
)
def test_the_picture_shows_every_level_and_samples(name: str, tmp_path: Path) -> None:
    found = coverage(recipe(name))
    figure = plot_coverage(found)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert sum(title.startswith("targets") for title in titles) == len(found.grids)
    assert any(title.startswith("context: ") for title in titles)
    figure.savefig(tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 5000
    drawn = coverage_report._example(found, 0)
    assert (drawn == 1).sum() == found.examples.context[0].sum() > 0
    assert len(drawn) == math.prod(found.grids[0])


def test_the_verb_says_what_it_found_and_refuses_what_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    masks("hjepa-ecg-tiny", out=tmp_path / "masks.svg")
    printed = capsys.readouterr().out
    assert "of 50 patches" in printed and "targets, level 1" in printed
    assert "0 samples with a context patch under a target" in printed
    assert (tmp_path / "masks.svg").exists()
    (tmp_path / "c.yaml").write_text(recipe("hjepa-ecg-tiny").to_yaml())
    masks(config=tmp_path / "c.yaml")
    assert capsys.readouterr().out.splitlines()[0] == printed.splitlines()[0]
    with pytest.raises(LatentcastError, match="needs a recipe or --config"):
        masks()
    with pytest.raises(LatentcastError, match="nepa hides nothing; name a JEPA recipe"):
        masks("nepa-ecg-tiny")
    with pytest.raises(LatentcastError, match="name a .png, .svg or .pdf"):
        masks("ijepa-ecg-tiny", out=tmp_path / "masks.xyz")
