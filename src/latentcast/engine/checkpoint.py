"""Checkpoints: whole or absent, checked before use, and enough to go on bit for bit.

A checkpoint is a folder ``step-00000100/`` with ``model/`` (students and teachers) and
``optimizer/`` (moments by parameter name), written by ``torch.distributed.checkpoint`` as
safetensors, a file for each rank, and ``state.json`` (the step, the skipped steps, the checksums
of these files, the configuration, and a digest of all this). Everything else a run needs is a
function of the step. What N ranks wrote, M ranks can read.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from latentcast.config import Config, TrainConfig, differences, validated
from latentcast.engine.ranks import ALONE, Ranks
from latentcast.errors import LatentcastError
from latentcast.files import check_digest, digested, inside, read_object, sha256, sync
from latentcast.places import refuse_other_than_run

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

FORMAT = 3
"""Checkpoints of format 2 are read as well; their ``state.json`` has no digest of itself."""
STATE = "state.json"
Tensors = Literal["model", "optimizer"]


@dataclass
class State:
    """Where a run stands.

    Attributes:
        step: optimizer updates done; lr, decay and momentum are functions of it.
        skipped: updates given up because the gradient was not finite. Data is a function of
            ``step + skipped``, so a bad batch is not met again for ever.
        scale: of the loss, 1 but in fp16.
        stopped: the signal that ended the training before its last step, by name; None otherwise.
    """

    step: int = 0
    skipped: int = 0
    scale: float = 1.0
    stopped: str | None = None

    @property
    def attempt(self) -> int:
        return self.step + self.skipped


def due(step: int, config: TrainConfig) -> bool:
    """Whether there is to be a checkpoint of this step."""
    return step % config.checkpoint_every == 0 or step == config.steps


def save(
    folder: Path,
    state: State,
    model: nn.Module,
    optimizer: Optimizer,
    config: Config,
    ranks: Ranks = ALONE,
) -> Path:
    """Write ``folder/step-N`` in one rename and drop the old ones; all ranks call it.

    The newest ``train.keep_checkpoints`` stay, and those of every ``train.keep_every`` steps.

    Raises:
        LatentcastError: it cannot be written; the one before is as good as it was.
    """
    from latentcast.engine import tensor_files

    target = folder / f"step-{state.step:08d}"
    ranks.wait()  # none looks while another renames
    if target.exists():  # the same step holds the same weights and moments
        return target
    draft = folder / f".draft-{target.name}"
    try:
        if ranks.first:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        ranks.wait()
        tensor_files.write(draft / "model", model.state_dict(), ranks)
        tensor_files.write(draft / "optimizer", _moments(optimizer), ranks)
        ranks.wait()
        if ranks.first:
            _finish(draft, target, state, config)
            for old in _superseded(list_steps(folder), config.train):
                # Renamed first: a kill while files are removed must not leave half a checkpoint.
                shutil.rmtree(old.rename(folder / f".draft-{old.name}"))
    except OSError as problem:
        raise LatentcastError(
            f"{target}: cannot be written ({problem}); free space and give the same "
            "command, the run goes on from the checkpoint before"
        ) from None
    ranks.wait()
    return target


def _finish(draft: Path, target: Path, state: State, config: Config) -> None:
    files = sorted(draft.rglob("*.safetensors"))
    record = {
        "format": FORMAT,
        "step": state.step,
        "skipped": state.skipped,
        "scale": state.scale,
        "sha256": {str(file.relative_to(draft)): sha256(file) for file in files},
        "config": config.model_dump(mode="json"),
    }
    (draft / STATE).write_text(json.dumps(digested(record), indent=1), encoding="utf-8")
    for path in (*draft.rglob("*"), draft):
        sync(path)
    draft.rename(target)
    sync(target.parent)


def _superseded(steps: list[Path], config: TrainConfig) -> list[Path]:
    def permanent(step: Path) -> bool:
        every = config.keep_every
        return every is not None and step_of(step) % every == 0

    return [step for step in steps[: -config.keep_checkpoints] if not permanent(step)]


def list_steps(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    steps = folder.glob("step-*") if folder.is_dir() else ()
    return sorted(step for step in steps if re.fullmatch("step-[0-9]+", step.name))


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint, by the name of its folder."""
    return int(checkpoint.name.removeprefix("step-"))


