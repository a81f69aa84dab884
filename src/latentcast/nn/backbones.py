"""The backbones, a file each; a new one is one line in :data:`ENCODERS`."""

from __future__ import annotations

from latentcast.config import BACKBONES, Config
from latentcast.nn.base import Encoder
from latentcast.nn.conv_tokenizer import ConvPatchEncoder
from latentcast.nn.transformer import PatchEncoder

ENCODERS: tuple[type[Encoder], ...] = (
    PatchEncoder,
    ConvPatchEncoder,
)

for encoder in ENCODERS:
    BACKBONES.register(encoder)


def build_encoder(config: Config) -> Encoder:
    """The encoder of a run, not initialised yet."""
    backbone: type[Encoder] = BACKBONES.builder(config.encoder)
    return backbone.of(config)
