"""Training steps as a textbook writes them, in plain PyTorch: what a recipe's step is held against.

The shapes, the batch, the type and the number of layers are those of the recipe; what is left out
is what the recipe adds to them. Transformer blocks are those of nanoGPT (LayerNorm, one product for
q, k and v, ``scaled_dot_product_attention``, GELU), without QK-norm, rotary positions, LayerScale
or drop-path; the optimizer is ``AdamW`` as it comes, after ``clip_grad_norm_``. The inputs are
float tensors that are there already: no integers, no normalisation, no augmentation, no masks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import Config, EncoderConfig
from latentcast.engine.context import Context
from latentcast.nn.resnet import ResNetConfig
from latentcast.objectives.build import assemble
from latentcast.objectives.jepa import Jepa


class Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, dim=2)
        q, k, v = (p.view(batch, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Stack(nn.Module):
    """A linear embedding, learned positions, blocks, a norm."""

    def __init__(
        self, inputs: int, tokens: int, width: int, depth: int, heads: int, inner: int, causal: bool
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads, inner, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.embed(x) + self.positions[:, : x.shape[1]]
        h = z
        for block in self.blocks:
            h = block(h)
        return z, self.norm(h)


class Convolutions(nn.Module):
    """The residual network of the recipe with one-dimensional convolutions."""

    def __init__(self, settings: ResNetConfig, channels: int) -> None:
        super().__init__()

        def unit(a: int, b: int, kernel: int, stride: int = 1) -> nn.Sequential:
            conv = nn.Conv1d(a, b, kernel, stride, kernel // 2, bias=False)
            return nn.Sequential(conv, nn.BatchNorm1d(b))

        widths, strides = settings.widths, settings.strides
        self.stem = unit(channels, widths[0], settings.kernel(0), strides[0])
        self.first, self.second, self.skip = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for n, (before, after) in enumerate(pairwise(widths), start=1):
            self.first.append(unit(before, after, settings.kernel(n), strides[n]))
            self.second.append(unit(after, after, settings.kernel(n)))
            self.skip.append(unit(before, after, 1, strides[n]))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for first, second, skip in zip(self.first, self.second, self.skip, strict=True):
            x = F.relu(second(F.relu(first(x))) + skip(x))
        return x


def textbook_step(config: Config, context: Context) -> Callable[[], object] | None:
    """A training step of the recipe's shapes, or None where no textbook has one (hierarchies)."""
    encoder, device = config.encoder, context.device
    objective = _objective(config)
    if objective is None:
        return None
    loss_of, model, teacher = objective
    model.to(device).train()
    values = torch.randn(config.train.batch_size, config.input.channels, *config.input.size)
    values = values.to(device)
    if isinstance(encoder, ResNetConfig):
        size = config.of_views.input.size
        values = torch.cat([values[..., : size[0]]] * 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=config.optimizer.betas)
    clip = config.optimizer.clip_grad_norm

    def step() -> None:
        with context.autocast():
            loss = loss_of(values)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if teacher is not None:
            student, average = teacher
            with torch.no_grad():
                for ours, theirs in zip(student.parameters(), average.parameters(), strict=True):
                    theirs.mul_(0.99).add_(ours, alpha=0.01)

    return step


Teacher = tuple[nn.Module, nn.Module] | None


def _objective(config: Config) -> tuple[Callable[[Tensor], Tensor], nn.Module, Teacher] | None:
    encoder, channels = config.encoder, config.input.channels
    if isinstance(encoder, ResNetConfig) and config.objective.views is not None:
        net = Convolutions(encoder, channels)
        average = copy.deepcopy(net)

        def convolved(values: Tensor) -> Tensor:
            with torch.no_grad():
                target = average(values)
            return F.smooth_l1_loss(net(values).float(), target.float())

        return convolved, net, (net, average)
    if type(encoder) is not EncoderConfig or config.input.lead_rows is not None:
        return None
    axes = len(config.input.size)
    inputs, tokens = channels * encoder.patch**axes, math.prod(config.grids[0])
    shape = (encoder.width, encoder.depth, encoder.heads, encoder.mlp_width, encoder.causal)
    student = Stack(inputs, tokens + encoder.prefix, *shape)
    if config.objective.kind == "nepa":

        def next_patch(values: Tensor) -> Tensor:
            z, h = student(F.pad(_patches(values, encoder.patch), (0, 0, encoder.prefix, 0)))
            return -F.cosine_similarity(h[:, :-1].float(), z[:, 1:].detach().float(), -1).mean()

        return next_patch, student, None
    with torch.device("meta"):
        whole = assemble(config)
    if not isinstance(whole, Jepa) or len(whole.predictors) != 1:
        return None
    context, ((blocks, targets),) = whole.masks.sizes()
    kept, hidden = round(context), round(targets)
    own = whole.config.predictor
    sizes = (own.width, own.depth, own.heads, own.mlp_width, False)
    predictor = Stack(encoder.width, kept + hidden, *sizes)
    head = nn.Linear(own.width, encoder.width)
    average = copy.deepcopy(student)

    def hidden_patches(values: Tensor) -> Tensor:
        patches = _patches(values, encoder.patch)
        with torch.no_grad():
            target = F.layer_norm(average(patches)[1].float(), (encoder.width,))
        seen = student(patches[:, :kept])[1].repeat(blocks, 1, 1)
        rows = F.pad(seen, (0, 0, 0, hidden))  # the queries are positions
        predicted = head(predictor(rows)[1][:, -hidden:]).float()
        return F.smooth_l1_loss(predicted, target[:, -hidden:].repeat(blocks, 1, 1))

    return hidden_patches, nn.ModuleList([student, predictor, head]), (student, average)


def _patches(values: Tensor, patch: int) -> Tensor:
    """``(B, channels, *size)`` to ``(B, N, channels · patch^axes)``."""
    for axis in range(2, values.ndim):
        values = values.unfold(axis, patch, patch)
    axes = (values.ndim - 2) // 2
    places = range(2, 2 + axes)
    return values.permute(0, *places, 1, *range(2 + axes, 2 + 2 * axes)).flatten(1, axes).flatten(2)
