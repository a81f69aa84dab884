"""Slips that make a network or a run another than the published table's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from latentcast.config import Config, EncoderConfig
from latentcast.engine import optimizer
from latentcast.engine.schedules import EmaSchedule, Schedules, WarmupCosine, half_cosine
from latentcast.nn.blocks import MLP, Attention
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.predictor import Predictor
from latentcast.nn.tokens import PatchEmbedding
from latentcast.objectives.base import Objective
from latentcast.verification.fault import Fault
from latentcast.verification.faults.positions import Inject, patched
from latentcast.verification.observe.rotary import is_jepa
from latentcast.verification.observe.twin import Subject

PUBLISHED = ("nepa-ecg-small", "nepa-ecg-base", "nepa-image-base", "nepa-image-large",
             "ijepa-image-huge", "ijepa-image-base")  # fmt: skip


def _configured(owner: Any, at: int, **update: Any) -> Inject:
    """A module that is built from a configuration with some values of its own."""

    def make(was: Any) -> Any:
        def slipped(self: Any, *args: Any, **named: Any) -> None:
            changed = list(args)
            changed[at] = changed[at].model_copy(update=update)
            was(self, *changed, **named)

        return slipped

    return patched((owner,), "__init__", make)


def _shallower(was: Any) -> Any:
    """range(1, depth) for range(depth)."""

    def slipped(self: PatchEncoder, config: EncoderConfig, *rest: Any) -> None:
        was(self, config, *rest)
        self.blocks = nn.ModuleList(list(self.blocks)[1:])

    return slipped


def _wide_mlp(was: Any) -> Any:
    """Four times the width whatever the configuration says; and one for rounding."""

    def slipped(self: MLP, config: EncoderConfig) -> None:
        was(self, config.model_copy(update={"mlp_width": config.mlp_width + 1}))

    return slipped


def _wide_predictor(was: Any) -> Any:
    """The predictor is as wide as its encoder: no bottleneck."""

    def slipped(self: Predictor, config: Any, encoder: EncoderConfig, width: int,
                hint: int | None = None) -> None:  # fmt: skip
        was(self, config.model_copy(update={"width": width, "heads": encoder.heads}), encoder,
            width, hint)  # fmt: skip

    return slipped


def _no_patch_bias(was: Any) -> Any:
    def slipped(self: PatchEmbedding, *args: Any, **named: Any) -> None:
        was(self, *args, **named)
        self.bias = None  # type: ignore[assignment]

    return slipped


def _one_token_more(was: Any) -> Any:
    """A second CLS, or a register, that nobody published."""

    def slipped(self: PatchEncoder, *args: Any) -> None:
        was(self, *args)
        self.register = nn.Parameter(torch.zeros(1, 1, self.config.width))

    return slipped


# -- schedules --------------------------------------------------------------------------------


def _called(owner: Any, call: Callable[..., float]) -> Inject:
    return patched((owner,), "__call__", lambda was: call)


def _cold_start(self: WarmupCosine, step: int) -> float:
    """The warm-up begins at 0 and not at its start."""
    done = step + 1
    if done < self.warmup:
        return self.base * done / self.warmup
    return half_cosine(self.base, self.final, done - self.warmup, self.steps - self.warmup)


def _whole_cosine(self: WarmupCosine, step: int) -> float:
    """The cosine begins with the run and not where the warm-up ends."""
    done = step + 1
    peak = half_cosine(self.base, self.final, done, self.steps)
    return peak if done >= self.warmup else self.start + (peak - self.start) * done / self.warmup


def _linear_decay(self: WarmupCosine, step: int) -> float:
    done = step + 1
    if done < self.warmup:
        return self.start + (self.base - self.start) * done / self.warmup
    share = min(1.0, (done - self.warmup) / max(1, self.steps - self.warmup))
    return self.base + (self.final - self.base) * share


def _to_zero(self: WarmupCosine, step: int) -> float:
    done = step + 1
    if done < self.warmup:
        return self.start + (self.base - self.start) * done / self.warmup
    return half_cosine(self.base, 0.0, done - self.warmup, self.steps - self.warmup)


def _cosine_momentum(self: EmaSchedule, step: int) -> float:
    """The common cosine for I-JEPA's line."""
    share = min(1.0, step / max(1, self.epochs * self.steps_per_epoch))
    return self.final - (self.final - self.base) * (math.cos(math.pi * share) + 1) / 2


def _run_of(change: Callable[[Config], Config]) -> Inject:
    """Schedules made for another run than the one that is trained."""

    def make(was: Any) -> Any:
        return classmethod(lambda cls, config: was.__func__(cls, change(config)))

    return patched((Schedules,), "of", make)


def _micro_steps(config: Config) -> Config:
    """Counted in micro-batches: a run of k times as many steps."""
    steps = config.train.steps * config.train.micro_batches
    train = config.train.model_copy(update={"steps": steps})
    return config.model_copy(update={"train": train})


def _constant_decay(config: Config) -> Config:
    own = config.optimizer.model_copy(update={"final_weight_decay": None})
    return config.model_copy(update={"optimizer": own})


# -- optimizer --------------------------------------------------------------------------------


