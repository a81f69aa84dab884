"""The transformer block and its parts: attention, MLP, LayerScale, drop-path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import Activation, EncoderConfig
from latentcast.nn.base import Unit
from latentcast.nn.cpu_attention import computed_in, short_attention
from latentcast.nn.positions import Tables, rotate
from latentcast.randomness import Draw

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class QKNorm(nn.Module):
    """LayerNorm over the head dimension; scale and offset are optional (NEPA has neither)."""

    def __init__(self, head: int, affine: bool, bias: bool, eps: float) -> None:
        super().__init__()
        self.head, self.eps = head, eps
        self.weight = nn.Parameter(torch.ones(head)) if affine else None
        self.bias = nn.Parameter(torch.zeros(head)) if affine and bias else None

    def initialise_own(self, generator: torch.Generator) -> None:
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                parameter.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.head,), self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Multi-head self-attention with packed q, k, v; QK-norm before the rotation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.causal = config.heads, config.causal
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.proj = nn.Linear(config.width, config.width)
        head = config.width // config.heads
        norm = (head, config.qk_norm_affine, config.qk_norm_bias, config.norm_eps)
        self.q_norm: nn.Module = QKNorm(*norm) if config.qk_norm else nn.Identity()
        self.k_norm: nn.Module = QKNorm(*norm) if config.qk_norm else nn.Identity()
        self.eps = config.norm_eps if config.qk_norm else None
        self.affine = config.qk_norm and config.qk_norm_affine

    def forward(
        self, x: Tensor, tables: Tables | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """``(B, T, width)`` in and out.

        Args:
            tables: from :func:`rotary_tables`; None rotates nothing.
            valid: ``(B, T)`` bool, which tokens may be attended to; None when all may.
        """
        qkv = self.packed(x)
        if (dtype := self.short(qkv, valid)) is not None:
            out = short_attention(qkv, tables, self.eps, self.causal, valid, dtype)
        else:
            joined = attend(*self.split(qkv, tables), self.causal, valid)
            out = joined.transpose(1, 2).reshape(x.shape)
        mixed: Tensor = self.proj(out)
        return mixed

    def packed(self, x: Tensor) -> Tensor:
        """``(B, T, 3, heads, head)``."""
        batch, tokens, width = x.shape
        qkv: Tensor = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        return qkv

    def short(self, qkv: Tensor, valid: Tensor | None) -> torch.dtype | None:
        """The type in which ``short_attention`` computes this, or None where it does not."""
        unusual = self.affine or (self.causal and valid is not None)
        return None if unusual else computed_in(qkv)

    def split(self, qkv: Tensor, tables: Tables | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v ``(B, heads, T, head)``; q and k are normalised, then rotated."""
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        return q, k, v


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, valid: Tensor | None = None
) -> Tensor:
    """Softmax attention over ``(B, heads, T, head)``, in one type.

    Rotated q and k are float32 or wider. On a GPU they return to v's type for the fused kernel;
    on a CPU v joins them, also under autocast, because the bf16 kernel trains three times slower
    there. ``is_causal`` and never a dense mask, which costs another 1.8 times; ``valid`` is one
    row a sample, and a sample without a valid token attends to everything instead of to NaN.
    """
    mask = None
    if valid is not None:
        mask = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None, :]
    if q.device.type == "cpu":
        wide = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(
                q.to(wide), k.to(wide), v.to(wide), attn_mask=mask, is_causal=causal
            )
    q, k = q.to(v.dtype), k.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class MLP(nn.Module):
    """``down(act(up(x)))``, or gated ``down(act(gate(x)) · up(x))``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_width)
        self.gate = nn.Linear(config.width, config.mlp_width) if config.gated_mlp else None
        self.down = nn.Linear(config.mlp_width, config.width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.gate is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(self.gate(x)) * hidden
        out: Tensor = self.down(hidden)
        return out


class LayerScale(nn.Module):
    """A learned gain for each channel of a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.gain = nn.Parameter(torch.full((width,), value))

    def initialise_own(self, generator: torch.Generator) -> None:
        self.gain.fill_(self.value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def drop_path(x: Tensor, keep: Tensor | None, rate: float) -> Tensor:
    """Drop a residual branch of samples without ``keep`` and rescale the rest (Huang et al. 2016).

    ``keep`` is bool ``(B,)``; None drops nothing.
    """
    if keep is None:
        return x
    return x * (keep.to(x.dtype) / (1 - rate)).view(-1, *(1,) * (x.ndim - 1))


Keep = tuple[Tensor | None, Tensor | None]


class Block(Unit):
    """``x += γ₁ Attention(LN x)``, ``x += γ₂ MLP(LN x)``, drop-path on each branch.

    Args:
        config: of the transformer it belongs to.
        index: its place among ``config.depth`` blocks.
        stack: keeps the drop-path draws of two transformers in one network apart.
    """

    def __init__(self, config: EncoderConfig, index: int, stack: str = "") -> None:
        super().__init__()
        self.stream = f"{stack}{index}"
        self.drop_rate = config.drop_path * index / max(1, config.depth - 1)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.scale1 = _scale(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.scale2 = _scale(config)

    def forward(
        self,
        x: Tensor,
        tables: Tables | None = None,
        keep: Keep = (None, None),
        valid: Tensor | None = None,
    ) -> Tensor:
        branch = self.scale1(self.attention(self.norm1(x), tables, valid))
        x = x + drop_path(branch, keep[0], self.drop_rate)
        branch = self.scale2(self.mlp(self.norm2(x)))
        return x + drop_path(branch, keep[1], self.drop_rate)

    def keep(self, draw: Draw | None) -> Keep:
        """Which samples keep the two branches, as a function of (seed, step, sample).

        Without a ``draw`` (evaluation) all do. Not drawn in ``forward``: the step is a number of
        the host, and a compiled forward pass would be compiled anew for each.
        """
        if self.drop_rate == 0.0 or draw is None:
            return None, None
        attention, mlp = (
            draw.for_samples(f"drop-{branch}-{self.stream}") >= self.drop_rate
            for branch in ("attention", "mlp")
        )
        return attention, mlp


def _scale(config: EncoderConfig) -> nn.Module:
    if config.layer_scale is None:
        return nn.Identity()
    return LayerScale(config.width, config.layer_scale)
