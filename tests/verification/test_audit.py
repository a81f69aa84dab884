"""A run that was touched after the fact: the line that says so turns red, and only where it must."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentcast.config import Config
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.pretrain import pretrain
from latentcast.verification.audit import CHECKS, audit
from latentcast.verification.lines import Line, Section

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def trained(
    small_store: Path, small_hierarchy: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An H-JEPA run of 12 steps with checkpoints of 10 and 12, and a row for each second step."""
    run = tmp_path_factory.mktemp("runs") / "run"
    changes = {"train.log_every": 2, "train.evaluate_every": None, "optimizer.start_lr": 1e-4,
               "optimizer.final_weight_decay": 0.4}  # fmt: skip
    pretrain(small_hierarchy.updated(changes), small_store, run)
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


def broken(run: Path) -> set[str]:
    return {name for name, verdict in verdicts(audit(run)).items() if verdict == "broken"}


def test_an_untouched_run_holds_bit_for_bit(run: Path) -> None:
    section = audit(run)
    assert set(verdicts(section).values()) == {"holds"}, section.lines
    assert section.holds and len(section.lines) == len(CHECKS) + 3
    replayed = by_id(section)["run.replayed-weights"].numbers
    assert replayed["agreement"] == "bit for bit" and replayed["steps"] == "10 to 12"
    assert by_id(section)["run.replayed-rows"].numbers["rows"] == 1


def edit_rows(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    def edit(run: Path) -> None:
        file = run / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        change(rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return edit


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(run: Path) -> None:
        held = json.loads((run / name).read_text())
        change(held)
        (run / name).write_text(json.dumps(held))

    return edit


def edit_tensors(which: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """With the checksum put right, as one would who means it."""

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
        edit_json("checkpoints/step-00000012/state.json", lambda s: s["sha256"].update({name: digest}))(run)

    return edit


def flip_a_bit(run: Path) -> None:
    (file,) = (run / "checkpoints" / "step-00000010" / "model").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def nudge(tensors: dict[str, torch.Tensor]) -> None:
    """One weight, by one bit."""
    name = next(name for name in sorted(tensors) if name.startswith("encoder") and tensors[name].ndim > 1)
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


def count_less(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if name.endswith("|step"):
            tensors[name] -= 1


TAMPERED: dict[str, tuple[Change, set[str]]] = {
    "lr of a row": (edit_rows(lambda rows: rows[2].update(lr=rows[2]["lr"] * 1.0001)), {"run.lr"}),
    "weight decay": (edit_rows(lambda rows: rows[2].update(weight_decay=0.05)), {"run.weight-decay"}),
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
    "a weight by one bit": (edit_tensors("model", nudge), {"run.replayed-weights"}),
    "teacher elsewhere": (edit_tensors("model", lag),
                          {"run.teacher", "run.replayed-weights", "run.replayed-teacher"}),
    "not finite": (edit_tensors("model", lambda t: next(iter(t.values())).view(-1)[:1].fill_(float("nan"))),
                   {"run.weights"}),
    "moments of another step": (edit_tensors("optimizer", count_less), {"run.weights"}),
    "checkpoint renamed": (lambda run: (run / "checkpoints" / "step-00000012").rename(
        run / "checkpoints" / "step-00000011"), {"run.checkpoints", "run.weights"}),  # type: ignore[arg-type, return-value]
    "checkpoint missing": (lambda run: shutil.rmtree(run / "checkpoints" / "step-00000010"), set()),
    "both checkpoints missing": (lambda run: shutil.rmtree(run / "checkpoints"), set()),
    "other configuration": (lambda run: (run / "config.yaml").write_text(  # type: ignore[arg-type, return-value]
        (run / "config.yaml").read_text().replace("lr: 0.001", "lr: 0.002")),
        {"run.configuration", "run.lr"}),
    "another store": (edit_json("environment.json", lambda e: e["data"]["sha256"].update(
        {"shard-00000.npy": "0" * 64})), {"run.data"}),
    "probe of another step": (edit_json("probe-superdiagnostic.json", lambda p: p["provenance"].update(
        weights="hjepa-ecg-tiny, teacher, step 10")), {"run.probes"}),
    "a leak": (edit_json("probe-superdiagnostic.json", lambda p: p["leaks"][0].update(severity="error")),
               {"run.leaks"}),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_turns_the_right_line_red(run: Path, what: str) -> None:
    change, lines = TAMPERED[what]
    change(run)
    found = broken(run)
    assert found >= lines, found
    if len(lines) == 1 and not lines & {"run.weights", "run.checkpoints", "run.finite"}:
        # The replay may see it as well: what a row says, training it again says otherwise.
        assert found - lines <= {"run.replayed-rows"}, found
