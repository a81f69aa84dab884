"""I-JEPA weights in the public key layouts, in and out: the original's and the transformers one.

The original's keys are those of ``facebookresearch/ijepa`` with or without ``module.``. Its files
(``.pth``, ``.pth.tar``) hold ``encoder``, ``target_encoder`` and ``predictor``; they are read with
``weights_only=True``, which builds tensors and numbers and runs nothing of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentcast.artifacts.misfit import misfit
from latentcast.artifacts.public_layout import (
    BLOCK,
    Content,
    PublicEncoder,
    configured,
    depth_of,
    image_input,
    published_heads,
    read_pickled,
    tensors_of,
)
from latentcast.config import EncoderConfig, SinCos
from latentcast.errors import LatentcastError
from latentcast.files import regular
from latentcast.nn.positions import sincos
from latentcast.nn.transformer import PatchEncoder
from latentcast.places import PICKLED
from latentcast.recipes.images import ijepa_image_huge

SIDE = 224
"""Pixels, of a file without a table of positions."""
REMARKS = (
    "I-JEPA (Assran et al. 2023), read from a published file. Images are read as ImageNet's are: "
    "the largest middle square, bicubic, normalised by ImageNet's mean and standard deviation. The "
    "licence of the weights is for you to look up."
)
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
"""Heads by width, of the networks that the original defines."""
_ENCODER = {"patch_embed.proj": "patches", "norm": "norm"}
_PREDICTOR = {"predictor_embed": "embed", "predictor_norm": "norm", "predictor_proj": "proj"}
_TRANSFORMERS = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm": "norm",
}


def encoder_from_public(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's weights under our names; the fixed positions are checked and left out.

    Raises:
        LatentcastError: a key of no I-JEPA encoder, or positions that are not the fixed ones.
    """
    return _in(tensors, _ENCODER, "blocks", "pos_embed")


