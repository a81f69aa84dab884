"""The transformer of ECG-JEPA (Weimann and Conrad 2024): register tokens beside the patches."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from latentcast.config import BACKBONES, Config, EncoderConfig, SinCos
from latentcast.nn.cells import Grid, gather, gather_flags
from latentcast.nn.initialise import draw as draw_normal
from latentcast.nn.positions import sincos
from latentcast.nn.transformer import PatchEncoder
from latentcast.randomness import Draw


class RegisterConfig(EncoderConfig):
    """The transformer's settings, and how many registers there are (Darcet et al. 2023)."""

    reads_leads: ClassVar[bool] = False
    plain: ClassVar[bool] = False

    kind: str = "registers"
    registers: Annotated[int, Field(ge=0)] = 1

    def check(self, config: Config) -> None:
        super().check(config)
        if self.cls or self.causal or not isinstance(self.positions, SinCos):
            raise ValueError(
                "encoder.kind registers has sine-cosine positions, and attends in both directions "
                "without CLS; set encoder.cls=false encoder.causal=false "
                "encoder.positions.kind=sincos"
            )


@BACKBONES.register
class RegisterEncoder(PatchEncoder):
    """:class:`PatchEncoder` with learned tokens that take part in attention and are no output.

    They have no position and are never dropped. Sines and cosines of the positions alternate.
    """

    settings = RegisterConfig

    def __init__(
        self,
        config: RegisterConfig,
        channels: int,
        axes: int,
        patch_seconds: float | None = None,
        lead_rows: int | None = None,
    ) -> None:
        super().__init__(config, channels, axes, patch_seconds, lead_rows)
        self.registers = Registers(config.registers, config.width)

    def embed(self, values: Tensor) -> Tensor:
        patches: Tensor = self.patches(values)
        grid = self.patches.grid(tuple(values.shape[2:]))
        halves = sincos(grid, self.width, patches.device, patches.dtype, self.stretch)
        alternating = halves.view(len(halves), len(grid), 2, -1).transpose(2, 3).flatten(1)
        return patches + alternating

    def layers(
        self,
        tokens: Tensor,
        size: Grid,
        draw: Draw | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        if kept is not None:
            tokens = gather(tokens, kept)
            valid = None if valid is None else gather_flags(valid, kept)
        count = self.registers.weight.shape[1]
        if valid is not None:
            valid = F.pad(valid, (count, 0), value=True)
        together = torch.cat([self.registers.weight.expand(len(tokens), -1, -1), tokens], dim=1)
        return [state[:, count:] for state in super().layers(together, size, draw, None, valid)]


class Registers(nn.Module):
    """Learned tokens ``(1, registers, width)``."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, count, width))

    def initialise_own(self, generator: torch.Generator) -> None:
        draw_normal(self.weight, 0.02, generator)
