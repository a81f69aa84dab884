"""Claims about average, step, resume, order and ranks hold."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from latentcast.engine import loop as engine_loop
from latentcast.recipes import RECIPES, recipe
from latentcast.verification.claim import Claim, measure
from latentcast.verification.claims import ema, loop, monitors, order, ranks, resume
from latentcast.verification.claims.ema import moved_by, roundings
from latentcast.verification.observe.twin import Subject

IN_ONE = {
    claim.id: claim for part in (ema, loop, resume, order, monitors) for claim in part.CLAIMS
}  # fmt: skip
TOGETHER = {claim.id: claim for claim in ranks.CLAIMS}
CLAIMS = IN_ONE | TOGETHER
JEPA, NEPA = "ijepa-image-base", "nepa-ecg-tiny"
"""Cut into micro-batches, both; the second has CLS and crops."""
ONE_OF_EACH = (JEPA, NEPA, "hjepa-ecg-tiny")
if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, Subject]]:
    """Subjects whose stores are good for others of the same recipe: no fault of ours ingests."""
    made: dict[str, Subject] = {}
    yield made
    for subject in made.values():
        subject.close()


def subject_of(name: str, stores: dict[str, Subject]) -> Subject:
    if name not in stores:
        stores[name] = Subject(recipe(name))
    subject = Subject.__new__(Subject)
    subject.__dict__["store"] = stores[name].store
    subject.__init__(recipe(name))  # type: ignore[misc]
    return subject


def broken(claims: dict[str, Claim], subject: Subject) -> dict[str, object]:
    findings = [measure(claim, subject) for claim in claims.values() if claim.about(subject)]
    return {f.claim.id: dict(f.evidence.numbers) for f in findings if not f.holds}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_claims_hold(name: str, stores: dict[str, Subject]) -> None:
    assert broken(IN_ONE, subject_of(name, stores)) == {}


def test_two_ranks_hold_what_they_claim(stores: dict[str, Subject]) -> None:
    assert broken(TOGETHER, subject_of(JEPA, stores)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_claims_hold_for_every_recipe(name: str) -> None:
    subject = Subject(recipe(name))
    assert broken(CLAIMS, subject) == {}
    subject.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm(name: str, seed: int) -> None:
    subject = Subject(recipe(name), seed=seed)
    assert broken(CLAIMS, subject) == {}
    subject.close()


# What the probes are made of


def test_the_momentum_is_found_in_what_it_did() -> None:
    generator = torch.Generator().manual_seed(0)
    student = {"s": torch.randn(300, generator=generator) * 0.02}
    teacher = {"t": student["s"] + torch.randn(300, generator=generator) * 1e-4}
    for momentum in (0.0, 0.5, 0.996, 0.9999):
        end = {"t": torch.lerp(teacher["t"], student["s"], 1 - momentum)}
        found = moved_by(teacher, student, end, [("s", "t")])
        assert abs(found - momentum) < 0.02 * (1 - momentum) + 1e-6
        assert roundings(teacher, student, end, [("s", "t")], momentum) <= 2
        assert roundings(teacher, student, end, [("s", "t")], momentum - 0.01) > 2


def test_a_rank_that_hangs_is_ended(
    stores: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault may make one rank wait for ever; the probe must not."""
    monkeypatch.setattr(ranks, "PATIENCE", 0.5)
    monkeypatch.setattr(ranks, "_rank", lambda *given: time.sleep(60))
    start = time.perf_counter()
    finding = measure(TOGETHER["ranks.loss"], subject_of(JEPA, stores))
    assert not finding.holds and "did not end" in str(finding.evidence.numbers["raised"])
    assert time.perf_counter() - start < 20


def test_a_rank_that_dies_is_told(
    stores: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_rank", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    finding = measure(TOGETHER["ranks.loss"], subject_of(JEPA, stores))
    assert not finding.holds and "raised" in finding.evidence.numbers


def test_a_rehearsal_leaves_nothing_behind(stores: dict[str, Subject]) -> None:
    """No hook, no frozen garbage, no folder: the process goes on to train."""
    import gc

    from torch.optim import optimizer as hooks

    before = len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)
    subject = subject_of(JEPA, stores)
    assert measure(IN_ONE["loop.order"], subject).holds
    after = len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)
    assert after == before and gc.get_freeze_count() == 0 and gc.isenabled()
    folder = Path(subject.folder)
    subject.close()
    assert not folder.exists()


def test_a_gradient_that_is_nan_and_applied_is_told_by_a_number(
    monkeypatch: pytest.MonkeyPatch, stores: dict[str, Subject]
) -> None:
    """The whole run would stop at its tenth NaN, and the probe with it."""
    take = engine_loop.take_step
    monkeypatch.setattr(
        engine_loop, "take_step", lambda optimizer, refused: take(optimizer, 0 * refused)
    )
    found = measure(CLAIMS["loop.refused"], subject_of(JEPA, stores))
    assert not found.holds and int(found.evidence.numbers["not finite any more"]) > 9
