"""Weights in the layouts of others, compared with tables of their names written out here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from latentcast.artifacts import public_ijepa, public_nepa
from latentcast.config import EncoderConfig, SinCos
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, greatest, none, true
from latentcast.verification.observe.config import has_linear_patches
from latentcast.verification.observe.nepa import is_nepa
from latentcast.verification.observe.network import finest, stirred
from latentcast.verification.observe.recordings import is_ecg
from latentcast.verification.observe.rehearsal import differing
from latentcast.verification.observe.twin import Twin

_NEPA = {
    "cls": "embeddings.cls_token",
    "patches": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.proj": "attention.output.dense",
    "attention.q_norm": "attention.attention.q_norm",
    "attention.k_norm": "attention.attention.k_norm",
    "scale1.gain": "layer_scale.lambda1",
    "scale2.gain": "output.layer_scale.lambda1",
    "mlp.up": "intermediate.up_proj",
    "mlp.gate": "intermediate.gate_proj",
    "mlp.down": "output.dense",
}
_IJEPA = {
    "patches": "patch_embed.proj", "norm": "norm", "norm1": "norm1", "norm2": "norm2",
    "attention.qkv": "attn.qkv", "attention.proj": "attn.proj", "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2", "embed": "predictor_embed", "proj": "predictor_proj",
}  # fmt: skip


_PREDICTOR = _IJEPA | {"mask_token": "mask_token", "norm": "predictor_norm"}


def _expected(
    weights: Mapping[str, Tensor], names: Mapping[str, str], blocks: str
) -> dict[str, Tensor]:
    """The weights by the names of a table; where it has none for qkv, in thirds."""
    expected: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        block = re.match(r"blocks\.(\d+)\.(.*)", name)
        where, rest = (f"{blocks}.{block[1]}.", block[2]) if block else ("", name)
        part, _, kind = rest.rpartition(".")
        if rest in names:
            expected[where + names[rest]] = tensor
        elif part == "attention.qkv" and part not in names:
            for of, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                expected[f"{where}attention.attention.{of}.{kind}"] = third
        else:
            expected[f"{where}{names[part]}.{kind}"] = tensor
    return expected


@claim("artifact.public-nepa", "Weights go out to the public NEPA names and back without loss.",
       source="SixAILab/nepa-*",
       about=lambda twin: is_nepa(twin) and has_linear_patches(twin))  # fmt: skip
def nepa(twin: Twin) -> Evidence:
    encoder = finest(stirred(twin.objective(), twin.seed, wide=False)).eval()
    weights = encoder.state_dict()
    public = public_nepa.to_public(weights)
    file = {f"vit_nepa.{name}": tensor.clone().contiguous() for name, tensor in public.items()}
    parts = [
        none("out: wrong", differing(public, _expected(weights, _NEPA, "encoder.layer"))),
        none("back: wrong", differing(public_nepa.from_public(file), weights)),
    ]
    if all(part.holds for part in parts) and not is_ecg(twin):
        folder = twin.folder / "public nepa"
        folder.mkdir(exist_ok=True)
        save_file(file, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(_nepa_config(encoder)))
        gap = _features_apart(twin, encoder, public_nepa.load_public(folder).eval())
        parts.append(at_most("features of the file, difference", gap, 0.0))
    return all_of(*parts, tensors=len(weights))


def _nepa_config(encoder: PatchEncoder) -> dict[str, Any]:
    """``config.json`` of a public NEPA of the same configuration."""
    c = encoder.config
    assert not isinstance(c.positions, SinCos)
    return {
        "patch_size": c.patch, "hidden_size": c.width, "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads, "intermediate_size": c.mlp_width,
        "use_gated_mlp": c.gated_mlp, "qkv_bias": c.qkv_bias, "qk_norm": c.qk_norm,
        "qk_norm_affine": c.qk_norm_affine, "qk_norm_bias": c.qk_norm_bias,
        "layerscale_value": c.layer_scale or 0.0, "layer_norm_eps": c.norm_eps,
        "is_causal": c.causal, "rope_theta": c.positions.theta,
        "num_channels": encoder.get_parameter("patches.weight").shape[1],
    }  # fmt: skip


def _features_apart(twin: Twin, one: PatchEncoder, other: PatchEncoder) -> float:
    values = twin.inputs().values[:3]
    with torch.no_grad():
        layers = zip(one.read(values), other.read(values), strict=True)
        return greatest(*(float((a - b).abs().max()) for a, b in layers))


def _is_ijepa(twin: Twin) -> bool:
    """Of the published kind: one level, linear patches, plain blocks."""
    jepa, network = twin.config.objective, twin.config.encoder
    if not isinstance(jepa, JepaConfig) or jepa.coarser or twin.config.input.lead_rows:
        return False
    if not isinstance(network, EncoderConfig) or not network.plain or not has_linear_patches(twin):
        return False
    return not (network.qk_norm or network.layer_scale is not None or network.gated_mlp)


@claim("artifact.public-ijepa", "Weights go out to the public I-JEPA names, the original's and "
       "those of transformers, and back without loss.",
       source="facebookresearch/ijepa; transformers", about=_is_ijepa)  # fmt: skip
def ijepa(twin: Twin) -> Evidence:
    objective = stirred(twin.objective(), twin.seed, wide=False).eval()
    assert isinstance(objective, Jepa)
    encoder, predictor = finest(objective), objective.predictors[0]
    parts = []
    networks = ("encoder", encoder.state_dict()), ("predictor", predictor.state_dict())
    outward = (public_ijepa.encoder_to_public, public_ijepa.predictor_to_public)
    back = (public_ijepa.encoder_from_public, public_ijepa.predictor_from_public)
    tables = (_IJEPA, "blocks"), (_PREDICTOR, "predictor_blocks")
    for (name, weights), to, of, table in zip(networks, outward, back, tables, strict=True):
        public = to(weights)
        file = {f"module.{n}": tensor.clone() for n, tensor in public.items()}
        parts.append(none(f"{name} out: wrong", differing(public, _expected(weights, *table))))
        parts.append(none(f"{name} back: wrong", differing(of(file), weights)))
    weights = encoder.state_dict()
    public = public_ijepa.encoder_to_public(weights)
    theirs = public_ijepa.to_transformers(public)
    packed = [theirs[f"encoder.layer.0.attention.attention.{of}.weight"]
              for of in ("query", "key", "value")]  # fmt: skip
    qkv = weights["blocks.0.attention.qkv.weight"]
    returned = public_ijepa.from_transformers(theirs)
    parts.append(none("transformers: wrong", differing(returned, public)))
    parts.append(true("q, k, v in order", torch.equal(torch.cat(packed), qkv)))
    if not is_ecg(twin) and isinstance(encoder.config.positions, SinCos):
        path = twin.folder / "ijepa.safetensors"
        public = public_ijepa.encoder_to_public(weights, twin.config.grids[0])
        save_file({f"module.{n}": t.clone().contiguous() for n, t in public.items()}, path)
        loaded = public_ijepa.load_public(path, heads=encoder.config.heads).eval()
        gap = _features_apart(twin, encoder, loaded)
        parts.append(at_most("features of the file, difference", gap, 0.0))
    return all_of(*parts)
