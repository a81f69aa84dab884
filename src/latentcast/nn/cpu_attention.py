"""Attention over few tokens on a CPU: the same numbers as ``attend``, in fewer passes.

There the kernel behind ``scaled_dot_product_attention`` works in float32, and of short sequences
and narrow heads most of the time goes into what surrounds it: queries and keys normalised and
rotated apart from each other, in float32, with a node of the graph for each operation. Here both
go through one norm and one rotation in the type of the network, products are batched in that type,
and the backward pass is written by hand. :func:`computed_in` is the rule of which is used where;
it asks for nothing but shapes, types and the processor, so that a resumed run takes the same path.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentcast.nn.positions import Tables

MOST_TOKENS = {torch.bfloat16: 512, torch.float32: 64}
"""Beyond them the kernel that never writes the weights down is as fast, or they are too many."""
FEW_TOKENS = 32
"""Up to them float32 is faster than the kernel on any processor."""
NARROW_HEAD = 32
"""Below it few tokens are not worth the preparation of a product in bf16."""


MULTIPLIES_BF16: bool = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
"""Whether the processor has instructions for products in bf16 (AVX512_BF16 or AMX)."""


def computed_in(qkv: Tensor) -> torch.dtype | None:
    """The type that :func:`short_attention` works in, or None where the kernel is to be used.

    On an AMD core with AVX512_BF16 and no AMX, forward and backward, against the kernel: bf16
    2.2 times as fast at 50 tokens and heads of 32, 2.4 at 201 of 64, 1.8 at 801 of 64; float32 1.7
    at 18 of 16, 1.2 at 50 of 32, 1.0 at 201 of 64. Long sequences in bf16 gain nothing where there
    is AMX. Exported graphs have the kernel, float64 too; float32 only where there is a gradient, so
    that what is evaluated has one path.

    Args:
        qkv: ``(B, T, 3, heads, head)``.
    """
    tokens, head, dtype = qkv.shape[1], qkv.shape[-1], qkv.dtype
    if qkv.device.type != "cpu" or torch.compiler.is_exporting():
        return None
    if dtype not in MOST_TOKENS or (dtype is torch.float32 and not torch.is_grad_enabled()):
        return None
    few = tokens <= FEW_TOKENS
    if dtype is torch.bfloat16 and not MULTIPLIES_BF16:
        return torch.float32 if few else None
    if dtype is torch.bfloat16 and few and head < NARROW_HEAD:
        return torch.float32
    return dtype if tokens <= MOST_TOKENS[dtype] else None


def short_attention(
    qkv: Tensor,
    tables: Tables | None,
    eps: float | None,
    causal: bool,
    valid: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Softmax attention of normalised and rotated queries and keys: ``(B, T, width)``.

    Args:
        qkv: ``(B, T, 3, heads, head)``.
        tables: of the rotation, both halves of a head alike; None rotates nothing.
        eps: of the norms of queries and keys, which have no weights; None normalises nothing.
        causal: whether a token attends to those before it only; then ``valid`` is None.
        valid: ``(B, T)`` bool, which tokens may be attended to.
        dtype: from :func:`computed_in`.
    """
    network = qkv.dtype
    with torch.autocast("cpu", enabled=False):
        cosine = sine = bias = None
        if tables is not None:
            cosine, sine = (table.to(dtype) for table in tables)
            half = sine.shape[-1] // 2
            sine = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        if causal:
            tokens = qkv.shape[1]
            bias = torch.full((1, tokens, tokens), -torch.inf, dtype=dtype).triu(1)
        elif valid is not None:
            masked = (~valid & valid.any(dim=1, keepdim=True)).repeat_interleave(qkv.shape[3], 0)
            bias = torch.where(masked, -torch.inf, 0.0).to(dtype)[:, None, :]
        if torch.compiler.is_compiling():  # which writes the backward pass, and fuses both
            return composed(qkv.to(dtype), cosine, sine, eps, bias).to(network)
        out: Tensor = _ShortAttention.apply(  # type: ignore[no-untyped-call]
            qkv.to(dtype), cosine, sine, eps, bias
        )
        return out.to(network)


