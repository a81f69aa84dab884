"""What is claimed of JEPAs holds; and each bug of the catalogue is seen by the right claim."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import pytest

from latentcast.recipes import RECIPES, recipe
from latentcast.verification import claims as all_claims
from latentcast.verification import faults as all_faults
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
from latentcast.verification.fault import Fault
from latentcast.verification.faults import hierarchy as hierarchy_faults
from latentcast.verification.faults import jepa as jepa_faults
from latentcast.verification.faults import masks as masks_faults
from latentcast.verification.faults import predictor as predictor_faults
from latentcast.verification.faults import reference_masks as reference_faults
from latentcast.verification.faults import regularizers as regularizers_faults
from latentcast.verification.faults import targets as targets_faults
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
FAULTS: dict[str, Fault] = {
    fault.id: fault
    for file in (
        jepa_faults, targets_faults, predictor_faults, masks_faults, hierarchy_faults,
        regularizers_faults, reference_faults,
    )
    for fault in file.FAULTS
}  # fmt: skip
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


def test_every_claim_and_fault_has_a_name_of_its_own_and_is_in_the_catalogue() -> None:
    assert len(CLAIMS) == sum(len(file.CLAIMS) for file in FILES)
    assert set(CLAIMS) <= {claim.id for claim in all_claims.all_claims()}
    assert set(FAULTS) <= {fault.id for fault in all_faults.all_faults()}
    assert not {name for fault in FAULTS.values() for name in fault.reddens} - set(CLAIMS)
    unproven = set(CLAIMS) - {name for fault in FAULTS.values() for name in fault.reddens}
    assert not unproven


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
    assert not [fault.id for fault in FAULTS.values() if fault.about(nepa)]
    nepa.close()


def caught(fault: Fault, name: str) -> None:
    """Each of its claims holds without the fault, and is red with it by a number."""
    wanted = [claim for claim in fault.reddens if CLAIMS[claim].about(subject(name))]
    assert wanted
    for claim in wanted:
        assert healthy(name, claim).holds, claim
    with fault.inject(), contextlib.closing(Subject(recipe(name))) as broken:
        for claim in wanted:
            found = measure(CLAIMS[claim], broken)
            assert not found.holds, (claim, dict(found.evidence.numbers))
            assert "raised" not in found.evidence.numbers, dict(found.evidence.numbers)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault: str) -> None:
    about = FAULTS[fault].about
    name = next(name for name in (IMAGES, RECORDINGS, FLAT) if about(subject(name)))
    caught(FAULTS[fault], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", JEPAS)
def test_every_claim_holds_for_every_recipe_and_after_every_fault(name: str) -> None:
    for fault in FAULTS.values():
        if fault.about(subject(name)):
            caught(fault, name)
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
