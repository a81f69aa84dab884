"""Bugs of the levels of an H-JEPA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import Config
from latentcast.nn import hierarchy
from latentcast.nn.cells import Grid, parents
from latentcast.nn.hierarchy import Fusion, Hierarchy, Tokens
from latentcast.objectives import jepa
from latentcast.objectives.jepa import Jepa
from latentcast.randomness import Draw
from latentcast.verification.claims.hierarchy import has_fusion
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.jepa import has_teacher, is_hierarchy
from latentcast.verification.observe.twin import Subject
from latentcast.verification.parity import plain_ijepa


def _raster_pool() -> AbstractContextManager[None]:
    """Neighbours in raster order are averaged, across the ends of rows."""

    def make(was: Any) -> Any:
        def pool(tokens: Tensor, seen: Tensor | None, fine: Grid, coarse: Grid) -> Tensor:
            line = (math.prod(fine),), (math.prod(coarse),)
            out: Tensor = was(tokens, seen, *line)
            return out

        return pool

    return replaced(hierarchy, "pool", make)


def _unseen_counted() -> AbstractContextManager[None]:
    """What is not seen is 0, and counted in the mean."""

    def make(was: Any) -> Any:
        def pool(tokens: Tensor, seen: Tensor | None, fine: Grid, coarse: Grid) -> Tensor:
            if seen is not None:
                tokens = tokens.masked_fill(~seen.unsqueeze(-1), 0)
            out: Tensor = was(tokens, None, fine, coarse)
            return out

        return pool

    return replaced(hierarchy, "pool", make)


def _largest() -> AbstractContextManager[None]:
    """The largest of a cell, channel by channel."""

    def make(was: Any) -> Any:
        def pool(tokens: Tensor, seen: Tensor | None, fine: Grid, coarse: Grid) -> Tensor:
            cells = parents(fine, coarse, tokens.device)
            held = tokens if seen is None else tokens.masked_fill(~seen.unsqueeze(-1), -1e4)
            empty = tokens.new_full((len(tokens), math.prod(coarse), tokens.shape[2]), -1e4)
            index = cells[None, :, None].expand_as(held)
            out = empty.scatter_reduce(1, index, held, "amax")
            return out.masked_fill(out == -1e4, 0)

        return pool

    return replaced(hierarchy, "pool", make)


def _list_pool() -> AbstractContextManager[None]:
    """The visible tokens are laid on the grid one after the other, whatever their places."""

    def make(was: Any) -> Any:
        def on_grid(self: Tokens, cells: int) -> tuple[Tensor, Tensor | None]:
            count = self.values.shape[1]
            if count == cells:
                return self.values, self.seen
            told = (
                torch.ones_like(self.places, dtype=torch.bool) if self.seen is None else self.seen
            )
            return F.pad(self.values, (0, 0, 0, cells - count)), F.pad(told, (0, cells - count))

        return on_grid

    return replaced(Tokens, "on_grid", make)


def _all_seen() -> AbstractContextManager[None]:
    """Cells of which nothing is seen are attended to."""

    def make(was: Any) -> Any:
        return lambda *args: torch.ones_like(was(*args))

    return replaced(hierarchy, "any_seen", make)


def _thresholded() -> AbstractContextManager[None]:
    """Validity is the sign of a cell's mean feature, which a norm has made arbitrary."""

    def make(was: Any) -> Any:
        def forward(self: Any, below: Tokens, fine: Grid, draw: Draw | None) -> Tokens:
            level: Tokens = was(self, below, fine, draw)
            mean = F.layer_norm(level.values, level.values.shape[-1:])[..., 0]
            return Tokens(level.values, level.places, mean > 0)

        return forward

    return replaced(hierarchy.Level, "forward", make)


def _no_positions() -> AbstractContextManager[None]:
    """Neither angles nor fixed positions on the coarser levels."""

    @contextmanager
    def both() -> Iterator[None]:
        with ExitStack() as stack:
            zeros = replaced(hierarchy, "sincos", lambda was: lambda *a: torch.zeros_like(was(*a)))
            stack.enter_context(zeros)
            none = replaced(hierarchy.Level, "_tables", lambda was: lambda *args: None)
            stack.enter_context(none)
            yield

    return both()


