"""Batch norms: what they are computed of, and when their running statistics move."""

from __future__ import annotations

import torch

from latentcast.nn.batch_norm import BatchNorm
from latentcast.nn.resnet import ResNet
from latentcast.objectives.views import TwoViews, pair_draw, twice
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, none
from latentcast.verification.observe.jepa import MATTERS, ROUNDING, apart, noise
from latentcast.verification.observe.rehearsal import POISONED, rehearsed
from latentcast.verification.observe.twin import Twin


def _has_batch_norm(twin: Twin) -> bool:
    return getattr(twin.recipe.encoder, "norm", None) == "batch"


NEEDS = _has_batch_norm
RUNNING = ("running_mean", "running_variance", "batches")


@claim("batch-norm.formula", "A batch norm is (x − mean) / √(variance + ε) over the valid cells of "
       "the batch, and what is not valid plays no part.",
       source="Ioffe & Szegedy 2015, algorithm 1")  # fmt: skip
def formula(twin: Twin) -> Evidence:
    """A norm of the student alone, on noise of which a third is not valid."""
    norm = next(m for m in twin.objective().modules() if isinstance(m, BatchNorm)).double()
    x = 3 * noise((4, len(norm.weight), 2, 9)) + 1
    valid = noise((4, 1, 2, 9), 1) > -0.4
    with torch.no_grad():
        norm.weight.add_(noise(norm.weight.shape, 2))
        parts = []
        for name, flags in (("all valid", torch.ones_like(valid)), ("some valid", valid)):
            rows = x.movedim(1, -1)[flags[:, 0]]
            centred = rows - rows.mean(0)
            expected = centred / (centred.square().mean(0) + norm.eps).sqrt() * norm.weight
            inputs = (x, None) if flags.all() else (torch.where(flags, x, 1e6), flags)
            got = norm(*inputs).movedim(1, -1)[flags[:, 0]]
            parts.append(at_most(f"{name}: difference", apart(got, expected + norm.bias), ROUNDING))
    return all_of(*parts)


@claim("batch-norm.running", "Running statistics move once for each step that counts, towards "
       "those of its batch; a teacher's are those of its own passes, or the student's where it has "
       "none.",
       source="our design: a refused step leaves no trace")  # fmt: skip
def running(twin: Twin) -> Evidence:
    """The rehearsal, whose poisoned batch does not count; the first step of the teacher's stem, of
    which the running mean is that of the first batch."""
    run = rehearsed(twin)
    poisoned, first = run.attempts[POISONED], run.steps[0]
    names = [name for name in first.end if name.rpartition(".")[2] in RUNNING]
    moved = [n for n in names if not torch.equal(poisoned.before[n], poisoned.end[n])]
    counted = {int(run.steps[-1].end[n]) for n in names if n.endswith("batches")}
    teacher = run.objective.encoder("teacher")
    assert isinstance(teacher, ResNet)
    base = "base." if isinstance(run.objective, TwoViews) else ""
    prefix = f"{base}teacher.stem.norm.running_mean"
    end = first.end[prefix]
    from_student = apart(end, first.end[prefix.replace("teacher", "student")])
    common = (
        none("moved by a step that does not count", moved),
        equal("batches counted", str(sorted(counted)), str([len(run.steps)])),
    )
    if twin.recipe.objective.kind == "two_views":
        passive = at_most("the teacher's, from the student's", from_student, 0.0)
        return all_of(*common, passive, statistics=len(names))
    weight = {"conv.weight": first.before[f"{base}teacher.stem.conv.weight"]}
    teacher.stem.load_state_dict(weight, strict=False)
    inputs = first.inputs[0]
    if isinstance(run.objective, TwoViews):
        draw = Draw(twin.config.train.seed, first.number, first.ids[0])
        pair = pair_draw(draw, inputs.values)[1]
        inputs = run.objective.augment(twice(inputs), pair)
    with torch.no_grad():
        cells = teacher.embed(inputs.values if inputs.clean is None else inputs.clean)
    if inputs.valid is not None:
        per = cells.shape[1] // teacher.valid(inputs.valid).shape[1]
        cells = cells[teacher.valid(inputs.valid).repeat_interleave(per, 1)]
    mean = cells.flatten(0, -2).double().mean(0)
    return all_of(
        *common,
        at_most("the teacher's first, from its batch's mean", apart(end, mean), 1e-5),
        above("from the student's", from_student, MATTERS),
        statistics=len(names),
    )  # fmt: skip
