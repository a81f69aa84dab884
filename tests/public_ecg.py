"""Public ECG encoders in the layouts of their files, and their forward passes written plainly.

The restatements are made of the papers and of what the published code computes; none is a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, DEPTH, HEADS = 64, 2, 4
Tensors = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {n: 0.3 * torch.randn(s, generator=generator) for n, s in shapes.items()}


def block_shapes(place: str, bias: bool, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{place}attn.qkv.weight": (3 * width, width)}
    for name, size in (("norm1", (width,)), ("norm2", (width,)), ("attn.proj", (width, width)),
                       ("mlp.fc1", (4 * width, width)),
                       ("mlp.fc2", (width, 4 * width))):  # fmt: skip
        shapes[f"{place}{name}.weight"] = size
        if bias:
            shapes[f"{place}{name}.bias"] = size[:1]
    return shapes


def attention(t: Tensors, p: str, x: Tensor, heads: int, seen: Tensor | None) -> Tensor:
    """Head by head."""
    size = x.shape[1] // heads
    q, k, v = (x @ t[f"{p}attn.qkv.weight"].T).chunk(3, dim=1)
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        out.append(scores.softmax(dim=1) @ v[:, part])
    return F.linear(torch.cat(out, 1), t[f"{p}attn.proj.weight"], t.get(f"{p}attn.proj.bias"))


def block(
    t: Tensors, p: str, x: Tensor, eps: float, heads: int, seen: Tensor | None = None
) -> Tensor:
    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:], t[f"{p}{name}.weight"], t.get(f"{p}{name}.bias"), eps)

    one = torch.ones(())
    x = x + t.get(f"{p}attn_ls.weight", one) * attention(t, p, norm("norm1", x), heads, seen)
    up = F.linear(norm("norm2", x), t[f"{p}mlp.fc1.weight"], t.get(f"{p}mlp.fc1.bias"))
    down = F.linear(F.gelu(up), t[f"{p}mlp.fc2.weight"], t.get(f"{p}mlp.fc2.bias"))
    return x + t.get(f"{p}mlp_ls.weight", one) * down


def sines(index: int, pairs: int) -> tuple[list[float], list[float]]:
    angles = [index / 10000 ** (k / pairs) for k in range(pairs)]
    return [math.sin(a) for a in angles], [math.cos(a) for a in angles]


def sehunfromdaegu(
    width: int = WIDTH, heads: int = HEADS
) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    shapes = {"W_P.weight": (width, 50), "W_P.bias": (width,), "norm.weight": (width,),
              "norm.bias": (width,)}  # fmt: skip
    for n in range(DEPTH):
        shapes |= block_shapes(f"encoder_blocks.blocks.{n}.", bias=True, width=width)
    tensors, places = drawn(shapes), [(lead, time) for lead in range(8) for time in range(50)]
    quarter = width // 4
    table = [
        [number for index in (time, lead) for half in sines(index, quarter) for number in half]
        for lead, time in places
    ]
    positions = torch.tensor(table, dtype=torch.float64)
    seen = torch.tensor([[a == c or b == d for c, d in places] for a, b in places])

    def forward(x: Tensor) -> Tensor:
        """Millivolts ``(8, 2500)`` to tokens."""
        t = {name: tensor.double() for name, tensor in tensors.items()}
        h = x.reshape(400, 50) @ t["W_P.weight"].T + t["W_P.bias"]
        for n in range(DEPTH):
            h = block(t, f"encoder_blocks.blocks.{n}.", h + positions, 1e-5, heads, seen)
        return F.layer_norm(h, (width,), t["norm.weight"], t["norm.bias"], 1e-5)

    return {"encoder": tensors | {"pos_embed": positions.float()}, "epoch": 100}, forward


def kweimann(
    registers: int, bias: bool, gain: float
) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    shapes = {"patch_embed.proj.weight": (WIDTH, 12, 25), "norm.weight": (WIDTH,)}
    for n in range(DEPTH):
        shapes |= block_shapes(f"blocks.{n}.", bias)
        shapes |= {f"blocks.{n}.{ls}.weight": (WIDTH,) for ls in ("attn_ls", "mlp_ls") if gain}
    shapes |= {"patch_embed.proj.bias": (WIDTH,), "norm.bias": (WIDTH,)} if bias else {}
    shapes |= {"registers": (1, registers, WIDTH)} if registers else {}
    tensors = drawn(shapes)

    def forward(x: Tensor) -> Tensor:
        """Normalised values ``(12, samples)`` to tokens."""
        t = {name: tensor.double() for name, tensor in tensors.items()}
        h = F.conv1d(x[None], t["patch_embed.proj.weight"], t.get("patch_embed.proj.bias"), 25)[0].T
        pairs = [zip(*sines(n, WIDTH // 2), strict=True) for n in range(len(h))]
        h = h + torch.tensor([[*chain(*row)] for row in pairs], dtype=torch.float64)
        if registers:
            h = torch.cat([t["registers"][0], h])
        for n in range(DEPTH):
            h = block(t, f"blocks.{n}.", h, 1e-6, HEADS)
        h = F.layer_norm(h, (WIDTH,), t["norm.weight"], t.get("norm.bias"), 1e-6)
        return h[registers:]

    settings = {
        "sampling_frequency": 100, "channel_size": 1000, "patch_size": 25, "min_block_size": 5,
        "channels": ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"],
        "min_keep_ratio": 0.15, "max_keep_ratio": 0.25, "dim": WIDTH, "depth": DEPTH,
        "num_heads": HEADS, "mlp_ratio": 4.0, "qkv_bias": False, "num_registers": registers,
        "bias": bias, "norm_eps": 1e-6, "layer_scale_eps": gain,
    }  # fmt: skip
    both = {f"{part}.{n}": t for part in ("target_encoder", "encoder") for n, t in tensors.items()}
    return {"model": both, "config": settings}, forward
