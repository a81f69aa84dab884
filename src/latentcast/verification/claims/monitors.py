"""That a collapse is seen: what the monitors look at, what they count, whom they name, and that
it stands in the rows of the run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.monitors import collapse
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, none, true
from latentcast.verification.observe.config import has_transformer
from latentcast.verification.observe.jepa import (
    is_jepa,
    live,
    normed,
    observe,
    patch_flags,
    some_valid,
    values,
)
from latentcast.verification.observe.nepa import is_nepa
from latentcast.verification.observe.network import finest, furthest, outputs_of, stirred
from latentcast.verification.observe.recordings import is_ecg
from latentcast.verification.observe.twin import Twin
from latentcast.workflows.train import train

OURS = "our design, law 6: nothing collapses silently"
RANKME = "RankMe, Garrido et al. 2023"
EXACT = 1e-6
Views = dict[str, tuple[Tensor, Tensor | None, str]]
"""Tokens, which of them are valid, and the part that made them."""


# What is looked at


def shows_parts(twin: Twin) -> bool:
    """Whether the parts of the objective are those that a probe here can stop: NEPA's, JEPA's."""
    return has_transformer(twin) and (is_nepa(twin) or is_jepa(twin))


@claim("collapse.views", "The monitors are shown the targets, contexts and predictions "
       "themselves, which of them are valid, and what made them.", source=OURS,
       about=shows_parts)  # fmt: skip
def views(twin: Twin) -> Evidence:
    """Beside what hooks saw on the way."""
    inputs = Inputs(values(twin))
    valid = some_valid(twin, len(inputs.values)) if is_ecg(twin) else None
    if valid is not None:
        inputs = Inputs(inputs.values, patch_flags(twin, valid))
    expected, output = _expected(twin, inputs, valid)
    shown_views = {f"level{view.level}_{view.role}": view for view in output.views}
    names = equal("views", ", ".join(sorted(shown_views)), ", ".join(sorted(expected)))
    if not names.holds:
        return names
    worst, flags, parts, shapes = 0.0, 0, list[str](), list[str]()
    for name, (tokens, own, part) in expected.items():
        view = shown_views[name]
        parts += [name] * (part != view.part)
        if view.tokens.shape != tokens.shape:
            shapes.append(name)
            continue
        every = torch.ones(tokens.shape[:2], dtype=torch.bool)
        shown, expected_valid = (every if one is None else one for one in (view.valid, own))
        flags += int((shown != expected_valid).sum())
        worst = greatest(worst, furthest(view.tokens[expected_valid], tokens[expected_valid]))
    return all_of(
        names,
        none("of another shape", shapes),
        equal("flags that differ", flags, 0),
        none("made by another part", parts),
        at_most("largest difference", worst, EXACT),
    )


def _expected(twin: Twin, inputs: Inputs, valid: Tensor | None) -> tuple[Views, Output]:
    objective, draw = twin.objective(), twin.draw()
    if isinstance(objective, Nepa):
        objective = stirred(objective, twin.seed)
        assert isinstance(objective, Nepa)
        with outputs_of(finest(objective).norm, finest(objective).patches) as (h, z):
            output = objective(inputs, draw)
        return {
            "level0_target": (z[0], valid, "encoder"),
            "level0_output": (h[0][:, :-1], valid, "predictor"),
        }, output
    jepa = live(twin)
    forward = observe(jepa, inputs, draw)
    targets = forward.teacher[0] if jepa.teacher is not None else forward.student[0]
    found: Views = {}
    for n, level in enumerate(targets):
        part, context = "merge" if n else "encoder", forward.context[n]
        target = level.values if jepa.teacher is None else normed(level.values)
        call = forward.calls[n][0]
        rows = call.out.transpose(0, 1).flatten(1, 2)
        cells: Tensor = call.arguments["target_ids"]
        own = None if level.valid is None else torch.stack(
            [level.valid.gather(1, block) for block in cells], dim=1).flatten(1)  # fmt: skip
        found[f"level{n}_context"] = context.values, context.valid, part
        found[f"level{n}_target"] = target, level.valid, part
        found[f"level{n}_prediction"] = rows, own, "predictor"
    return found, forward.output


# What is counted


@claim("collapse.statistics", "Rank, spread and what differs between samples are those of the "
       "valid tokens, by their definitions.", source=RANKME)  # fmt: skip
def statistics(twin: Twin) -> Evidence:
    """Of tokens with a known spread, half of them not valid and far out."""
    generator = np.random.Generator(np.random.PCG64(twin.seed))
    scale = 2.0 ** -np.arange(12)
    tokens = generator.normal(size=(20, 9, 12)) * scale + generator.normal(size=(20, 1, 12)) * scale
    tokens[..., 10], tokens[..., 11] = 0.3, -0.2  # two that stand still
    valid = generator.random((20, 9)) < 0.7
    valid[:, :2] = True
    tokens[~valid] = 1e3
    measured = collapse.statistics(torch.from_numpy(tokens), torch.from_numpy(valid))
    rows = tokens[valid]
    centred = rows - rows.mean(0)
    spectrum = np.linalg.svd(centred, compute_uv=False)
    shares = spectrum / spectrum.sum()
    deviation = centred.std(0, ddof=1)
    from_mean = np.where(valid[..., None], tokens - rows.mean(0), 0.0)
    positional = ((from_mean.sum(0) ** 2).sum(1) / valid.sum(0)).sum()
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = {
        "rank": float(np.exp(-(shares * np.log(shares + 1e-30)).sum())),
        "mean_norm": float(np.linalg.norm(directions.mean(0))),
        "std": float(deviation.mean()),
        "dead": float((deviation <= 1e-3 * deviation.mean()).mean()),
        "variance": float((deviation**2).mean()),
        "between": float(1 - positional / (centred**2).sum()),
    }  # fmt: skip
    return all_of(
        *(at_most(f"{name}: relative difference", abs(getattr(measured, name) - value) / value,
                  1e-4) for name, value in expected.items()),
        rank=measured.rank, rows=len(rows),
    )  # fmt: skip


# Who is named


@claim("collapse.named", "An encoder or a predictor whose output is a constant is an alarm that "
       "names it; an untrained network is none.", source=OURS,
       about=shows_parts)  # fmt: skip
def named(twin: Twin) -> Evidence:
    """The live network, alive; with a constant encoder; with a constant predictor."""
    alive = _alarms(twin, lambda objective: None)
    encoder, predictor = _alarms(twin, _dead_encoder), _alarms(twin, _dead_predictor)
    prediction = "level0_prediction" if is_jepa(twin) else "level0_output"
    return all_of(
        # Untrained coarse levels may lie still; copying is no collapse.
        none("alive", [n for n in alive if not n.startswith(("copying", "level1", "level2"))]),
        equal("a constant encoder's collapse is of the",
              str(encoder.get("level0_target-rank-collapse")), "encoder"),
        equal("a constant predictor's is of the",
              str(predictor.get(f"{prediction}-constant")), "predictor"),
        none("then blamed on the encoder",
             [name for name, part in predictor.items() if part == "encoder"]),
    )  # fmt: skip


def _alarms(twin: Twin, change: Callable[[Objective], object]) -> Mapping[str, str | None]:
    """Names and parts of the alarms of a forward pass."""
    objective = twin.objective()
    change(objective)
    output = objective(twin.inputs(), twin.draw())
    scalars = {"loss": output.loss, **output.scalars}
    statistics, numbers = collapse.watched(output.views, scalars)
    copy_loss = numbers.get("copy_last_loss")
    found = collapse.alarms(output.views, statistics, numbers["loss"], copy_loss)
    return {alarm.name: alarm.part for alarm in found}


def _constant(*modules: nn.Module) -> None:
    """All their matrices and gains 0, all their biases 1."""
    with torch.no_grad():
        for module in modules:
            for name, parameter in module.named_parameters():
                parameter.fill_(1.0 if name.endswith("bias") else 0.0)


def _dead_encoder(objective: Objective) -> None:
    _constant(*(network for pair in objective.ema_pairs() for network in pair))
    _constant(objective.encoder("student"))


def _dead_predictor(objective: Objective) -> None:
    if isinstance(objective, Jepa):
        _constant(*objective.predictors)
    else:  # NEPA predicts with its transformer: all but the patches, which are the targets
        student: Any = objective.encoder("student")
        _constant(student.blocks, student.norm)


# What is written


@claim("collapse.recorded", "The alarms stand in the row of the step, and are printed.",
       source=OURS, about=shows_parts)  # fmt: skip
def recorded(twin: Twin) -> Evidence:
    """The first row of a run whose encoder is constant, and what was printed beside it."""
    one_step = {"train.steps": 1, "train.log_every": 1, "train.evaluate_every": None}
    config = twin.config.updated(one_step | {"optimizer.warmup_steps": 0})
    folder, owner = twin.folder / "collapsed run", type(twin.objective())
    initialise = owner.initialise

    def dead(self: Objective, seed: int) -> None:
        initialise(self, seed)
        _dead_encoder(self)

    printed = io.StringIO()
    with mock.patch.object(owner, "initialise", dead), redirect_stdout(printed):
        train(config, twin.store.path, folder)
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    alarm = "level0_target-rank-collapse"
    return all_of(
        true("in the row", alarm in row["alarms"]),
        at_most("its rank", row["level0_target_rank"], 1.01),
        true("printed", f"alarm {alarm}" in printed.getvalue()),
        alarms_of_the_row=", ".join(row["alarms"]) or "none",
    )
