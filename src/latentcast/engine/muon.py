"""Muon for the matrices of blocks, beside AdamW for all other parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

from latentcast.engine.parallel import full_tensor, local_shards

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of ``x``, ``x³`` and ``x⁵``: iterated, they bring every singular value of at most 1
to between 0.7 and 1.2, the small ones as fast as possible."""


class MuonAdamW(AdamW):
    """AdamW, but the groups with ``matrices`` move by the orthogonalised momentum of the gradient.

    ``M ← μ M + G``, ``U = orthogonal(G + μ M)``, ``W ← (1 − η λ) W − η √max(1, rows / columns) U``
    (Muon, Jordan et al. 2024, with Nesterov's momentum and decoupled decay). A kernel is the matrix
    of its output channels over all else. All of the matrix decides: a shard of it is put together
    from all ranks first.
    """

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        """AdamW asks here for what it is to move; matrices are moved, and none is named to it.

        Not :meth:`step`: called within another, hooks on it would run twice.
        """
        if not group["matrices"]:
            return bool(super()._init_group(group, *lists))  # type: ignore[no-untyped-call]
        refused = getattr(self, "found_inf", None)
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._move(parameter, group, refused)
        return False

    def _move(self, parameter: Tensor, group: dict[str, Any], refused: Tensor | None) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        lr, momentum, before = group["lr"], group["momentum"], state["momentum"]
        moved = before * momentum + gradient
        matrix = full_tensor(gradient + momentum * moved).flatten(1)
        update = orthogonal(matrix, group["iterations"]).view(parameter.shape)
        rows, columns = matrix.shape
        factor = lr * max(1.0, rows / columns) ** 0.5
        after = parameter * (1 - lr * group["weight_decay"]) - factor * _as(update, parameter)
        for old, new in ((before, moved), (parameter, after)):
            mine, changed = local_shards([old, new])
            # Read on the device: no step waits for the host.
            mine.copy_(changed if refused is None else torch.where(refused > 0, mine, changed))


def orthogonal(matrix: Tensor, iterations: int) -> Tensor:
    """``X ← (a + b XXᵀ + c (XXᵀ)²) X`` from ``X = matrix / ‖matrix‖``, about ``U Vᵀ`` of its SVD.

    The products of the polynomials are taken of the small ``XXᵀ`` and reach ``X`` once: of a matrix
    nine times as wide as high, as of a 3 × 3 kernel, a third of the operations.

    Args:
        matrix: ``(rows, columns)``, in float32.
        iterations: five are usual.
    """
    a, b, c = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    total = unit
    for _ in range(iterations):
        step = a * unit + torch.addmm(gram, gram, gram, beta=b, alpha=c)
        total = step @ total
        gram = step @ gram @ step
    found: Tensor = total @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.T


def _as(update: Tensor, parameter: Tensor) -> Tensor:
    """The same shards of an update as there are of its parameter."""
    if not isinstance(parameter, DTensor):
        return update
    shards: Tensor = distribute_tensor(update, parameter.device_mesh, parameter.placements)
    return shards
