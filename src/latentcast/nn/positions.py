"""Where a patch is: coordinates along each axis, and the rotary tables made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from latentcast.config import Rotary
from latentcast.nn.initialise import draw as draw_normal
from latentcast.randomness import Draw

Tables = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary angles, each ``(tokens, head)`` or ``(B, 1, tokens, head)``."""


class LeadEmbedding(nn.Module):
    """A learned vector for each lead: a lead has a name and no place on an axis.

    Args:
        rows: leads, or cells of merged leads.
        width: of a token.
        std: of the initial vectors.
    """

    def __init__(self, rows: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(rows, width))

    def initialise_own(self, generator: torch.Generator) -> None:
        draw_normal(self.weight, self.std, generator)

    def forward(self, times: int) -> Tensor:
        """For each cell of leads × time, row-major: ``(rows · times, width)``."""
        return self.weight.repeat_interleave(times, dim=0)


def over_rows(table: Tensor, rows: int | None) -> Tensor:
    """What is at each time ``(T, ...)``, in each row of leads × time: ``(rows · T, ...)``."""
    return table if rows is None else table.repeat(rows, *[1] * (table.ndim - 1))


@lru_cache(maxsize=64)
def sincos(
    grid: tuple[int, ...],
    width: int,
    device: torch.device,
    dtype: torch.dtype,
    stretch: tuple[float, ...] | None = None,
) -> Tensor:
    """Fixed sine-cosine positions of a grid, row-major: ``(N, width)`` (I-JEPA).

    Each axis takes an equal share of the channels, the last axis first, as
    ``[sin(i · ω_k), cos(i · ω_k)]`` with ``ω_k = 10000^(-k / K)``, ``K`` pairs and the integer
    index ``i`` of the cell; the positions of another resolution are therefore not rescaled, unless
    ``stretch`` gives how many cells of training a cell is along each axis: the centre of the cell
    is then looked up among theirs, ``(i + ½) · stretch − ½``.
    """
    pairs = width // (2 * len(grid))
    frequency = 10000.0 ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
    axes = [torch.arange(n, dtype=torch.float64) for n in grid]
    if stretch is not None:
        axes = [(axis + 0.5) * cells - 0.5 for axis, cells in zip(axes, stretch, strict=True)]
    indices = torch.meshgrid(*axes, indexing="ij")
    channels = []
    for index in reversed(indices):
        angles = index.flatten()[:, None] * frequency
        channels += [angles.sin(), angles.cos()]
    return torch.cat(channels, dim=1).to(device=device, dtype=dtype)


@contextmanager
def interpolated(network: nn.Module, stretch: tuple[float, ...]) -> Iterator[None]:
    """Within it, fixed positions of the network are those of training, interpolated.

    Rotary ones of images are relative to the image, and so are interpolated in any case.
    """
    modules = [module for module in network.modules() if hasattr(module, "stretch")]
    try:
        for module in modules:
            setattr(module, "stretch", stretch)  # noqa: B010
        yield
    finally:
        for module in modules:
            setattr(module, "stretch", None)  # noqa: B010


def patch_coordinates(
    grid: tuple[int, ...], positions: Rotary, patch_seconds: float | None, device: torch.device
) -> Tensor:
    """Coordinates of the patch centres in row-major order.

    Returns:
        ``(N, axes)`` float32. ``normalized``: ``(i + 0.5) / n * 2 - 1`` along each axis (NEPA,
        DINOv3). ``seconds``: centre in seconds over the shortest period, so one unit is one
        turn of the fastest frequency whatever the length of the input.
    """
    axes = []
    for n in grid:
        centre = torch.arange(n, device=device, dtype=torch.float32) + 0.5
        if positions.coordinates == "seconds":
            assert patch_seconds is not None  # Config refuses "seconds" for images
            axes.append(centre * (patch_seconds / positions.shortest_period))
        else:
            axes.append(centre / n * 2 - 1)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def augment_coordinates(coordinates: Tensor, positions: Rotary, draw: Draw) -> Tensor:
    """Shift, jitter and rescale coordinates for one training step (all samples alike).

    ``positions.shift`` adds a uniform offset to each axis, ``jitter`` multiplies each axis and
    ``rescale`` all axes together by log-uniform factors. ``(N, axes)`` in and out.
    """
    axes = coordinates.shape[1]
    if positions.shift is not None:
        offset = draw.for_step("rope-shift", axes, coordinates.device) * 2 - 1
        coordinates = coordinates + offset * positions.shift
    if positions.jitter is not None:
        exponent = draw.for_step("rope-jitter", axes, coordinates.device) * 2 - 1
        coordinates = coordinates * torch.exp(exponent * math.log(positions.jitter))
    if positions.rescale is not None:
        exponent = draw.for_step("rope-rescale", 1, coordinates.device) * 2 - 1
        coordinates = coordinates * torch.exp(exponent * math.log(positions.rescale))
    return coordinates


def rotary_tables(coordinates: Tensor, head: int, theta: float, prefix: int) -> Tables:
    """Cosine and sine of the rotary angles (Su et al. 2021; layout of the NEPA reference).

    ``angle = 2π · coordinate · θ^(-k / K)`` for ``k = 0 … K-1`` with ``K = head / (2 axes)``;
    angles of the axes side by side, then the whole repeated once for ``rotate_half``.

    Args:
        coordinates: ``(N, axes)``.
        head: dimensions of one attention head.
        prefix: tokens before the patches (CLS); they get angle 0, that is no rotation.

    Returns:
        two tensors ``(prefix + N, head)``.
    """
    pairs = head // (2 * coordinates.shape[1])
    exponents = torch.arange(pairs, device=coordinates.device, dtype=coordinates.dtype) / pairs
    angles = 2 * math.pi * coordinates[:, :, None] * theta**-exponents
    angles = angles.flatten(1).repeat(1, 2)
    angles = torch.cat([angles.new_zeros(prefix, head), angles])
    return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: Tables) -> Tensor:
    """Rotate ``(..., tokens, head)`` by the tables, pairing first half with second half."""
    cosine, sine = tables
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
