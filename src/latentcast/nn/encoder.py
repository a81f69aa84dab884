"""The patch encoder: patches and CLS in, one vector a token out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentcast import randomness
from latentcast.config import Config, EncoderConfig
from latentcast.nn.blocks import Block, LayerScale
from latentcast.nn.positions import augment_coordinates, patch_coordinates, rotary_tables
from latentcast.nn.tokens import PatchEmbedding
from latentcast.randomness import Draw


class PatchEncoder(nn.Module):
    """CLS + patch embeddings → pre-norm transformer → final norm (spec of NEPA, section 1.1).

    Two steps, because a NEPA target is the embedding *before* the transformer:
    :meth:`embed` and :meth:`transform`.

    Args:
        config: the transformer.
        channels: of the input (leads or colours).
        axes: 1 for recordings, 2 for images.
        patch_seconds: duration of a patch; needed for positions in seconds.
    """

    def __init__(
        self, config: EncoderConfig, channels: int, axes: int, patch_seconds: float | None = None
    ) -> None:
        super().__init__()
        self.config, self.patch_seconds = config, patch_seconds
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.patches = PatchEmbedding(channels, axes, config.patch, config.width)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    @classmethod
    def of(cls, config: Config) -> PatchEncoder:
        """The encoder of a run, not initialised yet."""
        size = len(config.input.size)
        return cls(config.encoder, config.input.channels, size, config.patch_seconds)

    def embed(self, values: Tensor) -> Tensor:
        """``(B, channels, *size)`` to CLS and patch embeddings ``(B, 1 + N, width)``."""
        patches = self.patches(values)
        return torch.cat([self.cls.expand(len(patches), -1, -1), patches], dim=1)

    def transform(
        self, embedding: Tensor, size: tuple[int, ...], draw: Draw | None = None
    ) -> Tensor:
        """The last of :meth:`layers`: ``(B, 1 + N, width)`` after the final norm."""
        return self.layers(embedding, size, draw)[-1]

    def layers(
        self, embedding: Tensor, size: tuple[int, ...], draw: Draw | None = None
    ) -> list[Tensor]:
        """Every depth: the embedding, the output of each block, the final norm.

        Args:
            embedding: from :meth:`embed`.
            size: of the input in samples or pixels; the grid and its coordinates follow from it.
            draw: randomness of a training step; None is evaluation (no drop-path, no
                augmentation of the coordinates).

        Returns:
            ``depth + 2`` tensors ``(B, 1 + N, width)``; see :attr:`layer_names`.
        """
        tables = self.tables(size, embedding.device, draw)
        states = [embedding]
        for block in self.blocks:
            states.append(block(states[-1], tables, draw))
        return [*states, self.norm(states[-1])]

    def tables(
        self, size: tuple[int, ...], device: torch.device, draw: Draw | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rotary tables ``(1 + N, head)`` for an input of this size; CLS is not rotated."""
        config = self.config
        grid = self.patches.grid(size)
        coordinates = patch_coordinates(grid, config.positions, self.patch_seconds, device)
        # Angles in the precision of the weights, so that a float64 model is float64 throughout.
        coordinates = coordinates.to(torch.promote_types(self.cls.dtype, torch.float32))
        if draw is not None:
            coordinates = augment_coordinates(coordinates, config.positions, draw)
        return rotary_tables(coordinates, config.width // config.heads, config.positions.theta, 1)

    @property
    def layer_names(self) -> tuple[str, ...]:
        return ("embedding", *(f"block {n}" for n in range(1, self.config.depth + 1)), "norm")

    def initialise(self, seed: int) -> None:
        """Draw the published initialisation, a function of the seed alone.

        Linear and patch weights and CLS truncated normal (std 0.02), biases 0, norms 1 and 0,
        LayerScale its value. CLS must not keep unit variance: the ECG port forgot it and began
        with a CLS three times the norm of a patch (spec of NEPA, defect 16).
        """
        generator = torch.Generator().manual_seed(randomness.key(seed, "initialise") >> 1)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear | PatchEmbedding):
                    nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                    if module.bias is not None:
                        module.bias.zero_()
                elif isinstance(module, nn.LayerNorm):
                    module.reset_parameters()
                elif isinstance(module, LayerScale):
                    module.gain.fill_(module.value)
            nn.init.trunc_normal_(self.cls, std=0.02, generator=generator)

    def forward_flops(self, tokens: int) -> int:
        """Floating-point operations of one sample's forward pass in matrix products.

        Two for each multiply-add; attention counted in full, as is customary, also when causal.
        """
        width = self.config.width
        matrices = sum(
            module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear)
        )
        embedding = 2 * (tokens - 1) * self.patches.weight.numel()
        return 2 * tokens * matrices + embedding + self.config.depth * 4 * tokens**2 * width
