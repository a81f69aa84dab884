"""Slips with positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from latentcast.config import EcgInput, JepaConfig, Rotary, SinCos
from latentcast.nn import blocks, encoder, hierarchy, predictor
from latentcast.nn.cells import gather
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.positions import Tables
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.rotary import is_jepa, is_normalized, is_rotary
from latentcast.verification.observe.twin import Subject

Grid = tuple[int, ...]
Inject = Callable[[], AbstractContextManager[None]]


def patched(owners: tuple[Any, ...], name: str, make: Callable[[Any], Any]) -> Inject:
    """An injection that replaces one name wherever it was imported to."""

    @contextmanager
    def inject() -> Iterator[None]:
        with ExitStack() as stack:
            for owner in owners:
                stack.enter_context(replaced(owner, name, make))
            yield

    return inject


def both(*injections: Inject) -> Inject:
    """Several at once."""

    @contextmanager
    def inject() -> Iterator[None]:
        with ExitStack() as stack:
            for injection in injections:
                stack.enter_context(injection())
            yield

    return inject


def _tables(make: Callable[[Any], Any]) -> Inject:
    return patched((encoder, hierarchy), "rotary_tables", make)


def _coordinates(make: Callable[[Any], Any]) -> Inject:
    return patched((encoder, hierarchy), "patch_coordinates", make)


def _sincos(channels: Callable[[Tensor, Tensor], list[Tensor]], **how: Any) -> Inject:
    """The fixed positions built anew, not cached, with a slip in them."""

    def make(was: Any) -> Any:
        def slipped(grid: Grid, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
            pairs = width // (2 * len(grid))
            exponent = torch.arange(pairs, dtype=torch.float64) / pairs
            frequency = 10000.0 ** -(exponent * how.get("steep", 1.0))
            axes = [torch.arange(n, dtype=torch.float64) for n in grid]
            if how.get("unit"):
                axes = [axis / len(axis) for axis in axes]
            indices = torch.meshgrid(*axes, indexing="ij")
            found = []
            for index in indices if how.get("rows_first") else reversed(indices):
                angles = index.flatten()[:, None] * frequency
                found += channels(angles.sin(), angles.cos())
            return torch.cat(found, dim=1).to(device=device, dtype=dtype)

        return slipped

    return patched((encoder, hierarchy, predictor), "sincos", make)


# -- rotary -----------------------------------------------------------------------------------


def _with_theta(change: Callable[[float], float]) -> Inject:
    return _tables(
        lambda was: (
            lambda coordinates, head, theta, prefix: was(coordinates, head, change(theta), prefix)
        )
    )


def _cls_turned(was: Any) -> Any:
    def slipped(coordinates: Tensor, head: int, theta: float, prefix: int) -> Tables:
        first = coordinates[:1].expand(prefix, -1)
        tables: Tables = was(torch.cat([first, coordinates]), head, theta, 0)
        return tables

    return slipped


def _interleaved_tables(was: Any) -> Any:
    def slipped(coordinates: Tensor, head: int, theta: float, prefix: int) -> Tables:
        cosine, sine = was(coordinates, head, theta, prefix)
        half = head // 2
        return (cosine[:, :half].repeat_interleave(2, dim=1),
                sine[:, :half].repeat_interleave(2, dim=1))  # fmt: skip

    return slipped


def _interleaved_pairs(was: Any) -> Any:
    def slipped(x: Tensor, tables: Tables) -> Tensor:
        cosine, sine = tables
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return x * cosine + turned * sine

    return slipped


def _one_sign(was: Any) -> Any:
    """rotate_half without the minus: no rotation any more."""

    def slipped(x: Tensor, tables: Tables) -> Tensor:
        cosine, sine = tables
        first, second = x.chunk(2, dim=-1)
        return x * cosine + torch.cat([second, first], dim=-1) * sine

    return slipped


def _spread(place: Callable[[Tensor, int], Tensor]) -> Inject:
    """Coordinates along an axis of ``n`` cells as a function of the cell's index."""

    def make(was: Any) -> Any:
        def slipped(
            grid: Grid, positions: Rotary, seconds: float | None, device: torch.device
        ) -> Tensor:
            if positions.coordinates == "seconds":
                told: Tensor = was(grid, positions, seconds, device)
                return told
            axes = [place(torch.arange(n, device=device, dtype=torch.float32), n) for n in grid]
            return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)

        return slipped

    return _coordinates(make)


