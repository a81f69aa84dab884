"""Whether an update counts: decided on the device, read by the host when it has arrived."""

from __future__ import annotations

import torch
from torch import Tensor

from latentcast.objectives.base import Output


class Verdict:
    """Of one attempt.

    ``refused`` (1 or 0, on the device) gates AdamW and the average, so that no step waits
    for it. The numbers behind it travel to the host meanwhile; :meth:`read` gives them, which
    waits only if the device has not got there yet.

    Args:
        output: of the whole batch.
        norm: of its gradient.
        stops: how many ranks were asked to stop.
    """

    def __init__(self, output: Output, norm: Tensor, stops: Tensor) -> None:
        weight = output.weight.to(norm.dtype)
        self.refused = (~(norm.isfinite() & (weight > 0))).float()
        numbers = torch.stack([norm.detach(), weight, stops.to(norm.dtype)])
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._arrived = None
        if numbers.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> tuple[str | None, bool]:
        """Why the batch must not move the weights, with the fix, or None; and whether to stop."""
        if self._arrived is not None:
            self._arrived.synchronize()
        norm, weight, stops = self._numbers.tolist()
        return _problem(norm, weight), stops > 0


def _problem(norm: float, weight: float) -> str | None:
    if not weight > 0 and weight == weight:
        return (
            "no patch of the batch is valid enough to be a target; look at the share that is not "
            "valid (latentcast inspect), or train on the leads that were recorded (input.leads)"
        )
    if not abs(norm) < float("inf"):
        return (
            f"the gradient norm is {norm}; look for outliers in the data "
            "(latentcast inspect) or lower optimizer.lr"
        )
    return None
