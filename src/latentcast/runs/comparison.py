"""Runs side by side: what was set otherwise, how it ended, what the probes said."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentcast.config.resolve import leaves
from latentcast.errors import LatentcastError
from latentcast.monitors.rows import columns
from latentcast.runs.listing import plain
from latentcast.runs.scores import ProbeScore, newest
from latentcast.runs.summary import RunSummary
from latentcast.terminal import Terminal, plain_table

ABSENT: Final = "–"
SCHEDULED: Final = ("step", "lr", "weight_decay", "momentum", "alarms")
"""Keys of a row that the configuration decides, or that have a line of their own."""
READ_FIRST: Final = re.compile(
    r"step|skipped|(.*_)?loss|regularizer|gradient_norm|teacher_distance|samples_per_second|"
    r"data_wait|flops_of_peak|online_.*"
)
STATISTICS: Final = ("rank", "std")
"""Of each view but the context."""


@dataclass(frozen=True)
class Comparison:
    """What differs between runs; every tuple has a value for each of ``names``, in that order.

    Attributes:
        names: of the runs.
        configuration: dotted key -> its values, of keys that are not the same in all runs; None
            also for a key that a run's configuration does not have.
        machine: the same, of where and how they computed: no part of what was trained.
        metrics: key of a row -> its last values.
        scores: (task, head, measure) -> the probe's score in each run, None without one; the task
            with what tells its probes apart, as "labels, layer block 2 on store 1f3a9c02".
        notes: why numbers side by side may not be comparable.
    """

    names: tuple[str, ...]
    configuration: Mapping[str, tuple[Any, ...]]
    machine: Mapping[str, tuple[Any, ...]]
    metrics: Mapping[str, tuple[Any, ...]]
    scores: Mapping[tuple[str, str, str], tuple[ProbeScore | None, ...]]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; a score's key is written "task, head"."""
        return vars(self) | {
            "scores": {
                f"{task}, {head}": [score.as_json() if score else None for score in row]
                for (task, head, _), row in self.scores.items()
            }
        }


def compare(runs: Sequence[RunSummary]) -> Comparison:
    """Compare two or more runs.

    Raises:
        LatentcastError: there are fewer than two.
    """
    if len(runs) < 2:
        raise LatentcastError(
            f"{runs[0].name if runs else 'runs'}: is all there is; --compare needs two runs or more"
        )
    trees = [run.folder.tree for run in runs]
    trained = [leaves({k: v for k, v in tree.items() if k != "machine"}) for tree in trees]
    machines = [leaves({"machine": tree.get("machine", {})}) for tree in trees]
    # Of keys that are not in every row (a look now and then) the last one.
    last = [{key: v for row in run.folder.rows for key, v in row.items()} for run in runs]
    keys = dict.fromkeys(key for row in last for key in row if key not in SCHEDULED)
    scores = _scores(runs)
    return Comparison(
        names=tuple(run.name for run in runs),
        configuration=_differing(trained),
        machine=_differing(machines),
        metrics={"step": tuple(run.step for run in runs)}
        | {key: tuple(row.get(key) for row in last) for key in keys},
        scores=scores,
        notes=_notes(runs, scores),
    )


def as_json(runs: Sequence[RunSummary], comparison: Comparison | None = None) -> str:
    """What the tables show, and what had no room in them, as one JSON object."""
    plain: dict[str, Any] = {"runs": [run.as_json() for run in runs]}
    if comparison is not None:
        plain["comparison"] = comparison.as_json()
    return json.dumps(plain, indent=1, allow_nan=False)


def print_comparison(comparison: Comparison, console: Terminal) -> None:
    """Tables of what differs, a column for each run; of the last row only what is read first."""
    tables: list[tuple[str, list[_Line]]] = []
    elsewhere: dict[tuple[int, ...], dict[str, Any]] = {}
    for title, differing in (
        ("Configuration keys that differ", comparison.configuration),
        ("Machine keys that differ (no part of what was trained)", comparison.machine),
    ):
        lines: list[_Line] = []
        for key, values in differing.items():
            having = tuple(place for place, value in enumerate(values) if value is not None)
            if all(values[place] == values[having[0]] for place in having):
                elsewhere.setdefault(having, {})[key] = values[having[0]]
            else:
                lines.append((key, [shown(value) for value in values]))
        tables.append((title, lines))
    metrics: list[_Line] = [
        (key, [_metric(value) for value in values])
        for key, values in comparison.metrics.items()
        if READ_FIRST.fullmatch(key)
        or any(c.role != "context" and c.statistic in STATISTICS for c in columns([key]))
    ]
    scores: list[_Line] = []
    for (task, head, measure), row in comparison.scores.items():
        scores.append((f"{task}, {head}: {measure}", [_interval(score) for score in row]))
        for floor in dict.fromkeys(score.floor for score in row if score and score.floor):
            gains = [_gain(score) if score and score.floor == floor else ABSENT for score in row]
            scores.append((f"  minus {floor}", gains))
    tables += [
        ("Last metrics (--json has all)", metrics),
        ("Probes, test split [interval]", scores),
    ]
    names = comparison.names
    if any(_widths(names, lines) > console.width for _, lines in tables):
        names = tuple(f"#{place}" for place in range(1, len(names) + 1))
        console.print()
        for short, name in zip(names, comparison.names, strict=True):
            console.print(f"{short} {name}")
        console.print()
    for place, (title, lines) in enumerate(tables):
        if lines:
            _print(title, names, lines, console)
        if place == 1:
            for having, settings in elsewhere.items():
                runs = ", ".join(names[run] for run in having)
                console.print(f"Set only in {runs}: {_sections(settings)}")
            nothing = not lines and not tables[0][1] and not elsewhere
            console.print("No setting differs.\n" if nothing else "")
    if not scores:
        console.print("No run was probed.")
    for note in comparison.notes:
        console.print(f"note: {note}", style="yellow")


