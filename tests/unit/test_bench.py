"""The bench: it measures what the engine does, its numbers agree, and it leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPOSITORY
from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import train
from latentcast.errors import LatentcastError
from latentcast.monitors import journal
from latentcast.objectives.build import build
from latentcast.recipes import RECIPES, recipe
from latentcast.workflows import bench as benches
from latentcast.workflows.bench import PARTS, bench, operations, step_of

PEAK = 1e9


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few records, and a peak that is known instead of measured."""
    monkeypatch.setattr(benches, "MOST_RECORDS", 24)
    monkeypatch.setattr(benches, "LOADER_SECONDS", 0.01)
    for module in (benches, journal):
        monkeypatch.setattr(module, "matmul_peak", lambda device, precision: PEAK)


@pytest.fixture
def digits() -> Config:
    return recipe("hjepa-image-digits").updated(
        {"encoder.depth": 1, "train.batch_size": 8, "input.crop_scale": (0.5, 1.0)}
    )


def numbers(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from numbers(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from numbers(value)
    elif isinstance(tree, float | int) and not isinstance(tree, bool):
        yield tree


@pytest.mark.parametrize("kind", ["recordings", "images"])
def test_every_part_is_measured_in_silence_and_nothing_stays(
    kind: str,
    small_config: Config,
    digits: Config,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = small_config if kind == "recordings" else digits
    told = json.loads(json.dumps(bench(config, rounds=2), allow_nan=False))
    assert set(PARTS) <= set(told) and told["data"] == "synthetic"
    for part in PARTS:
        found = list(numbers(told[part]))
        assert found and all(math.isfinite(n) and n > 0 for n in found), part
    assert told["machine"]["device"] == "cpu" and told["step"]["peak_memory_mib"] > 50
    assert told["ingest"]["records"] == 24
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr()
    assert said.out == said.err == ""  # the verb prints one JSON object and nothing else


def test_numbers_of_a_round_agree(small_config: Config, quick: None) -> None:
    """A rate per batch instead of per sample, or a share of one look a step, is a factor off."""
    config = small_config.updated({"train.log_every": 25})
    told = bench(config, what=["step", "ema", "monitors", "forward"], rounds=1)
    step = {k: told["step"][k]["median"] for k in ("ms", "samples_per_second", "gflops", "of_peak")}
    seconds = step["ms"] / 1e3
    assert step["samples_per_second"] == pytest.approx(6 / seconds, rel=1e-3)
    flops = build(config).step_flops(config.input.size) * 6
    assert step["gflops"] == pytest.approx(flops / seconds / 1e9, rel=1e-3)
    assert step["of_peak"] == pytest.approx(flops / seconds / PEAK, rel=1e-3)
    assert told["step"]["whole_run"]["hours"] == pytest.approx(12 * seconds / 3600, rel=1e-3)
    assert told["ema"]["of_step"]["median"] == pytest.approx(
        told["ema"]["ms"]["median"] / step["ms"], rel=1e-3
    )
    assert told["monitors"]["of_training"]["median"] == pytest.approx(
        told["monitors"]["look_ms"]["median"] / (25 * step["ms"]), rel=1e-3
    )
    forward = told["forward"]
    assert forward["batch"] == 6
    encoder = build(config).encoder("teacher").flops(config.input.size) * 6
    rate = forward["samples_per_second"]["median"]
    assert forward["gflops"]["median"] == pytest.approx(encoder * rate / 6 / 1e9, rel=1e-3)


def test_only_what_was_asked_for_is_measured(small_config: Config, quick: None) -> None:
    assert set(PARTS) & set(bench(small_config, what=["ema"], rounds=1)) == {"ema"}
    assert set(PARTS) & set(bench(small_config, what=["loader"], rounds=1)) == {"loader"}


@pytest.mark.parametrize("made", ["small_config", "small_hierarchy"])
def test_step_is_the_step_of_the_engine(
    made: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A bench with its own idea of a step (no clipping, no EMA, half the batch) measures nothing.

    Loss, gradient norm and teacher of each step are those of the loop, bit for bit.
    """
    config = request.getfixturevalue(made).updated({"train.steps": 4, "machine.device": "cpu"})
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 12, 400, generator=generator)
    pieces = [Batch(x[:3], torch.arange(3)), Batch(x[3:], torch.arange(3, 6))]
    rows: list[tuple[float, ...]] = []

    def noted(state: State, output: Any, norm: Any, schedules: Any, ema: Any) -> None:
        rows.append((state.step, float(output.loss), float(norm), ema.distance()))

    class Notes(Callback):
        on_step_end = staticmethod(noted)  # type: ignore[assignment]

    def preprocess(samples: torch.Tensor, draw: Any) -> Inputs:
        return Inputs(samples)

    def stream(attempt: int) -> Iterator[list[Batch]]:
        while True:
            yield pieces

    train(build(config), preprocess, stream, config, tmp_path, [Notes()])
    engine, rows = rows, []
    step = step_of(config, preprocess, pieces, Context.of(config))
    for number in range(4):
        noted(*step(number))
    assert rows == engine and len({loss for _, loss, *_ in rows}) == 4


@pytest.mark.parametrize("name", ["nepa-ecg-tiny", "ijepa-image-base", "hjepa-ecg-small"])
def test_operations_are_counted_without_weights(name: str) -> None:
    config = recipe(name).updated({"encoder.depth": 2})
    size, train = config.input.size, config.train
    expected = build(config).step_flops(size) * train.batch_size * train.steps
    assert operations(config) == expected > 0


def test_a_store_is_read_and_left_as_it_was(
    small_config: Config, small_store: Path, quick: None
) -> None:
    before = {file: file.stat().st_mtime_ns for file in small_store.iterdir()}
    told = bench(small_config, small_store, what=["step", "loader", "ingest"], rounds=1)
    assert told["data"] == small_store.name and told["loader"]["records_per_second"]["median"] > 0
    assert {file: file.stat().st_mtime_ns for file in small_store.iterdir()} == before


def test_synthetic_recordings_have_the_leads_of_the_configuration(quick: None) -> None:
    config = recipe("nepa-ecg-tiny").updated(
        {"input.leads": ["II", "V1"], "input.length": 200, "input.scale": 0.005,
         "train.batch_size": 4}
    )  # fmt: skip
    told = bench(config, what=["loader"], rounds=1)
    assert told["loader"]["records_per_second"]["median"] > 0


@pytest.mark.parametrize(
    ("changes", "how", "words"),
    [
        ({}, {"what": ["steps"]}, "--what steps: is no part; did you mean 'step'"),
        ({}, {"rounds": 0}, "--rounds 0: measures nothing"),
        ({"machine.device": "cuda:99"}, {}, "machine.device cuda:99: cannot be used"),
        ({"input.leads": ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]}, {},
         "no array makes a store of these; name a store that has them with --data"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_with_the_mend(
    small_config: Config, quick: None, changes: Any, how: Any, words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        bench(small_config.updated(changes), **how)


def test_a_store_that_does_not_fit_is_refused(
    small_config: Config, digits: Config, small_store: Path, digits_store: Path, quick: None
) -> None:
    with pytest.raises(LatentcastError, match="choose a recipe with -image- in its name"):
        bench(small_config, digits_store, what=["step"])
    with pytest.raises(LatentcastError, match="choose a recipe with -ecg- in its name"):
        bench(digits, small_store, what=["step"])
    with pytest.raises(LatentcastError, match="re-ingest with --fs 500"):
        bench(recipe("nepa-ecg-small"), small_store, what=["step"])


MASKS = (None, "blocks", "context_blocks", "reference")


@pytest.mark.parametrize("name", RECIPES)
def test_operations_of_every_recipe_are_counted_with_every_kind_of_masks(name: str) -> None:
    """Masks of the reference, whose size is drawn, were drawn on the meta device."""
    counted = {}
    for kind in MASKS:
        config = recipe(name)
        if kind is not None:
            try:
                config = config.updated({"objective.masks.kind": kind})
            except LatentcastError:
                continue  # the recipe has no masks, or not of this kind
        counted[kind] = operations(config)
    assert all(0 < n < 1.3 * counted[None] for n in counted.values())
    assert (name in ("ijepa-image-base", "ijepa-image-huge")) == ("reference" in counted)


@pytest.mark.slow
def test_the_gpu_script_works_in_little_on_a_cpu(tmp_path: Path) -> None:
    """So that it does on the day when there is a GPU, for which there are minutes."""
    about = {"LATENTCAST_TOY": "1", "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    script = str(REPOSITORY / "benchmarks" / "gpu.sh")
    done = subprocess.run(
        ["bash", script, str(tmp_path)], env=os.environ | about, capture_output=True, text=True
    )
    assert not (tmp_path / "left_out.txt").exists(), done.stdout
    last = (tmp_path / "device.json").read_text().splitlines()[-1]
    assert json.loads(last)["attention_ms"]["math"] > 0
    for name in ("nepa-ecg-small", "ijepa-image-base"):
        (row,) = json.loads((tmp_path / f"{name}.json").read_text())
        assert row["step_ms"] > 0 and row["against_textbook"]["times_as_fast"]["least"] > 0


def test_a_ratio_under_its_floor_is_told_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    check = pytest.importorskip("check")

    def row(median: float, least: float) -> dict[str, Any]:
        return {"against_textbook": {"times_as_fast": {"median": median, "least": least}}}

    (found,) = check.compared(row(1.5, 1.4), row(1.31, 1.0))
    assert found == ("textbook", pytest.approx(1.3), 1.31)
    (found,) = check.compared(row(1.5, 1.5), row(1.42, 1.0))
    assert found[1] == pytest.approx(1.425)


def test_checkouts_whose_packages_share_their_names_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second would step the first one's model."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    peers = pytest.importorskip("peers")
    found = []
    for name in ("one", "two"):
        package = tmp_path / name / "models"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"name = {name!r}")
        with peers.imported_from(tmp_path / name):
            found.append(importlib.import_module("models").name)
    assert found == ["one", "two"] and "models" not in sys.modules
    monkeypatch.setattr(sys, "argv", ["peers.py"])
    peers.main()
    assert capsys.readouterr().err.count("left out") == len(peers.PEERS)
