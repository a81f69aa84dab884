"""What a step does: its gradient, and the order of it all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentcast.batch import Batch, Inputs
from latentcast.engine import loop
from latentcast.engine.checkpoint import State, read_tensors
from latentcast.engine.context import Context
from latentcast.errors import LatentcastError
from latentcast.objectives.base import Objective
from latentcast.objectives.build import build
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
from latentcast.verification.formulas import rate_of
from latentcast.verification.observe.loop_recorder import Attempt, LoopRecord, Weights
from latentcast.verification.observe.rehearsal import (
    LATER,
    POISONED,
    accumulates,
    rehearse,
    rehearsed,
    revealing,
    short_run,
)
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 2: the engine owns the order"
BF16 = 2.0**-8
LIMIT = 1e-3
"""Of the gradient's norm in a run that clips every step."""
GRADIENT = 1e-4
"""Of a step's gradient in float32 from that in float64, relative."""
BESIDE = (3e-6, -3e-6)
"""Of the weights, by which they are moved to both sides: as far as float32 rounds activations."""


# The gradient


def exactly(run: LoopRecord, attempt: Attempt, moved: float = 0.0) -> tuple[float, Weights]:
    """Loss and gradient of an attempt's whole batch at once, in float64, from its own weights, or
    from ones ``moved`` by so much of themselves, in a direction that is always the same."""
    place = run.attempts.index(attempt)
    objective = build(run.config).double().train()
    objective.load_state_dict(run.attempts[place - 1].end if place else attempt.before)
    if moved:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in objective.parameters():
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.mul_(1 + moved * noise)
    valid = [one.valid for one in attempt.inputs if one.valid is not None]
    values = torch.cat([one.values for one in attempt.inputs]).double()
    inputs = Inputs(values, torch.cat(valid) if valid else None)
    draw = Draw(run.config.train.seed, attempt.number, torch.cat(attempt.ids))
    loss = objective(inputs, draw).loss
    loss.backward()
    return float(loss.detach()), _gradients(objective)


def size(gradients: Weights) -> float:
    """Euclidean norm of all together."""
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))


def apart(gradients: Weights, expected: Weights) -> float:
    """Norm of the difference over the norm of what was expected; names must agree."""
    if gradients.keys() != expected.keys():
        return math.inf
    gap = size({n: gradients[n].double() - expected[n].double() for n in gradients})
    return gap / size(expected)


def _gradients(objective: Objective) -> Weights:
    return {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}


@claim("loop.clipping", "The gradient of the mean loss is scaled down to the limit by its global "
       "norm, before the optimizer sees it, and the norm that is logged is the one before.",
       source=OURS)  # fmt: skip
def clipping(twin: Twin) -> Evidence:
    run = short_run(twin, "clipped", {"optimizer.clip_grad_norm": LIMIT}, 1)
    attempt = run.attempts[0]
    _, exact = exactly(run, attempt)
    raw = size(exact)
    clipped = {name: g * min(1.0, LIMIT / raw) for name, g in exact.items()}
    return all_of(
        at_most("relative error of the gradient", apart(attempt.gradients, clipped), 1e-4),
        at_most("relative error of the logged norm", abs(attempt.norm / raw - 1), 1e-4),
        norm_before=raw, norm_after=size(attempt.gradients), limit=LIMIT,
    )  # fmt: skip


@claim("loop.gradient", "The gradient of a step is that of the mean loss of its whole batch, "
       "however it was cut: neither a sum, nor divided twice; and that loss is the one that is "
       "logged.", source=OURS)  # fmt: skip
