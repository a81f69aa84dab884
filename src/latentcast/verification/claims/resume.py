"""A run that is interrupted ends where it would have ended, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import State, read_tensors
from latentcast.engine.optimizer import adamw
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.formulas import decay_of, rate_of
from latentcast.verification.observe.rehearsal import (
    EARLIER,
    LATER,
    POISONED,
    Attempt,
    Rehearsal,
    rehearsed,
    resumed,
)
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 1: the state is the step"
REQUIRED = "specification, executable requirement 21"


def _at(run: Rehearsal, step: int) -> Path:
    found = _all_at(run, step)
    if not found:
        raise LookupError(f"there is no checkpoint of step {step}")
    return found[0]


def _all_at(run: Rehearsal, step: int) -> list[Path]:
    return [one for one in run.checkpoints if one.name.endswith(f"{step:08d}")]


def _optimizer(run: Rehearsal, step: int) -> dict[str, Tensor]:
    """Moments as they were saved; none where the run came to no such step."""
    return read_tensors(_at(run, step), "optimizer") if _all_at(run, step) else {}


def _following(run: Rehearsal, attempt: int) -> list[Attempt]:
    return run.attempts[attempt:]


def _same(subject: Subject, step: int, until: int) -> Evidence:
    """Resumed from the checkpoint of ``step``, held against the run that went through."""
    whole, again = rehearsed(subject), resumed(subject, step)
    begin = step if step <= POISONED else step + 1  # one attempt was no step
    ours = _following(whole, begin)[: len(again.attempts)]
    weights = losses = 0
    for a, b in zip(ours, again.attempts, strict=False):  # one may go on for too long
        weights += sum(not torch.equal(a.end[name], b.end[name]) for name in a.end)
        losses += a.counted and a.loss != b.loss
    one, other = (_optimizer(run, until) for run in (whole, again))
    moments = len(one.keys() ^ other.keys())
    moments += sum(not torch.equal(one[name], other[name]) for name in one.keys() & other.keys())
    told: dict[str, Number] = {
        "resumed at": step, "until": until, "attempts": len(again.attempts),
        "of the uninterrupted": len(ours), "tensors that differ": weights,
        "losses that differ": losses, "moments that differ": moments,
    }  # fmt: skip
    alike = not (weights or losses or moments) and len(ours) == len(again.attempts)
    return Evidence(alike and len(again.counted) > 1, told)


def _exact(subject: Subject) -> Evidence:
    return _same(subject, EARLIER, LATER)


def _skipped(subject: Subject) -> Evidence:
    whole, again = rehearsed(subject), resumed(subject, LATER)
    found = _same(subject, LATER, whole.config.train.steps)
    states = [(run.state.step, run.state.skipped) for run in (whole, again)]
    told: dict[str, Number] = {
        **found.numbers,
        "skipped, uninterrupted": states[0][1],
        "resumed": states[1][1],
    }
    return Evidence(found.holds and states[0] == states[1] and states[0][1] == 1, told)


def _moments(subject: Subject) -> Evidence:
    """Against moments made anew, in float64, from the gradients that the optimizer saw."""
    run = rehearsed(subject)
    kept = read_tensors(_at(run, LATER), "optimizer")
    betas = run.config.optimizer.betas
    worst, wanted = 0.0, set(run.attempts[0].gradients)
    for name in wanted:
        mean = square = torch.zeros(())
        for attempt in run.counted[:LATER]:
            g = attempt.gradients[name].double()
            mean = betas[0] * mean + (1 - betas[0]) * g
            square = betas[1] * square + (1 - betas[1]) * g * g
        for moment, expected in (("exp_avg", mean), ("exp_avg_sq", square)):
            worst = max(worst, _apart(kept.get(f"{name}|{moment}"), expected))
    held = {name.rpartition("|")[0] for name in kept}
    told: dict[str, Number] = {
        "parameters": len(wanted), "with moments": len(held & wanted),
        "largest relative difference": worst, "bound": 1e-4,
    }  # fmt: skip
    return Evidence(worst <= 1e-4 and held == wanted, told)


def _apart(found: Tensor | None, expected: Tensor) -> float:
    if found is None or found.shape != expected.shape:
        return float("inf")
    scale = float(expected.norm())
    return float((found.double() - expected).norm()) / scale if scale else 0.0


def _holds(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    wrong, count = list[str](), 0
    for step in (EARLIER, LATER):
        kept, live = read_tensors(_at(run, step), "model"), run.counted[step - 1].end
        wrong += sorted(kept.keys() ^ live.keys())
        wrong += [n for n in kept.keys() & live.keys() if not torch.equal(kept[n], live[n])]
        count = len(kept)
    told: dict[str, Number] = {
        "tensors": count, "of the teacher": sum(n.startswith("teacher.") for n in live),
        "wrong": ", ".join(wrong[:3]) or "none",
    }  # fmt: skip
    return Evidence(not wrong, told)


def _schedules(subject: Subject) -> Evidence:
    run, worst = resumed(subject, LATER), 0.0
    seen = list[float]()
    for n, attempt in enumerate(run.counted):
        rate, decay = max(attempt.rates.values()), max(attempt.decays.values())
        worst = max(worst, abs(rate - rate_of(run.config, LATER + n)) / run.config.optimizer.lr)
        worst = max(worst, abs(decay - decay_of(run.config, LATER + n)))
        seen.append(rate)
    told: dict[str, Number] = {
        "first rate": seen[0], "its schedule": rate_of(run.config, LATER),
        "largest difference": worst, "bound": 1e-12,
    }  # fmt: skip
    return Evidence(worst <= 1e-12, told)


def _data(subject: Subject) -> Evidence:
    """Ids and, since equal ids could stand for other samples, the samples."""
    whole, wrong = rehearsed(subject), 0
    for step, begin in ((EARLIER, EARLIER), (LATER, LATER + 1)):
        again = resumed(subject, step)
        for a, b in zip(whole.attempts[begin:], again.attempts, strict=False):
            one, other = (torch.cat(attempt.ids) for attempt in (a, b))
            seen, met = (torch.cat([i.values for i in x.inputs]) for x in (a, b))
            equal = torch.equal(seen.nan_to_num(7), met.nan_to_num(7))
            wrong += a.number != b.number or not torch.equal(one, other) or not equal
    first = resumed(subject, LATER).attempts[0]
    told: dict[str, Number] = {
        "first attempt after step 4": first.number, "expected": LATER + 1,
        "attempts on other samples": wrong,
    }  # fmt: skip
    return Evidence(not wrong and first.number == LATER + 1, told)


def _refused(subject: Subject, folder: Path, changes: dict[str, float]) -> str | None:
    """What resuming from a folder says; None when it goes on."""
    config = rehearsed(subject).config.updated(changes)
    objective = build(config)
    try:
        state: State = checkpoint.resume(
            folder, objective, adamw(objective, config.optimizer), config
        )
    except LatentcastError as problem:
        return str(problem)
    return f"starts over at step {state.step}" if state.step != config.train.steps else None


def _other(subject: Subject) -> Evidence:
    folder = rehearsed(subject).folder / "checkpoints"
    same = _refused(subject, folder, {})
    other = _refused(subject, folder, {"optimizer.lr": 7e-4})
    told: dict[str, Number] = {
        "the same configuration": same or "goes on",
        "another lr": (other or "goes on").replace(str(folder), "RUN"),
    }  # fmt: skip
    return Evidence(same is None and other is not None and "optimizer.lr" in other, told)


def _damaged(subject: Subject) -> Evidence:
    said: dict[str, str] = {}
    for what in ("model", "optimizer"):
        copy = subject.folder / f"damaged-{what}"
        shutil.copytree(_at(rehearsed(subject), rehearsed(subject).config.train.steps),
                        copy / f"step-{rehearsed(subject).config.train.steps:08d}")  # fmt: skip
        (file,) = sorted(copy.rglob(f"{what}/*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-9] ^= 0x40  # a bit of the last number
        file.write_bytes(bytes(content))
        said[what] = (_refused(subject, copy, {}) or "goes on").replace(str(copy), "RUN")
    named = all("checksum" in words for words in said.values())
    return Evidence(named, {f"a bit of {what} flipped": words for what, words in said.items()})


def _files(subject: Subject) -> Evidence:
    kept = _at(rehearsed(subject), LATER)
    kinds = {file.suffix for file in kept.rglob("*") if file.is_file()}
    told: dict[str, Number] = {
        "files": ", ".join(sorted(kinds)),
        "drafts": len(list(kept.parent.glob(".draft*"))),
    }
    return Evidence(kinds == {".safetensors", ".json"} and not told["drafts"], told)


CLAIMS: tuple[Claim, ...] = (
    Claim("resume.bit-exact", "A run that was killed and resumed, with everything made anew, goes "
          "through the same bits: weights, teacher, moments, losses.", REQUIRED, _exact),
    Claim("resume.after-skip", "So does one that had skipped a step before.", REQUIRED, _skipped),
    Claim("resume.moments", "A checkpoint holds the optimizer's moments of every parameter.",
          OURS, _moments),
    Claim("resume.weights", "A checkpoint holds the weights of its step, the teacher's after its "
          "average.", OURS, _holds),
    Claim("resume.schedules", "Rate and decay go on at the step where the run stands.",
          "specification, D6: the step was saved and never restored", _schedules),
    Claim("resume.data", "After a resume come the samples that would have come.", REQUIRED, _data),
    Claim("resume.other-configuration", "A run of another configuration is not gone on with, and "
          "the difference is named.", "our design, law 6: nothing fails quietly", _other),
    Claim("resume.damage", "A damaged checkpoint is told, and never means to start over.",
          "I-JEPA swallows the error (specification 1.9)", _damaged),
    Claim("resume.nothing-pickled", "A checkpoint is tensors and JSON, and no draft is left.",
          "our design, law 6", _files),
)  # fmt: skip
