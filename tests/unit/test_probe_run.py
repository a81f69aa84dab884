"""A run on own ECGs is probed on their codes and their metadata, listed and reported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_stores import write_store

from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.evaluation import cache
from latentcast.report import embedding
from latentcast.report.run import report_run
from latentcast.runs import summarise
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.workflows.probe import probe
from latentcast.workflows.train import train

N = 160


@pytest.fixture(scope="module")
def run(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step on 160 ECGs of a rate that tells code, age and site."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("own")
    kinds = rng.integers(3, size=N)
    records = [
        (300 * np.sin(np.arange(400)[:, None] * (0.05 + 0.06 * kind) + rng.random(12))
         + 50 * rng.standard_normal((400, 12))).astype(np.int16)
        for kind in kinds
    ]  # fmt: skip
    write_store(
        folder / "store",
        records,
        folds=[(1, 2, 3, 9, 10)[i % 5] for i in range(N)],
        labels=[{f"rhythm {kind}": 1.0} if i % 9 else {} for i, kind in enumerate(kinds)],
        metadata=[
            {"age": 30.0 + 10 * int(kind) + int(rng.integers(5)), "site": f"site {kind}"}
            for kind in kinds
        ],
        leads=CANONICAL_LEADS,
    )
    config = small_config.updated({"train.steps": 1, "optimizer.warmup_steps": 1})
    train(config, folder / "store", folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("task", "name", "metric", "left_out"),
    [
        (None, "labels", "macro AUROC", len(range(0, N, 9))),
        ("metadata:age", "metadata-age", "R²", 0),
        ("metadata:site", "metadata-site", "accuracy", 0),
    ],
)
def test_own_labels_and_metadata_are_scored_listed_and_drawn(
    task: str | None, name: str, metric: str, left_out: int, run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(embedding, "project", lambda x, seed: (x[:, :2], 0.5, x[:, :2]))
    for file in run.glob("probe-*"):
        file.unlink()
    report = probe(str(run), task=task, command="by hand")
    assert report.write(run) == run / f"probe-{name}.json"
    assert [row.name for row in report.rows[:2]] == ["pretrained", "random-initialised"]
    assert report.metric == metric and report.rows[0].score.main.value > 0.5
    assert sum(report.records_without_target.values()) == left_out
    assert report.bootstrap["unit"] == "patient"
    (score,) = summarise(run).scores
    assert (score.task, score.measure) == (report.task, metric)
    assert score.value == report.rows[0].score.main.value
    page = report_run(run, run.parent / "store", task).read_text("utf-8")
    assert f"Probe: {report.task}" in page and report.rows[0].score.main.text() in page
    assert "Where the model is surprised" in page and "Map of the features" in page
    coloured = {"labels": "rhythm 0, rhythm 1, rhythm 2", "metadata-age": r"age 3\d to \d\d, age",
                "metadata-site": "site 0, site 1, site 2"}[name]  # fmt: skip
    assert re.search(f"coloured by {coloured}", page)
    assert ("MAE" in page) == (name == "metadata-age")


def test_features_that_a_probe_read_are_read_again_or_fill_the_disk(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    first = probe(run, task="labels")
    files = list((tmp_path / "latentcast" / "features").iterdir())
    assert len(files) == 3 and not first.notes
    without = probe(run, task="labels", cache=False)
    monkeypatch.setattr(cache, "extract", lambda *_, **__: pytest.fail("read again"))
    assert [row.score for row in probe(run, task="labels").rows] == [
        row.score for row in without.rows
    ]
    for used, file in enumerate(files):  # clocks of files are coarse
        os.utime(file, (used, used))
    oldest = files[0]
    cache._make_room(oldest.parent, sum(file.stat().st_size for file in files) - 1)
    assert set(oldest.parent.iterdir()) == {*files} - {oldest}
    monkeypatch.undo()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "file"))
    assert "features are not kept in" in probe(run, task="labels").notes[0]


def test_the_command_says_which_task_suits_and_names_a_wrong_one(run: Path) -> None:
    def latentcast(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "latentcast", "probe", str(run), *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    text = latentcast("--data", str(run.parent / "store"))
    assert (
        "task labels: suits the labels of" in text
        and "labels, splits train/validation/test" in text
    )
    assert (run / "probe-labels.json").exists()


def test_a_value_that_no_record_has_or_a_store_that_is_gone_is_named(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(LatentcastError, match="no record has 'agee'.*did you mean 'age'"):
        probe(run, task="metadata:agee")
    (tmp_path / "run").symlink_to(run)
    store = run.parent / "store"
    store.rename(tmp_path / "moved")
    try:
        with pytest.raises(LatentcastError, match="not at hand; name a labelled one .--data"):
            probe(tmp_path / "run")
        assert probe(str(run), str(tmp_path / "moved"), "labels").task == "labels"
    finally:
        (tmp_path / "moved").rename(store)
