"""One recording on one page: the ECG on clinical paper, and what a model makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.classifier import Classifier, Predicted
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.recordings import ArrayAxes, MissingLeads, RecordingReader
from latentcast.config import EcgInput
from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.report.ecg import LONGEST_SECONDS, plot_recording
from latentcast.report.patch_error import mean_over_leads
from latentcast.report.picture import Picture
from latentcast.report.templates import Table, render
from latentcast.signals.counts import choose_valid
from latentcast.signals.recording import Recording
from latentcast.signals.windows import window_starts

NOTICE = "Research use only. Not for diagnosis."
_FIELDS = {
    "age": "age, years", "sex": "sex", "recording_date": "recorded", "device": "device",
    "filter": "filter", "site": "site", "report": "report", "format": "format of the file",
}  # fmt: skip
"""Of the metadata, and how the page calls them."""


def write_view(
    file: str | Path,
    model: str | Path,
    out: str | Path,
    axes: ArrayAxes | None = None,
    missing_leads: MissingLeads = "refuse",
    device: str = "auto",
) -> Path:
    """Write the page of one ECG file.

    Args:
        file: of one recording, in any format that ingest reads.
        model: run, exported file or folder, or a model that ships. Of a fine-tuned run the page
            has its probabilities; of a pretraining run the error of each patch.
        out: the page.
        axes: rate, unit and names of leads, of files that do not name them.
        missing_leads: with ``mean`` leads that are missing are read at their mean.
        device: to compute on.

    Raises:
        LatentcastError: the file or the model cannot be read, the model is of images, the recording
            is longer than a page, matplotlib is not installed.
    """
    encoder = Encoder.from_pretrained(model, device=device)
    settings, shape = encoder.config.objective, encoder.config.input
    if not isinstance(shape, EcgInput):
        raise LatentcastError(
            f"{model}: was trained on images; name a model of recordings (latentcast models)"
        )
    reader = RecordingReader(shape, axes or ArrayAxes(), resample=True, missing_leads=missing_leads)
    found = list(reader.load(file))
    if len(found) != 1:
        raise LatentcastError(f"{file}: holds {len(found)} recordings; name a file of one")
    recording = replace(found[0], record_id=Path(file).stem)
    if recording.seconds > LONGEST_SECONDS:
        raise LatentcastError(
            f"{file}: lasts {recording.seconds:.0f} s, a page holds {LONGEST_SECONDS:.0f} s; read "
            "it without a page (latentcast embed)"
        )
    shown, findings = choose_valid(recording, recording.leads, mask_missing=True)
    counts = reader.counts(recording)
    prediction, errors = None, None
    if isinstance(settings, SupervisedConfig) and not encoder.alone:
        classifier = Classifier.from_pretrained(model, device=device)
        predicted = classifier.predict(recording, resample=True, missing_leads=missing_leads)
        prediction = _prediction(classifier, predicted)
    elif encoder.predicted_from is not None:
        errors = _errors(encoder, reader, counts)
    remarks = [finding.message for finding in findings] + list(reader.completed)
    if recording.sampling_rate != shape.sampling_rate:
        rates = f"{recording.sampling_rate:g} to {shape.sampling_rate:g} Hz"
        remarks.insert(0, f"for the model it was resampled from {rates}")
    name = Path(model).name if Path(model).exists() else str(model)
    page = render(
        "view.html", title=f"ECG {recording.record_id}", notice=NOTICE,
        drawn=_drawn(shown, errors, encoder), predicted=errors is not None,
        task=settings.task if isinstance(settings, SupervisedConfig) else "",
        prediction=prediction, from_the_file=_about(recording, remarks),
        made_by=f"latentcast {metadata.version('latentcast')}; model {name} ({encoder.weights})",
    )  # fmt: skip
    write_text(Path(out), page)
    return Path(out)


def _drawn(
    recording: Recording, errors: npt.NDArray[np.float64] | None, encoder: Encoder
) -> Picture:
    seconds = None if errors is None else encoder.patch_seconds
    caption = "25 mm/s, 10 mm/mV."
    if errors is not None:
        caption += (
            " Each vertical band is one patch: the darker it is and the taller its bar, the worse "
            f"it was predicted from {encoder.predicted_from}. Surprise is not abnormality."
        )
    return Picture(
        "ecg", "Recording", plot_recording(recording, patch_errors=errors, patch_seconds=seconds),
        f"ECG with leads {', '.join(recording.leads)} on millimetre paper.", caption, paper=True,
    )  # fmt: skip


def _errors(
    encoder: Encoder, reader: RecordingReader, counts: npt.NDArray[np.int16]
) -> npt.NDArray[np.float64]:
    """Of each patch of the recording, ``1 − cos``; NaN where none was predicted."""
    patch = round(encoder.patch_seconds * encoder.sampling_rate)
    found = np.asarray(encoder.patch_errors(reader.windows(counts)), np.float64)
    found = mean_over_leads(found, reader.config.lead_rows)
    errors = np.full(math.ceil(len(counts) / patch), np.nan)
    for start, row in zip(window_starts(len(counts), reader.length), found, strict=True):
        first = round(start / patch)
        if start % patch == 0:
            span = errors[first : first + len(row)]
            row = row[: len(span)]
            span[:] = np.where(np.isnan(span), row, span)
    return errors


def _prediction(classifier: Classifier, predicted: Predicted) -> Table:
    choice, settings = classifier.choice, classifier.settings
    rows = []
    for name, value, spread, threshold in zip(
        predicted.names,
        predicted.values[0],
        predicted.spread[0],
        classifier.thresholds,
        strict=True,
    ):
        limit = "" if math.isnan(threshold) else f"{threshold:.3f}"
        limit += ", reached" * bool(value >= threshold)
        rows.append([name, f"{value:.3f}", f"± {spread:.3f}", limit])
    crops = int(predicted.crops[0])
    how = f"The mean over {crops} crop{'s' * (crops > 1)} and the standard deviation over them."
    calibrated = (
        "The probabilities have no temperature: they are as the network has them."
        if math.isnan(choice.score)
        else f"Calibrated on validation data (temperature {choice.temperature:.2f}), from which "
        "the thresholds come too."
    )
    value = "value" if settings.target == "regression" else "probability"
    head = ("label", value, "spread", "threshold")
    if settings.target == "regression":
        calibrated = ""
    return Table(f"{how} {calibrated}".strip(), head, rows, (1, 2))


def _about(recording: Recording, remarks: list[str]) -> dict[str, Any]:
    found = recording.metadata
    rows: dict[str, Any] = {"patient": recording.patient_id}
    rows |= {title: found.get(key) for key, title in _FIELDS.items()}
    if isinstance(age := found.get("age"), float):
        rows[_FIELDS["age"]] = f"{age:g}"
    labels = found.get("labels")
    if isinstance(labels, Mapping) and labels:
        rows["labels in the file"] = ", ".join(map(str, labels))
    rows |= {
        "sampling rate": f"{recording.sampling_rate:g} Hz", "length": f"{recording.seconds:g} s",
        "leads": ", ".join(recording.leads), "remarks": "; ".join(remarks) or None,
    }  # fmt: skip
    return rows