_Line = tuple[str, Sequence[str]]
"""A key, and its cell for each run."""


def _widths(names: Sequence[str], lines: Sequence[_Line]) -> int:
    """Of a table with all runs beside each other."""
    return sum(_column(names, lines, place) for place in range(-1, len(names)))


def _column(names: Sequence[str], lines: Sequence[_Line], place: int) -> int:
    """Width of a run's column; -1 is that of the keys."""
    cells = [key if place < 0 else row[place] for key, row in lines]
    return 2 + max(map(len, [*cells, "" if place < 0 else names[place]]), default=0)


def _print(title: str, names: Sequence[str], lines: Sequence[_Line], console: Terminal) -> None:
    """One table, or several below each other when the runs do not fit beside each other."""
    start = 0
    while start < len(names):
        room, end = console.width - _column(names, lines, -1), start
        while end < len(names) and (end == start or room >= _column(names, lines, end)):
            room -= _column(names, lines, end)
            end += 1
        table = plain_table("" if start else title)
        table.add_column("", overflow="fold")
        for name in names[start:end]:
            table.add_column(name, overflow="fold", justify="right")
        for key, cells in lines:
            table.add_row(key, *cells[start:end])
        console.print(table)
        console.print()
        start = end


def _sections(settings: Mapping[str, Any]) -> str:
    """A key with its value; of several in one section their number."""
    sections: dict[str, list[str]] = {}
    for key in settings:
        sections.setdefault(".".join(key.split(".")[:2]), []).append(key)
    return ", ".join(
        f"{name} ({len(keys)} keys)" if len(keys) > 1 else f"{keys[0]} {shown(settings[keys[0]])}"
        for name, keys in sections.items()
    )


def _differing(trees: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Keys in the order of the first configuration that has them."""
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = {key: tuple(tree.get(key) for tree in trees) for key in keys}
    # A section that is off in one run and on in another is told by its keys alone.
    sections = {key[:place] for key in keys for place, sign in enumerate(key) if sign == "."}
    return {
        key: row
        for key, row in rows.items()
        if key not in sections and any(value != row[0] for value in row)
    }


def _scores(
    runs: Sequence[RunSummary],
) -> dict[tuple[str, str, str], tuple[ProbeScore | None, ...]]:
    """A row for each question that a probe of one of the runs answers."""
    found = [{score.question: score for score in newest(run.scores)} for run in runs]
    first = {question: score for scores in reversed(found) for question, score in scores.items()}
    rows = {}
    for question in dict.fromkeys(question for scores in found for question in scores):
        score = first[question]
        others = {other.samples for other in first.values() if other.task == score.task}
        where = f" on {Path(score.store).name or 'samples'} {score.samples}"
        task = ", ".join(filter(None, (score.task, score.variant)))
        name = task + where * (len(others) > 1)
        rows[name, score.head, score.measure] = tuple(scores.get(question) for scores in found)
    return rows


def _notes(
    runs: Sequence[RunSummary], scores: Mapping[tuple[str, str, str], Sequence[ProbeScore | None]]
) -> tuple[str, ...]:
    notes = []
    objectives = {
        str({k: v for k, v in leaves(run.folder.tree).items() if k.startswith("objective.")})
        for run in runs
        if run.folder.tree
    }
    if len(objectives) > 1:
        notes.append("the objectives differ, so their losses are not on one scale")
    if len({run.step for run in runs}) > 1:
        notes.append("the runs are not at the same step")
    samples: dict[str, set[str]] = {}
    for score in (score for row in scores.values() for score in row if score):
        samples.setdefault(score.task, set()).add(score.samples)
    notes += [
        f"the probes of {task} are of different samples (sha256 of the shards), a row for each"
        for task, of in samples.items()
        if len(of) > 1
    ]
    return tuple(notes)


def _interval(score: ProbeScore | None) -> str:
    if score is None or score.value is None:
        return ABSENT
    return f"{plain(score.value)} [{plain(score.low)}, {plain(score.high)}]"


def _gain(score: ProbeScore) -> str:
    if score.gain is None:
        return ABSENT
    gain, low, high = (
        ABSENT if end is None else f"{end:+.3f}".replace("-", "−")
        for end in (score.gain, score.gain_low, score.gain_high)
    )
    return f"{gain} [{low}, {high}]"


def _metric(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def shown(value: Any) -> str:
    """A setting as YAML would have it; of a long list the beginning."""
    if isinstance(value, list | tuple):
        first = ", ".join(shown(item) for item in value[:3])
        return f"[{first}{f', … {len(value)}' if len(value) > 3 else ''}]"
    if value is None:
        return ABSENT
    return f"{value:.6g}" if isinstance(value, float) else str(value)
