"""Slips in attention: products, heads, softmax, QK-norm, rotation, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.nn import blocks
from latentcast.nn.blocks import Attention, QKNorm
from latentcast.nn.hierarchy import Level
from latentcast.nn.positions import Tables, rotate
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.positions import Inject, patched
from latentcast.verification.observe.rotary import is_jepa, is_rotary
from latentcast.verification.observe.twin import Subject

Pair = tuple[Tensor, Tensor]
Trio = tuple[Tensor, Tensor, Tensor]


def _split(self: Attention, x: Tensor) -> Trio:
    batch, tokens, width = x.shape
    qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _prepare(self: Attention, q: Tensor, k: Tensor, tables: Tables | None) -> Pair:
    q, k = self.q_norm(q), self.k_norm(k)
    return _turned(q, tables), _turned(k, tables)


def _turned(x: Tensor, tables: Tables | None) -> Tensor:
    return x if tables is None else rotate(x, tables)


def _attention(
    split: Callable[[Attention, Tensor], Trio] = _split,
    prepare: Callable[[Attention, Tensor, Tensor, Tables | None], Pair] = _prepare,
) -> Inject:
    """Attention's forward pass with one of its halves exchanged."""

    def make(was: Any) -> Any:
        def slipped(
            self: Attention, x: Tensor, tables: Tables | None = None, seen: Tensor | None = None
        ) -> Tensor:
            batch, tokens, width = x.shape
            q, k, v = split(self, x)
            q, k = prepare(self, q, k, tables)
            out = blocks.attend(q, k, v, self.causal, seen)
            mixed: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
            return mixed

        return slipped

    return patched((Attention,), "forward", make)


def _weighted(weigh: Callable[[Tensor], Tensor], scale: float | None = None) -> Inject:
    """attend() written out, with another way from logits to weights."""

    def make(was: Any) -> Any:
        def slipped(
            q: Tensor, k: Tensor, v: Tensor, causal: bool = False, seen: Tensor | None = None
        ) -> Tensor:
            logits = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
            if seen is not None:
                told = (seen | ~seen.any(dim=1, keepdim=True))[:, None, None, :]
                logits = logits.masked_fill(~told, -1e9)
            if causal:
                future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                logits = logits.masked_fill(future, -1e9)
            return weigh(logits).to(v.dtype) @ v

        return slipped

    return patched((blocks,), "attend", make)


def _attend(change: Callable[..., Any]) -> Inject:
    return patched((blocks,), "attend", change)