def _stretched_seconds(was: Any) -> Any:
    def slipped(
        grid: Grid, positions: Rotary, seconds: float | None, device: torch.device
    ) -> Tensor:
        normalized = positions.model_copy(update={"coordinates": "normalized"})
        told: Tensor = was(grid, normalized, seconds, device)
        return told

    return slipped


def _always_augmented(was: Any) -> Any:
    def slipped(
        self: PatchEncoder, size: Grid, device: torch.device, draw: Draw | None = None
    ) -> Any:
        return was(self, size, device, draw or Draw(0, 0, torch.zeros(1, dtype=torch.int64)))

    return slipped


def _per_axis(was: Any) -> Any:
    def slipped(coordinates: Tensor, positions: Rotary, draw: Draw) -> Tensor:
        if positions.rescale is None:
            return coordinates
        axes = coordinates.shape[1]
        exponent = draw.for_step("rope-rescale", axes, coordinates.device) * 2 - 1
        return coordinates * torch.exp(exponent * math.log(positions.rescale))

    return slipped


def _linear_factor(was: Any) -> Any:
    """Uniform between 1/r and r instead of log-uniform: mostly enlargements."""

    def slipped(coordinates: Tensor, positions: Rotary, draw: Draw) -> Tensor:
        if positions.rescale is None:
            return coordinates
        low, high = 1 / positions.rescale, positions.rescale
        u = draw.for_step("rope-rescale", 1, coordinates.device)
        return coordinates * (low + (high - low) * u)

    return slipped


def _without(name: str) -> Inject:
    """One augmentation of coordinates that nothing reads."""
    return patched((encoder,), "augment_coordinates", lambda was: lambda coordinates, p, draw: was(
        coordinates, p.model_copy(update={name: None}), draw))  # fmt: skip


def _one_offset(was: Any) -> Any:
    """The same for all axes."""

    def drawn(self: Draw, stream: str, count: int, device: Any) -> Tensor:
        found: Tensor = was(self, stream, count, device)
        return found[:1].expand(count) if stream in ("rope-shift", "rope-jitter") else found

    return drawn


def _one_sided(was: Any) -> Any:
    """Between 0 and the reach, and not on both sides."""

    def drawn(self: Draw, stream: str, count: int, device: Any) -> Tensor:
        found: Tensor = was(self, stream, count, device)
        return found / 2 + 0.5 if stream in ("rope-shift", "rope-jitter") else found

    return drawn


def _first_places(was: Any) -> Any:
    """The context's tokens are numbered from 0 instead of by their places."""

    def slipped(
        self: PatchEncoder, embedding: Tensor, size: Grid, draw: Draw | None = None,
        kept: Tensor | None = None, seen: Tensor | None = None,
    ) -> Any:  # fmt: skip
        if kept is None:
            return was(self, embedding, size, draw, None, seen)
        tables = self.tables(size, embedding.device, draw)
        embedding = gather(embedding, kept)
        if tables is not None:
            tables = (tables[0][: kept.shape[1]], tables[1][: kept.shape[1]])
        states = [embedding]
        for block in self.blocks:
            assert isinstance(block, blocks.Block)
            states.append(block(states[-1], tables, block.kept(draw), None))
        return [*states, self.norm(states[-1])]

    return slipped


# -- fixed ------------------------------------------------------------------------------------


