"""NEPA: a causal transformer predicts the embedding of the next patch."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import OBJECTIVES, Config, EncoderConfig, Rotary
from latentcast.config.objective import ObjectiveConfig
from latentcast.nn.backbones import build_encoder
from latentcast.nn.base import Encoder
from latentcast.objectives.averaged import Averaged
from latentcast.objectives.base import Output, Role, View
from latentcast.randomness import Draw


class NepaConfig(ObjectiveConfig):
    """Next-embedding prediction."""

    kind: str = "nepa"
    patch_embedding: Literal["trained", "fixed"] = "trained"
    """``trained`` is the published rule: input and target move together. ``fixed`` keeps the patch
    embedding at its random initialisation, so that targets cannot drift to what is easy to
    predict; docs/nepa-on-ecg.md has the comparison."""

    def check(self, config: Config) -> None:
        encoder = config.encoder
        if not encoder.causal:
            raise ValueError(
                "encoder.causal is false: NEPA would see the patch it predicts; set "
                "encoder.causal=true"
            )
        if encoder.prefix != 1:
            raise ValueError(
                "encoder.cls is false: NEPA predicts the first patch from it; set encoder.cls=true"
            )
        if isinstance(encoder, EncoderConfig) and not isinstance(encoder.positions, Rotary):
            raise ValueError(
                "encoder.positions sincos would be part of what NEPA predicts; use "
                "encoder.positions.kind=rotary"
            )


@OBJECTIVES.register
class Nepa(Averaged):
    """``L = −mean cos(h[:, :-1], stop_gradient(z[:, 1:]))`` (NEPA, prediction loss).

    ``z`` are the embeddings of CLS and patches, ``h`` the transformer's output under a causal
    mask. No teacher, mask, decoder or negatives; CLS predicts the first patch. With an average
    of the weights (``teacher=True``) the average takes no part in the loss: it is what gets
    evaluated, as the original does.

    The target is the network's own patch embedding, so the loss also falls when the embedding
    drifts to what is easy to predict. ``fixed_patches`` keeps it at its random initialisation
    (as BEST-RQ does with its projection, Chiu et al. 2022).
    """

    settings = NepaConfig
    predicted_from = "what came before (nothing, for the first patch)"

    def __init__(self, student: Encoder, teacher: bool, fixed_patches: bool = False) -> None:
        student.tokenizer.requires_grad_(not fixed_patches)
        super().__init__(student, teacher)

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.objective, NepaConfig)
        fixed = config.objective.patch_embedding == "fixed"
        return cls(build_encoder(config), teacher=config.ema is not None, fixed_patches=fixed)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        z, h = self._embed_and_transform(self.student, inputs, draw)
        target = z[:, 1:].detach()
        similarity = cosine(h[:, :-1], target)
        valid = self.valid(inputs)
        with torch.no_grad():  # from the second patch on: before the first there is none to copy
            copied = cosine(z[:, 1:-1], target[:, 1:])
        return Output(
            loss=-_mean(similarity, valid),
            weight=_count(similarity, valid),
            scalars={"copy_last_loss": -_mean(copied, None if valid is None else valid[:, 1:])},
            views=(
                View("target", target, "encoder", valid=valid),
                View("output", h[:, :-1].detach(), "predictor", valid=valid),
            ),
            tokens=h[:, 1:].contiguous(),  # FSDP warns of a view that leaves the model
            valid=valid,
        )

    @torch.no_grad()
    def patch_errors(self, inputs: Inputs, role: Role = "teacher") -> Tensor:
        """``1 − cos`` of each patch with its prediction: ``(B, N)``, NaN where not valid."""
        z, h = self._embed_and_transform(self.encoder(role), inputs, None)
        errors = 1 - cosine(h[:, :-1], z[:, 1:])
        valid = self.valid(inputs)
        return errors if valid is None else errors.masked_fill(~valid, torch.nan)

    def _embed_and_transform(
        self, encoder: Encoder, inputs: Inputs, draw: Draw | None
    ) -> tuple[Tensor, Tensor]:
        z = encoder.embed(inputs.values)
        return z, encoder.transform(z, tuple(inputs.values.shape[2:]), draw)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity over the last axis, at least in float32 whatever the autocast type."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return F.cosine_similarity(a.to(wide), b.to(wide), dim=-1, eps=1e-12)


def _mean(terms: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the valid terms; 0 with none, so that a batch of padding trains nothing."""
    if valid is None:
        return terms.mean()
    return torch.where(valid, terms, 0).sum() / valid.sum().clamp(min=1)


def _count(terms: Tensor, valid: Tensor | None) -> Tensor:
    return terms.new_tensor(terms.numel()) if valid is None else valid.sum().to(terms.dtype)
