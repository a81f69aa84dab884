"""What a step does: schedules, gradient, optimizer, and the order of it all."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor, nn

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine import loop
from latentcast.engine.checkpoint import State, read_tensors
from latentcast.engine.context import Context
from latentcast.engine.optimizer import matrices_of
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.nn.positions import LeadEmbedding
from latentcast.nn.state_space import Modes
from latentcast.objectives.base import Objective
from latentcast.objectives.build import build
from latentcast.objectives.nepa import NepaConfig
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
from latentcast.verification.formulas import decay_of, muon_scale, rate_of
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
IJEPA = "I-JEPA, train.py and utils/schedulers.py (specification 1.7)"
EXACT = 1e-12
"""Of a schedule: float64 against float64."""
FLOAT = 2.0**-23
BF16 = 2.0**-8
LIMIT = 1e-3
"""Of the gradient's norm in a run that clips every step."""
GRADIENT = 1e-4
"""Of a step's gradient in float32 from that in float64, relative."""
BESIDE = (3e-6, -3e-6)
"""Of the weights, by which they are moved to both sides: as far as float32 rounds activations."""


# Schedules


def _scheduled(twin: Twin) -> list[tuple[LoopRecord, int, Attempt]]:
    """Each step of a run with the recipe's numbers and of one with revealing ones."""
    runs = (twin.trained(), rehearsed(twin))
    return [(run, n, step) for run in runs for n, step in enumerate(run.steps)]


@claim("loop.rate", "The learning rate that moves each parameter at step n is the schedule at n, "
       "from the first step on: linear warm-up counted from one, then half a cosine to the end; "
       "a tenth of it for the dynamics of a state space, Muon's for the matrices that it moves.",
       source=IJEPA)  # fmt: skip
def rate(twin: Twin) -> Evidence:
    steps, run = _scheduled(twin), rehearsed(twin)
    slow, matrices = _dynamics(run.objective), _by_muon(run)

    def scale(config: Config, name: str) -> float:
        return 0.1 if name in slow else muon_scale(config) if name in matrices else 1.0

    worst = greatest(
        *(
            abs(rate - rate_of(run.config, n) * scale(run.config, name)) / run.config.optimizer.lr
            for run, n, step in steps
            for name, rate in step.rates.items()
        )
    )
    return all_of(
        at_most("largest difference, of the peak", worst, EXACT),
        equal("steps", len(steps), sum(r.config.train.steps for r in (twin.trained(), run))),
        first_update=next(iter(run.steps[0].rates.values())), its_schedule=rate_of(run.config, 0),
    )  # fmt: skip


@claim("loop.decay", "The weight decay used at step n is the schedule at n: half a cosine over "
       "the run, or constant where the recipe says so.", source=IJEPA)  # fmt: skip
def decay(twin: Twin) -> Evidence:
    used = [(max(step.decays.values()), decay_of(r.config, n)) for r, n, step in _scheduled(twin)]
    worst = greatest(*(abs(measured - expected) for measured, expected in used))
    return all_of(
        at_most("largest difference", worst, EXACT), last=used[-1][0], scheduled_last=used[-1][1]
    )


@claim("loop.decay-groups", "Biases, norms, gains, CLS, the vectors of leads and the dynamics of a "
       "state space are not decayed; all else is.",
       source="I-JEPA, helper.py; NEPA, run_nepa.py; S4D (Gu et al. 2022)")  # fmt: skip
def decay_groups(twin: Twin) -> Evidence:
    run = twin.trained()
    alone, decays = undecayed(run.objective), run.steps[-1].decays
    return all_of(
        none("wrong", [name for name, own in decays.items() if (own == 0) != (name in alone)]),
        decayed=len(decays.keys() - alone),
        not_decayed=len(alone & decays.keys()),
    )


def _dynamics(objective: Objective) -> set[str]:
    """Time steps, decays and frequencies of all state spaces."""
    places = [place for place, m in objective.named_modules() if isinstance(m, Modes)]
    return {f"{p}.{name}" for p in places for name in ("log_step", "log_decay", "frequency")}


