"""A run that was touched after the fact: the line that says so turns red, and no other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import WFDB
from latentcast.config import Config, load
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.files import digested
from latentcast.recipes import RECIPES, recipe
from latentcast.runs.folder import write_config
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.synthetic import synthetic_recording
from latentcast.verification.audit import run as audited
from latentcast.verification.audit.audit import all_checks, audit
from latentcast.verification.formulas import decay_of, momentum_of, rate_of
from latentcast.verification.report.lines import Line, Section
from latentcast.workflows.train import train

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def trained(
    small_store: Path, small_hierarchy: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An H-JEPA run of 12 steps with checkpoints of 10 and 12, and a row for each second step."""
    run = tmp_path_factory.mktemp("runs") / "run"
    changes = {"train.log_every": 2, "train.evaluate_every": None, "optimizer.start_lr": 1e-4,
               "optimizer.final_weight_decay": 0.4}  # fmt: skip
    train(small_hierarchy.updated(changes), small_store, run)
    probe = {
        "provenance": {"weights": "hjepa-ecg-tiny, teacher, step 12", "training seed": 0},
        "leaks": [{"kind": "record id in pretraining", "severity": "warning", "count": 1}],
        "data": {"store": "nowhere", "shards": {}},
    }
    (run / "probe-superdiagnostic.json").write_text(json.dumps(probe))
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def by_id(section: Section) -> dict[str, Line]:
    return {line.id: line for line in section.lines}


def verdicts(section: Section) -> dict[str, str]:
    return {line.id: line.verdict for line in section.lines}


def broken(run: Path, seconds: float = 60.0) -> set[str]:
    found = verdicts(audit(run, seconds=seconds))
    return {name for name, verdict in found.items() if verdict == "broken"}


def test_an_untouched_run_holds_bit_for_bit(run: Path) -> None:
    section = audit(run)
    assert set(verdicts(section).values()) == {"holds"}, section.lines
    assert section.holds and len(section.lines) == len(all_checks()) == 18
    replayed = by_id(section)["run.replayed-weights"].numbers
    assert replayed["agreement"] == "bit for bit" and replayed["steps"] == "10 to 12"
    assert by_id(section)["run.replayed-rows"].numbers["rows"] == 1


def test_a_run_that_was_trained_on_is_called_broken(run: Path, small_store: Path) -> None:
    longer = ["train.steps=16", "train.log_every=3", "train.checkpoint_every=4"]
    train(load(run / "config.yaml"), small_store, run, set=longer, quiet=True)
    section = audit(run)
    assert [line for line in section.lines if line.verdict != "holds"] == []
    assert by_id(section)["run.replayed-weights"].numbers["steps"] == "12 to 16"


