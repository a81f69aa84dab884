"""A probe on the page: leaks, cards, the table of sources, labels or classes, and caveats."""

from __future__ import annotations

import math

from latentcast.evaluation.estimate import SUPPORT, UNDEFINED, number
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.summaries import averages, groupings
from latentcast.report.markup import card, escape, interval_bar, notice, section, table


def leaks(probe: ProbeReport) -> str:
    items = [
        f"<strong>{escape(leak.severity)}: {escape(leak.kind)}</strong>, {escape(leak.count)} "
        f"cases ({escape(', '.join(leak.examples))}). {escape(leak.message)}"
        for leak in probe.leaks
    ]
    opening = "The test fold may not be independent of what the model was trained on."
    return notice(items, f"<p><strong>{opening}</strong></p>")


def cards(probe: ProbeReport) -> str:
    measure = probe.metric + (f", {probe.heads[0]}" if len(probe.heads) > 1 else "")
    items = []
    for place, row in enumerate(probe.readings()):
        main = row.score.main
        ends = f" [{number(main.low)}, {number(main.high)}]" * math.isfinite(main.low)
        note = measure + ends
        items.append(card(row.name, number(main.value), note, tested=not place))
    return "".join(items)


def sections(probe: ProbeReport, title: str, remark: str, pictures: str) -> str:
    """The table of sources under ``title`` and ``remark``, pictures (both markup), and the table
    of labels."""
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
    caption += "."
    places = [place + several for place in (3, 4, 5, 7, 8)]
    scores = table(caption, heading, body, numeric=places, stacked=True)
    result = section(title, remark, scores, pictures)
    return result + _labels(probe) + _subgroups(probe)


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


def _labels(probe: ProbeReport) -> str:
    names = [row.name for row in probe.readings()]
    further = ""
    if scored := averages(probe):
        body = [
            [title, *(scores.get(name, UNDEFINED).text() for name in names)]
            for title, scores in scored.items()
        ]
        caption = f"Further scores on the test fold [{probe.level}]."
        further = table(caption, ["", *names], body, numeric=range(1, len(names) + 1), stacked=True)
    if probe.class_sizes or not probe.labels:
        return further + (f"<p>{escape(probe.class_sizes)}.</p>\n" if probe.class_sizes else "")
    rows = probe.readings() if probe.kind == "multi-label" else ()
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
        title, caption = "Class by class", f"{probe.noun.capitalize()}s of each class."
        heading = ["class", *probe.records]
    else:
        title, caption = "Label by label", f"Test AUROC of each label [{probe.level}]."
        if any(label.positives["test"] < SUPPORT for label in probe.labels):
            caption += f" * fewer than {SUPPORT} positives in the test fold: read with care."
        heading = [
            "label", *(f"{split} positives" for split in probe.records), *(r.name for r in rows)
        ]  # fmt: skip
    drawn = table(caption, heading, body, numeric=range(1, len(heading)), stacked=True)
    return section(title, further, drawn, _points(probe), _reliability(probe))


def _points(probe: ProbeReport) -> str:
    """The operating points of the first source, folded away."""
    row = probe.readings()[0]
    if not row.score.points:
        return ""
    precision = {label.name: label.text(label.average_precision) for label in row.score.labels}
    body = [
        [point.name, precision[point.name], number(point.threshold),
         *(rate.text() for rate in (point.sensitivity, point.specificity, point.ppv, point.f1))]
        for point in row.score.points
    ]  # fmt: skip
    caption = (
        f"{row.name}: average precision of each label, and what its threshold gives on the test "
        f"fold [{probe.level}]. A threshold is the probability with the highest F1 on validation."
    )
    heading = ["label", "AP", "threshold", "sensitivity", "specificity", "PPV", "F1"]
    drawn = table(caption, heading, body, numeric=range(1, len(heading)), stacked=True)
    return f"<details><summary>Operating points of each label</summary>{drawn}</details>\n"


def _reliability(probe: ProbeReport) -> str:
    """How far predicted probabilities are from what is found, folded away."""
    row = probe.readings()[0]
    found = row.score.calibration
    if found is None:
        return ""
    body = [
        [f"{own.low:.2f} to {own.high:.2f}", f"{own.count:,}", number(own.predicted),
         number(own.positive)]
        for own in found.bins
    ]  # fmt: skip
    caption = (
        f"{row.name}: probabilities on the test fold, every label of every {probe.noun}; "
        f"temperature {found.temperature:.2f}, chosen on validation. The expected calibration "
        f"error is {number(found.error)}, the mean over labels."
    )
    heading = ["probability", "how many", "mean", "share of positives"]
    drawn = table(caption, heading, body, numeric=range(1, len(heading)), stacked=True)
    return f"<details><summary>Reliability of the probabilities</summary>{drawn}</details>\n"


def _subgroups(probe: ProbeReport) -> str:
    """A table for each key of the metadata that subgroups were asked of."""
    parts = []
    labels = probe.kind == "multi-label"
    for by, groups in groupings(probe).items():
        body = []
        for found in groups:
            first = found[0]
            counts = [f"{first.records:,}", *([f"{first.positives:,}"] if labels else [])]
            averaged = [f"{first.averaged}"] if labels else []
            scores = [first.too_few or group.main.text() for group in found]
            body.append([first.name, *counts, *averaged, *scores])
        counted = ["positives", "labels averaged"] if labels else []
        heading = [by, f"{probe.noun}s", *counted, *(row.name for row in probe.readings())]
        caption = f"Test {probe.metric} by {by} [{probe.level}]."
        if labels:
            caption += (
                f" Averages are over the labels with {SUPPORT} or more positives and a negative in "
                "the group; groups whose labels differ do not compare."
            )
        parts.append(table(caption, heading, body, numeric=range(1, len(heading)), stacked=True))
    return section("Subgroups", *parts) if parts else ""
