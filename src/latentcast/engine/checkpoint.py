"""Checkpoints: whole or absent, checked before use, and enough to go on bit for bit.

A checkpoint is a folder ``step-00000100/`` with ``model.safetensors`` (students and teachers),
``optimizer.safetensors`` (moments by parameter name), and ``state.json`` (the step, the skipped
steps, checksums and the configuration). Everything else a run needs is a function of the step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from latentcast.config import Config, differences, validated
from latentcast.errors import LatentcastError
from latentcast.files import sync

FORMAT = 1
_TENSOR_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass
class State:
    """Where a run stands.

    Attributes:
        step: optimizer updates done; lr, decay and momentum are functions of it.
        skipped: updates given up because the gradient was not finite. Data is a function of
            ``step + skipped``, so a bad batch is not met again for ever.
    """

    step: int = 0
    skipped: int = 0

    @property
    def attempt(self) -> int:
        return self.step + self.skipped


def save(
    folder: Path, state: State, model: nn.Module, optimizer: Optimizer, config: Config, keep: int
) -> Path:
    """Write ``folder/step-N`` in one rename and drop all but the newest ``keep``."""
    target = folder / f"step-{state.step:08d}"
    if target.exists():  # the same step holds the same weights and moments
        return target
    try:
        _write(folder, target, state, model, optimizer, config)
    except OSError as problem:
        raise LatentcastError(
            f"{target}: cannot be written ({problem}); free space and give the same command, the "
            "run goes on from the checkpoint before"
        ) from None
    for old in list_steps(folder)[:-keep]:
        # Renamed first: a kill while files are being removed must not leave half a checkpoint.
        shutil.rmtree(old.rename(folder / f".draft-{old.name}"))
    return target


def _write(
    folder: Path, target: Path, state: State, model: nn.Module, optimizer: Optimizer, config: Config
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".draft-{target.name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_file(_plain(model.state_dict()), draft / _TENSOR_FILES[0])
    save_file(_plain(_moments(optimizer)), draft / _TENSOR_FILES[1])
    record = {
        "format": FORMAT,
        "step": state.step,
        "skipped": state.skipped,
        "sha256": {name: _sha256(draft / name) for name in _TENSOR_FILES},
        "config": config.model_dump(mode="json"),
    }
    (draft / "state.json").write_text(json.dumps(record, indent=1))
    for file in draft.iterdir():
        sync(file)
    sync(draft)
    draft.rename(target)
    sync(folder)


def list_steps(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def latest(folder: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        LatentcastError: there is none.
    """
    steps = list_steps(folder)
    if not steps:
        raise LatentcastError(f"{folder}: holds no checkpoint; train the run first")
    return steps[-1]


def resume(folder: Path, model: nn.Module, optimizer: Optimizer, config: Config) -> State:
    """Continue from the newest checkpoint, or from nothing when there is none.

    Raises:
        LatentcastError: the checkpoint is damaged, or was written by another configuration (the
            differing keys are named). It never starts over silently.
    """
    for draft in folder.glob(".draft-*") if folder.is_dir() else ():
        shutil.rmtree(draft)  # a save that a kill interrupted
    if not list_steps(folder):
        return State()
    checkpoint = latest(folder)
    record = read_record(checkpoint)
    theirs = config_of(checkpoint, record)
    if differing := differences(config, theirs):
        raise LatentcastError(
            f"{checkpoint}: was written by another configuration ("
            + "; ".join(differing)
            + "); use the run's config.yaml or another --out"
        )
    model.load_state_dict(read_tensors(checkpoint, "model.safetensors"))
    _load_moments(optimizer, read_tensors(checkpoint, "optimizer.safetensors"))
    return State(record["step"], record["skipped"])


def read_record(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint, after its tensor files proved to be what was written."""
    try:
        record: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
        for name, expected in record["sha256"].items():
            if _sha256(checkpoint / name) != expected:
                raise LatentcastError(
                    f"{checkpoint / name}: is damaged (checksum); " + _mend(checkpoint)
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise LatentcastError(
            f"{checkpoint}: is not whole ({problem}); " + _mend(checkpoint)
        ) from None
    if record.get("format") != FORMAT:
        raise LatentcastError(
            f"{checkpoint}/state.json: format is {record.get('format')}, this version reads "
            f"{FORMAT}; use the latentcast version that wrote it"
        )
    return record


def config_of(checkpoint: Path, record: dict[str, Any]) -> Config:
    """The configuration a checkpoint was written by, from its :func:`read_record`."""
    return validated(record["config"], f"{checkpoint}/state.json")


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(checkpoint / name)
    except (OSError, SafetensorError) as problem:
        raise LatentcastError(
            f"{checkpoint / name}: cannot be read ({problem}); " + _mend(checkpoint)
        ) from None


def _mend(checkpoint: Path) -> str:
    others = [step.name for step in list_steps(checkpoint.parent) if step != checkpoint]
    fallback = f"resume from {others[-1]}" if others else "start over"
    return f"delete {checkpoint} to {fallback}"


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for moment, value in optimizer.state[parameter].items():
                tensors[f"{name}|{moment}"] = value
    return tensors


def _load_moments(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            optimizer.state[parameter] = {
                key.rpartition("|")[2]: value.to(parameter.device)
                for key, value in tensors.items()
                if key.rpartition("|")[0] == name
            }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
