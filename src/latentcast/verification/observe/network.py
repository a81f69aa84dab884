"""What a live network did, seen from outside, and plain float64 references to hold it against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from latentcast import randomness
from latentcast.batch import Inputs
from latentcast.nn import blocks
from latentcast.nn.blocks import Block, LayerScale, QKNorm
from latentcast.nn.hierarchy import Hierarchy
from latentcast.nn.state_space import StateSpaceConfig, StateSpaceEncoder
from latentcast.nn.tokens import PatchEmbedding, Tokenizer
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.base import Objective
from latentcast.verification.evidence import Evidence, all_of, at_most
from latentcast.verification.observe.hooks import hooked
from latentcast.verification.observe.twin import Twin

EXACT = 1e-9
"""Of float64 against float64: thousands of roundings of 1e-16, on numbers of order one."""


def furthest(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, relative to the second where that exceeds 1; infinite
    when a number is NaN, which ``max`` of several differences would pass over."""
    if a.shape != b.shape:
        return math.inf
    gap = (a.detach().double() - b.detach().double()).abs().max()
    relative = float(gap / b.detach().double().abs().max().clamp(min=1))
    return math.inf if math.isnan(relative) else relative


# Networks and what goes through them


def stirred(objective: Objective, seed: int, wide: bool = True) -> Objective:
    """The same network with every parameter random and of order one, so that each one shows.

    At initialisation biases are 0, gains 1 (or 1e-5) and attention is almost even: most of what
    could be wrong with them would not change a bit.

    Args:
        wide: in float64.
    """
    generator = torch.Generator().manual_seed(randomness.key(seed, "stirred") >> 1)
    objective = objective.double() if wide else objective
    with torch.no_grad():
        for module in objective.modules():
            for name, parameter in module.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                if isinstance(module, nn.LayerNorm | QKNorm):
                    drawn = 0.3 * noise + (1.0 if name == "weight" else 0.0)
                elif isinstance(module, LayerScale):
                    drawn = 0.6 + 0.2 * noise.clamp(-2, 2)
                elif parameter.ndim == 1:
                    drawn = 0.3 * noise
                else:
                    drawn = noise * 1.5 / math.sqrt(max(1, parameter[0].numel()))
                parameter.copy_(drawn)
    return objective


def real(twin: Twin, samples: int = 3) -> Inputs:
    """A few preprocessed samples of the twin in float64."""
    inputs = twin.inputs()
    valid = None if inputs.valid is None else inputs.valid[:samples]
    return Inputs(inputs.values[:samples].double(), valid)


def sequence(objective: Objective) -> PatchEncoder | StateSpaceEncoder:
    """The student's network over patches: tokenizer, CLS, blocks, norm."""
    encoder = objective.encoder("student")
    return encoder if isinstance(encoder, StateSpaceEncoder) else finest(objective)


def later_effect(twin: Twin) -> float:
    """What a later patch may change of an earlier output in float64: nothing where a mask hides
    it, roundings where a Fourier transform mixes all tokens and cancels them again."""
    return 1e-12 if isinstance(twin.recipe.encoder, StateSpaceConfig) else 0.0


def finest(objective: Objective) -> PatchEncoder:
    """The student's transformer over patches."""
    encoder = objective.encoder("student")
    patches = encoder.finest if isinstance(encoder, Hierarchy) else encoder
    assert isinstance(patches, PatchEncoder)
    return patches


