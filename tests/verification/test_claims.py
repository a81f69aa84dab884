"""What is claimed of recipes holds; and a claim is a function in its folder, and nothing more."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY
from latentcast.recipes import RECIPES, recipe
from latentcast.verification import claims
from latentcast.verification.claims import all_claims
from latentcast.verification.report.lines import Section
from latentcast.verification.suite import verify_recipe

QUICK = ("nepa-ecg-tiny", "cpc-ecg-tiny", "hjepa-ecg-tiny", "hjepa-ecg-leads-tiny", "conv-ecg-tiny",
         "ijepa-image-base", "hjepa-image-tiny")  # fmt: skip
"""Together with AREAS they have every claim."""
AREAS: list[tuple[str, dict[str, Any], str]] = [
    ("conv-image-tiny", {}, "views"),
    ("nepa-ecg-tiny", {"encoder": {"kind": "s4d"}}, "s4d"),
]
"""Claims of one area that no quick recipe has."""
PACKAGE = REPOSITORY / "src" / "latentcast" / "verification"


@cache
def measured(name: str) -> Section:
    return verify_recipe(recipe(name), all_claims())


def measured_area(name: str, changes: dict[str, Any], area: str) -> Section:
    chosen = [claim for claim in all_claims() if claim.area == area]
    return verify_recipe(recipe(name).updated(changes), chosen)


def broken(section: Section) -> dict[str, str]:
    return {line.id: line.text() for line in section.lines if line.verdict != "holds"}


@pytest.mark.parametrize("name", QUICK)
def test_every_claim_of_a_recipe_holds(name: str) -> None:
    assert broken(measured(name)) == {} and len(measured(name).lines) > 100


def test_every_claim_is_measured_here_by_at_least_a_number() -> None:
    further = [measured_area(*part) for part in AREAS]
    assert [broken(section) for section in further] == [{}, {}]
    lines = [line for part in (*map(measured, QUICK), *further) for line in part.lines]
    assert {line.id for line in lines} == {claim.id for claim in all_claims()}
    assert not [line.id for line in lines if not line.numbers]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in QUICK])
def test_every_claim_of_every_recipe_holds(name: str) -> None:
    assert broken(measured(name)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_there_is_no_false_alarm_in_twenty_seeds(name: str) -> None:
    assert broken(verify_recipe(recipe(name), all_claims(), seeds=20)) == {}


CHANGED: list[tuple[str, dict[str, Any]]] = [
    ("nepa-ecg-tiny", {"input.leads": ["II", "V1"], "encoder.depth": 5}),
    ("ijepa-image-digits", {"encoder.positions.kind": "rotary", "encoder.qk_norm": True}),
    ("hjepa-ecg-small", {"encoder.layer_scale": 0.1, "encoder.gated_mlp": True,
                         "objective.top_down": True, "input.clip": None}),
    ("nepa-ecg-tiny", {"encoder.kind": "conv_transformer"}),
    ("nepa-ecg-tiny", {"encoder": {"kind": "s4d"}}),
    ("ijepa-ecg-tiny", {"encoder.kind": "conv_transformer", "encoder.stem_overlap": True}),
    ("hjepa-ecg-tiny", {"encoder.kind": "conv_transformer"}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), CHANGED)
def test_claims_hold_of_configurations_that_nobody_ships(
    name: str, changes: dict[str, Any]
) -> None:
    assert broken(verify_recipe(recipe(name).updated(changes), all_claims())) == {}


def test_ids_are_one_each_and_of_a_known_area_and_sentences_end() -> None:
    ids = [claim.id for claim in all_claims()]
    assert len(set(ids)) == len(ids)
    for claim in all_claims():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*", claim.id), claim.id
        assert claim.sentence.endswith(".") and claim.source, claim.id
        assert claim.area in claims.AREAS, claim.id


def test_a_decorated_function_in_the_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_mine.py").write_text(
        "from latentcast.verification.claim import claim\n"
        "from latentcast.verification.evidence import true\n\n\n"
        '@claim("mine.first", "It is mine.", source="me")\n'
        "def first(twin):\n"
        '    return true("mine", True)\n'
    )
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    found = claims.all_claims.__wrapped__()
    assert len(found) == len(all_claims()) + 1 and found[-1].id == "mine.first"


def test_no_probe_builds_its_verdict_by_hand() -> None:
    """A bound that is written twice, where it is tested and where it is shown, comes apart."""
    for room in ("claims", "audit", "foreign", "observe"):
        for file in (PACKAGE / room).glob("*.py"):
            made = re.findall(r"\bEvidence\((.*)", file.read_text())
            assert all(part.startswith("False, {") for part in made), (file.name, made)