def _blocks_skipped() -> AbstractContextManager[None]:
    """A level is pooling and projection, whatever its depth."""

    def make(was: Any) -> Any:
        def forward(self: Any, *args: Any) -> Tokens:
            blocks, self.blocks = self.blocks, nn.ModuleList()
            try:
                level: Tokens = was(self, *args)
                return level
            finally:
                self.blocks = blocks

        return forward

    return replaced(hierarchy.Level, "forward", make)


def _coarse_sees_all() -> AbstractContextManager[None]:
    """The coarser levels are made of the whole input, the finest of the context."""

    def make(was: Any) -> Any:
        def forward(
            self: Hierarchy,
            values: Tensor,
            valid: Tensor | None = None,
            kept: Tensor | None = None,
            draw: Draw | None = None,
        ) -> list[Tokens]:
            levels: list[Tokens] = was(self, values, valid, kept, draw)
            if kept is None:
                return levels
            whole: list[Tokens] = was(self, values, valid, None, draw)
            return [levels[0], *whole[1:]]

        return forward

    return replaced(Hierarchy, "forward", make)


def _fusion_off() -> AbstractContextManager[None]:
    return replaced(Hierarchy, "fused", lambda was: lambda self, levels, size: levels)


def _fusion_in_targets() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        @torch.no_grad()
        def targets(self: Jepa, values: Tensor, valid: Tensor | None) -> Any:
            if self.teacher is None:
                return was(self, values, valid)
            whole = self.teacher(values, valid)
            fused = self.teacher.fused(whole, tuple(values.shape[2:]))
            return [self._normalised(level) for level in fused], whole

        return targets

    return replaced(Jepa, "targets", make)


def _raster(was: Any) -> Any:
    def in_raster_order(fine: Grid, coarse: Grid, device: torch.device) -> Tensor:
        cells, above = math.prod(fine), math.prod(coarse)
        return torch.arange(cells, device=device) * above // cells

    return in_raster_order


def _fusion_raster() -> AbstractContextManager[None]:
    """``up`` stretches the list of coarse cells along the list of finer ones."""

    def make(was: Any) -> Any:
        def forward(self: Fusion, levels: list[Tokens], grids: tuple[Grid, ...]) -> list[Tokens]:
            with replaced(hierarchy, "parents", _raster):
                out: list[Tokens] = was(self, levels, grids)
                return out

        return forward

    return replaced(Fusion, "forward", make)


def _fusion_in_list_order() -> AbstractContextManager[None]:
    """Token n of the context is given the cell above patch n instead of above its own patch."""

    def make(was: Any) -> Any:
        def forward(self: Fusion, levels: list[Tokens], grids: tuple[Grid, ...]) -> list[Tokens]:
            listed = [
                Tokens(t.values, torch.arange(t.places.shape[1]).expand_as(t.places), t.seen)
                for t in levels
            ]
            fused = was(self, listed, grids)
            return [Tokens(f.values, t.places, t.seen) for f, t in zip(fused, levels, strict=True)]

        return forward

    return replaced(Fusion, "forward", make)


def _hint_raster() -> AbstractContextManager[None]:
    return replaced(jepa, "parents", _raster)


def _hint_reversed() -> AbstractContextManager[None]:
    """The hint of the first cell is the last one's."""
    return replaced(jepa, "parents", lambda was: lambda *args: was(*args).flip(0))


def _hint_from_target() -> AbstractContextManager[None]:
    """The finer predictor is told the coarse target instead of the prediction."""

    def make(was: Any) -> Any:
        def predict(
            self: Jepa, context: Any, whole: list[Tokens], asked: Any, size: tuple[int, ...]
        ) -> Any:
            handles = []

            def tell(module: Any, args: Any, kwargs: Any, level: int) -> Any:
                hint = args[6] if len(args) > 6 else None
                if hint is None:
                    return None
                above = whole[level + 1].values.detach()
                grids = self.student.grids(size)
                cells = parents(grids[level], grids[level + 1], hint.device)
                return (*args[:6], above[:, cells]), kwargs

            for n, predictor in enumerate(self.predictors):
                handles.append(
                    predictor.register_forward_pre_hook(
                        lambda m, a, k, n=n: tell(m, a, k, n), with_kwargs=True
                    )
                )
            try:
                return was(self, context, whole, asked, size)
            finally:
                for handle in handles:
                    handle.remove()

        return predict

    return replaced(Jepa, "predict", make)


