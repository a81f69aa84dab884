"""The order of a step, accumulation, skipped steps, and the state a run ends in."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.data.loader import split
from latentcast.engine import checkpoint, loop
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context, stop_requests
from latentcast.engine.ema import Ema
from latentcast.engine.loop import accumulate, train
from latentcast.engine.optimizer import build_optimizer
from latentcast.errors import LatentcastError
from latentcast.nn.base import Unit
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.randomness import Draw

CONTEXT = Context(torch.device("cpu"), torch.float32)


def as_they_are(samples: torch.Tensor, draw: Draw | None) -> Inputs:
    return Inputs(samples)


class Record(Callback):
    """Keeps what the loop says and prints nothing."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, float]] = []
        self.skips: list[int] = []

    def on_step_end(
        self, state: State, output: Output, norm: Any, schedules: Any, ema: Ema
    ) -> None:
        self.rows.append(
            (state.step, float(output.loss), schedules.lr(state.step - 1), ema.distance())
        )

    def on_skip(self, state: State, problem: str) -> None:
        self.skips.append(state.attempt)


def batches(config: Config, poison: frozenset[int] = frozenset()) -> Any:
    """Normalised float batches, NaN at the poisoned attempts."""

    def stream(attempt: int) -> Iterator[list[Batch]]:
        while True:
            generator = torch.Generator().manual_seed(attempt)
            shape = (config.train.batch_size, 12, config.input.size[0])
            x = torch.randn(shape, generator=generator)
            if attempt in poison:
                x[0, 0, 0] = torch.nan
            ids = torch.arange(len(x)) + 1000 * attempt
            yield split(Batch(x, ids), config.train.micro_batches)
            attempt += 1

    return stream


def run(config: Config, folder: Path, **how: Any) -> tuple[Objective, Record, State]:
    objective, record = build(config), Record()
    state = train(objective, as_they_are, batches(config, **how), config, folder, [record])
    return objective, record, state


