"""Several processes are one: copies and shards, measured in two processes forked from this one.

A fork takes the live library along as it is, faults included. The two train what one process
trains, once with copies (DDP) and once in shards (FSDP2), then meet a sample that is not finite,
and write down what they hold; one run of the two serves all claims.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import multiprocessing
import os
import shutil
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.fit import reading
from latentcast.data.store import Store
from latentcast.engine import loop
from latentcast.engine.checkpoint import State, latest, read_tensors
from latentcast.engine.context import Context, StopRequest
from latentcast.engine.ema import Ema
from latentcast.engine.ranks import Ranks
from latentcast.engine.schedules import Schedules
from latentcast.objectives import regularizers
from latentcast.objectives.base import Output
from latentcast.objectives.build import assemble, build
from latentcast.objectives.ranks import summed
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.rehearsal import (
    Rehearsal,
    averages,
    once,
    pairs,
    rehearse,
    revealing,
    spoiled,
)
from latentcast.verification.observe.twin import Subject, Weights

SIZE, STEPS = 2, 3
PATIENCE = 180.0
"""Seconds; a rank that waits for another half as long gives up."""
TOLERANCE = 1e-5
PARALLEL = ("ddp", "fsdp")
REQUIRED = "specification, executable requirements 18 and 20; our design, section 4: Distributed"


@dataclass
class Together:
    """What two ranks did, each of them, and one process."""

    alone: Rehearsal
    told: list[dict[str, Any]]
    weights: list[dict[str, Weights]]
    folder: Path


def together(subject: Subject) -> Together:
    """The run of two ranks; the same one when asked again.

    Raises:
        RuntimeError: a rank failed or did not end.
    """
    return once(subject, "ranks", lambda: _run(subject))


def _settings(subject: Subject) -> Config:
    # A gradient that is nothing but rounding moves a weight by whole rates (a key's bias has no
    # effect on attention); with this eps it does not, and rounding stays rounding.
    changes = {"train.steps": STEPS, "optimizer.warmup_steps": 1, "optimizer.eps": 1e-6}
    return revealing(subject).updated({**changes, "train.checkpoint_every": STEPS})


def _run(subject: Subject) -> Together:
    config, folder = _settings(subject), subject.folder / "ranks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    alone = rehearse(subject, config)
    store = subject.store.path
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=_rank, args=(rank, config, store, folder)) for rank in range(SIZE)
    ]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(PATIENCE)
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
                child.join()
    if any(child.exitcode for child in children):
        said = [file.read_text()[-200:] for file in sorted(folder.glob("*.txt"))]
        raise RuntimeError(" | ".join(said) or "a rank did not end")
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]
    weights = [
        {parallel: load_file(folder / f"{parallel}-{rank}.safetensors") for parallel in PARALLEL}
        for rank in range(SIZE)
    ]
    return Together(alone, told, weights, folder)


# In the rank


def _rank(rank: int, config: Config, store: Path, folder: Path) -> None:
    """All that a rank does; it must not come back into the program that it was forked from."""
    code = 1
    try:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # the pool of threads stayed behind in the other process
        dist.init_process_group(
            "gloo", f"file://{folder}/meeting", rank=rank, world_size=SIZE,
            timeout=timedelta(seconds=PATIENCE / 2),
        )  # fmt: skip
        told: dict[str, Any] = {"reductions": _reductions(rank), "statistics": _statistics(rank)}
        ranks = Ranks(rank, SIZE, rank)
        for parallel in PARALLEL:
            own = config.updated({"machine.parallel": parallel})
            told[parallel], weights = _trained(ranks, own, store, folder / parallel)
            save_file(weights, folder / f"{parallel}-{rank}.safetensors")
        for parallel in PARALLEL:
            own = config.updated({"machine.parallel": parallel, "train.checkpoint_every": 99})
            told[f"{parallel} refused"], weights = _trained(
                ranks, own, store, folder / f"{parallel}-refused", poisoned=0, attempts=2
            )
            finite = all(bool(tensor.isfinite().all()) for tensor in weights.values())
            told[f"{parallel} refused"]["finite"] = finite
        (folder / f"{rank}.json").write_text(json.dumps(told))
        dist.barrier()
        code = 0
    except BaseException:
        (folder / f"problem-{rank}.txt").write_text(traceback.format_exc())
    os._exit(code)


class _Enough(Exception):
    """All attempts were made."""


class _Listener:
    """A watcher that keeps the numbers that the loop tells, and stops it after some attempts.

    No rank waits for one that counts otherwise: all make the same attempts.
    """

    def __init__(self, attempts: int | None) -> None:
        self.left = attempts
        self.state = State()
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.skips: list[int] = []

    def start(self, state: State, context: Context) -> None:
        self.state = state

    def waiting(self, batches: Iterator[loop.MicroBatches]) -> loop.MicroBatches:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise _Enough
        return next(batches)

    def looks(self, step: int) -> bool:
        return True

    def updated(
        self, state: State, output: Output, gradient_norm: Tensor, schedules: Schedules, ema: Ema
    ) -> None:
        self.losses.append(float(output.loss))
        self.norms.append(float(gradient_norm))

    def skipped(self, state: State, problem: str) -> None:
        self.skips.append(state.attempt)


def _trained(
    ranks: Ranks,
    config: Config,
    store: Path,
    folder: Path,
    poisoned: int | None = None,
    attempts: int | None = None,
) -> tuple[dict[str, Any], Weights]:
    folder.mkdir(exist_ok=True)
    sharded = config.machine.parallel == "fsdp"
    with torch.device("meta" if sharded else "cpu"):
        objective = assemble(config) if sharded else build(config)
    loader, preprocess = reading(Store.open(store), config, (ranks.rank, ranks.size))
    ids: list[list[int]] = []

    def read(samples: Tensor, draw: Draw | None) -> Inputs:
        assert draw is not None
        ids.append(draw.ids.tolist())
        bad = () if poisoned is None else (poisoned,)
        return spoiled(preprocess(samples, draw), draw, bad, config)

    listener = _Listener(attempts)
    gc.freeze()  # the loop's collection need not look at all that was forked
    with contextlib.suppress(_Enough):
        loop.train(objective, read, loader.stream, config, folder, listener, ranks)
    told: dict[str, Any] = {
        "losses": listener.losses, "norms": listener.norms, "skips": listener.skips,
        "ids": ids, "step": listener.state.step, "skipped": listener.state.skipped,
    }  # fmt: skip
    return told, {n: full_tensor(t.detach()).clone() for n, t in objective.state_dict().items()}


def _reductions(rank: int) -> dict[str, float]:
    """Largest differences from what one process has; the ranks hold 3 rows and 2."""
    ranks = Ranks(rank, SIZE, rank)
    rows = torch.arange(10, dtype=torch.float64).reshape(5, 2).square()
    own = rows[:3] if rank == 0 else rows[3:]
    part = own.clone().requires_grad_()
    total = summed(part.sum(0))
    torch.autograd.backward(total.square().sum())
    assert part.grad is not None
    # Of the sum of both ranks' losses: each row counts in either.
    gradient = SIZE * 2 * rows.sum(0).expand_as(part)
    gathered = ranks.gathered(own)
    order = float((gathered - rows).abs().max()) if gathered.shape == rows.shape else math.inf
    request = StopRequest()
    request.name = "SIGTERM" if rank == 1 else None
    asked = request.count(Context(torch.device("cpu"), torch.float32, ranks))
    return {
        "sum": float((ranks.summed(own.sum(0)) - rows.sum(0)).abs().max()),
        "rows of all": order,
        "sum with a gradient": float((total - rows.sum(0)).abs().max().detach()),
        "its gradient": float((part.grad - gradient).abs().max()),
        "asked to stop": abs(float(asked) - 1),
    }


def _statistics(rank: int) -> dict[str, float]:
    own = _rows()[:7] if rank == 0 else _rows()[7:]
    return {name: float(value) for name, value in _regularized(own).items()}


def _rows() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(12, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7) / 9


def _regularized(rows: Tensor) -> dict[str, Tensor]:
    return {
        "variance": regularizers.variance(rows),
        "covariance": regularizers.covariance(rows),
        "sigreg": regularizers.sigreg(rows, 3, slices=16),
    }


# Held against one process


def _weights(parallel: str, teacher: bool) -> Any:
    def probe(subject: Subject) -> Evidence:
        run = together(subject)
        averages_of = {average for _, average in pairs(run.alone.objective)} if teacher else set()
        first, last = run.alone.attempts[0].before, run.alone.attempts[-1].end
        others = {n for n in last if not n.startswith("teacher.")}
        names = averages_of if teacher else others
        worst, where = 0.0, "none"
        for found in (weights[parallel] for weights in run.weights):
            for name in names:
                gap = float((found[name].double() - last[name].double()).abs().max())
                if not gap <= worst:
                    worst, where = (math.inf if math.isnan(gap) else gap), name
        moved = max(float((last[n] - first[n]).abs().max()) for n in names)
        told: dict[str, Number] = {
            "ranks": SIZE, "tensors": len(names), "largest difference": worst, "in": where,
            "bound": TOLERANCE, "largest move of the run": moved,
        }  # fmt: skip
        return Evidence(worst <= TOLERANCE and moved > 10 * TOLERANCE, told)

    return probe


def _told(what: str) -> Any:
    def probe(subject: Subject) -> Evidence:
        run = together(subject)
        expected = [getattr(attempt, what) for attempt in run.alone.counted]
        key = {"loss": "losses", "norm": "norms"}[what]
        worst = 0.0
        for told in run.told:
            for parallel in PARALLEL:
                found = told[parallel][key]
                gaps = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, expected, strict=True)]
                worst = max(worst, *(math.inf if math.isnan(gap) else gap for gap in gaps))
        shown = {f"rank {n}": run.told[n]["ddp"][key][0] for n in range(SIZE)}
        told_of: dict[str, Number] = {
            "one process": expected[0], **shown, "largest difference": worst,
            "bound": TOLERANCE,
        }  # fmt: skip
        return Evidence(worst <= TOLERANCE, told_of)

    return probe


def _bits(subject: Subject) -> Evidence:
    run, differ = together(subject), list[str]()
    for parallel in PARALLEL:
        one, other = (weights[parallel] for weights in run.weights)
        differ += [name for name in one if not torch.equal(one[name], other[name])]
    return Evidence(not differ, {"tensors": len(one), "differ": ", ".join(differ[:3]) or "none"})


def _slices(subject: Subject) -> Evidence:
    run = together(subject)
    batch, wrong, shown = run.alone.config.train.batch_size, 0, list[str]()
    pieces = run.alone.config.train.micro_batches
    for parallel in PARALLEL:
        for attempt in range(STEPS):
            own = slice(attempt * pieces, (attempt + 1) * pieces)
            parts: list[list[int]] = [
                list(chain(*one[parallel]["ids"][own])) for one in run.told
            ]  # fmt: skip
            expected = list(range(attempt * batch, (attempt + 1) * batch))
            wrong += sorted(chain(*parts)) != expected
            shown = [" ".join(str(i - attempt * batch) for i in part) for part in parts]
    told: dict[str, Number] = {
        "batch": batch, "attempts that are not the batch, each sample once": wrong,
        **{f"samples of rank {n}": text for n, text in enumerate(shown)},
    }  # fmt: skip
    return Evidence(not wrong, told)


def _refused(subject: Subject) -> Evidence:
    """The sample that is not finite is on one rank only; the next batch is whole."""
    told = [one[f"{parallel} refused"] for one in together(subject).told for parallel in PARALLEL]
    states = sorted({(one["step"], one["skipped"]) for one in told})
    finite = all(one["finite"] for one in told)
    told_of: dict[str, Number] = {
        "steps and skipped": ", ".join(map(str, states)), "weights finite": finite,
        "skipped by each": " ".join(str(len(one["skips"])) for one in told),
    }  # fmt: skip
    return Evidence(
        states == [(1, 1)] and finite and all(len(o["skips"]) == 1 for o in told), told_of
    )


def _reduced(subject: Subject) -> Evidence:
    differences = [told["reductions"] for told in together(subject).told]
    worst = {name: max(one[name] for one in differences) for name in differences[0]}
    return Evidence(all(value <= 1e-9 for value in worst.values()), {**worst, "bound": 1e-9})


def _statistics_agree(subject: Subject) -> Evidence:
    expected = {name: float(value) for name, value in _regularized(_rows()).items()}
    worst = max(
        abs(told["statistics"][name] - value)
        for told in together(subject).told
        for name, value in expected.items()
    )
    told_of: dict[str, Number] = {
        **{f"{name}, one process": value for name, value in expected.items()},
        "largest difference": worst, "bound": 1e-9,
    }  # fmt: skip
    return Evidence(worst <= 1e-9, told_of)


def _kept(subject: Subject) -> Evidence:
    """Read in one process, held against what the ranks had and against one process's moments."""
    run, worst, wrong = together(subject), 0.0, 0
    alone = read_tensors(latest(run.alone.folder / "checkpoints"), "optimizer")
    for parallel in PARALLEL:
        folder = latest(run.folder / parallel / "checkpoints")
        held = run.weights[0][parallel]
        kept, moments = read_tensors(folder, "model"), read_tensors(folder, "optimizer")
        wrong += len(kept.keys() ^ held.keys()) + len(moments.keys() ^ alone.keys())
        wrong += sum(not torch.equal(kept[n], held[n]) for n in kept.keys() & held.keys())
        for name in moments.keys() & alone.keys():
            worst = max(worst, float((moments[name] - alone[name]).abs().max()))
    told: dict[str, Number] = {
        "tensors": len(kept) + len(moments), "missing or other": wrong,
        "largest difference of moments": worst, "bound": TOLERANCE,
    }  # fmt: skip
    return Evidence(not wrong and worst <= TOLERANCE, told)


