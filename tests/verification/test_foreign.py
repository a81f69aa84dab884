"""Other people's training code: the usual bugs are named, and right code is left alone."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import REPOSITORY
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build
from latentcast.objectives.nepa import Nepa
from latentcast.verification.foreign import Verified, verify_ema, verify_masks, verify_nepa

BASE = 0.9


class Foreign:
    """A training script with a switch for each bug."""

    def __init__(self, bug: str = "", seed: int = 0, micro_batches: int = 2) -> None:
        torch.manual_seed(seed)
        self.bug, self.micro_batches, self.done = bug, micro_batches, 0
        self.student: nn.Module = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8)
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(
            bug == "gradient into the teacher"
        )
        self.teacher.train(bug == "teacher in training mode")
        moved = [*self.student.parameters()]
        if bug == "teacher in the optimizer":
            moved += [*self.teacher.requires_grad_(True).parameters()]
        self.optimizer = torch.optim.AdamW(moved, lr=1e-2)

    def momentum(self, n: int) -> float:
        return BASE + (1 - BASE) * n / 20

    @torch.no_grad()
    def average(self, student: nn.Module | None = None) -> None:
        m = self.momentum(self.done)
        if self.bug == "momentum and gain swapped":
            m = 1 - m
        if self.bug == "another schedule":
            m = BASE
        for s, t in zip(
            (student or self.student).parameters(), self.teacher.parameters(), strict=True
        ):
            t.mul_(m).add_(s, alpha=1 - m + (0.02 if self.bug == "not a mean" else 0))
        if self.bug != "buffers left behind":
            for s, t in zip(self.student.buffers(), self.teacher.buffers(), strict=True):
                t.copy_(s)

    def step(self) -> None:
        bug = self.bug
        if bug == "at the start of the next step" and self.done:
            self.done -= 1
            self.average()
            self.done += 1
        old = copy.deepcopy(self.student)
        for _ in range(self.micro_batches):
            x = torch.randn(16, 8)
            if bug == "gradient into the teacher":
                target = self.teacher(x)
            else:
                with torch.no_grad():
                    target = self.teacher(x)
            (F.mse_loss(self.student(x * 0.5), target + x) / self.micro_batches).backward()
            if bug == "for each micro-batch":
                self.average()
        if bug == "before the step":
            self.average()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if bug == "towards the old weights":
            self.average(old)
        elif bug not in ("for each micro-batch", "before the step", "never",
                         "at the start of the next step"):  # fmt: skip
            self.average()
        self.done += 1


def looked_at(bug: str = "", seed: int = 0, **kinds: Any) -> Verified:
    code = Foreign(bug, seed, **kinds)
    return verify_ema(code.step, code.student, code.teacher, code.momentum)


CAUGHT = {
    "before the step": "ema.after-step",
    "for each micro-batch": "ema.once",
    "never": "ema.happens",
    "momentum and gain swapped": "ema.momentum",
    "another schedule": "ema.momentum",
    "not a mean": "ema.formula",
    "towards the old weights": "ema.updated-weights",
    "gradient into the teacher": "ema.frozen",
    "teacher in training mode": "ema.eval",
    "buffers left behind": "ema.buffers",
}


@pytest.mark.parametrize("bug", CAUGHT)
def test_bug_of_a_foreign_average_is_named(bug: str) -> None:
    found = looked_at(bug)
    assert CAUGHT[bug] in found.broken, str(found)


def test_weights_in_the_optimizer_without_a_gradient_are_a_note() -> None:
    found = looked_at("teacher in the optimizer")
    assert found.holds, str(found)
    assert [line.id for line in found.lines if line.verdict == "note"] == ["ema.listed"]


@pytest.mark.parametrize("seed", range(10))
def test_right_code_is_left_alone(seed: int) -> None:
    found = looked_at(seed=seed)
    assert found.holds, str(found)
    assert looked_at(seed=seed, micro_batches=1).holds


@pytest.mark.parametrize(
    ("rate", "base"), [(1e-3, 0.9999), (1e-4, 0.996), (1e-5, 0.9), (1e-8, 0.9)]
)
def test_small_steps_are_not_called_broken_for_their_roundings(rate: float, base: float) -> None:
    """In a warm-up the teacher moves by a few roundings; where by less, nothing is measured."""
    code = Foreign()
    code.optimizer.param_groups[0]["lr"] = rate
    code.momentum = lambda n: base  # type: ignore[method-assign]
    found = verify_ema(code.step, code.student, code.teacher, base)
    assert found.holds, str(found)
    unmeasured = [line.id for line in found.lines if line.verdict == "not measured"]
    assert ("ema.formula" in unmeasured) == (rate == 1e-8)


def test_a_wrong_momentum_is_told_from_roundings_at_a_small_rate() -> None:
    code = Foreign()
    code.optimizer.param_groups[0]["lr"] = 1e-4
    code.momentum = lambda n: 0.996  # type: ignore[method-assign]
    assert verify_ema(code.step, code.student, code.teacher, 0.99).broken == ("ema.momentum",)


def test_an_average_at_the_start_of_the_next_step_is_the_same_order() -> None:
    """Nobody has read the teacher in between, so it is no bug."""
    code = Foreign("at the start of the next step")
    found = verify_ema(code.step, code.student, code.teacher, code.momentum)
    # Of its last step the average is not there yet, nor are the buffers.
    assert set(found.broken) <= {"ema.buffers"}, str(found)


def test_the_momentum_is_told_where_none_is_expected() -> None:
    code = Foreign()
    told = verify_ema(code.step, code.student, code.teacher)
    (line,) = [line for line in told.lines if line.id == "ema.momentum"]
    assert line.numbers["measured first"] == pytest.approx(BASE, abs=1e-4)


def test_what_cannot_be_looked_at_is_said() -> None:
    code = Foreign()
    with pytest.raises(LatentcastError, match="different parameters"):
        verify_ema(code.step, code.student, nn.Linear(2, 2))
    with pytest.raises(LatentcastError, match="no torch optimizer"):
        verify_ema(lambda: None, code.student, code.teacher)


def test_the_example_is_caught_in_twenty_lines() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "foreign_training.py")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    broken = [line for line in done.stdout.splitlines() if line.startswith("BROKEN")]
    assert len(broken) == 1 and "ema.after-step" in broken[0]


def adapter(config: Config) -> tuple[nn.Module, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    nepa = build(config)
    assert isinstance(nepa, Nepa)
    # LayerScale of 1e-5 hides attention from a probe in float32; as after some training.
    with torch.no_grad():
        for name, parameter in nepa.named_parameters():
            if parameter.ndim == 1 and "scale" in name:
                parameter.fill_(0.5)
    student = nepa.student

    def predict(values: Tensor) -> tuple[Tensor, Tensor]:
        z = student.embed(values)
        return z, student.transform(z, tuple(values.shape[2:]), None)

    return nepa, predict


def good_loss(z: Tensor, h: Tensor) -> Tensor:
    return -F.cosine_similarity(h[:, :-1], z[:, 1:].detach(), dim=-1).mean()


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "no shift": (lambda z, h: -F.cosine_similarity(h, z.detach(), dim=-1).mean(), "nepa.shift"),
    "shift of two": (lambda z, h: -F.cosine_similarity(h[:, :-2], z[:, 2:].detach(), dim=-1).mean(),
                     "nepa.shift"),
    "no stop-gradient": (lambda z, h: -F.cosine_similarity(h[:, :-1], z[:, 1:], dim=-1).mean(),
                         "nepa.stop-gradient"),
    "another sign": (lambda z, h: F.cosine_similarity(h[:, :-1], z[:, 1:].detach(), dim=-1).mean(),
                     "nepa.loss"),
}  # fmt: skip


def test_a_foreign_nepa_is_asked(small_config: Config) -> None:
    nepa, predict = adapter(small_config)
    nepa.eval()
    values = torch.randn(2, 12, 400)
    found = verify_nepa(predict, values, good_loss)
    assert found.holds, str(found)
    for loss, line in LOSSES.values():
        assert line in verify_nepa(predict, values, loss).broken


def test_a_predictor_that_sees_ahead_is_named(small_config: Config) -> None:
    _, predict = adapter(small_config)

    def leaking(values: Tensor) -> tuple[Tensor, Tensor]:
        z, h = predict(values)
        return z, h + 1e-3 * z.roll(-1, 1)

    found = verify_nepa(leaking, torch.randn(2, 12, 400))
    assert found.broken == ("nepa.causal",)

    def blended(values: Tensor) -> tuple[Tensor, Tensor]:
        return predict(values / values.std())

    assert "nepa.local" in verify_nepa(blended, torch.randn(2, 12, 400)).broken
    blind = verify_nepa(
        lambda v: (predict(v)[0], torch.ones_like(predict(v)[1])), torch.randn(2, 12, 400)
    )
    assert blind.broken == ("nepa.sees",)


def test_masks_of_a_foreign_sampler() -> None:
    def sampler(draw: int, leak: int = 0) -> tuple[Tensor, list[Tensor]]:
        order = torch.randperm(16, generator=torch.Generator().manual_seed(draw))
        return order[:10], [order[10 - leak : 13], order[13:]]

    assert verify_masks(sampler, 16).holds
    assert verify_masks(lambda draw: sampler(draw, 1), 16).broken == ("masks.disjoint",)
    assert "masks.cover" in verify_masks(lambda draw: sampler(0), 16).broken
    assert (
        "masks.whole"
        in verify_masks(lambda draw: (torch.arange(17), [torch.tensor([])]), 16).broken
    )
    calls: list[int] = []
    assert (
        "masks.same-again"
        in verify_masks(lambda draw: (calls.append(draw), sampler(len(calls)))[1], 16).broken
    )
