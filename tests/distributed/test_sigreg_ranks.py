"""Two gloo ranks: the regularizers of a batch in two parts are those of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from spawn import in_ranks
from torch import Tensor

from latentcast.nn.ranks import summed
from latentcast.objectives.regularizers import covariance, invariance, sigreg, variance
from latentcast.randomness import key

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

PARTS = (slice(0, 11), slice(11, 30))  # unequal, so that a mean of means would be wrong
IDS = torch.arange(30)
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sigreg": lambda x, w, ids: sigreg(x, key(0, 5, "sigreg"), slices=32, weight=w),
    "variance": lambda x, w, ids: variance(x, target=3.0, weight=w),
    "covariance": lambda x, w, ids: covariance(x, weight=w),
    "invariance": lambda x, w, ids: invariance(x, x.flip(1), ids, ids, weight=w),
}


def losses_and_gradients(rows: slice) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    weight = torch.ones(30, dtype=torch.float64)
    weight[[3, 4, 20]] = 0
    found = {}
    for name, loss_of in LOSSES.items():
        layer = torch.eye(6, dtype=torch.float64).mul(1.5).requires_grad_()  # the shared weights
        loss = loss_of(inputs[rows] @ layer + 0.1, weight[rows], IDS[rows])
        loss.backward()
        assert layer.grad is not None
        found[name] = (loss.detach(), layer.grad)
    return found


def one_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = losses_and_gradients(PARTS[rank])
    for _, gradient in found.values():  # what DDP does
        dist.all_reduce(gradient)
        gradient /= 2
    alone = torch.ones(1, requires_grad=True)
    summed(alone * (rank + 1)).backward()
    torch.save((found, alone.grad), folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    in_ranks(one_rank, 2, tmp_path)
    whole = losses_and_gradients(slice(0, 30))
    for rank in (0, 1):
        found, own = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert found.keys() == whole.keys()
        for name, (loss, gradient) in whole.items():
            torch.testing.assert_close(found[name][0], loss, rtol=1e-10, atol=1e-12, msg=name)
            torch.testing.assert_close(found[name][1], gradient, rtol=1e-10, atol=1e-12, msg=name)
        assert float(own) == 2 * (rank + 1)  # of both ranks' losses