def predictor_from_public(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`encoder_from_public` for a predictor."""
    return _in(tensors, _PREDICTOR, "predictor_blocks", "predictor_pos_embed")


def encoder_to_public(
    weights: Mapping[str, Tensor], grid: tuple[int, ...] | None = None
) -> dict[str, Tensor]:
    """Our encoder weights under the original's names, and, with ``grid``, its positions."""
    return _out(weights, _ENCODER, "blocks", "pos_embed", grid)


def predictor_to_public(
    weights: Mapping[str, Tensor], grid: tuple[int, ...] | None = None
) -> dict[str, Tensor]:
    """:func:`encoder_to_public` for a predictor."""
    return _out(weights, _PREDICTOR, "predictor_blocks", "predictor_pos_embed", grid)


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a ``transformers`` I-JEPA under the original's names; q, k, v are packed.

    Raises:
        LatentcastError: a key of no I-JEPA.
    """
    tensors = {name.removeprefix("ijepa."): tensor for name, tensor in tensors.items()}
    public: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        where, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", where)
        index, part = (f"blocks.{layer[1]}.", layer[2]) if layer else ("", where)
        if name == "embeddings.position_embeddings":
            public["pos_embed"] = tensor
        elif part in _TRANSFORMERS:
            public[f"{index}{_TRANSFORMERS[part]}.{kind}"] = tensor
        elif part == "attention.attention.query":
            for p in ("key", "value"):
                if (other := name.replace(".query.", f".{p}.")) not in tensors:
                    raise LatentcastError(f"{other}: is missing; download the file again")
            three = [tensors[name.replace(".query.", f".{p}.")] for p in ("query", "key", "value")]
            public[f"{index}attn.qkv.{kind}"] = torch.cat(three)
        elif part not in ("attention.attention.key", "attention.attention.value"):
            raise LatentcastError(f"{name}: is not an I-JEPA weight; check the file's layout")
    return public


def to_transformers(public: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's names to those of ``transformers``; q, k, v are split."""
    theirs = {ours: name for name, ours in _TRANSFORMERS.items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in public.items():
        where, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"blocks\.(\d+)\.(.+)", where)
        index, part = (f"encoder.layer.{layer[1]}.", layer[2]) if layer else ("", where)
        if name == "pos_embed":
            renamed["embeddings.position_embeddings"] = tensor
        elif part == "attn.qkv":
            for piece, split in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{index}attention.attention.{piece}.{kind}"] = split
        else:
            renamed[f"{index}{theirs[part]}.{kind}"] = tensor
    return renamed


def load_public(
    file: str | Path, heads: int | None = None, part: str = "target_encoder"
) -> PatchEncoder:
    """An image encoder from a ``safetensors`` file in either layout, or the original's ``.pth``.

    Args:
        heads: of the attention, which follow from no weight; by default, and of a width that was
            published in no other way, those of that model (:data:`HEADS`).
        part: of a ``.pth``: ``target_encoder``, the averaged weights, or ``encoder``.

    Raises:
        LatentcastError: the file cannot be read, or holds another network.
    """
    file = Path(file)
    tensors = _part_of(file, part) if file.name.endswith(PICKLED) else _read_safetensors(file)
    return encoder_of(file, tensors, heads)


def encoder_of(file: Path, tensors: dict[str, Tensor], heads: int | None = None) -> PatchEncoder:
    """:func:`load_public` of the tensors of a file."""
    if any(name.endswith("embeddings.position_embeddings") for name in tensors):
        tensors = from_transformers(tensors)
    weights = encoder_from_public(tensors)
    if "patches.weight" not in weights or "blocks.0.mlp.up.weight" not in weights:
        raise LatentcastError(f"{file}: is no I-JEPA encoder; check which part was saved")
    kernel, layers = weights["patches.weight"], weights["blocks.0.mlp.up.weight"]
    heads = published_heads(file, len(kernel), heads, HEADS.get(len(kernel)))
    if kernel.ndim != 4 or len(kernel) % heads:
        raise LatentcastError(
            f"{file}: has patches of shape {tuple(kernel.shape)}, which are none of {heads} heads; "
            "give the heads of the model it is of, and the file of its encoder"
        )
    width, channels, patch, _ = kernel.shape
    config = encoder_config(patch, width, depth_of(weights), heads, len(layers))
    if different := misfit(lambda: PatchEncoder(config, channels, axes=2), weights):
        raise LatentcastError(
            f"{file}: is an incomplete I-JEPA encoder ({different}); save all of it"
        )
    encoder = PatchEncoder(config, channels, axes=2)
    encoder.load_state_dict(weights)
    return encoder


def read(file: Path, content: Content, heads: int | None = None) -> PublicEncoder | None:
    """The encoder with the input that it was published with; None where the file is of another
    layout. Arguments and errors are those of :func:`load_public`."""
    tensors = tensors_of(content, "target_encoder") or tensors_of(content, "model") or {}
    kernel = tensors.get("patch_embed.proj.weight")
    table = tensors.get("pos_embed")
    for name, tensor in tensors.items():
        if name.endswith("embeddings.position_embeddings"):
            kernel = table = tensor
    if kernel is None or (kernel.ndim == 3 and kernel is not table):
        return None
    settings = content.get("config") or {}
    encoder = encoder_of(file, tensors, heads or settings.get("num_attention_heads"))
    patch = encoder.config.patch
    side = patch * math.isqrt(table.shape[1]) if table is not None and table.ndim == 3 else SIDE
    weights = dict(encoder.state_dict())
    shape = image_input(side, weights["patches.weight"].shape[1])
    config = configured(file, ijepa_image_huge(), "ijepa-public", shape, encoder.config)
    return PublicEncoder(config, weights, REMARKS)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(regular(file))
    except (OSError, SafetensorError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); give safetensors") from None


def _part_of(file: Path, part: str) -> dict[str, Tensor]:
    """Raises LatentcastError: it is damaged, holds more than tensors, or has no such part."""
    content = read_pickled(file)
    tensors = tensors_of(content, part)
    if tensors is None:
        raise LatentcastError(
            f"{file}: has no part {part} of tensors, its parts are: "
            f"{', '.join(map(str, content)) or 'none'}; give part='encoder' or 'target_encoder', "
            "of which one has to be there"
        )
    return tensors


def encoder_config(
    patch: int, width: int, depth: int, heads: int, mlp_width: int, norm_eps: float = 1e-6
) -> EncoderConfig:
    """An encoder of the published kind: no CLS, QK-norm or LayerScale, fixed positions."""
    return EncoderConfig(
        patch=patch, width=width, depth=depth, heads=heads, mlp_width=mlp_width, qk_norm=False,
        layer_scale=None, norm_eps=norm_eps, causal=False, cls=False, positions=SinCos(),
    )  # fmt: skip


def _in(
    tensors: Mapping[str, Tensor], top: Mapping[str, str], blocks: str, positions: str
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("module.")
        where, _, kind = name.rpartition(".")
        block = re.fullmatch(rf"{blocks}\.(\d+)\.(.+)", where)
        if name == positions:
            _check_positions(full, tensor)
        elif name == "mask_token":
            weights[name] = tensor
        elif block and block[2] in BLOCK:
            weights[f"blocks.{block[1]}.{BLOCK[block[2]]}.{kind}"] = tensor
        elif where in top:
            weights[f"{top[where]}.{kind}"] = tensor
        else:
            raise LatentcastError(f"{full}: is not an I-JEPA weight; check the file's layout")
    return weights


def _out(
    weights: Mapping[str, Tensor],
    top: Mapping[str, str],
    blocks: str,
    positions: str,
    grid: tuple[int, ...] | None,
) -> dict[str, Tensor]:
    top = {ours: theirs for theirs, ours in top.items()}
    block = {ours: theirs for theirs, ours in BLOCK.items()}
    public: dict[str, Tensor] = {}
    width = 0
    for name, tensor in weights.items():
        where, _, kind = name.rpartition(".")
        inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", where)
        if name == "mask_token":
            public[name] = tensor
        elif inside:
            public[f"{blocks}.{inside[1]}.{block[inside[2]]}.{kind}"] = tensor
        else:
            public[f"{top[where]}.{kind}"] = tensor
        width = len(tensor) if name == "norm.weight" else width
    if grid is not None:
        table = sincos(grid, width, torch.device("cpu"), torch.float32)
        public[positions] = table.unsqueeze(0).clone()
    return public


def _check_positions(name: str, tensor: Tensor) -> None:
    """Square grids, as published; another table would silently be another network."""
    if tensor.ndim != 3 or not tensor.numel() or tensor.shape[2] % 4:
        raise LatentcastError(f"{name}: is {tuple(tensor.shape)}, no table of positions")
    side = math.isqrt(tensor.shape[1])
    expected = sincos((side, side), tensor.shape[2], torch.device("cpu"), torch.float32)
    if side**2 != tensor.shape[1] or not torch.allclose(
        tensor[0].float(), expected, rtol=0, atol=1e-5
    ):
        raise LatentcastError(
            f"{name}: is not I-JEPA's fixed sine-cosine table of a square grid; "
            "weights with other positions cannot be loaded"
        )
