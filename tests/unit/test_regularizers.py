"""VICReg's terms and SIGReg: their equations as loops, and each collapse they must see."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.errors import LatentcastError
from latentcast.monitors.collapse import effective_rank
from latentcast.objectives.projector import pooled
from latentcast.objectives.regularizers import (
    covariance,
    directions,
    invariance,
    sigreg,
    variance,
)
from latentcast.randomness import key

STREAM = key(0, 0, "sigreg")


def gaussian(rows: int = 2000, width: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


# --- VICReg ---------------------------------------------------------------------------------------


def test_variance_equals_the_equation_as_a_loop() -> None:
    x = gaussian(50, 6) * torch.linspace(0.1, 2, 6)
    expected = 0.0
    for j in range(6):
        column = x[:, j].tolist()
        mean = sum(column) / 50
        spread = sum((v - mean) ** 2 for v in column) / 49
        expected += max(0.0, 1 - math.sqrt(spread + 1e-4)) / 6
    assert float(variance(x)) == pytest.approx(expected, rel=1e-12)


def test_covariance_equals_the_equation_as_a_loop() -> None:
    x = gaussian(50, 6) @ gaussian(6, 6, seed=1)
    centred = x - x.mean(0)
    expected = sum(
        float(centred[:, i] @ centred[:, j] / 49) ** 2 for i in range(6) for j in range(6) if i != j
    )
    assert float(covariance(x)) == pytest.approx(expected / 6, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_collapsed_rows_cost_the_whole_target_and_alive_ones_nothing(shift: float) -> None:
    """jepa.md, behaviour 14; the mean plays no part."""
    assert float(variance(torch.full((100, 8), shift), target=2.0)) == pytest.approx(2, abs=0.011)
    assert float(variance(2 * gaussian() + shift)) == 0
    assert float(covariance(gaussian(20_000, 8) + shift)) < 1e-3


def test_covariance_sees_a_duplicated_dimension() -> None:
    x = gaussian(20_000, 8)
    x[:, 1] = x[:, 0]
    assert float(covariance(x)) == pytest.approx(2 / 8, rel=0.05)


def test_invariance_is_the_squared_distance_of_two_views() -> None:
    a, b, ids = gaussian(30, 4), gaussian(30, 4, seed=1), torch.arange(30)
    expected = sum(float((a[i] - b[i]) @ (a[i] - b[i])) for i in range(30)) / 30
    assert float(invariance(a, b, ids, ids)) == pytest.approx(expected, rel=1e-12)
    assert float(invariance(a, a, ids, ids.clone())) == 0


def test_halves_of_a_batch_are_not_views_of_the_same_samples() -> None:
    """jepa.md D7: the public H-JEPA pulls different images together, with weight 25."""
    batch, ids = gaussian(10, 4), torch.arange(10)
    with pytest.raises(LatentcastError, match="5 of 5 rows pair different samples"):
        invariance(batch[:5], batch[5:], ids[:5], ids[5:])
    with pytest.raises(ValueError, match="with ids"):
        invariance(batch[:5], batch[5:], ids, ids)
    with pytest.raises(LatentcastError, match="2 of 10"):  # a view whose order was lost
        swapped = torch.tensor([1, 0, *range(2, 10)])
        invariance(batch, batch[swapped], ids, ids[swapped])


# --- SIGReg ---------------------------------------------------------------------------------------


def naive_sigreg(x: Tensor, stream: int, slices: int, knots: int, reach: float) -> float:
    a = directions(stream, x.shape[1], slices, x).tolist()
    step, total = reach / (knots - 1), 0.0
    for m in range(slices):
        y = [sum(v * a[i][m] for i, v in enumerate(row)) for row in x.tolist()]
        for j in range(knots):
            t = j * step
            phi = math.exp(-t * t / 2)
            weight = (step if j in (0, knots - 1) else 2 * step) * phi
            real = sum(math.cos(t * v) for v in y) / len(y)
            imaginary = sum(math.sin(t * v) for v in y) / len(y)
            total += len(y) * weight * ((real - phi) ** 2 + imaginary**2)
    return total / slices


def test_sigreg_equals_the_naive_loop() -> None:
    x = 1.3 * gaussian(40, 5) + 0.2
    expected = naive_sigreg(x, STREAM, 7, 17, 3.0)
    assert float(sigreg(x, STREAM, slices=7)) == pytest.approx(expected, rel=1e-10)
    expected = naive_sigreg(x, STREAM, 3, 9, 5.0)
    assert float(sigreg(x, STREAM, slices=3, knots=9, reach=5.0)) == pytest.approx(
        expected, rel=1e-10
    )


def test_gradients_equal_finite_differences() -> None:
    """The backward pass is written out by hand."""
    x = (gaussian(9, 4) * torch.linspace(0.5, 3, 4)).requires_grad_()
    weight = torch.tensor([1.0, 0, 0.5, 1, 1, 0, 1, 2, 1])
    ids, other = torch.arange(9), gaussian(9, 4, seed=1)
    for loss in (
        lambda x: sigreg(x, STREAM, slices=5, weight=weight),
        lambda x: variance(x, target=2.0, weight=weight),
        lambda x: covariance(x, weight=weight),
        lambda x: invariance(x, other, ids, ids, weight=weight),
    ):
        assert torch.autograd.gradcheck(loss, x, atol=1e-7)


def clusters() -> Tensor:
    centres = 3 * gaussian(4, 64, seed=2)
    return centres[torch.arange(2000) % 4] + 0.1 * gaussian()


BAD = {
    "rank one": lambda: gaussian()[:, :1] * gaussian(1, 64, seed=1),
    "shrunk": lambda: 1e-3 * gaussian(),
    "shifted": lambda: gaussian() + 100,
    "clustered": clusters,
    "uniform": lambda: torch.rand(
        2000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ),
    "constant": lambda: gaussian(1).expand(2000, 64),
}


@pytest.mark.parametrize("kind", BAD)
def test_sigreg_sees_what_standardising_hides(kind: str) -> None:
    """jepa.md D8: standardised projections score 1.9e-4 for rank one and 3.3e-4 for a Gaussian."""
    isotropic = float(sigreg(gaussian(), STREAM))
    assert isotropic < 3
    assert float(sigreg(BAD[kind](), STREAM)) > 20 * isotropic


def test_sigreg_of_gaussian_rows_does_not_grow_with_their_number() -> None:
    few, many = (float(sigreg(gaussian(n, 16), STREAM, slices=64)) for n in (200, 20_000))
    assert few == pytest.approx(many, rel=0.5)


def test_descent_repairs_a_nearly_rank_one_start() -> None:
    """jepa.md D8. Here: 52 of 64 after these steps, 58 after twice as many; standardised, 35."""
    x = gaussian(512)[:, :1] * gaussian(1, 64, seed=1) + 0.01 * gaussian(512, 64, seed=2)
    x = x.float().requires_grad_()
    assert effective_rank(x.detach()) < 2
    optimizer = torch.optim.Adam([x], lr=0.05)
    for step in range(250):
        optimizer.zero_grad()
        sigreg(x, key(0, step, "sigreg"), slices=64).backward()
        optimizer.step()
    assert effective_rank(x.detach()) > 48
    assert float(x.detach().std(0).mean()) == pytest.approx(1, abs=0.3)
    assert float(x.detach().mean(0).abs().max()) < 0.1


def test_directions_are_new_each_step_uniform_and_of_unit_length() -> None:
    x = gaussian(1, 32)
    one, other = (directions(key(0, step, "sigreg"), 32, 4096, x) for step in (0, 1))
    assert not torch.isclose(one, other).any(0).any()
    torch.testing.assert_close(one.norm(dim=0), torch.ones(4096, dtype=x.dtype))
    torch.testing.assert_close(one @ one.T / 4096, torch.eye(32, dtype=x.dtype) / 32,
                               rtol=0, atol=0.006)  # fmt: skip
    assert torch.equal(one, directions(key(0, 0, "sigreg"), 32, 4096, x))


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    before = torch.get_rng_state()
    first = sigreg(gaussian(20), STREAM)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(sigreg(gaussian(20), STREAM), first)


# --- all of them ----------------------------------------------------------------------------------

IDS = torch.arange(40)
LOSSES = {
    "variance": lambda x, w: variance(x, target=3.0, weight=w),
    "covariance": lambda x, w: covariance(x, weight=w),
    "invariance": lambda x, w: invariance(x, x.flip(1), IDS[: len(x)], IDS[: len(x)], weight=w),
    "sigreg": lambda x, w: sigreg(x, STREAM, weight=w),
}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_rows_play_no_part_whatever_they_hold(name: str) -> None:
    whole = gaussian(40, 8) + 1
    whole[25:] = torch.nan
    weight = (torch.arange(40) < 25).double()
    kept, padded = whole[:25].clone().requires_grad_(), whole.requires_grad_()
    expected, loss = LOSSES[name](kept, None), LOSSES[name](padded, weight)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(padded.grad[:25], kept.grad, rtol=1e-10, atol=1e-14)
    assert not padded.grad[25:].any()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_but_padding_is_a_zero_with_zero_gradient(name: str) -> None:
    x = gaussian(10, 8).requires_grad_()
    loss = LOSSES[name](x, torch.zeros(10, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == 0 and not x.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_lowers_no_precision(name: str) -> None:
    x = gaussian(40, 8).float()
    expected = LOSSES[name](x, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LOSSES[name](x, None), expected)
        assert LOSSES[name](x.bfloat16(), None).dtype == torch.float32


def test_a_matrix_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(n, width\)"):
        sigreg(torch.zeros(2, 3, 4), STREAM)
    with pytest.raises(ValueError, match=r"\(3, 4\) with \(2,\)"):
        variance(torch.zeros(3, 4), weight=torch.ones(2))


# --- why a target needs a head of its own ---------------------------------------------------------


def trained_head(own_target_head: bool, regularized: bool) -> float:
    """The loss left after training nothing but a head, on predictions unrelated to the targets."""
    torch.manual_seed(0)
    predictions, targets = gaussian(512, 16).float(), gaussian(512, 16, seed=1).float()
    head = nn.Linear(16, 16)
    teacher = copy.deepcopy(head).requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for step in range(200):
        ours = head(predictions)
        theirs = teacher(targets) if own_target_head else head(targets)
        loss = F.mse_loss(ours, theirs)
        optimizer.zero_grad()
        keeps = sigreg(ours, key(0, step, "sigreg"), slices=64) if regularized else 0
        (loss + keeps).backward()
        optimizer.step()
    return float(loss.detach())


def test_a_shared_trainable_head_alone_reaches_zero_on_unrelated_inputs() -> None:
    """jepa.md D9: a constant head is a perfect one; a target head of its own, or SIGReg, is not."""
    assert trained_head(own_target_head=False, regularized=False) < 1e-3
    assert trained_head(own_target_head=True, regularized=False) > 0.1
    assert trained_head(own_target_head=False, regularized=True) > 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tokens_that_all_count_are_pooled_as_if_their_flags_were_read(dtype: torch.dtype) -> None:
    """Without flags there is a backward pass by hand, with them that of autograd."""
    torch.manual_seed(0)
    tokens = (torch.randn(3, 7, 5) + 2).to(dtype).requires_grad_()
    weights, found = torch.randn(3, 10), []
    for valid in (None, torch.ones(3, 7, dtype=torch.bool)):
        rows, counted = pooled(tokens, valid)
        (gradient,) = torch.autograd.grad((rows * weights).sum(), tokens)
        found.append((rows, counted, gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
