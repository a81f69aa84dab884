"""What NEPA, the transformer and the published tables promise, and slips that break a promise."""

from __future__ import annotations

from functools import cache

import pytest

from latentcast.engine import optimizer, schedules
from latentcast.nn import blocks, encoder, hierarchy, initialise, positions, predictor, tokens
from latentcast.objectives import base, jepa, nepa
from latentcast.recipes import RECIPES, recipe
from latentcast.verification import claims, faults
from latentcast.verification.claim import Claim, Finding, measure
from latentcast.verification.claims import attention as attention_claims
from latentcast.verification.claims import coordinates as coordinates_claims
from latentcast.verification.claims import drop_path as drop_path_claims
from latentcast.verification.claims import initial as initial_claims
from latentcast.verification.claims import nepa as nepa_claims
from latentcast.verification.claims import positions as positions_claims
from latentcast.verification.claims import sincos as sincos_claims
from latentcast.verification.claims import table as table_claims
from latentcast.verification.claims import transformer as transformer_claims
from latentcast.verification.fault import Fault
from latentcast.verification.faults import attention as attention_faults
from latentcast.verification.faults import drop_path as drop_path_faults
from latentcast.verification.faults import initial as initial_faults
from latentcast.verification.faults import nepa as nepa_faults
from latentcast.verification.faults import positions as positions_faults
from latentcast.verification.faults import table as table_faults
from latentcast.verification.faults import transformer as transformer_faults
from latentcast.verification.observe.network import within
from latentcast.verification.observe.twin import Subject

CLAIMS: tuple[Claim, ...] = (
    *nepa_claims.CLAIMS,
    *transformer_claims.CLAIMS,
    *attention_claims.CLAIMS,
    *positions_claims.CLAIMS,
    *coordinates_claims.CLAIMS,
    *sincos_claims.CLAIMS,
    *drop_path_claims.CLAIMS,
    *initial_claims.CLAIMS,
    *table_claims.CLAIMS,
)
FAULTS: tuple[Fault, ...] = (
    *nepa_faults.FAULTS,
    *transformer_faults.FAULTS,
    *attention_faults.FAULTS,
    *positions_faults.FAULTS,
    *drop_path_faults.FAULTS,
    *initial_faults.FAULTS,
    *table_faults.FAULTS,
)
BY_ID = {claim.id: claim for claim in CLAIMS}

QUICK = ("nepa-ecg-small", "nepa-image-tiny", "ijepa-image-base", "hjepa-image-tiny",
         "ijepa-ecg-tiny", "hjepa-ecg-tiny")  # fmt: skip
"""One of each kind, recordings and images; the quickest to measure first."""


@cache
def subject_of(name: str) -> Subject:
    return Subject(recipe(name))


@cache
def healthy(claim: str, name: str) -> Finding:
    return measure(BY_ID[claim], subject_of(name))


def told(finding: Finding) -> str:
    return f"{finding.claim.id}: {dict(finding.evidence.numbers)}"


def concerned(fault: Fault) -> str:
    """The quickest recipe that has what the fault breaks, and all its claims."""
    for name in QUICK:
        subject = subject_of(name)
        if fault.about(subject) and all(BY_ID[i].about(subject) for i in fault.reddens):
            return name
    raise AssertionError(f"{fault.id}: concerns none of {QUICK}")


@pytest.mark.parametrize("name", QUICK)
def test_every_claim_holds(name: str) -> None:
    mine = [claim.id for claim in CLAIMS if claim.about(subject_of(name))]
    broken = [told(f) for f in (healthy(claim, name) for claim in mine) if not f.holds]
    assert not broken


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_turns_its_claims_red(fault: Fault) -> None:
    name = concerned(fault)
    assert all(healthy(claim, name).holds for claim in fault.reddens)
    with fault.inject():
        found = [measure(BY_ID[claim], subject_of(name)) for claim in fault.reddens]
    assert not [told(f) for f in found if f.holds]
    # A number has to say so: a probe that cannot measure proves nothing.
    assert not [told(f) for f in found if "raised" in f.evidence.numbers]


def test_every_claim_is_turned_red_by_some_fault() -> None:
    proven = {claim for fault in FAULTS for claim in fault.reddens}
    assert set(BY_ID) == proven


def test_ids_are_one_each() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)


def test_all_of_them_are_reported() -> None:
    assert set(BY_ID) <= {claim.id for claim in claims.all_claims()}
    assert {fault.id for fault in FAULTS} <= {fault.id for fault in faults.all_faults()}


def test_a_fault_leaves_the_library_as_it_was() -> None:
    def state() -> dict[tuple[str, str], object]:
        modules = (blocks, encoder, hierarchy, initialise, positions, predictor, tokens, base,
                   jepa, nepa, optimizer, schedules)  # fmt: skip
        owners = [*modules]
        for module in modules:
            owners += [thing for thing in vars(module).values() if isinstance(thing, type)]
        return {
            (str(owner), name): value
            for owner in owners if "latentcast" in str(owner)
            for name, value in vars(owner).items()
        }  # fmt: skip

    before = state()
    for fault in FAULTS:
        with fault.inject():
            assert any(value is not before.get(key) for key, value in state().items()), fault.id
        after = state()
        assert after.keys() == before.keys(), fault.id
        assert all(after[key] is before[key] for key in before), fault.id


def test_nan_holds_nothing() -> None:
    assert not within({"gap": (float("nan"), 1.0)}).holds
    assert not within({}, {"change": (float("nan"), 0.0)}).holds
    assert not within({}).holds


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_no_false_alarm_in_twenty_seeds(name: str) -> None:
    broken = []
    for seed in range(20):
        subject = Subject(recipe(name), seed)
        for claim in CLAIMS:
            if claim.about(subject) and not (finding := measure(claim, subject)).holds:
                broken.append(f"seed {seed}, {told(finding)}")
        subject.close()
    assert not broken


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_faults_are_caught_in_every_recipe_they_concern(name: str) -> None:
    subject = Subject(recipe(name))
    missed = []
    for fault in FAULTS:
        if not fault.about(subject):
            continue
        for claim in (BY_ID[i] for i in fault.reddens):
            if claim.about(subject):
                with fault.inject():
                    if measure(claim, subject).holds:
                        missed.append((fault.id, claim.id))
    assert not missed
