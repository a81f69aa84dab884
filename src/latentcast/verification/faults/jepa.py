"""Bugs of a JEPA's context and loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.nn.cells import gather, gather_flags
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.hierarchy import Tokens
from latentcast.nn.tokens import PatchEmbedding
from latentcast.objectives import jepa
from latentcast.objectives.base import Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.claims.jepa import is_plain
from latentcast.verification.claims.masks import draws_own
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.jepa import is_hierarchy, is_jepa, marked, taught

# The context


def _layers(change: Any) -> AbstractContextManager[None]:
    """``PatchEncoder.layers`` with a context is ``change(was, ...)`` instead."""

    def make(was: Any) -> Any:
        def layers(
            self: PatchEncoder,
            embedding: Tensor,
            size: tuple[int, ...],
            draw: Draw | None = None,
            kept: Tensor | None = None,
            seen: Tensor | None = None,
        ) -> Any:
            if kept is None:
                return was(self, embedding, size, draw, kept, seen)
            return [gather(x, kept) for x in change(was, self, embedding, size, draw, kept, seen)]

        return layers

    return replaced(PatchEncoder, "layers", make)


def _zeroed() -> AbstractContextManager[None]:
    def change(
        was: Any, self: Any, embedding: Tensor, size: Any, draw: Any, kept: Tensor, seen: Any
    ) -> Any:
        flags = marked(kept, embedding.shape[1]).unsqueeze(-1)
        return was(self, embedding * flags, size, draw, None, seen)

    return _layers(change)


def _chosen_afterwards() -> AbstractContextManager[None]:
    def change(
        was: Any, self: Any, embedding: Tensor, size: Any, draw: Any, kept: Tensor, seen: Any
    ) -> Any:
        return was(self, embedding, size, draw, None, seen)

    return _layers(change)


def _centred_patches() -> AbstractContextManager[None]:
    """Each sample's patches are centred on their mean: over the hidden ones, too."""

    def make(was: Any) -> Any:
        def forward(self: PatchEmbedding, values: Tensor) -> Tensor:
            out: Tensor = was(self, values)
            return out - out.mean(dim=1, keepdim=True)

        return forward

    return replaced(PatchEmbedding, "forward", make)


def _mask_shifted() -> AbstractContextManager[None]:
    """The student keeps the patches after those it was told to."""

    def make(was: Any) -> Any:
        def layers(
            self: PatchEncoder,
            embedding: Tensor,
            size: tuple[int, ...],
            draw: Draw | None = None,
            kept: Tensor | None = None,
            seen: Tensor | None = None,
        ) -> Any:
            if kept is not None:
                kept = (kept + 1) % embedding.shape[1]
            return was(self, embedding, size, draw, kept, seen)

        return layers

    return replaced(PatchEncoder, "layers", make)


# The loss