@dataclass(frozen=True)
class AttentionCall:
    """What went into one attention and came out: ``(B, heads, T, head)`` each."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    causal: bool
    valid: Tensor | None


@contextmanager
def attention_calls() -> Iterator[list[AttentionCall]]:
    """Every attention computed while the context lasts, in order."""
    calls: list[AttentionCall] = []
    live = blocks.attend

    def watched(
        q: Tensor, k: Tensor, v: Tensor, causal: bool = False, valid: Tensor | None = None
    ) -> Tensor:
        out = live(q, k, v, causal, valid)
        call = AttentionCall(q.detach(), k.detach(), v.detach(), out.detach(), causal, valid)
        calls.append(call)
        return out

    blocks.attend = watched
    try:
        yield calls
    finally:
        blocks.attend = live


PARTS = ("norm1", "attention", "attention.qkv", "attention.proj", "norm2", "mlp")


@dataclass
class BlockPass:
    """One block's first forward pass.

    Attributes:
        name, module: of the block in the objective.
        before, after: of the block itself.
        into, out: of its parts, by name.
        call: of its attention.
    """

    name: str
    module: Block
    before: Tensor
    after: Tensor
    into: dict[str, Tensor] = field(default_factory=dict)
    out: dict[str, Tensor] = field(default_factory=dict)
    call: AttentionCall | None = None

    @property
    def attention(self) -> AttentionCall:
        """The call of its attention.

        Raises:
            ValueError: there was none.
        """
        if self.call is None:
            raise ValueError(f"{self.name}: computed no attention")
        return self.call

    @property
    def in_predictor(self) -> bool:
        return self.name.startswith("predictors")

    @property
    def branches(self) -> tuple[Tensor, Tensor]:
        """The outputs of attention and MLP, each times its gain."""
        gains = [gain(self.module.scale1), gain(self.module.scale2)]
        return self.out["attention"] * gains[0], self.out["mlp"] * gains[1]


def gain(scale: nn.Module) -> Tensor:
    """The gains of a LayerScale; 1 where there is none."""
    return scale.gain.detach() if isinstance(scale, LayerScale) else torch.ones(())


@torch.no_grad()
def block_passes(root: nn.Module, run: Callable[[], Any]) -> list[BlockPass]:
    """Input and output of every block under ``root``, of the first time that ``run`` runs it."""
    passes: dict[str, BlockPass] = {}
    handles: list[Any] = []

    def watch(name: str, block: Block, calls: list[AttentionCall]) -> None:
        into, outs, last = dict[str, Tensor](), dict[str, Tensor](), list[AttentionCall]()

        def of_part(part: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
                into[part], outs[part] = args[0].detach(), out.detach()
                if part == "attention" and calls:
                    last[:] = calls[-1:]

            return hook

        def done(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            found = BlockPass(name, block, args[0].detach(), out.detach(), into, outs, *last)
            passes.setdefault(name, found)

        for part in PARTS:
            handles.append(block.get_submodule(part).register_forward_hook(of_part(part)))
        handles.append(block.register_forward_hook(done))

    with attention_calls() as calls:
        for name, module in root.named_modules():
            if isinstance(module, Block):
                watch(name, module, calls)
        with hooked(handles):
            run()
    return list(passes.values())


def passes_of(twin: Twin) -> list[BlockPass]:
    """Every block of the stirred objective, teacher and predictors included, on real inputs."""
    objective = stirred(twin.objective(), twin.seed)
    return evaluated(objective, real(twin))


def evaluated(objective: Objective, inputs: Inputs) -> list[BlockPass]:
    """Every block that the objective runs in evaluation.

    Raises:
        ValueError: none was run.
    """
    found = block_passes(objective, lambda: objective(inputs, None))
    if not found:
        raise ValueError("no block was run")
    return found


def worst_of(
    passes: list[BlockPass],
    gap: Callable[[BlockPass], float],
    bound: float = EXACT,
    name: str = "largest difference",
) -> Evidence:
    """The largest of a difference over blocks, held against a bound."""
    gaps = {block.name: gap(block) for block in passes}
    where = max(gaps, key=lambda n: math.inf if math.isnan(gaps[n]) else gaps[n])
    return all_of(at_most(name, gaps[where], bound), where=where, blocks=len(gaps))


@contextmanager
def outputs_of(*modules: nn.Module) -> Iterator[list[list[Tensor]]]:
    """What each of the modules returned while the context lasts, with its graph."""
    found: list[list[Tensor]] = [[] for _ in modules]

    def appending(outputs: list[Tensor]) -> Callable[..., None]:
        return lambda module, args, out: outputs.append(out)

    pairs = zip(modules, found, strict=True)
    with hooked(module.register_forward_hook(appending(outputs)) for module, outputs in pairs):
        yield found


@contextmanager
def inputs_of(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """What entered the modules while the context lasts, in order."""
    entered: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        entered.append(args[0].detach().clone())

    with hooked(module.register_forward_pre_hook(enter) for module in modules):
        yield entered


# References, written out


def naive_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last axis, by its formula."""
    x = x.double()
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    variance = (centred * centred).sum(-1, keepdim=True) / x.shape[-1]
    out = centred / torch.sqrt(variance + eps)
    if weight is not None:
        out = out * weight.detach().double()
    return out if bias is None else out + bias.detach().double()


