"""What a probe found: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from latentcast.evaluation.leaks import Finding
from latentcast.evaluation.metrics import SUPPORT, Estimate, Score
from latentcast.files import write_text


@dataclass(frozen=True)
class Row:
    """One source read in one way. ``choice`` says who chose the layer."""

    name: str
    choice: str
    layer: str
    pooling: str
    penalty: float
    validation: float
    score: Score


@dataclass(frozen=True)
class Difference:
    """Test macro AUROC of the first source minus that of ``reference``, paired bootstrap."""

    name: str
    reference: str
    choice: str
    estimate: Estimate


@dataclass(frozen=True)
class LabelSupport:
    """Positives of one label in each split; ``left_out`` says why it is in no average."""

    name: str
    positives: Mapping[str, int]
    left_out: str | None


@dataclass(frozen=True)
class ProbeReport:
    """The result of one probe; ``provenance`` is the caller's (command, seeds, checkpoint)."""

    protocol: str
    task: str
    records: Mapping[str, int]
    labels: tuple[LabelSupport, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    leaks: tuple[Finding, ...]
    data: Mapping[str, Any]
    bootstrap: Mapping[str, Any]
    windows: str
    provenance: Mapping[str, Any]

    @property
    def left_out(self) -> dict[str, str]:
        """Labels without an AUROC, and why."""
        return {label.name: label.left_out for label in self.labels if label.left_out}

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings; an undefined number is ``None``."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def write(self, run: str | Path) -> Path:
        """Write ``RUN/probe-<task>.json`` atomically and return its path."""
        path = Path(run) / f"probe-{self.task}.json"
        write_text(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")
        return path

    def render(self, console: Console) -> None:
        """Print leaks, the table of sources, the differences and the table of labels."""
        for finding in self.leaks:
            style = "bold white on red" if finding.severity == "error" else "bold yellow"
            console.print(
                f"LEAK ({finding.severity}): {finding.kind}, {finding.count} cases "
                f"({', '.join(finding.examples)}): {finding.message}",
                style=style,
                markup=False,
            )
        console.print(self._sources())
        for line in self._supported():
            console.print(line, markup=False)
        for difference in self.differences:
            console.print(_sentence(difference), markup=False)
        console.print(self._labels())
        if self.left_out:
            named = "; ".join(f"{name} ({why})" for name, why in self.left_out.items())
            console.print(f"In no average: {named}", markup=False)

    def _sources(self) -> Table:
        level = round(100 * self.bootstrap["level"])
        counts = " / ".join(str(count) for count in self.records.values())
        table = Table(
            title=self.protocol,
            title_justify="left",
            caption=f"{counts} records; {self.rows[0].pooling} over tokens",
            caption_justify="left",
        )
        for heading in ("features", "layer", "C"):
            table.add_column(heading)
        for heading in ("validation", f"test macro AUROC [{level} %]"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row.name,
                row.layer if row.choice == OWN else f"{row.layer} ({row.choice})",
                f"{row.penalty:g}",
                _number(row.validation),
                _interval(row.score.macro),
            )
        return table

    def _supported(self) -> list[str]:
        """A line for each reading over the labels with enough positives, if some have too few."""
        return [
            f"{row.name}, the {len(row.score.supported_labels)} labels with {SUPPORT} or more "
            f"positives in the test fold: {_interval(row.score.supported)}"
            for row in self.rows
            if row.choice == OWN and len(row.score.supported_labels) < len(self.labels)
        ]

    def _labels(self) -> Table:
        table = Table(
            title="Test AUROC per label (* fewer than 10 positives)".replace("10", str(SUPPORT)),
            title_justify="left",
        )
        table.add_column("label")
        for split in self.records:
            table.add_column(split, justify="right")
        own = [row for row in self.rows if row.choice == OWN]
        for row in own:
            table.add_column(row.name, justify="right", no_wrap=row is own[0])
        areas = [{label.name: label.auroc for label in row.score.labels} for row in own]
        undefined = Estimate(math.nan, math.nan, math.nan)
        for label in self.labels:
            first, *others = [held.get(label.name, undefined) for held in areas]
            rare = "*" if label.positives["test"] < SUPPORT else ""
            table.add_row(
                label.name + rare,
                *(str(count) for count in label.positives.values()),
                _interval(first),
                *(_number(other.value) for other in others),
            )
        return table


OWN = "chosen on validation"


def _sentence(difference: Difference) -> str:
    estimate = difference.estimate
    if not math.isfinite(estimate.low):
        verdict = "undefined"
    elif estimate.low > 0:
        verdict = "better"
    else:
        verdict = "worse" if estimate.high < 0 else "no difference shown"
    return (
        f"{difference.name} − {difference.reference} ({difference.choice}): "
        f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}], {verdict}"
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _interval(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "–"
    return f"{estimate.value:.3f} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
