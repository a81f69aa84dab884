"""What claims are made of: twins that leave nothing behind, a recorder that sees what happens."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.optim import optimizer as hooks

from latentcast.engine import loop as engine_loop
from latentcast.recipes import recipe
from latentcast.verification.claim import measure
from latentcast.verification.claims import ema, loop, ranks
from latentcast.verification.claims.ema import moved_by, roundings
from latentcast.verification.observe.recordings import beats, wave
from latentcast.verification.observe.rehearsal import POISONED, rehearsed
from latentcast.verification.observe.twin import Twin


@pytest.fixture
def twin() -> Iterator[Twin]:
    made = Twin(recipe("ijepa-image-base"))
    yield made
    made.close()


def test_the_recorder_sees_the_order_of_a_step_and_its_numbers(twin: Twin) -> None:
    run = rehearsed(twin)
    assert len(run.attempts) == len(run.steps) + 1 and not run.attempts[POISONED].counted
    step = run.steps[0]
    assert step.events == ["forward", "backward"] * 3 + ["optimizer", "average"]
    assert [len(ids) for ids in step.ids] == [3, 2, 2] and step.number == 0
    name = next(iter(step.gradients))
    assert not torch.equal(step.before[name], step.after[name])
    assert torch.equal(step.after[name], step.end[name])  # an average moves the teacher alone
    assert step.loss > 0 and set(step.rates) == set(step.in_optimizer)


def test_a_run_is_recorded_once_and_a_failure_stays_one(twin: Twin) -> None:
    calls = []

    def fails() -> None:
        calls.append(1)
        raise ValueError("the library is broken")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="ValueError: the library is broken"):
            twin.once("it", fails)
    assert calls == [1] and rehearsed(twin) is rehearsed(twin)


def test_a_recorded_run_leaves_nothing_behind(twin: Twin) -> None:
    """No hook, no frozen garbage, no folder: the process goes on to train."""

    def global_hooks() -> tuple[int, int]:
        return len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)

    before = global_hooks()
    assert measure(loop.order, twin).holds
    assert global_hooks() == before and gc.get_freeze_count() == 0 and gc.isenabled()
    folder = Path(twin.folder)
    twin.close()
    assert not folder.exists()


def test_a_gradient_that_is_nan_and_applied_is_a_number_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, twin: Twin
) -> None:
    """The whole run would stop at its tenth NaN, and the probe with it."""
    take = engine_loop.take_step
    monkeypatch.setattr(
        engine_loop, "take_step", lambda optimizer, refused: take(optimizer, 0 * refused)
    )
    finding = measure(loop.refused, twin)
    assert not finding.holds and not finding.raised
    assert "more" in str(finding.evidence.numbers["not finite any more"])


def test_a_wrong_schedule_is_no_wrong_average(monkeypatch: pytest.MonkeyPatch, twin: Twin) -> None:
    """The rule is held against the momentum that was measured, the schedule against its formula."""
    from latentcast.engine.schedules import EmaSchedule

    monkeypatch.setattr(EmaSchedule, "__call__", lambda self, step: 0.7)
    assert not measure(ema.linear, twin).holds
    assert measure(ema.after_step, twin).holds and measure(ema.formula, twin).holds


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


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_a_rank_that_hangs_or_dies_is_ended(monkeypatch: pytest.MonkeyPatch, twin: Twin) -> None:
    """A bug may make one rank wait for ever; the probe must not."""
    monkeypatch.setattr(ranks, "PATIENCE", 0.5)
    monkeypatch.setattr(ranks, "_rank", lambda *args: time.sleep(60))
    start = time.perf_counter()
    finding = measure(ranks.logged, twin)
    assert finding.raised and "did not end" in str(finding.evidence.numbers["raised"])
    assert time.perf_counter() - start < 20
    monkeypatch.setattr(ranks, "_rank", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    twin._made.clear()
    assert measure(ranks.logged, twin).raised


def test_the_known_waves_are_those_of_their_formulas() -> None:
    signal = wave(500, 2000, 3, bpm=90)
    assert np.allclose(signal[2], signal[1] - signal[0])
    assert np.allclose(signal[3], -(signal[0] + signal[1]) / 2)
    tops = beats(90, 0, 4)
    assert np.allclose(np.diff(tops), 60 / 90)
    for top in tops[:5]:
        window = slice(int(top * 500) - 20, int(top * 500) + 21)
        assert abs(int(signal[1, window].argmax()) - 20) <= 1
