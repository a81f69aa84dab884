"""What a run's files say of it, for the card of its weights: nothing is typed by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from latentcast.artifacts.card import Facts, Result
from latentcast.config import Config, load
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import number as figure
from latentcast.evaluation.evaluation import RESULT, Evaluation
from latentcast.evaluation.evaluation_tables import markdown
from latentcast.evaluation.results import ProbeReport
from latentcast.markdown import render
from latentcast.monitors.rows import number
from latentcast.objectives.build import assemble
from latentcast.report.run import BUNDLED_LICENCE
from latentcast.runs.folder import RunFolder
from latentcast.runs.new import data_of
from latentcast.runs.scores import tuned_score

BUNDLED = ("packed", "ptbxl2980-100hz")
"""Kind and name of the source whose licence is recorded in the package."""


def facts_of_run(
    run: Path, weights: str, verdict: str, evaluation: Path | None = None, difference: str = ""
) -> Facts:
    """Sections of the card: data, compute, scores, verification, limits, licence.

    Args:
        run: its folder.
        weights: those of the card, as a probe names them; of probes of others nothing is shown.
        verdict: what the audit of the run found, in a sentence.
        evaluation: folder that ``latentcast evaluate`` wrote, for further scores.
        difference: measured, of the weights as they are written from those of the training.

    Raises:
        LatentcastError: a file of the run or of the evaluation is damaged.
    """
    folder, config, store = RunFolder.read(run), load(run / "config.yaml"), data_of(run)
    if folder.problems:
        raise LatentcastError(
            f"{run}: {folder.problems[0]}; restore the file, or train again, before its card is "
            "written"
        )
    further = ""
    if evaluation is not None:
        found = markdown(Evaluation.read(evaluation / RESULT))
        further = found.replace("# Evaluation\n", "", 1).replace("\n## ", "\n### ")
    probes = [ProbeReport.from_json(plain) for plain in folder.probes.values()]
    bundled = store is not None and _source(store) == BUNDLED
    text = render(
        __package__, "facts_of_run.md", environment=folder.environment, store=store,
        source=_source(store)[1] if store else "", train=config.train, kind=config.input.kind,
        verdict=verdict, difference=difference, number=figure,
        alarms=sorted({str(name) for row in folder.rows for name in row.get("alarms", ())}),
        licence=BUNDLED_LICENCE if bundled else None, **_compute(folder, config),
        probes=[_scores(probe) for probe in probes if probe.weights == weights],
        tuned=tuned_score(folder.tuned) if folder.tuned else None, evaluation=Markup(further),
    )  # fmt: skip
    datasets = () if store is None else (_source(store)[1],)
    results = tuple(_results(folder, weights))
    return Facts(text, "cc-by-4.0" if bundled else None, datasets, results)


def _results(folder: RunFolder, weights: str) -> Iterator[Result]:
    """The first source of each probe of these weights, by each head, and a fine-tuning."""
    for plain in folder.probes.values():
        probe = ProbeReport.from_json(plain)
        for head in probe.heads if probe.weights == weights else ():
            main = probe.readings(head)[0].score.main
            if math.isfinite(main.value):
                yield Result(probe.task, Path(str(probe.data.get("store", ""))).name, probe.metric,
                             main.value, f"test {probe.metric} {main.text()}, {head}")  # fmt: skip
    if folder.tuned:
        score = tuned_score(folder.tuned)
        if score.value is not None:
            ends = f"[{figure(score.low)}, {figure(score.high)}]"
            about = f"test {score.measure} {figure(score.value)} {ends}, {score.head}"
            yield Result(score.task, Path(score.store).name, score.measure, score.value, about)


def _source(store: Store) -> tuple[str, str]:
    about = store.manifest.provenance
    return str(about.get("kind", "")), str(about.get("source", "memory"))


def _compute(folder: RunFolder, config: Config) -> dict[str, Any]:
    clock = [number(row.get("seconds")) or 0.0 for row in folder.rows]
    # The clock begins anew with each resume.
    seconds = sum(b - a if b > a else b for a, b in pairwise([0.0, *clock]))
    with torch.device("meta"):  # the network; masks are counted in draws, of numbers
        objective = assemble(config)
    flops = objective.step_flops(config.input.size)
    command = str(folder.environment.get("command")).split()
    return {
        "seconds": seconds,
        "flops": flops * config.train.batch_size * config.train.steps,
        "command": " ".join(Path(w).name if w.startswith("/") else w for w in command),
    }


def _scores(probe: ProbeReport) -> dict[str, Any]:
    """A probe, its table, and its scores by label."""
    rows = [
        (row.name, row.head, row.layer, f"{row.validation:.3f}", row.score.main.text(),
         gap.estimate.text(signed=True) if (gap := probe.compared_with(row)) else "")
        for head in probe.heads for row in probe.readings(head)
    ]  # fmt: skip
    measure = f"test {probe.metric} [{probe.level}]"
    labels = probe.rows[0].score.labels
    return {
        "report": probe,
        "heading": ("features", "head", "layer", "validation", measure, "pretrained minus this"),
        "rows": rows,
        "labels": "; ".join(f"{label.name} {label.text(label.auroc)}" for label in labels),
        "store": Path(str(probe.data.get("store", ""))).name,
    }
