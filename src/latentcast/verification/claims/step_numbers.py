"""Numbers of a step by themselves: schedules, loss scale, logged means, the average's distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentcast.engine.checkpoint import State
from latentcast.engine.ema import Ema
from latentcast.engine.loop import first_scale, gradient_norm, join, next_scale
from latentcast.engine.ranks import ALONE
from latentcast.engine.schedules import Cosine, EmaSchedule, Schedules, WarmupCosine
from latentcast.objectives.base import Output, View
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, none, true
from latentcast.verification.formulas import decay_of, momentum_of, rate_of
from latentcast.verification.observe.config import has_linear_patches
from latentcast.verification.observe.jepa import noise
from latentcast.verification.observe.refusals import refusals
from latentcast.verification.observe.rehearsal import rehearse, revealing
from latentcast.verification.observe.twin import Twin

IJEPA = "I-JEPA, train.py and utils/schedulers.py (specification 1.6, 1.7)"
OURS = "our design, law 2: the engine owns the order"
EXACT = 1e-12


@claim(
    "ema.epochs",
    "A momentum that is given in epochs is I-JEPA's generator: base + i · (final − "
    "base) / (epochs · steps of an epoch), after a warm-up in epochs, and then stays.",
    source=IJEPA,
)
def epochs(twin: Twin) -> Evidence:
    """Counted up a step at a time, for runs of every shape; beyond the end, too."""
    worst = 0.0
    for base, final, number, steps, warm in (
        (0.996, 1.0, 300, 7, 0), (0.5, 0.9, 3, 5, 1), (0.2, 0.9, 1, 1, 0), (0.9, 0.1, 4, 6, 4),
        (0.996, 1.0, 600, 5, 0), (0.3, 0.7, 2, 9, 3),
    ):  # fmt: skip
        schedule, moved = EmaSchedule(base, final, number, steps, warm), 0
        total = max(1, number * steps - warm * steps)
        for step in range(number * steps + 9):
            if step > warm * steps:
                moved = min(moved + 1, total)
            worst = greatest(worst, abs(schedule(step) - base - moved * (final - base) / total))
    return all_of(at_most("largest difference", worst, 1e-11))


@claim("loop.schedules", "Schedules are what their formulas give at every step, of runs without a "
       "warm-up, with one as long as the run, of one step, and of runs that were trained on; each "
       "group of parameters gets the rate by its own scale, and decay where it is decayed.",
       source=IJEPA)  # fmt: skip
def schedules(twin: Twin) -> Evidence:
    worst, written, config = 0.0, list[str](), twin.config
    for warmup, steps, start in (
        (0, 10, 0.1),
        (3, 10, 0.1),
        (10, 10, 0.0),
        (0, 1, 0.0),
        (25, 10, 0.2),
    ):
        rate, decay = WarmupCosine(2.0, 0.5, warmup, steps, start), Cosine(0.04, 0.4, steps)
        for step in range(2 * steps + 30):
            done = step + 1
            if done < warmup:
                own = start + (2.0 - start) * done / warmup
            else:
                share = min(1.0, (done - warmup) / max(1, steps - warmup))
                own = 0.5 + 1.5 * (1 + math.cos(math.pi * share)) / 2
            share = min(1.0, done / steps)
            fell = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * share)) / 2
            worst = greatest(worst, abs(rate(step) - own), abs(decay(step) - fell))
    own_ema = {} if config.ema is None else {"ema": {"base": 0.3, "final": 0.8, "warmup_steps": 2}}
    stretched = {"train.stretches": ((8, 10), (15, 20)), "train.steps": 30}
    for changes in (
        {
            "optimizer.final_weight_decay": 0.3,
            "optimizer.start_lr": 1e-4,
            "optimizer.final_lr": 1e-5,
        },
        {"optimizer.final_weight_decay": None, **own_ema},
        {**stretched, **own_ema},
    ):
        changed = config.updated({"optimizer.warmup_steps": 4, **changes})
        found = Schedules.of(changed)
        for step in range(changed.train.steps + 5):
            pairs = [
                (found.lr, rate_of),
                (found.weight_decay, decay_of),
                (found.momentum, momentum_of),
            ]
            worst = greatest(worst, *(abs(one(step) - own(changed, step)) for one, own in pairs))
        cells = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
        optimizer = torch.optim.AdamW([
            {"params": [cells[0]], "decayed": True}, {"params": [cells[1]], "decayed": False},
            {"params": [cells[2]], "decayed": True, "lr_scale": 0.1},
        ])  # fmt: skip
        found.apply(optimizer, 9)
        lr, decayed = rate_of(changed, 9), decay_of(changed, 9)
        given = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        own_values = [(lr, decayed), (lr, 0.0), (0.1 * lr, decayed)]
        gaps = [abs(a - b) for one, own in zip(given, own_values, strict=True)
                for a, b in zip(one, own, strict=True)]  # fmt: skip
        written += [f"{given}"] * (greatest(*gaps) > EXACT)
    return all_of(at_most("largest difference", worst, EXACT), none("groups with others", written))


@claim("loop.scale", "In fp16 the loss scale begins at 2 to the 16 of a mean loss, is halved after "
       "an overflow and doubled every 2000 steps, within 2 to the ±24.",
       source="Micikevicius et al. 2018: mixed precision training")  # fmt: skip
def scale(twin: Twin) -> Evidence:
    terms = twin.config.train.batch_size * math.prod(twin.config.grids[0])
    wrong = list[str]()
    for begin, step, refused, after in (
        (2.0**10, 5, True, 2.0**9),
        (2.0**10, 5, False, 2.0**10),
        (2.0**10, 2000, False, 2.0**11),
        (2.0**10, 4000, True, 2.0**9),
        (2.0**24, 2000, False, 2.0**24),
        (2.0**-24, 3, True, 2.0**-24),
        (2.0**-24, 2000, False, 2.0**-23),
        (2.0**10, 1999, False, 2.0**10),
        (2.0**10, 2001, False, 2.0**10),
        (2.0**24, 7, True, 2.0**23),
        (2.0**23, 6000, False, 2.0**24),
    ):
        found = next_scale(State(step=step, scale=begin), refused=refused)
        wrong += [f"{begin:g} at {step}: {found:g}"] * (found != after)
    return all_of(
        none("other scales", wrong),
        equal("first", first_scale(twin.config), 2.0 ** (16 - round(math.log2(terms)))),
    )


@claim(
    "loop.half",
    "A run in fp16 scales its loss: its gradients come unscaled, a batch that "
    "overflows halves the scale and moves nothing, and a run begins at the first scale.",
    source="Micikevicius et al. 2018: mixed precision training",
    about=has_linear_patches,  # convolutions in fp16 take a processor seconds
)
def half(twin: Twin) -> Evidence:
    """One step after an attempt that is not finite; others may overflow of themselves."""
    changes = {"train.micro_batches": 1, "train.precision": "fp16", "train.steps": 1}
    small = {"optimizer.warmup_steps": 0, "train.batch_size": 3}
    config = revealing(twin).updated(changes | small)
    run = rehearse(twin, config, {0})
    refused = sum(not attempt.counted for attempt in run.attempts)
    last = run.attempts[-1]
    largest = greatest(*(float(g.abs().max()) for g in last.gradients.values()))
    return all_of(
        equal(
            "scale at the end, of the first", run.state.scale / first_scale(config), 0.5**refused
        ),
        equal("skipped", run.state.skipped, refused),
        equal("the first attempt counted", run.attempts[0].counted, False),
        # Scaled ones would be some thousand times as large.
        at_most("largest gradient, over the norm that is logged", largest / last.norm, 1 + 1e-3),
        at_most("and that", last.norm, 1e3),
    )


@claim(
    "loop.logged",
    "What is logged of a step in pieces is their mean by weight, loss and every "
    "other number; without any weight it is 0; views are of the last piece.",
    source=OURS,
)
def logged(twin: Twin) -> Evidence:
    generator = torch.Generator().manual_seed(twin.seed)
    worst = 0.0
    for weights in ((3.0, 0.0, 5.5), (1.0,), (0.0, 0.0)):
        numbers = torch.rand(len(weights), 3, generator=generator, dtype=torch.float64)
        views = [
            [View("output", torch.full((1, 1, 1), float(n)), "encoder")]
            for n in range(len(weights))
        ]
        pieces = [
            Output(row[0], torch.tensor(w, dtype=torch.float64), {"a": row[1], "b": row[2]}, view)
            for row, w, view in zip(numbers, weights, views, strict=True)
        ]
        found, total = join(pieces, ALONE), math.fsum(weights)
        columns = [
            math.fsum(w * float(x) for w, x in zip(weights, column, strict=True)) / max(total, 1e-6)
            for column in numbers.T
        ]
        got = [found.loss, found.scalars["a"], found.scalars["b"], found.weight]
        worst = greatest(
            worst, *(abs(float(x) - y) for x, y in zip(got, [*columns, total], strict=True))
        )
        worst = greatest(worst, float(found.views is not views[-1]))
    return all_of(at_most("largest difference", worst, EXACT))


@claim(
    "loop.norm",
    "The gradient's norm is that of all gradients together; without a limit none of "
    "them changes, with one they are scaled down to it and never up.",
    source=OURS,
)
def norm(twin: Twin) -> Evidence:
    parts = list[Evidence]()
    for limit in (None, 0.01, 1e6):
        objective = twin.objective()
        own: dict[str, Tensor] = {}
        for n, (name, parameter) in enumerate(objective.trainable().items()):
            own[name] = noise(parameter.shape, n).to(parameter.dtype)
            parameter.grad = own[name].clone()
        length = math.sqrt(math.fsum(float(g.double().square().sum()) for g in own.values()))
        found = float(gradient_norm(objective, limit))
        factor = 1.0 if limit is None else min(1.0, limit / length)
        gap = greatest(
            *(
                float((p.grad - factor * own[name]).abs().max()) if p.grad is not None else math.inf
                for name, p in objective.trainable().items()
            )
        )
        parts += [
            at_most(f"limit {limit}: norm, relative", abs(found / length - 1), 1e-5),
            at_most(f"limit {limit}: largest difference", gap, 1e-5 * factor),
        ]
    return all_of(*parts)


@claim(
    "ema.distance",
    "The distance of average and weights that is logged is the Euclidean one over "
    "the size of the weights, 0 without an average; networks of unlike parameters are refused.",
    source=OURS,
)
def distance(twin: Twin) -> Evidence:
    students = [nn.Linear(3, 4), nn.Linear(4, 2, bias=False)]
    teachers = [nn.Linear(3, 4), nn.Linear(4, 2, bias=False)]
    pairs: list[tuple[nn.Module, nn.Module]] = list(zip(students, teachers, strict=True))
    with torch.no_grad():
        for n, parameter in enumerate(
            p for one in (*students, *teachers) for p in one.parameters()
        ):
            parameter.copy_(noise(parameter.shape, n))
    rows = [
        [p.detach().double() for m in side for p in m.parameters()] for side in (students, teachers)
    ]
    gap = math.fsum(float((s - t).square().sum()) for s, t in zip(*rows, strict=True))
    size = math.fsum(float(s.square().sum()) for s in rows[0])
    average = Ema(pairs)
    before = average.distance()
    average.update(0.25)
    moved = [0.25 * t + 0.75 * s for s, t in zip(*rows, strict=True)]
    found = [p.detach().double() for m in teachers for p in m.parameters()]
    copies = [t.clone() for t in found]
    average.update(0.5, torch.ones(()))
    averaged = [p.detach().double() for m in teachers for p in m.parameters()]
    still = greatest(*(float((a - p).abs().max()) for a, p in zip(copies, averaged, strict=True)))
    average.update(0.5, torch.zeros(()))
    halfway = greatest(
        *(
            float(((a + s) / 2 - p.detach().double()).abs().max())
            for a, s, p in zip(
                copies, rows[0], (p for m in teachers for p in m.parameters()), strict=True
            )
        )
    )
    return all_of(
        at_most("difference", abs(before - math.sqrt(gap / size)), 1e-6),
        at_most("after a step of 0.25", greatest(*(float((a - b).abs().max()) for a, b in
                                            zip(moved, found, strict=True))), 1e-6),
        at_most("moved by a refused step", still, 0.0),
        at_most("after one that counts", halfway, 1e-6),
        equal("without an average", Ema([]).distance(), 0.0),
        refusals({"unlike networks": (lambda: Ema([(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))]),
                                      "must have the same parameters")}, {"none": lambda: Ema([])}),
    )  # fmt: skip


@claim("loop.roles", "What is read out is the average where there is one and otherwise what is "
       "trained; what predicts no patches says so; where all was measured there are no flags.",
       source="our design, objectives/base.py")  # fmt: skip
def roles(twin: Twin) -> Evidence:
    objective, parts = twin.objective(), list[Evidence]()
    pairs = objective.ema_pairs()
    student, teacher = objective.encoder("student"), objective.encoder("teacher")
    averaged = twin.config.ema is not None
    parts.append(equal("an encoder of its own for the average", teacher is not student, averaged))
    parts.append(equal("pairs", len(pairs), int(averaged)))
    if averaged:
        moving, still = pairs[0]
        ids = {id(p) for p in moving.parameters()}, {id(p) for p in still.parameters()}
        parts.append(
            true("from what is trained", all(id(p) in ids[0] for p in student.parameters()))
        )
        parts.append(true("to what is read", all(id(p) in ids[1] for p in teacher.parameters())))
        parts.append(
            none("trained of the average", [p for p in still.parameters() if p.requires_grad])
        )
    if objective.predicted_from is None:
        inputs = twin.inputs()
        parts.append(refusals({"patch errors": (lambda: objective.patch_errors(inputs),
                                                "predicts no single patches")}, {}))  # fmt: skip
    wrong = [
        name
        for name, parameter in objective.named_parameters()
        if parameter.requires_grad != (name in objective.trainable())
    ]
    return all_of(*parts, none("trained and not listed", wrong), objective=type(objective).__name__)
