"""The average of the weights is the same whatever the objective is wrapped in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawn import in_ranks
from torch import Tensor, nn

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.data.loader import split
from latentcast.engine import loop
from latentcast.engine.ema import Ema
from latentcast.engine.loop import train
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Schedules
from latentcast.nn.blocks import Block
from latentcast.objectives.build import build
from latentcast.objectives.jepa import Jepa
from latentcast.randomness import Draw
from latentcast.recipes import recipe

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

STEPS, BATCH = 3, 4
CONFIG = recipe("hjepa-image-tiny").updated(
    {"encoder.patch": 2, "input.height": 16, "input.width": 16, "encoder.width": 24,
     "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48, "encoder.drop_path": 0.3,
     "objective.predictor.width": 16, "objective.predictor.heads": 2,
     "objective.predictor.depth": 1, "objective.coarser.0.width": 16,
     "objective.coarser.0.heads": 2, "objective.coarser.0.mlp_width": 32,
     "objective.coarser.0.predictor.depth": 1, "optimizer.warmup_steps": 2,
     "ema.base": 0.7, "train.precision": "fp32", "train.steps": STEPS,
     "train.batch_size": BATCH, "objective.masks.shapes": 2, "objective.regularizer": None}
)  # fmt: skip


def made() -> Jepa:
    objective = build(CONFIG)
    assert isinstance(objective, Jepa)
    return objective


def images(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 16, 16, generator=generator)


def taken(objective: Jepa, called: Callable[..., Any], rows: slice = slice(0, BATCH)) -> None:
    """The steps of a run: schedules, forward, backward, optimizer, average."""
    optimizer, schedules = build_optimizer(objective, CONFIG.optimizer), Schedules.of(CONFIG)
    ema = Ema(objective.ema_pairs())
    for step in range(STEPS):
        schedules.apply(optimizer, step)
        ids = torch.arange(BATCH)[rows] + BATCH * step
        called(Inputs(images(step)[rows]), Draw(0, step, ids)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(schedules.momentum(step))
    assert ema.distance() > 0


def full(parameter: Tensor) -> Tensor:
    """A parameter, put together again when it is in shards."""
    full = getattr(parameter, "full_tensor", None)
    return parameter.detach() if full is None else full().detach()


def weights(objective: Jepa) -> dict[str, Tensor]:
    return {n.replace("_orig_mod.", ""): full(p) for n, p in objective.named_parameters()}


def sharded(objective: Jepa, world: int) -> Jepa:
    """Student and teacher alike, block by block, and the rest with the objective."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    for module in objective.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    """The weights of one process without any wrapper."""
    objective = made()
    taken(objective, objective)
    return weights(objective)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    moved = made().state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=name)
        if name.startswith("teacher") and tensor.ndim > 1:
            assert not torch.equal(found[name], moved[name]), name  # the teacher did move


# The formula


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_parameters_are_averaged_and_buffers_copied(momentum: float) -> None:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    teacher = copy.deepcopy(student)
    student(torch.randn(8, 3, dtype=torch.float64))  # moves the running statistics
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for p in teacher.parameters()]
    Ema([(student, teacher)]).update(momentum)
    for old, now, ours in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * old + (1 - momentum) * ours)
        if momentum in (0, 1):
            assert torch.equal(now, ours if momentum == 0 else old)
    for ours, theirs in zip(student.buffers(), teacher.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert int(teacher[1].num_batches_tracked) == 1


# Wrappers


def test_under_ddp_of_one_rank(one_rank: None, alone: dict[str, Tensor]) -> None:
    objective = made()
    taken(objective, nn.parallel.DistributedDataParallel(objective))
    assert_same(weights(objective), alone, 0)


def test_sharded_over_one_rank(one_rank: None, alone: dict[str, Tensor]) -> None:
    objective = sharded(made(), 1)
    taken(objective, objective)
    assert_same(weights(objective), alone, 1e-6)


def two_ranks(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    replicated = made()
    taken(replicated, nn.parallel.DistributedDataParallel(replicated), rows)
    in_shards = sharded(made(), 2)
    assert in_shards.teacher is not None
    both = zip(in_shards.student.parameters(), in_shards.teacher.parameters(), strict=True)
    pieces = {(s.to_local().shape, t.to_local().shape) for s, t in both}  # type: ignore[attr-defined]
    assert all(student == teacher for student, teacher in pieces)
    cut = sum(p.to_local().numel() for p in in_shards.parameters())  # type: ignore[attr-defined]
    assert cut < 0.6 * sum(p.numel() for p in in_shards.parameters())
    taken(in_shards, in_shards, rows)
    torch.save((weights(replicated), weights(in_shards)), folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_replicated_and_sharded(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    """Each rank sees half of the batch; student and teacher lie in the same shards."""
    in_ranks(two_ranks, 2, tmp_path)
    for rank in (0, 1):
        for found in torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True):
            assert_same(found, alone, 1e-5)


def test_under_compiled_blocks(alone: dict[str, Tensor]) -> None:
    """Compiled by dynamo and autograd; what code comes out of it is no matter of the average.

    One of all blocks suffices, and generating code for it would take a minute.
    """
    torch._dynamo.reset()
    objective = made()
    assert objective.teacher is not None
    for network in (objective.student, objective.teacher):
        network.finest.blocks[0].compile(backend="aot_eager", fullgraph=True)
    taken(objective, objective)
    assert_same(weights(objective), alone, 1e-6)


def test_under_a_compiled_objective() -> None:
    """The whole forward pass, masks and targets included; one level and one shape to be quick."""
    torch._dynamo.reset()
    config = recipe("ijepa-image-tiny").updated(
        {"encoder.width": 16, "encoder.depth": 1, "encoder.heads": 2, "encoder.mlp_width": 32,
         "input.height": 16, "input.width": 16, "encoder.patch": 2, "objective.masks.shapes": 1,
         "objective.predictor.width": 16, "objective.predictor.heads": 2,
         "objective.predictor.depth": 1, "train.precision": "fp32", "objective.regularizer": None}
    )  # fmt: skip
    found = []
    for compiled in (False, True):
        objective = build(config)
        assert isinstance(objective, Jepa)
        called = torch.compile(objective, backend="eager") if compiled else objective
        taken(objective, called)
        found.append(weights(objective))
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=0, atol=1e-6, msg=name)


# The order


def run(config: Config, folder: Path, poison: frozenset[int] = frozenset()) -> Jepa:
    def stream(attempt: int) -> Iterator[list[Batch]]:
        while True:
            x = images(attempt)
            if attempt in poison:
                x[0, 0, 0, 0] = torch.nan
            ids = torch.arange(BATCH) + BATCH * attempt
            yield split(Batch(x, ids), config.train.micro_batches)
            attempt += 1

    objective = made()
    train(objective, lambda x, draw: Inputs(x), stream, config, folder)
    return objective


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_one_average_a_step_after_the_optimizer_however_many_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """The public H-JEPA averages before backward, and in every micro-batch."""
    events: list[str] = []

    def spy(owner: Any, name: str, event: str) -> None:
        original = getattr(owner, name)

        def recorded(*a: Any, **k: Any) -> Any:
            events.append(event)
            return original(*a, **k)

        monkeypatch.setattr(owner, name, recorded)

    spy(Jepa, "forward", "forward")
    spy(torch.autograd, "backward", "backward")
    spy(torch.optim.AdamW, "step", "optimizer")
    spy(loop.Ema, "update", "average")
    run(CONFIG.updated({"train.micro_batches": pieces}), tmp_path)
    assert events == (["forward", "backward"] * pieces + ["optimizer", "average"]) * STEPS


def test_pieces_of_a_batch_leave_the_same_teacher(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    for pieces in (1, 4):
        config = CONFIG.updated({"train.micro_batches": pieces})
        found = weights(run(config, tmp_path / str(pieces)))
        assert_same(found, alone, 1e-5)


def test_a_skipped_step_moves_neither_teacher_nor_momentum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    momenta: list[float] = []
    update = loop.Ema.update

    def told(self: Ema, momentum: float, refused: Tensor) -> None:
        if not refused:
            momenta.append(momentum)
        update(self, momentum, refused)

    monkeypatch.setattr(loop.Ema, "update", told)
    objective = run(CONFIG, tmp_path, poison=frozenset({1}))
    expected = Schedules.of(CONFIG).momentum
    assert momenta == [expected(n) for n in range(STEPS)]
    assert all(bool(torch.isfinite(p).all()) for p in objective.parameters())
