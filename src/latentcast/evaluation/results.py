"""What a probe found, and the files of a run folder that keep it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import (
    FEWEST,
    LISTED,
    Estimate,
    Number,
    Score,
    number,
)
from latentcast.files import read_object, write_text
from latentcast.notebook import table_html

OWN = "chosen on validation"  # a Row's choice: the source chose the layer itself
DIGEST = "sha256"  # key of a file, of its other keys


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
    """The test score of the first source minus that of ``reference``, paired bootstrap.

    ``p`` is its p-value and ``holm`` the one that is corrected for all differences of the table,
    see :mod:`latentcast.evaluation.comparisons`.
    """

    name: str
    reference: str
    head: str
    choice: str
    estimate: Estimate
    p: Number = math.nan
    holm: Number = math.nan


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
    ``notes`` are what was done to the signal for single sources.
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
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        readings = self.readings() if self.rows else ()
        scores = "; ".join(f"{row.name} {row.score.main.text()}" for row in readings)
        tested = f"{self.records.get('test', 0):,} test {self.noun}s"
        return f"ProbeReport({self.task!r}, test {self.metric} of {tested}: {scores})"

    def _repr_html_(self) -> str:
        rows = list[tuple[str, ...]]()
        for row in self.readings():
            gap = self.compared_with(row)
            cells = (row.name, row.layer, number(row.validation), row.score.main.text())
            rows.append((*cells, "" if gap is None else gap.estimate.text(signed=True)))
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

    def compared_with(self, row: Row) -> Difference | None:
        """The paired difference of the tested encoder and one row, where there is one."""
        for found in self.differences:
            if (found.reference, found.head, found.choice) == (row.name, row.head, row.choice):
                return found
        return None

    @property
    def level(self) -> str:
        """Of the intervals, as in "95 %"; the space does not break."""
        return f"{100 * self.bootstrap['level']:.0f}\u00a0%"

    @property
    def too_few(self) -> str:
        """Why no score has an interval; "" where they have."""
        units, unit = self.bootstrap["units"], self.bootstrap["unit"]
        if units >= FEWEST:
            return ""
        are = f"1 test {unit} is" if units == 1 else f"{units} test {unit}s are"
        return f"{are} too few: the scores say next to nothing and have no intervals"

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
        if self.kind == "multi-label" and len(self.floors) > 1:
            found.append(f"the same score for all: {floors}")
        elif self.kind == "multi-class":
            found.append(f"always the most frequent class: {floors}")
        elif self.kind == "regression":
            found.append(f"always the mean of the training records: {floors}")
        if self.compared < self.records["train"]:
            found.append(f"layers compared on {self.compared:,} training {self.noun}s")
        return tuple(filter(None, (*found, *self.notes)))

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings; an undefined number is ``None``."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    @property
    def leaking(self) -> bool:
        """Whether it was scored although a leak makes the test score meaningless."""
        return any(leak.severity == "error" for leak in self.leaks)

    @property
    def variant(self) -> str:
        """What was chosen otherwise than by default, as in "layer block 2, student"; or ""."""
        first = self.rows[0]
        usual = "mean" if self.modality == "image" else "mean+std"
        chosen = (
            f"layer {first.layer}" if first.choice == "named" else "",
            first.pooling if first.pooling != usual else "",
            "student" if ", student," in self.weights else "",
            "in spite of a leak" if self.leaking else "",
        )
        return ", ".join(filter(None, chosen))

    @property
    def weights(self) -> str:
        """Which were probed, as in "nepa-ecg-small, teacher, step 12"; "" where that is unknown."""
        return str(self.provenance.get("weights") or "")

    @property
    def step(self) -> int | None:
        """Optimizer steps of the weights."""
        found = re.search(r"step (\d+)$", self.weights)
        return int(found[1]) if found else None

    @property
    def question(self) -> tuple[Any, ...]:
        """Two reports that agree in it answer the same: the later one takes the file's place."""
        shards = self.data["shards"]
        return self.task, self.variant, self.weights, self.heads, self.windows, shards

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ProbeReport:
        """Back from :meth:`as_json`, or from a file, whose digest is checked where it has one.

        LatentcastError, without the name of the file, for a damaged one or another version's.
        """
        try:
            report: ProbeReport = _adapter().validate_python(undamaged(plain))
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise LatentcastError(
                f"another version of latentcast wrote it ({place} differs); probe again"
            ) from None
        if not report.rows:
            raise LatentcastError("has no score; probe again")
        return report

    @classmethod
    def read(cls, file: Path) -> ProbeReport:
        """The report in a file of a run folder.

        Raises:
            LatentcastError: it is missing, damaged or of another version; names the file.
        """
        try:
            plain = read_object(file)
        except FileNotFoundError:
            raise LatentcastError(f"{file}: does not exist; probe the run") from None
        except (OSError, ValueError) as error:
            raise LatentcastError(f"{file}: cannot be read ({error}); probe again") from None
        try:
            return cls.from_json(plain)
        except LatentcastError as problem:
            raise LatentcastError(f"{file}: {problem}") from None

    def write(self, run: str | Path) -> Path:
        """Write ``RUN/probe-TASK.json`` atomically and return its path.

        A probe of another store, layer, head, pooling or of other weights that is there already
        stays: this one becomes ``probe-TASK-2.json`` beside it.

        Raises LatentcastError when it cannot be written.
        """
        path = self._place(Path(run))
        plain = self.as_json()
        text = json.dumps(plain | {DIGEST: _digest(plain)}, indent=1, allow_nan=False)
        try:
            write_text(path, text + "\n")
        except OSError as error:
            raise LatentcastError(
                f"{path}: cannot be written ({error}); make the folder writable or free space, "
                "and probe again"
            ) from error
        return path

    def _place(self, run: Path) -> Path:
        """The file that answers the same question; else the first free or damaged one."""
        damaged = None
        for path in probe_files(run, self.task):
            try:
                if ProbeReport.read(path).question == self.question:
                    return path
            except LatentcastError:
                damaged = damaged or path
        numbered = (run / file_name(self.task, number) for number in count(1))
        return damaged or next(path for path in numbered if not path.exists())

    @property
    def class_sizes(self) -> str:
        """The sizes of many classes in a line; "" where each has a line of its own."""
        if self.kind != "multi-class" or len(self.labels) <= LISTED:
            return ""
        sizes = {split: [label.positives[split] for label in self.labels] for split in self.records}
        spans = ", ".join(f"{split} {min(n):,} to {max(n):,}" for split, n in sizes.items())
        return f"{len(self.labels):,} classes; {self.noun}s of each: {spans}"


def file_name(task: str, number: int = 1) -> str:
    """What the first, second, ... probe of a task is called in its run folder."""
    another = f"-{number}" if number > 1 else ""
    return "probe-" + re.sub(r"[^\w.+-]", "-", task) + another + ".json"


def probe_files(run: Path, task: str) -> list[Path]:
    """The probes of a task in a run folder, the first one first."""
    name = re.compile(re.escape(Path(file_name(task)).stem) + r"(-\d+)?\.json")
    found = [file for file in run.glob("probe-*.json") if name.fullmatch(file.name)]
    return sorted(found, key=lambda file: (len(file.name), file.name))


def undamaged(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file without its digest; older versions wrote none.

    LatentcastError, without the name of the file, where the digest is of other content.
    """
    content = {name: value for name, value in plain.items() if name != DIGEST}
    if DIGEST in plain and plain[DIGEST] != _digest(content):
        raise LatentcastError(
            f"was edited or damaged after it was written (its {DIGEST} is of other content); "
            "probe again"
        )
    return content


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content, however it is indented or ordered."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


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
