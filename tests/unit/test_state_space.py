"""S4D: its kernel is its recurrence, what it reads, what its parameters begin and learn with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentcast.config import Config
from latentcast.engine.optimizer import build_optimizer
from latentcast.errors import LatentcastError
from latentcast.nn.backbones import build_encoder
from latentcast.nn.state_space import Modes, StateSpaceBlock, StateSpaceEncoder, long_convolution
from latentcast.objectives.build import build
from latentcast.recipes import recipe

BOTH = {"objective": {"kind": "two_views"}, "encoder.causal": False, "encoder.cls": False}


def config(changes: dict[str, Any] | None = None) -> Config:
    small = {"kind": "s4d", "width": 12, "depth": 2, "state": 4, "patch": 5, "stem_width": 6}
    made = recipe("nepa-ecg-tiny").updated({"encoder": small, "input.length": 60})
    return made.updated(changes or {})


def encoder(changes: dict[str, Any] | None = None) -> StateSpaceEncoder:
    made = build_encoder(config(changes))
    assert isinstance(made, StateSpaceEncoder)
    made.initialise(0)
    return made.double()


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def recurrence(modes: Modes, x: Tensor) -> Tensor:
    """``s_t = exp(ΔA) s_{t−1} + (exp(ΔA) − 1) / A · x_t``, ``y_t = 2 Re(C s_t)``, step by step."""
    a = torch.complex(-modes.log_decay.exp(), modes.frequency)
    decay = (a * modes.log_step.exp()[:, None]).exp()
    c = torch.complex(*modes.readout.unbind(-1))
    state, out = torch.zeros(len(x), *a.shape, dtype=torch.complex128), []
    for t in range(x.shape[1]):
        state = decay * state + (decay - 1) / a * x[:, t, :, None]
        out.append(2 * (c * state).sum(-1).real)
    return torch.stack(out, 1)


@pytest.mark.parametrize("length", [1, 2, 37])
@torch.no_grad()
def test_the_convolution_is_the_recurrence(length: int) -> None:
    block, x = encoder(BOTH).blocks[0], noise(3, length, 12)
    assert isinstance(block, StateSpaceBlock) and block.backward_modes is not None
    forward, backward = block.forward_modes, block.backward_modes
    causal = recurrence(forward, x)
    torch.testing.assert_close(long_convolution(x, forward(length)), causal)
    later = torch.cat([x[:, 1:], torch.zeros(3, 1, 12)], 1)
    both = causal + recurrence(backward, later.flip(1)).flip(1)
    torch.testing.assert_close(long_convolution(x, forward(length), backward(length)), both)


@torch.no_grad()
def test_padding_of_a_short_recording_changes_nothing_of_it() -> None:
    made, x = encoder(BOTH), noise(3, 12, 60)
    valid = torch.arange(12).expand(3, -1) < 8
    for one, alone in zip(made.read(x, valid), made.read(x[..., :40]), strict=True):
        torch.testing.assert_close(one[:, :8], alone)


def test_flops_agree_with_counted_ones() -> None:
    made = encoder()
    with FlopCounterMode(display=False) as counter:
        made.transform(made.embed(noise(1, 12, 60)), (60,))
    assert counter.get_total_flops() == made.flops((60,))


def test_the_dynamics_begin_as_s4d_lin_and_learn_slowly_without_decay() -> None:
    objective = build(config({"encoder.step": [0.02, 0.5]}))
    modes = objective.get_submodule("student.blocks.1.forward_modes")
    assert isinstance(modes, Modes)
    assert ((modes.log_step > math.log(0.02)) & (modes.log_step < math.log(0.5))).all()
    assert float(modes.log_step.detach().std()) > 0.3
    torch.testing.assert_close(modes.log_decay.exp(), torch.full((12, 4), 0.5))
    torch.testing.assert_close(modes.frequency[3], math.pi * torch.arange(4))
    groups = build_optimizer(objective, config().optimizer).param_groups
    own = {
        name.rpartition(".")[2]: (group["decayed"], group["lr_scale"])
        for group in groups for name in group["names"] if "forward_modes" in name
    }  # fmt: skip
    slow = (False, 0.1)
    assert own == {"log_step": slow, "log_decay": slow, "frequency": slow, "readout": (True, 1.0)}


def test_a_step_that_is_no_span_is_refused() -> None:
    with pytest.raises(LatentcastError, match=r"step .* is no span of positive numbers; set"):
        config({"encoder.step": [0.1, 0.01]})
