"""A probe of images on the page: kNN and the linear head, and the images of each class.

Input is the JSON that ``evaluation.classification_results.ClassificationReport`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentcast.evaluation.classification_results import LISTED
from latentcast.evaluation.results import number
from latentcast.report.markup import card, interval_bar, section, table
from latentcast.report.verdict import heads, interval, level_of, read_by

Probe = Mapping[str, Any]


def cards(probe: Probe) -> str:
    head = heads(probe)[0]
    return "".join(
        card(row["name"], row["accuracy"], f"accuracy, {head}", tested=not place)
        for place, row in enumerate(read_by(probe, head))
    )


def sections(probe: Probe, title: str, remark: str) -> str:
    """The table of sources under ``title`` and ``remark`` (markup), and that of classes."""
    level, rows = level_of(probe), probe["rows"]
    ends = [row["accuracy"][end] for row in rows for end in ("low", "high")]
    told = [end for end in ends if end is not None]
    reach = (min(told), max(told)) if told else (0.0, 0.0)
    body = [
        [
            row["name"],
            row["head"],
            f"{row['layer']} ({row['choice']})",
            row["pooling"],
            "" if row["penalty"] is None else f"{row['penalty']:g}",
            number(row["validation"]),
            interval(row["accuracy"]),
            interval_bar(row["accuracy"], reach, strong=row["name"] == rows[0]["name"]),
            _difference(probe, row),
        ]
        for row in rows
    ]
    head = [
        "features", "head", "layer", "pooling", "C", "validation", f"test accuracy [{level}]", "",
        f"{rows[0]['name']} minus this [{level}]",
    ]  # fmt: skip
    counts, drawn = probe["images"], probe["bootstrap"]
    caption = (
        f"kNN (k = {probe['k']}) and linear probe of frozen features. {counts['train']:,} / "
        f"{counts['validation']:,} / {counts['test']:,} images for training, validation, test. "
    )
    if left_out := sum(probe["images_left_out"].values()):
        caption += f"{left_out:,} without a label left out. "
    if probe["compared"] < counts["train"]:
        caption += f"Layers were compared on {probe['compared']:,} training images. "
    caption += (
        f"Always the most frequent class: {number(probe['majority'])}. Layer and penalty C are "
        f"chosen on the validation split; intervals are percentiles of {drawn['resamples']:,} "
        f"bootstrap resamples of the {drawn['units']:,} test {drawn['unit']}s, drawn alike for "
        "all rows."
    )
    result = section(title, remark, table(caption, head, body, numeric=(4, 5, 6, 8)))
    return result + _sizes(probe)


def caveats(probe: Probe) -> list[str]:
    """What its numbers do not hold."""
    return [
        f"The intervals say how the result varies with the choice of test "
        f"{probe['bootstrap']['unit']}s. They do not hold the variation between training seeds, "
        "which needs several runs.",
        f"The test split has {probe['images']['test']:,} images; small differences cannot be seen "
        "in it.",
        "A linear probe and kNN of frozen features rank representations otherwise than "
        "fine-tuning does, and their numbers must not stand in one table with its.",
    ]


def _difference(probe: Probe, row: Mapping[str, Any]) -> str:
    for held in probe["differences"]:
        if all(held[mine] == row[theirs] for mine, theirs in
               (("reference", "name"), ("head", "head"), ("choice", "choice"))):  # fmt: skip
            return interval(held["estimate"], signed=True)
    return ""


def _sizes(probe: Probe) -> str:
    classes, splits = probe["classes"], list(probe["images"])
    if len(classes) > LISTED:
        spans = ", ".join(
            f"{split} {min(n):,} to {max(n):,}"
            for split in splits
            if (n := [held["images"][split] for held in classes])
        )
        return f"<p>{len(classes):,} classes; images of each: {spans}.</p>\n"
    body = [[held["name"], *(f"{held['images'][s]:,}" for s in splits)] for held in classes]
    head = ["class", *splits]
    drawn = table("Labelled images of each class.", head, body, numeric=range(1, len(head)))
    return section("Class by class", drawn)
