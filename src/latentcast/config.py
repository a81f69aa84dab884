"""The configuration of a run: frozen, closed to unknown keys, checked across fields.

Precedence is flag > ``--config file.yaml`` > recipe (:func:`resolve`). Every run writes the
resolved configuration, and that file alone reproduces the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from latentcast.errors import LatentcastError, nearest
from latentcast.signals.leads import canonical_names

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of all configuration models: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Normalisation(Settings):
    """Per-channel mean and standard deviation, in the physical unit of the input."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive in every channel")
        return self


class EcgInput(Settings):
    """What the encoder sees of a recording; travels with the weights."""

    kind: Literal["ecg"] = "ecg"
    sampling_rate: Positive = 500.0
    """Hz; a store at another rate is refused."""
    leads: tuple[str, ...] = (
        "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
    )  # fmt: skip
    length: Count = 5000
    """Samples a crop; shorter recordings are padded, and padding is not valid."""
    scale: Positive = 0.001
    """Millivolts for one integer count of the store."""
    clip: Positive | None = 5.0
    """Normalised values are clipped to ±clip."""
    normalisation: Normalisation | None = None
    """Millivolts; None until training starts, then the statistics of the store's training split."""

    @model_validator(mode="after")
    def _leads_are_known(self) -> Self:
        known = canonical_names(self.leads)
        if known != self.leads:
            raise ValueError(f"leads are {' '.join(self.leads)}; write {' '.join(known)}")
        return self

    @property
    def channels(self) -> int:
        return len(self.leads)

    @property
    def size(self) -> tuple[int, ...]:
        return (self.length,)


class ImageInput(Settings):
    """What the encoder sees of an image: uint8 in, normalised floats out."""

    kind: Literal["image"] = "image"
    height: Count = 224
    width: Count = 224
    channels: Count = 3
    normalisation: Normalisation | None = Normalisation(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )

    @property
    def size(self) -> tuple[int, ...]:
        return (self.height, self.width)


class Rotary(Settings):
    """Rotary positions (RoPE) on patches; CLS is never rotated."""

    coordinates: Literal["normalized", "seconds"] = "normalized"
    """``normalized``: patch centres in [-1, 1] along each axis (the published rule; a 2.5 s crop
    is stretched to the same span as 10 s). ``seconds``: patch centres in seconds divided by
    ``shortest_period``, the same for every length."""
    theta: Factor = 100.0
    """Ratio of the fastest to the slowest frequency."""
    shortest_period: Positive = 0.4
    """Seconds in one turn of the fastest frequency (``seconds`` only). 0.4 s turns neighbouring
    50 ms patches by π/4, as NEPA-B/14 does on images."""
    rescale: Factor | None = 2.0
    """Training only: coordinates times a log-uniform factor in [1/rescale, rescale]."""
    shift: NotNegative | None = None
    """Training only: coordinates plus a uniform offset in [-shift, shift] for each axis."""
    jitter: Factor | None = None
    """Training only: each axis times a log-uniform factor in [1/jitter, jitter]."""


class EncoderConfig(Settings):
    """A pre-norm transformer over patches."""

    patch: Count = 25
    """Samples (1-D) or pixels a side (2-D) of a patch; must divide the input."""
    width: Count = 384
    depth: Count = 8
    heads: Count = 6
    mlp_width: Count = 1536
    gated_mlp: bool = False
    activation: Activation = "gelu"
    qkv_bias: bool = True
    qk_norm: bool = True
    qk_norm_affine: bool = False
    qk_norm_bias: bool = False
    layer_scale: Positive | None = 1e-5
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Rate of the last block; grows linearly from 0 at the first."""
    norm_eps: Positive = 1e-12
    causal: bool = True
    positions: Rotary = Rotary()

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}; "
                f"use heads {_divisor_near(self.width, self.heads)}"
            )
        return self


class NepaConfig(Settings):
    """Next-embedding prediction (objectives/nepa.py)."""

    kind: Literal["nepa"] = "nepa"
    patch_embedding: Literal["trained", "fixed"] = "trained"
    """``trained`` is the published rule: input and target move together. ``fixed`` keeps the patch
    embedding at its random initialisation, so that targets cannot drift to what is easy to
    predict; docs/nepa-on-ecg.md has the comparison."""


class OptimizerConfig(Settings):
    """AdamW and its schedules; all of them functions of the optimizer step."""

    lr: NotNegative = 1e-3
    final_lr: NotNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 10_000
    weight_decay: NotNegative = 0.05
    final_weight_decay: NotNegative | None = None
    """Cosine from ``weight_decay`` to this over the run; None keeps it constant."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: Positive = 1e-8
    clip_grad_norm: Positive | None = 1.0


