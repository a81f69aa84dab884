"""What is claimed of JEPAs holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import pytest

from latentcast.recipes import RECIPES, recipe
from latentcast.verification import claims as all_claims
from latentcast.verification.claim import Claim, Finding, measure
from latentcast.verification.claims import (
    hierarchy,
    jepa,
    mask_sizes,
    masks,
    predictor,
    reference_masks,
    regularizers,
    targets,
)
from latentcast.verification.observe.twin import Subject

FILES: tuple[ModuleType, ...] = (
    jepa,
    targets,
    predictor,
    masks,
    mask_sizes,
    reference_masks,
    hierarchy,
    regularizers,
)
CLAIMS: dict[str, Claim] = {claim.id: claim for file in FILES for claim in file.CLAIMS}
IMAGES, RECORDINGS, FLAT = "hjepa-image-tiny", "hjepa-ecg-tiny", "ijepa-image-tiny"
FOUR = (FLAT, IMAGES, "ijepa-ecg-tiny", RECORDINGS)
JEPAS = tuple(name for name in RECIPES if "jepa" in name)


SUBJECTS: dict[str, Subject] = {}


def subject(name: str) -> Subject:
    """One of a recipe for all tests; nothing that is measured changes it."""
    if name not in SUBJECTS:
        SUBJECTS[name] = Subject(recipe(name))
    return SUBJECTS[name]


@cache
def healthy(name: str, claim: str) -> Finding:
    return measure(CLAIMS[claim], subject(name))


@pytest.fixture(scope="module", autouse=True)
def subjects() -> Iterator[None]:
    yield
    for name in list(SUBJECTS):
        SUBJECTS.pop(name).close()
    healthy.cache_clear()


def concerned(name: str) -> list[Claim]:
    return [claim for claim in CLAIMS.values() if claim.about(subject(name))]


def test_every_claim_has_a_name_of_its_own_and_is_reported() -> None:
    assert len(CLAIMS) == sum(len(file.CLAIMS) for file in FILES)
    assert set(CLAIMS) <= {claim.id for claim in all_claims.all_claims()}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("name", FOUR)
def test_claim_holds(name: str, claim: str) -> None:
    if not CLAIMS[claim].about(subject(name)):
        pytest.skip("no claim about this recipe")
    found = healthy(name, claim)
    assert found.holds, dict(found.evidence.numbers)
    assert found.evidence.numbers


def test_nothing_is_claimed_of_the_masks_of_a_recipe_without_any() -> None:
    nepa = Subject(recipe("nepa-image-tiny"))
    assert not [claim.id for claim in CLAIMS.values() if claim.about(nepa)]
    nepa.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", JEPAS)
def test_every_claim_holds_for_every_recipe(name: str) -> None:
    for claim in concerned(name):
        found = measure(claim, subject(name))
        assert found.holds, (claim.id, dict(found.evidence.numbers))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", FOUR)
def test_no_false_alarm(name: str, seed: int) -> None:
    with contextlib.closing(Subject(recipe(name), seed)) as one:
        for claim in CLAIMS.values():
            if claim.about(one):
                found = measure(claim, one)
                assert found.holds, (claim.id, dict(found.evidence.numbers))