def _one_more(was: Any) -> Any:
    """Causal with the diagonal one too far: token t sees t + 1."""

    def slipped(
        q: Tensor, k: Tensor, v: Tensor, causal: bool = False, seen: Tensor | None = None
    ) -> Any:
        if not causal:
            return was(q, k, v, causal, seen)
        mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).tril(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return slipped


def _swapped(self: Attention, x: Tensor) -> Trio:
    q, k, v = _split(self, x)
    return k, q, v


def _heads_last(self: Attention, x: Tensor) -> Trio:
    batch, tokens, width = x.shape
    qkv = self.qkv(x).view(batch, tokens, self.heads, 3, width // self.heads)
    q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
    return q, k, v


def _no_bias(self: Attention, x: Tensor) -> Trio:
    batch, tokens, width = x.shape
    qkv = F.linear(x, self.qkv.weight).view(batch, tokens, 3, self.heads, width // self.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _key_bias_zero(self: Attention, x: Tensor) -> Trio:
    """As in BEiT, whose keys have no bias."""
    q, k, v = _split(self, x)
    if self.qkv.bias is None:
        return q, k, v
    own = self.qkv.bias.chunk(3)[1].view(1, self.heads, 1, -1)
    return q, k - own, v


def _only(which: str) -> Callable[[Attention, Tensor, Tensor, Tables | None], Pair]:
    """QK-norm on one of the two."""

    def prepare(self: Attention, q: Tensor, k: Tensor, tables: Tables | None) -> Pair:
        q, k = (self.q_norm(q), k) if which == "q" else (q, self.k_norm(k))
        return _turned(q, tables), _turned(k, tables)

    return prepare


def _one_norm(self: Attention, q: Tensor, k: Tensor, tables: Tables | None) -> Pair:
    """The query's norm on both: seen where norms have weights of their own."""
    return _turned(self.q_norm(q), tables), _turned(self.q_norm(k), tables)


def _query_alone(self: Attention, q: Tensor, k: Tensor, tables: Tables | None) -> Pair:
    return _turned(self.q_norm(q), tables), self.k_norm(k)


def _backwards(self: Attention, q: Tensor, k: Tensor, tables: Tables | None) -> Pair:
    """Keys are turned the other way: logits depend on the sum of two positions."""
    q, k = self.q_norm(q), self.k_norm(k)
    back = None if tables is None else (tables[0], -tables[1])
    return _turned(q, tables), _turned(k, back)


def _norm_last(self: Attention, q: Tensor, k: Tensor, tables: Tables | None) -> Pair:
    normed: Pair = self.q_norm(_turned(q, tables)), self.k_norm(_turned(k, tables))
    return normed


def _qk_norm(norm: Callable[[QKNorm, Tensor], Tensor]) -> Inject:
    return patched((QKNorm,), "forward", lambda was: norm)


def _all_heads(self: QKNorm, x: Tensor) -> Tensor:
    """Over the whole width, as some public networks do, instead of over each head."""
    batch, heads, tokens, head = x.shape
    joined = x.transpose(1, 2).reshape(batch, tokens, heads * head)
    normed = F.layer_norm(joined, (heads * head,), eps=self.eps)
    return normed.view(batch, tokens, heads, head).transpose(1, 2)


def _over_tokens(self: QKNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x.transpose(-1, -2), (x.shape[-2],), eps=self.eps).transpose(-1, -2)


def _unit_length(self: QKNorm, x: Tensor) -> Tensor:
    """L2: a head of length 1 and not of √head."""
    return F.normalize(x, dim=-1)


def _root_mean_square(self: QKNorm, x: Tensor) -> Tensor:
    """RMSNorm: the mean stays in."""
    normed = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
    return normed if self.weight is None else normed * self.weight


def _values_turned(was: Any) -> Any:
    def slipped(
        self: Attention, x: Tensor, tables: Tables | None = None, seen: Tensor | None = None
    ) -> Tensor:
        q, k, v = _split(self, x)
        q, k = _prepare(self, q, k, tables)
        out = blocks.attend(q, k, _turned(v, tables), self.causal, seen)
        mixed: Tensor = self.proj(out.transpose(1, 2).reshape(x.shape))
        return mixed

    return slipped


def _seen_ignored(was: Any) -> Any:
    def slipped(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, seen: Any = None) -> Any:
        return was(q, k, v, causal, None)

    return slipped


def _nothing_seen(was: Any) -> Any:
    def slipped(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, seen: Any = None) -> Any:
        out = was(q, k, v, causal, seen)
        return out if seen is None else out * seen.any(1)[:, None, None, None].to(out.dtype)

    return slipped


def _levels_unmasked(was: Any) -> Any:
    """seen is not handed to the blocks."""

    def slipped(self: Level, below: Any, fine: Any, draw: Any) -> Any:
        live = blocks.Block.forward

        def blind(block: Any, x: Tensor, tables: Any, kept: Any, seen: Any) -> Tensor:
            return live(block, x, tables, kept, None)

        with replaced(blocks.Block, "forward", lambda was: blind):
            return was(self, below, fine, draw)

    return slipped


def _zeroed(was: Any) -> Any:
    """Padding's values are zeroed, and attended to."""

    def slipped(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, seen: Any = None) -> Any:
        if seen is not None:
            v = v * seen[:, None, :, None].to(v.dtype)
        return was(q, k, v, causal, None)

    return slipped


def _normed(subject: Subject) -> bool:
    return subject.config.encoder.qk_norm


def _rotary_norm(subject: Subject) -> bool:
    return _normed(subject) and is_rotary(subject)


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "attention.no-scale", "Logits are not divided by √head.", CLASSIC,
        _weighted(lambda logits: logits.softmax(-1), scale=1.0), ("attention.softmax",),
    ),
    Fault(
        "attention.double-softmax", "The weights go through a softmax again.", CLASSIC,
        _weighted(lambda logits: logits.softmax(-1).softmax(-1)), ("attention.softmax",),
    ),
    Fault(
        "attention.softmax-over-queries", "The softmax runs over the queries.", CLASSIC,
        _weighted(lambda logits: logits.softmax(-2)), ("attention.softmax",),
    ),
    Fault(
        "attention.heads-last", "The packed product is cut into heads first, then into q, k, v.",
        CLASSIC, _attention(split=_heads_last), ("attention.projections",),
    ),
    Fault(
        "attention.bias-dropped", "The bias of q, k and v is not added.", CLASSIC,
        _attention(split=_no_bias), ("attention.qkv-bias",),
    ),
    Fault(
        "attention.key-bias-zero", "Keys have no bias.", "classic (BEiT's habit)",
        _attention(split=_key_bias_zero), ("attention.qkv-bias",),
    ),
    Fault(
        "attention.swapped", "q and k are taken for each other.", CLASSIC,
        _attention(split=_swapped),
        ("attention.projections",), lambda s: is_jepa(s),
    ),
    Fault(
        "attention.causal-left-on", "A JEPA encoder is causal.", CLASSIC,
        _attend(lambda was: lambda q, k, v, causal=False, seen=None: was(q, k, v, True, None)),
        ("attention.both-directions", "attention.softmax"), is_jepa,
    ),
    Fault(
        "attention.padding-attended", "Padding is attended to.", "H-JEPA defect D14",
        _attend(_seen_ignored), ("attention.padding",), is_jepa,
    ),
    Fault(
        "attention.padding-zeroed", "Padding is zeroed, and weighs in the softmax.",
        "H-JEPA defect D14", _attend(_zeroed), ("attention.softmax",),
        lambda s: is_jepa(s) and len(s.config.grids) > 1,
    ),
    Fault(
        "attention.levels-unmasked", "Blocks of coarser levels attend to cells that are not seen.",
        CLASSIC, patched((Level,), "forward", _levels_unmasked), ("attention.padding",),
        lambda s: is_jepa(s) and len(s.config.grids) > 1,
    ),
    Fault(
        "attention.nothing-seen", "A sample of which nothing is seen attends to nothing.", CLASSIC,
        _attend(_nothing_seen), ("attention.padding",), is_jepa,
    ),
    Fault(
        "rope.query-alone", "Keys are not rotated.", CLASSIC, _attention(prepare=_query_alone),
        ("rope.angles", "rope.relative"), is_rotary,
    ),
    Fault(
        "rope.keys-backwards", "Keys are turned the other way.", CLASSIC,
        _attention(prepare=_backwards), ("rope.angles", "rope.relative"), is_rotary,
    ),
    Fault(
        "rope.values-turned", "Values are rotated, too.", CLASSIC,
        patched((Attention,), "forward", _values_turned), ("attention.projections",), is_rotary,
    ),
    Fault(
        "qk-norm.query-alone", "Keys are not normalised.", CLASSIC,
        _attention(prepare=_only("q")), ("qk-norm.per-head",), _normed,
    ),
    Fault(
        "qk-norm.shared", "Keys go through the norm of the queries.", CLASSIC,
        _attention(prepare=_one_norm), ("qk-norm.before-rotation",), _rotary_norm,
    ),
    Fault(
        "qk-norm.all-heads", "QK-norm runs over the whole width.", CLASSIC,
        _qk_norm(_all_heads), ("qk-norm.per-head",), _normed,
    ),
    Fault(
        "qk-norm.over-tokens", "QK-norm runs over the tokens.", CLASSIC,
        _qk_norm(_over_tokens), ("qk-norm.per-head",), _normed,
    ),
    Fault(
        "qk-norm.unit-length", "QK-norm is an L2 norm.", CLASSIC, _qk_norm(_unit_length),
        ("qk-norm.per-head",), _normed,
    ),
    Fault(
        "qk-norm.mean-left", "QK-norm is an RMSNorm.", CLASSIC, _qk_norm(_root_mean_square),
        ("qk-norm.before-rotation",), _rotary_norm,
    ),
    Fault(
        "qk-norm.after-rotation", "QK-norm comes after the rotation.", CLASSIC,
        _attention(prepare=_norm_last), ("qk-norm.before-rotation",), _rotary_norm,
    ),
)  # fmt: skip
