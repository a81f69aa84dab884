"""CPC: tell the patch that comes k steps later from the other patches of the recording."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.config import OBJECTIVES, Config, EncoderConfig, SinCos
from latentcast.config.objective import ObjectiveConfig
from latentcast.config.settings import Count, Positive
from latentcast.nn.backbones import build_encoder
from latentcast.nn.base import Encoder
from latentcast.nn.initialise import initialise
from latentcast.nn.ranks import gathered
from latentcast.objectives.averaged import Averaged
from latentcast.objectives.base import Output, View
from latentcast.randomness import Draw


class CpcConfig(ObjectiveConfig):
    """Contrastive predictive coding."""

    kind: str = "cpc"
    steps: Count = 4
    """Patches ahead, each by a linear predictor of its own."""
    negatives: Literal["recording", "batch"] = "recording"
    """Where the patches come from that a prediction must not be taken for: the same recording, or
    all recordings of the batch, on all ranks."""
    temperature: Positive | None = 0.1
    """Scores are cosines over this; null takes inner products, as published."""

    @property
    def whole_batch(self) -> str | None:
        return "negatives" if self.negatives == "batch" else super().whole_batch

    def check(self, config: Config) -> None:
        encoder = config.encoder
        if not encoder.causal:
            raise ValueError(
                "encoder.causal is false: CPC would see the patches it predicts; set "
                "encoder.causal=true"
            )
        if isinstance(encoder, EncoderConfig) and isinstance(encoder.positions, SinCos):
            raise ValueError(
                "encoder.positions sincos would tell CPC which patch comes when; use "
                "encoder.positions.kind=rotary"
            )
        patches = encoder.grid(config.input.size)
        if self.steps >= (count := torch.Size(patches).numel()):
            raise ValueError(
                f"objective.steps {self.steps} reaches beyond the {count} patches of an input; set "
                f"objective.steps={max(1, count - 1)}"
            )


@OBJECTIVES.register
class Cpc(Averaged):
    """``L = −mean_{t,k} log exp(s(W_k h_t, z_{t+k})) / Σ_j exp(s(W_k h_t, z_j))`` (InfoNCE).

    Van den Oord, Li & Vinyals 2018, eq. 3 and 4: ``z`` are the patch embeddings, ``h`` the output
    of a causal network, here a transformer in the place of the recurrent one, and ``j`` runs over
    the positive and all negatives. ``s`` is a cosine over a temperature, or the inner product.
    Nothing is detached: other than in NEPA, negatives keep the embeddings apart. With an average
    of the weights (``config.ema``) the average takes no part in the loss: it is what is read out.
    """

    settings = CpcConfig

    def __init__(self, student: Encoder, teacher: bool, config: CpcConfig) -> None:
        super().__init__(student, teacher)
        self.config = config
        width = student.width
        self.predictors = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(config.steps)
        )

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.objective, CpcConfig)
        return cls(build_encoder(config), config.ema is not None, config.objective)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        prefix, size = self.student.prefix, tuple(inputs.values.shape[2:])
        embedding = self.student.embed(inputs.values)
        h = self.student.transform(embedding, size, draw)
        h = h[:, prefix:].contiguous() if prefix else h
        z, valid = embedding[:, prefix:], self.valid(inputs)
        counted = torch.ones_like(z[..., 0], dtype=torch.bool) if valid is None else valid
        losses, right, counts = [], [], []
        for k, predictor in enumerate(self.predictors, start=1):
            log_share, found = self.identify(predictor(h[:, :-k]), z, counted, k)
            target_valid = counted[:, k:]
            losses.append(-torch.where(target_valid, log_share, 0).sum())
            right.append((found & target_valid).sum())
            counts.append(target_valid.sum())
        weight = torch.stack(counts).sum().to(losses[0].dtype)
        terms = weight.clamp(min=1)
        later = None if valid is None else valid[:, 1:]
        return Output(
            loss=torch.stack(losses).sum() / terms,
            weight=weight,
            scalars={"found": torch.stack(right).sum() / terms},
            views=(
                View("target", z[:, 1:].detach(), "encoder", valid=later),
                View("output", h[:, :-1].detach(), "predictor", valid=later),
            ),
            tokens=h,
            valid=valid,
        )

    def identify(
        self, prediction: Tensor, z: Tensor, counted: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """``log`` of the share of the positive among all candidates, and whether it is largest.

        Args:
            prediction: ``(B, N − k, width)``, of patch ``t + k`` at ``t``.
            z: ``(B, N, width)`` patch embeddings.
            counted: ``(B, N)`` bool, those that were measured: others are no candidates.
            k: steps ahead.

        Returns:
            ``(B, N − k)`` float, and bool.
        """
        batch, count, _ = z.shape
        places = torch.arange(k, count, device=z.device).expand(batch, -1)
        with torch.autocast(z.device.type, enabled=False):
            wide = torch.promote_types(z.dtype, torch.float32)
            prediction, z = prediction.to(wide), z.to(wide)
            if self.config.temperature is not None:
                prediction = F.normalize(prediction, dim=-1) / self.config.temperature
                z = F.normalize(z, dim=-1)
            if self.config.negatives == "recording":
                scores = prediction @ z.transpose(1, 2)
                flags = counted[:, None]
            else:
                candidates, before = gathered(z.flatten(0, 1))
                flags = gathered(counted.flatten().to(wide))[0] > 0
                scores = prediction @ candidates.T
                places = places + before + count * torch.arange(batch, device=z.device)[:, None]
            scores = scores.masked_fill(~flags, torch.finfo(wide).min)
            positive = scores.gather(2, places[:, :, None]).squeeze(2)
            return positive - scores.logsumexp(2), scores.argmax(2) == places

    def initialise(self, seed: int) -> None:
        super().initialise(seed)
        initialise(self.predictors, seed, "initialise predictors")

    def step_flops(self, size: tuple[int, ...]) -> int:
        patches = torch.Size(self.student.grid(size)).numel()
        own = self.config.steps * patches * self.student.width * (self.student.width + patches)
        return super().step_flops(size) + 3 * 2 * own
