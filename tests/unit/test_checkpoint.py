"""Checkpoints are whole or absent, and a bad one is an error with a mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from latentcast.config import Config
from latentcast.engine import checkpoint, tensor_files
from latentcast.engine.checkpoint import State
from latentcast.engine.optimizer import build_optimizer
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build

SHARD = "shard-00001-model-00001-of-00001.safetensors"
FILES = [f"model/{SHARD}", f"optimizer/{SHARD}", "state.json"]


def save(folder: Path, config: Config, *steps: int, keep: int = 5) -> Path:
    model = build(config)
    optimizer = build_optimizer(model, config.optimizer)
    for p in model.trainable().values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    config = config.updated({"train.keep_checkpoints": keep})
    for step in steps:
        written = checkpoint.save(folder, State(step, 1), model, optimizer, config)
    return written


def resume(folder: Path, config: Config) -> State:
    model = build(config)
    config = config.updated({"train.keep_checkpoints": 5})
    return checkpoint.resume(folder, model, build_optimizer(model, config.optimizer), config)


def test_what_was_saved_comes_back(small_config: Config, tmp_path: Path) -> None:
    save(tmp_path, small_config, 3)
    assert resume(tmp_path, small_config) == State(3, 1)


def test_nothing_there_starts_at_zero(small_config: Config, tmp_path: Path) -> None:
    assert resume(tmp_path / "none", small_config) == State(0, 0)


def test_only_the_newest_are_kept(small_config: Config, tmp_path: Path) -> None:
    save(tmp_path, small_config, 1, 2, 10, 9, keep=2)
    assert [p.name for p in checkpoint.list_steps(tmp_path)] == ["step-00000009", "step-00000010"]


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_cut_in_half_is_refused_with_a_mend(
    small_config: Config, tmp_path: Path, name: str
) -> None:
    save(tmp_path, small_config, 3)
    file = save(tmp_path, small_config, 4) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        LatentcastError, match=r"delete .*step-00000004 to resume from step-00000003"
    ):
        resume(tmp_path, small_config)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(small_config: Config, tmp_path: Path, name: str) -> None:
    (save(tmp_path, small_config, 4) / name).unlink()
    with pytest.raises(LatentcastError, match="to start over"):
        resume(tmp_path, small_config)


def test_one_flipped_bit_is_noticed(small_config: Config, tmp_path: Path) -> None:
    file = save(tmp_path, small_config, 4) / FILES[0]
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(LatentcastError, match=r"\.safetensors: is damaged"):
        resume(tmp_path, small_config)


def test_another_configuration_is_refused_with_the_differing_keys(
    small_config: Config, tmp_path: Path
) -> None:
    save(tmp_path, small_config, 4)
    with pytest.raises(LatentcastError, match=r"optimizer\.lr is 0\.5 here, 0\.001 there"):
        resume(tmp_path, small_config.updated({"optimizer.lr": 0.5}))


def test_a_save_cut_by_a_kill_leaves_the_former_one_good(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, small_config, 3)
    monkeypatch.setattr(checkpoint, "_moments", lambda optimizer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, small_config, 4)
    monkeypatch.undo()
    assert list(tmp_path.glob(".draft-*"))  # what the kill left behind
    assert resume(tmp_path, small_config) == State(3, 1)
    assert not list(tmp_path.glob(".draft-*"))


def test_a_full_disk_is_a_sentence_and_the_former_checkpoint_stays(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, small_config, 3)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files.HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(LatentcastError, match="No space left on device.*free space"):
        save(tmp_path, small_config, 4)
    monkeypatch.undo()
    assert resume(tmp_path, small_config) == State(3, 1)


def test_a_kill_while_old_ones_are_removed_leaves_no_half_checkpoint(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, small_config, 1, 2)
    monkeypatch.setattr(
        checkpoint.shutil, "rmtree", lambda path, **_: (path / "state.json").unlink(missing_ok=True)
    )
    save(tmp_path, small_config, 3, keep=2)
    assert [p.name for p in checkpoint.list_steps(tmp_path)] == ["step-00000002", "step-00000003"]


def change_normalisation(record: dict[str, Any]) -> None:
    record["config"]["input"]["clip"] = 0.1


def link_out(record: dict[str, Any]) -> None:
    record["sha256"]["../elsewhere"] = record["sha256"].pop(FILES[0])


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "normalisation": (change_normalisation, "was changed"),
    "step": (lambda r: r.update(step=3), "was changed"),
    "no digest": (lambda r: r.pop("digest"), "has no digest"),
    "no checksums": (lambda r: (r.update(sha256={}), r.pop("digest")), "has no digest"),
    "no checksums, of before": (lambda r: r.update(format=2, sha256={}), "is empty"),
    "a file less, of before": (lambda r: (r.update(format=2), r["sha256"].pop(FILES[0])),
                               "without a checksum"),
    "a name of another folder, of before": (lambda r: (r.update(format=2), link_out(r)),
                                            "elsewhere|without a checksum"),
    "no number, of before": (lambda r: r.update(format=2, step="4"), "no counts"),
    "NaN, of before": (lambda r: r.update(format=2, scale=float("nan")), "no positive number"),
    "another version": (lambda r: r.update(format=4), "this version reads 3"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_record_that_was_edited_is_loaded(
    small_config: Config, tmp_path: Path, edit: str
) -> None:
    change, reason = EDITS[edit]
    file = save(tmp_path, small_config, 4) / "state.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    with pytest.raises(LatentcastError, match=reason):
        resume(tmp_path, small_config)


@pytest.mark.parametrize("text", ["[1, 2]", "[" * 10**5, '{"step": 1' + "0" * 5000 + "}"])
def test_a_state_that_is_no_mapping_is_refused(
    small_config: Config, tmp_path: Path, text: str
) -> None:
    (save(tmp_path, small_config, 4) / "state.json").write_text(text)
    with pytest.raises(LatentcastError, match="is not whole"):
        resume(tmp_path, small_config)


def test_a_checkpoint_of_the_version_before_is_refused(
    small_config: Config, tmp_path: Path
) -> None:
    file = save(tmp_path, small_config, 4) / "state.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in record.items() if k != "digest"} | {"format": 2}))
    assert resume(tmp_path, small_config) == State(4, 1)


def test_weights_that_are_a_link_to_another_folder_are_followed(
    small_config: Config, tmp_path: Path
) -> None:
    file = save(tmp_path, small_config, 4) / FILES[0]
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LatentcastError, match="is a link to .*elsewhere"):
        resume(tmp_path, small_config)


def test_nothing_in_a_checkpoint_is_pickled(small_config: Config, tmp_path: Path) -> None:
    names = {f.suffix for f in save(tmp_path, small_config, 4).rglob("*") if f.is_file()}
    assert names == {".safetensors", ".json"}
