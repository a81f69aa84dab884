"""Several processes are one: copies and shards, measured in two processes forked from this one.

A fork takes the live library along as it is, faults included. The two train what one process
trains, once with copies (DDP) and once in shards (FSDP2), then meet a sample that is not finite,
and write down what they have; one run of the two serves all claims.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import shutil
import traceback
import warnings
from dataclasses import dataclass
from datetime import timedelta
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
from latentcast.engine.checkpoint import latest, read_tensors
from latentcast.engine.context import Context, StopRequest
from latentcast.engine.parallel import full_tensor
from latentcast.engine.ranks import Ranks
from latentcast.nn.ranks import summed
from latentcast.objectives import regularizers
from latentcast.objectives.build import assemble, build
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import (
    Evidence,
    above,
    all_of,
    at_most,
    equal,
    greatest,
    none,
    true,
)
from latentcast.verification.observe.jepa import apart
from latentcast.verification.observe.loop_recorder import LoopRecord, LoopRecorder, Weights, spoiled
from latentcast.verification.observe.rehearsal import differing, rehearse, revealing
from latentcast.verification.observe.twin import Twin

SIZE, STEPS = 2, 3
PATIENCE = 180.0
"""Seconds; a rank that waits for another half as long gives up."""
TOLERANCE = 1e-5
EXACT = 1e-9
PARALLEL = ("ddp", "fsdp")
REQUIRED = "specification, executable requirements 18 and 20; our design, section 4: Distributed"


@dataclass
class Together:
    """What one process did, and what two ranks did.

    Attributes:
        reports: of each rank, the numbers of its runs by name.
        weights: of each rank, by kind of parallelism.
    """

    alone: LoopRecord
    reports: list[dict[str, Any]]
    weights: list[dict[str, Weights]]
    folder: Path


def together(twin: Twin) -> Together:
    """The run of two ranks; the same one when asked again.

    Raises:
        RuntimeError: a rank failed or did not end.
    """
    return twin.once("ranks", lambda: _run(twin))


def _run(twin: Twin) -> Together:
    # A gradient that is nothing but rounding moves a weight by whole rates (a key's bias has no
    # effect on attention, the length of a kernel none before a norm); with this eps it does not,
    # and rounding stays rounding.
    changes = {"optimizer.warmup_steps": 1, "optimizer.eps": 1e-5}
    steps = {"train.steps": STEPS, "train.checkpoint_every": STEPS}
    config, folder = revealing(twin).updated({**changes, **steps}), twin.folder / "ranks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    alone = rehearse(twin, config)
    fork = multiprocessing.get_context("fork")
    arguments = config, twin.store.path, folder
    children = [fork.Process(target=_rank, args=(rank, *arguments)) for rank in range(SIZE)]
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
        problems = [file.read_text()[-200:] for file in sorted(folder.glob("*.txt"))]
        raise RuntimeError(" | ".join(problems) or "a rank did not end")
    reports = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]
    weights = [
        {parallel: load_file(folder / f"{parallel}-{rank}.safetensors") for parallel in PARALLEL}
        for rank in range(SIZE)
    ]
    return Together(alone, reports, weights, folder)


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
        ranks, rows = Ranks(rank, SIZE, rank), _rows()
        report: dict[str, Any] = {"reductions": _reductions(ranks)}
        report["statistics"] = _regularized(rows[:7] if rank == 0 else rows[7:])
        for parallel in PARALLEL:
            own = config.updated({"machine.parallel": parallel})
            report[parallel], weights = _trained(ranks, own, store, folder / parallel)
            save_file(weights, folder / f"{parallel}-{rank}.safetensors")
            own = own.updated({"train.checkpoint_every": 99})
            refused = folder / f"{parallel}-refused"
            numbers, weights = _trained(ranks, own, store, refused, poisoned=(0,), most=2)
            finite = all(bool(tensor.isfinite().all()) for tensor in weights.values())
            report[f"{parallel} refused"] = numbers | {"finite": finite}
        (folder / f"{rank}.json").write_text(json.dumps(report))
        dist.barrier()
        code = 0
    except BaseException:
        (folder / f"problem-{rank}.txt").write_text(traceback.format_exc())
    os._exit(code)


def _trained(
    ranks: Ranks, config: Config, store: Path, folder: Path, poisoned: tuple[int, ...] = (),
    most: int | None = None,
) -> tuple[dict[str, Any], Weights]:  # fmt: skip
    """No rank waits for one that counts otherwise: all make the same attempts."""
    folder.mkdir(exist_ok=True)
    sharded = config.machine.parallel == "fsdp"
    with torch.device("meta" if sharded else "cpu"):
        objective = assemble(config) if sharded else build(config)
    loader, preprocess = reading(Store.open(store), config, (ranks.rank, ranks.size))

    def read(samples: Tensor, draw: Draw | None) -> Inputs:
        return spoiled(preprocess(samples, draw), draw, poisoned, config)

    recorder = LoopRecorder(objective, most, snapshots=False)
    gc.freeze()  # the loop's collection need not look at all that was forked
    with recorder.recording():
        loop.train(objective, read, loader.stream, config, folder, [recorder], ranks)
    numbers: dict[str, Any] = {
        "losses": [step.loss for step in recorder.attempts if step.counted],
        "norms": [step.norm for step in recorder.attempts if step.counted],
        "ids": [torch.cat(attempt.ids).tolist() for attempt in recorder.attempts],
        "step": recorder.state.step, "skipped": recorder.state.skipped,
    }  # fmt: skip
    return numbers, {n: full_tensor(t.detach()).clone() for n, t in objective.state_dict().items()}


def _reductions(ranks: Ranks) -> dict[str, float]:
    """Largest differences from what one process has; the ranks have 3 rows and 2."""
    rows = torch.arange(10, dtype=torch.float64).reshape(5, 2).square()
    own = rows[:3] if ranks.rank == 0 else rows[3:]
    part = own.clone().requires_grad_()
    total = summed(part.sum(0))
    torch.autograd.backward(total.square().sum())
    assert part.grad is not None
    # Of the sum of both ranks' losses: each row counts in either.
    gradient = SIZE * 2 * rows.sum(0).expand_as(part)
    request = StopRequest()
    request.name = "SIGTERM" if ranks.rank == 1 else None
    stopping = request.count(Context(torch.device("cpu"), torch.float32, ranks))
    return {
        "sum": float((ranks.summed(own.sum(0)) - rows.sum(0)).abs().max()),
        "rows of all": apart(ranks.gathered(own), rows),
        "sum with a gradient": float((total - rows.sum(0)).abs().max().detach()),
        "its gradient": float((part.grad - gradient).abs().max()),
        "requests to stop": abs(float(stopping) - 1),
    }


def _rows() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(12, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7) / 9


def _regularized(rows: Tensor) -> dict[str, float]:
    return {
        "variance": float(regularizers.variance(rows)),
        "covariance": float(regularizers.covariance(rows)),
        "sigreg": float(regularizers.sigreg(rows, 3, slices=16)),
    }


def _several(twin: Twin) -> bool:
    return dist.is_available() and hasattr(os, "fork")


def _same_weights(twin: Twin, parallel: str) -> Evidence:
    """Of student and teacher apart: each has to be one process's, and has to have moved."""
    run = together(twin)
    first, last = run.alone.attempts[0].before, run.alone.attempts[-1].end
    teachers = {name for name in last if "teacher." in name}
    parts = []
    for name, names in (("student and predictors", last.keys() - teachers), ("teacher", teachers)):
        if not names:
            continue
        gap = max(_gap(weights[parallel][n], last[n]) for weights in run.weights for n in names)
        moved = max(_gap(last[n], first[n]) for n in names)
        parts.append(at_most(f"{name}: largest difference", gap, TOLERANCE))
        parts.append(above(f"{name}: largest move of the run", moved, 10 * TOLERANCE))
    return all_of(*parts, ranks=SIZE, tensors=len(last))


