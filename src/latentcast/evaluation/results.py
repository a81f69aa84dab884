"""What a probe found: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import (
    LISTED,
    SUPPORT,
    UNDEFINED,
    Estimate,
    Number,
    Score,
    number,
)
from latentcast.files import write_text
from latentcast.notebook import table_html

OWN = "chosen on validation"  # a Row's choice: the source chose the layer itself


@dataclass(frozen=True)
class Finding:
    """One kind of leak: how many cases, a few of them, and what to do.

    An ``error`` makes a test score meaningless; a ``warning`` may be a coincidence of names.
    """

    kind: str
    severity: Literal["error", "warning"]
    count: int
    examples: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class Row:
    """One source read by one head in one way. ``choice`` is how the layer was chosen.

    ``penalty`` is None for a head that has none; ``validation`` is the task's metric on the
    validation records.
    """

    name: str
    head: str
    choice: str
    layer: str
    pooling: str
    penalty: float | None
    validation: float
    score: Score


@dataclass(frozen=True)
class Difference:
    """The test score of the first source minus that of ``reference``, paired bootstrap."""

    name: str
    reference: str
    head: str
    choice: str
    estimate: Estimate


@dataclass(frozen=True)
class LabelSupport:
    """Records of one label or class in each split; ``left_out`` is why it is in no average."""

    name: str
    positives: Mapping[str, int]
    left_out: str | None


@dataclass(frozen=True)
class ProbeReport:
    """The result of one probe.

    ``records`` counts the records of each split, ``records_without_target`` those that are not of
    the task and ``records_without_token`` those without a valid token, which are in no number.
    ``floors`` is the score of the best prediction that is the same for every record, by metric;
    ``lower_is_better`` names those of the metrics that are errors.
    ``compared`` is the number of training records on which layers were compared; every score is
    of a head that saw all of them. ``bootstrap["unit"]`` is what was resampled, a patient or
    (where no patient is known) a record, and ``bootstrap["units"]`` how many the test fold has.
    ``data["shards"]`` are the checksums of the samples, ``provenance`` is the caller's (command,
    seeds, checkpoint).
    """

    protocol: str
    task: str
    kind: str
    modality: str
    metric: str
    records: Mapping[str, int]
    records_without_target: Mapping[str, int]
    records_without_token: Mapping[str, int]
    labels: tuple[LabelSupport, ...]
    floors: Mapping[str, Number]
    lower_is_better: tuple[str, ...]
    compared: int
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    leaks: tuple[Finding, ...]
    data: Mapping[str, Any]
    bootstrap: Mapping[str, Any]
    windows: Literal["centre", "strided"]
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        readings = self.readings() if self.rows else ()
        scores = "; ".join(f"{row.name} {row.score.main.text()}" for row in readings)
        tested = f"{self.records.get('test', 0):,} test {self.noun}s"
        return f"ProbeReport({self.task!r}, test {self.metric} of {tested}: {scores})"

    def _repr_html_(self) -> str:
        rows = list[tuple[str, ...]]()
        for row in self.readings():
            gap = self.difference(row)
            cells = (row.name, row.layer, number(row.validation), row.score.main.text())
            rows.append((*cells, "" if gap is None else gap.text(signed=True)))
        rows += [("leak", leak.kind, leak.severity, leak.message) for leak in self.leaks]
        test = f"test {self.metric} [{self.level} interval]"
        heading = ("features", "layer", "validation", test, "first minus this, paired")
        return table_html(f"{self.protocol}, {self.task}", rows, heading)

    @property
    def noun(self) -> str:
        """What a sample is called."""
        return "image" if self.modality == "image" else "record"

    @property
    def left_out(self) -> dict[str, str]:
        """Labels without an AUROC, and why."""
        return {label.name: label.left_out for label in self.labels if label.left_out}

    @property
    def heads(self) -> tuple[str, ...]:
        """The linear one first: the comparison rests on it."""
        return tuple(sorted({row.head for row in self.rows}, key=lambda name: name != "linear"))

    def readings(self, head: str | None = None) -> tuple[Row, ...]:
        """The first reading of each source by a head, in order; by the first head by default."""
        head = head or self.heads[0]
        first: dict[str, Row] = {}
        for row in self.rows:
            if row.head == head:
                first.setdefault(row.name, row)
        return tuple(first.values())

    def difference(self, row: Row) -> Estimate | None:
        """The paired difference of the tested encoder and one row, where there is one."""
        for found in self.differences:
            if (found.reference, found.head, found.choice) == (row.name, row.head, row.choice):
                return found.estimate
        return None

    @property
    def level(self) -> str:
        """Of the intervals, as in "95 %"; the space does not break."""
        return f"{100 * self.bootstrap['level']:.0f}\u00a0%"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the numbers must know besides: what is in none of them, and more."""
        missing = "value" if self.kind == "regression" else "label of the task"
        found = [
            _left_out(self.records_without_target, f"{self.noun}s without a {missing}"),
            _left_out(self.records_without_token, f"{self.noun}s without a valid token"),
        ]
        floors = ", ".join(
            f"{name} {number(floor, signed=floor < 0)}" for name, floor in self.floors.items()
        )
        if self.kind == "multi-class":
            found.append(f"always the most frequent class: {floors}")
        elif self.kind == "regression":
            found.append(f"always the mean of the training records: {floors}")
        if self.compared < self.records["train"]:
            found.append(f"layers compared on {self.compared:,} training {self.noun}s")
        return tuple(filter(None, found))

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings; an undefined number is ``None``."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ProbeReport:
        """Back from :meth:`as_json`; LatentcastError, without the file, for another version's."""
        try:
            report: ProbeReport = _adapter().validate_python(plain)
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise LatentcastError(
                f"another version of latentcast wrote it ({place} differs); probe again"
            ) from None
        return report

    def write(self, run: str | Path) -> Path:
        """Write ``RUN/probe-<task>.json`` atomically and return its path.

        Raises LatentcastError when it cannot be written.
        """
        path = Path(run) / file_name(self.task)
        try:
            write_text(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise LatentcastError(
                f"{path}: cannot be written ({error}); make the folder writable or free space, "
                "and probe again"
            ) from error
        return path

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
        tables = [self._sources(), *([self._differences()] if self.differences else [])]
        for title, scores in self.averages.items():
            cells = [(name, score.text()) for name, score in scores.items()]
            tables.append(_table(title, ["features"], [f"[{self.level} interval]"], cells))
        if self.kind == "multi-label" or 0 < len(self.labels) <= LISTED:
            tables.append(self._labels())
        for place, table in enumerate(tables):
            if place:
                console.print()
            console.print(table)
        if self.class_sizes:
            console.print(f"\n{self.class_sizes}", markup=False, highlight=False)
        if self.left_out:
            reasons = "; ".join(f"{name} ({why})" for name, why in self.left_out.items())
            console.print(f"In no average: {reasons}", markup=False)

    @property
    def averages(self) -> dict[str, dict[str, Estimate]]:
        """Further scores of the first readings by source, under a title each."""
        enough = [
            label
            for label in self.labels
            if label.positives["test"] >= SUPPORT and not label.left_out
        ]
        found: dict[str, dict[str, Estimate]] = {}
        rows = self.readings()
        if self.kind == "multi-label" and 0 < len(enough) < len(self.labels):
            which = f"{len(enough)} labels" if len(enough) > 1 else "one label"
            title = f"Over the {which} with {SUPPORT} or more positives in the test fold"
            found[title] = {row.name: row.score.supported or UNDEFINED for row in rows}
        for name in rows[0].score.others:
            direction = "lower" if name in self.lower_is_better else "higher"
            title = f"{name} on the test fold, {direction} is better"
            found[title] = {row.name: row.score.others[name] for row in rows}
        return found

    @property
    def class_sizes(self) -> str:
        """The sizes of many classes in a line; "" where each has a line of its own."""
        if self.kind != "multi-class" or len(self.labels) <= LISTED:
            return ""
        sizes = {split: [label.positives[split] for label in self.labels] for split in self.records}
        spans = ", ".join(f"{split} {min(n):,} to {max(n):,}" for split, n in sizes.items())
        return f"{len(self.labels):,} classes; {self.noun}s of each: {spans}"

    def _sources(self) -> Table:
        counts = " / ".join(f"{count:,}" for count in self.records.values())
        caption = (
            f"{counts} {self.noun}s; {self.rows[0].pooling} over tokens; intervals from "
            f"{self.bootstrap['resamples']:,} resamples of {self.bootstrap['units']:,} test "
            f"{self.bootstrap['unit']}s"
        )
        test = f"test {self.metric}\n[{self.level} interval]"
        head = ["head"] * (len(self.heads) > 1)
        cells = [
            (
                row.name,
                *[row.head] * len(head),
                row.layer if row.choice in (OWN, "named") else f"{row.layer} ({row.choice})",
                "" if row.penalty is None else f"{row.penalty:g}",
                number(row.validation),
                row.score.main.text(),
            )
            for row in self.rows
        ]
        table = _table(
            escape(self.protocol),
            ["features", *head, "layer"],
            ["C", "validation", test],
            cells,
            "; ".join((caption, *self.remarks)),
        )
        # A long name is broken, a usual one is not; of the rest only the layer may be.
        table.columns[0].no_wrap = max(len(row.name) for row in self.rows) <= 20
        return table

    def _differences(self) -> Table:
        head = ["head"] * (len(self.heads) > 1)
        cells = [
            (gap.reference, *[gap.head] * len(head), gap.choice,
             gap.estimate.text(signed=True), gap.estimate.outcome)
            for gap in self.differences
        ]  # fmt: skip
        title = f"Difference of test {self.metric}, paired [{self.level} interval]"
        names = [f"{self.rows[0].name} minus", *head, "layer"]
        return _table(title, names, ["difference", ""], cells)

    def _labels(self) -> Table:
        rows = self.readings() if self.kind == "multi-label" else ()
        title = f"{self.noun.capitalize()}s of each class"
        if rows:
            title = f"Positives, and test AUROC of each label (* fewer than {SUPPORT} positives)"
        # Broken here: a heading would otherwise be cut, or push the numbers off the line.
        wrapped = [
            "\n".join(textwrap.wrap(row.name, 14 if place else 20))
            for place, row in enumerate(rows)
        ]
        areas = [{label.name: label.auroc for label in row.score.labels} for row in rows]
        cells = []
        for label in self.labels:
            scores = [by_name.get(label.name, UNDEFINED) for by_name in areas]
            rare = "*" if rows and label.positives["test"] < SUPPORT else ""
            counts = [f"{count:,}" for count in label.positives.values()]
            others = [number(score.value) for score in scores[1:]]
            text = [score.text() for score in scores[:1]]
            cells.append((escape(label.name) + rare, *counts, *text, *others))
        name = "label" if rows else "class"
        return _table(title, [name], ["train", "val", "test", *wrapped], cells)


def file_name(task: str) -> str:
    """What a probe of a task is called in its run folder."""
    return "probe-" + re.sub(r"[^\w.+-]", "-", task) + ".json"


@cache
def _adapter() -> TypeAdapter[ProbeReport]:
    return TypeAdapter(ProbeReport)


def _left_out(counts: Mapping[str, int], what: str) -> str:
    """How many records are in no number, and why; "" where there are none."""
    if not any(counts.values()):
        return ""
    total = sum(counts.values())
    by_split = ", ".join(f"{split} {count:,}" for split, count in counts.items() if count)
    if total == 1:
        what = what.replace("s ", " ", 1)
    return f"{total:,} {what} left out ({by_split})"


def plain_table(title: str | None = None, caption: str | None = None) -> Table:
    """A table without a frame."""
    return Table(
        title=title, title_justify="left", title_style="bold", caption=caption,
        caption_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip


def _table(
    title: str,
    names: Sequence[str],
    numbers: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str | None = None,
) -> Table:
    """Columns that may be broken, and columns of numbers that may not."""
    table = plain_table(title, caption)
    for heading in names:
        table.add_column(heading, overflow="fold", no_wrap=heading == "head")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