def composed(
    qkv: Tensor,
    cosine: Tensor | None,
    sine: Tensor | None,
    eps: float | None,
    bias: Tensor | None,
) -> Tensor:
    """What :class:`_ShortAttention` computes, as operations that autograd differentiates."""
    head = qkv.shape[-1]
    both, v = qkv[:, :, :2].permute(2, 0, 3, 1, 4), qkv[:, :, 2].transpose(1, 2)
    if eps is not None:
        both = F.layer_norm(both, (head,), eps=eps)
    if cosine is not None and sine is not None:
        swapped = torch.cat([both[..., head // 2 :], both[..., : head // 2]], dim=-1)
        both = both * cosine + swapped * sine
    scores = both[0] @ both[1].transpose(-1, -2) * head**-0.5
    if bias is not None:
        scores = (scores.flatten(0, 1) + bias).view(scores.shape)
    out: Tensor = scores.softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cosine: Tensor | None,
        sine: Tensor | None,
        eps: float | None,
        bias: Tensor | None,
    ) -> Tensor:
        batch, tokens, _, heads, head = qkv.shape
        rows = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (3, B, heads, T, head)
        both, v = rows[:2], rows[2].flatten(0, 1)
        mean = spread = None
        turned = both
        if eps is not None:
            turned, mean, spread = torch.native_layer_norm(both, (head,), None, None, eps)
        if cosine is not None and sine is not None:
            turned = _turn(turned, cosine, sine)
        q, k = turned.flatten(1, 2)
        weights = _softmax(_scaled(bias, q, k.transpose(1, 2)))
        out = torch.bmm(weights, v).view(batch, heads, tokens, head)
        normed = None if eps is None else both
        ctx.save_for_backward(q, k, v, weights, normed, mean, spread, cosine, sine)
        return out.transpose(1, 2).reshape(batch, tokens, heads * head)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, normed, mean, spread, cosine, sine = ctx.saved_tensors
        batch, tokens, width = gradient.shape
        head = q.shape[-1]
        heads = width // head
        own = gradient.view(batch, tokens, heads, head).transpose(1, 2).reshape(q.shape)
        rows = q.new_empty(3, *q.shape)
        torch.bmm(weights.transpose(1, 2), own, out=rows[2])
        scores = torch._softmax_backward_data(
            torch.bmm(own, v.transpose(1, 2)), weights, -1, weights.dtype
        )
        rows[0] = _scaled(None, scores, k, head)
        rows[1] = _scaled(None, scores.transpose(1, 2), q, head)
        rows = rows.view(3, batch, heads, tokens, head)
        both = rows[:2]
        if cosine is not None:
            both = _turn(both, cosine, -sine)  # back by the same angles
        if normed is not None:
            both = torch.ops.aten.native_layer_norm_backward(
                both, normed, (head,), mean, spread, None, None, [True, False, False]
            )[0]
        if both is not rows[:2]:
            rows[:2] = both
        return rows.permute(1, 3, 0, 2, 4).contiguous(), None, None, None, None


def _scaled(bias: Tensor | None, a: Tensor, b: Tensor, head: int | None = None) -> Tensor:
    """``a b / √head + bias``, scaled and added by the product itself; ``(B · heads, ...)``."""
    scale = (head or a.shape[-1]) ** -0.5
    if bias is None:
        return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)
    return torch.baddbmm(bias, a, b, alpha=scale)


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate by tables whose sine has the sign of the half that it is added to."""
    half = x.shape[-1] // 2
    swapped = torch.cat([x[..., half:], x[..., :half]], dim=-1)
    return torch.mul(x, cosine).addcmul_(swapped, sine)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last axis, of short rows in float32: torch takes twice as long for them in bf16."""
    if scores.shape[-1] > 64:
        return scores.softmax(-1)
    return scores.float().softmax(-1).to(scores.dtype)