def _default_betas(was: Any) -> Any:
    def slipped(*args: Any, **named: Any) -> Any:
        return was(*args, **(named | {"betas": (0.9, 0.98)}))

    return slipped


def _decays_all(was: Any) -> Any:
    return lambda self, name, parameter: False


def _patches_forgotten(was: Any) -> Any:
    """The patch embedding is not handed to the optimizer."""

    def slipped(self: Objective) -> dict[str, nn.Parameter]:
        return {n: p for n, p in was(self).items() if "patches" not in n}

    return slipped


def _published(subject: Subject) -> bool:
    return subject.recipe.recipe in PUBLISHED


def _nepa(subject: Subject) -> bool:
    return _published(subject) and not is_jepa(subject)


def _ijepa(subject: Subject) -> bool:
    return _published(subject) and is_jepa(subject)


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "table.no-qkv-bias", "qkv_bias is not read: there is none.",
        "H-JEPA: switches that nothing reads", _configured(Attention, 0, qkv_bias=False),
        ("table.parameters", "table.published-count", "table.switches"), _published,
    ),
    Fault(
        "table.qk-norm-affine", "QK-norms get an affine part.", CLASSIC,
        _configured(Attention, 0, qk_norm_affine=True, qk_norm_bias=True),
        ("table.parameters", "table.published-count"), _nepa,
    ),
    Fault(
        "table.no-qk-norm", "qk_norm is not read: there is none.",
        "H-JEPA: switches that nothing reads", _configured(Attention, 0, qk_norm=False),
        ("table.switches",), _nepa,
    ),
    Fault(
        "table.fewer-heads", "Half the heads, each twice as wide.", CLASSIC,
        patched((Attention,), "__init__", lambda was: lambda self, config: was(
            self, config.model_copy(update={"heads": config.heads // 2}))),
        ("table.shapes",), _ijepa,
    ),
    Fault(
        "table.block-missing", "One block is missing.", CLASSIC,
        patched((PatchEncoder,), "__init__", _shallower),
        ("table.parameters", "table.published-count", "table.shapes"), _published,
    ),
    Fault(
        "table.mlp-width", "The MLP has another width.", CLASSIC,
        patched((MLP,), "__init__", _wide_mlp), ("table.parameters", "table.shapes"),
    ),
    Fault(
        "table.gated", "The MLP is gated.", CLASSIC, _configured(MLP, 0, gated_mlp=True),
        ("table.parameters", "table.published-count"), _published,
    ),
    Fault(
        "table.token-more", "A register token that no table has.", CLASSIC,
        patched((PatchEncoder,), "__init__", _one_token_more), ("table.parameters",),
    ),
    Fault(
        "table.predictor-wide", "The predictor has the encoder's width.", "H-JEPA defect D15",
        patched((Predictor,), "__init__", _wide_predictor), ("table.parameters", "table.shapes"),
        is_jepa,
    ),
    Fault(
        "table.tanh", "GELU by its tanh approximation.", CLASSIC,
        _configured(MLP, 0, activation="gelu_tanh"), ("table.switches",), _published,
    ),
    Fault(
        "table.cold-start", "The warm-up begins at 0.", CLASSIC, _called(WarmupCosine, _cold_start),
        ("table.schedules",), _ijepa,
    ),
    Fault(
        "table.whole-cosine", "The cosine runs over the warm-up, too.", CLASSIC,
        _called(WarmupCosine, _whole_cosine), ("table.schedules",), _published,
    ),
    Fault(
        "table.linear-decay", "The learning rate falls on a line.", CLASSIC,
        _called(WarmupCosine, _linear_decay), ("table.schedules",), _published,
    ),
    Fault(
        "table.to-zero", "The learning rate falls to 0.", "H-JEPA: min_lr ignored",
        _called(WarmupCosine, _to_zero), ("table.schedules",), _ijepa,
    ),
    Fault(
        "table.cosine-momentum", "The momentum follows a cosine.", "classic (DINO's schedule)",
        _called(EmaSchedule, _cosine_momentum), ("table.schedules",), _ijepa,
    ),
    Fault(
        "table.micro-steps", "Schedules count micro-batches.", CLASSIC, _run_of(_micro_steps),
        ("table.schedules",), lambda s: _published(s) and s.recipe.train.micro_batches > 1,
    ),
    Fault(
        "table.constant-decay", "Weight decay stays where it begins.",
        "H-JEPA, section 3 (no schedule)", _run_of(_constant_decay), ("table.schedules",), _ijepa,
    ),
    Fault(
        "table.betas", "Betas are 0.9 and 0.98 whatever the recipe says.", CLASSIC,
        patched((optimizer,), "AdamW", _default_betas), ("table.optimizer",), _published,
    ),
    Fault(
        "table.decays-all", "Biases, norms and gains are decayed.", "H-JEPA; NEPA-ECG defect 18",
        patched((Objective,), "undecayed", _decays_all), ("table.optimizer",), _published,
    ),
    Fault(
        "table.patches-forgotten", "The optimizer does not hold the patch embedding.", CLASSIC,
        patched((Objective,), "trainable", _patches_forgotten), ("table.optimizer",), _published,
    ),
)  # fmt: skip
