"""NEPA weights in the public key layout (``SixAILab/nepa-*``), in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from latentcast.config import Activation, EncoderConfig, Rotary
from latentcast.errors import LatentcastError, nearest
from latentcast.nn.transformer import PatchEncoder

_TOP = {
    "cls": "embeddings.cls_token",
    "patches.weight": "embeddings.patch_embeddings.projection.weight",
    "patches.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_LAYER = {
    "norm1": "layernorm_before",
    "attention.proj": "attention.output.dense",
    "attention.q_norm": "attention.attention.q_norm",
    "attention.k_norm": "attention.attention.k_norm",
    "scale1.gain": "layer_scale.lambda1",
    "norm2": "layernorm_after",
    "mlp.up": "intermediate.up_proj",
    "mlp.gate": "intermediate.gate_proj",
    "mlp.down": "output.dense",
    "scale2.gain": "output.layer_scale.lambda1",
}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu",
}  # fmt: skip
_PREFIX = "vit_nepa."
_NOT_THE_ENCODER = ("classifier.", "fc_norm.", "pooler.", "embeddings.mask_token")


def to_public(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder weights under the public names, without the ``vit_nepa.`` prefix.

    Works for anything shaped like the weights, gradients included; the packed q, k, v are split.
    """
    public: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name in _TOP:
            public[_TOP[name]] = tensor
            continue
        _, index, inner = name.split(".", 2)
        layer = f"encoder.layer.{index}."
        if inner.startswith("attention.qkv."):
            kind = inner.rpartition(".")[2]
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                public[f"{layer}attention.attention.{part}.{kind}"] = piece
        else:
            ours = next(key for key in _LAYER if inner == key or inner.startswith(key + "."))
            public[layer + _LAYER[ours] + inner.removeprefix(ours)] = tensor
    return public


def from_public(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Public weights under our names; heads and the mask token are left out, prefixes
    removed.

    Raises:
        LatentcastError: a key that is part of no NEPA encoder.
    """
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    top = {theirs: ours for ours, theirs in _TOP.items()}
    # The longest public name first: "output.layer_scale.lambda1" before "output.dense".
    layer = sorted(((theirs, ours) for ours, theirs in _LAYER.items()), key=lambda p: -len(p[0]))
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in top:
            weights[top[name]] = tensor
        elif match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", name):
            index, inner = match.groups()
            if packed := re.fullmatch(r"attention\.attention\.query\.(weight|bias)", inner):
                parts = [
                    tensors[f"encoder.layer.{index}.attention.attention.{part}.{packed[1]}"]
                    for part in ("query", "key", "value")
                ]
                weights[f"blocks.{index}.attention.qkv.{packed[1]}"] = torch.cat(parts)
            elif not re.fullmatch(r"attention\.attention\.(key|value)\.(weight|bias)", inner):
                found = [(t, o) for t, o in layer if inner == t or inner.startswith(t + ".")]
                if not found:
                    raise LatentcastError(f"{name}: is not a NEPA weight; check the file's layout")
                theirs, ours = found[0]
                weights[f"blocks.{index}.{ours}{inner.removeprefix(theirs)}"] = tensor
        elif not name.startswith(_NOT_THE_ENCODER):
            raise LatentcastError(f"{name}: is not a NEPA weight; check the file's layout")
    return weights


def encoder_config(public: Mapping[str, Any]) -> EncoderConfig:
    """Our encoder configuration from a public ``config.json``.

    Defaults of absent keys are the reference's; a LayerScale of 0 or less means none.

    Raises:
        LatentcastError: an activation this library does not have.
    """
    activation = public.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise LatentcastError(
            f"hidden_act {activation}: is unknown; {nearest(activation, _ACTIVATIONS)}"
        )
    layer_scale = public.get("layerscale_value", 1e-5)
    return EncoderConfig(
        patch=public["patch_size"],
        width=public["hidden_size"],
        depth=public["num_hidden_layers"],
        heads=public["num_attention_heads"],
        mlp_width=public["intermediate_size"],
        gated_mlp=public.get("use_gated_mlp", False),
        activation=_ACTIVATIONS[activation],
        qkv_bias=public.get("qkv_bias", True),
        qk_norm=public.get("qk_norm", False),
        qk_norm_affine=public.get("qk_norm_affine", False),
        qk_norm_bias=public.get("qk_norm_bias", False),
        layer_scale=layer_scale if layer_scale > 0 else None,
        drop_path=public.get("drop_path_prob", 0.0),
        norm_eps=public.get("layer_norm_eps", 1e-12),
        causal=public.get("is_causal", True),
        positions=Rotary(
            theta=public.get("rope_theta", 100.0),
            rescale=public.get("pos_embed_rescale", 2.0),
            shift=public.get("pos_embed_shift"),
            jitter=public.get("pos_embed_jitter"),
        ),
    )


def load_public(folder: str | Path) -> PatchEncoder:
    """An image encoder from ``config.json`` and ``model.safetensors`` as published.

    Raises:
        LatentcastError: a file is missing, or a weight is missing or has another shape.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise LatentcastError(f"{folder / name}: does not exist; download it as well")
    public = json.loads((folder / "config.json").read_text())
    encoder = PatchEncoder(encoder_config(public), public.get("num_channels", 3), axes=2)
    try:
        encoder.load_state_dict(from_public(load_file(folder / "model.safetensors")))
    except RuntimeError as problem:
        raise LatentcastError(
            f"{folder / 'model.safetensors'}: does not fit config.json ({problem}); "
            "check that both files are of the same model"
        ) from None
    return encoder
