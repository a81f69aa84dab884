"""Faults × claims: who caught what, what was overlooked, what is unproven."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from latentcast.objectives import nepa
from latentcast.recipes import recipe
from latentcast.verification.fault import Fault
from latentcast.verification.matrix import Matrix, against
from latentcast.verification.report.console import print_matrix
from verification import toys

RECIPE = recipe("nepa-image-tiny")
CONCERNED = toys.CLAIMS[:3]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    faults = (toys.SIGN, toys.WANTED, toys.SILENT, toys.CRASH, toys.ELSEWHERE)
    return against(RECIPE, CONCERNED, faults)


def row(matrix: Matrix, name: str):  # type: ignore[no-untyped-def]
    return next(row for row in matrix.rows if row.fault.id == name)


def test_a_fault_is_caught_by_the_claim_it_breaks_and_by_no_other(matrix: Matrix) -> None:
    caught = row(matrix, "loss.sign")
    assert caught.caught and set(caught.red) == {"loss.formula"}
    assert float(caught.red["loss.formula"].evidence.numbers["difference"]) > 1e-3


def test_a_fault_that_nobody_notices_is_an_error(matrix: Matrix) -> None:
    assert not matrix.holds
    assert row(matrix, "loss.silent").problem == "overlooked by loss.formula"
    assert "none of the claims" in row(matrix, "ema.nobody").problem
    missed = [missed.fault.id for missed in matrix.missed]
    assert missed == ["loss.silent", toys.CRASH.id, "ema.nobody"]
    assert matrix.summary.startswith("2 of 5 faults caught")


def test_a_crash_is_no_catch_and_proves_nothing() -> None:
    crashed = against(RECIPE, CONCERNED, (toys.CRASH,))
    assert not crashed.holds
    assert crashed.rows[0].problem == "not measured but fallen over by loss.formula"
    assert crashed.unproven == ("loss.formula", "data.batch", "toy.wanted")
    assert crashed.as_json()["rows"][0]["raised"] == ["loss.formula"]


def test_claims_that_no_fault_turned_red_are_unproven(matrix: Matrix) -> None:
    assert matrix.unproven == ("data.batch",)


def test_only_the_areas_of_a_fault_are_measured_unless_all_are_asked_for(matrix: Matrix) -> None:
    assert row(matrix, "loss.sign").ran == ("loss.formula",)
    assert "--full" in matrix.how
    full = against(RECIPE, CONCERNED, (toys.SIGN,), full=True)
    assert full.rows[0].ran == tuple(claim.id for claim in CONCERNED)


def test_a_fault_about_something_else_is_not_injected() -> None:
    other = recipe("ijepa-image-digits")
    assert against(other, CONCERNED[1:], (toys.SIGN,)).rows == ()


def test_the_library_is_as_before_when_the_matrix_is_done(matrix: Matrix) -> None:
    was = nepa.cosine
    assert matrix.lasting == () and "is broken" not in was.__doc__  # type: ignore[operator]


def test_a_fault_that_stays_is_noticed() -> None:
    import contextlib

    stays = Fault("toy.stays", "It is never taken out.", "this test",
                  lambda: contextlib.nullcontext(toys.broken.add("toy.wanted")),
                  ("toy.wanted",))  # fmt: skip
    try:
        found = against(RECIPE, CONCERNED, (stays,))
    finally:
        toys.broken.clear()
    assert found.lasting == ("toy.wanted",) and not found.holds
    assert "broken still" in found.summary


def test_a_fault_that_cannot_be_injected_is_no_catch() -> None:
    gone = Fault("loss.gone", "What it patches is gone.", "this test",
                 lambda: toys.replaced(nepa, "no_such_thing", lambda was: was),
                 ("loss.formula",))  # fmt: skip
    found = against(RECIPE, CONCERNED, (gone,))
    assert not found.rows[0].caught and "could not be injected" in found.rows[0].problem


def test_the_table_tells_of_each_fault_who_caught_it(matrix: Matrix) -> None:
    out = io.StringIO()
    print_matrix(matrix, Console(file=out, width=80))
    told = out.getvalue()
    assert all(len(line) <= 80 for line in told.splitlines())
    assert re.search(r"loss\.sign +loss: formula", told)
    assert re.search(r"loss\.silent +overlooked by loss\.formula", told)
    assert "unproven, no fault turned them red: data.batch" in told