def _hint_always() -> AbstractContextManager[None]:
    """The switch is not read: finer queries are told the coarser prediction anyway."""

    def make(was: Any) -> Any:
        def of(cls: type[Jepa], config: Config) -> Jepa:
            on = {"objective.top_down": True} if len(config.grids) > 1 else {}
            made: Jepa = was.__func__(cls, config.updated(on))
            return made

        return classmethod(of)

    return replaced(Jepa, "of", make)


def _is_flat(subject: Subject) -> bool:
    """Images, in whose grids raster order is not the order of cells."""
    return is_hierarchy(subject) and len(subject.recipe.grids[0]) == 2


def _is_plain(subject: Subject) -> bool:
    return is_hierarchy(subject) and plain_ijepa.knows(subject.config)


def _fuses(subject: Subject) -> bool:
    return has_fusion(subject) and has_teacher(subject)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "hierarchy.raster-pool",
        "Neighbours in raster order are averaged, across the ends of rows.",
        "spec of H-JEPA, defect D17",
        _raster_pool,
        ("hierarchy.pooling",),
        _is_flat,
    ),
    Fault(
        "hierarchy.unseen-counted",
        "Hidden tokens count as zeros in the mean of a cell.",
        "classic: a mean over a padded axis",
        _unseen_counted,
        ("hierarchy.pooling",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.largest",
        "A cell is the largest of its tokens.",
        "classic: another pooling",
        _largest,
        ("hierarchy.pooling",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.list-pool",
        "Neighbours in the list of visible tokens are averaged, wherever they lie.",
        "spec of H-JEPA, defect D17",
        _list_pool,
        ("hierarchy.pooling",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.all-seen",
        "Cells of which nothing is seen count as seen.",
        "classic: a lost validity mask",
        _all_seen,
        ("hierarchy.seen",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.thresholded-validity",
        "A level's validity is read off its features.",
        "spec of H-JEPA, defect D13",
        _thresholded,
        ("hierarchy.seen",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.no-positions",
        "Cells of the coarser levels do not know their places.",
        "classic",
        _no_positions,
        ("hierarchy.level",),
        _is_plain,
    ),
    Fault(
        "hierarchy.blocks-skipped",
        "A level is an average of the one below: its blocks never run.",
        "spec of H-JEPA, 2.1",
        _blocks_skipped,
        ("hierarchy.level",),
        _is_plain,
    ),
    Fault(
        "hierarchy.coarse-sees-all",
        "The coarser levels of the context are made of the whole input.",
        "classic: a mask on the finest level alone",
        _coarse_sees_all,
        ("hierarchy.context-blind",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.fusion-off",
        "Fusion is configured and never called.",
        "spec of H-JEPA, configs: flat keys that nothing reads",
        _fusion_off,
        ("hierarchy.fusion", "hierarchy.fusion-trained"),
        _fuses,
    ),
    Fault(
        "hierarchy.fusion-in-targets",
        "Targets are taken after the fusion.",
        "our design, section 5: what nothing may make easier",
        _fusion_in_targets,
        ("hierarchy.fusion-trained",),
        _fuses,
    ),
    Fault(
        "hierarchy.fusion-raster",
        "Fusion stretches the list of coarse cells along that of the patches.",
        "spec of H-JEPA, 2.1 (linear upsampling in one dimension)",
        _fusion_raster,
        ("hierarchy.fusion",),
        lambda subject: _is_flat(subject) and _fuses(subject),
    ),
    Fault(
        "hierarchy.fusion-in-list-order",
        "Fusion takes a token's place in the list for its place on the grid.",
        "spec of H-JEPA, defect D17",
        _fusion_in_list_order,
        ("hierarchy.fusion",),
        _fuses,
    ),
    Fault(
        "hierarchy.hint-raster",
        "A query is told the prediction of another coarse cell.",
        "spec of H-JEPA, defect D17",
        _hint_raster,
        ("hierarchy.top-down",),
        _is_flat,
    ),
    Fault(
        "hierarchy.hint-reversed",
        "Hints are handed out from the wrong end.",
        "classic",
        _hint_reversed,
        ("hierarchy.top-down",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.hint-from-target",
        "A query is told the coarse target instead of the coarse prediction.",
        "classic: teacher forcing where the answer is hidden in the hint",
        _hint_from_target,
        ("hierarchy.top-down",),
        is_hierarchy,
    ),
    Fault(
        "hierarchy.hint-always",
        "Coarser predictions reach the finer ones although top_down is off.",
        "classic: a switch that switches nothing",
        _hint_always,
        ("hierarchy.levels-apart",),
        is_hierarchy,
    ),
)
