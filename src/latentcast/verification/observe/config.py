"""What claims ask of a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentcast.config import Config, EncoderConfig
from latentcast.config.network import LevelConfig
from latentcast.nn.state_space import StateSpaceConfig
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.masks import MaskSampler, mask_sampler

if TYPE_CHECKING:
    from latentcast.verification.observe.twin import Twin


def transformer_of(config: Config) -> EncoderConfig:
    """The settings of the encoder, which is a transformer; claims about others do not ask."""
    assert isinstance(config.encoder, EncoderConfig)
    return config.encoder


def jepa_of(config: Config) -> JepaConfig:
    """The settings of the objective, which is a JEPA."""
    assert isinstance(config.objective, JepaConfig)
    return config.objective


def sampler_of(config: Config) -> MaskSampler:
    """The masks of a run of a JEPA."""
    return mask_sampler(config)


def strides_of(level: LevelConfig, axes: int) -> tuple[int, ...]:
    """Finer cells in one of a level along each axis, as its configuration was written."""
    return (level.stride,) * axes if isinstance(level.stride, int) else tuple(level.stride)


def has_transformer(twin: Twin) -> bool:
    """Whether the encoder has the blocks, the positions and the attention of a transformer."""
    encoder = twin.recipe.encoder
    return isinstance(encoder, EncoderConfig) and encoder.plain


def is_sequence(twin: Twin) -> bool:
    """Whether the encoder is blocks over a sequence of patches: attention, or long convolutions."""
    return has_transformer(twin) or isinstance(twin.recipe.encoder, StateSpaceConfig)


def patch_by_patch(twin: Twin) -> bool:
    """Whether a token shows its own patch alone, so that others can be dropped."""
    return not getattr(twin.recipe.encoder, "stem_overlap", False)


def has_linear_patches(twin: Twin) -> bool:
    """Whether a patch is embedded by one linear layer, as ViT does."""
    return twin.recipe.encoder.kind == "transformer"
