"""A transformer whose tokens are made by convolutions inside each patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import BACKBONES, EncoderConfig
from latentcast.config.settings import Count
from latentcast.nn.tokens import Tokenizer
from latentcast.nn.transformer import PatchEncoder


class ConvEncoderConfig(EncoderConfig):
    """The transformer's settings, and those of the convolutions in front of it."""

    kind: str = "conv_transformer"
    stem_width: Count = 32
    """Channels between the convolutions."""
    stem_kernel: Count = 7
    """Samples or pixels a side; the patch is padded with zeros so that its size stays."""


class ConvTokenizer(Tokenizer):
    """``token = W · gelu(conv(gelu(conv(patch))))``, each patch padded and read by itself.

    No convolution crosses from one patch into the next, so hidden content cannot reach a visible
    token and a NEPA target shows its own patch only.
    """

    def __init__(
        self, config: ConvEncoderConfig, channels: int, axes: int, lead_rows: int | None = None
    ) -> None:
        super().__init__(config.patch, axes, lead_rows)
        channels = channels if lead_rows is None else 1
        conv: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d if axes == 1 else nn.Conv2d
        inner, kernel = config.stem_width, config.stem_kernel
        self.conv1 = conv(channels, inner, kernel, padding="same")
        self.conv2 = conv(inner, inner, kernel, padding="same")
        self.proj = nn.Linear(inner * config.patch**axes, config.width)

    def forward(self, values: Tensor) -> Tensor:
        patches = self.unfold(values)
        batch, count, _ = patches.shape
        x = patches.reshape(batch * count, self.conv1.in_channels, *(self.patch,) * self.axes)
        x = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        out: Tensor = self.proj(x.reshape(batch, count, -1))
        return out

    def flops(self, patches: int) -> int:
        positions: int = self.patch**self.axes
        convolutions = (self.conv1.weight.numel() + self.conv2.weight.numel()) * positions
        return int(2 * patches * (convolutions + self.proj.weight.numel()))


@BACKBONES.register
class ConvPatchEncoder(PatchEncoder):
    """:class:`PatchEncoder` with a :class:`ConvTokenizer` in the place of the linear patches."""

    settings = ConvEncoderConfig

    def make_tokenizer(self, channels: int, axes: int) -> Tokenizer:
        assert isinstance(self.config, ConvEncoderConfig)
        return ConvTokenizer(self.config, channels, axes, self.lead_rows)
