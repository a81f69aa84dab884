"""What every layout of public weights gives: an encoder with the configuration it is read by."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentcast.config import Config, ImageInput, validated
from latentcast.config.settings import Settings
from latentcast.errors import LatentcastError
from latentcast.files import regular

BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}
"""The parts of a transformer block as timm names them, and as they are named here."""
Content = Mapping[str, Any]
"""The parts of a ``.pth``; of safetensors ``model``, its tensors, and ``config``, the content of
the ``config.json`` beside it, or None."""


@dataclass(frozen=True)
class PublicEncoder:
    """An encoder that was trained elsewhere.

    Attributes:
        config: its input and network; the objective is of the same kind as its own, and its
            settings and those of the training are a recipe's.
        tensors: of the encoder, by their names in it.
        remarks: what a reader of the card has to know: where input and settings are from.
    """

    config: Config
    tensors: dict[str, Tensor]
    remarks: str


def image_input(side: int, channels: int) -> ImageInput:
    """Square images as ImageNet's are read; of others than three colours nothing is known."""
    shape = ImageInput(height=side, width=side)
    unknown = {"channels": channels, "normalisation": None}
    return shape if channels == shape.channels else shape.model_copy(update=unknown)


def configured(file: Path, base: Config, name: str, shape: Settings, encoder: Settings) -> Config:
    """A recipe with another input and encoder.

    Raises:
        LatentcastError: they do not fit together.
    """
    parts = {"recipe": name, "input": shape.model_dump(), "encoder": encoder.model_dump()}
    return validated(base.model_dump() | parts, str(file))


def read_pickled(file: Path) -> Content:
    """The parts of a file of ``torch.save``; nothing in it runs.

    Raises:
        LatentcastError: it is damaged, or holds more than tensors, numbers and text.
    """
    try:
        content = torch.load(regular(file), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as problem:
        reason = str(problem).splitlines()[0]
        raise LatentcastError(
            f"{file}: cannot be read without running code of it ({reason}); download it again, or "
            "convert its tensors to safetensors"
        ) from None
    return content if isinstance(content, dict) else {}


def tensors_of(content: Content, part: str) -> dict[str, Tensor] | None:
    """The tensors of a part; None where it is missing or holds anything else."""
    found = content.get(part)
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        return None
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def renamed(
    file: Path,
    tensors: Mapping[str, Tensor],
    blocks: str,
    top: Mapping[str, str],
    exact: Mapping[str, str],
) -> dict[str, Tensor]:
    """Tensors of an encoder under our names.

    Args:
        blocks: what stands before the number of a block.
        top: modules outside of the blocks.
        exact: whole names, outside and inside of blocks.

    Raises:
        LatentcastError: a name that is none of these.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(rf"{re.escape(blocks)}\.(\d+)\.(.+)", name)
        start, inner = (f"blocks.{block[1]}.", block[2]) if block else ("", name)
        where, _, kind = inner.rpartition(".")
        parts = BLOCK if block else top
        if inner not in exact and where not in parts:
            raise LatentcastError(f"{file}: {name} is no weight of it; check the file's layout")
        ours[start + exact.get(inner, f"{parts.get(where)}.{kind}")] = tensor
    return ours


def depth_of(weights: Mapping[str, Tensor]) -> int:
    """Blocks of an encoder."""
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def mlp_width_of(file: Path, weights: Mapping[str, Tensor]) -> int:
    """Hidden width of its blocks. Raises LatentcastError: it has none."""
    if "blocks.0.mlp.up.weight" not in weights:
        raise LatentcastError(f"{file}: has no first block; save all of the encoder")
    return len(weights["blocks.0.mlp.up.weight"])


def published_heads(file: Path, width: int, heads: int | None, published: int | None) -> int:
    """Heads of the attention, which follow from no weight.

    Raises:
        LatentcastError: others than those that were published, or of an unpublished width none.
    """
    found = heads or published or 0
    if found < 1 or found != (published or found) or width % found:
        raise LatentcastError(
            f"{file}: heads {found or None} of width {width} are no published model's; give "
            f"heads={published or 'N, those it was trained with'}"
        )
    return found


def refuse_other_heads(file: Path, heads: int | None, own: int) -> None:
    """Raises LatentcastError: other heads than those that the settings of a file name."""
    if heads not in (None, own):
        raise LatentcastError(f"{file}: heads {heads}: were {own}; leave heads out")
