"""Monitors that look elsewhere, count wrongly or say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentcast.monitors import collapse
from latentcast.monitors.journal import Journal
from latentcast.objectives.base import Output, View
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.ema import CLASSIC, Patch, several
from latentcast.verification.observe.data import is_ecg

SILENT = "published code collapses silently (specification 6)"


def _viewed(change: Callable[[dict[str, View]], Mapping[str, View]]) -> Callable[[], Patch]:
    """Both objectives show the monitors something else."""

    def make(was: Any) -> Any:
        def forward(self: Any, *args: Any, **said: Any) -> Output:
            output: Output = was(self, *args, **said)
            return replace(output, views=change(dict(output.views)))

        return forward

    return lambda: several(*(replaced(owner, "forward", make) for owner in (Nepa, Jepa)))


def _predictions_for_targets(views: dict[str, View]) -> dict[str, View]:
    pairs = {"target": "output", "level0_target": "level0_prediction"}
    return {
        name: replace(view, tokens=views[pairs[name]].tokens, valid=views[pairs[name]].valid)
        if name in pairs else view for name, view in views.items()
    }  # fmt: skip


def _all_valid(views: dict[str, View]) -> dict[str, View]:
    return {name: replace(view, valid=None) for name, view in views.items()}


def _everybody_encodes(views: dict[str, View]) -> dict[str, View]:
    return {name: replace(view, part="encoder") for name, view in views.items()}


def _counting_padding(was: Any) -> Any:
    def sampled(tokens: Tensor, valid: Tensor | None) -> Any:
        x, _ = was(tokens, None)
        return x, torch.ones(x.shape[:2])

    return sampled


def _squared(was: Any) -> Any:
    return lambda matrix: was(matrix).square()


def _without_alarms(was: Any) -> Any:
    return lambda self, row: was(self, {**row, "alarms": []})


FAULTS: tuple[Fault, ...] = (
    Fault("collapse.target-unseen", "The monitors look at the predictions twice and never at the "
          "targets.", CLASSIC, _viewed(_predictions_for_targets), ("collapse.views",)),
    Fault("collapse.padding-shown", "Padding is shown to the monitors as if it were measured.",
          CLASSIC, _viewed(_all_valid), ("collapse.views",), is_ecg),
    Fault("collapse.padding-counted", "Tokens that are not valid are counted.", CLASSIC,
          lambda: replaced(collapse, "_sampled", _counting_padding), ("collapse.statistics",)),
    Fault("collapse.rank-of-variances", "The rank is that of the variances: squared singular "
          "values.", CLASSIC, lambda: replaced(collapse, "_eigenvalues", _squared),
          ("collapse.statistics",)),
    Fault("collapse.blames-the-encoder", "Every alarm names the encoder.", CLASSIC,
          _viewed(_everybody_encodes), ("collapse.views", "collapse.named")),
    Fault("collapse.no-threshold", "A rank of 1 is no alarm.", SILENT,
          lambda: replaced(collapse, "LEAST_RANK", lambda was: 0.0),
          ("collapse.named", "collapse.recorded")),
    Fault("collapse.silent", "Alarms are found and not written.", SILENT,
          lambda: replaced(Journal, "_write", _without_alarms), ("collapse.recorded",)),
    Fault("collapse.unsaid", "Alarms stand in a file, and nobody is told.", SILENT,
          lambda: replaced(Journal, "say", lambda was: lambda self, text: None),
          ("collapse.recorded",)),
)  # fmt: skip
