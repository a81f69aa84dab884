"""What the two heads found on a store of images: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentcast.evaluation.metrics import Estimate
from latentcast.evaluation.results import OWN, interval, number, score_table, write_probe

FILE = "probe-classes.json"
LISTED = 20  # classes up to which each has a line


@dataclass(frozen=True)
class HeadRow:
    """One source read by one head, ``kNN`` or ``linear``. ``choice`` says who chose the layer.

    ``penalty`` is the linear head's (None for kNN), ``validation`` the accuracy on the validation
    images, ``accuracy`` the share of test images whose most probable class is theirs.
    """

    name: str
    head: str
    choice: str
    layer: str
    pooling: str
    penalty: float | None
    validation: float
    accuracy: Estimate


@dataclass(frozen=True)
class HeadDifference:
    """Test accuracy of the first source minus that of ``reference``, paired bootstrap."""

    name: str
    reference: str
    head: str
    choice: str
    estimate: Estimate


@dataclass(frozen=True)
class ClassSupport:
    """Labelled images of one class in each split."""

    name: str
    images: Mapping[str, int]


@dataclass(frozen=True)
class ClassificationReport:
    """The result of :func:`~latentcast.evaluation.classification.classify`.

    ``images`` counts the labelled images of each split, ``images_left_out`` those without a label,
    which are in no number. ``majority`` is the test accuracy of always naming the most frequent
    training class. ``compared`` is the number of training images on which layers were compared;
    every accuracy here is of a head that saw all of them. ``data["shards"]`` are the checksums of
    the images, ``provenance`` the caller's (command, seeds, checkpoint).
    """

    images: Mapping[str, int]
    images_left_out: Mapping[str, int]
    classes: tuple[ClassSupport, ...]
    majority: float
    k: int
    compared: int
    rows: tuple[HeadRow, ...]
    differences: tuple[HeadDifference, ...]
    data: Mapping[str, Any]
    bootstrap: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as in the file."""
        plain: dict[str, Any] = json.loads(self._text())
        return plain

    def write(self, run: str | Path) -> Path:
        """Write ``RUN/probe-classes.json`` atomically and return its path.

        Raises LatentcastError when it cannot be written.
        """
        return write_probe(Path(run) / FILE, self._text())

    def render(self, console: Console) -> None:
        """Print the table of sources, the differences and the images of each class.

        Every line fits 80 columns, and no number is broken over two.
        """
        console.print(self._sources())
        console.print()
        if self.differences:
            console.print(self._differences())
            console.print()
        if len(self.classes) <= LISTED:
            console.print(self._classes())
        else:
            console.print(self._class_sizes(), markup=False, highlight=False)

    def _text(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False, default=str)

    def _sources(self) -> Table:
        counts = " / ".join(f"{count:,}" for count in self.images.values())
        caption = [
            f"{counts} images; {self.rows[0].pooling} over tokens; intervals from "
            f"{self.bootstrap['resamples']:,} resamples of {self.bootstrap['units']:,} test images",
            f"always the most frequent class: {number(self.majority)}",
        ]
        if self.compared < self.images["train"]:
            caption.append(f"layers compared on {self.compared:,} training images")
        if left_out := sum(self.images_left_out.values()):
            caption.append(f"{left_out:,} without a label left out")
        table = score_table(f"kNN (k = {self.k}) and linear probe", "; ".join(caption))
        # A long name is broken, a usual one is not; of the rest only the layer may be.
        short = max(len(row.name) for row in self.rows) <= 20
        table.add_column("features", overflow="fold", no_wrap=short)
        table.add_column("head", no_wrap=True)
        table.add_column("layer", overflow="fold")
        for heading in ("C", "validation", f"test accuracy\n{self._level}"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row.name,
                row.head,
                row.layer if row.choice in (OWN, "named") else f"{row.layer} ({row.choice})",
                "" if row.penalty is None else f"{row.penalty:g}",
                number(row.validation),
                interval(row.accuracy),
            )
        return table

    def _differences(self) -> Table:
        table = score_table(f"Difference of test accuracy, paired {self._level}")
        table.add_column(f"{self.rows[0].name} minus", overflow="fold")
        table.add_column("head", no_wrap=True)
        table.add_column("layer", overflow="fold")
        for heading in ("difference", ""):
            table.add_column(heading, justify="right", no_wrap=True)
        for difference in self.differences:
            table.add_row(
                difference.reference,
                difference.head,
                difference.choice,
                interval(difference.estimate, signed=True),
                difference.estimate.outcome,
            )
        return table

    def _classes(self) -> Table:
        table = score_table("Images of each class")
        table.add_column("class", overflow="fold")
        for heading in ("train", "val", "test"):
            table.add_column(heading, justify="right", no_wrap=True)
        for held in self.classes:
            table.add_row(escape(held.name), *(f"{count:,}" for count in held.images.values()))
        return table

    def _class_sizes(self) -> str:
        sizes = {split: [held.images[split] for held in self.classes] for split in self.images}
        spans = ", ".join(f"{split} {min(n):,} to {max(n):,}" for split, n in sizes.items())
        return f"{len(self.classes):,} classes; images of each: {spans}"

    @property
    def _level(self) -> str:
        return f"[{round(100 * self.bootstrap['level'])} % interval]"
