"""What a probe found: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from latentcast.errors import LatentcastError
from latentcast.evaluation.leaks import Finding
from latentcast.evaluation.metrics import SUPPORT, Estimate, Score
from latentcast.files import write_text

OWN = "chosen on validation"  # a Row's choice: the source chose the layer itself


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
    """The result of one probe.

    ``records`` counts the records of each split, ``records_left_out`` those of the task without a
    valid token, which are in no number. ``bootstrap["unit"]`` is what was resampled, a patient or
    (where no patient is known) a record, and ``bootstrap["units"]`` how many the test fold has.
    ``provenance`` is the caller's (command, seeds, checkpoint).
    """

    protocol: str
    task: str
    records: Mapping[str, int]
    records_left_out: Mapping[str, int]
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

    @property
    def first_rows(self) -> tuple[Row, ...]:
        """The first reading of each source, in order: what the comparison rests on."""
        first: dict[str, Row] = {}
        for row in self.rows:
            first.setdefault(row.name, row)
        return tuple(first.values())

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings; an undefined number is ``None``."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def write(self, run: str | Path) -> Path:
        """Write ``RUN/probe-<task>.json`` atomically and return its path.

        Raises LatentcastError when it cannot be written.
        """
        text = json.dumps(self.as_json(), indent=1, allow_nan=False)
        return write_probe(Path(run) / f"probe-{self.task}.json", text)

    def render(self, console: Console) -> None:
        """Print leaks, the table of sources, the differences and the table of labels.

        Every line fits 80 columns, and no number is broken over two.
        """
        for finding in self.leaks:
            style = "bold white on red" if finding.severity == "error" else "bold yellow"
            console.print(
                f"LEAK ({finding.severity}): {finding.kind}, {finding.count} cases "
                f"({', '.join(finding.examples)}): {finding.message}",
                style=style,
                markup=False,
            )
        console.print(self._sources())
        console.print()
        if self.differences:
            console.print(self._differences())
            console.print()
        if any(len(row.score.supported_labels) < len(self.labels) for row in self.first_rows):
            console.print(self._supported())
            console.print()
        console.print(self._labels())
        if self.left_out:
            named = "; ".join(f"{name} ({why})" for name, why in self.left_out.items())
            console.print(f"In no average: {named}", markup=False)

    def _sources(self) -> Table:
        counts = " / ".join(f"{count:,}" for count in self.records.values())
        caption = (
            f"{counts} records; {self.rows[0].pooling} over tokens; intervals from "
            f"{self.bootstrap['resamples']:,} resamples of {self.bootstrap['units']:,} test "
            f"{self.bootstrap['unit']}s"
        )
        left_out = left_out_sentence(self.records_left_out)
        table = score_table(self.protocol, "; ".join(filter(None, (caption, left_out))))
        # A long name is broken, a usual one is not; of the rest only the layer may be.
        short = max(len(row.name) for row in self.rows) <= 20
        table.add_column("features", overflow="fold", no_wrap=short)
        table.add_column("layer", overflow="fold")
        for heading in ("C", "validation", f"test macro AUROC\n{self._level}"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row.name,
                row.layer if row.choice == OWN else f"{row.layer} ({row.choice})",
                f"{row.penalty:g}",
                number(row.validation),
                interval(row.score.macro),
            )
        return table

    def _differences(self) -> Table:
        table = score_table(f"Difference of test macro AUROC, paired {self._level}")
        table.add_column(f"{self.rows[0].name} minus", overflow="fold")
        table.add_column("layer", overflow="fold")
        for heading in ("difference", ""):
            table.add_column(heading, justify="right", no_wrap=True)
        for difference in self.differences:
            estimate = difference.estimate
            table.add_row(
                difference.reference,
                difference.choice,
                interval(estimate, signed=True),
                estimate.outcome,
            )
        return table

    def _supported(self) -> Table:
        """The macro average over labels with enough positives, for when some have too few."""
        count = len(self.rows[0].score.supported_labels)
        table = score_table(f"The {count} labels with {SUPPORT} or more positives in the test fold")
        table.add_column("features", overflow="fold")
        table.add_column(f"test macro AUROC\n{self._level}", justify="right", no_wrap=True)
        for row in self.first_rows:
            table.add_row(row.name, interval(row.score.supported))
        return table

    def _labels(self) -> Table:
        table = score_table(
            f"Positives, and test AUROC of each label (* fewer than {SUPPORT} positives)"
        )
        table.add_column("label", overflow="fold")
        for heading in ("train", "val", "test"):
            table.add_column(heading, justify="right", no_wrap=True)
        for width, row in zip((20, *[14] * len(self.rows)), self.first_rows, strict=False):
            # Broken here: a heading would otherwise be cut, or push the numbers off the line.
            heading = "\n".join(textwrap.wrap(row.name, width))
            table.add_column(heading, justify="right", no_wrap=True)
        areas = [{x.name: x.auroc for x in row.score.labels} for row in self.first_rows]
        undefined = Estimate(math.nan, math.nan, math.nan)
        for label in self.labels:
            first, *others = [held.get(label.name, undefined) for held in areas]
            rare = "*" if label.positives["test"] < SUPPORT else ""
            table.add_row(
                label.name + rare,
                *(f"{count:,}" for count in label.positives.values()),
                interval(first),
                *(number(other.value) for other in others),
            )
        return table

    @property
    def _level(self) -> str:
        return f"[{round(100 * self.bootstrap['level'])} % interval]"


def left_out_sentence(records_left_out: Mapping[str, int]) -> str:
    """How many records are in no number, and why; "" where there are none."""
    if not any(records_left_out.values()):
        return ""
    total = sum(records_left_out.values())
    counts = ", ".join(f"{name} {count:,}" for name, count in records_left_out.items() if count)
    records = "record" if total == 1 else "records"
    return f"{total:,} {records} without a valid token left out ({counts})"


def number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals, or a dash where a number is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.3f}".replace("-", "−") if signed else f"{value:.3f}"


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """``value [low, high]``, or a dash where the value is undefined."""
    value, low, high = (
        number(end, signed=signed) for end in (estimate.value, estimate.low, estimate.high)
    )
    return value if value == "–" else f"{value} [{low}, {high}]"


def write_probe(path: Path, text: str) -> Path:
    """Write the JSON of a report of scores atomically and return its path.

    Raises LatentcastError when it cannot be written.
    """
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise LatentcastError(
            f"{path}: cannot be written ({error}); make the folder writable or free space, "
            "and probe again"
        ) from error
    return path


def score_table(title: str, caption: str | None = None) -> Table:
    """A table of scores as every report prints it."""
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_style="bold",
    )


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
