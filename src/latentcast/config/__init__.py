"""The configuration of a run: frozen, closed to unknown keys, checked across fields."""

from latentcast.config.inputs import EcgInput, ImageInput, Normalisation
from latentcast.config.machine import MachineConfig
from latentcast.config.masks import Blocks, ContextBlocks, MaskConfig, ReferenceBlocks, TargetBlocks
from latentcast.config.network import (
    BACKBONES,
    BackboneConfig,
    EncoderConfig,
    LevelConfig,
    PredictorConfig,
    Rotary,
    SinCos,
)
from latentcast.config.objective import OBJECTIVES, ObjectiveConfig
from latentcast.config.resolve import differences, load, read_yaml, resolve
from latentcast.config.run import Config, validated
from latentcast.config.settings import Activation, Settings
from latentcast.config.training import EmaConfig, OptimizerConfig, TrainConfig
from latentcast.config.views import EcgAugmentation, ImageAugmentation, Views

__all__ = [
    "BACKBONES",
    "OBJECTIVES",
    "Activation",
    "BackboneConfig",
    "Blocks",
    "Config",
    "ContextBlocks",
    "EcgAugmentation",
    "EcgInput",
    "EmaConfig",
    "EncoderConfig",
    "ImageAugmentation",
    "ImageInput",
    "LevelConfig",
    "MachineConfig",
    "MaskConfig",
    "Normalisation",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PredictorConfig",
    "ReferenceBlocks",
    "Rotary",
    "Settings",
    "SinCos",
    "TargetBlocks",
    "TrainConfig",
    "Views",
    "differences",
    "load",
    "read_yaml",
    "resolve",
    "validated",
]
