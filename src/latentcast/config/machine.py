"""Where and how a run computes, never what: a run may be resumed under other values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from latentcast.config.settings import Settings

Logger = Literal["tensorboard", "wandb", "trackio"]


def _from_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as problem:
        raise ValueError(f"{path}: {problem}") from None


class MachineConfig(Settings):
    """Devices, processes and what listens; none of it is part of what is trained."""

    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Of several ranks: a whole copy on each, or student, teacher and predictors in shards."""
    compile: bool = False
    """Compile each transformer block."""
    recompute: bool = False
    """Activation checkpointing: forget the activations of a block, make them again backward."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read batches; 0 reads in a thread of the training process."""
    stage: Annotated[Path, AfterValidator(_from_home)] | None = None
    """Folder on this node's own disk; the store's shards are copied to it first."""
    loggers: tuple[Logger, ...] = ()
