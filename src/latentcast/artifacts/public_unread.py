"""Published ECG encoders that are known by the names of their weights and are not read, and why."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError

MODELS = {
    "ECGFounder": (
        "stage_list.0.block_list.0.se_fc1",
        "it normalises each recording by itself, takes running medians of 0.4 s off it, and its "
        "strides of 256 samples are no patches of 10 s",
    ),
    "HuBERT-ECG": (
        "feature_projection.projection",
        "a HuBERT of transformers, it reads 5 s of 12 leads end to end as one signal, so that its "
        "tokens are of no patches in time",
    ),
    "ST-MEM": (
        "encoder.lead_embeddings",
        "each lead of it has separators of its own among its tokens",
    ),
}
"""Part of a name that no other layout has, and the reason."""


def refuse_unread(file: Path, content: Mapping[Any, Any] | None) -> None:
    """Raises LatentcastError: the file is of one of these models.

    Args:
        content: parts of the file; None of a pickle that cannot be read without running code of
            it: the names are then looked for in its bytes, and nothing of it runs.
    """
    names = _in_bytes(file) if content is None else "\n".join(_names(content))
    for model, (part, reason) in MODELS.items():
        if part in names:
            raise LatentcastError(
                f"{file}: holds {model}, which is not read here ({reason}); give probe the network "
                "itself (--encoder NAME=module:function), see docs/compare.md"
            )


def _names(content: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in content.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from map(str, value)


def _in_bytes(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as parts:
            pickled = [name for name in parts.namelist() if name.endswith("data.pkl")]
            return "".join(parts.read(name).decode("latin-1") for name in pickled)
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError):
        return ""
