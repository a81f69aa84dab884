"""From a configuration to its encoder; a new backbone is one line in :data:`MODULES`."""

from __future__ import annotations

from importlib import import_module

from latentcast.config import BACKBONES, Config
from latentcast.nn.base import Encoder

MODULES = (
    "latentcast.nn.transformer",
    "latentcast.nn.conv_tokenizer",
    "latentcast.nn.cross_pattern",
    "latentcast.nn.register_tokens",
    "latentcast.nn.resnet",
    "latentcast.nn.state_space",
)
"""Files that register an encoder."""

for module in MODULES:
    import_module(module)


def build_encoder(config: Config) -> Encoder:
    """The encoder of a run, not initialised yet."""
    backbone: type[Encoder] = BACKBONES.builder(config.encoder)
    return backbone.of(config)
