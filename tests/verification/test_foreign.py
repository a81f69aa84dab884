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
from latentcast.verification.foreign.average import Average
from latentcast.verification.foreign.pairs import pair_of

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


def test_a_momentum_schedule_at_twice_the_rate_is_named() -> None:
    """At the start of a run both are the same to three digits."""

    def schedule(rate: int) -> Callable[[int], float]:
        return lambda n: 0.99 + 0.01 * rate * n / 2000

    for rate in (1, 2):
        code = Foreign()
        code.momentum = schedule(rate)  # type: ignore[method-assign]
        found = verify_ema(code.step, code.student, code.teacher, schedule(1), steps=12)
        assert found.broken == ("ema.momentum",) * (rate == 2), str(found)


@pytest.mark.parametrize("order", ["after", "inside"])
def test_an_optimizer_with_a_closure_is_followed(order: str) -> None:
    """As Lightning trains: zero_grad, forward and backward happen inside of optimizer.step."""
    code = Foreign(micro_batches=1)

    def closure() -> Tensor:
        code.optimizer.zero_grad()
        x = torch.randn(16, 8)
        with torch.no_grad():
            target = code.teacher(x)
        loss = F.mse_loss(code.student(x * 0.5), target + x)
        loss.backward()
        if order == "inside":
            code.average()
        return loss

    def step() -> None:
        code.optimizer.step(closure)  # type: ignore[arg-type]
        if order == "after":
            code.average()

    found = verify_ema(step, code.student, code.teacher, BASE)
    assert found.broken == (("ema.after-step",) if order == "inside" else ()), str(found)


@pytest.mark.parametrize(
    ("kind", "line", "verdict"),
    [
        ("integer zeroed", "ema.integer-buffers", "broken"),
        ("integer unread", "ema.integer-buffers", "note"),
        ("averaged", "ema.buffers", "holds"),
        ("batch mode", "ema.batch-norm", "note"),
        ("dropout", "ema.eval", "broken"),
    ],
)
def test_buffers_and_modes_of_a_teacher_are_told_apart(kind: str, line: str, verdict: str) -> None:
    code = Foreign("buffers left behind" if kind != "dropout" else "")
    norm, own = code.student[1], code.teacher[1]  # type: ignore[index]
    if kind == "integer zeroed":
        norm.momentum = own.momentum = None
    if kind == "batch mode":
        own.train()
    if kind == "dropout":
        code.teacher[3].train()  # type: ignore[index]

    def step() -> None:
        code.step()
        if kind in ("integer zeroed", "integer unread", "averaged"):
            own.running_mean.lerp_(norm.running_mean, 0.1)
            own.running_var.lerp_(norm.running_var, 0.1)
            own.num_batches_tracked.copy_(norm.num_batches_tracked * (kind == "averaged"))

    found = verify_ema(step, code.student, code.teacher, code.momentum)
    assert {one.id: one.verdict for one in found.lines}[line] == verdict, str(found)
    assert found.broken == ((line,) if verdict == "broken" else ()), str(found)


def test_a_comparison_costs_less_memory_than_the_model() -> None:
    """It was forty times the model: every event had a copy, and float64 ones were made of it."""
    student = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024))
    average = Average(pair_of(student, copy.deepcopy(student)))
    average.end()
    state = average._last
    assert state is not None
    assert 2 * state.teacher.nbytes < 0.2 * sum(p.nbytes for p in student.parameters())


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


def test_attention_that_sees_ahead_is_named_behind_a_layer_scale_of_1e_5() -> None:
    class Net(nn.Module):
        def __init__(self, causal: bool) -> None:
            super().__init__()
            self.causal, self.ls1 = causal, nn.Parameter(torch.full((8,), 1e-5))
            self.patch = nn.Conv1d(1, 8, 4, 4)

        def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
            z = self.patch(values).transpose(1, 2)
            seen = F.scaled_dot_product_attention(z, z, z * 1e-3, is_causal=self.causal)
            return z, z + self.ls1 * seen

    torch.manual_seed(0)
    values = torch.randn(2, 1, 400) * 1e-3 + 5
    leaking, right = Net(causal=False), Net(causal=True)
    assert verify_nepa(lambda v: leaking(v), values).broken == ("nepa.causal",)
    assert verify_nepa(right, values).holds
    assert torch.equal(leaking.ls1, torch.full((8,), 1e-5))


def test_a_sampler_that_never_returns_is_named_within_its_time() -> None:
    def sampler(draw: int) -> tuple[Tensor, list[Tensor]]:
        while draw == 3:
            pass
        return torch.arange(4), [torch.arange(4, 8)]

    assert verify_masks(sampler, 8, seconds=0.5).broken == ("masks.returns",)


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
