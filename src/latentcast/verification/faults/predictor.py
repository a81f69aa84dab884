"""Bugs of a JEPA's predictor."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from latentcast.nn import predictor
from latentcast.nn.cells import Grid
from latentcast.nn.predictor import Predictor
from latentcast.verification.claims.jepa import is_plain
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.jepa import has_teacher


def _forward(change: Any) -> AbstractContextManager[None]:
    """``Predictor.forward`` is ``change(was, self, context, places, targets, ...)``."""

    def make(was: Any) -> Any:
        def forward(
            self: Predictor,
            context: Tensor,
            places: Tensor,
            targets: Tensor,
            grid: Grid,
            seen: Tensor | None = None,
            asked: Tensor | None = None,
            hint: Tensor | None = None,
        ) -> Tensor:
            said: Tensor = change(was, self, context, places, targets, grid, seen, asked, hint)
            return said

        return forward

    return replaced(Predictor, "forward", make)


def _no_positions() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        return lambda *args: torch.zeros_like(was(*args))

    return replaced(predictor, "sincos", make)


def _context_without_places() -> AbstractContextManager[None]:
    def change(was: Any, self: Any, context: Tensor, places: Tensor, *rest: Any) -> Any:
        return was(self, context, torch.zeros_like(places), *rest)

    return _forward(change)


def _queries_without_places() -> AbstractContextManager[None]:
    def change(
        was: Any, self: Any, context: Tensor, places: Tensor, targets: Tensor, *rest: Any
    ) -> Any:
        return was(self, context, places, torch.zeros_like(targets), *rest)

    return _forward(change)


def _next_place() -> AbstractContextManager[None]:
    """The queries ask for the cell after the one they are compared with."""

    def change(
        was: Any,
        self: Any,
        context: Tensor,
        places: Tensor,
        targets: Tensor,
        grid: Grid,
        *rest: Any,
    ) -> Any:
        cells = 1
        for n in grid:
            cells *= n
        return was(self, context, places, (targets + 1) % cells, grid, *rest)

    return _forward(change)


def _blocks_together() -> AbstractContextManager[None]:
    """All blocks of a sample in one row, where they see one another."""

    def change(
        was: Any,
        self: Any,
        context: Tensor,
        places: Tensor,
        targets: Tensor,
        grid: Grid,
        seen: Tensor | None,
        asked: Tensor | None,
        hint: Tensor | None,
    ) -> Any:
        blocks, batch, asks = targets.shape

        def joined(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.transpose(0, 1).flatten(1).unsqueeze(0)

        said = was(self, context, places, joined(targets), grid, seen, joined(asked), hint)
        return said.view(batch, blocks, asks, -1).transpose(0, 1)

    return _forward(change)


def _misordered() -> AbstractContextManager[None]:
    """Rows are made block by block and read sample by sample."""

    def change(was: Any, *args: Any) -> Any:
        said = was(*args)
        blocks, batch, asks, width = said.shape
        return said.reshape(batch, blocks, asks, width).transpose(0, 1)

    return _forward(change)


def _sorted_queries() -> AbstractContextManager[None]:
    """Queries are asked in raster order, and their answers not brought back into theirs."""

    def change(
        was: Any, self: Any, context: Tensor, places: Tensor, targets: Tensor, *rest: Any
    ) -> Any:
        return was(self, context, places, targets.sort(dim=-1).values, *rest)

    return _forward(change)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "predictor.no-positions",
        "The predictor adds no positions at all.",
        "spec of H-JEPA, defect D15",
        _no_positions,
        ("predictor.positions", "predictor.queries-permute"),
        has_teacher,
    ),
    Fault(
        "predictor.context-without-places",
        "Context tokens enter the predictor without their places.",
        "spec of H-JEPA, defect D15",
        _context_without_places,
        ("predictor.positions",),
        has_teacher,
    ),
    Fault(
        "predictor.queries-without-places",
        "All queries ask for the same place.",
        "classic",
        _queries_without_places,
        ("predictor.positions",),
        has_teacher,
    ),
    Fault(
        "predictor.next-place",
        "A query asks for the cell after the one it is compared with.",
        "classic: off by one (a CLS that is not there)",
        _next_place,
        ("jepa.one-level",),
        is_plain,
    ),
    Fault(
        "predictor.blocks-together",
        "All target blocks are predicted in one pass and see each other's queries.",
        "spec of H-JEPA, defect D15",
        _blocks_together,
        ("predictor.blocks-alone", "predictor.rows"),
        has_teacher,
    ),
    Fault(
        "predictor.rows-misordered",
        "Predictions of blocks and samples are mixed up.",
        "classic: view for transpose",
        _misordered,
        ("predictor.rows",),
        has_teacher,
    ),
    Fault(
        "predictor.sorted-queries",
        "Queries are sorted, their answers not put back.",
        "classic",
        _sorted_queries,
        ("predictor.queries-permute",),
        has_teacher,
    ),
)