def _gap(tensor: Tensor, expected: Tensor) -> float:
    gap = float((tensor.double() - expected.double()).abs().max())
    return math.inf if math.isnan(gap) else gap


@claim("ranks.ddp-weights", "Two ranks with copies end with the weights of one process, and with "
       "its teacher.", source=REQUIRED, about=_several)  # fmt: skip
def ddp_weights(twin: Twin) -> Evidence:
    return _same_weights(twin, "ddp")


@claim("ranks.fsdp-weights", "Two ranks in shards (FSDP2) end with the weights of one process, "
       "and with its teacher, which lies in shards itself.",
       source=REQUIRED, about=_several)  # fmt: skip
def fsdp_weights(twin: Twin) -> Evidence:
    return _same_weights(twin, "fsdp")


@claim("ranks.drawn", "Shards are drawn in full: every weight is set when nothing was there "
       "before, to the bits of one process.", source="our design, law 1")  # fmt: skip
def drawn(twin: Twin) -> Evidence:
    """As under FSDP: built without weights, given memory that holds anything, then drawn."""
    with torch.device("meta"):
        empty = assemble(twin.config)
    empty.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(torch.nan)
    empty.initialise(twin.config.train.seed)
    expected = dict(build(twin.config).named_parameters())
    wrong = differing(dict(empty.named_parameters()), expected)
    return all_of(none("not drawn, or otherwise", wrong), weights=len(expected))


@claim("ranks.logged", "The loss and the norm of the gradient, which clipping goes by, that every "
       "rank logs are those of the whole batch.", source=REQUIRED, about=_several)  # fmt: skip
