"""How training went: curves, alarms over time, updates that were given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from latentcast.evaluation.estimate import number
from latentcast.monitors.rows import ranks
from latentcast.report.curves import MOST_POINTS, first_alarms, panels, plot_curves
from latentcast.report.picture import Picture
from latentcast.report.svg import timeline
from latentcast.report.templates import Card, Table

Rows = Sequence[Mapping[str, Any]]


def curves(metrics: Rows, steps: int | None) -> Picture:
    """The picture, from the rows of ``metrics.jsonl``; ``steps`` is the length of the whole run."""
    binned = len(metrics) > MOST_POINTS
    drawn = panels(metrics)
    return Picture(
        "curves",
        "Training curves",
        plot_curves(metrics),
        f"{len(drawn)} training curves over the optimizer step: "
        f"{', '.join(panel.title for panel in drawn)}. {_summary(metrics, steps)}",
        ("Lines are means of the logged rows in a bin, bands their range. " if binned else "")
        + "A shaded stretch is one in which an alarm was raised.",
    )


@dataclass(frozen=True)
class Training:
    """What ``training.html`` shows of the rows of a log.

    Attributes:
        metrics: rows of ``metrics.jsonl``.
        steps: of the whole run.
        curves: their picture.
    """

    metrics: Rows
    steps: int | None
    curves: Picture

    @property
    def summary(self) -> str:
        return _summary(self.metrics, self.steps)

    @property
    def watched(self) -> Rows:
        """The rows in which collapse was watched."""
        return [row for row in self.metrics if "alarms" in row]

    @property
    def alarms(self) -> Table | None:
        """Alarms and when they were raised; None without one."""
        watched = self.watched
        found = first_alarms(watched)
        if not found:
            return None
        still = set(watched[-1]["alarms"])
        until = float(watched[-1].get("step", 0))
        body: list[list[Any]] = [
            [
                name,
                f"{first:,}",
                f"{count:,} of {len(watched):,}",
                timeline(_raised(watched, name), until),
                "yes" if name in still else "no",
            ]
            for name, (first, count) in found.items()
        ]
        head = ["alarm", "first step", "logged rows", f"step 0 to {until:,.0f}",
                "still raised at the end"]  # fmt: skip
        return Table("Alarms raised while training.", head, body, (1, 2), kind="")

    @property
    def counts_skipped(self) -> bool:
        """Rows of old runs do not."""
        return any("skipped" in row for row in self.metrics)

    @property
    def skipped(self) -> Table | None:
        """An update is skipped when its gradient is not finite; neither weights nor EMA moved
        then. None without one."""
        gaps = _gaps(self.metrics)
        if not gaps:
            return None
        until = float(max([gaps[-1][1], *(row["step"] for row in self.metrics if row.get("step"))]))
        total = sum(count for _, _, count in gaps)
        where = timeline([(before, step) for before, step, _ in gaps], until)
        listed = ", ".join(f"{count} in steps {a:,} to {b:,}" for a, b, count in gaps[:8])
        if len(gaps) > 8:
            listed += f", and in {len(gaps) - 8} more stretches"
        caption = (
            "Skipped updates: the gradient was not finite, so neither the weights nor the average "
            "moved, and the batch was not met again."
        )
        head = ["skipped", "between logged rows", f"step 0 to {until:,.0f}"]
        return Table(caption, head, [[f"{total:,}", listed, where]], (), kind="")


def _summary(metrics: Rows, steps: int | None) -> str:
    last = _last(metrics)
    at = f"{last['step']:,}" if last else "–"
    summary = f"{len(metrics):,} logged row{'s' * (len(metrics) != 1)}, the last at step {at}"
    summary += f" of {steps:,}. " if steps else ". "
    return summary + _ending(last) + _speed(metrics)


def standing(metrics: Rows, steps: int | None) -> str:
    """Where the run stands, as a headline."""
    last = _last(metrics)
    if not last:
        return "No step has been logged"
    step = int(last["step"])
    if steps is None or step >= steps:
        return f"Trained for {step:,} step{'s' * (step != 1)}"
    return f"Stands at step {step:,} of {steps:,}"


def cards(metrics: Rows) -> list[Card]:
    """The last row at a glance, for a run that was not probed."""
    last = _last(metrics)
    if not last:
        return []
    alarms, skipped = first_alarms(metrics), sum(count for _, _, count in _gaps(metrics))
    still = len(metrics[-1].get("alarms") or ())
    levelled = len(ranks(last)) > 1
    return [
        Card("loss", number(last["loss"], signed="copy_last_loss" in last), "in the last row"),
        Card("effective rank", _ranks(last), f"in the last row{', finest level first' * levelled}"),
        Card("alarms", f"{len(alarms)}", f"{still} at the end"),
        Card("skipped updates", f"{skipped:,}", "gradient not finite"),
    ]


def _ranks(row: Mapping[str, Any]) -> str:
    return " / ".join(f"{rank:.0f}" for rank in ranks(row)) or "–"


def _last(metrics: Rows) -> Mapping[str, Any]:
    """The last row with a loss; one without a step is no row."""
    rows = (row for row in reversed(metrics) if isinstance(row.get("step"), int))
    return next((row for row in rows if row.get("loss") is not None), {})


def _ending(last: Mapping[str, Any]) -> str:
    # With a term between two views, the copy is held against the objective's own loss.
    loss, copied = last.get("objective_loss", last.get("loss")), last.get("copy_last_loss")
    sentence = ""
    if loss is not None and copied is not None:
        against = "below" if loss < copied else "not below"
        result = "more than a copy. " if loss < copied else "no more than a copy would. "
        sentence += (
            f"The loss ended at {number(loss, signed=True)}, {against} that of repeating the last "
            f"patch ({number(copied, signed=True)}): the model predicts {result}"
        )
    by_level = ranks(last)
    if loss is not None and copied is None and by_level:
        sentence += f"The loss ended at {number(last['loss'])}, the effective rank at "
        sentence += ", ".join(
            f"{rank:.0f} (level {n})" if len(by_level) > 1 else f"{rank:.0f}"
            for n, rank in enumerate(by_level)
        )
        sentence += ". "
    return sentence


def _speed(metrics: Rows) -> str:
    rates = sorted(r for row in metrics if (r := row.get("samples_per_second")) is not None)
    return f"Median {rates[len(rates) // 2]:,.0f} samples/s. " if rates else ""


def _raised(watched: Rows, name: str) -> list[tuple[float, float]]:
    """From each row with this alarm to the next row, neighbours joined."""
    steps = [float(row.get("step", 0)) for row in watched]
    spans: list[tuple[float, float]] = []
    for row, (start, stop) in zip(watched, pairwise([*steps, steps[-1]]), strict=True):
        if name not in row["alarms"]:
            continue
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, stop))
    return spans


def _gaps(metrics: Rows) -> list[tuple[int, int, int]]:
    """(step of the row before, step of the row, updates that were skipped between them)."""
    gaps, before, total = [], 0, 0
    for row in metrics:
        step, skipped = row.get("step"), row.get("skipped")
        if not isinstance(step, int) or not isinstance(skipped, int):
            continue
        if skipped > total:
            gaps.append((before, step, skipped - total))
        before, total = step, max(total, skipped)
    return gaps
