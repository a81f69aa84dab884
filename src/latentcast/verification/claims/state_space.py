"""Diagonal state spaces: their convolution is the recurrence that they are named after."""

from __future__ import annotations

import torch
from torch import Tensor

from latentcast.nn.state_space import Modes, StateSpaceEncoder, long_convolution
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most
from latentcast.verification.observe.network import furthest
from latentcast.verification.observe.twin import Twin


def _has_states(twin: Twin) -> bool:
    return twin.recipe.encoder.kind == "s4d"


@claim("s4d.recurrence", "The long convolution of a block is the recurrence of its states, token "
       "by token; what reads backwards begins at the next token.",
       source="S4D (Gu et al. 2022), zero-order hold", about=_has_states)  # fmt: skip
@torch.no_grad()
def recurrence(twin: Twin) -> Evidence:
    encoder = twin.objective().encoder("student")
    assert isinstance(encoder, StateSpaceEncoder)
    modes = encoder.double().blocks[0].forward_modes
    assert isinstance(modes, Modes)
    generator = torch.Generator().manual_seed(twin.seed)
    x = torch.randn(2, 9, encoder.width, generator=generator, dtype=torch.float64)
    kernel = modes(x.shape[1])
    causal, later = _recurrence(modes, x), _recurrence(modes, x.flip(1)).flip(1)
    both = causal + torch.cat([later[:, 1:], torch.zeros_like(later[:, :1])], 1)
    size = float(both.abs().max())
    return all_of(
        at_most("causal", furthest(long_convolution(x, kernel), causal) / size, 1e-12),
        at_most("both ways", furthest(long_convolution(x, kernel, kernel), both) / size, 1e-12),
        tokens=x.shape[1], states=modes.frequency.shape[1],
    )  # fmt: skip


def _recurrence(modes: Modes, x: Tensor) -> Tensor:
    """``s_t = e^{ΔA} s_{t−1} + (e^{ΔA} − 1)/A · x_t``; ``y_t = 2 Re C s_t``."""
    a = torch.complex(-modes.log_decay.exp(), modes.frequency)
    decay = (a * modes.log_step.exp()[:, None]).exp()
    readout = torch.complex(modes.readout[..., 0], modes.readout[..., 1])
    state, out = torch.zeros(len(x), *a.shape, dtype=torch.complex128), []
    for token in x.unbind(1):
        state = decay * state + (decay - 1) / a * token[:, :, None]
        out.append(2 * (readout * state).sum(-1).real)
    return torch.stack(out, 1)
