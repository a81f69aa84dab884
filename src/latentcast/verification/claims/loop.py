"""What a step does: schedules, gradient, optimizer, and the order of it all."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor, nn

from latentcast.batch import Batch, Inputs
from latentcast.engine import loop
from latentcast.engine.checkpoint import State, read_tensors
from latentcast.engine.context import Context
from latentcast.engine.schedules import Schedules
from latentcast.objectives.base import Objective
from latentcast.objectives.build import build
from latentcast.objectives.nepa import NepaConfig
from latentcast.randomness import Draw
from latentcast.verification.claim import Claim, Evidence, Number, below
from latentcast.verification.formulas import decay_of, rate_of
from latentcast.verification.observe.rehearsal import (
    LATER,
    POISONED,
    Attempt,
    Rehearsal,
    accumulates,
    rehearse,
    rehearsed,
    revealing,
    swift,
)
from latentcast.verification.observe.twin import Subject, Weights

OURS = "our design, law 2: the engine owns the order"
IJEPA = "I-JEPA, train.py and utils/schedulers.py (specification 1.7)"
FLOAT = 2.0**-23
LIMIT = 1e-3
"""Of the gradient's norm in a run that clips every step."""


# Schedules, as they are meant, written out


def undecayed(objective: Objective) -> set[str]:
    """Biases, norms, gains and CLS, told by the modules that hold them."""
    found = set()
    for place, module in objective.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            alone = isinstance(module, nn.LayerNorm) or parameter.numel() == parameter.shape[-1]
            if name in ("bias", "cls", "gain") or (alone and name != "mask_token"):
                found.add(f"{place}.{name}".removeprefix("."))
    return found


def _rate(subject: Subject) -> Evidence:
    worst, first = 0.0, float("nan")
    run, revealing = subject.trained(), rehearsed(subject)
    seen = [(run.config, n, step.rates) for n, step in enumerate(run.steps)]
    seen += [(revealing.config, n, a.rates) for n, a in enumerate(revealing.counted)]
    for config, n, rates in seen:
        expected = rate_of(config, n)
        for rate in rates.values():
            worst = max(worst, abs(rate - expected) / config.optimizer.lr)
        first = next(iter(rates.values())) if n == 0 else first
    told: dict[str, Number] = {
        "first update": first, "its schedule": rate_of(revealing.config, 0),
        "steps": len(seen), "largest difference, of the peak": worst, "bound": 1e-12,
    }  # fmt: skip
    every = run.config.train.steps + revealing.config.train.steps
    return Evidence(len(seen) == every and worst <= 1e-12, told)


def _decay(subject: Subject) -> Evidence:
    worst, measured = 0.0, list[float]()
    run, revealing = subject.trained(), rehearsed(subject)
    seen = [(run.config, n, step.decays) for n, step in enumerate(run.steps)]
    seen += [(revealing.config, n, a.decays) for n, a in enumerate(revealing.counted)]
    for config, n, decays in seen:
        used = max(decays.values())
        worst = max(worst, abs(used - decay_of(config, n)))
        measured.append(used)
    told: dict[str, Number] = {
        "first": measured[len(run.steps)], "last": measured[-1],
        "scheduled last": decay_of(revealing.config, revealing.config.train.steps - 1),
        "largest difference": worst, "bound": 1e-12,
    }  # fmt: skip
    return Evidence(worst <= 1e-12, told)


def _groups(subject: Subject) -> Evidence:
    run = subject.trained()
    alone = undecayed(run.objective)
    wrong = [n for n, decay in run.steps[-1].decays.items() if (decay == 0) != (n in alone)]
    told: dict[str, Number] = {
        "decayed": len(run.steps[-1].decays) - len(alone & set(run.steps[-1].decays)),
        "not decayed": len(alone & set(run.steps[-1].decays)),
        "wrong": ", ".join(wrong[:4]) or "none",
    }  # fmt: skip
    return Evidence(not wrong and bool(run.steps), told)


def _stays(subject: Subject) -> Evidence:
    config = rehearsed(subject).config
    schedules, end = Schedules.of(config), config.train.steps
    worst = max(
        max(abs(schedules.lr(n) - config.optimizer.final_lr) / config.optimizer.lr,
            abs(schedules.weight_decay(n) - decay_of(config, end)))
        for n in (end, end + 1, 2 * end, 10 * end)
    )  # fmt: skip
    return below(worst, 1e-12, "largest distance from the end beyond it")


