"""What a setting is where a configuration does not name it: the documented values."""

from __future__ import annotations

from inspect import signature
from typing import Any

from latentcast.config import Blocks, ContextBlocks, ReferenceBlocks
from latentcast.config.masks import TargetBlocks
from latentcast.config.training import EmaConfig, MuonConfig, OptimizerConfig, TrainConfig
from latentcast.config.views import (
    EcgAugmentation,
    ImageAugmentation,
    NtXent,
    SigRegPair,
    VicRegPair,
    Views,
)
from latentcast.data import codecs, ecg_filters
from latentcast.data.ecg_augment import WANDER
from latentcast.data.image_augment import GREY
from latentcast.data.loader import ahead
from latentcast.engine import loop
from latentcast.engine.schedules import EmaSchedule, WarmupCosine
from latentcast.objectives import regularizers
from latentcast.objectives.cpc import CpcConfig
from latentcast.objectives.jepa import reference_masks
from latentcast.objectives.masked import ConvPredictorConfig, MaskedConfig
from latentcast.objectives.nepa import NepaConfig
from latentcast.objectives.projector import RowNorm
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, equal, none
from latentcast.verification.observe.twin import Twin

BLOCK = {"targets": 4, "target_scale": (0.15, 0.2), "target_aspect": (0.75, 1.5)}
DEFAULTS: dict[type[Any], dict[str, Any]] = {
    NepaConfig: {"kind": "nepa", "patch_embedding": "trained"},
    CpcConfig: {"kind": "cpc", "steps": 4, "negatives": "recording", "temperature": 0.1},
    MaskedConfig: {"kind": "masked", "mask_ratio": 0.4, "mask_span": 5, "visible_weight": 0.25},
    ConvPredictorConfig: {
        "width": 128,
        "depth": 2,
        "kernel": 7,
        "norm": "batch",
        "activation": "relu",
    },
    SupervisedConfig: {
        "kind": "supervised",
        "head": "linear",
        "layer_decay": 0.75,
        "class_weights": None,
        "mean": 0.0,
        "std": 1.0,
        "labels_fraction": 1.0,
        "labels_seed": 0,
        "patience": None,
    },
    regularizers.SigReg: {"kind": "sigreg", "weight": 0.05, "slices": 256},
    regularizers.VicReg: {"kind": "vicreg", "weight": 0.5, "variance": 1.0, "covariance": 0.04},
    TargetBlocks: BLOCK,
    Blocks: {
        **BLOCK,
        "leads": "all",
        "context_scale": (0.85, 1.0),
        "least_context": 10,
        "shapes": 8,
    },
    ContextBlocks: {"context_share": (0.15, 0.25), "least_block": 10, "shapes": 8},
    ReferenceBlocks: {**BLOCK, "context_scale": (0.85, 1.0), "min_keep": 10},
    VicRegPair: {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    SigRegPair: {"share": 0.05, "slices": 256},
    NtXent: {"temperature": 0.1, "decoupled": False},
    EcgAugmentation: {
        "gain": 0.15,
        "lead_gain": 0.1,
        "wander": 0.05,
        "noise": 0.02,
        "powerline": 0.0,
        "mains": 50,
        "drop_leads": 0.3,
        "warp": 0.0,
        "consistent": True,
    },
    ImageAugmentation: {
        "crop_scale": (0.3, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "size": None,
        "flip": True,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "grey": 0.0,
    },
    Views: {"crop": 0.5, "projector": (512, 512, 512), "weight": 0.1},
    OptimizerConfig: {
        "lr": 1e-3,
        "start_lr": 0.0,
        "final_lr": 0.0,
        "warmup_steps": 10_000,
        "weight_decay": 0.05,
        "final_weight_decay": None,
        "betas": (0.9, 0.99),
        "eps": 1e-8,
        "clip_grad_norm": 1.0,
        "muon": None,
    },
    MuonConfig: {"lr": 0.02, "momentum": 0.95, "iterations": 5},
    EmaConfig: {"base": None, "half_life": None, "final": None, "warmup_steps": 0},
    TrainConfig: {
        "steps": 100_000,
        "stretches": (),
        "batch_size": 256,
        "micro_batches": 1,
        "random_crop": True,
        "leave_out": (),
        "seed": 0,
        "precision": "fp32",
    },
}
"""By the documentation of each setting and the paper it names."""
ARGUMENTS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (regularizers.variance, {"target": 1.0, "weight": None}),
    (regularizers.sigreg, {"slices": 256, "knots": 17, "reach": 3.0, "weight": None}),
    (RowNorm, {"eps": 1e-5}),
    (EmaSchedule, {"warmup_epochs": 0}),
    (WarmupCosine, {"start": 0.0}),
    (ahead, {"depth": 2}),
)
COUNTS: dict[str, Any] = {
    "fs": None,
    "sampling_rate": None,
    "leads": None,
    "unit": None,
    "layout": None,
    "missing_leads": "quarantine",
    "scale": 0.001,
    "shortest": 1.0,
    "verify_checksums": True,
    "metadata": None,
    "signal": "ecg",
    "patients": None,
    "rename": None,
}
PIXELS: dict[str, Any] = {"size": None, "encoding": "pixels", "bits": None, "splits": None,
                          "label_column": None, "patients": None}  # fmt: skip


@claim("table.defaults", "What a configuration does not name is as documented: settings of every "
       "objective, mask, view, optimizer and ingest, and the limits of the loop.",
       source="the documentation of the settings, and the papers that they name")  # fmt: skip
def defaults(twin: Twin) -> Evidence:
    wrong = [
        f"{kind.__name__}.{name} {kind.model_fields[name].default!r}"
        for kind, own in DEFAULTS.items()
        for name, value in own.items()
        if kind.model_fields[name].default != value
    ]
    for call, own in ARGUMENTS:
        parameters = signature(call).parameters
        wrong += [f"{call.__name__} {name}" for name, value in own.items()
                  if parameters[name].default != value]  # fmt: skip
    ingested = [dict(codecs.CODECS[kind].target.arguments) for kind in ("ecg", "image")]
    limits = (loop.MOST_SKIPS_IN_A_ROW, loop.LEAST_SCALE, loop.MOST_SCALE, loop.GROWTH_STEPS,
              loop.LEAST_WEIGHT, reference_masks.TRIES)  # fmt: skip
    return all_of(
        none("other than documented", wrong),
        equal("of ingest", str(ingested), str([COUNTS, PIXELS])),
        equal("limits", str(limits), str((10, 2.0**-24, 2.0**24, 2000, 1e-6, 20))),
        equal("Hz of a wandering baseline", str(WANDER), "(0.05, 0.5)"),
        equal(
            "seconds of the filters",
            str((ecg_filters.BLOCK_SECONDS, *ecg_filters.MEDIANS_SECONDS)),
            "(0.04, 0.2, 0.6)",
        ),
        equal("of a grey", str(GREY), "(0.299, 0.587, 0.114)"),
        settings=sum(map(len, DEFAULTS.values())),
    )
