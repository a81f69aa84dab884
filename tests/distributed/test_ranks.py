"""Several gloo ranks train what one process trains: copies, shards, resumed on other numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from spawn import in_ranks
from torch import Tensor

import latentcast.monitors.journal as journal_of
from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import State
from latentcast.engine.loop import train
from latentcast.engine.ranks import Ranks
from latentcast.monitors.journal import TIMINGS, Journal, read_metrics
from latentcast.objectives.build import assemble, build
from latentcast.recipes import recipe

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

STEPS, BATCH = 6, 9  # of unequal pieces for 2 and for 4 ranks
NARROW: dict[str, Any] = {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2,
    "encoder.mlp_width": 48, "encoder.drop_path": 0.3, "optimizer.warmup_steps": 2,
    "train.precision": "fp32", "train.steps": STEPS, "train.batch_size": BATCH,
    "train.log_every": 2, "train.checkpoint_every": 2, "train.keep_checkpoints": 9,
    # Where a gradient is nothing but roundings, AdamW would make whole steps of them.
    "optimizer.eps": 1e-5}  # fmt: skip
JEPA = recipe("hjepa-image-tiny").updated(
    NARROW | {"encoder.patch": 2, "input.height": 16, "input.width": 16,
     "objective.predictor.width": 16, "objective.predictor.heads": 2,
     "objective.predictor.depth": 1, "objective.coarser.0.width": 16,
     "objective.coarser.0.heads": 2, "objective.coarser.0.mlp_width": 32,
     "objective.coarser.0.predictor.depth": 1, "ema.base": 0.7, "objective.masks.shapes": 2,
     "objective.regularizer": None, "train.micro_batches": 2}
)  # fmt: skip
NEPA = recipe("nepa-ecg-tiny").updated(
    NARROW | {"input.length": 200, "ema.base": 0.7, "ema.final": 0.9, "train.micro_batches": 2}
)
SIGREG = JEPA.updated(
    {"train.micro_batches": 1, "objective.regularizer": {"kind": "sigreg", "weight": 0.5}}
)
VIEWS = NEPA.updated({"train.micro_batches": 1, "objective.views.projector": [16, 8]})
CPC = VIEWS.updated({"objective.kind": "cpc", "objective.negatives": "batch"}).updated(
    {"objective.views.comparison.kind": "ntxent"}
)
# A span of masked tokens may lie over what was not measured; the batch norms leave that out.
MASKED = recipe("conv-ecg-tiny").updated(
    {name: value for name, value in NARROW.items() if name.split(".")[0] != "encoder"}
    | {"encoder.width": 24, "encoder.stem_width": 6, "input.length": 160, "ema.base": 0.7,
       # No kink at which a rounding would decide.
       "encoder.activation": "silu", "objective.predictor.activation": "silu",
       "objective.predictor.width": 16, "objective.views": None}
)  # fmt: skip
LEADS = recipe("hjepa-ecg-leads-tiny").updated(
    NARROW | {"input.drop_leads": 0.3, "encoder.drop_path": 0.0, "ema.base": 0.7,
     "objective.masks.shapes": 2, "objective.regularizer": None, "train.micro_batches": 2}
)  # fmt: skip
S4D = recipe("nepa-ecg-tiny").updated(
    {name: value for name, value in NARROW.items() if name.split(".")[0] != "encoder"}
    | {"encoder": {"kind": "s4d", "width": 24, "depth": 2, "state": 4, "stem_width": 6},
       "input.length": 200, "ema.base": 0.7, "ema.final": 0.9, "train.micro_batches": 2}
)  # fmt: skip
# In small steps: of a gradient of few directions, rounding is a part of the update.
MUON = NEPA.updated({"optimizer.muon": {"lr": 1e-3}})
CONFIGS = {"jepa": JEPA, "nepa": NEPA, "sigreg": SIGREG, "views": VIEWS, "cpc": CPC,
           "masked": MASKED, "s4d": S4D, "leads": LEADS, "muon": MUON}  # fmt: skip


class Stream:
    """Batches of noise, a rank's share of them; a quarter of one sample was not measured."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks

    def __call__(self, attempt: int) -> Iterator[list[Batch]]:
        size = (BATCH, self.config.input.channels, *self.config.input.size)
        while True:
            x = torch.randn(size, generator=torch.Generator().manual_seed(attempt))
            x[attempt % BATCH, :, : size[2] // 4] = torch.nan
            ids = torch.arange(BATCH) + BATCH * attempt
            pieces = np.array_split(np.arange(BATCH), self.config.train.micro_batches)
            shares = [np.array_split(p, self.ranks.size)[self.ranks.rank] for p in pieces]
            yield [Batch(x[s], ids[s]) for s in shares]
            attempt += 1


def preprocess(samples: Tensor, draw: object) -> Inputs:
    return Inputs(samples.nan_to_num(), ~samples.isnan())


def run(config: Config, folder: Path, ranks: Ranks, steps: int = STEPS) -> State:
    """Train, stopping as a signal would after ``steps``."""
    sharded = config.machine.parallel == "fsdp" and ranks.size > 1
    with torch.device("meta" if sharded else "cpu"):
        objective = assemble(config) if sharded else build(config)

    class Stops(Journal):
        def on_batch_start(self, state: State, seconds: float) -> None:
            if self.done == steps:
                raise KeyboardInterrupt
            self.done += 1
            super().on_batch_start(state, seconds)

        def on_train_start(self, state: State, context: Any) -> None:
            self.done = state.step
            super().on_train_start(state, context)

    folder.mkdir(parents=True, exist_ok=True)
    journal_of.matmul_peak = lambda *_: 1e9  # type: ignore[attr-defined]  # seconds, for nothing
    with Stops(folder, config, 1, ranks) as journal:
        try:
            return train(
                objective, preprocess, Stream(config, ranks), config, folder, [journal], ranks
            )
        except KeyboardInterrupt:
            return State(steps)


def of(kind: str, parallel: str) -> Config:
    return CONFIGS[kind].updated({"machine.parallel": parallel})


def work(rank: int, size: int, jobs: list[tuple[str, str, Path, int]], meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=size)
    for kind, parallel, folder, steps in jobs:
        run(of(kind, parallel), folder, Ranks(rank, size, rank), steps)
    dist.destroy_process_group()


def together(size: int, jobs: list[tuple[str, str, Path, int]], folder: Path) -> None:
    meeting = folder / f"meeting-{size}-{len(jobs)}"
    in_ranks(work, size, size, jobs, meeting)


def end(run: Path) -> dict[str, Tensor]:
    last = checkpoint.latest(run / "checkpoints")
    assert last.name == f"step-{STEPS:08d}"
    return checkpoint.read_tensors(last, "model") | checkpoint.read_tensors(last, "optimizer")


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in read_metrics(run)]


