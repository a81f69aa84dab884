"""The transformer of ECG-JEPA (Kim 2024): a token attends along its lead and across its time."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.config import BACKBONES, Config, EncoderConfig, SinCos
from latentcast.nn.blocks import Attention, Block
from latentcast.nn.cells import Grid, gather, gather_flags
from latentcast.nn.positions import Tables, sincos
from latentcast.nn.transformer import PatchEncoder
from latentcast.randomness import Draw


class CrossPatternConfig(EncoderConfig):
    """The transformer's settings; its fixed positions are of leads × time."""

    plain: ClassVar[bool] = False

    kind: str = "cross_pattern"

    def check(self, config: Config) -> None:
        super().check(config)
        if config.input.lead_rows is None:
            raise ValueError(
                "encoder.kind cross_pattern attends along leads; set input.tokens=per_lead"
            )
        if self.cls or not isinstance(self.positions, SinCos) or self.width % 4:
            raise ValueError(
                "encoder.kind cross_pattern has sine-cosine positions of two axes and no CLS; set "
                "encoder.cls=false encoder.positions.kind=sincos and a width that is a multiple "
                "of 4"
            )


class CrossPatternAttention(Attention):
    """Attention where ``valid`` is ``(B, T, T)``: what each token may attend to."""

    def forward(
        self, x: Tensor, tables: Tables | None = None, valid: Tensor | None = None
    ) -> Tensor:
        q, k, v = self.split(self.packed(x), tables)
        mask = None if valid is None else valid[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.proj(out.transpose(1, 2).reshape(x.shape))
        return mixed


@BACKBONES.register
class CrossPatternEncoder(PatchEncoder):
    """:class:`PatchEncoder` whose positions are added before every block, and whose tokens attend
    to those of their lead and of their time alone. A lead has a position and no learned vector."""

    settings = CrossPatternConfig

    def __init__(self, config: CrossPatternConfig, rows: int) -> None:
        super().__init__(config, channels=rows, axes=1, lead_rows=rows)
        self.leads = None
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention = CrossPatternAttention(config)

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.encoder, CrossPatternConfig)
        assert config.input.lead_rows is not None
        return cls(config.encoder, config.input.lead_rows)

    def embed(self, values: Tensor) -> Tensor:
        tokens: Tensor = self.patches(values)
        return tokens

    def layers(
        self,
        tokens: Tensor,
        size: Grid,
        draw: Draw | None = None,
        kept: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        grid = self.patches.grid(size)
        cells = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        positions = sincos(grid, self.width, tokens.device, tokens.dtype, self.stretch)
        added = positions.expand(tokens.shape[0], -1, -1)
        if kept is not None:
            tokens, added, cells = gather(tokens, kept), gather(added, kept), kept
            valid = None if valid is None else gather_flags(valid, kept)
        attended = _crossed(cells, grid[1])
        if valid is not None:  # a token may always attend to itself, so that no row is empty
            itself = torch.eye(cells.shape[1], dtype=torch.bool, device=cells.device)
            attended = attended & (valid[:, None] | itself)
        states = [tokens]
        for block in self.blocks:
            assert isinstance(block, Block)
            states.append(block(states[-1] + added, None, block.keep(draw), attended))
        return [*states, self.norm(states[-1])]


def _crossed(cells: Tensor, times: int) -> Tensor:
    """Whether two of the cells ``(B, T)`` of leads × time share one of them: ``(B, T, T)``."""
    lead, time = cells // times, cells % times
    return (lead[:, :, None] == lead[:, None]) | (time[:, :, None] == time[:, None])
