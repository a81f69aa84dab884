"""Runs that go wrong are named in their first tenth; of several seeds the best goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.monitors.early import merit, warnings
from latentcast.monitors.journal import read_metrics
from latentcast.workflows.seeds import FirstTenth, train_seeds
from latentcast.workflows.train import train

SHORT = {"train.steps": 40, "train.log_every": 2, "train.checkpoint_every": 100}


@pytest.mark.parametrize(
    ("kind", "lr", "words"),
    [
        ("nepa", 1e-3, ""),
        ("masked", 1e-3, ""),
        ("nepa", 3.0, "the rank of level 0 has fallen"),
        ("masked", 30.0, "the loss has risen|the loss began"),
    ],
)
def test_a_run_that_goes_wrong_looks_sound_after_a_tenth(
    kind: str, lr: float, words: str, small_store: Path, small_config: Config,
    small_convnet: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = {"nepa": small_config, "masked": small_convnet}[kind].updated(
        SHORT | {"train.steps": 400, "optimizer.lr": lr}
    )
    done = train(config, small_store, tmp_path / "run", callbacks=[FirstTenth(400)])
    found = "; ".join(warnings(read_metrics(done.run), 400))
    printed = " ".join(capsys.readouterr().out.split())
    assert done.step == 40 and bool(found) == bool(words)
    assert re.search(words, found)
    assert printed.count("early warning") == bool(words)


def test_the_seeds_that_begin_are_all_trained_or_the_best_is_not(
    small_store: Path, small_config: Config, tmp_path: Path, command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The choice is the same after an interruption, and the run kept that of its seed alone."""
    config, out = small_config.updated(SHORT), tmp_path / "out"
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    line = ("train", "--config", tmp_path / "config.yaml", "--data", small_store, "--out", out)
    begin = FirstTenth.on_batch_start

    def interrupted(self: FirstTenth, *_: object) -> None:
        if (out / "seed-1").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(FirstTenth, "on_batch_start", interrupted)
    assert command(*line, "--seeds", 3).status == 130
    monkeypatch.setattr(FirstTenth, "on_batch_start", begin)
    answer = command(*line, "--seeds", 3)
    merits = {n: merit(read_metrics(out / f"seed-{n}")[:3], 40) for n in range(3)}
    best = max(merits, key=lambda n: merits[n])
    assert f"seed {best} goes on" in answer.out and f"seed-{best}: 40 steps done" in answer.out
    assert json.loads((out / "seeds.json").read_text())["kept"] == best
    steps = [read_metrics(out / f"seed-{n}")[-1]["step"] for n in range(3)]
    assert steps == [40 if n == best else 4 for n in range(3)]
    train(config.updated({"train.seed": best}), small_store, tmp_path / "alone", quiet=True)
    losses = [
        [row["loss"] for row in read_metrics(run)]
        for run in (out / f"seed-{best}", tmp_path / "alone")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"loss": 1.0}, {"loss": None}], "is not finite"),
        ([{"loss": 1.0, "skipped": 0}, {"loss": 0.9, "skipped": 1}], "1 of 20 updates"),
        ([{"loss": 1.0}, {"loss": 0.9, "alarms": ["level0_target-rank-collapse"]}], "rank-coll"),
        ([{"loss": -0.1}, {"loss": -0.3}, {"loss": 0.4, "step": 30}], ""),
    ],
)
def test_a_row_of_a_run_that_goes_wrong_is_a_sound_one(
    rows: list[dict[str, Any]], words: str
) -> None:
    found = "; ".join(warnings([{"step": 2 * n + 1} | row for n, row in enumerate(rows)], 200))
    assert words in found and bool(found) == bool(words)


def test_a_seed_that_goes_wrong_goes_on(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, place = small_config.updated(SHORT), "latentcast.workflows.seeds."
    found = iter([("dead",), (), ("dead",)])
    monkeypatch.setattr(place + "warnings", lambda rows, steps: next(found))
    (kept,) = train_seeds(config, small_store, tmp_path / "out", 2, quiet=True)
    assert kept.run.name == "seed-1"
    with pytest.raises(LatentcastError, match=r"every seed goes wrong .*\(seed 0: dead\)"):
        train_seeds(config, small_store, tmp_path / "all", 1, quiet=True)
