"""Every leak is found, counted and named, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from latentcast.data.store import Store
from latentcast.evaluation import leaks, protocol
from latentcast.evaluation.results import Finding
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, none
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.shared import Found, shared
from latentcast.verification.observe.twin import Twin

OURS = "our protocol, docs of evaluation/leaks.py"


@claim("probe.leaks", "Within a store and between it and what was trained on, every leak is found, "
       "with the number of cases, a few of them and how bad it is; a store shares nothing with "
       "itself.", source=OURS)  # fmt: skip
def found_leaks(twin: Twin) -> Evidence:
    """Of stores of which it is written here what they share: samples, copies that are nearly the
    same, patients, ids, within splits and across."""
    own, wrong = shared(twin), list[str]()
    wrong += _unlike(leaks.check(own.store), own.within, "one store")
    wrong += _unlike(leaks.check(own.store, own.store), own.within, "beside itself")
    for name, other, among in own.among:
        wrong += _unlike(leaks.check(own.store, other), [*own.within, *among], f"beside {name}")
    (_, other, among), *_ = own.among
    both = protocol.leaks_of(own.store, [own.store, other, other])
    wrong += _unlike(both, [*own.within, *among], "beside both")
    wrong += _unlike(protocol.leaks_of(own.store, []), own.within, "beside none")
    wrong += _moved(own.store)
    wrong += _duplicates(own.store, own.among[-1][1], own.copies)
    return all_of(none("differs", wrong), findings=len(both))


def _unlike(found: Sequence[Finding], expected: Sequence[Found], at: str) -> list[str]:
    """Kinds, severities, counts, examples, and the words of each message."""
    numbers = [(one.kind, one.severity, one.count, one.examples) for one in found]
    wrong = differences(numbers, [one[:4] for one in expected], at=at)
    return wrong + [
        f"{at}: {one.kind}: '{one.message[:60]}' lacks '{words}'"
        for one, (*_, words) in zip(found, expected, strict=False) if words not in one.message
    ]  # fmt: skip


def _moved(store: Store) -> list[str]:
    """The same samples with training and test split exchanged: each of the test was trained on."""
    folds = np.where(store.folds == 10, 1, np.where(store.folds < 9, 10, store.folds))
    exchanged = store.divided(folds.astype(np.int16))
    trained, tested = exchanged.rows("train"), store.rows("test")
    if trained.tolist() != tested.tolist():
        return ["the exchanged splits are others"]
    empty = 0
    if store.modality == "ecg":
        empty = sum(bool((store.take([row]) == -32768).all()) for row in tested.tolist())
    noun = "recording" if store.modality == "ecg" else "image"
    expected = {f"test {noun} in pretraining": len(tested) - empty}
    if noun == "recording":
        named = int((store.patient_ids[tested] != "").sum())
        expected |= {"test record and patient in pretraining": named,
                     "record id in pretraining": len(tested) - named,
                     "patient id in pretraining": named}  # fmt: skip
    found = {one.kind: one.count for one in leaks.check(store, exchanged)
             if one.kind.endswith("in pretraining")}  # fmt: skip
    return differences(found, expected, at="splits exchanged")


def _duplicates(store: Store, other: Store, copies: Sequence[tuple[str, str]]) -> list[str]:
    """Records that two stores share, and that two of one kind only are compared."""
    found = leaks.duplicates(store, other)
    wrong = differences(sorted(pair[:2] for pair in found), sorted(copies), at="duplicates")
    said = {one: words for one, _, words in found}
    exact = [one for one, other_id in copies if said.get(one) == "the same samples"]
    bytes_of = [one for one, other_id in copies if _equal(store, one, other, other_id)]
    wrong += differences(sorted(exact), sorted(bytes_of), at="the same samples")
    sound: Any = SimpleNamespace(path="OTHER", modality="sound")
    answer = refusal(lambda: leaks.duplicates(store, sound))
    expected = f"OTHER: holds sound data, {store.path} {store.modality}; compare stores of one kind"
    return wrong + differences(answer, expected, at="of another kind")


def _equal(store: Store, one: str, other: Store, other_id: str) -> bool:
    first, second = store.take([store.row_of(one)]), other.take([other.row_of(other_id)])
    return np.array_equal(first, second)
