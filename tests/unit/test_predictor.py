"""The predictor answers its queries, from valid context, and nothing else reaches an answer."""

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


def queries() -> dict[str, Any]:
    """Two samples, ten context tokens, three blocks of four cells."""
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(48, generator=generator) for _ in range(2)])
    return {
        "context": normal(2, 10, 16),
        "context_ids": order[:, :10],
        "target_ids": order[:, 10:22].view(2, 3, 4).transpose(0, 1).contiguous(),
        "grid": GRID,
    }


def test_an_answer_for_each_query_and_for_nothing_else() -> None:
    assert predictor()(**queries()).shape == (3, 2, 4, 16)


def test_order_of_the_queries_is_the_order_of_the_answers() -> None:
    made, request = predictor(), queries()
    order = torch.tensor([2, 0, 3, 1])
    other = made(**request | {"target_ids": request["target_ids"][:, :, order]})
    torch.testing.assert_close(other, made(**request)[:, :, order], rtol=1e-10, atol=1e-12)


def test_blocks_do_not_see_each_other() -> None:
    """jepa.md D15: the public H-JEPA asks all blocks in one row."""
    made, request = predictor(), queries()
    moved = request["target_ids"].clone()
    moved[1] = (moved[1] + 7) % 48
    one, other = made(**request), made(**request | {"target_ids": moved})
    assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert not torch.isclose(one[1], other[1]).any(dim=-1).all()
    alone = made(**request | {"target_ids": request["target_ids"][:1]})
    torch.testing.assert_close(alone[0], one[0], rtol=1e-10, atol=1e-12)


def test_queries_of_one_block_do_see_each_other() -> None:
    made, request = predictor(), queries()
    moved = request["target_ids"].clone()
    moved[0, :, 3] = (moved[0, :, 3] + 7) % 48
    change = made(**request)[0, :, :3] - made(**request | {"target_ids": moved})[0, :, :3]
    assert float(change.detach().abs().max()) > 1e-6


def test_samples_do_not_see_each_other() -> None:
    made, request = predictor(), queries()
    context = request["context"].clone()
    context[1] += 1
    one, other = made(**request), made(**request | {"context": context})
    assert torch.equal(one[:, 0], other[:, 0]) and not torch.equal(one[:, 1], other[:, 1])


def test_different_places_get_different_answers_from_the_same_context() -> None:
    """jepa.md D14: queries without positions are all alike."""
    answers = predictor()(**queries())[0, 0]
    assert float(torch.cdist(answers, answers).detach().fill_diagonal_(1).min()) > 1e-3


def test_where_the_context_lies_matters_and_not_in_which_order() -> None:
    """jepa.md D15: the public H-JEPA gives context tokens no positions."""
    made, request = predictor(), queries()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    together = {
        "context": request["context"][:, order],
        "context_ids": request["context_ids"][:, order],
    }
    base = made(**request)
    torch.testing.assert_close(made(**request | together), base, rtol=1e-10, atol=1e-12)
    moved = made(**request | {"context_ids": request["context_ids"][:, order]})
    assert float((moved - base).detach().abs().max()) > 1e-3


def test_queries_that_do_not_count_reach_no_other_bit_for_bit() -> None:
    """jepa.md D11: padded queries of the public H-JEPA train on patch 0."""
    made, request = predictor(), queries()
    counts = torch.ones(3, 2, 4, dtype=torch.bool)
    counts[1, 0, 2:] = False
    moved = request["target_ids"].clone()
    moved[1, 0, 2:] = 0
    one, other = (
        made(**request | {"target_ids": t}, target_valid=counts)
        for t in (request["target_ids"], moved)
    )
    assert torch.equal(one[counts], other[counts])
    assert not torch.equal(one[~counts], other[~counts])
    without = made(**request | {"target_ids": request["target_ids"][1:2, :, :2]})
    torch.testing.assert_close(one[1, 0, :2], without[0, 0], rtol=1e-10, atol=1e-12)


def test_context_that_does_not_count_reaches_nothing_bit_for_bit() -> None:
    made, request = predictor(), queries()
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[0, 6:] = False
    valid[1] = False  # nothing measured at all: answered from the queries alone
    spoilt = request["context"].masked_fill(~valid.unsqueeze(-1), 1e3)
    one, other = (
        made(**request | {"context": c}, context_valid=valid) for c in (request["context"], spoilt)
    )
    assert torch.equal(one, other) and bool(torch.isfinite(one).all())
    fewer = made(
        request["context"][:1, :6],
        request["context_ids"][:1, :6],
        request["target_ids"][:, :1],
        GRID,
    )
    torch.testing.assert_close(one[:, :1], fewer, rtol=1e-10, atol=1e-12)


def test_all_counting_is_the_same_as_saying_nothing() -> None:
    made, request = predictor(), queries()
    every = {"context_valid": torch.ones(2, 10, dtype=torch.bool),
             "target_valid": torch.ones(3, 2, 4, dtype=torch.bool)}  # fmt: skip
    torch.testing.assert_close(made(**request, **every), made(**request), rtol=1e-10, atol=1e-12)


def test_a_hint_is_read_at_the_cell_of_the_query() -> None:
    made, request = predictor(hint=5), queries()
    hint = normal(2, 48, 5, seed=3)
    base = made(**request, hint=hint)
    elsewhere = hint.clone()
    block = request["target_ids"][0, 0]
    outside = torch.ones(48, dtype=torch.bool)
    outside[request["target_ids"][:, 0].flatten()] = False
    elsewhere[0, outside] += 1
    assert torch.equal(made(**request, hint=elsewhere), base)
    own = hint.clone()
    own[0, block[0]] += 1
    assert not torch.isclose(made(**request, hint=own)[0, 0, 0], base[0, 0, 0]).all()


@pytest.mark.parametrize("hint", [None, 5])
def test_flops_agree_with_counted_ones(hint: int | None) -> None:
    made, request = predictor(hint).float(), queries()
    request["context"] = request["context"][:1].float()
    request |= {
        "context_ids": request["context_ids"][:1],
        "target_ids": request["target_ids"][:, :1],
    }
    values = None if hint is None else normal(1, 48, hint).float()
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        made(**request, hint=values)
    assert counter.get_total_flops() == made.flops(10, 3, 4, 48)
