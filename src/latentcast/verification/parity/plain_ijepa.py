"""I-JEPA of one level, written out plainly from its paper and code: the reference for ours.

No module of ours is called: patches are cut by hand, positions are computed one angle at a time,
attention is a softmax of a product. The weights are ours, by their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from latentcast.config import Config, EncoderConfig, Rotary, SinCos
from latentcast.objectives.jepa import JepaConfig
from latentcast.verification.observe.config import transformer_of

Weights = Mapping[str, Tensor]


def knows(config: Config) -> bool:
    """Whether it is written out for this kind of encoder."""
    e = transformer_of(config)
    plain = e.layer_scale is None and not (e.qk_norm or e.gated_mlp or e.causal or e.cls)
    normalized = not isinstance(e.positions, Rotary) or e.positions.coordinates == "normalized"
    return plain and e.activation == "gelu" and normalized


def loss(
    weights: Weights, config: Config, values: Tensor, context: Tensor, targets: Tensor
) -> Tensor:
    """``mean smooth_l1(predictor(encoder(context)), LN(teacher(input)))`` over all targets.

    Args:
        weights: of the objective by name (``student.finest.*``, ``teacher.finest.*``,
            ``predictors.0.*``), one level and no regularizer.
        context: ``(B, K)``.
        targets: ``(M, B, T)``.
    """
    assert isinstance(config.objective, JepaConfig)
    total, terms = values.new_zeros(()), 0
    with torch.no_grad():
        every = torch.arange(math.prod(config.grids[0]))
        teacher = [_encode(weights, "teacher.finest.", config, x, every) for x in values]
        teacher = [_normed(h, 1e-5) for h in teacher]
    for b, x in enumerate(values):
        encoded = _encode(weights, "student.finest.", config, x, context[b])
        for block in targets[:, b]:
            predicted = _predict(weights, config, encoded, context[b], block)
            gap = (predicted - teacher[b][block]).abs()
            total = total + torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum()
            terms += gap.numel()
    return total / terms


def level(
    w: Weights,
    at: str,
    e: EncoderConfig,
    grid: tuple[int, ...],
    means: Tensor,
    cells: Tensor,
    leads: bool = False,
) -> Tensor:
    """Tokens ``(K, width)`` of the valid cells of a coarser level, which attend to each other only.

    Args:
        at: prefix of the weights, as ``student.coarser.0.``.
        e: the encoder at the level's size.
        grid: of the level.
        means: ``(K, finer)``, the means of the finer tokens of each cell.
        cells: ``(K,)``, their places.
        leads: whether the rows of the grid are leads.
    """
    return _encoded(w, at, e, grid, _linear(w, f"{at}merge.proj", means), cells, leads)


def _encode(w: Weights, at: str, config: Config, x: Tensor, kept: Tensor) -> Tensor:
    """Tokens ``(K, width)`` of the kept patches of one input ``(channels, *size)``."""
    e, grid = transformer_of(config), config.grids[0]
    leads = config.input.lead_rows is not None
    if leads:
        own = [_unravelled(n, grid) for n in kept.tolist()]
        patches = torch.stack([x[lead, t * e.patch : (t + 1) * e.patch] for lead, t in own])
    else:
        patches = torch.stack([_patch(x, n, grid, e.patch) for n in kept.tolist()])
    return _encoded(w, at, e, grid, _linear(w, f"{at}patches", patches), kept, leads)


def _encoded(
    w: Weights,
    at: str,
    e: EncoderConfig,
    grid: tuple[int, ...],
    tokens: Tensor,
    places: Tensor,
    leads: bool,
) -> Tensor:
    """Positions, blocks and final norm over tokens ``(K, width)`` at places ``(K,)`` of a grid."""
    if leads:
        lead, places, grid = places // grid[1], places % grid[1], grid[1:]
        tokens = tokens + _lead_vectors(w, at, lead)
    turns: list[list[float]] | None = None
    if isinstance(e.positions, SinCos):
        tokens = tokens + sincos(places, grid, e.width, tokens)
    else:
        turns = [_angles(n, grid, e) for n in places.tolist()]
    tokens = _blocks(w, at, tokens, e.heads, e.norm_eps, turns)
    return _layer_norm(w, f"{at}norm", tokens, e.norm_eps)


def _predict(w: Weights, config: Config, tokens: Tensor, places: Tensor, targets: Tensor) -> Tensor:
    """Predictions ``(T, width)`` of one target block of one sample, from the context's tokens."""
    assert isinstance(config.objective, JepaConfig)
    p, grid, at = config.objective.predictor, config.grids[0], "predictors.0."
    eps = transformer_of(config).norm_eps
    context = _linear(w, f"{at}embed", tokens)
    of_context: Tensor | float = 0.0
    of_queries: Tensor | float = 0.0
    if config.input.lead_rows is not None:
        of_context = _lead_vectors(w, at, places // grid[1])
        of_queries = _lead_vectors(w, at, targets // grid[1])
        places, targets, grid = places % grid[1], targets % grid[1], grid[1:]
    context = context + sincos(places, grid, p.width, context) + of_context
    query = w[f"{at}mask_token"][0] + sincos(targets, grid, p.width, context) + of_queries
    out = _blocks(w, at, torch.cat([context, query]), p.heads, eps, None)
    return _linear(w, f"{at}proj", _layer_norm(w, f"{at}norm", out[len(context) :], eps))


def _lead_vectors(w: Weights, at: str, leads: Tensor) -> Tensor | float:
    """Of leads ``(K,)``; a grid with one row of them has none."""
    name = f"{at}leads.weight"
    return torch.stack([w[name][n] for n in leads.tolist()]) if name in w else 0.0


def _patch(x: Tensor, n: int, grid: tuple[int, ...], side: int) -> Tensor:
    for axis, index in enumerate(_unravelled(n, grid)):
        x = x.narrow(1 + axis, index * side, side)
    return x.flatten()


def _unravelled(n: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    return (n,) if len(grid) == 1 else (n // grid[1], n % grid[1])


def sincos(places: Tensor, grid: tuple[int, ...], width: int, like: Tensor) -> Tensor:
    """Columns first, then rows: sines, then cosines of ``i · 10000^(-k / pairs)``."""
    pairs = width // (2 * len(grid))
    rows = []
    for n in places.tolist():
        row: list[float] = []
        for index in reversed(_unravelled(n, grid)):
            angles = [index * 10000.0 ** (-k / pairs) for k in range(pairs)]
            row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        rows.append(row)
    return torch.tensor(rows, dtype=like.dtype)


def _angles(n: int, grid: tuple[int, ...], e: EncoderConfig) -> list[float]:
    """Rotary angles of a patch for one half of a head: of each axis ``2π · c · θ^(-k / pairs)``."""
    assert isinstance(e.positions, Rotary)
    pairs = e.width // e.heads // (2 * len(grid))
    return [
        2 * math.pi * ((index + 0.5) / extent * 2 - 1) * e.positions.theta ** (-k / pairs)
        for index, extent in zip(_unravelled(n, grid), grid, strict=True)
        for k in range(pairs)
    ]


def _blocks(
    w: Weights, at: str, x: Tensor, heads: int, eps: float, turns: list[list[float]] | None
) -> Tensor:
    """Pre-norm blocks over one sequence ``(T, width)``."""
    depth = 0
    while f"{at}blocks.{depth}.norm1.weight" in w:
        b = f"{at}blocks.{depth}."
        qkv = _linear(w, f"{b}attention.qkv", _layer_norm(w, f"{b}norm1", x, eps))
        x = x + _linear(w, f"{b}attention.proj", _attention(qkv, heads, turns))
        y = _linear(w, f"{b}mlp.up", _layer_norm(w, f"{b}norm2", x, eps))
        x = x + _linear(w, f"{b}mlp.down", y * (1 + torch.erf(y / math.sqrt(2))) / 2)
        depth += 1
    return x


def _attention(qkv: Tensor, heads: int, turns: list[list[float]] | None) -> Tensor:
    width = qkv.shape[1] // 3
    size, out = width // heads, []
    for head in range(heads):
        q, k, v = (qkv[:, part * width :][:, head * size : (head + 1) * size] for part in range(3))
        if turns is not None:
            q, k = _turned(q, turns), _turned(k, turns)
        scores = q @ k.T / math.sqrt(size)
        shares = (scores - scores.amax(1, keepdim=True)).exp()
        out.append(shares / shares.sum(1, keepdim=True) @ v)
    return torch.cat(out, dim=1)


def _turned(x: Tensor, turns: list[list[float]]) -> Tensor:
    """Each channel of the first half is turned in a plane with its partner of the second half."""
    angles = torch.tensor(turns, dtype=x.dtype)
    a, b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=1)


def _linear(w: Weights, at: str, x: Tensor) -> Tensor:
    """By the weights under a name; queries, keys and values may have no bias."""
    return x @ w[f"{at}.weight"].flatten(1).T + w.get(f"{at}.bias", 0.0)


def _layer_norm(w: Weights, at: str, x: Tensor, eps: float) -> Tensor:
    return _normed(x, eps) * w[f"{at}.weight"] + w[f"{at}.bias"]


def _normed(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
