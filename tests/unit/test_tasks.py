"""The six PTB-XL tasks, on the real statements and the real metadata."""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from latentcast.data.labels import Labels
from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks import TASKS, task

METADATA = Path(__file__).parents[2] / "data/ptbxl2980-100hz/ptbxl_database.csv"


def as_labels(records: Sequence[Mapping[str, float]]) -> Labels:
    codes = tuple(sorted({code for record in records for code in record}))
    indices = [codes.index(code) for record in records for code in record]
    values = [value for record in records for value in record.values()]
    return Labels(
        codes,
        np.cumsum([0, *map(len, records)]),
        np.array(indices, dtype=np.int32),
        np.array(values, dtype=np.float32),
    )


@cache
def real_records() -> list[dict[str, float]]:
    with METADATA.open(encoding="utf-8") as file:
        return [ast.literal_eval(row["scp_codes"]) for row in csv.DictReader(file)]


def test_class_counts_are_those_of_the_protocol() -> None:
    """NEPA defect 6: invented label lists, six of ten columns always empty."""
    counts = {name: len(task(name).classes) for name in TASKS}
    assert counts == {
        "all": 71,
        "diagnostic": 44,
        "subdiagnostic": 23,
        "superdiagnostic": 5,
        "form": 19,
        "rhythm": 12,
    }
    assert set(task("superdiagnostic").classes) == {"NORM", "MI", "STTC", "CD", "HYP"}
    # Names that public code invented or put in the wrong task.
    assert not set(task("rhythm").classes) & {"NORM", "SVTACH"}
    assert {"SR", "PSVT", "TRIGU", "SVTAC"} <= set(task("rhythm").classes)
    assert not set(task("diagnostic").classes) & {"MI", "STTC", "HYP", "CD", "LBBB", "RBBB"}


def test_a_code_of_likelihood_zero_is_present() -> None:
    """NEPA defect 5: a code was kept only if its likelihood was above 0, rhythm is nearly all 0."""
    labels = as_labels([{"AFIB": 0.0, "NORM": 100.0}, {"AFIB": 100.0}, {"NORM": 0.0}])
    targets, kept = task("rhythm").targets(labels)
    np.testing.assert_array_equal(targets[:, task("rhythm").classes.index("AFIB")], [1, 1, 0])
    np.testing.assert_array_equal(kept, [1, 1, 0])
    targets, _ = task("superdiagnostic").targets(labels)
    np.testing.assert_array_equal(
        targets[:, task("superdiagnostic").classes.index("NORM")], [1, 0, 1]
    )


@pytest.mark.parametrize("name", TASKS)
def test_real_metadata_keeps_every_row_that_has_the_code(name: str) -> None:
    """NEPA defect 5 on real rows. NEPA defect 6: ``scp_statements.csv`` was never read."""
    records = real_records()
    held = task(name)
    targets, kept = held.targets(as_labels(records))
    expected = np.array(
        [[any(c in record for c in codes) for codes in held.members.values()] for record in records]
    )
    np.testing.assert_array_equal(targets, expected)
    np.testing.assert_array_equal(kept, expected.any(axis=1) | (name == "all"))


def test_real_superclass_and_rhythm_counts() -> None:
    """Counts of PTB-XL-2980; those of the classes agree with the data set's own column."""
    labels = as_labels(real_records())
    superclass = task("superdiagnostic")
    targets, kept = superclass.targets(labels)
    counts = dict(zip(superclass.classes, targets.sum(axis=0).tolist(), strict=True))
    assert counts == {"CD": 600, "HYP": 344, "MI": 663, "NORM": 1429, "STTC": 700}
    assert kept.sum() == 2920
    rhythm = task("rhythm")
    targets, kept = rhythm.targets(labels)
    afib = targets[:, rhythm.classes.index("AFIB")]
    assert afib.sum() == sum("AFIB" in record for record in real_records()) > 100
    assert kept.sum() == 2860
    positive = sum(record.get("AFIB", 0) > 0 for record in real_records())
    assert positive < afib.sum() / 2  # what "value > 0" would have kept


def test_only_the_task_of_all_statements_keeps_a_record_without_any() -> None:
    labels = as_labels([{}, {"SR": 0.0}])
    for name, expected in (("all", [True, True]), ("rhythm", [False, True])):
        assert task(name).targets(labels)[1].tolist() == expected


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(LatentcastError, match="did you mean 'superdiagnostic'"):
        task("superdiagnostics")


@pytest.mark.parametrize("records", [[{}, {}], [{"426783006": 1.0}]])
def test_a_store_without_the_statements_says_what_to_ingest(
    records: list[dict[str, float]],
) -> None:
    with pytest.raises(LatentcastError, match=r"none of its SCP statements.*ptbxl_database\.csv"):
        task("form").targets(as_labels(records))


def test_statements_of_the_task_that_the_store_lacks_are_empty_columns() -> None:
    targets, _ = task("rhythm").targets(as_labels([{"SR": 0.0}]))
    assert targets.shape == (1, 12)
    assert targets.sum() == 1
