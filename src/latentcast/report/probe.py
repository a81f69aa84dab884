"""A probe on the page: cards, the tables of sources, labels and subgroups, and caveats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latentcast.evaluation.estimate import SUPPORT, UNDEFINED, number
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.summaries import averages, groupings
from latentcast.report.picture import Picture
from latentcast.report.svg import interval_bar
from latentcast.report.templates import Card, Table


def cards(probe: ProbeReport) -> list[Card]:
    measure = probe.metric + (f", {probe.heads[0]}" if len(probe.heads) > 1 else "")
    items = []
    for row in probe.readings():
        main = row.score.main
        ends = f" [{number(main.low)}, {number(main.high)}]" * math.isfinite(main.low)
        items.append(Card(row.name, number(main.value), measure + ends))
    return items


def side_by_side(probes: Sequence[ProbeReport]) -> Table | None:
    """A line for each head of each probe: of several stores, layers, weights. None of one probe."""
    if len(probes) < 2:
        return None
    body = []
    for probe in probes:
        for head in probe.heads:
            row = probe.readings(head)[0]
            gap = next((gap for gap in probe.differences if gap.head == head), None)
            minus = f"{gap.estimate.text(signed=True)} ({gap.reference})" if gap else ""
            score = [row.score.main.text(), probe.metric, minus]
            origin = [probe.weights, str(probe.data.get("store", ""))]
            body.append([ProbeSection(probe, []).title, head, row.layer, *score, *origin])
    test = f"test [{probes[0].level}]"
    names = ["probe", "head", "layer", test, "metric", "minus its first floor", "weights", "store"]
    return Table("The tested encoder in each probe.", names, body, (3, 5), "wide")


@dataclass(frozen=True)
class ProbeSection:
    """What ``probe.html`` shows of one probe; a table that has nothing to show is None."""

    probe: ProbeReport
    pictures: list[Picture]

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.probe.task, self.probe.variant)))

    @property
    def about(self) -> str:
        """Of two probes of one task the titles differ, or the weights and stores."""
        probe = self.probe
        parts = {"weights": probe.weights, "store": probe.data.get("store")}
        return ", ".join(f"the {name} {value}" for name, value in parts.items() if value)

    @property
    def scores(self) -> Table:
        """The table of sources."""
        probe = self.probe
        level, rows, several = probe.level, probe.rows, len(probe.heads) > 1
        ends = [end for row in rows for end in (row.score.main.low, row.score.main.high)]
        ends = [end for end in ends if math.isfinite(end)]
        reach = (min(ends), max(ends)) if ends else (0.0, 0.0)
        body = []
        for row in rows:
            difference, main = probe.compared_with(row), row.score.main
            names = [row.name, *([row.head] if several else []), f"{row.layer} ({row.choice})"]
            penalty = "" if row.penalty is None else f"{row.penalty:g}"
            bar = interval_bar(main, reach, strong=row.name == rows[0].name)
            minus = difference.estimate.text(signed=True) if difference else ""
            p = number(difference.holm) if difference else ""
            numbers = [number(row.validation), main.text(), bar, minus, p]
            body.append([*names, row.pooling, penalty, *numbers])
        heading = [
            "features", *(["head"] if several else []), "layer", "pooling", "C", "validation",
            f"test {probe.metric} [{level}]", "", f"{rows[0].name} minus this [{level}]",
            "p",
        ]  # fmt: skip
        places = [place + several for place in (3, 4, 5, 7, 8)]
        return Table(self._caption(), heading, body, places)

    def _caption(self) -> str:
        probe = self.probe
        counts, drawn = probe.records, probe.bootstrap
        remarks = "".join(f"{sentence[:1].upper()}{sentence[1:]}. " for sentence in probe.remarks)
        caption = (
            f"{probe.protocol}. {counts['train']:,} / {counts['validation']:,} / "
            f"{counts['test']:,} {probe.noun}s for training, validation, test. {remarks}"
            "Layer and penalty C are chosen on the validation fold"
        )
        if not probe.too_few:
            caption += (
                f"; intervals are percentiles of {drawn['resamples']:,} bootstrap resamples of the "
                f"{drawn['units']:,} test {drawn['unit']}s, drawn alike for all rows"
            )
        if any(math.isfinite(gap.holm) for gap in probe.differences):
            caption += (
                f"; p is two-sided, of the same resamples, corrected for {len(probe.differences)} "
                "comparisons (Holm)"
            )
        return caption + "."

    @property
    def averages(self) -> Table | None:
        probe = self.probe
        names = [row.name for row in probe.readings()]
        body = [
            [title, *(scores.get(name, UNDEFINED).text() for name in names)]
            for title, scores in averages(probe).items()
        ]
        caption = f"Further scores on the test fold [{probe.level}]."
        return Table(caption, ["", *names], body) if body else None

    @property
    def ranked(self) -> bool:
        """Its labels have an AUROC each; otherwise they are classes."""
        return self.probe.kind == "multi-label"

    @property
    def labels(self) -> Table | None:
        """Label by label, or class by class."""
        probe = self.probe
        if probe.class_sizes or not probe.labels:
            return None
        rows = probe.readings() if self.ranked else ()
        areas = [{label.name: label for label in row.score.labels} for row in rows]
        body = []
        for label in probe.labels:
            name = label.name + (" *" if rows and label.positives["test"] < SUPPORT else "")
            if label.left_out:
                name += f" ({label.left_out})"
            found = [by_name.get(label.name) for by_name in areas]
            scores = [score.text(score.auroc) if score else "–" for score in found]
            body.append([name, *(f"{count:,}" for count in label.positives.values()), *scores])
        if not rows:
            caption = f"{probe.noun.capitalize()}s of each class."
            return Table(caption, ["class", *probe.records], body)
        caption = f"Test AUROC of each label [{probe.level}]."
        if any(label.positives["test"] < SUPPORT for label in probe.labels):
            caption += f" * fewer than {SUPPORT} positives in the test fold: read with care."
        positives = [f"{split} positives" for split in probe.records]
        return Table(caption, ["label", *positives, *(row.name for row in rows)], body)

    @property
    def points(self) -> Table | None:
        """The operating points of the first source."""
        row = self.probe.readings()[0]
        labels = {label.name: label for label in row.score.labels}
        body = [
            [point.name, label.text(label.average_precision), number(point.threshold),
             label.text(point.sensitivity), point.specificity.text(), label.text(point.ppv),
             label.text(point.f1)]
            for point in row.score.points if (label := labels[point.name])
        ]  # fmt: skip
        caption = (
            f"{row.name}: average precision of each label, and what its threshold gives on the "
            f"test fold [{self.probe.level}]. A threshold is the probability with the highest F1 "
            "on validation."
        )
        heading = ["label", "AP", "threshold", "sensitivity", "specificity", "PPV", "F1"]
        return Table(caption, heading, body) if body else None

    @property
    def reliability(self) -> Table | None:
        """How far predicted probabilities are from what is found."""
        row = self.probe.readings()[0]
        found = row.score.calibration
        if found is None:
            return None
        body = [
            [f"{own.low:.2f} to {own.high:.2f}", f"{own.count:,}", number(own.predicted),
             number(own.positive)]
            for own in found.bins
        ]  # fmt: skip
        caption = (
            f"{row.name}: probabilities on the test fold, every label of every {self.probe.noun}; "
            f"temperature {found.temperature:.2f}, chosen on validation. The expected calibration "
            f"error is {number(found.error)}, the mean over labels."
        )
        return Table(caption, ["probability", "how many", "mean", "share of positives"], body)

    @property
    def subgroups(self) -> Iterator[Table]:
        """One for each key of the metadata."""
        probe = self.probe
        for by, groups in groupings(probe).items():
            body = []
            for found in groups:
                first = found[0]
                counts = [f"{first.records:,}"]
                counts += [f"{first.positives:,}", f"{first.averaged}"] if self.ranked else []
                scores = [first.too_few or group.main.text() for group in found]
                body.append([first.name, *counts, *scores])
            counted = ["positives", "labels averaged"] if self.ranked else []
            heading = [by, f"{probe.noun}s", *counted, *(row.name for row in probe.readings())]
            caption = f"Test {probe.metric} by {by} [{probe.level}]."
            if self.ranked:
                caption += (
                    f" Averages are over the labels with {SUPPORT} or more positives and a "
                    "negative in the group; groups whose labels differ do not compare."
                )
            yield Table(caption, heading, body)


def caveats(probe: ProbeReport) -> list[str]:
    """What its numbers do not hold."""
    size = f"The test fold has {probe.records['test']:,} {probe.noun}s"
    if probe.kind == "multi-label":
        rarest = min((label.positives["test"] for label in probe.labels), default=0)
        size += f" and its rarest label {rarest:,} positives"
    found = [
        "The intervals show how the result varies with the choice of test "
        f"{probe.bootstrap['unit']}s. They do not hold the variation between training seeds, "
        "which needs several runs.",
        f"{size}; small differences cannot be seen in it.",
        "Linear heads and kNN on frozen features rank representations otherwise than fine-tuning "
        "or an attention head does, and their numbers must not stand in one table with those.",
    ]
    if probe.modality == "ecg":
        found.append(
            "One data source: nothing here shows how the features carry over to another hospital "
            "or device."
        )
    if probe.left_out:
        reasons = ", ".join(f"{name} ({why})" for name, why in probe.left_out.items())
        found.append(f"In no average: {reasons}.")
    return found