def _error(change: Any) -> AbstractContextManager[None]:
    """Another error of a prediction than smooth-L1; which targets count stays as it is."""

    def make(was: Any) -> Any:
        def smooth_l1(
            predicted: Tensor, target: Tensor, told: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            error = change(predicted, target)
            flags = torch.ones_like(error, dtype=torch.bool) if told is None else told
            count = flags.sum().to(error.dtype)
            return torch.where(flags, error, 0).sum() / count.clamp(min=1), count

        return smooth_l1

    return replaced(jepa, "_smooth_l1", make)


def _squared() -> AbstractContextManager[None]:
    return _error(lambda p, h: (p - h).square().mean(-1))


def _beta() -> AbstractContextManager[None]:
    return _error(lambda p, h: F.smooth_l1_loss(p, h, reduction="none", beta=0.1).mean(-1))


def _summed() -> AbstractContextManager[None]:
    return _error(lambda p, h: F.smooth_l1_loss(p, h, reduction="none").sum(-1))


def _unit_length() -> AbstractContextManager[None]:
    def error(p: Tensor, h: Tensor) -> Tensor:
        p, h = F.normalize(p, dim=-1), F.normalize(h, dim=-1)
        return F.smooth_l1_loss(p, h, reduction="none").mean(-1)

    return _error(error)


def _equal_shares() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        def init(self: Jepa, *args: Any) -> None:
            was(self, *args)
            self.shares = [1 / len(self.shares)] * len(self.shares)

        return init

    return replaced(Jepa, "__init__", make)


def _by_cells() -> AbstractContextManager[None]:
    """The levels are joined by how many targets they have."""

    def make(was: Any) -> Any:
        def energy(self: Jepa, values: Tensor, valid: Any, masks: Masks, draw: Any) -> Output:
            shares, counts = self.shares, [float(t.numel()) for t in masks.targets]
            self.shares = [count / sum(counts) for count in counts]
            try:
                out: Output = was(self, values, valid, masks, draw)
                return out
            finally:
                self.shares = shares

        return energy

    return replaced(Jepa, "energy", make)


def _over_padding() -> AbstractContextManager[None]:
    return replaced(jepa, "_told", lambda was: lambda level, asked: None)


def _pieces_alike() -> AbstractContextManager[None]:
    """Every piece of a batch weighs the same, whatever is in it."""

    def make(was: Any) -> Any:
        def energy(self: Jepa, *args: Any) -> Output:
            out: Output = was(self, *args)
            return replace(out, weight=torch.ones_like(out.weight))

        return energy

    return replaced(Jepa, "energy", make)


@contextmanager
def _padded_with_patch_0() -> Iterator[None]:
    """Targets that were not measured are replaced by patch 0, and counted."""

    def make(was: Any) -> Any:
        def energy(
            self: Jepa, values: Tensor, valid: Tensor | None, masks: Masks, draw: Draw | None
        ) -> Output:
            if valid is not None:
                told = gather_flags(valid, masks.targets[0])
                asked = torch.where(told, masks.targets[0], 0)
                masks = Masks(masks.context, (asked, *masks.targets[1:]))
            out: Output = was(self, values, valid, masks, draw)
            return out

        return energy

    with ExitStack() as stack:
        stack.enter_context(replaced(Jepa, "energy", make))
        stack.enter_context(_over_padding())
        yield


@contextmanager
def _shared_head() -> Iterator[None]:
    """One trainable projection a level, on predictions and targets alike."""

    def built(was: Any) -> Any:
        def init(self: Jepa, *args: Any) -> None:
            was(self, *args)
            self.heads = nn.ModuleList(nn.Linear(w, w) for w in self.student.widths)
            for head in self.heads:
                assert isinstance(head, nn.Linear)
                nn.init.eye_(head.weight)
                nn.init.zeros_(head.bias)

        return init

    def through(was: Any) -> Any:
        def predict(self: Any, *args: Any) -> list[Tensor]:
            return [head(p) for head, p in zip(self.heads, was(self, *args), strict=True)]

        return predict

    def targeted(was: Any) -> Any:
        def targets(self: Any, *args: Any) -> tuple[list[Tensor], list[Tokens]]:
            found, whole = was(self, *args)
            return [head(h) for head, h in zip(self.heads, found, strict=True)], whole

        return targets

    with ExitStack() as stack:
        stack.enter_context(replaced(Jepa, "__init__", built))
        stack.enter_context(replaced(Jepa, "predict", through))
        stack.enter_context(replaced(Jepa, "targets", targeted))
        yield


def _errors(change: Any) -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        return lambda self, inputs, *role: change(was(self, inputs, *role))

    return replaced(Jepa, "patch_errors", make)


def _masks_unaware() -> AbstractContextManager[None]:
    """The sampler is not told what was measured."""

    def make(was: Any) -> Any:
        def forward(self: Jepa, inputs: Any, draw: Draw | None) -> Output:
            masks = self.masks
            self.masks = lambda draw, valid=None: masks(draw, None)  # type: ignore[assignment]
            try:
                output: Output = was(self, inputs, draw)
            finally:
                self.masks = masks
            return output

        return forward

    return replaced(Jepa, "forward", make)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "jepa.zeroed-not-dropped",
        "Hidden patches are zeroed and stay in the sequence.",
        "spec of H-JEPA, defect D14",
        _zeroed,
        ("jepa.context-dropped",),
        is_jepa,
    ),
    Fault(
        "jepa.chosen-afterwards",
        "The context is chosen from the output of an encoder that saw everything.",
        "classic: the mask after the encoder",
        _chosen_afterwards,
        ("jepa.context-blind", "jepa.context-dropped"),
        is_jepa,
    ),
    Fault(
        "jepa.centred-patches",
        "Patch embeddings are centred over the whole input, hidden patches included.",
        "classic: a statistic across the mask",
        _centred_patches,
        ("jepa.context-blind",),
        is_jepa,
    ),
    Fault(
        "jepa.mask-shifted",
        "The student keeps the patches next to those that it should.",
        "classic: off by one (a CLS that is not there)",
        _mask_shifted,
        ("jepa.context-blind",),
        is_jepa,
    ),
    Fault(
        "jepa.squared-error",
        "Mean squared error for smooth-L1.",
        "spec of JEPA, 1.5 (the paper says L2, the code does not)",
        _squared,
        ("jepa.loss",),
        taught,
    ),
    Fault(
        "jepa.beta",
        "Smooth-L1 with β = 0.1.",
        "classic: another default",
        _beta,
        ("jepa.loss",),
        taught,
    ),
    Fault(
        "jepa.sum-over-channels",
        "The loss is a mean over targets and a sum over their channels: width times too large.",
        "spec of H-JEPA, defect D12",
        _summed,
        ("jepa.loss",),
        taught,
    ),
    Fault(
        "jepa.unit-length",
        "Both sides are scaled to length 1 before they are compared.",
        "spec of H-JEPA, defect D10",
        _unit_length,
        ("jepa.loss", "jepa.constant-answer"),
        taught,
    ),
    Fault(
        "jepa.plain-loss",
        "The error of I-JEPA, times one half.",
        "classic: ½ (z - h)² beside |z - h|",
        lambda: _error(lambda p, h: F.smooth_l1_loss(p, h, reduction="none").mean(-1) / 2),
        ("jepa.loss", "jepa.one-level"),
        is_plain,
    ),
    Fault(
        "jepa.equal-levels",
        "The weights of the levels are never read.",
        "classic: a setting that is never read",
        _equal_shares,
        ("jepa.level-weights",),
        lambda subject: taught(subject) and is_hierarchy(subject),
    ),
    Fault(
        "jepa.levels-by-cells",
        "A level counts by how many targets it has.",
        "classic: one mean over all levels' terms",
        _by_cells,
        ("jepa.level-weights",),
        lambda subject: taught(subject) and is_hierarchy(subject),
    ),
    Fault(
        "jepa.loss-over-padding",
        "Targets that were not measured count.",
        "classic; spec of H-JEPA, defect D11",
        _over_padding,
        ("jepa.padding",),
        taught,
    ),
    Fault(
        "jepa.pieces-alike",
        "Micro-batches count alike, however many targets they have.",
        "classic: a mean of means",
        _pieces_alike,
        ("jepa.pieces",),
        taught,
    ),
    Fault(
        "jepa.padded-with-patch-0",
        "Lists of targets are filled up with patch 0, and it counts.",
        "spec of H-JEPA, defect D11",
        _padded_with_patch_0,
        ("jepa.padding",),
        taught,
    ),
    Fault(
        "jepa.shared-head",
        "One trainable projection on predictions and targets.",
        "spec of H-JEPA, defect D9",
        _shared_head,
        ("jepa.constant-answer", "targets.untouched"),
        taught,
    ),
    Fault(
        "jepa.surprise-late",
        "The error of a patch is told of the one after it.",
        "classic: off by one",
        lambda: _errors(lambda errors: errors.roll(1, 1)),
        ("jepa.surprise",),
        taught,
    ),
    Fault(
        "jepa.surprise-of-padding",
        "What was not measured has an error of 0.",
        "classic",
        lambda: _errors(lambda errors: errors.nan_to_num(0.0)),
        ("jepa.surprise",),
        taught,
    ),
    Fault(
        "jepa.masks-unaware",
        "Masks are drawn without being told what was measured.",
        "classic: an argument forgotten",
        _masks_unaware,
        ("masks.measured-first",),
        lambda subject: is_jepa(subject) and draws_own(subject),
    ),
)
