"""The configuration of a run: frozen, closed to unknown keys, checked across fields."""

from latentcast.config.inputs import EcgInput, ImageInput, Normalisation
from latentcast.config.machine import MachineConfig
from latentcast.config.masks import Blocks, ContextBlocks, MaskConfig, ReferenceBlocks, TargetBlocks
from latentcast.config.network import EncoderConfig, Rotary, SinCos
from latentcast.config.objective import (
    JepaConfig,
    LevelConfig,
    NepaConfig,
    PredictorConfig,
    SigReg,
    VicReg,
)
from latentcast.config.resolve import differences, load, read_yaml, resolve, validated
from latentcast.config.run import Config
from latentcast.config.settings import Activation, Settings
from latentcast.config.training import EmaConfig, OptimizerConfig, TrainConfig

__all__ = [
    "Activation",
    "Blocks",
    "Config",
    "ContextBlocks",
    "EcgInput",
    "EmaConfig",
    "EncoderConfig",
    "ImageInput",
    "JepaConfig",
    "LevelConfig",
    "MachineConfig",
    "MaskConfig",
    "NepaConfig",
    "Normalisation",
    "OptimizerConfig",
    "PredictorConfig",
    "ReferenceBlocks",
    "Rotary",
    "Settings",
    "SigReg",
    "SinCos",
    "TargetBlocks",
    "TrainConfig",
    "VicReg",
    "differences",
    "load",
    "read_yaml",
    "resolve",
    "validated",
]
