"""Claims about data, scores and artifacts: they hold, and each bug turns its own claims red."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from latentcast.config import Config
from latentcast.recipes import RECIPES, recipe
from latentcast.verification.claim import Claim, Finding, measure
from latentcast.verification.claims import artifacts, data, evaluation, public_layouts
from latentcast.verification.faults import artifacts as artifact_faults
from latentcast.verification.faults import data as data_faults
from latentcast.verification.faults import evaluation as evaluation_faults
from latentcast.verification.observe import twin as subject
from latentcast.verification.observe.data import beats, wave
from latentcast.verification.observe.twin import Subject

CLAIMS = {
    claim.id: claim
    for part in (data, evaluation, artifacts, public_layouts)
    for claim in part.CLAIMS
}
FAULTS = {
    fault.id: fault
    for part in (data_faults, evaluation_faults, artifact_faults)
    for fault in part.FAULTS
}
# What needs a trained encoder, a long search or a long import; `make test-slow` measures them.
SLOW = {
    name
    for name, fault in FAULTS.items()
    if name.startswith("artifact.")
    or set(fault.reddens)
    & {
        "probe.frozen", "probe.deterministic", "probe.windows", "probe.no-cls", "probe.floor",
        "probe.test-unseen", "probe.standardised-on-train", "probe.minimum", "probe.score",
        "probe.bank", "probe.leak-refused",
    }
}  # fmt: skip
QUICK = {
    "probe.test-fitted", "probe.floor-trained", "artifact.not-normalised",
    "artifact.student-read", "artifact.checksum-unchecked",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(subject, "RECORDS", 24)
    yield


def short(name: str) -> Config:
    """A recipe whose twin reads four seconds."""
    made = recipe(name)
    return made.updated({"input.length": 400}) if name == "nepa-ecg-tiny" else made


def found(config: Config, claims: list[Claim], seed: int = 0) -> list[Finding]:
    with closing(Subject(config, seed)) as subject:
        return [measure(claim, subject) for claim in claims if claim.about(subject)]


def broken(findings: list[Finding]) -> dict[str, object]:
    return {f.claim.id: dict(f.evidence.numbers) for f in findings if not f.holds}


@pytest.mark.parametrize("name", ["nepa-ecg-tiny", "ijepa-image-tiny", "hjepa-image-digits"])
def test_every_claim_holds(name: str) -> None:
    findings = found(short(name), list(CLAIMS.values()))
    assert not broken(findings) and len(findings) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_claim_holds_for_every_recipe(name: str) -> None:
    assert not broken(found(recipe(name), list(CLAIMS.values())))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nepa-ecg-tiny", "ijepa-image-tiny", "hjepa-ecg-tiny"])
def test_there_is_no_false_alarm_in_twenty_seeds(name: str) -> None:
    for seed in range(20):
        assert not broken(found(short(name), list(CLAIMS.values()), seed)), seed


def _about(name: str) -> str:
    """The recipe on which a fault is shown: the first that it concerns."""
    if name == "image.mirrored-unasked":
        return "ijepa-image-huge"
    if name == "image.cropped-unasked":
        return "nepa-image-tiny"
    images = name.startswith(("image.", "artifact.ijepa")) or name in (
        "probe.double-softmax", "probe.distance-as-cosine", "probe.raw-distance",
    )  # fmt: skip
    return "ijepa-image-tiny" if images else "nepa-ecg-tiny"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW - QUICK else [])
        for name in FAULTS
    ],
)
def test_a_fault_turns_its_claims_red(name: str) -> None:
    fault, config = FAULTS[name], short(_about(name))
    claims = [CLAIMS[claim] for claim in fault.reddens]
    with fault.inject():
        findings = found(config, claims)
    assert findings, "concerns none of the recipes of this test"
    assert set(broken(findings)) == {finding.claim.id for finding in findings}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in FAULTS if n.startswith("probe.") and _about(n) == "nepa-ecg-tiny"]
)
def test_a_fault_of_scores_shows_on_images_too(name: str) -> None:
    fault, config = FAULTS[name], short("ijepa-image-tiny")
    with closing(Subject(config)) as subject:
        if not fault.about(subject):
            pytest.skip("concerns recordings")
    with fault.inject():
        findings = found(config, [CLAIMS[claim] for claim in fault.reddens])
    assert findings and all(not finding.holds for finding in findings)


def test_every_claim_has_a_fault_and_every_fault_known_claims() -> None:
    reddened = {claim for fault in FAULTS.values() for claim in fault.reddens}
    assert reddened == set(CLAIMS)
    assert len(FAULTS) == sum(
        len(part.FAULTS) for part in (data_faults, evaluation_faults, artifact_faults)
    )


@pytest.mark.slow
def test_what_a_fault_replaced_is_back() -> None:
    names = ["nepa-ecg-tiny", "ijepa-image-tiny"]
    for fault in FAULTS.values():
        with fault.inject():
            pass
    for name in names:
        assert not broken(found(short(name), list(CLAIMS.values())))


def test_the_known_waves_are_what_they_say() -> None:
    held = wave(500, 2000, 3, bpm=90)
    assert np.allclose(held[2], held[1] - held[0]) and np.allclose(held[3:6].sum(0), 0, atol=9)
    assert np.allclose(held[3], -(held[0] + held[1]) / 2)
    tops = beats(90, 0, 4)
    assert np.allclose(np.diff(tops), 60 / 90)
    for top in tops[:5]:
        here = slice(int(top * 500) - 20, int(top * 500) + 21)
        assert abs(int(held[1, here].argmax()) - 20) <= 1
