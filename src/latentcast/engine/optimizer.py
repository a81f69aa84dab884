"""AdamW over what may be trained, with and without weight decay; Muon for matrices, if wanted."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import AdamW

from latentcast.config import OptimizerConfig
from latentcast.engine.muon import MuonAdamW
from latentcast.nn.base import Unit
from latentcast.objectives.base import Objective


def build_optimizer(objective: Objective, config: OptimizerConfig) -> AdamW:
    """Two groups for each part of the objective: decayed, and left alone.

    Of a JEPA these are I-JEPA's four, {encoder, predictor} × {decay, no decay}; an objective whose
    layers learn at different rates has two for each rate, and with Muon the matrices of blocks are
    groups of their own. Learning rate and decay are written by the schedules before every step. The
    groups carry the parameter names, which is how a checkpoint finds its moments again.
    """
    muon, matrices = config.muon, matrices_of(objective, config)
    groups: dict[tuple[str, bool, float, bool], dict[str, Any]] = {}
    for name, parameter in objective.trainable().items():
        part, decayed = name.partition(".")[0], not objective.undecayed(name, parameter)
        scale = objective.lr_scale(name)
        is_matrix = name in matrices
        empty = {"params": [], "names": [], "part": part, "decayed": decayed, "lr_scale": scale,
                 "matrices": is_matrix}  # fmt: skip
        if muon and is_matrix:
            # The schedule of the learning rate is one: Muon's is a multiple of AdamW's.
            empty["lr_scale"] = scale * (muon.lr / config.lr if config.lr else 0.0)
            empty |= {"momentum": muon.momentum, "iterations": muon.iterations}
        group = groups.setdefault((part, decayed, scale, is_matrix), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    # fused: 3.5 times faster than the loop over tensors on a CPU.
    kind = MuonAdamW if muon else AdamW
    return kind(
        list(groups.values()),
        lr=0.0, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True,
    )  # fmt: skip


def matrices_of(objective: Objective, config: OptimizerConfig) -> frozenset[str]:
    """Names of the parameters that Muon moves: the matrices and kernels within blocks; without
    Muon none.

    Not the embedding of patches, projectors and heads, whose rows or columns are no features of a
    layer (Jordan et al. 2024), nor what decay leaves alone.
    """
    if config.muon is None:
        return frozenset()
    inside = {id(p) for unit in objective.modules() if isinstance(unit, Unit)
              for p in unit.parameters()}  # fmt: skip
    return frozenset(
        name for name, p in objective.trainable().items()
        if id(p) in inside and p.ndim >= 2 and not objective.undecayed(name, p)
    )  # fmt: skip


def take_step(optimizer: AdamW, refused: Tensor) -> None:
    """One update, or none at all where ``refused`` is 1; then forget the gradients.

    The fused kernel reads the flag on the device (it is how GradScaler skips an overflow), so the
    host need not know yet. Weights, moments and their step count all stay.
    """
    optimizer.found_inf = refused  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad()