def _drawn(subject: Subject) -> Evidence:
    """As under FSDP: built without weights, given memory that holds anything, then drawn."""
    config = subject.config
    with torch.device("meta"):
        empty = assemble(config)
    empty.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(torch.nan)
    empty.initialise(config.train.seed)
    expected = dict(build(config).named_parameters())
    wrong = [n for n, p in empty.named_parameters() if not torch.equal(p, expected[n])]
    return Evidence(
        not wrong, {"weights": len(expected), "not drawn, or otherwise": ", ".join(wrong[:3])}
    )


def _several(subject: Subject) -> bool:
    return dist.is_available() and hasattr(os, "fork")


def _averaged(subject: Subject) -> bool:
    return _several(subject) and averages(subject)


CLAIMS: tuple[Claim, ...] = (
    Claim("ranks.ddp-weights", "Two ranks with copies end with the weights of one process.",
          REQUIRED, _weights("ddp", False), _several),
    Claim("ranks.ddp-teacher", "… and with its teacher.", REQUIRED, _weights("ddp", True),
          _averaged),
    Claim("ranks.fsdp-weights", "Two ranks in shards (FSDP2) end with the weights of one process.",
          REQUIRED, _weights("fsdp", False), _several),
    Claim("ranks.fsdp-teacher", "… and with its teacher, which lies in shards itself.", REQUIRED,
          _weights("fsdp", True), _averaged),
    Claim("ranks.drawn", "Shards are drawn in full: every weight is set when nothing was there "
          "before, to the bits of one process.", "our design, law 1", _drawn),
    Claim("ranks.loss", "The loss told on every rank is that of the whole batch.", REQUIRED,
          _told("loss"), _several),
    Claim("ranks.norm", "So is the norm of the gradient, which clipping goes by.", REQUIRED,
          _told("norm"), _several),
    Claim("ranks.same-bits", "All ranks hold the same weights, to the last bit.", REQUIRED, _bits,
          _several),
    Claim("ranks.each-sample-once", "Together the ranks read each sample of a batch once.",
          "specification, D24: every rank saw all data", _slices, _several),
    Claim("ranks.refused-together", "A sample that is not finite on one rank makes all of them "
          "skip the step.", "our design, law 2", _refused, _several),
    Claim("ranks.reductions", "Sums and rows of all ranks are those of one process, gradients too; "
          "one rank that is asked to stop stops all.", REQUIRED, _reduced, _several),
    Claim("ranks.statistics", "Variance, covariance and SIGReg are those of the rows of all ranks.",
          "specification, executable requirement 15", _statistics_agree, _several),
    Claim("ranks.checkpoint", "What two ranks save, one process reads: weights and moments.",
          REQUIRED, _kept, _several),
)  # fmt: skip
