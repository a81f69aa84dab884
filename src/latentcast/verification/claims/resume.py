"""A run that is interrupted ends where it would have ended, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import State, read_tensors
from latentcast.engine.optimizer import build_optimizer
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build
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
from latentcast.verification.formulas import decay_of, muon_scale, rate_of
from latentcast.verification.observe.loop_recorder import LoopRecord
from latentcast.verification.observe.rehearsal import (
    EARLIER,
    LATER,
    POISONED,
    differing,
    rehearsed,
    resumed,
)
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 1: the state is the step"
REQUIRED = "specification, executable requirement 21"


def _moments(run: LoopRecord, step: int) -> dict[str, Tensor]:
    """Moments as they were saved; none where the run came to no such step."""
    try:
        return read_tensors(run.checkpoint(step), "optimizer")
    except LookupError:
        return {}


def _same(twin: Twin, step: int, until: int) -> list[Evidence]:
    """Resumed from the checkpoint of ``step``, held against the run that went through."""
    uninterrupted, again = rehearsed(twin), resumed(twin, step)
    begin = step if step <= POISONED else step + 1  # one attempt was no step
    ours = uninterrupted.attempts[begin:][: len(again.attempts)]
    weights = losses = 0
    for a, b in zip(ours, again.attempts, strict=False):  # one may go on for too long
        weights += len(differing(a.end, b.end))
        losses += a.counted and a.loss != b.loss
    moments = differing(*(_moments(run, until) for run in (uninterrupted, again)))
    return [
        equal("tensors that differ", weights, 0),
        equal("losses that differ", losses, 0),
        equal("moments that differ", len(moments), 0),
        equal("attempts", len(again.attempts), len(ours)),
        above("steps", len(again.steps), 1),
    ]


@claim("resume.bit-exact", "A run that was killed and resumed, with everything made anew, goes "
       "through the same bits: weights, teacher, moments, losses.", source=REQUIRED)  # fmt: skip
def bit_exact(twin: Twin) -> Evidence:
    return all_of(*_same(twin, EARLIER, LATER), resumed_at=EARLIER, until=LATER)


@claim("resume.after-skip", "So does one that had skipped a step before.", source=REQUIRED)
def after_skip(twin: Twin) -> Evidence:
    uninterrupted, again = rehearsed(twin), resumed(twin, LATER)
    return all_of(
        *_same(twin, LATER, uninterrupted.config.train.steps),
        equal("step at the end", again.state.step, uninterrupted.state.step),
        equal("skipped, resumed", again.state.skipped, 1),
        equal("skipped, uninterrupted", uninterrupted.state.skipped, 1),
        resumed_at=LATER,
    )


@claim("resume.moments", "A checkpoint has the optimizer's moments of every parameter.",
       source=OURS)  # fmt: skip
def moments(twin: Twin) -> Evidence:
    """Against moments made anew, in float64, from the gradients that the optimizer saw."""
    run = rehearsed(twin)
    saved = read_tensors(run.checkpoint(LATER), "optimizer")
    betas = run.config.optimizer.betas
    worst, names = 0.0, set(run.attempts[0].gradients)
    muon = run.config.optimizer.muon
    for name in run.matrices:
        assert muon is not None
        momentum = torch.zeros(())
        for step in run.steps[:LATER]:
            momentum = muon.momentum * momentum + step.gradients[name].double()
        worst = greatest(worst, _apart(saved.get(f"{name}|momentum"), momentum))
    for name in names - run.matrices:
        mean = square = torch.zeros(())
        for step in run.steps[:LATER]:
            g = step.gradients[name].double()
            mean = betas[0] * mean + (1 - betas[0]) * g
            square = betas[1] * square + (1 - betas[1]) * g * g
        for moment, expected in (("exp_avg", mean), ("exp_avg_sq", square)):
            worst = greatest(worst, _apart(saved.get(f"{name}|{moment}"), expected))
    return all_of(
        at_most("largest relative difference", worst, 1e-4),
        none("without moments, or strange",
             sorted({name.rpartition("|")[0] for name in saved} ^ names)),
        parameters=len(names),
    )  # fmt: skip


def _apart(moment: Tensor | None, expected: Tensor) -> float:
    if moment is None or moment.shape != expected.shape:
        return float("inf")
    scale = float(expected.norm())
    return float((moment.double() - expected).norm()) / scale if scale else 0.0


@claim("resume.weights", "A checkpoint has every weight of its step, the teacher's after its "
       "average.", source=OURS)  # fmt: skip
def weights(twin: Twin) -> Evidence:
    """The files themselves, read by safetensors, and as the library reads them."""
    run = rehearsed(twin)
    wrong = list[str]()
    for step in (EARLIER, LATER):
        live, folder = run.steps[step - 1].end, run.checkpoint(step)
        shards = [load_file(file) for file in (folder / "model").glob("*.safetensors")]
        files = {name: tensor for shard in shards for name, tensor in shard.items()}
        for saved in (files, read_tensors(folder, "model")):
            wrong += differing(saved, live)
    return all_of(
        none("wrong", wrong), tensors=len(saved),
        **{"of the teacher": sum("teacher." in n for n in live)},
    )  # fmt: skip


@claim("resume.schedules", "Rate and decay go on at the step where the run stands.",
       source="specification, D6: the step was saved and never restored")  # fmt: skip
def schedules(twin: Twin) -> Evidence:
    run, lr, decay = resumed(twin, LATER), list[float](), list[float]()
    for n, step in enumerate(run.steps):
        highest = rate_of(run.config, LATER + n) * max(1.0, muon_scale(run.config))
        lr.append(abs(max(step.rates.values()) - highest))
        decay.append(abs(max(step.decays.values()) - decay_of(run.config, LATER + n)))
    return all_of(
        at_most("largest difference of the rate, of the peak",
                max(lr) / run.config.optimizer.lr, 1e-12),
        at_most("of the decay", max(decay), 1e-12),
        first_rate=max(run.steps[0].rates.values()), its_schedule=rate_of(run.config, LATER),
    )  # fmt: skip


@claim("resume.data", "After a resume come the samples that would have come.", source=REQUIRED)
def data(twin: Twin) -> Evidence:
    """Ids and, since equal ids could stand for other samples, the samples."""
    uninterrupted, wrong = rehearsed(twin), 0
    for step, begin in ((EARLIER, EARLIER), (LATER, LATER + 1)):
        again = resumed(twin, step)
        for a, b in zip(uninterrupted.attempts[begin:], again.attempts, strict=False):
            (ids, values), (other_ids, other_values) = (
                (torch.cat(x.ids), torch.cat([i.values for i in x.inputs])) for x in (a, b)
            )
            same = torch.equal(values.nan_to_num(7), other_values.nan_to_num(7))
            wrong += a.number != b.number or not torch.equal(ids, other_ids) or not same
    first = resumed(twin, LATER).attempts[0].number
    return all_of(
        equal("attempts on other samples", wrong, 0),
        equal(f"first attempt after step {LATER}", first, LATER + 1),
    )


def _resume(twin: Twin, folder: Path, changes: dict[str, Any]) -> str:
    """What becomes of resuming from a folder."""
    config = rehearsed(twin).config.updated(changes)
    objective = build(config)
    optimizer = build_optimizer(objective, config.optimizer)
    try:
        state: State = checkpoint.resume(folder, objective, optimizer, config)
    except LatentcastError as problem:
        return f"refused: {problem}".replace(str(folder), "RUN")
    return "resumed" if state.step == config.train.steps else f"starts over at {state.step}"


@claim("resume.other-configuration", "A run of another configuration is not gone on with, and the "
       "difference is named.", source="our design, law 6: nothing fails quietly")  # fmt: skip
def other_configuration(twin: Twin) -> Evidence:
    folder = rehearsed(twin).checkpoints
    other = _resume(twin, folder, {"optimizer.lr": 7e-4})
    return all_of(
        equal("the same configuration", _resume(twin, folder, {}), "resumed"),
        true("another lr is refused by its name",
             other.startswith("refused") and "optimizer.lr" in other),
        answer=other,
    )  # fmt: skip


@claim("resume.damage", "A damaged checkpoint is refused, and never means to start over.",
       source="I-JEPA swallows the error (specification 1.9)")  # fmt: skip
def damage(twin: Twin) -> Evidence:
    run, answers = rehearsed(twin), dict[str, str]()
    last = run.checkpoint(run.config.train.steps)
    for part in ("model", "optimizer"):
        copy = twin.folder / f"damaged-{part}"
        shutil.copytree(last, copy / last.name)
        (file,) = sorted(copy.rglob(f"{part}/*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-9] ^= 0x40  # a bit of the last number
        file.write_bytes(bytes(content))
        answers[part] = _resume(twin, copy, {})
    return all_of(
        *(true(f"a bit of {part} is found by its checksum", "checksum" in answer)
          for part, answer in answers.items()), **answers,
    )  # fmt: skip


@claim("resume.nothing-pickled", "A checkpoint is tensors and JSON, and no draft is left.",
       source="our design, law 6")  # fmt: skip
def nothing_pickled(twin: Twin) -> Evidence:
    folder = rehearsed(twin).checkpoint(LATER)
    kinds = {file.suffix for file in folder.rglob("*") if file.is_file()}
    return all_of(
        equal("files", ", ".join(sorted(kinds)), ".json, .safetensors"),
        equal("drafts", len(list(folder.parent.glob(".draft*"))), 0),
    )
