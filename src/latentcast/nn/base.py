"""The contracts of the networks: what an encoder does, and what evaluation reads."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from latentcast.config import BackboneConfig, Config
from latentcast.nn.cells import Grid, gather
from latentcast.nn.initialise import initialise
from latentcast.nn.tokens import Tokenizer
from latentcast.randomness import Draw


class Unit(nn.Module):
    """A repeated part of a network, such as a transformer block.

    The engine compiles, recomputes and shards units one by one.
    """


class Readable(nn.Module, ABC):
    """What frozen features are read from: tokens of every depth, on the grid of the patches."""

    causal: bool
    """Whether a token sees only the ones before it."""
    lead_rows: int | None = None
    """Rows of a grid of leads × time, where a token is of one lead; None where it is of all."""

    @property
    @abstractmethod
    def layer_names(self) -> tuple[str, ...]:
        """One for each of :meth:`read`."""

    @abstractmethod
    def grid(self, size: Grid) -> Grid:
        """Tokens along each axis of an input of ``size`` samples or pixels.

        Raises:
            LatentcastError: the input is no whole number of patches.
        """

    @abstractmethod
    def valid(self, mask: Tensor) -> Tensor:
        """Which tokens hold enough measured values to count.

        Args:
            mask: ``(B, channels, *size)`` bool, measured values.

        Returns:
            ``(B, N)`` bool.
        """

    @abstractmethod
    def flops(self, size: Grid, kept: int | None = None) -> int:
        """Operations in the matrix products of one sample's forward pass.

        Args:
            size: of the input.
            kept: patches that enter the network; all of them by default.
        """

    @abstractmethod
    def read(self, values: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """Tokens of every depth for evaluation: ``(B, k · N, width)`` for each layer.

        Of the last layer ``k`` is 1. A layer on a finer grid than the patches, as of a
        convolutional network, keeps its own: ``k`` tokens to a patch, those of a patch one after
        the other, so that a deviation over time is that of the layer and not of its means over
        patches. What pools them repeats the validity of a patch ``k`` times
        (:func:`~latentcast.nn.pooling.pool`).

        Args:
            values: ``(B, channels, *size)``.
            valid: ``(B, N)`` bool, tokens that may be attended to; None when all may.
        """


class Encoder(Readable):
    """A backbone: patches in, one vector a token out.

    Two steps, because a NEPA target is the embedding *before* the network (spec of NEPA, section
    1.1) and because a JEPA context drops tokens between them (spec of I-JEPA, 1.2): :meth:`embed`
    and :meth:`layers`. A new backbone is one file with its settings and this class, and one line
    in :mod:`latentcast.nn.backbones`.
    """

    settings: ClassVar[type[BackboneConfig]]

    width: int
    """Of a token that comes out."""
    prefix: int = 0
    """Tokens before those of the patches (a CLS token is one)."""
    can_drop: bool = True
    """Whether tokens can be left out before the network; otherwise the input is masked."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """What :meth:`embed` applies, to each patch by itself where tokens can be dropped."""

    @classmethod
    @abstractmethod
    def of(cls, config: Config) -> Self:
        """The encoder of a run, not initialised yet."""

    def grid(self, size: Grid) -> Grid:
        return self.tokenizer.grid(size)

    def valid(self, mask: Tensor) -> Tensor:
        return self.tokenizer.valid(mask)

    def embed(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to tokens ``(B, prefix + N, width)``, patch by patch.

        An encoder that cannot drop tokens may give several to a patch and look beyond it.
        """
        tokens: Tensor = self.tokenizer(values)
        return tokens

    @abstractmethod
    def layers(
        self,
        tokens: Tensor,
        size: Grid,
        draw: Draw | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        """The tokens after every depth, the embedding first and the output last.

        Args:
            tokens: from :meth:`embed`.
            size: of the input in samples or pixels; the grid and its coordinates follow from it.
            draw: randomness of a training step; None is evaluation.
            kept: ``(B, K)`` int64, the patches to keep; the others are dropped before the network.
                Only an encoder that :attr:`can_drop` tokens and has no prefix is given any.
            valid: ``(B, N)`` bool, patches that may be attended to; None when all may.

        Returns:
            ``(B, T, width)`` for each of :attr:`layer_names`; :meth:`read` about several to
            a patch.
        """

    def initialise(self, seed: int) -> None:
        """Draw the initial weights, a function of the seed alone."""
        initialise(self, seed)

    def transform(self, tokens: Tensor, size: Grid, draw: Draw | None = None) -> Tensor:
        """The last of :meth:`layers`: ``(B, prefix + N, width)``."""
        return self.layers(tokens, size, draw)[-1]

    def encode(
        self,
        values: Tensor,
        valid: Tensor | None = None,
        kept: Tensor | None = None,
        draw: Draw | None = None,
    ) -> Tensor:
        """Output tokens of the kept patches ``(B, K, width)``, which see nothing of the others.

        Tokens are dropped where the encoder can; otherwise the values of all other patches are set
        to 0 before it reads them, and its output is gathered.
        """
        size = tuple(values.shape[2:])
        if kept is None or self.can_drop:
            return self.layers(self.embed(values), size, draw, kept, valid)[-1]
        masked = mask_patches(values, kept, self.grid(size))
        return gather(self.layers(self.embed(masked), size, draw, None, valid)[-1], kept)

    def read(self, values: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        # A causal encoder attends to patches that are not valid in training, too.
        attended = None if self.causal else valid
        layers = self.layers(self.embed(values), tuple(values.shape[2:]), valid=attended)
        return [layer[:, self.prefix :] for layer in layers]


def mask_patches(values: Tensor, kept: Tensor, grid: Grid) -> Tensor:
    """``(B, channels, *size)`` with 0 in the place of every patch that is not kept.

    Args:
        kept: ``(B, K)`` int64, patches in row-major order.
        grid: patches along each axis.
    """
    masked = torch.ones(values.shape[0], math.prod(grid), dtype=torch.bool, device=values.device)
    return zero_patches(values, masked.scatter_(1, kept, False), grid)


def zero_patches(values: Tensor, masked: Tensor, grid: Grid) -> Tensor:
    """``(B, channels, *size)`` with 0 in the place of every masked patch.

    Args:
        masked: ``(B, N)`` bool, in row-major order.
        grid: patches along each axis.
    """
    flags = masked.view(-1, *grid)
    for axis, (extent, cells) in enumerate(zip(values.shape[2:], grid, strict=True), start=1):
        flags = flags.repeat_interleave(extent // cells, dim=axis)
    # where() and not a product: what is masked may be NaN.
    return torch.where(flags.unsqueeze(1), values.new_zeros(()), values)
