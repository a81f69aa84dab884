"""What an evaluation found: a row for each source, head, task, store and amount of labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import Estimate, Number, Score, number
from latentcast.evaluation.results import Finding, LabelSupport
from latentcast.files import check_digest, digested, read_object, write_text
from latentcast.notebook import table_html

RESULT = "evaluation.json"
Kind = Literal[
    "pretrained", "initialisation", "baseline", "foreign", "concatenated", "fine-tuned",
    "from scratch",
]  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Of one number over several trainings or draws; it says nothing about patients.

    ``sd`` has n − 1 in its denominator.
    """

    n: int
    mean: Number
    sd: Number
    low: Number
    high: Number

    @classmethod
    def of(cls, values: list[float]) -> Spread | None:
        """None of fewer than two."""
        if len(values) < 2:
            return None
        ends = float(np.min(values)), float(np.max(values))
        return cls(len(values), float(np.mean(values)), float(np.std(values, ddof=1)), *ends)

    def text(self) -> str:
        """As in ``±0.004 (0.851 to 0.859, 3)``."""
        return f"±{number(self.sd)} ({number(self.low)} to {number(self.high)}, {self.n})"


@dataclass(frozen=True)
class Reading:
    """One head, fitted once and scored once.

    Attributes:
        run: folder or file of the weights; "" of a baseline.
        seed: of the training; None of a baseline.
        draw: of the labelled patients.
        layer: the one that was read; "" of a fine-tuned network.
        penalty: of the head; None where it has none.
        validation: the task's metric there.
        records: training records of the head.
        left_out: labels without positives or negatives among them, which are in no average.
        score: on the test records.
        seconds: that ``features`` (of a fine-tuned network its predictions) and the ``fit`` of the
            head took, with the choice of its layer; features of the cache count as they did then.
    """

    run: str
    seed: int | None
    draw: int
    layer: str
    penalty: float | None
    validation: Number
    records: int
    left_out: tuple[str, ...]
    score: Score
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class CrossValidated:
    """The score of out-of-fold predictions of the training records.

    Attributes:
        main: the task's metric, the mean over trainings, with the interval over patients.
        layers, penalties: of each training those with the best score.
        difference, p, holm: as of :class:`Row`.
        seconds: of all fits.
    """

    main: Estimate
    layers: tuple[str, ...]
    penalties: tuple[float | None, ...]
    difference: Estimate | None = None
    p: float | None = None
    holm: float | None = None
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        amount: of labels, a fraction of the patients or shots.
        main: the task's metric, the mean over ``readings``, with the interval over patients.
        seeds: spread over trainings, each the mean of its draws; None of one.
        draws: spread over draws of patients, each the mean of its trainings; None of one.
        difference: this minus the reference under the same head, paired by patient; None where
            there is none.
        p: of the difference, and ``holm`` the one that is corrected for all rows of the same
            cohort and amount.
        cross_validated: the score within the training records; None where it was not measured.
    """

    source: str
    kind: Kind
    head: str
    task: str
    store: str
    amount: str
    main: Estimate
    seeds: Spread | None
    draws: Spread | None
    difference: Estimate | None
    readings: tuple[Reading, ...]
    p: float | None = None
    holm: float | None = None
    cross_validated: CrossValidated | None = None

    def further(self, name: str) -> float:
        """Another metric, the mean over the readings."""
        return float(np.mean([reading.score.others[name].value for reading in self.readings]))

    @property
    def seconds(self) -> dict[str, float]:
        """Of all trainings the features, and of all readings the fits."""
        features = {one.run: one.seconds.get("features", 0.0) for one in self.readings}
        fits = [reading.seconds.get("fit", 0.0) for reading in self.readings]
        return {"features": sum(features.values()), "fit": sum(fits)}

    @property
    def validation(self) -> float:
        """The mean over the readings."""
        return float(np.mean([reading.validation for reading in self.readings]))

    @property
    def layers(self) -> str:
        """Those that were read, without repeats."""
        return ", ".join(dict.fromkeys(reading.layer for reading in self.readings if reading.layer))


@dataclass(frozen=True)
class Cohort:
    """The records on which a task is scored.

    Attributes:
        path: of the store, ``shards`` its checksums.
        external: another store than the one where heads are fitted.
        records: of each split; of an external store only the test.
        without_target, without_token: records that are in no number.
        units, unit: how many patients (or records, where none is named) are resampled.
        labels: of each label or class.
        floors: by metric, the best prediction that is the same for all records.
        unused: labels of an external store that were not trained, and records of other classes.
        cross_validation: how training records were divided; "" where they were not.
    """

    task: str
    kind: str
    metric: str
    store: str
    path: str
    shards: Mapping[str, str]
    external: bool
    records: Mapping[str, int]
    without_target: Mapping[str, int]
    without_token: Mapping[str, int]
    units: int
    unit: str
    labels: tuple[LabelSupport, ...]
    floors: Mapping[str, Number]
    unused: tuple[str, ...]
    cross_validation: str = ""


@dataclass(frozen=True)
class Source:
    """What a line of the table reads: trainings that differ in the seed alone."""

    name: str
    kind: Kind
    runs: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        reference: the source whose rows the others are compared with.
        leaks: warnings; an error is raised instead, unless leaks were allowed.
        bootstrap: resamples, level, seed.
        provenance: command, versions, seconds, features that were computed and that were found.
        remarks: sentences that a reader must know.
    """

    cohorts: tuple[Cohort, ...]
    sources: tuple[Source, ...]
    rows: tuple[Row, ...]
    reference: str
    layer: str
    pooling: str
    windows: str
    leaks: tuple[Finding, ...]
    bootstrap: Mapping[str, Any]
    provenance: Mapping[str, Any]
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Evaluation({len(self.rows)} rows of {len(self.cohorts)} cohorts)"

    def _repr_html_(self) -> str:
        rows = [
            (row.task, row.store, row.amount, row.source, row.head, row.main.text())
            for row in self.rows
        ]
        return table_html("Evaluation", rows, ("task", "store", "labels", "source", "head", "test"))

    def of(self, cohort: Cohort, amount: str | None = None) -> list[Row]:
        """The rows of a cohort, best first; of one amount of labels, if given."""
        rows = [
            row for row in self.rows
            if (row.task, row.store) == (cohort.task, cohort.store) and amount in (None, row.amount)
        ]  # fmt: skip
        return sorted(rows, key=lambda row: -np.nan_to_num(row.main.value, nan=-np.inf))

    def amounts(self, cohort: Cohort) -> list[str]:
        """Of labels, in the order in which they were measured."""
        return list(dict.fromkeys(row.amount for row in self.rows if row.task == cohort.task))

    @property
    def level(self) -> str:
        """Of the intervals, as in "95 %"; the space does not break."""
        return f"{100 * self.bootstrap['level']:.0f}\u00a0%"

    def write(self, out: Path) -> Path:
        """Write ``OUT/evaluation.json`` atomically and return its path."""
        plain = json.loads(_adapter().dump_json(self))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RESULT, json.dumps(digested(plain), indent=1, allow_nan=False) + "\n")
        return out / RESULT

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """Back from :meth:`write`.

        Raises:
            LatentcastError: it is missing, damaged or of another version.
        """
        try:
            record = read_object(file)
            check_digest(record)
            record.pop("digest")
            return _adapter().validate_python(record)
        except (OSError, ValueError, ValidationError) as problem:
            raise LatentcastError(
                f"{file}: cannot be used ({str(problem).splitlines()[0]}); evaluate again"
            ) from None


@cache
def _adapter() -> TypeAdapter[Evaluation]:
    return TypeAdapter(Evaluation)
