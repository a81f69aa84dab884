"""Supervised training of an encoder and a head: from scratch, or fine-tuned from a pretraining."""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.config import OBJECTIVES, Config
from latentcast.config.objective import ObjectiveConfig
from latentcast.config.settings import Positive, Share
from latentcast.nn.backbones import build_encoder
from latentcast.nn.base import Encoder, Unit
from latentcast.nn.heads import HEADS, Head
from latentcast.nn.initialise import initialise
from latentcast.objectives.base import Objective, Output, Role
from latentcast.randomness import Draw

Target = Literal["multi-label", "multi-class", "regression"]


class SupervisedConfig(ObjectiveConfig):
    """A head on the tokens of the encoder, both trained on labels."""

    reads_leads: ClassVar[bool] = True

    kind: str = "supervised"
    task: str
    """What is predicted, as ``--task`` names it."""
    target: Target
    names: tuple[str, ...] = Field(min_length=1)
    """Of the labels, classes, or the one quantity."""
    head: Literal["linear", "attentive"] = "linear"
    """``linear`` on the mean of the valid tokens; ``attentive`` on what a trained query attends to
    (what kweimann/ECG-JEPA calls linear, and others an attention head)."""
    layer_decay: Share = 0.75
    """Each layer below the head learns this many times as fast as the one above it (Clark et al.
    2020); 1 trains all alike, 0 the head alone."""
    class_weights: tuple[Positive, ...] | None = None
    """Of the positives of each label, or of each class."""
    mean: float = 0.0
    std: Positive = 1.0
    """Of the training targets of a regression, which learns ``(target − mean) / std``."""
    labels_fraction: Share = 1.0
    """Share of the training patients whose labels are used; a smaller one is a subset."""
    labels_seed: int = 0

    patience: Annotated[int, Field(ge=1)] | None = None
    """Training ends after so many validation scores (one each ``train.evaluate_every`` steps) that
    are not above the best; None trains all steps."""

    def check(self, config: Config) -> None:
        if self.class_weights is not None and len(self.class_weights) != len(self.names):
            raise ValueError(
                f"objective.class_weights has {len(self.class_weights)} numbers, there are "
                f"{len(self.names)} names; give one for each"
            )
        if self.target == "regression" and self.class_weights is not None:
            raise ValueError(
                "objective.class_weights is for classes, the target is a number; set it to null"
            )


class Classifier(nn.Module):
    """An encoder and a head on its last tokens."""

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, inputs: Inputs, draw: Draw | None = None) -> Tensor:
        """``(B, outputs)`` of one crop or image each."""
        encoder = self.encoder
        valid = None if inputs.valid is None else encoder.valid(inputs.valid)
        attended = None if encoder.causal else valid
        tokens = encoder.encode(inputs.values, attended, draw=draw)[:, encoder.prefix :]
        if valid is None:
            valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        outputs: Tensor = self.head(tokens, valid)
        return outputs


@OBJECTIVES.register
class Supervised(Objective):
    """Cross-entropy, or squared error, of the outputs for one crop of each record.

    ``L = mean BCE(y, ŷ)`` over the labels that are not missing (multi-label), ``mean CE(y, ŷ)``
    over the records that have a class, ``mean (ŷ − (y − mean) / std)²``. With an average of the
    weights (``config.ema``) the average takes no part in the loss: it is what predicts.
    """

    settings = SupervisedConfig

    def __init__(self, student: Classifier, config: SupervisedConfig, teacher: bool) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.teacher = copy.deepcopy(student).requires_grad_(False) if teacher else None
        if config.layer_decay == 0:
            student.encoder.requires_grad_(False)
        self._depths, self._deepest = _depths(student.encoder)

    @classmethod
    def of(cls, config: Config) -> Self:
        supervised = config.objective
        assert isinstance(supervised, SupervisedConfig)
        encoder = build_encoder(config)
        head = HEADS[supervised.head](encoder.width, len(supervised.names))
        return cls(Classifier(encoder, head), supervised, teacher=config.ema is not None)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.layer_decay == 0:  # its batch norms do not learn from batches either
            self.student.encoder.eval()
        return self

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        assert inputs.targets is not None
        outputs = self.student(inputs, draw)
        wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        terms, weights = self._terms(wide, inputs.targets)
        weight = weights.sum()
        loss = (terms * weights).sum() / weight.clamp(min=1e-6)
        return Output(loss=loss, weight=weight)

    def _terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of the loss, and how much each counts: 0 where the target is missing."""
        balance = self.config.class_weights
        if self.config.target == "multi-class":
            present = targets >= 0
            weights = present.to(outputs.dtype)
            if balance is not None:
                weights = weights * outputs.new_tensor(balance)[targets.clamp(min=0)]
            return F.cross_entropy(outputs, targets.clamp(min=0), reduction="none"), weights
        targets = targets.to(outputs.dtype).reshape(outputs.shape)
        present = ~targets.isnan()
        targets = torch.where(present, targets, 0)
        if self.config.target == "regression":
            scaled = (targets - self.config.mean) / self.config.std
            return (outputs - scaled).square(), present.to(outputs.dtype)
        positive = None if balance is None else outputs.new_tensor(balance)
        terms = F.binary_cross_entropy_with_logits(
            outputs, targets, pos_weight=positive, reduction="none"
        )
        return terms, present.to(outputs.dtype)

    def initialise(self, seed: int) -> None:
        self.student.encoder.initialise(seed)
        initialise(self.student.head, seed, "head")
        if self.teacher is not None:
            self.teacher.load_state_dict(self.student.state_dict())

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [] if self.teacher is None else [(self.student, self.teacher)]

    def classifier(self, role: Role) -> Classifier:
        """Encoder and head together, of the average or of the trained weights."""
        return self.student if role == "student" or self.teacher is None else self.teacher

    def encoder(self, role: Role) -> Encoder:
        return self.classifier(role).encoder

    def step_flops(self, size: tuple[int, ...]) -> int:
        return 3 * self.student.encoder.flops(size)

    def lr_scale(self, name: str) -> float:
        """``layer_decay`` to the number of layers above; 1 for the head and for what is no layer
        below it, such as the last norm; times the rate of a parameter in any objective."""
        depth = self._depths.get(name.removeprefix("student.encoder."), self._deepest)
        return float(self.config.layer_decay ** (self._deepest - depth)) * super().lr_scale(name)


def _depths(encoder: Encoder) -> tuple[dict[str, int], int]:
    """Depth of each parameter of an encoder, its tokenizer, tokens and vectors of leads 0, its
    units 1 and on; and that of what comes after them."""
    units = [unit for unit in encoder.modules() if isinstance(unit, Unit)]
    of_unit = {id(p): n for n, unit in enumerate(units, start=1) for p in unit.parameters()}
    first = {id(p) for p in encoder.tokenizer.parameters()}
    depths = {}
    for name, parameter in encoder.named_parameters():
        if id(parameter) in of_unit:
            depths[name] = of_unit[id(parameter)]
        elif id(parameter) in first or name.endswith(("cls", "leads.weight")):
            depths[name] = 0
    return depths, len(units) + 1
