"""Muon: the orthogonal factor, and which parameters it moves."""

from __future__ import annotations

import pytest
import torch

from latentcast.config import Config
from latentcast.engine.muon import QUINTIC, orthogonal
from latentcast.engine.optimizer import build_optimizer, matrices_of
from latentcast.objectives.build import build
from latentcast.recipes import recipe


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (1, 5)])
@pytest.mark.parametrize("rank", [1, 64])
def test_products_of_the_small_matrix_are_those_of_the_large_one(
    shape: tuple[int, int], rank: int
) -> None:
    """Also of a gradient with fewer directions than the matrix has."""
    generator = torch.Generator().manual_seed(0)
    rank = min(rank, *shape)
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in shape)
    matrix = left @ right.T
    a, b, c = QUINTIC
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(orthogonal(matrix, 5), x, rtol=0, atol=1e-9)


def test_matrices_of_blocks_are_moved_and_nothing_else() -> None:
    config = recipe("simclr-image-tiny")
    objective = build(config)
    shapes = dict(objective.named_parameters())
    names = matrices_of(objective, config.optimizer)
    assert all(".blocks." in name and shapes[name].ndim == 4 for name in names)
    assert len(names) == 8  # two kernels of three blocks, and two skips that change the width
    assert "base.student.stem.conv.weight" in shapes.keys() - names


def test_without_muon_no_group_is_of_matrices(small_config: Config) -> None:
    objective = build(small_config)
    groups = build_optimizer(objective, small_config.optimizer).param_groups
    assert not any(group["matrices"] for group in groups)
    muon = small_config.updated({"optimizer.muon": {}, "optimizer.lr": 0.0})
    groups = build_optimizer(objective, muon.optimizer).param_groups
    assert {group["lr_scale"] for group in groups if group["matrices"]} == {0.0}
