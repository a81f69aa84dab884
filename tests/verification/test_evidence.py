"""The bound that is shown is the bound that was tested, and NaN holds nothing."""

from __future__ import annotations

from math import inf, nan

import pytest

from latentcast.verification.evidence import (
    Evidence,
    above,
    all_of,
    at_most,
    equal,
    first_of,
    none,
    true,
)


@pytest.mark.parametrize(
    ("check", "right", "limit", "wrong"),
    [(at_most, 0.5, 1.0, 1.5), (above, 1.5, 0.5, 0.5), (equal, 2, 2, 3)],
)
def test_a_check_holds_on_its_side_alone(check, right, limit, wrong) -> None:  # type: ignore[no-untyped-def]
    assert check("gap", right, limit).holds and not check("gap", wrong, limit).holds
    for number in (nan, inf):
        assert not check("gap", number, limit).holds
    ((name, shown),) = [
        pair for pair in check("gap", right, limit).numbers.items() if ":" in pair[0]
    ]
    assert shown == limit and name.startswith("gap: ")


def test_a_limit_is_within_at_most_and_not_above() -> None:
    assert at_most("gap", 1.0, 1.0).holds and not above("gap", 1.0, 1.0).holds


def test_what_must_not_be_there_is_named() -> None:
    assert none("wrong", []).holds and none("wrong", []).numbers == {"wrong": "none"}
    assert not none("wrong", "abcde").holds
    assert (
        none("wrong", "abcde").numbers == {"wrong": "a, b, c and 2 more"} and first_of([]) == "none"
    )


def test_all_of_holds_when_every_part_does_and_one_is_there() -> None:
    good, bad = true("good", True), true("bad", False)
    assert all_of(good).holds and not all_of(good, bad).holds and not all_of(bad, good).holds
    assert not all_of().holds and not all_of(number=3.0).holds
    assert all_of(good, of_all=3).numbers == {"good": True, "of all": 3}


def test_one_check_cannot_hide_another_of_its_name() -> None:
    with pytest.raises(ValueError, match="two checks are called gap"):
        all_of(at_most("gap", 2.0, 1.0), at_most("gap", 0.0, 1.0))


def test_evidence_alone_is_what_it_says() -> None:
    assert Evidence(True).numbers == {} and not Evidence(False).holds