# The optimizer


def _once(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    objective = run.objective
    teacher, fixed = set[int](), run.config.objective
    if objective.encoder("teacher") is not objective.encoder("student"):
        teacher = {id(p) for p in objective.encoder("teacher").parameters()}
    wanted = {n for n, p in objective.named_parameters() if id(p) not in teacher}
    if isinstance(fixed, NepaConfig) and fixed.patch_embedding == "fixed":
        wanted = {n for n in wanted if ".patches." not in n}
    held = Counter(run.attempts[0].held)
    absent = sorted(wanted - set(held))
    twice = [name for name, count in held.items() if count > 1]
    strange = sorted(set(held) - wanted)
    told: dict[str, Number] = {
        "parameters": len(wanted), "absent": ", ".join(absent[:3]) or "none",
        "held twice": ", ".join(twice[:3]) or "none",
        "not to be trained": ", ".join(strange[:3]) or "none",
    }  # fmt: skip
    return Evidence(not (absent or twice or strange), told)


def _adamw(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    (first, second), eps = run.config.optimizer.betas, run.config.optimizer.eps
    means: Weights = {}
    squares: Weights = {}
    worst = 0.0
    for n, attempt in enumerate(run.counted):
        for name, gradient in attempt.gradients.items():
            g, p = gradient.double(), attempt.before[name].double()
            means[name] = first * means.get(name, torch.zeros_like(g)) + (1 - first) * g
            squares[name] = second * squares.get(name, torch.zeros_like(g)) + (1 - second) * g * g
            mean = means[name] / (1 - first ** (n + 1))
            root = (squares[name] / (1 - second ** (n + 1))).sqrt()
            rate = attempt.rates[name]
            expected = p - rate * attempt.decays[name] * p - rate * mean / (root + eps)
            allowed = 1e-4 * rate + 4 * FLOAT * p.abs()
            worst = max(worst, float(((attempt.after[name] - expected).abs() / allowed).max()))
    told: dict[str, Number] = {
        "updates": len(run.counted), "largest difference, of what rounding allows": worst,
        "bound": 1.0,
    }  # fmt: skip
    return Evidence(worst <= 1 and len(run.counted) > 1, told)


def _clipping(subject: Subject) -> Evidence:
    run = swift(subject, "clipped", {"optimizer.clip_grad_norm": LIMIT}, 1)
    attempt = run.attempts[0]
    _, exact = exactly(run, attempt)
    raw = size(exact)
    clipped = {name: g * min(1.0, LIMIT / raw) for name, g in exact.items()}
    error = apart(attempt.gradients, clipped)
    told: dict[str, Number] = {
        "norm before": raw, "norm told": attempt.norm, "norm stepped with":
        size(attempt.gradients), "limit": LIMIT, "relative error": error, "bound": 1e-4,
    }  # fmt: skip
    return Evidence(error <= 1e-4 and abs(attempt.norm / raw - 1) <= 1e-4, told)


# The gradient


def exactly(run: Rehearsal, attempt: Attempt) -> tuple[float, Weights]:
    """Loss and gradient of an attempt's whole batch at once, in float64, from its own weights."""
    place = run.attempts.index(attempt)
    objective = build(run.config).double().train()
    objective.load_state_dict(run.attempts[place - 1].end if place else attempt.before)
    whole = [one.valid for one in attempt.inputs if one.valid is not None]
    values = torch.cat([one.values for one in attempt.inputs]).double()
    inputs = Inputs(values, torch.cat(whole) if whole else None)
    draw = Draw(run.config.train.seed, attempt.number, torch.cat(attempt.ids))
    loss = objective(inputs, draw).loss
    loss.backward()
    found = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def size(gradients: Weights) -> float:
    """Euclidean norm of all together."""
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))


def apart(found: Weights, expected: Weights) -> float:
    """Norm of the difference over the norm of what was expected; names must agree."""
    if found.keys() != expected.keys():
        return math.inf
    return size({n: found[n].double() - expected[n].double() for n in found}) / size(expected)


