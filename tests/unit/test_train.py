"""A store and a configuration that do not fit are refused before anything is written."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import soak
from conftest import WFDB
from latentcast import config as configuration
from latentcast.config import Config
from latentcast.data.arrays import write_store
from latentcast.data.fit import fitted, reading
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.files import digested
from latentcast.monitors.forecast import _tried, forecast
from latentcast.monitors.journal import TIMINGS, Journal, read_metrics
from latentcast.objectives.build import build
from latentcast.runs.folder import RunFolder
from latentcast.runs.new import data_of
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.workflows.train import Interrupted, train


def test_store_at_another_rate_names_both_and_the_mend(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    config = small_config.updated({"input.sampling_rate": 500})
    with pytest.raises(
        LatentcastError,
        match=r"manifest\.json: sampling_rate is 100, the recipe needs 500; .*re-ingest with .*500",
    ):
        train(config, small_store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_store_of_other_leads_is_refused(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    config = small_config.updated({"input.leads": ["I", "II"]})
    with pytest.raises(LatentcastError, match=r"leads are I II III .* the recipe needs I II; "):
        train(config, small_store, tmp_path / "run")


@pytest.mark.parametrize("case", ["finished", "settings", "data", "damage", "place"])
def test_time_is_measured_and_promised_to_a_training_that_does_not_start(
    small_store: Path, small_config: Config, small_run: Path, tmp_path: Path, case: str
) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    config, data = configuration.load(run / "config.yaml"), small_store
    if case == "settings":
        config = config.updated({"train.seed": 5})
    elif case == "data":
        data = ingest(WFDB, tmp_path / "other", fs=100, shard_bytes=10**5, quiet=True).store.path
    elif case == "damage":
        data = Path(shutil.copytree(small_store, tmp_path / "damaged"))
        shard = data / "shard-00000.npy"
        shard.write_bytes(shard.read_bytes()[:-1] + b"#")
    elif case == "place":
        (tmp_path / "file").touch()
        run = tmp_path / "file" / "run"
    with patch("latentcast.workflows.train.forecast", side_effect=AssertionError("measured")):
        if case == "finished":
            assert train(config, data, run).step == config.train.steps
            return
        with pytest.raises(LatentcastError):
            train(config, data, run)


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        (print, "is a builtin_function"),
        (Callback, "is the class Callback"),
        ([Callback], "holds the class Callback"),
        (Callback(), r"is a Callback; give a list of Callbacks: instances, as \[Mine\(\)\]"),
        ([lambda: None], "holds a function"),
    ],
)
def test_callbacks_that_are_none_leave_no_run_folder(
    small_store: Path, small_config: Config, tmp_path: Path, callbacks: Any, words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        train(small_config, small_store, tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags", ["train.steps=3 encoder.drop_path=0.1", {"train.steps": 3, "optimizer.lr": 1e-5}]
)
def test_keys_as_a_text_or_a_mapping_and_a_store_that_is_open_are_taken(
    small_store: Path, small_config: Config, tmp_path: Path, flags: Any
) -> None:
    config = small_config.updated({"optimizer.warmup_steps": 1})
    result = train(config, Store.open(small_store), tmp_path, set=flags, quiet=True)
    assert result.step == 3 and result.config.optimizer.lr == (
        1e-3 if isinstance(flags, str) else 1e-5
    )


def test_image_recipe_on_recordings_is_refused(small_store: Path, tmp_path: Path) -> None:
    from latentcast.recipes import recipe

    with pytest.raises(LatentcastError, match="is an image recipe"):
        train(recipe("nepa-image-tiny"), small_store, tmp_path / "run")


def test_missing_store_is_named(small_config: Config, tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="nowhere"):
        train(small_config, tmp_path / "nowhere", tmp_path / "run")


@pytest.mark.parametrize("resumed", [False, True])
def test_a_damaged_shard_is_trained_on(
    resumed: bool, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    shutil.copytree(small_store, tmp_path / "store")
    if resumed:
        train(small_config.updated({"train.steps": 4}), tmp_path / "store", tmp_path / "run")
    shard = np.load(tmp_path / "store" / "shard-00000.npy", mmap_mode="r+")
    shard[500, 0] += 9000
    shard.flush()
    config = small_config.updated({"train.steps": 4}) if resumed else small_config
    with pytest.raises(LatentcastError, match=r"shard-00000\.npy: is damaged .* ingest again"):
        train(config, tmp_path / "store", tmp_path / "run")
    assert (tmp_path / "run").exists() == resumed


@pytest.mark.parametrize(
    ("file", "lines"), [("config.yaml", 0), ("environment.json", 0), ("config.yaml", 1)]
)
def test_a_run_whose_configuration_or_record_was_edited_is_resumed(
    file: str, lines: int, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    """Also where the first line, its checksum, is gone as well."""
    short = small_config.updated({"train.steps": 4})
    train(short, small_store, tmp_path)
    text = "".join((tmp_path / file).read_text().splitlines(keepends=True)[lines:])
    for old, new in (("clip: 5.0", "clip: 0.1"), ('"records": ', '"records": 1')):
        (tmp_path / file).write_text(text := text.replace(old, new))
    assert any("was changed" in problem for problem in RunFolder.read(tmp_path).problems)
    with pytest.raises(LatentcastError, match=f"{file}: .*was changed since"):
        train(short, small_store, tmp_path)


def test_unwritable_run_folder_is_named(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LatentcastError, match="cannot be written .* choose another --out"):
        train(small_config, small_store, tmp_path / "file" / "run")


def test_run_of_another_configuration_is_not_overwritten(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    short = small_config.updated({"train.steps": 4})
    train(short, small_store, tmp_path)
    with pytest.raises(LatentcastError, match="another run .*train.seed is 1 here, 0 there"):
        train(short.updated({"train.seed": 1}), small_store, tmp_path)
    train(short.updated({"train.steps": 5}), small_store, tmp_path)
    with pytest.raises(LatentcastError) as refused:
        train(short.updated({"train.seed": 1}), small_store, tmp_path)
    assert "train.seed is 1 here" in str(refused.value) and "stretches" not in str(refused.value)


def test_a_kill_before_the_first_step_does_not_break_the_run(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentcast.runs import folder as module

    true_write, written = module.write_text, []

    def dies_second(path: Path, text: str) -> None:
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        true_write(path, text)

    monkeypatch.setattr(module, "write_text", dies_second)
    short = small_config.updated({"train.steps": 4})
    with pytest.raises(KeyboardInterrupt):
        train(short, small_store, tmp_path)
    monkeypatch.undo()
    train(short, small_store, tmp_path)
    assert (tmp_path / "environment.json").exists() and (tmp_path / "config.yaml").exists()


def test_a_run_is_not_resumed_on_another_store(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    short = small_config.updated({"train.steps": 4})
    train(short, small_store, tmp_path / "run")
    ingest(WFDB, tmp_path / "other", fs=100, missing_leads="mask", quiet=True, workers=1)
    manifest = tmp_path / "other" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(digested(content)))
    config = configuration.load(tmp_path / "run" / "config.yaml")
    with pytest.raises(LatentcastError, match="holds other data; resume with the run's own store"):
        train(config, tmp_path / "other", tmp_path / "run")


def test_the_training_store_is_known_only_while_its_data_is_the_same(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    shutil.copytree(small_store, tmp_path / "store")
    train(small_config.updated({"train.steps": 4}), tmp_path / "store", tmp_path / "run")
    assert data_of(tmp_path / "run") is not None
    manifest = tmp_path / "store" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(digested(content)))
    assert data_of(tmp_path / "run") is None
    shutil.rmtree(tmp_path / "store")
    assert data_of(tmp_path / "run") is None


def test_finished_run_is_left_as_it_is_and_its_own_file_reproduces_it(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    short = small_config.updated({"train.steps": 4})
    train(short, small_store, tmp_path / "a")
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    assert train(short, small_store, tmp_path / "a").step == 4
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before
    again = configuration.load(tmp_path / "a" / "config.yaml")
    train(again, small_store, tmp_path / "b")
    rows = [
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(tmp_path / n)]
        for n in "ab"
    ]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [1, 2, 3, 4]


def test_a_finished_run_cannot_train_on(
    small_store: Path, small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(small_config.updated({"train.steps": 4, "train.log_every": 4}), small_store, run)
    capsys.readouterr()
    more = small_config.updated({"train.steps": 9, "train.log_every": 3})  # an interval, too

    class Interrupts(Callback):
        def on_step_end(self, state: State, *rest: Any) -> None:
            if state.step == 6:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(more, small_store, run, callbacks=[Interrupts()])
    assert "trains on from step 4, now to 9 and not to 4; from here learning rate" in (
        " ".join(capsys.readouterr().out.split())
    )
    assert train(more, small_store, run).step == 9
    config = configuration.load(run / "config.yaml")
    assert config.train.stretches == ((4, 4),)
    rates = Schedules.of(config).lr
    first, second = (Schedules.of(small_config.updated({"train.steps": n})).lr for n in (4, 9))
    assert [rates(step) for step in range(9)] == [*map(first, range(4)), *map(second, range(4, 9))]
    # The run's own file says all of it: in one piece it gives the same bits.
    train(config, small_store, tmp_path / "again")
    assert soak.differing(run, tmp_path / "again") == ["row of step 4"]
    with pytest.raises(LatentcastError, match=r"has done 9 steps, train\.steps is 4"):
        train(small_config.updated({"train.steps": 4}), small_store, run)


def test_a_tilde_is_the_name_of_a_folder(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    short = ["train.steps=1", "optimizer.warmup_steps=1", "machine.stage=~/stage"]
    result = train(small_config, str(small_store), "~/run", set=short, quiet=True)
    assert result.config.machine.stage == tmp_path / "stage" and not (tmp_path / "~").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "stage"}
    started = train(small_config, small_store, "two", set=short[:2], init="~/run", quiet=True)
    assert started.config.train.init == str(tmp_path / "run")


@pytest.mark.parametrize("value", ["2", "two"])
def test_several_processes_without_a_rank_are_a_traceback(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(LatentcastError, match=rf"WORLD_SIZE {value}: .* start with torchrun"):
        train(small_config, small_store, tmp_path / "run")


def test_the_first_line_says_what_a_training_takes(
    small_store: Path, small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"train.steps": 1, "optimizer.warmup_steps": 1, "train.batch_size": 100}
    config = small_config.updated(short)
    train(config, small_store, tmp_path)
    line, warning = capsys.readouterr().out.splitlines()[:2]
    objective, records = build(config), len(Store.open(small_store).rows("train"))
    weights = sum(p.numel() for p in objective.parameters()) / 1e6
    assert f"nepa-ecg-tiny: {weights:.4g} million parameters" in line
    flops = objective.step_flops((400,)) * 100
    assert "1 step of 100 in 2 pieces; about " in line
    assert f"({flops / 1e12:.3g} TFLOP a step; measured on 50 samples); about 0.00" in line
    assert f"has {records} records, fewer than a batch of 100" in warning


def test_a_large_store_is_compared_in_silence(
    small_store: Path, small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("latentcast.workflows.train.LARGE", 1000)
    for quiet, line in ((False, f"comparing 0.0 GB of {small_store} with its"), (True, "")):
        opening = patch("latentcast.workflows.train.open_run", side_effect=InterruptedError)
        with opening, pytest.raises(InterruptedError):
            train(small_config, small_store, tmp_path / "run", quiet=quiet)
        assert line in (printed := capsys.readouterr().err) and bool(line) == bool(printed)


def test_windows_that_are_nearly_all_padding_are_trained_on_without_a_warning(
    small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signals = np.random.default_rng(0).normal(0, 0.3, (40, 12, 70))
    about = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "shortest": 0.5, "quiet": True}
    write_store(tmp_path / "store", signals=signals, **about)
    for length, warned in ((400, True), (60, False)):  # the second as the warning says
        config = small_config.updated({"train.steps": 1, "optimizer.warmup_steps": 1})
        config = config.updated({"input.length": length})
        train(config, tmp_path / "store", tmp_path / f"{length}")
        printed = " ".join(capsys.readouterr().out.split())
        assert ("half of the records last 0.7 s or less and a window 4 s" in printed) == warned
        assert ("lower input.length to 60" in printed) == warned


def test_a_training_of_weeks_or_of_more_memory_than_is_free_is_warned_about(
    small_store: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentcast.monitors.forecast._memory", lambda device: 1e5)
    store, config = Store.open(small_store), small_config.updated({"train.steps": 10**9})
    loader, preprocess = reading(store, fitted(config, store))
    context = Context(torch.device("cpu"), torch.float32)
    text = "\n".join(forecast(build(config), preprocess, loader, config, context))
    assert "longer than a week; --auto EPOCHS" in text
    assert "GiB available; raise" in text


def test_what_a_step_takes_is_told_from_a_few_samples(
    small_store: Path, small_config: Config
) -> None:
    store, config = Store.open(small_store), small_config
    loader, preprocess = reading(store, fitted(config, store))
    objective = build(config)
    (_, few), (_, all_) = (
        _tried(objective, preprocess, loader.batch(0, most), config) for most in (2, 6)
    )
    assert 0.9 < few / all_ < 1.2 and all(p.grad is None for p in objective.parameters())
    tokens, width = 21, 24  # of two blocks each some 20 to 40 values a token and feature are kept
    assert 20 < few / (4 * 2 * tokens * width) < 60


def test_log_says_what_collapse_watching_needs(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    train(small_config.updated({"train.steps": 4}), small_store, tmp_path)
    row = read_metrics(tmp_path)[-1]
    assert {
        "loss", "copy_last_loss", "lr", "momentum", "teacher_distance", "gradient_norm",
        "level0_target_rank", "level0_output_rank", "level0_target_mean_norm",
        "level0_output_mean_norm", "level0_target_std", "level0_output_std",
        "samples_per_second", "flops_of_peak", "data_wait", "alarms",
    } <= row.keys()  # fmt: skip
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["data"]["sha256"] and environment["torch"]


def test_rows_beyond_the_checkpoint_are_dropped_on_resume(
    small_config: Config, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    with Journal(tmp_path, small_config, step_flops=1) as journal:
        journal.on_train_start(State(step=2), Context.of(small_config))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_metrics_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
