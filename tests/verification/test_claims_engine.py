"""Claims about average, step, resume, order and ranks hold, and their faults break them."""

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
from latentcast.verification.fault import Fault
from latentcast.verification.faults import ema as ema_faults
from latentcast.verification.faults import loop as loop_faults
from latentcast.verification.faults import monitors as monitors_faults
from latentcast.verification.faults import order as order_faults
from latentcast.verification.faults import ranks as ranks_faults
from latentcast.verification.faults import resume as resume_faults
from latentcast.verification.observe.twin import Subject

IN_ONE = {
    claim.id: claim for part in (ema, loop, resume, order, monitors) for claim in part.CLAIMS
}  # fmt: skip
TOGETHER = {claim.id: claim for claim in ranks.CLAIMS}
CLAIMS = IN_ONE | TOGETHER
FAULTS = {
    fault.id: fault
    for part in (
        ema_faults,
        loop_faults,
        resume_faults,
        order_faults,
        ranks_faults,
        monitors_faults,
    )
    for fault in part.FAULTS
}
JEPA, NEPA = "ijepa-image-base", "nepa-ecg-tiny"
"""Cut into micro-batches, both; the second has CLS and crops."""
ONE_OF_EACH = (JEPA, NEPA, "hjepa-ecg-tiny")
QUICK = {
    "ema.before-step", "ema.in-every-piece", "ema.cosine", "ema.bf16", "ema.drops-paths",
    "loop.schedule-after-step", "loop.sum-of-pieces", "loop.refused-decays", "loop.leftovers",
    "resume.without-moments", "resume.forgets-skips", "order.drops-the-last", "crop.outside",
    "order.read-late", "collapse.padding-shown", "collapse.no-threshold",
}  # fmt: skip

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


# Faults


def place_of(fault: Fault, stores: dict[str, Subject]) -> Subject:
    """A new subject that has what the fault breaks, built under it."""
    for name in (JEPA, NEPA):
        subject = subject_of(name, stores)
        if fault.about(subject):
            return subject
    raise AssertionError(f"{fault.id} is about no recipe here")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.id, marks=() if fault.id in QUICK else pytest.mark.slow)
        for fault in FAULTS.values()
    ],
)
def test_a_fault_turns_its_claims_red(fault: Fault, stores: dict[str, Subject]) -> None:
    """And none of them because something else fell over."""
    assert fault.reddens
    with fault.inject():
        subject = place_of(fault, stores)
        for name in fault.reddens:
            assert CLAIMS[name].about(subject), name
            finding = measure(CLAIMS[name], subject)
            assert not finding.holds, (name, dict(finding.evidence.numbers))
            said = str(finding.evidence.numbers.get("raised", ""))
            assert not said or "there is no checkpoint" in said, said


def test_every_claim_is_proven_by_a_fault() -> None:
    assert set(CLAIMS) - {name for fault in FAULTS.values() for name in fault.reddens} == set()


def test_no_fault_stays(stores: dict[str, Subject]) -> None:
    """After all were put in and taken out: methods and names are what they were."""
    for fault in FAULTS.values():
        before = witnesses()
        with fault.inject():
            pass
        assert witnesses() == before, fault.id
    assert broken({k: c for k, c in IN_ONE.items() if k.startswith("ema")},
                  subject_of(JEPA, stores)) == {}  # fmt: skip


def witnesses() -> list[object]:
    """All attributes of the modules and classes that are patched, by identity."""
    import latentcast.data.loader as loader_of
    import latentcast.data.order as order_of
    from latentcast.engine import checkpoint, optimizer, schedules
    from latentcast.engine import loop as loop_of
    from latentcast.engine.context import StopRequest
    from latentcast.engine.ema import Ema
    from latentcast.engine.ranks import Ranks
    from latentcast.engine.verdict import Verdict
    from latentcast.objectives import regularizers
    from latentcast.objectives.base import Objective
    from latentcast.objectives.jepa import Jepa
    from latentcast.objectives.nepa import Nepa

    owners = (
        loader_of, loader_of.Loader, loader_of.Loader, order_of, order_of.Order, checkpoint,
        checkpoint.State, optimizer, schedules, schedules.Schedules, schedules.WarmupCosine,
        schedules.Cosine, schedules.EmaSchedule, loop_of, StopRequest, Ema, Ranks, Verdict,
        regularizers, Objective, Jepa, Nepa, torch.nn.LayerNorm,
    )  # fmt: skip
    return [
        (owner.__name__, name, id(value))
        for owner in owners
        for name, value in sorted(vars(owner).items())
        if not name.startswith("__warning")
    ]


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
