"""Weights of ECG-JEPA (Weimann and Conrad 2024) as ``kweimann/ECG-JEPA`` saves them.

A file of ``torch.save`` with the parts ``model``, of which the tensors ``target_encoder.*`` are the
averaged encoder, and ``config``, its settings. The recordings that it was trained on were
normalised by the statistics of their own data set, which the file does not hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentcast.artifacts.public_layout import (
    Content,
    PublicEncoder,
    configured,
    refuse_other_heads,
    renamed,
    tensors_of,
)
from latentcast.config import ContextBlocks, EcgInput, SinCos
from latentcast.errors import LatentcastError
from latentcast.nn.register_tokens import RegisterConfig
from latentcast.recipes.ecg import ijepa_ecg_small
from latentcast.signals.leads import canonical_names

PART = "target_encoder."
_TOP = {"patch_embed.proj": "patches", "norm": "norm"}
_EXACT = {
    "registers": "registers.weight", "attn_ls.weight": "scale1.gain",
    "mlp_ls.weight": "scale2.gain",
}  # fmt: skip
REMARKS = (
    "ECG-JEPA (Weimann and Conrad 2024), read from a file of its author, kweimann; rate, leads, "
    "patch and network are those of the settings in it. The original normalises each lead by mean "
    "and standard deviation of the data set at hand and does not keep them: those used here were "
    "given when the file was exported. The original resamples by Fourier coefficients, this "
    "library by a polyphase filter. The licence of the weights is for you to look up."
)


def read(file: Path, content: Content, heads: int | None = None) -> PublicEncoder | None:
    """The encoder, without a normalisation; None where the file is of another layout.

    Args:
        heads: those of the settings in the file, or none.

    Raises:
        LatentcastError: other heads, or settings of another network.
    """
    model, settings = tensors_of(content, "model"), content.get("config")
    if model is None or not any(name.startswith(f"{PART}patch_embed.") for name in model):
        return None
    if not isinstance(settings, dict):
        raise LatentcastError(f"{file}: has no settings (config); save them with the weights")
    theirs = {n.removeprefix(PART): t for n, t in model.items() if n.startswith(PART)}
    try:
        encoder = _encoder(settings)
        shape = EcgInput(
            sampling_rate=settings["sampling_frequency"], length=settings["channel_size"],
            leads=canonical_names(tuple(settings["channels"])), clip=None,
        )  # fmt: skip
        masks = ContextBlocks(
            context_share=(settings["min_keep_ratio"], settings["max_keep_ratio"]),
            least_block=settings["min_block_size"],
        )
        base = ijepa_ecg_small().updated({"objective.masks": masks.model_dump()})
    except (KeyError, TypeError, ValueError) as problem:
        raise LatentcastError(
            f"{file}: its settings are of no such network ({problem}); download it again"
        ) from None
    refuse_other_heads(file, heads, encoder.heads)
    weights = renamed(file, theirs, "blocks", _TOP, _EXACT)
    if not encoder.registers:
        weights["registers.weight"] = torch.zeros(1, 0, encoder.width)
    if not settings["bias"]:  # of a network without biases ours are zero
        _add_zeros(weights)
    config = configured(file, base, "ecg-jepa-kweimann", shape, encoder)
    return PublicEncoder(config, weights, REMARKS)


def _encoder(settings: dict[str, Any]) -> RegisterConfig:
    width, scale = settings["dim"], settings["layer_scale_eps"]
    return RegisterConfig(
        registers=settings["num_registers"], patch=settings["patch_size"], width=width,
        depth=settings["depth"], heads=settings["num_heads"],
        mlp_width=int(width * settings["mlp_ratio"]),
        qkv_bias=settings["qkv_bias"], qk_norm=False, layer_scale=scale or None,
        norm_eps=settings["norm_eps"], causal=False, cls=False, positions=SinCos(),
    )  # fmt: skip


def _add_zeros(weights: dict[str, Tensor]) -> None:
    for name, tensor in list(weights.items()):
        where = name.removesuffix(".weight")
        if name.endswith(".weight") and not where.endswith(("attention.qkv", "registers")):
            weights.setdefault(f"{where}.bias", torch.zeros(len(tensor)))
