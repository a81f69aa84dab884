"""Claims about data, scores and artifacts hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from latentcast.config import Config
from latentcast.recipes import RECIPES, recipe
from latentcast.verification.claim import Claim, Finding, measure
from latentcast.verification.claims import artifacts, data, evaluation, public_layouts
from latentcast.verification.observe import twin as subject
from latentcast.verification.observe.data import beats, wave
from latentcast.verification.observe.twin import Subject

CLAIMS = {
    claim.id: claim
    for part in (data, evaluation, artifacts, public_layouts)
    for claim in part.CLAIMS
}


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


def test_the_known_waves_are_what_they_say() -> None:
    held = wave(500, 2000, 3, bpm=90)
    assert np.allclose(held[2], held[1] - held[0]) and np.allclose(held[3:6].sum(0), 0, atol=9)
    assert np.allclose(held[3], -(held[0] + held[1]) / 2)
    tops = beats(90, 0, 4)
    assert np.allclose(np.diff(tops), 60 / 90)
    for top in tops[:5]:
        here = slice(int(top * 500) - 20, int(top * 500) + 21)
        assert abs(int(held[1, here].argmax()) - 20) <= 1
