"""The configuration of a whole run, and what its parts must agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from latentcast.config import tree
from latentcast.config.inputs import EcgInput, ImageInput
from latentcast.config.machine import MachineConfig
from latentcast.config.network import AnyBackbone
from latentcast.config.objective import AnyObjective
from latentcast.config.settings import Settings
from latentcast.config.training import EmaConfig, OptimizerConfig, TrainConfig
from latentcast.errors import LatentcastError
from latentcast.signatures import checked


class Config(Settings):
    """A whole run: input, encoder, objective, optimizer, EMA, training, and the machine for it."""

    recipe: str
    input: Annotated[EcgInput | ImageInput, Field(discriminator="kind")]
    encoder: AnyBackbone
    objective: AnyObjective
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig | None = EmaConfig(base=0.9999)
    train: TrainConfig = TrainConfig()
    machine: MachineConfig = MachineConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.encoder.check(self)
        if self.input.lead_rows is not None and not self.objective.reads_leads:
            raise ValueError(
                f"objective.kind {self.objective.kind} has no grid of leads; set "
                "input.tokens=joint input.drop_leads=0, or start from hjepa-ecg-leads-tiny"
            )
        if self.train.leave_out and isinstance(self.input, ImageInput):
            raise ValueError(
                "train.leave_out: names findings of recordings, and images have none; set "
                "train.leave_out=[]"
            )
        if self.objective.views is not None:
            self.objective.views.check(self)
            self.of_views.encoder.check(self.of_views)
        self.objective.check(self.of_views)
        if self.whole_batch and self.train.micro_batches > 1:
            raise ValueError(
                f"{self.whole_batch}: needs the statistics of the whole batch; set "
                "train.micro_batches=1 and, if memory is short, a smaller train.batch_size"
            )
        if self.optimizer.warmup_steps > self.train.steps:
            raise ValueError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} is longer than "
                f"train.steps {self.train.steps}; set optimizer.warmup_steps to at most "
                f"{self.train.steps}, or train longer"
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _in_a_sentence(cls, nested: Any, validate: Any, about: ValidationInfo) -> Any:
        try:
            return validate(nested)
        except ValidationError as problem:
            source = (about.context or {}).get("source", "configuration")
            raise LatentcastError(tree.sentence(Config, nested, problem, source)) from None

    @property
    def whole_batch(self) -> str | None:
        """The key of what needs the whole batch, so that it cannot be cut into micro-batches."""
        for section, key in (("objective", self.objective.whole_batch),
                             ("encoder", self.encoder.whole_batch)):  # fmt: skip
            if key is not None:
                return f"{section}.{key}"
        return None

    @property
    def patch_seconds(self) -> float | None:
        """Seconds in one patch of a recording; None for images."""
        if isinstance(self.input, ImageInput):
            return None
        return self.encoder.patch / self.input.sampling_rate

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """Cells along each axis at every level, the tokens of the encoder first."""
        finest, rows = self.encoder.grid(self.input.size), self.input.lead_rows
        return self.objective.grids(finest if rows is None else (rows, *finest))

    @property
    def of_views(self) -> Config:
        """What the objective itself is built for: with two views, one of them as the input."""
        views, changes = self.objective.views, dict[str, Any]()
        if views is None:
            return self
        changes["objective"] = self.objective.model_copy(update={"views": None})
        changes["input"] = views.input(self.input, self.encoder.patch)
        return self.model_copy(update=changes)

    @checked
    def updated(self, changes: Mapping[str, Any]) -> Config:
        """This configuration with dotted keys replaced, validated anew.

        Raises:
            LatentcastError: an unknown key (with the nearest known one) or an invalid value.
        """
        nested = self.model_dump()
        for dotted, value in changes.items():
            tree.put(Config, nested, dotted, value)
        return validated(nested, "configuration")

    @checked
    def trained_on(self, done: int, steps: int) -> Config:
        """To more steps, when ``done`` are taken: their schedules stay, the others are anew."""
        stretches, former = self.train.stretches, self.train.steps
        if done > max((until for until, _ in stretches), default=0):
            stretches = (*stretches, (done, former))
        return self.updated({"train.steps": steps, "train.stretches": stretches})

    @checked
    def as_of(self, done: int) -> Config:
        """As it was when ``done`` steps were taken, before the run was trained on."""
        for place, (until, steps) in enumerate(self.train.stretches):
            if done <= until:
                former = self.train.stretches[:place]
                return self.updated({"train.stretches": former, "train.steps": steps})
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def validated(nested: Mapping[str, Any], source: str) -> Config:
    """A configuration from nested mappings.

    Args:
        source: what error messages name: a file, or ``configuration``.

    Raises:
        LatentcastError: an unknown key, a value of another type, parts that do not fit.
    """
    return Config.model_validate(nested, context={"source": source})