def gradient(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    worst = gap = 0.0
    for step in run.steps[: POISONED + 1]:  # the last of them follows a refused one
        loss, exact = exactly(run, step)
        error = apart(step.gradients, exact)
        if error > GRADIENT:
            # Where an activation is zero but for rounding, the gradient of a rectifier jumps; a
            # step may then have that of the other side, which lies within rounding of its weights.
            sides = [exactly(run, step, moved)[1] for moved in BESIDE]
            error = min(error, *(apart(step.gradients, side) for side in sides))
        worst = greatest(worst, error)
        gap = greatest(gap, abs(step.loss - loss) / max(1.0, abs(loss)))
    return all_of(
        at_most("relative error of the gradient", worst, GRADIENT),
        at_most("relative error of the logged loss", gap, 1e-5),
        micro_batches=len(run.attempts[0].ids), logged=step.loss, in_float64=loss,
        **{"length over that of the mean's": size(step.gradients) / size(exact)},
    )  # fmt: skip


@claim("loop.pieces", "Pieces of unequal length, with unequal numbers of measured patches, give "
       "the gradient of the batch in one piece.",
       source="specification, executable requirement 20", about=accumulates)  # fmt: skip
def pieces(twin: Twin) -> Evidence:
    """In float64; half of the first sample and a third of the last were not measured."""
    batch, inputs = twin.batch(), twin.inputs()
    values, valid = inputs.values.double(), torch.ones_like(inputs.values, dtype=torch.bool)
    valid[0, ..., : values.shape[-1] // 2] = False
    valid[-1, ..., -(values.shape[-1] // 3) :] = False
    values = torch.where(valid, values, 0)
    places = torch.arange(len(batch))

    def read(which: Tensor, draw: Draw | None) -> Inputs:
        # An image has no such part; its pieces differ in length alone.
        return Inputs(values[which], valid[which] if inputs.valid is not None else None)

    seed, context = twin.config.train.seed, Context(torch.device("cpu"), torch.float32)
    one_piece, cut = twin.objective().double(), twin.objective().double()
    expected = one_piece(read(places, None), Draw(seed, 0, batch.ids))
    expected.loss.backward()
    parts = [Batch(places[part], batch.ids[part]) for part in ([0, 1, 2], [3, 4], [5])]
    output = loop.accumulate(cut, read, parts, seed, State(), context)
    gap = apart(_gradients(cut), _gradients(one_piece))
    loss = abs(float(output.loss) - float(expected.loss.detach()))
    return all_of(
        at_most("relative error of the gradient", gap, 1e-9),
        at_most("difference of the loss", loss, 1e-9),
        pieces="3 + 2 + 1",
    )


# Order


@claim("loop.order", "A step begins without gradients, after a refused one too, and is k times "
       "forward and backward, then one optimizer step, then one average of the weights.",
       source="specification, executable requirement 18")  # fmt: skip
def order(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    step = ["forward", "backward"] * run.config.train.micro_batches + ["optimizer"]
    average = ["average"] if run.config.ema is not None else []
    wrong = [a for a in run.attempts if a.events != step + (average if a.counted else [])]
    return all_of(
        equal("attempts in another order", len(wrong), 0),
        equal("begun with old gradients", sum(attempt.stale for attempt in run.attempts), 0),
        of_a_step=" ".join((wrong or run.attempts)[0].events),
    )


@claim("loop.refused", "A batch whose gradient is not finite moves no weight, no moment and no "
       "schedule, and is counted.", source=OURS)  # fmt: skip
def refused(twin: Twin) -> Evidence:
    # First a run that ends there: where weights become NaN, the whole run has no end.
    config = revealing(twin)
    cut = rehearse(twin, config, {POISONED}, most=POISONED + 1).attempts[POISONED]
    moved = [n for n in cut.before if not torch.equal(cut.before[n], cut.end[n])]
    spoiled = [n for n in cut.end if not bool(cut.end[n].isfinite().all())]
    stayed = all_of(none("tensors moved", moved), none("not finite any more", spoiled))
    if not stayed.holds:
        return stayed
    run = rehearsed(twin)
    bad, following = run.attempts[POISONED], run.attempts[POISONED + 1]
    moments = read_tensors(run.checkpoint(LATER), "optimizer")
    updates = {int(value) for name, value in moments.items() if name.endswith("|step")}
    lr, scheduled = next(iter(following.rates.values())), rate_of(run.config, POISONED)
    return all_of(
        stayed,
        equal("counted as a step", bad.counted, False),
        equal(f"updates in the moments of step {LATER}", ", ".join(map(str, updates)), str(LATER)),
        true("moments finite", all(bool(value.isfinite().all()) for value in moments.values())),
        at_most("next rate, from its schedule", abs(lr - scheduled), 1e-15),
        equal("steps", run.state.step, run.config.train.steps),
        equal("skipped", run.state.skipped, 1),
        gradient_norm=bad.norm,
    )


@claim("loop.attempts", "Samples and draws of attempt n are those of n, in pieces as equal as can "
       "be, none lost where the batch does not divide; a refused batch is not met again.",
       source="our design, law 1; specification, executable requirement 20")  # fmt: skip
def attempts(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    batch = run.config.train.batch_size
    others = [
        n for n, attempt in enumerate(run.attempts)
        if attempt.number != n
        or torch.cat(attempt.ids).tolist() != list(range(n * batch, (n + 1) * batch))
    ]  # fmt: skip
    sizes = [len(ids) for ids in run.attempts[0].ids]
    return all_of(
        none("of other samples or draws", others),
        equal("pieces", len(sizes), run.config.train.micro_batches),
        at_most("difference of their lengths", max(sizes) - min(sizes), 1),
        attempts=len(run.attempts), lengths=" + ".join(map(str, sizes)), batch=batch,
    )  # fmt: skip


@claim("loop.gives-up", "Ten batches in a row whose gradients are not finite end the run with an "
       "error; nine do not.", source=OURS)  # fmt: skip
def gives_up(twin: Twin) -> Evidence:
    config, answers = revealing(twin).updated({"train.micro_batches": 1}), dict[int, str]()
    for bad in (9, 10):
        try:
            run = rehearse(twin, config, range(bad), most=12)
            answers[bad] = f"step {run.state.step}"
        except LatentcastError as problem:
            answers[bad] = str(problem)
    return all_of(
        true("ten", "10 times in a row" in answers[10]),
        true("nine", answers[9].startswith("step ")),
        after_ten=answers[10], after_nine=answers[9],
    )  # fmt: skip


@claim("loop.half-precision", "In bf16 the products are rounded; gradients, weights, moments and "
       "the loss stay in float32 and are those of float32 but for that.",
       source="Micikevicius et al. 2018: mixed precision training",
       about=lambda twin: twin.recipe.train.precision == "bf16")  # fmt: skip
def half_precision(twin: Twin) -> Evidence:
    """Two attempts in each precision, the first of them compared."""
    half, full = (
        short_run(twin, f"in {name}", {"train.precision": name}, most=2).attempts[0]
        for name in ("bf16", "fp32")
    )
    tensors = {**half.gradients, **half.end}
    gap = abs(half.loss - full.loss) / max(1.0, abs(full.loss))
    return all_of(
        none("not in float32", [n for n, t in tensors.items()
                                if t.is_floating_point() and t.dtype is not torch.float32]),
        true("the loss has more digits than bf16", float(torch.tensor(half.loss).bfloat16())
             != half.loss),
        at_most("difference of the loss", gap, BF16),
        at_most("of the gradient, relative", apart(half.gradients, full.gradients), 0.25),
        above("of the gradient", apart(half.gradients, full.gradients), 1e-5),
        loss=half.loss, in_float32=full.loss,
    )  # fmt: skip
