"""The predictor answers what is asked, from what is seen, and nothing else reaches an answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentcast.artifacts.public_ijepa import encoder_config
from latentcast.config import PredictorConfig
from latentcast.nn.initialise import initialise
from latentcast.nn.predictor import Predictor

GRID = (6, 8)
CONFIG = PredictorConfig(width=24, depth=2, heads=2, mlp_width=48)
ENCODER = encoder_config(patch=2, width=16, depth=1, heads=2, mlp_width=32)


def predictor(hint: int | None = None) -> Predictor:
    made = Predictor(CONFIG, ENCODER, 16, hint)
    initialise(made, 0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(8)  # far from linear, so that a mixing would show
    return made.double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def asked() -> dict[str, Any]:
    """Two samples, ten context tokens, three blocks of four cells."""
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(48, generator=generator) for _ in range(2)])
    return {
        "context": normal(2, 10, 16),
        "places": order[:, :10],
        "targets": order[:, 10:22].view(2, 3, 4).transpose(0, 1).contiguous(),
        "grid": GRID,
    }


def test_an_answer_for_each_query_and_for_nothing_else() -> None:
    assert predictor()(**asked()).shape == (3, 2, 4, 16)


def test_order_of_the_queries_is_the_order_of_the_answers() -> None:
    made, given = predictor(), asked()
    order = torch.tensor([2, 0, 3, 1])
    other = made(**given | {"targets": given["targets"][:, :, order]})
    torch.testing.assert_close(other, made(**given)[:, :, order], rtol=1e-10, atol=1e-12)


def test_blocks_do_not_see_each_other() -> None:
    """jepa.md D15: the public H-JEPA asks all blocks in one row."""
    made, given = predictor(), asked()
    moved = given["targets"].clone()
    moved[1] = (moved[1] + 7) % 48
    one, other = made(**given), made(**given | {"targets": moved})
    assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert not torch.isclose(one[1], other[1]).any(dim=-1).all()
    alone = made(**given | {"targets": given["targets"][:1]})
    torch.testing.assert_close(alone[0], one[0], rtol=1e-10, atol=1e-12)


def test_queries_of_one_block_do_see_each_other() -> None:
    made, given = predictor(), asked()
    moved = given["targets"].clone()
    moved[0, :, 3] = (moved[0, :, 3] + 7) % 48
    change = made(**given)[0, :, :3] - made(**given | {"targets": moved})[0, :, :3]
    assert float(change.detach().abs().max()) > 1e-6


def test_samples_do_not_see_each_other() -> None:
    made, given = predictor(), asked()
    context = given["context"].clone()
    context[1] += 1
    one, other = made(**given), made(**given | {"context": context})
    assert torch.equal(one[:, 0], other[:, 0]) and not torch.equal(one[:, 1], other[:, 1])


def test_different_places_get_different_answers_from_the_same_context() -> None:
    """jepa.md D14: queries without positions are all alike."""
    answers = predictor()(**asked())[0, 0]
    assert float(torch.cdist(answers, answers).detach().fill_diagonal_(1).min()) > 1e-3


def test_where_the_context_lies_matters_and_not_in_which_order() -> None:
    """jepa.md D15: the public H-JEPA gives context tokens no positions."""
    made, given = predictor(), asked()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    together = {"context": given["context"][:, order], "places": given["places"][:, order]}
    base = made(**given)
    torch.testing.assert_close(made(**given | together), base, rtol=1e-10, atol=1e-12)
    moved = made(**given | {"places": given["places"][:, order]})
    assert float((moved - base).detach().abs().max()) > 1e-3


def test_queries_that_do_not_count_reach_no_other_bit_for_bit() -> None:
    """jepa.md D11: padded queries of the public H-JEPA train on patch 0."""
    made, given = predictor(), asked()
    counts = torch.ones(3, 2, 4, dtype=torch.bool)
    counts[1, 0, 2:] = False
    moved = given["targets"].clone()
    moved[1, 0, 2:] = 0
    one, other = (made(**given | {"targets": t}, asked=counts) for t in (given["targets"], moved))
    assert torch.equal(one[counts], other[counts])
    assert not torch.equal(one[~counts], other[~counts])
    without = made(**given | {"targets": given["targets"][1:2, :, :2]})
    torch.testing.assert_close(one[1, 0, :2], without[0, 0], rtol=1e-10, atol=1e-12)


def test_context_that_does_not_count_reaches_nothing_bit_for_bit() -> None:
    made, given = predictor(), asked()
    seen = torch.ones(2, 10, dtype=torch.bool)
    seen[0, 6:] = False
    seen[1] = False  # nothing seen at all: answered from the queries alone
    spoilt = given["context"].masked_fill(~seen.unsqueeze(-1), 1e3)
    one, other = (made(**given | {"context": c}, valid=seen) for c in (given["context"], spoilt))
    assert torch.equal(one, other) and bool(torch.isfinite(one).all())
    fewer = made(given["context"][:1, :6], given["places"][:1, :6], given["targets"][:, :1], GRID)
    torch.testing.assert_close(one[:, :1], fewer, rtol=1e-10, atol=1e-12)


def test_all_counting_is_the_same_as_saying_nothing() -> None:
    made, given = predictor(), asked()
    every = {"seen": torch.ones(2, 10, dtype=torch.bool),
             "asked": torch.ones(3, 2, 4, dtype=torch.bool)}  # fmt: skip
    torch.testing.assert_close(made(**given, **every), made(**given), rtol=1e-10, atol=1e-12)


def test_a_hint_is_read_at_the_place_that_is_asked() -> None:
    made, given = predictor(hint=5), asked()
    hint = normal(2, 48, 5, seed=3)
    base = made(**given, hint=hint)
    elsewhere = hint.clone()
    block = given["targets"][0, 0]
    outside = torch.ones(48, dtype=torch.bool)
    outside[given["targets"][:, 0].flatten()] = False
    elsewhere[0, outside] += 1
    assert torch.equal(made(**given, hint=elsewhere), base)
    there = hint.clone()
    there[0, block[0]] += 1
    assert not torch.isclose(made(**given, hint=there)[0, 0, 0], base[0, 0, 0]).all()


@pytest.mark.parametrize("hint", [None, 5])
def test_flops_agree_with_counted_ones(hint: int | None) -> None:
    made, given = predictor(hint).float(), asked()
    given["context"] = given["context"][:1].float()
    given |= {"places": given["places"][:1], "targets": given["targets"][:, :1]}
    told = None if hint is None else normal(1, 48, hint).float()
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        made(**given, hint=told)
    assert counter.get_total_flops() == made.flops(10, 3, 4, 48)
