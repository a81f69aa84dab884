"""AdamW over what may be trained, with and without weight decay."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import AdamW

from latentcast.config import OptimizerConfig
from latentcast.objectives.base import Objective


def adamw(objective: Objective, config: OptimizerConfig) -> AdamW:
    """Two groups for each part of the objective: decayed, and left alone.

    Of a JEPA these are I-JEPA's four, {encoder, predictor} × {decay, no decay}; an objective whose
    layers learn at different rates has two for each rate. Learning rate and
    decay are placeholders: the schedules write them before every step. The groups carry the
    parameter names, which is how a checkpoint finds its moments again.
    """
    groups: dict[tuple[str, bool, float], dict[str, Any]] = {}
    for name, parameter in objective.trainable().items():
        part, decayed = name.partition(".")[0], not objective.undecayed(name, parameter)
        scale = objective.lr_scale(name)
        empty = {"params": [], "names": [], "part": part, "decayed": decayed, "lr_scale": scale}
        group = groups.setdefault((part, decayed, scale), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    # fused: 3.5 times faster than the loop over tensors on a CPU.
    return AdamW(
        list(groups.values()),
        lr=0.0, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True,
    )  # fmt: skip


def take_step(optimizer: AdamW, refused: Tensor) -> None:
    """One update, or none at all where ``refused`` is 1; then forget the gradients.

    The fused kernel reads the flag on the device (it is how GradScaler skips an overflow), so the
    host need not know yet. Weights, moments and their step count all stay.
    """
    optimizer.found_inf = refused  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad()