class EmaConfig(Settings):
    """Momentum of the averaged weights: base to final, linear over all steps."""

    base: Share = 0.9999
    final: Share = 0.9999
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps for which the momentum stays at ``base`` before it starts to move."""


class TrainConfig(Settings):
    """How long, how much at a time, how often to look."""

    steps: Count = 100_000
    batch_size: Count = 256
    micro_batches: Count = 1
    """Gradient accumulation: the batch is split into this many pieces."""
    random_crop: bool = True
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: Count = 50
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    device: str = "auto"

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batches "
                f"{self.micro_batches}; use {_divisor_near(self.batch_size, self.micro_batches)}"
            )
        return self


class Config(Settings):
    """A whole run: input, encoder, objective, optimizer, EMA, training."""

    recipe: str
    input: Annotated[EcgInput | ImageInput, Field(discriminator="kind")]
    encoder: EncoderConfig
    objective: NepaConfig = NepaConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig | None = EmaConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        patch = self.encoder.patch
        for extent in self.input.size:
            if extent % patch:
                raise ValueError(
                    f"encoder.patch {patch} does not divide the input {self.input.size}; "
                    f"use a patch of {_divisor_near(extent, patch)} or an input of "
                    f"{extent - extent % patch}"
                )
        if self.objective.kind == "nepa" and not self.encoder.causal:
            raise ValueError(
                "encoder.causal is false: NEPA would see the patch it predicts; set it to true"
            )
        axes, head = len(self.input.size), self.encoder.width // self.encoder.heads
        if head % (2 * axes):
            raise ValueError(
                f"a head of {head} dimensions cannot hold rotary pairs for {axes} axes; "
                f"use a width that is a multiple of {2 * axes * self.encoder.heads}"
            )
        if self.input.kind == "image" and self.encoder.positions.coordinates == "seconds":
            raise ValueError(
                "an image has no seconds; set encoder.positions.coordinates normalized"
            )
        if self.optimizer.warmup_steps > self.train.steps:
            raise ValueError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} is longer than "
                f"train.steps {self.train.steps}; shorten the warm-up or train longer"
            )
        return self

    @property
    def patch_seconds(self) -> float | None:
        """Seconds in one patch of a recording; None for images."""
        if isinstance(self.input, ImageInput):
            return None
        return self.encoder.patch / self.input.sampling_rate

    def updated(self, changes: Mapping[str, Any]) -> Config:
        """This configuration with dotted keys replaced, validated anew.

        Raises:
            LatentcastError: an unknown key (with the nearest known one) or an invalid value.
        """
        tree = self.model_dump()
        for dotted, value in changes.items():
            _put(tree, dotted, value)
        return validated(tree, "configuration")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def resolve(recipe: Config, file: Path | None = None, flags: Sequence[str] = ()) -> Config:
    """Apply ``file`` (a full or partial YAML tree) and then ``key=value`` flags to a recipe."""
    tree = recipe.model_dump()
    if file is not None:
        _merge(tree, read_yaml(file))
    for flag in flags:
        name, found, text = flag.partition("=")
        if not found:
            raise LatentcastError(f"--set {flag}: is not of the form key=value; write {flag}=VALUE")
        _put(tree, name, _scalar(text))
    return validated(tree, str(file) if file else "configuration")


def load(file: Path) -> Config:
    """The configuration a run wrote.

    Raises:
        LatentcastError: the file is absent, is no YAML, or does not fit this version.
    """
    return validated(read_yaml(file), str(file))


def read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); name a YAML file") from None
    except yaml.YAMLError as problem:
        raise LatentcastError(f"{file}: is not valid YAML ({problem}); mend the file") from None
    if not isinstance(tree, dict):
        raise LatentcastError(f"{file}: holds no mapping of keys; start from a run's config.yaml")
    return tree


def validated(tree: Mapping[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as problem:
        raise LatentcastError(_sentence(problem, source)) from None


def differences(ours: Config, theirs: Config) -> list[str]:
    """``key: ours, theirs`` for each leaf in which two configurations differ."""
    left, right = dict(_leaves(ours.model_dump())), dict(_leaves(theirs.model_dump()))
    return [
        f"{name} is {left.get(name)} here, {right.get(name)} there"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            pairs += _leaves(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    names = dotted.split(".")
    for depth in range(1, len(names) + 1):
        known = _siblings(names[:depth])
        if names[depth - 1] not in known:
            raise LatentcastError(
                f"{dotted}: is an unknown key; {nearest(names[depth - 1], known)}"
            )
    node = tree
    for name in names[:-1]:
        node[name] = node.get(name) or {}  # an optional section that was off
        node = node[name]
    node[names[-1]] = value


def _scalar(text: str) -> Any:
    try:
        # YAML 1.1 reads 1e-3 as a string; a learning rate is a number.
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return text
    except yaml.YAMLError:
        raise LatentcastError(
            f"--set ...={text}: is no value; write numbers, names or [a, b]"
        ) from None


def _sentence(problem: ValidationError, source: str) -> str:
    lines = []
    for error in problem.errors():
        names = [str(part) for part in error["loc"] if part not in ("ecg", "image")]
        where = ".".join(names)
        if error["type"] == "extra_forbidden":
            lines.append(f"{where} is an unknown key; {nearest(names[-1], _siblings(names))}")
        else:
            reason = error["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {reason}" if where else reason)
    return f"{source}: " + "; ".join(lines)


def _siblings(names: Sequence[str]) -> list[str]:
    """The known keys beside an unknown one, found by walking the models."""
    models: list[type[BaseModel]] = [Config]
    for name in names[:-1]:
        models = [
            model
            for parent in models
            if name in parent.model_fields
            for model in _models_in(parent.model_fields[name].annotation)
        ]
    return sorted({field for model in models for field in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _divisor_near(whole: int, wanted: int) -> int:
    return min((d for d in range(1, whole + 1) if whole % d == 0), key=lambda d: abs(d - wanted))
