"""Slips in blocks, norms, gains, MLP and patch embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.nn import blocks, encoder, hierarchy, predictor
from latentcast.nn.blocks import MLP, Block, Kept, LayerScale
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.positions import Tables
from latentcast.nn.tokens import PatchEmbedding
from latentcast.objectives import jepa
from latentcast.verification.fault import Fault
from latentcast.verification.faults.positions import Inject, is_image, patched
from latentcast.verification.observe.twin import Subject


def _block(step: Callable[[Block, Tensor, Callable[[Tensor], Tensor], Kept], Tensor]) -> Inject:
    """A block's forward pass written anew; the second argument attends."""

    def make(was: Any) -> Any:
        def slipped(
            self: Block, x: Tensor, tables: Tables | None = None, kept: Kept = (None, None),
            seen: Tensor | None = None,
        ) -> Tensor:  # fmt: skip
            return step(self, x, lambda y: self.attention(y, tables, seen), kept)

        return slipped

    return patched((Block,), "forward", make)


def _drop(self: Block, x: Tensor, kept: Tensor | None) -> Tensor:
    return blocks.drop_path(x, kept, self.drop_rate)


def _post_norm(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    x = self.norm1(x + _drop(self, self.scale1(attend(x)), kept[0]))
    out: Tensor = self.norm2(x + _drop(self, self.scale2(self.mlp(x)), kept[1]))
    return out


def _one_norm(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    """norm1 twice: norm2 is never used."""
    x = x + _drop(self, self.scale1(attend(self.norm1(x))), kept[0])
    return x + _drop(self, self.scale2(self.mlp(self.norm1(x))), kept[1])


def _parallel(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    first = _drop(self, self.scale1(attend(self.norm1(x))), kept[0])
    return x + first + _drop(self, self.scale2(self.mlp(self.norm2(x))), kept[1])


def _normed_stream(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    """What is added to is the norm and not what was normed."""
    x = self.norm1(x)
    x = x + _drop(self, self.scale1(attend(x)), kept[0])
    return x + _drop(self, self.scale2(self.mlp(self.norm2(x))), kept[1])


def _mlp_unscaled(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    x = x + _drop(self, self.scale1(attend(self.norm1(x))), kept[0])
    return x + _drop(self, self.mlp(self.norm2(x)), kept[1])


def _attention_unscaled(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    x = x + _drop(self, attend(self.norm1(x)), kept[0])
    return x + _drop(self, self.scale2(self.mlp(self.norm2(x))), kept[1])


def _one_gain(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    """The first gain on both branches."""
    x = x + _drop(self, self.scale1(attend(self.norm1(x))), kept[0])
    return x + _drop(self, self.scale1(self.mlp(self.norm2(x))), kept[1])


def _scaled_input(self: Block, x: Tensor, attend: Any, kept: Kept) -> Tensor:
    """The gain before the branch and not after it."""
    x = x + _drop(self, attend(self.scale1(self.norm1(x))), kept[0])
    return x + _drop(self, self.mlp(self.scale2(self.norm2(x))), kept[1])


def _mlp(act: Callable[[Tensor], Tensor], down: bool = True) -> Inject:
    def make(was: Any) -> Any:
        def slipped(self: MLP, x: Tensor) -> Tensor:
            hidden = act(self.up(x))
            if self.gate is not None:
                hidden = act(self.gate(x)) * self.up(x)
            out: Tensor = self.down(hidden) if down else F.linear(hidden, self.down.weight)
            return out

        return slipped

    return patched((MLP,), "forward", make)


def _layers(slip: str) -> Inject:
    """PatchEncoder.layers with the norm or the last block left out."""

    def make(was: Any) -> Any:
        def slipped(self: PatchEncoder, *args: Any, **named: Any) -> list[Tensor]:
            states: list[Tensor] = was(self, *args, **named)
            if slip == "norm":
                return [*states[:-1], states[-2]]
            return [*states[:-1], self.norm(states[-3])]

        return slipped

    return patched((PatchEncoder,), "layers", make)


class _LooseNorm(nn.LayerNorm):
    """A LayerNorm whose caller forgot to pass on the epsilon."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width)


class _Norms:
    """torch.nn with another LayerNorm."""

    LayerNorm = _LooseNorm

    def __getattr__(self, name: str) -> Any:
        return getattr(nn, name)


def _gains_of_one(was: Any) -> Any:
    """The gain that initialise() leaves at 1, as it does with a norm's weight."""

    def slipped(network: nn.Module, seed: int, part: str = "initialise") -> None:
        was(network, seed, part)
        for module in network.modules():
            if isinstance(module, LayerScale):
                module.gain.data.fill_(1.0)

    return slipped


def _unfold(order: Callable[[PatchEmbedding, Tensor, Callable[..., Tensor]], Tensor]) -> Inject:
    def make(was: Any) -> Any:
        return lambda self, values: order(self, values, was)

    return patched((PatchEmbedding,), "unfold", make)


def _leads_last(self: PatchEmbedding, values: Tensor, was: Callable[..., Tensor]) -> Tensor:
    """A patch's values with the channel running fastest, the weight's with the channel slowest."""
    patches = was(self, values)
    inside = self.patch**self.axes
    split = patches.view(*patches.shape[:2], values.shape[1], inside)
    return split.transpose(2, 3).reshape(patches.shape)


def _reshaped(self: PatchEmbedding, values: Tensor, was: Callable[..., Tensor]) -> Tensor:
    """A view instead of a permutation: a "patch" is a run of memory of one channel."""
    patches = was(self, values)
    return values.reshape(patches.shape)


def _patch_transposed(self: PatchEmbedding, values: Tensor, was: Callable[..., Tensor]) -> Tensor:
    if self.axes == 1:
        return was(self, values)
    patches = was(self, values)
    split = patches.view(*patches.shape[:2], values.shape[1], self.patch, self.patch)
    return split.transpose(-1, -2).reshape(patches.shape)


def _columns_first(self: PatchEmbedding, values: Tensor, was: Callable[..., Tensor]) -> Tensor:
    patches, grid = was(self, values), self.grid(values.shape[2:])
    order = torch.arange(patches.shape[1]).view(grid).permute(*reversed(range(len(grid))))
    return patches[:, order.flatten()]


def _without_bias(was: Any) -> Any:
    return lambda self, values: F.linear(self.unfold(values), self.weight.flatten(1))


def _scaled(subject: Subject) -> bool:
    return subject.config.encoder.layer_scale is not None


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "block.post-norm", "Norms come after the sums.", CLASSIC, _block(_post_norm),
        ("block.pre-norm", "block.residual"),
    ),
    Fault(
        "block.one-norm", "The first norm is used for both branches.", "H-JEPA defect D15",
        _block(_one_norm), ("block.pre-norm",),
    ),
    Fault(
        "block.parallel", "The MLP does not see what attention added.", CLASSIC,
        _block(_parallel), ("block.pre-norm",),
    ),
    Fault(
        "block.normed-stream", "Branches are added to the norm.", CLASSIC, _block(_normed_stream),
        ("block.residual",),
    ),
    Fault(
        "layer-scale.mlp-without", "The MLP's branch has no gain.", CLASSIC, _block(_mlp_unscaled),
        ("layer-scale.place", "block.residual"), _scaled,
    ),
    Fault(
        "layer-scale.attention-without", "Attention's branch has no gain.", CLASSIC,
        _block(_attention_unscaled), ("layer-scale.place", "block.residual"), _scaled,
    ),
    Fault(
        "layer-scale.shared", "Both branches have the first gain.", CLASSIC, _block(_one_gain),
        ("layer-scale.place",), _scaled,
    ),
    Fault(
        "layer-scale.before", "The gain comes before the branch.", CLASSIC, _block(_scaled_input),
        ("layer-scale.place",), _scaled,
    ),
    Fault(
        "layer-scale.one", "Gains begin at 1.", CLASSIC,
        patched((encoder, hierarchy, jepa), "initialise", _gains_of_one),
        ("layer-scale.initial",),
        lambda s: s.config.encoder.layer_scale not in (None, 1.0),
    ),
    Fault(
        "mlp.tanh", "GELU by its tanh approximation.", CLASSIC,
        _mlp(lambda x: F.gelu(x, approximate="tanh")), ("mlp.product",),
    ),
    Fault("mlp.relu", "ReLU for GELU.", CLASSIC, _mlp(F.relu), ("mlp.product",)),
    Fault(
        "mlp.bias-dropped", "The MLP's second bias is not added.", CLASSIC,
        _mlp(F.gelu, down=False), ("mlp.product",),
    ),
    Fault(
        "encoder.no-final-norm", "The final norm is not applied.", CLASSIC, _layers("norm"),
        ("encoder.stack",),
    ),
    Fault(
        "encoder.block-short", "The norm reads the last block but one.", CLASSIC, _layers("block"),
        ("encoder.stack",),
    ),
    Fault(
        "norm.epsilon-default", "Norms keep torch's epsilon of 1e-5.", CLASSIC,
        patched((blocks, encoder, hierarchy, predictor), "nn", lambda was: _Norms()),
        ("norm.epsilon",),
    ),
    Fault(
        "patches.leads-last", "A patch is unfolded time-major for channel-major weights.",
        "NEPA-ECG defect 13", _unfold(_leads_last), ("patches.product",),
        lambda s: s.config.encoder.patch > 1,
    ),
    Fault(
        "patches.reshaped", "A reshape where a permutation belongs.", "NEPA-ECG defect 13",
        _unfold(_reshaped), ("patches.order", "patches.product"),
        lambda s: s.config.input.channels > 1,
    ),
    Fault(
        "patches.transposed", "Rows and columns inside a patch are swapped.", CLASSIC,
        _unfold(_patch_transposed), ("patches.product",),
        lambda s: is_image(s) and s.config.encoder.patch > 1,
    ),
    Fault(
        "patches.reversed", "Patches come last first.", CLASSIC,
        _unfold(lambda self, values, was: was(self, values).flip(1)), ("patches.order",),
    ),
    Fault(
        "patches.columns-first", "Patches come column by column.", CLASSIC,
        _unfold(_columns_first), ("patches.order",), is_image,
    ),
    Fault(
        "patches.bias-dropped", "The patch bias is not added.", CLASSIC,
        patched((PatchEmbedding,), "forward", _without_bias), ("patches.product",),
    ),
)  # fmt: skip
