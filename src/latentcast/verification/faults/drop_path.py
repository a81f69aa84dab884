"""Slips with drop-path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentcast.nn import blocks
from latentcast.nn.blocks import Block, Kept, LayerScale
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault
from latentcast.verification.faults.positions import Inject, both, patched
from latentcast.verification.observe.twin import Subject


def _drop_path(drop: Callable[[Tensor, Tensor, float], Tensor]) -> Inject:
    def make(was: Any) -> Any:
        def slipped(x: Tensor, kept: Tensor | None, rate: float) -> Tensor:
            return x if kept is None else drop(x, kept, rate)

        return slipped

    return patched((blocks,), "drop_path", make)


def _by_token(x: Tensor, kept: Tensor, rate: float) -> Tensor:
    flags = (torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(0)) >= rate).to(x)
    return x * flags.unsqueeze(-1) / (1 - rate)


def _kept(draws: Callable[[Block, Draw], Kept]) -> Inject:
    def make(was: Any) -> Any:
        def slipped(self: Block, draw: Draw | None) -> Kept:
            if self.drop_rate == 0.0 or draw is None:
                return None, None
            return draws(self, draw)

        return slipped

    return patched((Block,), "kept", make)


def _whole_batch(self: Block, draw: Draw) -> Kept:
    flags = draw.for_step(f"drop-{self.stream}", 2, draw.ids.device) >= self.drop_rate
    return flags[0].expand(len(draw.ids)), flags[1].expand(len(draw.ids))


def _same_branches(self: Block, draw: Draw) -> Kept:
    flags = draw.for_samples(f"drop-{self.stream}") >= self.drop_rate
    return flags, flags


def _same_blocks(self: Block, draw: Draw) -> Kept:
    one, other = (draw.for_samples(f"drop-{part}") >= self.drop_rate for part in ("a", "m"))
    return one, other


def _same_steps(self: Block, draw: Draw) -> Kept:
    still = Draw(draw.seed, 0, draw.ids)
    one, other = (
        still.for_samples(f"drop-{part}-{self.stream}") >= self.drop_rate for part in ("a", "m")
    )
    return one, other


def _by_row(self: Block, draw: Draw) -> Kept:
    """Keyed by the row in the micro-batch and not by the sample."""
    rows = Draw(draw.seed, draw.step, torch.arange(len(draw.ids)))
    one, other = (
        rows.for_samples(f"drop-{part}-{self.stream}") >= self.drop_rate for part in ("a", "m")
    )
    return one, other


def _inverted(self: Block, draw: Draw) -> Kept:
    one, other = (
        draw.for_samples(f"drop-{part}-{self.stream}") < self.drop_rate for part in ("a", "m")
    )
    return one, other


def _lost_with_gain(was: Any) -> Any:
    def slipped(self: Block, draw: Draw | None) -> Kept:
        if isinstance(self.scale1, LayerScale):
            return None, None
        kept: Kept = was(self, draw)
        return kept

    return slipped


def _evaluated(was: Any) -> Any:
    def slipped(self: Block, draw: Draw | None) -> Kept:
        kept: Kept = was(self, draw or Draw(0, 0, torch.arange(4096)))
        return kept

    return slipped


def _drop_in_evaluation(was: Any) -> Any:
    def slipped(x: Tensor, kept: Tensor | None, rate: float) -> Tensor:
        cut = kept if kept is None else kept[: len(x)]
        out: Tensor = was(x, cut, rate)
        return out

    return slipped


def _rates(rate: Callable[[float, int, int], float]) -> Inject:
    def make(was: Any) -> Any:
        def slipped(self: Block, config: Any, index: int, stack: str = "") -> None:
            was(self, config, index, stack)
            self.drop_rate = rate(config.drop_path, index, config.depth)

        return slipped

    return patched((Block,), "__init__", make)


def _scaled(subject: Subject) -> bool:
    return subject.config.encoder.layer_scale is not None


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "drop-path.lost-with-layer-scale", "LayerScale switches drop-path off.",
        "H-JEPA defect D18", patched((Block,), "kept", _lost_with_gain),
        ("drop-path.active", "drop-path.wired"), _scaled,
    ),
    Fault(
        "drop-path.not-rescaled", "What is kept is not divided by the share kept.", CLASSIC,
        _drop_path(lambda x, kept, rate: x * kept.to(x).view(-1, 1, 1)),
        ("drop-path.whole-samples",),
    ),
    Fault(
        "drop-path.by-token", "Tokens are dropped, not samples.", CLASSIC, _drop_path(_by_token),
        ("drop-path.whole-samples",),
    ),
    Fault(
        "drop-path.inverted", "What should be kept is dropped.", CLASSIC, _kept(_inverted),
        ("drop-path.active",),
    ),
    Fault(
        "drop-path.whole-batch", "One draw for all samples of the batch.", CLASSIC,
        _kept(_whole_batch), ("drop-path.independent",),
    ),
    Fault(
        "drop-path.same-branches", "One draw for both branches.", CLASSIC, _kept(_same_branches),
        ("drop-path.independent",),
    ),
    Fault(
        "drop-path.same-blocks", "One draw for all blocks.", CLASSIC, _kept(_same_blocks),
        ("drop-path.independent",),
    ),
    Fault(
        "drop-path.same-steps", "Every step drops the same samples.", CLASSIC, _kept(_same_steps),
        ("drop-path.independent",),
    ),
    Fault(
        "drop-path.by-row", "Draws are keyed by the row in the micro-batch.", CLASSIC,
        _kept(_by_row), ("drop-path.micro-batches",),
    ),
    Fault(
        "drop-path.constant", "Every block has the full rate.", CLASSIC,
        _rates(lambda rate, index, depth: rate), ("drop-path.active",),
    ),
    Fault(
        "drop-path.one-up", "Rates begin above 0 and count one block too far.", CLASSIC,
        _rates(lambda rate, index, depth: rate * (index + 1) / (depth + 1)), ("drop-path.active",),
    ),
    Fault(
        "drop-path.in-evaluation", "Evaluation drops as training does.", "H-JEPA defect D18",
        both(
            patched((Block,), "kept", _evaluated),
            patched((blocks,), "drop_path", _drop_in_evaluation),
        ),
        ("drop-path.evaluation",),
    ),
)  # fmt: skip
