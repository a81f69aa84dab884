"""From a pretrained run and labels to a classifier with its score."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from latentcast.artifacts.choice import CHOICE, Choice
from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.predictions import activated, joined
from latentcast.artifacts.weights import read_weights
from latentcast.config import Config, EcgInput, load, resolve
from latentcast.config.resolve import Flags, listed
from latentcast.data.store import Store
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import list_steps, of_step, step_of
from latentcast.errors import LatentcastError
from latentcast.evaluation import metrics
from latentcast.evaluation.calibration import temperature, thresholds
from latentcast.evaluation.estimate import Score
from latentcast.evaluation.predictions import of_metric, outputs_of, predict
from latentcast.evaluation.probabilities import with_probabilities
from latentcast.evaluation.protocol import leaks_of, refuse_leaks
from latentcast.evaluation.ranking import ranking_curves
from latentcast.evaluation.results import Finding
from latentcast.evaluation.supervision import Supervision, of_config, supervision
from latentcast.evaluation.tasks import task_name
from latentcast.files import digested, write_text
from latentcast.monitors.journal import read_metrics
from latentcast.monitors.validation import SCORE
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.recipes import RECIPES, recipe
from latentcast.runs.folder import TUNED
from latentcast.signatures import checked
from latentcast.workflows.sources import training_stores
from latentcast.workflows.train import train

RESAMPLES = 1000
LOOKS = 20
"""Validation scores in a run, at most one an epoch."""


@dataclass(frozen=True)
class FinetuneResult:
    """A classifier and its score.

    Attributes:
        run: its folder.
        step: of the checkpoint that was chosen on the validation split.
        validation: its score there.
        score: on the test split, read once.
        metric: the name of ``score.main``.
        records: labelled records of each split.
        calibration: expected calibration error on the test split, the mean over labels; NaN of
            other kinds of task.
        leaks: warnings, and errors that were allowed.
    """

    run: Path
    step: int
    validation: float
    score: Score = field(repr=False)
    metric: str
    records: dict[str, int]
    calibration: float
    leaks: tuple[Finding, ...] = ()


@checked
def finetune(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    task: str | None = None,
    *,
    head: Literal["linear", "attentive"] = "linear",
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 1e-3,
    layer_decay: float = 0.75,
    crop_seconds: float | None = None,
    bidirectional: bool = False,
    from_scratch: bool = False,
    labels_fraction: float = 1.0,
    balanced: bool = False,
    patience: int | None = None,
    seed: int = 0,
    allow_leaks: bool = False,
    set: Flags = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> FinetuneResult:
    """Train the encoder of a run and a new head on labels; the same call goes on where it stopped.

    The averaged weights are scored on the validation split once an epoch, every record as the mean
    over its crops; the best of these checkpoints is kept, its temperature and thresholds are chosen
    on validation too, and the test split is read once, at the end.

    Args:
        run: pretrained: its folder, a checkpoint, or an exported file; with ``from_scratch`` also
            the name of a recipe, whose network it then is.
        data: a labelled store.
        out: folder of the new run.
        task: what is predicted; by default what suits the labels of the store.
        head: ``linear`` on the mean token, or ``attentive``.
        epochs: over the labelled training records.
        lr: peak, of the head; layers below it learn ``layer_decay`` times as fast each.
        crop_seconds: of recordings, the length of a training crop and of what is averaged in
            prediction; by default that of the pretraining.
        bidirectional: let a causal encoder attend in both directions.
        from_scratch: the same network, not pretrained: the supervised baseline.
        labels_fraction: share of the labelled training patients; a smaller one is a subset.
        balanced: weigh positives (or classes) so that all count alike.
        patience: epochs without a better validation score after which training ends; None trains
            all epochs.
        seed: of the head, the data order and the choice of a fraction.
        allow_leaks: train and score although test records or patients were trained on, also by the
            runs that the encoder comes from; the leak is written beside the score.
        set: single keys of the configuration, which take precedence over everything else.

    Raises:
        LatentcastError: no such run, a store of another kind, no labels, a leak, or ``out`` is
            another run.
        KeyboardInterrupt: after Ctrl-C, once the step in hand is saved.
    """
    pretrained = _pretrained(run, from_scratch)
    store = Store.open(data)
    numbers = {"epochs": epochs, "batch_size": batch_size, "labels_fraction": labels_fraction,
               "crop_seconds": crop_seconds, "patience": patience}  # fmt: skip
    for argument, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise LatentcastError(f"{argument} {value:g}: is not above 0; give a larger number")
    name = task_name(task, store)
    labels = supervision(store, name, labels_fraction, seed)
    if balanced and labels.targets.kind == "regression":
        raise LatentcastError(f"balanced: is of classes, task {name} is a number; leave it out")
    config = _configured(
        pretrained, labels, name, head, epochs, batch_size, lr, layer_decay, crop_seconds,
        bidirectional, labels_fraction, balanced, patience, seed, _before(Path(out), set),
    )  # fmt: skip
    if not from_scratch:
        config = config.updated({"train.init": str(run)})
    config = resolve(config, flags=set)
    stores = () if from_scratch else training_stores(Path(run), pretrained)
    findings = leaks_of(labels.store, stores)
    if not allow_leaks:
        refuse_leaks(findings, labels.store)
    done = train(config, data, out, callbacks=callbacks, quiet=quiet)
    return _finished(done.run, done.config, Store.open(data), findings)


def _pretrained(run: str | Path, from_scratch: bool) -> Config:
    """The configuration of a run, or of a recipe where nothing has to be pretrained."""
    if str(run) not in RECIPES or Path(run).exists():
        return read_weights(run).config
    if not from_scratch:
        raise LatentcastError(
            f"{run}: is a recipe and not pretrained; train it on labels alone (--from-scratch), or "
            " name a run of it"
        )
    return recipe(str(run))


def _before(run: Path, flags: Flags) -> Config | None:
    """The configuration of a fine-tuning that goes on; an interval that flags set is left out."""
    file = run / "config.yaml"
    if not file.is_file():
        return None
    config = load(file)
    if not isinstance(config.objective, SupervisedConfig):
        return None
    if any(flag.startswith("train.evaluate_every") for flag in listed(flags)):
        return config.updated({"train.evaluate_every": None})
    return config


def _configured(
    pretrained: Config,
    labels: Supervision,
    task: str,
    head: str,
    epochs: int,
    batch_size: int,
    lr: float,
    layer_decay: float,
    crop_seconds: float | None,
    bidirectional: bool,
    fraction: float,
    balanced: bool,
    patience: int | None,
    seed: int,
    before: Config | None,
) -> Config:
    """The run's configuration with a supervised objective and schedules of so many epochs.

    Warm-up and interval of scores follow from the epochs; with more of them a run keeps its own.
    """
    targets, records = labels.targets, len(labels.rows["train"])
    objective: dict[str, Any] = {
        "kind": "supervised", "task": task, "target": targets.kind, "names": targets.names,
        "head": head, "layer_decay": layer_decay, "labels_fraction": fraction, "labels_seed": seed,
    }  # fmt: skip
    if targets.kind == "regression":
        values = targets.values[labels.rows["train"]]
        objective |= {"mean": float(values.mean()), "std": float(values.std()) or 1.0}
    elif balanced:
        objective["class_weights"] = labels.balance()
    batch_size = min(batch_size, records)
    epoch = math.ceil(records / batch_size)
    every = before.train.evaluate_every if before is not None else None
    every = every or epoch * max(1, round(epochs / LOOKS))
    steps = every * max(1, round(epochs * epoch / every))
    if patience is not None:
        objective["patience"] = math.ceil(patience * epoch / every)
    warmup = max(1, steps // 10) if before is None else before.optimizer.warmup_steps
    changes: dict[str, Any] = {
        "objective": objective,
        # Half of the average is of the last epoch: a horizon that is a tenth of the shortest run.
        "ema": {"base": None, "half_life": float(records), "final": None, "warmup_steps": 0},
        "optimizer.lr": lr, "optimizer.start_lr": 0.0, "optimizer.final_lr": 0.0,
        "optimizer.warmup_steps": warmup, "optimizer.weight_decay": 0.05,
        "optimizer.final_weight_decay": None, "optimizer.muon": None,
        "train.steps": steps, "train.batch_size": batch_size, "train.micro_batches": 1,
        "train.seed": seed, "train.init": None, "train.stretches": (),
        "train.log_every": every, "train.evaluate_every": every,
        "train.checkpoint_every": every, "train.keep_every": every,
    }  # fmt: skip
    if crop_seconds is not None:
        if not isinstance(pretrained.input, EcgInput):
            raise LatentcastError("crop_seconds: is of recordings; leave it out for images")
        patch = pretrained.encoder.patch
        patches = round(crop_seconds * pretrained.input.sampling_rate / patch)
        changes["input.length"] = max(1, patches) * patch
    if bidirectional:
        changes["encoder.causal"] = False
    return pretrained.updated(changes)


def _finished(
    run: Path, config: Config, store: Store, findings: Sequence[Finding]
) -> FinetuneResult:
    """Choose the checkpoint, calibrate it, and read the test split once."""
    labels = of_config(config.objective, store)
    assert labels is not None and isinstance(config.objective, SupervisedConfig)
    targets = labels.targets
    step, validation = _best(run)
    # Of a run that was trained on, a later checkpoint may be better than the one chosen before.
    if not (run / CHOICE).is_file() or Choice.read(run / CHOICE).step != step:
        choice = _calibrated(run, config, labels, step, validation)
        # In one piece: a kill in between must not leave a choice without its temperature.
        _write(run / CHOICE, choice.as_json())
    _keep_only(run, step)
    classifier = Classifier.from_pretrained(run)
    rows, length = labels.rows["test"], config.input.size[0]
    found = predict(
        classifier.outputs, classifier.network, labels.store, rows, length, config.objective,
        classifier.choice.temperature,
    )  # fmt: skip
    counts = metrics.draw(labels.store.patient_ids[rows], RESAMPLES, 0)
    y = targets.values[rows]
    shares = found.values if targets.kind == "multi-class" else None
    score, _ = metrics.score(
        targets.kind, y, of_metric(found, targets.kind), targets.names, counts, shares
    )
    choice = classifier.choice
    score = with_probabilities(
        score, targets.kind, targets.names, y, found.values, choice.temperature,
        choice.thresholds, counts,
    )  # fmt: skip
    curves = ranking_curves(targets.kind, y, of_metric(found, targets.kind), targets.names, shares)
    score = replace(score, curves=curves)
    error = score.calibration.error if score.calibration else math.nan
    result = FinetuneResult(
        run, choice.step, choice.score, score, metrics.METRICS[targets.kind][0].name,
        {split: len(part) for split, part in labels.rows.items()}, error, tuple(findings),
    )  # fmt: skip
    record = {
        "task": config.objective.task, "kind": targets.kind, "metric": result.metric,
        "step": result.step, "validation": result.validation, "records": result.records,
        "calibration error": None if math.isnan(error) else error,
        "score": json.loads(TypeAdapter(Score).dump_json(score)),  # without NaN
        "resamples": RESAMPLES, "store": str(store.path), "shards": store.checksums,
        "init": config.train.init, "leaks": [asdict(finding) for finding in findings],
    }  # fmt: skip
    _write(run / TUNED, digested(record))
    return result


def _write(file: Path, record: Mapping[str, Any]) -> None:
    """Raises LatentcastError: the disk is full, or the folder cannot be written."""
    try:
        write_text(file, json.dumps(record, indent=1))
    except OSError as problem:
        raise LatentcastError(
            f"{file}: cannot be written ({problem}); free space or make the folder writable, and "
            "give the same command"
        ) from None


def _best(run: Path) -> tuple[int, float]:
    """Step and validation score of the best checkpoint, of equal ones the first."""
    kept = {step_of(path) for path in list_steps(run / "checkpoints")}
    scores = {
        row["step"]: row[SCORE]
        for row in read_metrics(run)
        if row.get(SCORE) is not None and row["step"] in kept
    }
    if not scores:
        raise LatentcastError(
            f"{run}: has no validation score, each label lacks positives or negatives there; label "
            "more validation records"
        )
    step = max(scores, key=lambda step: (scores[step], -step))
    return step, float(scores[step])


def _keep_only(run: Path, step: int) -> None:
    """The chosen checkpoint and the newest, from which the run could train on."""
    *older, _ = list_steps(run / "checkpoints")
    for path in older:
        if step_of(path) != step:
            shutil.rmtree(path)


def _calibrated(
    run: Path, config: Config, labels: Supervision, step: int, validation: float
) -> Choice:
    """With temperature and thresholds, by the validation records alone."""
    assert isinstance(config.objective, SupervisedConfig)
    encoder = Encoder.from_pretrained(of_step(run / "checkpoints", step))
    classifier = Classifier(encoder, Choice(step, validation))
    rows, length = labels.rows["validation"], config.input.size[0]
    owner, outputs = outputs_of(classifier.outputs, classifier.network, labels.store, rows, length)
    targets = labels.targets.values[rows]
    heat = temperature(owner, outputs, targets, config.objective)
    points: tuple[float, ...] = ()
    if labels.targets.kind == "multi-label":
        found = joined([(owner, activated(outputs, config.objective, heat))], len(rows))
        points = tuple(float(value) for value in thresholds(found.values, targets))
    return Choice(step, validation, heat, points)