def logged(twin: Twin) -> Evidence:
    run, parts = together(twin), list[Evidence]()
    for numbers, name in (("losses", "loss"), ("norms", "norm")):
        expected, gaps = [getattr(step, name) for step in run.alone.steps], list[float]()
        for report in run.reports:
            for parallel in PARALLEL:
                pairs = zip(report[parallel][numbers], expected, strict=True)
                gaps += [abs(a - b) / max(1.0, abs(b)) for a, b in pairs]
        worst = math.inf if any(map(math.isnan, gaps)) else greatest(*gaps)
        parts.append(at_most(f"{name}: largest difference", worst, TOLERANCE))
    shown = {f"rank {n}": report["ddp"]["losses"][0] for n, report in enumerate(run.reports)}
    return all_of(*parts, one_process=run.alone.steps[0].loss, **shown)


@claim("ranks.same-bits", "All ranks have the same weights, to the last bit.",
       source=REQUIRED, about=_several)  # fmt: skip
def same_bits(twin: Twin) -> Evidence:
    run, differ = together(twin), list[str]()
    for parallel in PARALLEL:
        one, other = (weights[parallel] for weights in run.weights)
        differ += differing(one, other)
    return all_of(none("differ", differ), tensors=len(one))


@claim("ranks.each-sample-once", "Together the ranks read each sample of a batch once.",
       source="specification, D24: every rank saw all data", about=_several)  # fmt: skip
def each_sample_once(twin: Twin) -> Evidence:
    run = together(twin)
    batch, wrong = run.alone.config.train.batch_size, 0
    for parallel in PARALLEL:
        for attempt in range(STEPS):
            parts = [report[parallel]["ids"][attempt] for report in run.reports]
            expected = list(range(attempt * batch, (attempt + 1) * batch))
            wrong += sorted(i for part in parts for i in part) != expected
    shown = {f"samples of rank {n}": str(part) for n, part in enumerate(parts)}
    return all_of(equal("attempts that are not the batch", wrong, 0), batch=batch, **shown)


@claim("ranks.refused-together", "A sample that is not finite on one rank makes all of them skip "
       "the step.", source="our design, law 2", about=_several)  # fmt: skip
def refused_together(twin: Twin) -> Evidence:
    """The next batch is as it should be."""
    reports = [r[f"{parallel} refused"] for r in together(twin).reports for parallel in PARALLEL]
    states = sorted({(report["step"], report["skipped"]) for report in reports})
    return all_of(
        equal("steps and skipped", ", ".join(map(str, states)), "(1, 1)"),
        true("weights finite", all(report["finite"] for report in reports)),
        equal("logged by each", str({len(report["losses"]) for report in reports}), "{1}"),
    )


@claim("ranks.reductions", "Sums and rows of all ranks are those of one process, gradients too; "
       "one rank that is asked to stop stops all.", source=REQUIRED, about=_several)  # fmt: skip
def reductions(twin: Twin) -> Evidence:
    differences = [report["reductions"] for report in together(twin).reports]
    return all_of(
        *(at_most(name, max(one[name] for one in differences), EXACT) for name in differences[0])
    )


@claim("ranks.statistics", "Variance, covariance and SIGReg are those of the rows of all ranks.",
       source="specification, executable requirement 15", about=_several)  # fmt: skip
def statistics(twin: Twin) -> Evidence:
    expected = _regularized(_rows())
    reports = [report["statistics"] for report in together(twin).reports]
    return all_of(
        *(at_most(f"{name}: difference", greatest(*(abs(r[name] - value) for r in reports)), EXACT)
          for name, value in expected.items()), **expected,
    )  # fmt: skip


@claim("ranks.checkpoint", "What two ranks save, one process reads: weights and moments.",
       source=REQUIRED, about=_several)  # fmt: skip
def checkpoint(twin: Twin) -> Evidence:
    """Read in one process, held against what the ranks had and against one process's moments."""
    run, worst, wrong = together(twin), 0.0, list[str]()
    alone = read_tensors(latest(run.alone.checkpoints), "optimizer")
    for parallel in PARALLEL:
        folder, live = latest(run.folder / parallel / "checkpoints"), run.weights[0][parallel]
        saved, moments = read_tensors(folder, "model"), read_tensors(folder, "optimizer")
        wrong += differing(saved, live) + sorted(moments.keys() ^ alone.keys())
        for name in moments.keys() & alone.keys():
            scale = max(1.0, float(alone[name].abs().max()))
            worst = greatest(worst, _gap(moments[name], alone[name]) / scale)
    return all_of(
        none("missing or other", wrong),
        at_most("largest difference of moments", worst, TOLERANCE),
        tensors=len(saved) + len(moments),
    )