def _gradient(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    worst, ratio = 0.0, float("nan")
    for attempt in run.counted[: POISONED + 1]:  # the last of them follows a refused one
        _, exact = exactly(run, attempt)
        worst = max(worst, apart(attempt.gradients, exact))
        ratio = size(attempt.gradients) / size(exact)
    told: dict[str, Number] = {
        "micro-batches": len(run.attempts[0].ids), "length over that of the mean's": ratio,
        "relative error": worst, "bound": 1e-4,
    }  # fmt: skip
    return Evidence(worst <= 1e-4, told)


def _loss(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    exact, _ = exactly(run, run.attempts[0])
    found = run.attempts[0].loss
    told: dict[str, Number] = {
        "logged": found,
        "of the whole batch, in float64": exact,
        "bound": 1e-5,
    }
    return Evidence(abs(found - exact) <= 1e-5 * max(1.0, abs(exact)), told)


def _pieces(subject: Subject) -> Evidence:
    """Pieces of unequal length and of unequal parts that count, in float64."""
    batch, inputs = subject.batch(), subject.inputs()
    values, valid = inputs.values.double(), torch.ones_like(inputs.values, dtype=torch.bool)
    # What was not measured: half of the first sample, a third of the last.
    valid[0, ..., : values.shape[-1] // 2] = False
    valid[-1, ..., -(values.shape[-1] // 3) :] = False
    values = torch.where(valid, values, 0)
    if inputs.valid is None:  # an image has no such part; its pieces differ in length alone
        valid = torch.ones_like(valid)
    places = torch.arange(len(batch))

    def read(which: Tensor, draw: Draw | None) -> Inputs:
        return Inputs(values[which], valid[which] if inputs.valid is not None else None)

    seed, context = subject.config.train.seed, Context(torch.device("cpu"), torch.float32)
    whole, cut = subject.objective().double(), subject.objective().double()
    expected = whole(read(places, None), Draw(seed, 0, batch.ids))
    expected.loss.backward()
    pieces = [Batch(places[part], batch.ids[part]) for part in ([0, 1, 2], [3, 4], [5])]
    found = loop.accumulate(cut, read, pieces, seed, State(), context)
    error = apart(_gradients(cut), _gradients(whole))
    loss = abs(float(found.loss) - float(expected.loss.detach()))
    told: dict[str, Number] = {
        "pieces": "3 + 2 + 1", "relative error of the gradient": error,
        "difference of the loss": loss, "bound": 1e-9,
    }  # fmt: skip
    return Evidence(max(error, loss) <= 1e-9, told)


def _gradients(objective: Objective) -> Weights:
    return {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}


def _short(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    batch = run.config.train.batch_size
    sizes = [len(ids) for ids in run.attempts[0].ids]
    met = [sum(len(ids) for ids in attempt.ids) for attempt in run.attempts]
    told: dict[str, Number] = {"pieces": " + ".join(map(str, sizes)), "batch": batch}
    uneven = max(sizes) - min(sizes) <= 1 and len(sizes) == run.config.train.micro_batches
    return Evidence(uneven and all(count == batch for count in met), told)


# Order


def _order(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    config = run.config
    whole = ["forward", "backward"] * config.train.micro_batches + ["optimizer"]
    moved = ["average"] if config.ema is not None else []
    wrong = [a for a in run.attempts if a.events != whole + (moved if a.counted else [])]
    shown = (wrong or run.attempts)[0].events
    told: dict[str, Number] = {
        "of a step": " ".join(shown),
        "attempts in another order": len(wrong),
    }
    return Evidence(not wrong, told)


def _zeroed(subject: Subject) -> Evidence:
    attempts = rehearsed(subject).attempts
    stale = sum(attempt.stale for attempt in attempts)
    return Evidence(not stale, {"attempts": len(attempts), "begun with old gradients": stale})


def _refused(subject: Subject) -> Evidence:
    # First a run that ends there: where weights become NaN, the whole run has no end.
    config, until = revealing(subject), POISONED + 1
    cut = rehearse(subject, config, {POISONED}, attempts=until).attempts[POISONED]
    moved = sum(not torch.equal(cut.before[n], cut.end[n]) for n in cut.before)
    if moved:
        spoiled = sum(not bool(cut.end[n].isfinite().all()) for n in cut.end)
        return Evidence(False, {"tensors moved": moved, "not finite any more": spoiled})
    run = rehearsed(subject)
    bad, following = run.attempts[POISONED], run.attempts[POISONED + 1]
    (kept,) = (one for one in run.checkpoints if one.name.endswith(f"{LATER:08d}"))
    moments = read_tensors(kept, "optimizer")
    counts = {int(value) for name, value in moments.items() if name.endswith("|step")}
    finite = all(bool(value.isfinite().all()) for value in moments.values())
    rate = next(iter(following.rates.values()))
    expected = rate_of(run.config, POISONED)
    told: dict[str, Number] = {
        "gradient norm": bad.norm, "counted": bad.counted, "tensors moved": moved,
        "updates in the moments of step 4": ", ".join(map(str, sorted(counts))),
        "moments finite": finite, "next rate": rate, "its schedule": expected,
        "steps": run.state.step, "skipped": run.state.skipped,
    }  # fmt: skip
    stayed = not moved and counts == {LATER} and finite and abs(rate - expected) <= 1e-15
    told_of = (run.state.step, run.state.skipped) == (run.config.train.steps, 1)
    return Evidence(not bad.counted and stayed and told_of, told)


def _attempts(subject: Subject) -> Evidence:
    run = rehearsed(subject)
    batch = run.config.train.batch_size
    wrong = [
        n for n, attempt in enumerate(run.attempts)
        if attempt.number != n
        or torch.cat(attempt.ids).tolist() != list(range(n * batch, (n + 1) * batch))
    ]  # fmt: skip
    told: dict[str, Number] = {
        "attempts": len(run.attempts),
        "of other samples or draws": len(wrong),
    }
    return Evidence(not wrong, told)


CLAIMS: tuple[Claim, ...] = (
    Claim("loop.rate",
          "The learning rate that moves each parameter at step n is the schedule at n, from the "
          "first step on: linear warm-up counted from one, then half a cosine to the end.",
          IJEPA, _rate),
    Claim("loop.decay", "The weight decay used at step n is the schedule at n: half a cosine over "
          "the run, or constant where the recipe says so.", IJEPA, _decay),
    Claim("loop.decay-groups", "Biases, norms, gains and CLS are not decayed; all else is.",
          "I-JEPA, helper.py; NEPA, run_nepa.py", _groups),
    Claim("loop.stays-at-the-end",
          "Beyond its last step a schedule stays at its end and does not turn back.",
          "specification, executable requirement 19", _stays),
    Claim("loop.every-parameter-once",
          "The optimizer holds every parameter that is trained, once, and no other.", OURS, _once),
    Claim("loop.adamw", "An update is AdamW's, decay decoupled, with the recipe's betas.",
          "Loshchilov & Hutter 2019, algorithm 2", _adamw),
    Claim("loop.clipping", "The gradient of the mean loss is scaled down to the limit by its "
          "global norm, before the optimizer sees it, and the norm that is told is the one before.",
          OURS, _clipping),
    Claim("loop.gradient", "The gradient of a step is that of the mean loss of its whole batch, "
          "however it was cut: neither a sum, nor divided twice.", OURS, _gradient),
    Claim("loop.loss", "The loss that is told is that of the whole batch.", OURS, _loss),
    Claim("loop.pieces", "Pieces of unequal length, with unequal numbers of measured patches, give "
          "the gradient of the batch in one piece.", "specification, executable requirement 20",
          _pieces, accumulates),
    Claim("loop.short-piece", "A batch that does not divide into its pieces loses no sample.",
          "specification, executable requirement 20", _short),
    Claim("loop.order", "A step is k times forward and backward, then one optimizer step, then one "
          "average of the weights.", "specification, executable requirement 18", _order),
    Claim("loop.zeroed", "Each attempt begins without gradients, after a refused one too.",
          OURS, _zeroed),
    Claim("loop.refused", "A batch whose gradient is not finite moves no weight, no moment and no "
          "schedule, and is counted.", OURS, _refused),
    Claim("loop.attempts", "Samples and draws of attempt n are those of n; a refused batch is not "
          "met again.", "our design, law 1: the state is the step", _attempts),
)  # fmt: skip
