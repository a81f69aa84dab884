"""A probe of recordings on the page: table of sources, labels, leaks, what is not in the numbers.

Input is the JSON that ``evaluation.results.ProbeReport`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentcast.evaluation.metrics import SUPPORT
from latentcast.evaluation.results import left_out_sentence, number
from latentcast.report.markup import card, escape, interval_bar, section, table
from latentcast.report.verdict import difference_of, first_readings, interval, level_of

Probe = Mapping[str, Any]


def leaks(probe: Probe) -> str:
    if not probe["leaks"]:
        return ""
    items = "".join(
        f"<li><strong>{escape(leak['severity'])}: {escape(leak['kind'])}</strong>, "
        f"{escape(leak['count'])} cases ({escape(', '.join(map(str, leak['examples'])))}). "
        f"{escape(leak['message'])}</li>\n"
        for leak in probe["leaks"]
    )
    return (
        '<div class="notice" role="note"><p><strong>The test fold may not be independent of '
        f"what the model has seen.</strong></p><ul>\n{items}</ul></div>\n"
    )


def cards(probe: Probe) -> str:
    return "".join(
        card(row["name"], row["score"]["macro"], "macro AUROC", tested=not place)
        for place, row in enumerate(first_readings(probe))
    )


def sections(probe: Probe, title: str, remark: str) -> str:
    """The table of sources under ``title`` and ``remark`` (markup), and that of labels."""
    level, rows = level_of(probe), probe["rows"]
    ends = [
        row["score"]["macro"][end]
        for row in rows
        for end in ("low", "high")
        if row["score"]["macro"][end] is not None
    ]
    reach = (min(ends), max(ends)) if ends else (0.0, 0.0)
    body = []
    for place, row in enumerate(rows):
        difference = difference_of(probe, row)
        body.append(
            [
                row["name"],
                f"{row['layer']} ({row['choice']})",
                row["pooling"],
                f"{row['penalty']:g}",
                number(row["validation"]),
                interval(row["score"]["macro"]),
                interval_bar(row["score"]["macro"], reach, strong=place == 0),
                interval(difference, signed=True) if difference else "",
            ]
        )
    head = [
        "features", "layer", "pooling", "C", "validation", f"test macro AUROC [{level}]", "",
        f"{rows[0]['name']} minus this [{level}]",
    ]  # fmt: skip
    counts, drawn = probe["records"], probe["bootstrap"]
    left_out = left_out_sentence(probe["records_left_out"])
    caption = (
        f"{probe['protocol']}. {counts['train']:,} / {counts['validation']:,} / "
        f"{counts['test']:,} records for training, validation, test. "
        f"{left_out}{'. ' if left_out else ''}Layer and penalty C are "
        f"chosen on the validation fold; intervals are percentiles of {drawn['resamples']:,} "
        f"bootstrap resamples of the {drawn['units']:,} test {drawn['unit']}s, drawn alike for "
        "all rows."
    )
    result = section(title, remark, table(caption, head, body, numeric=(3, 4, 5, 7)))
    return result + _labels(probe)


def caveats(probe: Probe) -> list[str]:
    """What its numbers do not hold."""
    positives = [label["positives"]["test"] for label in probe["labels"]]
    said = [
        f"The intervals say how the result varies with the choice of test "
        f"{probe['bootstrap']['unit']}s. They do not hold the variation between training seeds, "
        "which needs several runs.",
        f"The test fold has {probe['records']['test']:,} records and its rarest label "
        f"{min(positives, default=0):,} positives; small differences cannot be seen in it.",
        "A linear probe of frozen features measures what is readable by a line. It ranks "
        "representations otherwise than fine-tuning or an attention head does, and its numbers "
        "must not stand in one table with theirs.",
        "One data source: nothing here says how the features carry over to another hospital or "
        "device.",
    ]
    left_out = [f"{x['name']} ({x['left_out']})" for x in probe["labels"] if x["left_out"]]
    if left_out:
        said.append(f"In no average: {', '.join(left_out)}.")
    return said


def _labels(probe: Probe) -> str:
    readings = first_readings(probe)
    areas = [{label["name"]: label["auroc"] for label in r["score"]["labels"]} for r in readings]
    splits = list(probe["records"])
    body = []
    for label in probe["labels"]:
        few = label["positives"]["test"] < SUPPORT
        name = label["name"] + (" *" if few else "")
        if label["left_out"]:
            name += f" ({label['left_out']})"
        scores = [interval(held.get(label["name"], {})) for held in areas]
        body.append([name, *(f"{label['positives'][split]:,}" for split in splits), *scores])
    head = ["label", *(f"{split} positives" for split in splits), *(r["name"] for r in readings)]
    caption = f"Test AUROC of each label [{level_of(probe)}]."
    if any(label["positives"]["test"] < SUPPORT for label in probe["labels"]):
        caption += f" * fewer than {SUPPORT} positives in the test fold: read with care."
    drawn = table(caption, head, body, numeric=range(1, len(head)))
    return section("Label by label", _supported(probe), drawn)


def _supported(probe: Probe) -> str:
    """The averages over labels with enough positives, where some labels have too few."""
    enough = [
        label["positives"]["test"] >= SUPPORT and not label["left_out"] for label in probe["labels"]
    ]
    if all(enough) or not any(enough):
        return ""
    count = sum(enough)
    which = f"{count} labels" if count > 1 else "one label"
    averages = ", ".join(
        f"{row['name']} {interval(row['score']['supported'])}" for row in first_readings(probe)
    )
    said = f"Over the {which} with {SUPPORT} or more positives: {averages}."
    return f"<p>{escape(said)}</p>\n"
