"""What NEPA, the transformer and the published tables promise."""

from __future__ import annotations

from functools import cache

import pytest

from latentcast.recipes import RECIPES, recipe
from latentcast.verification import claims
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


@pytest.mark.parametrize("name", QUICK)
def test_every_claim_holds(name: str) -> None:
    mine = [claim.id for claim in CLAIMS if claim.about(subject_of(name))]
    broken = [told(f) for f in (healthy(claim, name) for claim in mine) if not f.holds]
    assert not broken


def test_ids_are_one_each() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


def test_all_of_them_are_reported() -> None:
    assert set(BY_ID) <= {claim.id for claim in claims.all_claims()}


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
