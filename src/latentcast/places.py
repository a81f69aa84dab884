"""What lies at a path, in words: for the error about a path that is of another kind than needed."""

from __future__ import annotations

from pathlib import Path

from latentcast.archives import archive_of
from latentcast.errors import LatentcastError
from latentcast.pretrained.models import WEIGHTS, models

PICKLED = (".pth", ".pt", ".ckpt", ".pth.tar")
"""How files of ``torch.save`` end, in which public weights are passed on."""
GRAPHS = (".onnx", ".pt2")
"""How the files end that ``latentcast export`` writes for runtimes without torch."""
_OF_A_RUN = ("environment.json", "metrics.jsonl", "checkpoints")


def kind_of(path: Path) -> str:
    """Such as ``"is a store"``; by the names of files alone, nothing is opened.

    ``""`` for a path that is none of what this library writes or unpacks.
    """
    if path.is_file() and path.name.endswith(PICKLED):
        return PUBLIC
    if path.is_file() and path.suffix in GRAPHS:
        return "is a graph"
    if archive_of(path) is not None:
        return "is an archive"
    if not path.exists():
        ships = path.as_posix() in models()
        return "is a model that ships with latentcast" if ships else "does not exist"
    if path.is_file():
        return "is an exported file" if path.suffix == ".safetensors" else ""
    if is_store(path):
        return "is a store"
    if (path / WEIGHTS).is_file():
        return "is an exported model"
    if (path / "state.json").is_file():
        return "is a checkpoint"
    if (path / "config.yaml").is_file() and any((path / part).exists() for part in _OF_A_RUN):
        return "is a run"
    if path.name == "checkpoints" or next(path.glob("step-*/state.json"), None) is not None:
        return "is the folder of the checkpoints of a run"
    return ""


def is_store(folder: Path) -> bool:
    """Whether it is a finished store, sound or not."""
    return all((folder / name).is_file() for name in ("manifest.json", "index.npz"))


PUBLIC = "is a file of public weights"
MODELS = (
    "is an exported file", "is an exported model", "is a model that ships with latentcast", PUBLIC,
)  # fmt: skip
"""Weights and their configuration, without the log and the checkpoints of their run."""


def holds_weights(path: Path) -> bool:
    """Whether it is something that ``Encoder.from_pretrained`` reads: a model, a run or one of its
    checkpoints."""
    return kind_of(path) in (*MODELS, "is a run", "is a checkpoint")


def refuse_graph(path: Path) -> None:
    """Raises LatentcastError: a graph, of which the weights and the preprocessing are code."""
    if kind_of(path) == "is a graph":
        raise LatentcastError(
            f"{path}: is a graph, which runs by itself (docs/graphs.md); name the run or the "
            "exported weights that it was made of"
        )


def refuse_model(path: Path, advice: str) -> None:
    """Raises LatentcastError: there is a model where the verb reads what only a run has.

    Args:
        advice: which verbs do something with it, ``{}`` where its path belongs.
    """
    refuse_graph(path)
    if (kind := kind_of(path)) in MODELS:
        raise LatentcastError(f"{path}: {kind}, {advice.replace('{}', str(path))}")


def refuse_other_than_run(path: Path) -> None:
    """Raises LatentcastError: the path is neither a run, damaged or not, nor a checkpoint."""
    kind = kind_of(path)
    if kind == "" and not any((path / part).exists() for part in ("config.yaml", *_OF_A_RUN)):
        kind = "is no run"
    if kind in ("", "is a run", "is a checkpoint"):
        return
    if "checkpoints" in kind:
        raise LatentcastError(f"{path}: {kind}; name the run, {path.parent}")
    raise LatentcastError(f"{path}: {kind}; name the folder of a run, or a checkpoint in it")
