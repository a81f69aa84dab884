"""Scores of subgroups: of their records alone, in bands of age, and silent where there are few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_stores import write_store

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics
from latentcast.evaluation.subgroups import MISSING, groupings, in_order, subgroups

AGES = [300, 17.9, 18, 39, 40, 79.5, 80, 119, None, "unknown"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    records = [np.zeros((4, 2), np.int16) for _ in range(120)]
    metadata = [{"age": AGES[n % 10], "sex": n % 2, "site": n % 3, "height": n} for n in range(120)]
    return write_store(tmp_path, records, folds=[10] * 120, metadata=metadata)


def test_a_subgroup_is_scored_as_if_the_others_were_not_there(store: Store) -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((120, 2)) < 0.4
    targets[::2, 1] = False
    targets[:18:2, 1] = True  # nine positives in one group
    scores = targets + rng.normal(size=(120, 2))
    counts = metrics.draw(store.patient_ids, 200, 0)
    by = groupings(store, ["sex", "site", "age"])
    found = subgroups("multi-label", targets, scores, "ab", counts, store.patient_ids, by)
    assert [(g.by, g.name) for g in found[:5]] == [
        ("sex", "0"), ("sex", "1"), ("site", "0"), ("site", "1"), ("site", "2"),
    ]  # fmt: skip
    even, odd = found[:2]
    assert (even.records, even.averaged, odd.averaged) == (60, 1, 2)
    assert even.positives == targets[::2].sum()
    alone = metrics.score("multi-label", targets[1::2], scores[1::2], "ab", counts[:, 1::2])[0]
    assert (odd.main, odd.labels) == (alone.main, alone.labels)
    assert even.main.value == metrics.auroc(targets[::2, :1], scores[::2, :1])[0]
    whose, second = store.patient_ids, (targets[:, 1:], scores[:, 1:])
    none = subgroups("multi-label", *second, "b", counts, whose, by)[0]
    assert none.too_few.startswith("no label with 10") and np.isnan(none.main.value)


def test_sites_of_numbers_stand_in_their_order() -> None:
    names = ["2", "10", "80 and over", "18–39", MISSING, "b"]
    assert sorted(names, key=in_order) == ["18–39", "80 and over", "2", "10", "b", MISSING]


@pytest.mark.filterwarnings("error")
def test_ages_are_in_bands_and_what_is_no_age_is_said(store: Store) -> None:
    (by,) = groupings(store, ["age"])
    bands = ["under 18", "18–39", "18–39", "40–59", "60–79", "80 and over", "80 and over"]
    assert by.groups[:10].tolist() == [MISSING, *bands, MISSING, MISSING]
    y = np.arange(120) % 2
    patients = np.array([f"p{n % 110}" for n in range(120)])
    counts = metrics.draw(patients, 50, 0)
    counts[0, ::10] = 0  # a resample that lacks a group
    found = subgroups("multi-class", y, y, "ab", counts, patients, [by])
    assert [group.name for group in found] == [*dict.fromkeys(bands), MISSING]
    assert {group.main.value for group in found} == {1.0}
    some = [type(by)("age", by.groups[:30])]
    few = subgroups("multi-class", y[:30], y[:30], "ab", counts[:, :30], patients[:30], some)[0]
    assert few.too_few == "fewer than 10 records" and np.isnan(few.main.value)
    patients = np.array(["p0"] * 60 + [f"p{n}" for n in range(60)])
    one = metrics.draw(patients, 2, 0)
    whose = [type(by)("site", np.repeat(["one patient", "60"], 60))]
    groups = {g.name: g for g in subgroups("multi-class", y, y, "ab", one, patients, whose)}
    assert groups["one patient"].too_few == "fewer than 10 patients" and not groups["60"].too_few


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sx", "no record has 'sx'.*did you mean 'sex'"),
        ("height", "120 different values"),
    ],
)
def test_a_key_that_makes_no_groups_is_refused(store: Store, key: str, message: str) -> None:
    with pytest.raises(LatentcastError, match=message):
        groupings(store, [key])
