"""Tasks: the six of PTB-XL on its real statements, own codes, classes, and values of metadata."""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evaluation_stores import Images, write_store

from latentcast.data.labels import Labels
from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks import TASKS, Targets, default_task, ptbxl, task
from latentcast.evaluation.tasks.metadata import MOST_CLASSES

METADATA = Path(__file__).parents[2] / "data/ptbxl2980-100hz/ptbxl_database.csv"


def labelled(records: Sequence[Mapping[str, float]]) -> Any:
    """A store of these codes, all of its records in the train split."""
    codes = tuple(sorted({code for record in records for code in record}))
    indices = [codes.index(code) for record in records for code in record]
    values = [value for record in records for value in record.values()]
    labels = Labels(
        codes,
        np.cumsum([0, *map(len, records)]),
        np.array(indices, dtype=np.int32),
        np.array(values, dtype=np.float32),
    )
    everything = np.arange(len(records))
    return SimpleNamespace(path="s", modality="ecg", labels=labels, rows=lambda split: everything)


def targets_of(name: str, store: Any) -> Targets:
    return task(name, store).targets(store)


@cache
def real_records() -> list[dict[str, float]]:
    with METADATA.open(encoding="utf-8") as file:
        return [ast.literal_eval(row["scp_codes"]) for row in csv.DictReader(file)]


def test_class_counts_are_those_of_the_protocol() -> None:
    """NEPA defect 6: invented label lists, six of ten columns always empty."""
    classes = {name: ptbxl.statements(name).classes for name in ptbxl.NAMES}
    assert {name: len(names) for name, names in classes.items()} == {
        "all": 71,
        "diagnostic": 44,
        "subdiagnostic": 23,
        "superdiagnostic": 5,
        "form": 19,
        "rhythm": 12,
    }
    assert set(classes["superdiagnostic"]) == {"NORM", "MI", "STTC", "CD", "HYP"}
    # Names that public code invented or put in the wrong task.
    assert not set(classes["rhythm"]) & {"NORM", "SVTACH"}
    assert {"SR", "PSVT", "TRIGU", "SVTAC"} <= set(classes["rhythm"])
    assert not set(classes["diagnostic"]) & {"MI", "STTC", "HYP", "CD", "LBBB", "RBBB"}


def test_a_code_of_likelihood_zero_is_present() -> None:
    """NEPA defect 5: a code was kept only if its likelihood was above 0, rhythm is nearly all 0."""
    store = labelled([{"AFIB": 0.0, "NORM": 100.0}, {"AFIB": 100.0}, {"NORM": 0.0}])
    rhythm = targets_of("rhythm", store)
    np.testing.assert_array_equal(rhythm.values[:, rhythm.names.index("AFIB")], [1, 1, 0])
    np.testing.assert_array_equal(rhythm.mask, [1, 1, 0])
    classes = targets_of("superdiagnostic", store)
    np.testing.assert_array_equal(classes.values[:, classes.names.index("NORM")], [1, 0, 1])


@pytest.mark.parametrize("name", ptbxl.NAMES)
def test_real_metadata_keeps_every_row_that_has_the_code(name: str) -> None:
    """NEPA defect 5 on real rows. NEPA defect 6: ``scp_statements.csv`` was never read."""
    records = real_records()
    members = ptbxl.statements(name).members
    targets = targets_of(name, labelled(records))
    expected = np.array(
        [[any(c in record for c in codes) for codes in members.values()] for record in records]
    )
    assert targets.names == tuple(members) and targets.kind == "multi-label"
    np.testing.assert_array_equal(targets.values, expected)
    np.testing.assert_array_equal(targets.mask, expected.any(axis=1) | (name == "all"))


def test_real_superclass_and_rhythm_counts() -> None:
    """Counts of PTB-XL-2980; those of the classes agree with the data set's own column."""
    store = labelled(real_records())
    classes = targets_of("superdiagnostic", store)
    counts = dict(zip(classes.names, classes.values.sum(axis=0).tolist(), strict=True))
    assert counts == {"CD": 600, "HYP": 344, "MI": 663, "NORM": 1429, "STTC": 700}
    assert classes.mask.sum() == 2920
    rhythm = targets_of("rhythm", store)
    afib = rhythm.values[:, rhythm.names.index("AFIB")]
    assert afib.sum() == sum("AFIB" in record for record in real_records()) > 100
    assert rhythm.mask.sum() == 2860
    positive = sum(record.get("AFIB", 0) > 0 for record in real_records())
    assert positive < afib.sum() / 2  # what "value > 0" would have kept


def test_only_the_task_of_all_statements_keeps_a_record_without_any() -> None:
    store = labelled([{}, {"SR": 0.0}])
    for name, expected in (("all", [True, True]), ("rhythm", [False, True])):
        assert targets_of(name, store).mask.tolist() == expected


def test_an_unknown_task_names_the_nearest() -> None:
    for name, meant in (("superdiagnostics", "superdiagnostic"), ("class", "classes"),
                        ("metadata", "metadata:"), ("labels:x", "labels")):  # fmt: skip
        with pytest.raises(LatentcastError, match=f"did you mean '{meant}'"):
            task(name, labelled([{"SR": 0.0}]))


@pytest.mark.parametrize("records", [[{}, {}], [{"426783006": 1.0}]])
def test_a_store_without_the_statements_says_what_to_do(records: list[dict[str, float]]) -> None:
    with pytest.raises(LatentcastError, match=r"none of its codes.*--task labels.*ptbxl_database"):
        targets_of("form", labelled(records))