def test_one_step_happens_in_its_order(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """k × (forward, backward) → clip → schedules → optimizer → EMA, once for each step."""
    events: list[str] = []

    def spy(owner: Any, name: str, event: str) -> None:
        original = getattr(owner, name)

        def recorded(*a: Any, **k: Any) -> Any:
            events.append(event)
            return original(*a, **k)

        monkeypatch.setattr(owner, name, recorded)

    spy(loop.Schedules, "apply", "schedules")
    spy(torch.autograd, "backward", "backward")
    spy(loop, "gradient_norm", "clip")
    spy(torch.optim.AdamW, "step", "optimizer")
    spy(loop.Ema, "update", "ema")
    run(small_config.updated({"train.steps": 4, "train.micro_batches": 3}), tmp_path)
    one_step = ["backward", "backward", "backward", "clip", "schedules", "optimizer", "ema"]
    assert events == one_step * 4


def test_teacher_averages_the_weights_after_the_optimizer_step(
    small_config: Config, tmp_path: Path
) -> None:
    """The critical defect of the public H-JEPA: EMA from the weights before the step."""
    config = small_config.updated(
        {"train.steps": 1, "ema.base": 0.9, "ema.final": 0.9, "optimizer.warmup_steps": 1,
         "optimizer.final_lr": 1e-3}
    )  # fmt: skip
    before = {n: p.clone() for n, p in build(config).named_parameters()}
    objective, _, _ = run(config, tmp_path)
    after = dict(objective.named_parameters())
    moved = 0.0
    for name, teacher in after.items():
        if name.startswith("teacher."):
            student = name.replace("teacher.", "student.")
            torch.testing.assert_close(teacher, 0.9 * before[name] + 0.1 * after[student])
            moved = max(moved, float((after[student] - before[student]).detach().abs().max()))
    assert moved > 0  # otherwise before and after are the same and nothing was tested


def test_micro_batches_equal_the_whole_batch(small_config: Config) -> None:
    gradients = {}
    for pieces in (1, 2, 3, 6):
        objective = build(small_config).double()
        config = small_config.updated({"train.micro_batches": pieces})
        (batch,) = split(next(batches(config.updated({"train.micro_batches": 1}))(0))[0], 1)
        x = batch.samples.double()
        x[0, :, 100:] = 0  # half a record of padding: pieces differ in their number of terms
        valid = torch.ones_like(x, dtype=torch.bool)
        valid[0, :, 100:] = False
        marked = torch.where(valid, x, torch.nan)

        def preprocess(samples: torch.Tensor, draw: Draw | None) -> Inputs:
            return Inputs(samples.nan_to_num(), ~samples.isnan())

        output = accumulate(
            objective, preprocess, split(Batch(marked, batch.ids), pieces), 0, State(), CONTEXT
        )
        gradients[pieces] = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        gradients[pieces].append(output.loss)
    for pieces in (2, 3, 6):
        for one, other in zip(gradients[1], gradients[pieces], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_nan_batch_moves_nothing_and_is_counted(small_config: Config, tmp_path: Path) -> None:
    config = small_config.updated({"train.steps": 6})
    poisoned, record, state = run(config, tmp_path / "a", poison=frozenset({2, 3}))
    assert record.skips == [3, 4] and (state.step, state.skipped) == (6, 2)
    assert all(torch.isfinite(p).all() for p in poisoned.parameters())
    # Schedules and EMA stayed too: the rates are those of six steps without a gap.
    _, clean, _ = run(config, tmp_path / "b")
    assert [row[2] for row in record.rows] == [row[2] for row in clean.rows]


def test_nothing_but_nan_stops_with_advice(small_config: Config, tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="gradient norm is nan; .* 10 times in a row"):
        run(small_config, tmp_path, poison=frozenset(range(50)))


def test_data_without_a_valid_patch_stops_and_decays_no_weight(
    small_config: Config, tmp_path: Path
) -> None:
    """Three leads of twelve: every patch is mostly missing, and a loss of 0 looks like success."""
    objective = build(small_config)
    before = [p.clone() for p in objective.parameters()]

    def mostly_missing(samples: torch.Tensor, draw: Draw | None) -> Inputs:
        valid = torch.zeros_like(samples, dtype=torch.bool)
        valid[:, :3] = True
        return Inputs(samples.where(valid, 0), valid)

    with pytest.raises(LatentcastError, match="no patch of the batch is valid"):
        train(objective, mostly_missing, batches(small_config), small_config, tmp_path)
    after = objective.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_gradient_is_clipped_to_its_limit(small_config: Config) -> None:
    objective = build(small_config)
    for p in objective.trainable().values():
        p.grad = torch.ones_like(p)
    before = loop.gradient_norm(objective, 0.5)
    after = loop.gradient_norm(objective, None)
    assert float(before) > 0.5 and float(after) == pytest.approx(0.5, rel=1e-4)


def test_without_a_limit_no_gradient_is_written_again(small_config: Config) -> None:
    """It cost a pass over all gradients, for a multiplication by 1."""
    objective = build(small_config)
    gradients = []
    for p in objective.trainable().values():
        p.grad = torch.randn_like(p)
        gradients.append(p.grad)
    norm, versions = loop.gradient_norm(objective, None), {g._version for g in gradients}
    assert versions == {0}
    assert norm == nn.utils.clip_grad_norm_(objective.parameters(), float("inf"))


def test_the_optimizer_sees_each_trainable_parameter_once_and_no_teacher(
    small_config: Config,
) -> None:
    objective = build(small_config)
    optimizer = build_optimizer(objective, small_config.optimizer)
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(objective.encoder("student").parameters()))
    assert not {id(p) for p in objective.encoder("teacher").parameters()} & set(trained)


@pytest.mark.parametrize("which", ["small_config", "small_hierarchy", "small_convnet"])
def test_interrupted_and_uninterrupted_runs_end_in_the_same_bits(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    small_config: Config = request.getfixturevalue(which)
    whole, _, _ = run(small_config, tmp_path / "whole")

    class Stops(Record):
        def on_step_end(self, state: State, *rest: Any) -> None:
            super().on_step_end(state, *rest)
            if state.step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(small_config), as_they_are, batches(small_config), small_config,
              tmp_path / "cut", [Stops()])  # fmt: skip
    resumed, record, _ = run(small_config, tmp_path / "cut")
    assert record.rows[0][0] == 6  # from the checkpoint of step 5
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    one, other = (
        checkpoint.read_tensors(checkpoint.latest(tmp_path / kind / "checkpoints"), "optimizer")
        for kind in ("whole", "cut")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_resume_restores_a_run_with_skipped_steps(small_config: Config, tmp_path: Path) -> None:
    poison = frozenset({2})
    whole, _, _ = run(small_config, tmp_path / "whole", poison=poison)

    class Stops(Record):
        def on_step_end(self, state: State, *rest: Any) -> None:
            if state.step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(small_config), as_they_are, batches(small_config, poison), small_config,
              tmp_path / "cut", [Stops()])  # fmt: skip
    resumed, _, state = run(small_config, tmp_path / "cut", poison=poison)
    assert state.skipped == 1
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


# The host runs ahead of the device


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the verdict on a step is read after the next has been queued."""
    of = Context.of
    monkeypatch.setattr(Context, "of", lambda *a: replace(of(*a), ahead=True))


class Seldom(Record):
    """Wants no step but the last, so that nothing else makes the host wait."""

    def wants(self, step: int) -> bool:
        return step == 12


@pytest.mark.parametrize("which", ["small_config", "small_hierarchy", "small_convnet"])
def test_a_verdict_that_comes_late_changes_no_bit(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config: Config = request.getfixturevalue(which)
    poison = frozenset({2, 3, 7, 12})
    _, record, state = run(config, tmp_path / "at once", poison=poison)
    request.getfixturevalue("ahead")
    late, seldom = build(config), Seldom()
    batch = batches(config, poison)
    end = train(late, as_they_are, batch, config, tmp_path / "late", [seldom])
    assert end == state and end.skipped == 4
    assert seldom.skips == record.skips
    assert seldom.rows == record.rows[-1:]
    ends = [tmp_path / name / "checkpoints" for name in ("at once", "late")]
    for which_tensors in ("model", "optimizer"):
        a, b = (checkpoint.read_tensors(checkpoint.latest(e), which_tensors) for e in ends)  # type: ignore[arg-type]
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class NoSync(TorchDispatchMode):
    """Fails where the host asks the device for a number."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        assert not any(word in name for word in ("local_scalar", "nonzero", "item", "equal")), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("which", ["small_config", "small_hierarchy"])
def test_no_step_waits_for_the_device(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, ahead: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """From one look at the log to the next the host asks for nothing but old verdicts."""
    config = request.getfixturevalue(which).updated({"train.checkpoint_every": 12})
    steps: list[int] = []
    guards: list[NoSync] = []

    class Guarded(Seldom):
        def on_train_start(self, state: State, context: Context) -> None:
            guards.append(NoSync())
            guards[-1].__enter__()

        def wants(self, step: int) -> bool:
            steps.append(step)
            if step == 12:
                guards.pop().__exit__(None, None, None)
            return super().wants(step)

    train(build(config), as_they_are, batches(config), config, tmp_path, [Guarded()])
    assert steps == list(range(1, 13))

    def asks(self: Ema, momentum: float, refused: torch.Tensor) -> None:
        assert not refused  # a number for the host, in the middle of a step

    monkeypatch.setattr(Ema, "update", asks)
    try:
        with pytest.raises(AssertionError, match="local_scalar"):
            train(build(config), as_they_are, batches(config), config, tmp_path / "b", [Guarded()])
    finally:
        guards.pop().__exit__(None, None, None)


def test_a_signal_waits_for_the_end_of_the_backward_pass() -> None:
    """Which may take minutes; Python handles signals between lines of its own."""

    class Layer(nn.Linear, Unit):
        """As a transformer block."""

    layers = nn.Sequential(*(Layer(512, 512) for _ in range(12)))
    loss, handled = layers(torch.randn(2000, 512)).square().sum(), []
    former = signal.signal(signal.SIGVTALRM, lambda *_: handled.append(time.perf_counter()))
    try:
        with stop_requests(layers):
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
            loss.backward()
    finally:
        signal.signal(signal.SIGVTALRM, former)
    assert handled[0] - start < (time.perf_counter() - start) / 2
    assert not any(p._post_accumulate_grad_hooks for p in layers.parameters())


def test_garbage_is_collected_when_the_log_is_written_and_not_in_a_step(
    small_config: Config, tmp_path: Path
) -> None:
    enabled: list[bool] = []

    class Asks(Record):
        def on_batch_start(self, state: State, seconds: float) -> None:
            enabled.append(gc.isenabled())

    train(build(small_config), as_they_are, batches(small_config), small_config, tmp_path, [Asks()])
    assert len(enabled) == 12 and not any(enabled) and gc.isenabled() and gc.get_freeze_count() == 0


# fp16


def test_an_overflow_in_fp16_moves_nothing_and_halves_the_scale(
    small_config: Config, tmp_path: Path
) -> None:
    config = small_config.updated({"train.precision": "fp16", "train.steps": 6})
    objective, record, state = run(config, tmp_path / "a", poison=frozenset({2, 3}))
    assert (state.step, state.skipped) == (6, 2)
    assert state.scale == loop.first_scale(config) / 4
    _, clean, _ = run(config, tmp_path / "b")
    assert [row[2] for row in record.rows] == [row[2] for row in clean.rows]  # no schedule moved
    assert all(torch.isfinite(p).all() for p in objective.parameters())


def test_the_scale_of_fp16_does_not_change_the_gradient(small_config: Config) -> None:
    gradients = []
    for scale in (1.0, 1024.0):
        objective = build(small_config)
        accumulate(objective, as_they_are, next(batches(small_config)(0)), 0, State(scale=scale),
                   CONTEXT)  # fmt: skip
        gradients.append([p.grad for p in objective.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_fp16_resumes_with_its_scale(small_config: Config, tmp_path: Path) -> None:
    config, poison = small_config.updated({"train.precision": "fp16"}), frozenset({1})
    whole, _, _ = run(config, tmp_path / "whole", poison=poison)

    class Stops(Record):
        def on_step_end(self, state: State, *rest: Any) -> None:
            if state.step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(config), as_they_are, batches(config, poison), config, tmp_path / "cut",
              [Stops()])  # fmt: skip
    saved = checkpoint.latest(tmp_path / "cut" / "checkpoints")
    assert checkpoint.read_record(saved)["scale"] == loop.first_scale(config) / 2
    resumed, _, state = run(config, tmp_path / "cut", poison=poison)
    assert state.scale == loop.first_scale(config) / 2
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_scale_of_fp16_falls_at_once_and_rises_slowly() -> None:
    assert loop.next_scale(State(step=2000, scale=4.0), refused=False) == 8
    assert loop.next_scale(State(step=2001, scale=4.0), refused=False) == 4
    assert loop.next_scale(State(scale=1.0), refused=True) == 0.5
    assert loop.next_scale(State(scale=loop.LEAST_SCALE), refused=True) == loop.LEAST_SCALE


def test_recomputed_activations_give_the_same_bits(small_hierarchy: Config, tmp_path: Path) -> None:
    config = small_hierarchy.updated({"machine.recompute": True})
    kept, _, _ = run(small_hierarchy, tmp_path / "kept")
    again, _, _ = run(config, tmp_path / "again")
    for (name, a), b in zip(kept.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
@pytest.mark.parametrize("which", ["small_config", "small_hierarchy"])
def test_compiled_blocks_train_the_same_and_compile_no_step_anew(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Drop-path was drawn inside: every step was another program, and the eighth an error."""
    torch._dynamo.reset()
    config = request.getfixturevalue(which)
    eager, _, _ = run(config, tmp_path / "eager")
    versions: list[int] = []

    class Counts(Record):
        def wants(self, step: int) -> bool:
            versions.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            return super().wants(step)

    compiled = build(config)
    by_block = config.updated({"machine.compile": True})
    train(compiled, as_they_are, batches(config), by_block, tmp_path / "compiled", [Counts()])
    assert versions[-1] > 0 and versions[-1] == versions[-4]
    for (name, a), b in zip(
        eager.state_dict().items(), compiled.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4, msg=name)
