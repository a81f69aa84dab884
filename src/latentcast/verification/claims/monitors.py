"""That a collapse is seen: what the monitors look at, what they count, whom they name, and that
it stands in the rows of the run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from latentcast.batch import Inputs
from latentcast.monitors import collapse
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.nepa import Nepa
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.fault import replaced
from latentcast.verification.observe.data import is_ecg
from latentcast.verification.observe.jepa import (
    live,
    normed,
    observe,
    patch_flags,
    some_valid,
    values,
)
from latentcast.verification.observe.network import furthest, outputs_of, stirred, within
from latentcast.verification.observe.twin import Subject
from latentcast.workflows.train import train

OURS = "our design, law 6: nothing collapses silently"
RANKME = "RankMe, Garrido et al. 2023"
EXACT = 1e-6
Array = npt.NDArray[np.float64]
Seen = dict[str, tuple[Tensor, Tensor | None, str]]
"""Tokens, which of them are valid, and what made them."""


# What is looked at


def _views(subject: Subject) -> Evidence:
    """Tokens, validity and part of each view, beside what hooks saw on the way."""
    whole = Inputs(values(subject))
    valid = some_valid(subject, len(whole.values)) if is_ecg(subject) else None
    if valid is not None:
        whole = Inputs(whole.values, patch_flags(subject, valid))
    expected, output = _expected(subject, whole, valid)
    worst, flags, parts = 0.0, 0, list[str]()
    for name, (tokens, told, part) in expected.items():
        view = output.views.get(name)
        if view is None or view.tokens.shape != tokens.shape:
            return Evidence(False, {"views": ", ".join(output.views), "not as it was made": name})
        seen = torch.ones(tokens.shape[:2], dtype=torch.bool)
        counted, wanted = (seen if one is None else one for one in (view.valid, told))
        flags += int((counted != wanted).sum())
        if part != view.part:
            parts.append(name)
        worst = max(worst, furthest(view.tokens[wanted], tokens[wanted]))
    told_: dict[str, Number] = {
        "views": ", ".join(output.views), "flags that differ": flags,
        "other parts": ", ".join(parts) or "none",
    }  # fmt: skip
    found = within({"largest difference": (worst, EXACT)}, **told_)
    whole_story = set(expected) == set(output.views)
    return Evidence(found.holds and not flags and not parts and whole_story, found.numbers)


def _expected(subject: Subject, inputs: Inputs, valid: Tensor | None) -> tuple[Seen, Output]:
    objective, draw = subject.objective(), subject.draw()
    if isinstance(objective, Nepa):
        objective = stirred(objective, subject.seed)
        assert isinstance(objective, Nepa)
        with outputs_of(objective.student.norm, objective.student.patches) as (h, z):
            output = objective(inputs, draw)
        made: Seen = {
            "target": (z[0], valid, "encoder"),
            "output": (h[0][:, :-1], valid, "predictor"),
        }
        return made, output
    jepa = live(subject)
    seen = observe(jepa, inputs, draw)
    whole = seen.teacher[0] if jepa.teacher is not None else seen.student[0]
    found: Seen = {}
    for n, level in enumerate(whole):
        part, context = "merge" if n else "encoder", seen.context[n]
        target = level.values if jepa.teacher is None else normed(level.values)
        call = seen.calls[n][0]
        rows = call.said.transpose(0, 1).flatten(1, 2)
        asked: Tensor = call.given["targets"]
        told = None if level.seen is None else torch.stack(
            [level.seen.gather(1, block) for block in asked], dim=1).flatten(1)  # fmt: skip
        found[f"level{n}_context"] = context.values, context.seen, part
        found[f"level{n}_target"] = target, level.seen, part
        found[f"level{n}_prediction"] = rows, told, "predictor"
    return found, seen.output


# What is counted


def _statistics(subject: Subject) -> Evidence:
    """Of tokens with a known spread, half of them not valid and far out, by the definitions."""
    generator = np.random.Generator(np.random.PCG64(subject.seed))
    scale = 2.0 ** -np.arange(12)
    tokens = generator.normal(size=(20, 9, 12)) * scale + generator.normal(size=(20, 1, 12)) * scale
    tokens[..., 10], tokens[..., 11] = 0.3, -0.2  # two that stand still
    valid = generator.random((20, 9)) < 0.7
    valid[:, :2] = True
    tokens[~valid] = 1e3
    told = collapse.statistics(torch.from_numpy(tokens), torch.from_numpy(valid))
    rows = tokens[valid]
    centred = rows - rows.mean(0)
    spectrum = np.linalg.svd(centred, compute_uv=False)
    shares = spectrum / spectrum.sum()
    deviation = centred.std(0, ddof=1)
    there = np.where(valid[..., None], tokens - rows.mean(0), 0.0)
    positional = ((there.sum(0) ** 2).sum(1) / valid.sum(0)).sum()
    wanted = {
        "rank": float(np.exp(-(shares * np.log(shares + 1e-30)).sum())),
        "mean_norm": float(np.linalg.norm(
            (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0))),
        "std": float(deviation.mean()),
        "dead": float((deviation <= 1e-3 * deviation.mean()).mean()),
        "variance": float((deviation**2).mean()),
        "between": float(1 - positional / (centred**2).sum()),
    }  # fmt: skip
    return within({
        f"{name}: relative difference": (abs(getattr(told, name) - value) / value, 1e-4)
        for name, value in wanted.items()
    }, rank=told.rank, rows=len(rows))  # fmt: skip


# Who is named


def _named(subject: Subject) -> Evidence:
    """The live network, alive; with an encoder that says a constant; with such a predictor."""
    told: dict[str, Number] = {}
    alive = _alarms(subject, lambda objective: None)
    told["alive"] = ", ".join(_of_the_finest(alive)) or "none"
    encoder = _alarms(subject, _dead_encoder)
    told["constant encoder"] = ", ".join(encoder) or "none"
    predictor = _alarms(subject, _dead_predictor)
    told["constant predictor"] = ", ".join(predictor) or "none"
    blames = encoder.get(_first(subject, "target") + "-rank-collapse") == "encoder"
    constant = predictor.get(_first(subject, "prediction") + "-constant") == "predictor"
    spared = "encoder" not in predictor.values()
    return Evidence(not _of_the_finest(alive) and blames and constant and spared, told)


def _first(subject: Subject, what: str) -> str:
    """The finest view of a kind."""
    if isinstance(subject.objective(), Jepa):
        return f"level0_{what}"
    return {"target": "target", "prediction": "output"}[what]


def _of_the_finest(alarms: Mapping[str, str | None]) -> list[str]:
    """Untrained coarse levels may lie still; copying is no collapse."""
    return [name for name in alarms if not name.startswith(("copying", "level1", "level2"))]


def _alarms(subject: Subject, change: Callable[[Objective], object]) -> dict[str, str | None]:
    """Names and parts of the alarms of a forward pass."""
    objective = subject.objective()
    change(objective)
    output = objective(subject.inputs(), subject.draw())
    views, numbers = collapse.watched(output.views, {"loss": output.loss, **output.scalars})
    parts = {name: view.part for name, view in output.views.items()}
    found = collapse.alarms(views, parts, numbers["loss"], numbers.get("copy_last_loss"))
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


def _recorded(subject: Subject) -> Evidence:
    """The first row of a run whose encoder says a constant, and what was printed beside it."""
    short = {"train.steps": 1, "train.log_every": 1, "optimizer.warmup_steps": 0,
             "train.evaluate_every": None}  # fmt: skip
    config = subject.config.updated(short)
    folder, owner = subject.folder / "collapsed run", type(subject.objective())

    def dead(was: Any) -> Any:
        def initialise(self: Objective, seed: int) -> None:
            was(self, seed)
            _dead_encoder(self)

        return initialise

    printed = io.StringIO()
    with replaced(owner, "initialise", dead), redirect_stdout(printed):
        train(config, subject.store.path, folder)
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    name = _first(subject, "target")
    told: dict[str, Number] = {
        "alarms of the row": ", ".join(row["alarms"]) or "none",
        "its rank": row[f"{name}_rank"],
        "lines printed about them": printed.getvalue().count("alarm "),
    }
    written = f"{name}-rank-collapse" in row["alarms"] and row[f"{name}_rank"] <= 1.01
    return Evidence(written and f"alarm {name}-rank-collapse" in printed.getvalue(), told)


CLAIMS: tuple[Claim, ...] = (
    Claim("collapse.views", "The monitors are shown the targets, contexts and predictions "
          "themselves, which of them are valid, and what made them.", OURS, _views),
    Claim("collapse.statistics", "Rank, spread and what differs between samples are those of the "
          "valid tokens, by their definitions.", RANKME, _statistics),
    Claim("collapse.named", "An encoder or a predictor that says a constant is an alarm that names "
          "it; an untrained network is none.", OURS, _named),
    Claim("collapse.recorded", "The alarms stand in the row of the step, and are printed.", OURS,
          _recorded),
)  # fmt: skip