def edit_rows(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    def edit(run: Path) -> None:
        file = run / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        change(rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return edit


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(run: Path) -> None:
        record = json.loads((run / name).read_text())
        change(record)
        record = digested(record) if "digest" in record else record
        (run / name).write_text(json.dumps(record))

    return edit


def edit_tensors(which: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """With checksum and digest put right, as one would who means it."""

    def edit(run: Path) -> None:
        step = run / "checkpoints" / "step-00000012"
        (file,) = (step / which).glob("*.safetensors")
        from safetensors import safe_open

        with safe_open(file, "pt") as stream:
            metadata = stream.metadata()
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        name = str(file.relative_to(step))
        edit_json(
            "checkpoints/step-00000012/state.json", lambda s: s["sha256"].update({name: digest})
        )(run)

    return edit


def flip_a_bit(run: Path) -> None:
    (file,) = (run / "checkpoints" / "step-00000010" / "model").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def nudge(tensors: dict[str, torch.Tensor]) -> None:
    """One weight, by one bit."""
    name = next(
        name for name in sorted(tensors) if name.startswith("student") and tensors[name].ndim > 1
    )
    flat = tensors[name].view(-1).view(torch.int32)
    flat[0] ^= 1


def lag(tensors: dict[str, torch.Tensor]) -> None:
    """The teacher a hundredth nearer to its student than the average would be."""
    for name in tensors:
        if name.startswith("teacher") and tensors[name].is_floating_point():
            tensors[name] *= 1.001


def student_for_teacher(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if name.startswith("teacher."):
            tensors[name] = tensors["student." + name.removeprefix("teacher.")].clone()


def spoil(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values())).view(-1)[:1] = float("nan")


def probe_of_later(probe: dict[str, Any]) -> None:
    probe["provenance"]["weights"] = "hjepa-ecg-tiny, teacher, step 13"


def leak(probe: dict[str, Any]) -> None:
    probe["leaks"][0]["severity"] = "error"


def count_less(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if name.endswith("|step"):
            tensors[name] -= 1


TAMPERED: dict[str, tuple[Change, set[str]]] = {
    "lr of a row": (edit_rows(lambda rows: rows[2].update(lr=rows[2]["lr"] * 1.0001)), {"run.lr"}),
    "weight decay": (edit_rows(lambda rows: rows[2].update(weight_decay=0.05)),
                     {"run.weight-decay"}),
    "momentum": (edit_rows(lambda rows: rows[-1].update(momentum=1.0)), {"run.momentum"}),
    "a row removed": (edit_rows(lambda rows: rows.pop(3)), {"run.rows"}),
    "the last row removed": (edit_rows(lambda rows: rows.pop()), {"run.rows"}),
    "a row twice": (edit_rows(lambda rows: rows.append(rows[-1])), {"run.rows"}),
    "rows swapped": (edit_rows(lambda rows: rows.insert(1, rows.pop(2))), {"run.rows"}),
    "loss made nicer": (edit_rows(lambda rows: rows[-1].update(loss=rows[-1]["loss"] * 0.999)),
                        {"run.replayed-rows"}),
    "loss not finite": (edit_rows(lambda rows: rows[2].update(loss=None)), {"run.finite"}),
    "skips forgotten": (edit_rows(lambda rows: rows[1].update(skipped=2)), {"run.skipped"}),
    "skips not in the checkpoint": (edit_rows(lambda rows: rows[-1].update(skipped=1)),
                                    {"run.skipped"}),
    "teacher distance": (edit_rows(lambda rows: rows[-1].update(teacher_distance=0.5)),
                         {"run.teacher"}),
    "collapse": (edit_rows(lambda rows: rows[-1].update(alarms=["level0_target-rank-collapse"])),
                 {"run.alarms"}),
    "a flipped bit": (flip_a_bit, {"run.checkpoints"}),
    "a checksum removed": (
        edit_json("checkpoints/step-00000010/state.json", lambda s: s["sha256"].popitem()),
        {"run.checkpoints"},
    ),
    "a weight by one bit": (edit_tensors("model", nudge), {"run.replayed-weights"}),
    "teacher elsewhere": (edit_tensors("model", lag),
                          {"run.teacher", "run.replayed-weights", "run.replayed-teacher"}),
    "not finite": (edit_tensors("model", spoil), {"run.weights"}),
    "moments of another step": (edit_tensors("optimizer", count_less), {"run.weights"}),
    "checkpoint renamed": (lambda run: (run / "checkpoints" / "step-00000012").rename(
        run / "checkpoints" / "step-00000011"), {"run.checkpoints", "run.weights"}),  # type: ignore[arg-type, return-value]
    "checkpoints missing": (lambda run: shutil.rmtree(run / "checkpoints"), {"run.checkpoints"}),
    "other configuration": (lambda run: write_config(
        run / "config.yaml", load(run / "config.yaml").updated({"optimizer.lr": 0.002})),
        {"run.configuration", "run.lr"}),
    "another store": (edit_json("environment.json", lambda e: e["data"]["sha256"].update(
        {"shard-00000.npy": "0" * 64})), {"run.data"}),
    "probe of a step it never took": (
        edit_json("probe-superdiagnostic.json", probe_of_later), {"run.probes"}),
    "a leak": (edit_json("probe-superdiagnostic.json", leak), {"run.leaks"}),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_turns_the_right_line_red(run: Path, what: str) -> None:
    change, lines = TAMPERED[what]
    change(run)
    replayed = any("replayed" in line for line in lines)
    found = broken(run, 60.0 if replayed else 0.0)
    assert found >= lines, found
    if what not in ("not finite", "checkpoint renamed"):  # these show in several places
        assert found == lines, found


def test_rows_that_have_no_place_are_named(run: Path) -> None:
    edit_rows(lambda rows: rows.append(rows[-1]))(run)
    edit_rows(lambda rows: rows.insert(0, {**rows[0], "step": 5}))(run)
    told = by_id(audit(run, seconds=0))["run.rows"].numbers
    assert told["unexpected steps"] == "5, 1, 12"


def test_a_run_with_one_checkpoint_is_replayed_from_its_first_step(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    lines = by_id(audit(run))
    assert lines["run.replayed-weights"].verdict == "holds"
    assert lines["run.replayed-weights"].numbers["steps"] == "0 to 12"
    assert lines["run.replayed-rows"].numbers["rows"] == 7


def test_a_run_that_has_not_begun_holds_nothing(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    shutil.rmtree(run / "checkpoints")
    told = verdicts(audit(run))
    assert {told[f"run.{name}"] for name in ("rows", "finite", "skipped")} == {"not measured"}


def test_no_time_is_said_and_is_no_failure(run: Path) -> None:
    section = audit(run, seconds=1e-9)
    line = by_id(section)["run.replayed-weights"]
    assert line.verdict == "not measured" and "10 to 10 of 10 to 12" in str(line.numbers["reason"])
    assert section.holds and "2 not measured" not in section.summary.split(";")[0].split(",")[0]


def test_a_leak_from_the_run_that_the_weights_began_with_is_found(
    run: Path, small_store: Path, tmp_path: Path
) -> None:
    made = [synthetic_recording(60 + n, 100, 8, seed=n).signal for n in range(24)]
    np.save(tmp_path / "made.npy", np.stack(made))
    axes = {"sampling_rate": 100, "unit": "mV", "leads": CANONICAL_LEADS}
    ingest(tmp_path / "made.npy", tmp_path / "made", layout="records,leads,samples", **axes)
    later = train(load(run / "config.yaml"), tmp_path / "made", tmp_path / "later", init=run).run
    splits = [
        "record_id,split,label",
        *(f"{name},test,1" for name in Store.open(small_store).record_ids),
    ]
    splits[1:5] = [line.replace("test", "train") for line in splits[1:5]]
    (tmp_path / "splits.csv").write_text("\n".join(splits))
    probed = ingest(WFDB, tmp_path / "probed", fs=100, labels=tmp_path / "splits.csv").store
    shutil.copy(run / "probe-superdiagnostic.json", later)
    data = {"store": str(probed.path), "shards": probed.checksums}
    edit_json("probe-superdiagnostic.json", lambda probe: probe.update(data=data))(later)
    line = by_id(audit(later))["run.leaks"]
    assert line.verdict == "broken" and "recording in pretraining" in str(line), line


def test_a_store_that_is_gone_is_said_and_one_elsewhere_is_named(
    run: Path, small_store: Path, tmp_path: Path
) -> None:
    edit_json("environment.json", lambda e: e["data"].update(store=str(tmp_path / "gone")))(run)
    told = verdicts(audit(run))
    assert told["run.data"] == told["run.replayed-weights"] == "not measured"
    assert set(verdicts(audit(run, data=small_store)).values()) == {"holds"}


def test_another_store_is_not_taken_for_its_own(run: Path, tmp_path: Path) -> None:
    ingest(WFDB, tmp_path / "other", fs=100, workers=1, quiet=True, leads=("I", "II"))
    section = audit(run, data=tmp_path / "other")
    line = by_id(section)["run.data"]
    assert line.verdict == "broken" and "shard-00000.npy" in str(line.numbers["of other data"])
    assert by_id(section)["run.replayed-weights"].verdict == "not measured"


def test_statistics_of_all_folds_are_not_taken_for_those_of_the_training_rows(
    small_hierarchy: Config, small_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(small_store, tmp_path / "store")
    edit_json("manifest.json", lambda m: m["statistics"]["std"].reverse())(store)
    train(small_hierarchy.updated({"train.steps": 5}), store, tmp_path / "run", quiet=True)
    assert broken(tmp_path / "run", seconds=0) == {"run.normalisation"}


def test_a_damaged_store_is_found(run: Path, small_store: Path, tmp_path: Path) -> None:
    shutil.copytree(small_store, tmp_path / "store")
    shard = tmp_path / "store" / "shard-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    line = by_id(audit(run, data=tmp_path / "store", seconds=0))["run.data"]
    assert line.verdict == "broken" and "shard-00000.npy" in str(line.numbers["damaged"])


def test_a_run_that_goes_on_has_nothing_to_be_ashamed_of(run: Path) -> None:
    """As a reader finds it between two rows, a line half written."""
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "probe-superdiagnostic.json").unlink()
    file = run / "metrics.jsonl"
    file.write_text("\n".join(file.read_text().split("\n")[:6]) + '\n{"step": 12, "lo')
    section = audit(run)
    assert section.holds, section.lines
    assert by_id(section)["run.probes"].numbers["reason"] == "the run was not probed"
    assert by_id(section)["run.replayed-weights"].numbers["steps"] == "0 to 10"


def test_a_checkpoint_that_a_running_run_replaces_meanwhile_is_not_called_broken(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, read = run / "checkpoints", audited.checkpoint.read_tensors

    def overtaken(step: Path, which: str) -> dict[str, torch.Tensor]:
        if (checkpoints / "step-00000010").exists():
            (checkpoints / "step-00000010").rename(checkpoints / "step-00000014")
        return read(step, which)

    monkeypatch.setattr(audited.checkpoint, "read_tensors", overtaken)
    section = audit(run)
    assert "broken" not in set(verdicts(section).values()), section.lines
    assert "ask again" in str(by_id(section)["run.weights"].numbers["reason"])


@pytest.mark.parametrize("what", ["platform", "cpu"])
def test_on_another_machine_bits_are_not_demanded(run: Path, what: str) -> None:
    edit_json("environment.json", lambda e: e.update({what: "elsewhere"}))(run)
    edit_tensors("model", nudge)(run)
    line = by_id(audit(run))["run.replayed-weights"]
    assert line.verdict == "holds" and line.numbers["agreement"] == "another machine"
    assert 0 < float(line.numbers["difference over the way moved"]) < 1e-2
    edit_tensors("model", lag)(run)
    assert "run.replayed-weights" in broken(run)


def test_a_run_of_nepa_and_one_of_images_hold(
    small_store: Path, digits_store: Path, small_config: Config, tmp_path: Path
) -> None:
    short = {"train.steps": 4, "train.checkpoint_every": 2, "train.evaluate_every": None}
    horizon = {"ema.base": None, "ema.half_life": 500.0}
    train(small_config.updated(short | horizon), small_store, tmp_path / "nepa")
    narrow = {"encoder.width": 24, "encoder.depth": 1, "encoder.heads": 2, "encoder.mlp_width": 48,
              "objective.predictor.width": 16, "objective.predictor.depth": 1,
              "objective.predictor.heads": 2, "objective.predictor.mlp_width": 32,
              "optimizer.warmup_steps": 2, "train.batch_size": 8}  # fmt: skip
    train(recipe("ijepa-image-digits").updated(short | narrow), digits_store, tmp_path / "image")
    for name in ("nepa", "image"):
        section = audit(tmp_path / name)
        assert section.holds and section.count("not measured") == 2, section.lines  # no probe
        assert by_id(section)["run.replayed-weights"].numbers["agreement"] == "bit for bit"


@pytest.mark.parametrize("name", RECIPES)
def test_the_formulas_of_an_audit_are_those_of_every_recipe(name: str) -> None:
    config = recipe(name)
    schedules, steps, warmup = (
        Schedules.of(config),
        config.train.steps,
        config.optimizer.warmup_steps,
    )
    for n in {1, 2, warmup - 1, warmup, warmup + 1, steps // 2, steps - 1, steps} - {-1, 0}:
        assert rate_of(config, n - 1) == pytest.approx(schedules.lr(n - 1), rel=1e-13)
        assert decay_of(config, n - 1) == pytest.approx(schedules.weight_decay(n - 1), rel=1e-13)
        assert momentum_of(config, n - 1) == pytest.approx(schedules.momentum(n - 1), rel=1e-13)


def test_a_run_without_configuration_promises_nothing(run: Path) -> None:
    (run / "config.yaml").unlink()
    with pytest.raises(LatentcastError, match="config.yaml: does not exist"):
        audit(run)
