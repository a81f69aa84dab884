"""One plain file for everybody else: all weights, and the configuration beside them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentcast.config import Config, validated
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.files import apart, replacing

FORMAT = "1"
SUFFIX = ".safetensors"


def export(run: Path, file: Path) -> int:
    """Write the newest checkpoint of a run as one safetensors file, however many ranks saved it.

    Student, teacher and predictors under the names they have in the objective; in the metadata
    ``config`` (JSON, with the normalisation of the training split), ``step`` and ``format``.
    ``Encoder.from_pretrained(file)`` reads it, and so does anything that reads safetensors.

    Returns:
        optimizer steps of the weights.

    Raises:
        LatentcastError: no checkpoint, a damaged one, a file of another suffix or inside of the
            run, or it cannot be written.
    """
    apart(file, run=run)
    if file.suffix != SUFFIX or file.is_dir():
        raise LatentcastError(
            f"{file}: what is written is one {SUFFIX} file; name it {file.resolve().stem}{SUFFIX}"
        )
    newest = checkpoint.latest(run / "checkpoints")
    record = checkpoint.read_record(newest)
    tensors = checkpoint.read_tensors(newest, "model")
    about = {"format": FORMAT, "step": str(record["step"]), "config": json.dumps(record["config"])}
    try:
        with replacing(file) as draft:
            save_file(tensors, draft, metadata=about)
    except (OSError, SafetensorError) as problem:
        raise LatentcastError(
            f"{file}: cannot be written ({problem}); free space or name another file"
        ) from None
    return int(record["step"])


def read_export(file: Path) -> tuple[dict[str, Tensor], Config, int]:
    """Weights, configuration and step of an exported file.

    Raises:
        LatentcastError: it is damaged, or was not written by :func:`export`.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            about = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); export the run again") from None
    if about.get("format") != FORMAT or not {"step", "config"} <= about.keys():
        raise LatentcastError(
            f"{file}: was not written by latentcast export; public weights are read by "
            "latentcast.artifacts.public_ijepa and public_nepa"
        )
    return tensors, validated(json.loads(about["config"]), str(file)), int(about["step"])
