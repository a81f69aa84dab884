"""What a run's files say of it, for the card of its weights: nothing is typed by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch

from latentcast.artifacts.card import Facts, Result
from latentcast.config import Config, load
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import number as figure
from latentcast.evaluation.evaluation import RESULT, Evaluation
from latentcast.evaluation.evaluation_tables import markdown
from latentcast.evaluation.results import ProbeReport
from latentcast.markdown import escaped, table
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
    scores = "\n".join(_scores(folder, weights))
    if evaluation is not None:
        found = markdown(Evaluation.read(evaluation / RESULT))
        scores += "\n\n" + found.replace("# Evaluation\n", "", 1).replace("\n## ", "\n### ")
    sections = [
        ("Data", _data(folder, store)),
        ("Compute", _compute(folder, config)),
        ("Scores", scores or "It was not scored."),
        ("Verification", f"Audit of the run folder: {verdict}."),
        ("Limits", " ".join(_limits(config, folder, store, difference))),
    ]
    bundled = store is not None and _source(store) == BUNDLED
    licence = (
        f"{BUNDLED_LICENCE}. The weights are given under the same licence, with this attribution: "
        "Wagner, P., Strodthoff, N., Bousseljot, R.-D., Samek, W., Schaeffter, T., *PTB-XL, a "
        "large publicly available electrocardiography dataset* (version 1.0.3), PhysioNet."
        if bundled
        else "The licence of the data is not recorded; who passes the weights on has to name it."
    )
    datasets = () if store is None else (_source(store)[1],)
    return Facts(
        (*sections, ("Licence", licence)), "cc-by-4.0" if bundled else None,
        datasets, tuple(_results(folder, weights)),
    )  # fmt: skip


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


def _data(folder: RunFolder, store: Store | None) -> str:
    data = folder.environment.get("data", {})
    records = f"{data.get('records', 'an unknown number of'):,} records"
    digests = ", ".join(map(str, data.get("sha256", {}).values()))
    if store is None:
        return f"{records}; the store is no longer where it was. Shards: `{digests}`."
    patients = f" of {store.patients:,} patients" if store.modality == "ecg" else ""
    splits = ", ".join(
        f"{len(store.rows(split)):,} {split}" for split in ("train", "validation", "test")
    )
    return (
        f"{records}{patients} from {escaped(_source(store)[1])} ({splits}); the weights were "
        f"trained on the training split alone. Shards: `{digests}`."
    )


def _source(store: Store) -> tuple[str, str]:
    about = store.manifest.provenance
    return str(about.get("kind", "")), str(about.get("source", "memory"))


def _compute(folder: RunFolder, config: Config) -> str:
    about, train = folder.environment, config.train
    clock = [number(row.get("seconds")) or 0.0 for row in folder.rows]
    # The clock begins anew with each resume.
    seconds = sum(b - a if b > a else b for a, b in pairwise([0.0, *clock]))
    with torch.device("meta"):  # the network; masks are counted in draws, of numbers
        objective = assemble(config)
    flops = objective.step_flops(config.input.size)
    total = flops * train.batch_size * train.steps
    command = " ".join(_without_folders(word) for word in str(about.get("command")).split())
    return (
        f"{train.steps:,} steps of {train.batch_size:,} in {seconds:,.0f} s, {total:.2g} "
        f"floating-point operations in matrix products, on {about.get('device')} "
        f"({about.get('cpu')}, {about.get('threads')} threads, torch {about.get('torch')}, "
        f"{train.precision}). Code: latentcast {about.get('latentcast')}, commit "
        f"{about.get('git') or 'unknown'}.\n\n    {command}"
    )


def _without_folders(word: str) -> str:
    return Path(word).name if word.startswith("/") else word


def _scores(folder: RunFolder, weights: str) -> Iterator[str]:
    """A table for each probe of these weights, and the test score of a fine-tuning."""
    for plain in folder.probes.values():
        probe = ProbeReport.from_json(plain)
        if probe.weights != weights:
            continue
        source = escaped(Path(str(probe.data.get("store", ""))).name)
        yield f"**{escaped(probe.protocol)}** ({probe.records['test']:,} test {probe.noun}s)."
        yield ""
        rows = [
            (row.name, row.head, row.layer, f"{row.validation:.3f}", row.score.main.text(),
             gap.estimate.text(signed=True) if (gap := probe.compared_with(row)) else "")
            for head in probe.heads for row in probe.readings(head)
        ]  # fmt: skip
        measure = f"test {probe.metric} [{probe.level}]"
        heading = ("features", "head", "layer", "validation", measure, "pretrained minus this")
        yield from table(heading, rows)
        yield ""
        labels = "; ".join(
            f"{label.name} {label.text(label.auroc)}" for label in probe.rows[0].score.labels
        )
        if labels:
            yield f"By label: {escaped(labels)}. Store: {source}."
            yield ""
        yield from (f"{escaped(remark)}." for remark in probe.remarks)
    if folder.tuned:
        score = tuned_score(folder.tuned)
        yield f"{escaped(score.task)}, {score.head}: test {score.measure} {figure(score.value)} "
        yield f"[{figure(score.low)}, {figure(score.high)}]"
        yield f"{', ' * bool(score.variant)}{score.variant}."


def _limits(
    config: Config, folder: RunFolder, store: Store | None, difference: str
) -> Iterator[str]:
    shape = config.input
    if shape.kind == "ecg":
        yield "It reads one sampling rate and one set of leads; others are refused or resampled."
    if store is not None:
        yield f"Trained on one source, {escaped(_source(store)[1])}; others were not measured here."
    alarms = sorted({str(name) for row in folder.rows for name in row.get("alarms", ())})
    yield f"Alarms in its log: {escaped(', '.join(alarms)) or 'none'}."
    if difference:
        yield difference
