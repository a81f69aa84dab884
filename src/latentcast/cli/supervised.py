"""Verbs of labels of one's own: finetune, predict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from latentcast.cli.arguments import recording_options
from latentcast.errors import LatentcastError


def finetune(
    run: Positional[Path],
    *,
    data: Path,
    out: Path,
    task: str | None = None,
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
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
) -> int:
    """Train a pretrained encoder and a new head on labels; the result predicts (see predict).

    The checkpoint, a temperature and thresholds are chosen on the validation split; the test split
    is read once, at the end. The same command goes on after an interruption.

    Args:
        run: pretrained run, one of its checkpoints, or an exported file; with --from-scratch also a
            recipe.
        data: folder of a labelled store.
        out: folder of the new run.
        task: what is predicted: a column of a label table, superdiagnostic, labels, classes,
            metadata:age, a .yaml of groups of codes; by default what suits the store.
        head: on the mean token (linear), or on what a trained query attends to (attentive).
        epochs: over the labelled training records.
        batch_size: records a step.
        lr: peak learning rate of the head.
        layer_decay: each layer below the head learns this many times as fast as the one above it.
        crop_seconds: of recordings, the length of a crop; predictions are the mean over crops. By
            default the length of the pretraining.
        bidirectional: let a causal encoder attend in both directions.
        from_scratch: the network of the run or recipe, not pretrained: the supervised baseline.
        labels_fraction: share of the labelled training patients; a smaller one is a subset.
        balanced: weigh positives (or classes) so that all count alike.
        patience: epochs without a better validation score after which training ends.
        seed: of the head, the data order and the fraction.
        allow_leaks: train and score although test records or patients were trained on, also by the
            pretraining; it is written beside the score.
        set: single keys of the configuration; take precedence over everything else.
    """
    from latentcast.terminal import Terminal
    from latentcast.workflows.finetune import finetune as run_finetuning
    from latentcast.workflows.train import Interrupted

    console = Terminal()
    try:
        done = run_finetuning(
            run, data, out, task, head=head, epochs=epochs, batch_size=batch_size, lr=lr,
            layer_decay=layer_decay, crop_seconds=crop_seconds, bidirectional=bidirectional,
            from_scratch=from_scratch, labels_fraction=labels_fraction, balanced=balanced,
            patience=patience, seed=seed, allow_leaks=allow_leaks, set=set,
        )  # fmt: skip
    except Interrupted as stopped:
        console.print(str(stopped), soft_wrap=True)
        return 130
    records = ", ".join(f"{n} {split}" for split, n in done.records.items())
    console.print(f"{out}: step {done.step} of the best validation score, {done.validation:.3f}")
    for leak in done.leaks:
        console.print(
            f"leak ({leak.severity}): {leak.kind}: {leak.count} cases "
            f"({', '.join(leak.examples)}); {leak.message}",
            soft_wrap=True,
        )
    console.print(f"test {done.metric} {done.score.main.text()} ({records})")
    for label in done.score.labels:
        area, precision = label.text(label.auroc), label.text(label.average_precision)
        console.print(f"  {label.name}: {area}, AP {precision}, {label.positives} positives")
    for name, value in done.score.others.items():
        console.print(f"  {name}: {value.text()}")
    if done.score.calibration is not None:
        console.print(f"  calibration error: {done.calibration:.3f}")
    console.print(f"latentcast predict {out} FILES --out predictions.csv", soft_wrap=True)
    return 0


def predict(
    model: Positional[Path],
    files: Positional[tuple[Path, ...]],
    out: Path,
    device: str = "auto",
    sampling_rate: float | None = None,
    leads: str | None = None,
    unit: str | None = None,
    layout: str = "records,leads,samples",
    rename: str | None = None,
    resample: bool = False,
    missing_leads: Literal["refuse", "mean"] = "refuse",
    patients: bool = False,
) -> None:
    """Write the probabilities that a fine-tuned run gives to files, as CSV or parquet.

    Files that cannot be read are left out, and listed with their reasons in a table beside it.

    Args:
        model: run of latentcast finetune, or an exported file.
        files: recordings or images, folders of them, array files, or a store.
        out: .csv or .parquet to write: an id, a probability of each label, its standard deviation
            over the crops, and how many crops there were.
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
        sampling_rate: of arrays and of files that have none (tables of leads), Hz.
        leads: of arrays, comma-separated.
        unit: of arrays and of files that have none: V, mV, uV or nV.
        layout: axes of arrays.
        rename: leads by what the files call them, as ECG1=II,ECG2=V1.
        resample: bring recordings at another rate to the model's.
        missing_leads: with "mean", recordings that lack leads are read with these at their mean of
            the training data; III, aVR, aVL and aVF are computed from I and II in any case.
        patients: of a store, a row a patient: the mean over the records, their standard deviation.
    """
    from latentcast.artifacts.classifier import Classifier
    from latentcast.artifacts.rejections import summary
    from latentcast.artifacts.tables import check_place, column_names, write_predictions
    from latentcast.data.manifest import MANIFEST
    from latentcast.data.store import Store
    from latentcast.files import apart
    from latentcast.terminal import Terminal

    if not files:
        raise LatentcastError("predict: needs files; name recordings, images or a store")
    for path in (model, *files):
        apart(out, input=path)
    if patients and not (len(files) == 1 and (files[0] / MANIFEST).is_file()):
        raise LatentcastError(
            f"{files[0]}: --patients needs a store, which names them; ingest the files, or leave "
            "--patients out"
        )
    check_place(out)
    classifier = Classifier.from_pretrained(model, device=device)
    inputs: Path | list[Path] = files[0] if len(files) == 1 else list(files)
    found = classifier.predict(
        inputs, errors="skip",
        **recording_options(sampling_rate, leads, unit, layout, rename, resample, missing_leads),
    )  # fmt: skip
    if patients:
        store = Store.open(files[0])
        patient_of = dict(zip(store.record_ids.tolist(), store.patient_ids.tolist(), strict=True))
        found = found.by_patient([patient_of[record] for record in found.ids])
    rejected, console = write_predictions(found, out), Terminal()
    done = f"{out}: {len(found.ids)} predictions of {', '.join(found.names)}"
    n = len(found.rejected)
    left = f", {n} record{'s' * (n > 1)} left out" if n else ""
    console.print(f"{done}{left}", soft_wrap=True)
    for line in summary(found.rejected):
        console.print(f"left out: {line}; all are in {rejected}", soft_wrap=True)
    renamed = set(column_names(found.names)) - set(found.names)
    if renamed:
        line = f"{out}: labels named as another column are {', '.join(sorted(renamed))}"
        console.print(line, soft_wrap=True)
    if math.isnan(classifier.choice.score):
        console.print(
            f"{model}: has no temperature, probabilities are as the network has them",
            soft_wrap=True,
        )