def assert_same_run(found: Path, expected: Path) -> None:
    ours, theirs = end(found), end(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=name)
    assert len(rows(found)) == len(rows(expected)) == STEPS // 2 + 1
    for a, b in zip(rows(found), rows(expected), strict=True):
        assert a.keys() == b.keys()
        for key, value in b.items():
            if key == "alarms":
                # Whether copying is better is a toss-up where both score the same.
                tie = abs((b.get("copy_last_loss") or 9.0) - b["loss"]) < 5e-3
                left = {"copying-is-better"} if tie else set()
                assert {*a[key]} - left == {*value} - left
                continue
            if value is None:  # a statistic of too few rows
                assert a[key] is None
                continue
            # Ranks and variances are those of the whole batch, not of a rank's part. What copying
            # scores is over other terms than the loss that it is weighted by.
            near = 2e-3 if key == "copy_last_loss" else 1e-4
            assert a[key] == pytest.approx(value, rel=2e-3, abs=near), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs in one process."""
    folder = tmp_path_factory.mktemp("alone")
    for kind in CONFIGS:
        run(of(kind, "ddp"), folder / kind, Ranks())
    return folder


@pytest.mark.parametrize(
    "what",
    [
        (
            ("nepa", "ddp"),
            ("jepa", "fsdp"),
            ("sigreg", "ddp"),
            ("views", "ddp"),
            ("cpc", "ddp"),
            ("masked", "fsdp"),
            ("leads", "ddp"),
            ("s4d", "fsdp"),
            ("muon", "fsdp"),
        ),
        pytest.param(
            (
                ("nepa", "fsdp"),
                ("jepa", "ddp"),
                ("sigreg", "fsdp"),
                ("views", "fsdp"),
                ("cpc", "fsdp"),
                ("masked", "ddp"),
                ("leads", "fsdp"),
                ("s4d", "ddp"),
                ("muon", "ddp"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_ranks_are_one_process_copied_or_sharded(
    tmp_path: Path, alone: Path, what: tuple[tuple[str, str], ...]
) -> None:
    jobs = [(*one, tmp_path / "-".join(one), STEPS) for one in what]
    together(2, jobs, tmp_path)
    for kind, _, folder, _ in jobs:
        assert_same_run(folder, alone / kind)


def test_a_run_goes_on_on_another_number_of_ranks(tmp_path: Path, alone: Path) -> None:
    """Two ranks in shards, then one process, then two with copies."""
    folder = tmp_path / "moved"
    together(2, [("jepa", "fsdp", folder, 2)], tmp_path)
    run(of("jepa", "ddp"), folder, Ranks(), 4)
    together(2, [("jepa", "ddp", folder, 6)] * 2, tmp_path)
    assert_same_run(folder, alone / "jepa")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_two_then_one_then_four_ranks(tmp_path: Path, alone: Path, kind: str) -> None:
    folder = tmp_path / "moved"
    together(2, [(kind, "fsdp", folder, 2)], tmp_path)
    run(of(kind, "ddp"), folder, Ranks(), 4)
    together(4, [(kind, "fsdp", folder, 6), (kind, "ddp", tmp_path / "four", 6)], tmp_path)
    assert_same_run(folder, alone / kind)
    assert_same_run(tmp_path / "four", alone / kind)