def naive_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``W x + b`` over the last axis."""
    out = torch.einsum("...i,oi->...o", x.double(), weight.detach().double())
    return out if bias is None else out + bias.detach().double()


def naive_attention(call: AttentionCall, causal: bool) -> Tensor:
    """Softmax of the scaled products of one query and its keys at a time.

    Keys that are not valid have no weight; a sample of which none is valid has all of them.
    """
    q, k, v = call.q.double(), call.k.double(), call.v.double()
    batch, _, tokens, head = q.shape
    out = torch.zeros_like(v)
    counts = torch.ones(batch, tokens, dtype=torch.float64)
    if call.valid is not None:
        for sample, own in enumerate(call.valid):
            if bool(own.any()):
                counts[sample] = own.double()
    for t in range(tokens):
        reach = t + 1 if causal else tokens
        logits = (q[:, :, t : t + 1] * k[:, :, :reach]).sum(-1) / math.sqrt(head)
        weight = torch.exp(logits - logits.amax(-1, keepdim=True)) * counts[:, None, :reach]
        weight = weight / weight.sum(-1, keepdim=True)
        out[:, :, t] = (weight.unsqueeze(-1) * v[:, :, :reach]).sum(2)
    return out


def naive_patches(tokenizer: Tokenizer, values: Tensor) -> Tensor:
    """Each patch cut out by hand and multiplied with each row of the weights, row-major.

    Another tokenizer than the linear one is given each patch alone, as an input of its own.
    """
    patch, tokens = tokenizer.patch, []
    leads = tokenizer.lead_rows
    for corner in corners(tuple(values.shape[2:]), patch, leads):
        own = window(values.double(), corner, patch, leads)
        if leads is not None and not isinstance(tokenizer, PatchEmbedding):
            own = own.expand(-1, leads, -1)
        if isinstance(tokenizer, PatchEmbedding):
            weight, bias = (t.detach().double() for t in (tokenizer.weight, tokenizer.bias))
            tokens.append(torch.einsum("bi,di->bd", own.flatten(1), weight.flatten(1)) + bias)
        else:
            tokens.append(tokenizer(own).detach()[:, 0])
    return torch.stack(tokens, dim=1)


def window(values: Tensor, corner: tuple[int, ...], patch: int, leads: int | None = None) -> Tensor:
    """The part of the last axes where a patch lies; what is written to it is written there."""
    for axis, start in enumerate(corner):
        extent = 1 if leads is not None and axis == 0 else patch
        values = values.narrow(axis - len(corner), start, extent)
    return values


def corners(size: tuple[int, ...], patch: int, leads: int | None = None) -> list[tuple[int, ...]]:
    """Where each patch begins, row-major; where each is of one lead, lead by lead."""
    rows = [] if leads is None else [range(leads)]
    return list(product(*rows, *(range(0, extent, patch) for extent in size)))


def thirds(x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """A packed ``(B, T, 3 · width)`` as q, k, v ``(B, heads, T, head)``: thirds, then heads."""
    size = x.shape[-1] // (3 * heads)
    parts = [x[..., start : start + size] for start in range(0, x.shape[-1], size)]
    q, k, v = (torch.stack(parts[n * heads :][:heads], dim=1) for n in range(3))
    return q, k, v


def measured_epsilon(norm: nn.LayerNorm | QKNorm, expected: float) -> float:
    """A norm halves the mean square of what has a variance of epsilon: which epsilon is that?"""
    width = norm.head if isinstance(norm, QKNorm) else norm.normalized_shape[0]
    x = torch.ones(1, 1, width, dtype=torch.float64)
    x[..., ::2] = -1
    with torch.no_grad():
        square = float(norm(x * math.sqrt(expected)).square().mean())
    return expected * (1 / square - 1) if square > 0 else math.inf