def undecayed(objective: Objective) -> set[str]:
    """Biases, norms, gains, CLS, vectors of leads and dynamics, by the modules that have them."""
    found = _dynamics(objective)
    for place, module in objective.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            alone = (
                isinstance(module, nn.LayerNorm | LeadEmbedding)
                or parameter.numel() == parameter.shape[-1]
            )
            if name in ("bias", "cls", "gain") or (alone and name != "mask_token"):
                found.add(f"{place}.{name}".removeprefix("."))
    return found


@claim("loop.stays-at-the-end", "Beyond its last step a schedule stays at its end and does not "
       "turn back, the momentum's too.",
       source="specification, executable requirements 17 and 19")  # fmt: skip
def stays_at_the_end(twin: Twin) -> Evidence:
    config = rehearsed(twin).config
    schedules, end = Schedules.of(config), config.train.steps
    beyond = (end, end + 1, 2 * end, 10 * end)
    final, peak = config.optimizer.final_lr, config.optimizer.lr
    parts = [
        at_most("rate, of the peak",
                greatest(*(abs(schedules.lr(n) - final) for n in beyond)) / peak, EXACT),
        at_most("decay", greatest(*(abs(schedules.weight_decay(n) - decay_of(config, end))
                             for n in beyond)), EXACT),
    ]  # fmt: skip
    if config.ema is not None:
        last = config.ema.final
        assert last is not None
        gap = greatest(*(abs(schedules.momentum(n) - last) for n in beyond))
        parts.append(at_most("momentum", gap, EXACT))
    return all_of(*parts)


# The optimizer


@claim("loop.every-parameter-once", "The optimizer has every parameter that is trained, once, and "
       "no other.", source=OURS)  # fmt: skip
def every_parameter_once(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    objective, kind = run.objective, run.config.objective
    teacher = set[int]()
    if objective.encoder("teacher") is not objective.encoder("student"):
        teacher = {id(p) for p in objective.encoder("teacher").parameters()}
    trained = {n for n, p in objective.named_parameters() if id(p) not in teacher}
    if isinstance(kind, NepaConfig) and kind.patch_embedding == "fixed":
        trained = {n for n in trained if ".patches." not in n}
    counts = Counter(run.attempts[0].in_optimizer)
    return all_of(
        none("absent", sorted(trained - set(counts))),
        none("there twice", [name for name, count in counts.items() if count > 1]),
        none("not to be trained", sorted(set(counts) - trained)),
        parameters=len(trained),
    )


def _by_muon(run: LoopRecord) -> frozenset[str]:
    return matrices_of(run.objective) if run.config.optimizer.muon else frozenset()


@claim("loop.adamw", "An update is AdamW's, decay decoupled, with the recipe's betas.",
       source="Loshchilov & Hutter 2019, algorithm 2")  # fmt: skip
def adamw(twin: Twin) -> Evidence:
    run = rehearsed(twin)
    (first, second), eps = run.config.optimizer.betas, run.config.optimizer.eps
    matrices = _by_muon(run)  # of the claim loop.muon
    means: Weights = {}
    squares: Weights = {}
    worst = 0.0
    for n, step in enumerate(run.steps):
        for name in step.gradients.keys() - matrices:
            gradient = step.gradients[name]
            g, p = gradient.double(), step.before[name].double()
            means[name] = first * means.get(name, torch.zeros_like(g)) + (1 - first) * g
            squares[name] = second * squares.get(name, torch.zeros_like(g)) + (1 - second) * g * g
            mean = means[name] / (1 - first ** (n + 1))
            root = (squares[name] / (1 - second ** (n + 1))).sqrt()
            lr = step.rates[name]
            expected = p - lr * step.decays[name] * p - lr * mean / (root + eps)
            allowed = 1e-4 * lr + 4 * FLOAT * p.abs()
            gap = float(((step.after[name] - expected).abs() / allowed).max())
            worst = math.inf if math.isnan(gap) else max(worst, gap)
    return all_of(
        at_most("largest difference, of what rounding allows", worst, 1.0),
        equal("updates", len(run.steps), run.config.train.steps),
    )


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
