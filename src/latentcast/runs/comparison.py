"""Runs side by side: what was set otherwise, how it ended, what the probes said."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from latentcast.config.resolve import leaves
from latentcast.errors import LatentcastError
from latentcast.monitors.rows import columns
from latentcast.runs.listing import plain
from latentcast.runs.scores import ProbeScore
from latentcast.runs.summary import RunSummary
from latentcast.terminal import Terminal, plain_table

ABSENT: Final = "–"
SCHEDULED: Final = ("step", "lr", "weight_decay", "momentum", "alarms")
"""Keys of a row that the configuration decides, or that have a line of their own."""
READ_FIRST: Final = re.compile(
    r"step|skipped|(.*_)?loss|regularizer|gradient_norm|teacher_distance|samples_per_second|"
    r"data_wait|flops_of_peak|online_.*"
)
STATISTICS: Final = ("rank", "mean_norm", "std", "between")
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
        scores: (task, head, measure) -> the probe's score in each run, None without one.
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
    scores = {
        (score.task, score.head, score.measure): tuple(_score(run, score) for run in runs)
        for score in (score for run in runs for score in run.scores)
    }
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
    """Four tables, a column for each run; of the last row only what is read first."""
    for title, differing in (
        ("Configuration keys that differ", comparison.configuration),
        ("Machine keys that differ (no part of what was trained)", comparison.machine),
    ):
        rows = [(key, [shown(value) for value in values]) for key, values in differing.items()]
        _print(title, comparison.names, rows, "none", console)
    metrics = [
        (key, [_metric(value) for value in values])
        for key, values in comparison.metrics.items()
        if READ_FIRST.fullmatch(key)
        or any(c.role != "context" and c.statistic in STATISTICS for c in columns([key]))
    ]
    _print("Last metrics (--json has all)", comparison.names, metrics, "none", console)
    scores: list[tuple[str, list[str]]] = []
    for (task, head, measure), row in comparison.scores.items():
        scores.append((f"{task}, {head}: {measure}", [_interval(score) for score in row]))
        for floor in dict.fromkeys(score.floor for score in row if score and score.floor):
            gains = [_gain(score) if score and score.floor == floor else ABSENT for score in row]
            scores.append((f"  minus {floor}", gains))
    _print("Probes, test split [interval]", comparison.names, scores, "no run has one", console)
    for note in comparison.notes:
        console.print(f"note: {note}", style="yellow")


def _print(
    title: str,
    names: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    nothing: str,
    console: Terminal,
) -> None:
    """One table, or several below each other when the runs do not fit beside each other."""
    if not rows:
        console.print(f"{title}: {nothing}\n")
        return
    keys = max(len(key) for key, _ in rows)
    widest = max(len(text) for _, cells in rows for text in (*cells, *names))
    abreast = max(1, (console.width - keys) // (widest + 2))
    for start in range(0, len(names), abreast):
        table = plain_table("" if start else title)
        table.add_column("", overflow="fold")
        for name in names[start : start + abreast]:
            table.add_column(name, overflow="fold", justify="right")
        for key, cells in rows:
            table.add_row(key, *cells[start : start + abreast])
        console.print(table)
        console.print()


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


def _score(run: RunSummary, like: ProbeScore) -> ProbeScore | None:
    return next((s for s in run.scores if (s.task, s.head) == (like.task, like.head)), None)


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
    for (task, _, _), row in scores.items():
        shards = {str(sorted(score.shards.items())) for score in row if score}
        note = f"the probes of {task} are of different samples (sha256 of the shards)"
        if len(shards) > 1 and note not in notes:
            notes.append(note)
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
