"""What a fine-tuning found, on the page of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import Score, number
from latentcast.report import score_pictures
from latentcast.report.picture import Picture
from latentcast.report.templates import Card, Table
from latentcast.runs.scores import tuned_score


@dataclass(frozen=True)
class Tuned:
    """The result in ``finetune.json``.

    Attributes:
        task, metric: what was predicted, and how it is scored.
        head: fine-tuned, or from scratch.
        step: of the checkpoint that validation chose.
        validation: its score there.
        records: of each split.
        store: folder of the labels, at the time.
        resamples: of the test patients.
        score: of the test split.
    """

    task: str
    metric: str
    head: str
    step: int
    validation: float
    records: Mapping[str, int]
    store: str
    resamples: int
    score: Score

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Tuned:
        """Of the content of the file.

        Raises:
            LatentcastError: it was edited, or another version wrote it.
        """
        found = tuned_score(plain)
        try:
            score = TypeAdapter(Score).validate_python(plain["score"])
            return cls(found.task, found.measure, found.head, int(plain["step"]),
                       float(plain["validation"]), dict(plain["records"]), found.store,
                       int(plain["resamples"]), score)  # fmt: skip
        except (ValidationError, KeyError, TypeError, ValueError) as problem:
            reason = str(problem).partition("\n")[0]
            raise LatentcastError(f"cannot be shown ({reason}); fine-tune again") from None

    @property
    def headline(self) -> str:
        title = "Fine-tuned" if self.head == "fine-tuned" else "Trained from scratch"
        return f"{title}: test {self.metric} {number(self.score.main.value)}"

    def cards(self) -> list[Card]:
        items = {f"test {self.metric}": self.score.main, **self.score.others}
        return [
            Card(name, number(one.value), one.text().partition(" ")[2] or self.task)
            for name, one in items.items()
        ]

    def pictures(self) -> list[Picture]:
        """Curves and reliability, and a forest of the labels."""
        drawn = score_pictures.of_score(self.score, f"{self.head}, {self.task}", "-finetune",
                                        "sample")  # fmt: skip
        lines = [
            (one.name, one.auroc, True)
            for one in self.score.labels
            if 1 < one.positives < one.records - 1
        ]
        if lines:
            drawn.append(score_pictures.forest(
                lines[:20], "forest-finetune", "Test AUROC of each label",
                "Dots are scores, lines their 95 % intervals over test patients.",
            ))  # fmt: skip
        return drawn

    @property
    def labels(self) -> Table | None:
        """The scores by label; None of a task without labels."""
        points = {point.name: point for point in self.score.points}
        body = []
        for label in self.score.labels:
            point = points.get(label.name)
            rates = ["–", "–"]
            if point:
                rates = [label.text(point.sensitivity), point.specificity.text()]
            body.append([label.name, f"{label.positives:,}", label.text(label.auroc),
                         label.text(label.average_precision),
                         *rates])  # fmt: skip
        head = ["label", "test positives", "AUROC", "AP", "sensitivity", "specificity"]
        caption = "Each label on the test fold, at its threshold of validation."
        return Table(caption, head, body) if body else None
