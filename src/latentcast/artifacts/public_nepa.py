"""NEPA weights in the public key layout (``SixAILab/nepa-*``), in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latentcast.artifacts.misfit import misfit
from latentcast.artifacts.public_layout import (
    Content,
    PublicEncoder,
    configured,
    image_input,
    refuse_other_heads,
    tensors_of,
)
from latentcast.config import Activation, EncoderConfig, Rotary
from latentcast.errors import LatentcastError, nearest
from latentcast.files import read_object, regular
from latentcast.nn.transformer import PatchEncoder
from latentcast.recipes.images import nepa_image_base

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
                parts = []
                for part in ("query", "key", "value"):
                    key = f"encoder.layer.{index}.attention.attention.{part}.{packed[1]}"
                    if key not in tensors:
                        raise LatentcastError(f"{key}: is missing; download the file again")
                    parts.append(tensors[key])
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


_SIZES = {
    "patch_size": "patch", "hidden_size": "width", "num_hidden_layers": "depth",
    "num_attention_heads": "heads", "intermediate_size": "mlp_width",
}  # fmt: skip
_SWITCHES = {
    "use_gated_mlp": "gated_mlp", "qkv_bias": "qkv_bias", "qk_norm": "qk_norm",
    "qk_norm_affine": "qk_norm_affine", "qk_norm_bias": "qk_norm_bias", "is_causal": "causal",
}  # fmt: skip
_NUMBERS = {"drop_path_prob": "drop_path", "layer_norm_eps": "norm_eps"}
_POSITIONS = {
    "rope_theta": "theta", "pos_embed_rescale": "rescale", "pos_embed_shift": "shift",
    "pos_embed_jitter": "jitter",
}  # fmt: skip
_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
DEFAULTS: dict[str, Any] = {
    "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "use_gated_mlp": False, "qkv_bias": True, "qk_norm": False,
    "qk_norm_affine": False, "qk_norm_bias": False, "is_causal": True, "drop_path_prob": 0.0,
    "layer_norm_eps": 1e-12, "rope_theta": 100.0, "pos_embed_rescale": 2.0,
    "pos_embed_shift": None, "pos_embed_jitter": None, "hidden_act": "gelu",
    "layerscale_value": 1e-5, "num_channels": 3, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
"""Of the switches that make the network, the reference's; a published file leaves those out that
have them. The others of a public configuration (``image_size``, ``initializer_range``,
``add_pooling_layer``, labels, versions) are of its head, its start or its files."""


def encoder_config(public: Mapping[str, Any]) -> EncoderConfig:
    """Our encoder configuration from a public ``config.json``.

    Absent keys have the reference's :data:`DEFAULTS`; a LayerScale of null, 0 or less means none.

    Raises:
        LatentcastError: names a key whose value this library does not have, or cannot be.
    """
    value = DEFAULTS | {key: public[key] for key in DEFAULTS.keys() & public.keys()}
    for key in (*_SWITCHES, *_DROPOUT):
        if not isinstance(value[key], bool if key in _SWITCHES else float | int):
            raise _unusable(key, value[key], f"must be like {json.dumps(DEFAULTS[key])}")
    for key in _DROPOUT:
        if value[key] != 0:
            raise _unusable(key, value[key], "dropout acts in training alone and is not built here")
    scale = value["layerscale_value"]
    if not (scale is None or isinstance(scale, float | int)):
        raise _unusable("layerscale_value", scale, "must be a number or null")
    if not isinstance(value["hidden_act"], str) or value["hidden_act"] not in _ACTIVATIONS:
        raise LatentcastError(
            f"hidden_act {value['hidden_act']}: is unknown; "
            f"{nearest(str(value['hidden_act']), _ACTIVATIONS)}"
        )
    names = _SIZES | _SWITCHES | _NUMBERS
    try:
        return EncoderConfig(
            **{ours: value[theirs] for theirs, ours in names.items()},
            activation=_ACTIVATIONS[value["hidden_act"]],
            layer_scale=scale if scale is not None and scale > 0 else None,
            positions=Rotary(**{ours: value[theirs] for theirs, ours in _POSITIONS.items()}),
        )
    except ValidationError as problem:
        first = problem.errors()[0]
        public_names = {ours: theirs for theirs, ours in (names | _POSITIONS).items()}
        places = [part for part in first["loc"] if part in public_names]
        key = public_names[str(places[-1])] if places else "hidden_size"
        reason = first["msg"].removeprefix("Value error, ")
        raise _unusable(key, value[key], reason) from None


def _unusable(key: str, value: Any, reason: str) -> LatentcastError:
    return LatentcastError(
        f"{key} {json.dumps(value)}: cannot be used ({reason}); leave it out for the reference's "
        f"{json.dumps(DEFAULTS[key])}, if the weights are of that"
    )


def load_public(folder: str | Path) -> PatchEncoder:
    """An image encoder from ``config.json`` and ``model.safetensors`` as published.

    Raises:
        LatentcastError: a file is missing or damaged, a switch is of another network, or a weight
            is missing or has another shape.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise LatentcastError(f"{folder / name}: does not exist; download it as well")
    try:
        public = read_object(folder / "config.json")
        weights = from_public(load_file(regular(folder / "model.safetensors")))
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise LatentcastError(f"{folder}: cannot be read ({problem}); download it again") from None
    try:
        config = encoder_config(public)
    except LatentcastError as problem:
        raise LatentcastError(f"{folder / 'config.json'}: {problem}") from None
    channels = public.get("num_channels", DEFAULTS["num_channels"])
    if not isinstance(channels, int) or channels < 1:
        raise LatentcastError(
            f"{folder / 'config.json'}: "
            + str(_unusable("num_channels", channels, "must be a number of colours"))
        )
    layers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    different = f"num_hidden_layers {config.depth}, and there are {len(layers)}"
    if len(layers) == config.depth:  # no number of a damaged file is built
        different = misfit(lambda: PatchEncoder(config, channels, axes=2), weights)
    if different:
        raise LatentcastError(
            f"{folder / 'model.safetensors'}: does not fit config.json ({different}); "
            "check that both files are of the same model"
        )
    encoder = PatchEncoder(config, channels, axes=2)
    encoder.load_state_dict(weights)
    return encoder


REMARKS = (
    "NEPA, read from published files. Images are read as ImageNet's are: the largest middle "
    "square, bicubic, normalised by ImageNet's mean and standard deviation. The licence of the "
    "weights is for you to look up."
)


def read(file: Path, content: Content, heads: int | None = None) -> PublicEncoder | None:
    """The encoder with the input that its ``config.json`` names; None where the file is of another
    layout.

    Raises:
        LatentcastError: other heads than its own, or what :func:`load_public` refuses.
    """
    tensors = tensors_of(content, "model") or {}
    own = {name.removeprefix(_PREFIX) for name in tensors}
    if "embeddings.cls_token" not in own or _TOP["patches.weight"] not in own:
        return None
    encoder = load_public(file.parent)
    refuse_other_heads(file, heads, encoder.config.heads)
    side = (content.get("config") or {}).get("image_size", 224)
    if not isinstance(side, int) or side < 1:
        raise LatentcastError(f"{file.parent / 'config.json'}: image_size {side}: is no size")
    weights = dict(encoder.state_dict())
    shape = image_input(side, weights["patches.weight"].shape[1])
    config = configured(file, nepa_image_base(), "nepa-public", shape, encoder.config)
    return PublicEncoder(config, weights, REMARKS)
