"""Weights of ECG-JEPA (Kim 2024) as ``sehunfromdaegu/ECG_JEPA`` saves them, as a full encoder.

A ``.pth`` whose part ``encoder`` has ``W_P``, ``encoder_blocks.blocks.N`` and ``norm``. Its input
is 10 s at 250 Hz of eight leads in millivolts, neither filtered nor normalised.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from latentcast.artifacts.public_layout import (
    Content,
    PublicEncoder,
    configured,
    depth_of,
    mlp_width_of,
    published_heads,
    renamed,
    tensors_of,
)
from latentcast.config import EcgInput, Normalisation, SinCos
from latentcast.errors import LatentcastError
from latentcast.nn.cross_pattern import CrossPatternConfig
from latentcast.nn.positions import sincos
from latentcast.recipes.ecg import ijepa_ecg_leads_tiny

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
RATE, LENGTH = 250, 2500
HEADS = {768: 16}
"""Heads by width, as published; they follow from no weight."""
_TOP = {"W_P": "patches", "norm": "norm"}
REMARKS = (
    "ECG-JEPA (Kim 2024), read from a file of its author, sehunfromdaegu. Recordings are read as "
    "that code reads them: 250 Hz, 10 s, leads I, II and V1 to V6 in millivolts, neither filtered "
    "nor normalised; here they are whole counts of 1 µV, and resampled by a polyphase filter where "
    "the original takes Fourier coefficients. The licence of the code is MIT; that of the weights "
    "is for you to look up."
)


def read(file: Path, content: Content, heads: int | None = None) -> PublicEncoder | None:
    """The encoder; None where the file is of another layout.

    Args:
        heads: of a width that was published with no number of heads.

    Raises:
        LatentcastError: other heads than published, other positions, or another network.
    """
    theirs = tensors_of(content, "encoder")
    if theirs is None or "W_P.weight" not in theirs or "pos_embed" not in theirs:
        return None
    width, patch = theirs["W_P.weight"].shape
    heads = published_heads(file, width, heads, HEADS.get(width))
    _check_positions(file, theirs.pop("pos_embed"), patch)
    weights = renamed(file, theirs, "encoder_blocks.blocks", _TOP, {})
    # A convolution over one lead in ours.
    weights["patches.weight"] = weights["patches.weight"].unsqueeze(1)
    encoder = CrossPatternConfig(
        patch=patch, width=width, depth=depth_of(weights), heads=heads,
        mlp_width=mlp_width_of(file, weights), qkv_bias=False, qk_norm=False,
        layer_scale=None, norm_eps=1e-5, causal=False, cls=False, positions=SinCos(),
    )  # fmt: skip
    plain = Normalisation(mean=(0.0,) * len(LEADS), std=(1.0,) * len(LEADS))
    shape = EcgInput(
        sampling_rate=RATE, leads=LEADS, length=LENGTH, tokens="per_lead", clip=None,
        normalisation=plain,
    )  # fmt: skip
    name = "ecg-jepa-sehunfromdaegu"
    config = configured(file, ijepa_ecg_leads_tiny(), name, shape, encoder)
    return PublicEncoder(config, weights, REMARKS)


def _check_positions(file: Path, table: Tensor, patch: int) -> None:
    grid = (len(LEADS), LENGTH // patch)
    expected = sincos(grid, table.shape[-1], torch.device("cpu"), torch.float32)
    if table.shape != expected.shape or not torch.allclose(table.float(), expected, atol=1e-5):
        raise LatentcastError(
            f"{file}: pos_embed is not the sine-cosine table of {grid[0]} leads and {grid[1]} "
            "patches; weights with other positions cannot be loaded"
        )