def latest(folder: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        LatentcastError: there is none.
    """
    steps = list_steps(folder)
    if not steps:
        raise LatentcastError(f"{folder}: holds no checkpoint; train the run first")
    return steps[-1]


def of_step(folder: Path, step: int) -> Path:
    """The checkpoint of a step.

    Raises:
        LatentcastError: it is gone.
    """
    for path in list_steps(folder):
        if step_of(path) == step:
            return path
    raise LatentcastError(f"{folder}: has no checkpoint of step {step}; restore it from a copy")


def checkpoint_of(run: Path) -> Path:
    """The newest checkpoint of a run; or, named as ``RUN/checkpoints/step-N``, one itself.

    Raises:
        LatentcastError: there is none.
    """
    if (run / STATE).is_file():
        return run
    refuse_other_than_run(run)
    return latest(run / "checkpoints")


def resume(
    folder: Path, model: nn.Module, optimizer: Optimizer, config: Config, ranks: Ranks = ALONE
) -> State:
    """Continue from the newest checkpoint, or from nothing when there is none.

    Raises:
        LatentcastError: the checkpoint is damaged, or was written by another configuration (the
            differing keys are named). It never starts over silently.
    """
    if ranks.first:
        _clear_drafts(folder)
    if not list_steps(folder):
        return State()
    checkpoint = latest(folder)
    record = read_record(checkpoint)
    theirs = config_of(checkpoint, record)
    if differing := differences(config.as_of(record["step"]), theirs):
        raise LatentcastError(
            f"{checkpoint}: was written by another configuration ("
            + "; ".join(differing)
            + "); repeat the settings of its state.json, or choose another --out"
        )
    load(checkpoint, "model", model.state_dict())
    load(checkpoint, "optimizer", _moments(optimizer, of=_names(checkpoint, "optimizer")))
    return State(record["step"], record["skipped"], record["scale"])


def _clear_drafts(folder: Path) -> None:
    """Remove what a save or a removal left that a kill interrupted."""
    try:
        for draft in folder.glob(".draft-*") if folder.is_dir() else ():
            shutil.rmtree(draft)
    except OSError as problem:
        raise LatentcastError(
            f"{folder}: cannot be written ({problem}); make it writable and give the same command"
        ) from None


def read_record(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint, after it and its tensor files proved to be what was written.

    Raises:
        LatentcastError: one is damaged, missing, or of another version.
    """
    try:
        record = read_object(_inside(checkpoint, STATE))
        if record.get("format") not in (2, FORMAT):
            raise LatentcastError(
                f"{checkpoint / STATE}: format is {record.get('format')!r}, this version reads "
                f"{FORMAT}; use the latentcast version that wrote it"
            )
        if record["format"] == FORMAT:
            check_digest(record)
        _check(record)
        files = {str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*.safetensors")}
        if different := files ^ record["sha256"].keys():
            raise ValueError(f"{min(different)} is not there, or without a checksum")
        for name, expected in record["sha256"].items():
            if sha256(_inside(checkpoint, name)) != expected:
                raise LatentcastError(
                    f"{checkpoint / name}: is damaged (checksum); " + _fallback(checkpoint)
                )
    except (OSError, ValueError) as problem:
        raise LatentcastError(
            f"{checkpoint}: is not whole ({problem}); " + _fallback(checkpoint)
        ) from None
    return record


def _inside(checkpoint: Path, name: str) -> Path:
    try:
        return inside(checkpoint, name)
    except LatentcastError as problem:
        raise ValueError(str(problem).split("; ")[0].removeprefix(f"{checkpoint}/")) from None


def _check(record: dict[str, Any]) -> None:
    """Raises ValueError: an entry is missing or of another kind, in a record without a digest."""
    numbers = [record.get(name) for name in ("step", "skipped")]
    scale, digests = record.get("scale", 0), record.get("sha256")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("step and skipped are no counts")
    if not isinstance(scale, float | int) or not (scale > 0 and math.isfinite(scale)):
        raise ValueError("scale is no positive number")
    if not isinstance(digests, dict) or not digests or not isinstance(record.get("config"), dict):
        raise ValueError("sha256 or config is empty")


def config_of(checkpoint: Path, record: dict[str, Any]) -> Config:
    """The configuration a checkpoint was written by, from its :func:`read_record`."""
    return validated(record["config"], str(checkpoint / STATE))


def load(checkpoint: Path, which: Tensors, into: dict[str, Tensor]) -> None:
    """Fill tensors, whole or in shards, in place; every rank reads its own part.

    Raises:
        LatentcastError: one is missing, of another shape, or cannot be read.
    """
    from latentcast.engine import tensor_files

    try:
        tensor_files.fill(checkpoint / which, into)
    except (OSError, ValueError, LookupError) as problem:
        raise LatentcastError(
            f"{checkpoint / which}: cannot be read ({problem}); " + _fallback(checkpoint)
        ) from None


def read_tensors(checkpoint: Path, which: Tensors) -> dict[str, Tensor]:
    """All tensors, whole, on the CPU, however many ranks wrote them.

    Raises:
        LatentcastError: they cannot be read, or declare more bytes than their files have.
    """
    found = _names(checkpoint, which)
    declared = sum(meta.size.numel() * meta.properties.dtype.itemsize for meta in found.values())
    size = sum(file.stat().st_size for file in (checkpoint / which).glob("*.safetensors"))
    if declared > size:
        raise LatentcastError(
            f"{checkpoint / which}: declares {declared:,} bytes of tensors and has {size:,}; "
            + _fallback(checkpoint)
        )
    tensors = {
        name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in found.items()
    }
    load(checkpoint, which, tensors)
    return tensors


def _names(checkpoint: Path, which: Tensors) -> dict[str, TensorStorageMetadata]:
    from latentcast.engine import tensor_files

    try:
        return tensor_files.described(checkpoint / which)
    except (OSError, ValueError, LookupError) as problem:
        raise LatentcastError(
            f"{checkpoint / which}: cannot be read ({problem}); " + _fallback(checkpoint)
        ) from None


def _fallback(checkpoint: Path) -> str:
    others = [step.name for step in list_steps(checkpoint.parent) if step != checkpoint]
    fallback = f"resume from {others[-1]}" if others else "start over"
    return f"delete {checkpoint} to {fallback}"


def _moments(optimizer: Optimizer, of: Iterable[str] = ()) -> dict[str, Tensor]:
    """Moments by parameter and name; with ``of``, those are made first, to be filled."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            moments = optimizer.state[parameter]
            for saved in of:
                if saved.rpartition("|")[0] == name:
                    moment = saved.rpartition("|")[2]
                    one = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    moments[moment] = one if moment == "step" else torch.zeros_like(parameter)
            tensors |= {f"{name}|{moment}": value for moment, value in moments.items()}
    return tensors