def test_statements_of_the_task_that_the_store_lacks_are_empty_columns() -> None:
    targets = targets_of("rhythm", labelled([{"SR": 0.0}]))
    assert targets.values.shape == (1, 12)
    assert targets.values.sum() == 1


def test_own_codes_are_labels_as_they_are_and_a_record_without_any_is_left_out() -> None:
    targets = targets_of("labels", labelled([{"x": 1.0, "y": 0.0}, {}, {"y": 1.0}]))
    assert (targets.names, targets.kind) == (("x", "y"), "multi-label")
    assert targets.values.tolist() == [[True, True], [False, False], [False, True]]
    assert targets.mask.tolist() == [True, False, True]
    with pytest.raises(LatentcastError, match="holds no labels; ingest.*--task metadata:NAME"):
        targets_of("labels", labelled([{}]))


def test_the_task_that_is_not_named_suits_the_labels() -> None:
    statements, other = {"NORM": 1.0, "SR": 0.0}, {"NORM": 1.0, "426783006": 1.0}
    for records, name in (
        ([statements, {}], "superdiagnostic"),
        ([other], "labels"),
        ([{"SR": 0.0}], "labels"),  # of PTB-XL, and no diagnosis
    ):
        assert default_task(labelled(records)) == task(None, labelled(records)).name == name
    assert default_task(Images(20)) == "classes"
    unlabelled = Images(20)
    unlabelled.class_ids[:] = -1
    for store in (labelled([{}]), unlabelled):
        assert default_task(store) is None
        with pytest.raises(LatentcastError, match="holds no labels; give it a table of them"):
            task(None, store)
    with pytest.raises(LatentcastError, match="mean 'classes'"):  # labels are of recordings
        task("label", Images(20))


def test_a_class_excludes_the_others_and_a_record_without_one_is_left_out(tmp_path: Path) -> None:
    images = Images(20)
    images.class_ids[3] = -1
    targets = targets_of("classes", images)
    assert (targets.names, targets.kind) == (("ant", "bee", "cat"), "multi-class")
    assert (~targets.mask).nonzero()[0].tolist() == [3]
    recordings = [np.zeros((10, 2), np.int16)] * 3
    one = [{"b": 1.0}, {}, {"a": 0.0}]
    store = write_store(tmp_path / "one", recordings, folds=[1, 9, 10], labels=one)
    targets = targets_of("classes", store)
    assert [targets.names[i] for i in targets.values[targets.mask]] == ["b", "a"]
    two = write_store(tmp_path / "two", recordings, folds=[1, 9, 10], labels=[{"a": 1, "b": 1}] * 3)
    with pytest.raises(LatentcastError, match="several codes.*--task labels"):
        targets_of("classes", two)


def of_metadata(name: str, *values: object) -> Targets:
    records = [{"other": "x"} if value is ... else {name: value} for value in values]
    store = SimpleNamespace(all_metadata=lambda: iter(records))
    return targets_of(f"metadata:{name}", store)


def test_a_number_of_the_metadata_is_regressed_also_one_in_a_table_of_texts() -> None:
    for values in ((61.5, 40, 18.0), ("61.5", " 40 ", "18")):
        targets = of_metadata("age", ..., *values, None, "", float("nan"), "nan")
        assert (targets.names, targets.kind) == (("age",), "regression")
        assert targets.mask.tolist() == [False, True, True, True, *[False] * 4]
        assert targets.values[targets.mask].tolist() == [61.5, 40.0, 18.0]


def test_an_age_beyond_all_years_is_a_code_and_left_out() -> None:
    """PTB-XL has 300 for 31 of 2,980 patients: those over 89."""
    assert of_metadata("age", 300.0, 50.0, 60.0, "300", 70.0).mask.tolist() == [
        False, True, True, False, True,
    ]  # fmt: skip
    assert of_metadata("height", 300.0, 180.0, 170.0).mask.all()


def test_texts_of_few_values_and_two_numbers_are_classes() -> None:
    targets = of_metadata("site", "B", "A", ..., "B")
    assert (targets.names, targets.kind) == (("A", "B"), "multi-class")
    assert targets.values.tolist() == [1, 0, -1, 1]
    for values, names in (((1, 0, 1), ("0", "1")), ((True, False, True), ("False", "True"))):
        targets = of_metadata("sex", *values)
        assert (targets.names, targets.kind) == (names, "multi-class")
        assert targets.values.tolist() == [1, 0, 1]


def test_a_name_or_texts_that_make_no_task_are_refused() -> None:
    with pytest.raises(LatentcastError, match="no record has 'agee'.*did you mean 'age'"):
        targets_of("metadata:agee", SimpleNamespace(all_metadata=lambda: iter([{"age": 3.0}])))
    texts = [f"text {i}" for i in range(MOST_CLASSES + 1)]
    with pytest.raises(LatentcastError, match="51 different texts, such as 'text 0'"):
        of_metadata("report", *texts)
    assert of_metadata("report", *texts[1:]).kind == "multi-class"


def test_a_new_task_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Even:
        name = "even"

        def targets(self, store: Any) -> Targets:
            n = len(store)
            return Targets(np.arange(n) % 2, np.ones(n, bool), ("even", "odd"), "multi-class")

    monkeypatch.setitem(TASKS, "even", lambda name: Even())
    assert targets_of("even", Images(4)).values.tolist() == [0, 1, 0, 1]