def _forgotten(was: Any) -> Any:
    def slipped(grid: Grid, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.zeros(math.prod(grid), width, device=device, dtype=dtype)

    return slipped


def is_sincos(subject: Subject) -> bool:
    return isinstance(subject.config.encoder.positions, SinCos)


def is_image(subject: Subject) -> bool:
    return len(subject.config.input.size) == 2


def _levels(subject: Subject) -> bool:
    objective = subject.config.objective
    return isinstance(objective, JepaConfig) and bool(objective.coarser)


def _rescaled(subject: Subject) -> bool:
    positions = subject.config.encoder.positions
    return isinstance(positions, Rotary) and positions.rescale is not None


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "rope.theta-squared", "θ² instead of θ: the exponent counts -2k/K.", CLASSIC,
        _with_theta(lambda theta: theta**2), ("rope.angles",), is_rotary,
    ),
    Fault(
        "rope.theta-10000", "The usual 10000 of language models instead of the recipe's θ.",
        CLASSIC, _with_theta(lambda theta: 10000.0), ("rope.angles",), is_rotary,
    ),
    Fault(
        "rope.no-two-pi", "Angles are coordinates times frequency, 2π is forgotten.", CLASSIC,
        _tables(lambda was: lambda c, head, theta, prefix: was(
            c / (2 * math.pi), head, theta, prefix)),
        ("rope.angles", "rope.span"), is_rotary,
    ),
    Fault(
        "rope.cls-rotated", "CLS is turned like the first patch.", CLASSIC,
        _tables(_cls_turned), ("rope.cls-unrotated",), lambda s: is_rotary(s) and not is_jepa(s),
    ),
    Fault(
        "rope.interleaved-tables", "Tables for neighbouring pairs, rotation of halves.",
        "classic (two conventions mixed)", _tables(_interleaved_tables), ("rope.angles",),
        is_rotary,
    ),
    Fault(
        "rope.interleaved-pairs", "Rotation of neighbouring pairs, tables for halves.",
        "H-JEPA, section 2.2", patched((blocks,), "rotate", _interleaved_pairs),
        ("rope.angles",), is_rotary,
    ),
    Fault(
        "rope.sign", "The minus in rotate_half is forgotten.", CLASSIC,
        patched((blocks,), "rotate", _one_sign), ("rope.norm-preserved", "rope.relative"),
        is_rotary,
    ),
    Fault(
        "rope.axes-swapped", "x turns the first half of the pairs, y the second.", CLASSIC,
        _coordinates(lambda was: lambda *a: was(*a).flip(1)), ("rope.axes", "rope.angles"),
        lambda s: is_rotary(s) and is_image(s),
    ),
    Fault(
        "rope.not-centred", "Coordinates run from 0 to 2.", CLASSIC,
        _spread(lambda i, n: (i + 0.5) / n * 2), ("rope.span",),
        lambda s: is_rotary(s) and not is_jepa(s),
    ),
    Fault(
        "rope.edges", "Coordinates of the edges, -1 to 1 inclusive, instead of the centres.",
        CLASSIC, _spread(lambda i, n: i / max(1, n - 1) * 2 - 1), ("rope.span", "rope.angles"),
        is_rotary,
    ),
    Fault(
        "rope.integers", "Integer positions instead of [-1, 1].", CLASSIC,
        _spread(lambda i, n: i), ("rope.span", "rope.angles"),
        is_rotary,
    ),
    Fault(
        "rope.seconds-stretched", "Coordinates in seconds are stretched to [-1, 1] all the same.",
        "NEPA-ECG defect 10", _coordinates(_stretched_seconds), ("rope.seconds",),
        lambda s: is_rotary(s) and isinstance(s.config.input, EcgInput),
    ),
    Fault(
        "rope.rescale-in-evaluation", "Coordinates are rescaled in evaluation, too.",
        "NEPA-ECG defect 10", patched((PatchEncoder,), "tables", _always_augmented),
        ("rope.rescale-in-training",), _rescaled,
    ),
    Fault(
        "rope.rescale-lost", "The rescaling of coordinates is not wired up.",
        "H-JEPA: switches that nothing reads",
        patched((encoder,), "augment_coordinates", lambda was: lambda c, p, d: c),
        ("rope.rescale-in-training",), _rescaled,
    ),
    Fault(
        "rope.rescale-by-axis", "Each axis is rescaled by a factor of its own.", CLASSIC,
        patched((encoder,), "augment_coordinates", _per_axis), ("rope.rescale-in-training",),
        lambda s: _rescaled(s) and is_image(s),
    ),
    Fault(
        "rope.rescale-linear", "The factor is uniform and not log-uniform.", CLASSIC,
        patched((encoder,), "augment_coordinates", _linear_factor),
        ("rope.rescale-in-training",), _rescaled,
    ),
    Fault(
        "rope.shift-lost", "The shift of coordinates is not wired up.",
        "H-JEPA: switches that nothing reads", _without("shift"), ("rope.shift",), is_normalized,
    ),
    Fault(
        "rope.jitter-lost", "The jitter of coordinates is not wired up.",
        "H-JEPA: switches that nothing reads", _without("jitter"), ("rope.jitter",), is_normalized,
    ),
    Fault(
        "rope.augmented-one-sidedly", "Coordinates are only moved outwards.", CLASSIC,
        patched((Draw,), "for_step", _one_sided), ("rope.shift", "rope.jitter"), is_normalized,
    ),
    Fault(
        "rope.axes-moved-together", "All axes are shifted and stretched alike.", CLASSIC,
        patched((Draw,), "for_step", _one_offset), ("rope.shift", "rope.jitter"),
        lambda s: is_normalized(s) and is_image(s),
    ),
    Fault(
        "rope.first-places", "Tokens of a context are numbered from 0, not by their places.",
        CLASSIC, patched((PatchEncoder,), "layers", _first_places), ("rope.kept-places",),
        lambda s: is_rotary(s) and is_jepa(s),
    ),
    Fault(
        "sincos.rows-first", "Rows get the first half of the channels.", CLASSIC,
        _sincos(lambda s, c: [s, c], rows_first=True), ("sincos.encoder", "sincos.predictor"),
        lambda s: is_sincos(s) and is_image(s),
    ),
    Fault(
        "sincos.cosine-first", "Cosines stand before sines.", CLASSIC,
        _sincos(lambda s, c: [c, s]), ("sincos.encoder", "sincos.predictor"), is_sincos,
    ),
    Fault(
        "sincos.interleaved", "Sines and cosines alternate.", "classic (Vaswani's layout)",
        _sincos(lambda s, c: [torch.stack([s, c], dim=-1).flatten(1)]),
        ("sincos.encoder", "sincos.predictor"), is_sincos,
    ),
    Fault(
        "sincos.steep", "The exponent is 2k/K: frequencies fall to 1e-8.", CLASSIC,
        _sincos(lambda s, c: [s, c], steep=2.0), ("sincos.encoder", "sincos.predictor"), is_sincos,
    ),
    Fault(
        "sincos.unit", "Positions are scaled to [0, 1].", CLASSIC,
        _sincos(lambda s, c: [s, c], unit=True), ("sincos.encoder", "sincos.predictor"), is_sincos,
    ),
    Fault(
        "sincos.encoder-forgotten", "The encoder adds no positions.", "H-JEPA defect D14",
        patched((encoder,), "sincos", _forgotten), ("sincos.encoder",), is_sincos,
    ),
    Fault(
        "sincos.levels-forgotten", "Coarser levels add no positions.", CLASSIC,
        patched((hierarchy,), "sincos", _forgotten), ("sincos.levels",),
        lambda s: is_sincos(s) and _levels(s),
    ),
    Fault(
        "sincos.predictor-forgotten", "The predictor adds no positions.", "H-JEPA defect D15",
        patched((predictor,), "sincos", _forgotten), ("sincos.predictor",), is_jepa,
    ),
)  # fmt: skip
