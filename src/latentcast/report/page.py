"""The report of a run: one HTML file that needs no network, no script and no second file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError
from latentcast.evaluation.metrics import SUPPORT
from latentcast.evaluation.results import left_out_sentence, number
from latentcast.files import write_text
from latentcast.report.curves import MOST_POINTS, first_alarms, panels, plot_curves
from latentcast.report.ecg import plot_recording
from latentcast.report.embedding import plot_embedding, shown
from latentcast.report.markup import escape, facts, interval_bar, picture, table
from latentcast.report.style import stylesheet
from latentcast.report.verdict import (
    difference_of,
    first_readings,
    interval,
    level_of,
    verdict,
)

if TYPE_CHECKING:
    from latentcast.signals.recording import Recording


def write_report(
    run_dir: str | Path,
    *,
    title: str,
    metrics: Sequence[Mapping[str, Any]],
    probe: Mapping[str, Any],
    recording: Recording,
    patch_errors: npt.ArrayLike,
    patch_seconds: float,
    predicted_from: str,
    features: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.bool_],
    classes: Sequence[str],
    features_from: str,
    what_was_run: Mapping[str, Any],
    environment: Mapping[str, Any],
    config_yaml: str,
) -> Path:
    """Write ``RUN/report.html`` atomically and return its path.

    Args:
        run_dir: folder of the run; must exist.
        title: name of the run.
        metrics: rows of ``metrics.jsonl``; see :func:`~latentcast.report.curves.plot_curves`.
        probe: JSON of a :class:`~latentcast.evaluation.results.ProbeReport`.
        recording: the ECG to show, of the test fold.
        patch_errors: (n_patches,), 1 - cosine, NaN where nothing was predicted.
        patch_seconds: length of a patch in seconds.
        predicted_from: what a patch was predicted from, in words.
        features: (records, features) of the test fold, frozen.
        labels: bool (records, classes).
        classes: names of the columns of ``labels``.
        features_from: what the features are, as in "layer block 2, mean+std".
        what_was_run: command, seeds, data, licence and attribution, in the order to be shown.
        environment: versions and machine, as in ``environment.json``; may be nested.
        config_yaml: the resolved configuration.

    Raises:
        LatentcastError: matplotlib or scikit-learn is missing, a picture's input does not fit, or
            the page cannot be written.
    """
    found = verdict(probe)
    sections = [
        _result(probe),
        _labels(probe),
        _training(metrics),
        _ecg(recording, patch_errors, patch_seconds, predicted_from),
        _map(features, labels, classes, features_from),
        _run(what_was_run, environment, config_yaml),
        _caveats(probe),
    ]
    sentences = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in found.sentences)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: {escape(found.headline)}</title>\n"
        f"<style>\n{stylesheet()}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n"
        f'<p class="verdict">{escape(found.headline)}</p>\n{_leaks(probe)}{_cards(probe)}'
        f"{sentences}</header>\n<main>\n{''.join(sections)}</main>\n"
        "<footer>Written by latentcast. Not a medical device.</footer>\n</body>\n</html>\n"
    )
    path = Path(run_dir) / "report.html"
    try:
        write_text(path, page)
    except OSError as error:
        raise LatentcastError(
            f"{path}: cannot be written ({error}); make the folder writable or free space, and "
            "run the report again"
        ) from error
    return path


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def _leaks(probe: Mapping[str, Any]) -> str:
    if not probe["leaks"]:
        return ""
    items = "".join(
        f"<li><strong>{escape(leak['severity'])}: {escape(leak['kind'])}</strong>, "
        f"{escape(leak['count'])} cases ({escape(', '.join(map(str, leak['examples'])))}). "
        f"{escape(leak['message'])}</li>\n"
        for leak in probe["leaks"]
    )
    return (
        '<div class="notice" role="note"><p><strong>The test fold may not be independent of '
        f"what the model has seen.</strong></p><ul>\n{items}</ul></div>\n"
    )


def _cards(probe: Mapping[str, Any]) -> str:
    cards = []
    for place, row in enumerate(first_readings(probe)):
        macro, kind = row["score"]["macro"], "floor" if place else "tested"
        cards.append(
            f'<li class="{kind}"><span>{escape(row["name"])}</span>'
            f"<b>{number(macro['value'])}</b>"
            f"<span>macro AUROC [{number(macro['low'])}, {number(macro['high'])}]</span></li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>\n'


def _result(probe: Mapping[str, Any]) -> str:
    level, rows = level_of(probe), probe["rows"]
    ends = [
        row["score"]["macro"][end]
        for row in rows
        for end in ("low", "high")
        if row["score"]["macro"][end] is not None
    ]
    reach = (min(ends), max(ends)) if ends else (0.0, 0.0)
    body = []
    for place, row in enumerate(rows):
        difference = difference_of(probe, row)
        body.append(
            [
                row["name"],
                f"{row['layer']} ({row['choice']})",
                row["pooling"],
                f"{row['penalty']:g}",
                number(row["validation"]),
                interval(row["score"]["macro"]),
                interval_bar(row["score"]["macro"], reach, strong=place == 0),
                interval(difference, signed=True) if difference else "",
            ]
        )
    head = [
        "features", "layer", "pooling", "C", "validation", f"test macro AUROC [{level}]", "",
        f"{rows[0]['name']} minus this [{level}]",
    ]  # fmt: skip
    counts, drawn = probe["records"], probe["bootstrap"]
    left_out = left_out_sentence(probe["records_left_out"])
    caption = (
        f"{probe['protocol']}. {counts['train']:,} / {counts['validation']:,} / "
        f"{counts['test']:,} records for training, validation, test. "
        f"{left_out}{'. ' if left_out else ''}Layer and penalty C are "
        f"chosen on the validation fold; intervals are percentiles of {drawn['resamples']:,} "
        f"bootstrap resamples of the {drawn['units']:,} test {drawn['unit']}s, drawn alike for "
        "all rows."
    )
    return _section("Linear probe", table(caption, head, body, numeric=(3, 4, 5, 7)))


def _labels(probe: Mapping[str, Any]) -> str:
    readings = first_readings(probe)
    areas = [{label["name"]: label["auroc"] for label in r["score"]["labels"]} for r in readings]
    splits = list(probe["records"])
    body = []
    for label in probe["labels"]:
        few = label["positives"]["test"] < SUPPORT
        name = label["name"] + (" *" if few else "")
        if label["left_out"]:
            name += f" ({label['left_out']})"
        scores = [interval(held.get(label["name"], {})) for held in areas]
        body.append([name, *(f"{label['positives'][split]:,}" for split in splits), *scores])
    head = ["label", *(f"{split} positives" for split in splits), *(r["name"] for r in readings)]
    caption = f"Test AUROC of each label [{level_of(probe)}]."
    if any(label["positives"]["test"] < SUPPORT for label in probe["labels"]):
        caption += f" * fewer than {SUPPORT} positives in the test fold: read with care."
    drawn = table(caption, head, body, numeric=range(1, len(head)))
    return _section("Label by label", _supported(probe), drawn)


def _supported(probe: Mapping[str, Any]) -> str:
    """The averages over labels with enough positives, where some labels have too few."""
    enough = [
        label["positives"]["test"] >= SUPPORT and not label["left_out"] for label in probe["labels"]
    ]
    if all(enough) or not any(enough):
        return ""
    count = sum(enough)
    which = f"{count} labels" if count > 1 else "one label"
    averages = ", ".join(
        f"{row['name']} {interval(row['score']['supported'])}" for row in first_readings(probe)
    )
    said = f"Over the {which} with {SUPPORT} or more positives: {averages}."
    return f"<p>{escape(said)}</p>\n"


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
    last: Mapping[str, Any] = next(
        (row for row in reversed(metrics) if row.get("loss") is not None), {}
    )
    loss, copied = last.get("loss"), last.get("copy_last_loss")
    said = f"{len(metrics):,} logged rows, the last at step {last.get('step', '–')}. "
    if loss is not None and copied is not None:
        against = "below" if loss < copied else "not below"
        said += (
            f"The loss ended at {number(loss, signed=True)}, {against} that of repeating the last "
            f"patch ({number(copied, signed=True)}): "
            + (
                "the model predicts more than a copy."
                if loss < copied
                else "the model predicts no more than a copy would."
            )
        )
    ranks = {n: last.get(f"level{n}_target_rank") for n in range(len(last))}
    if told := {n: rank for n, rank in ranks.items() if rank is not None}:
        said += f"The loss ended at {number(loss)}, the effective rank of the targets at "
        said += ", ".join(
            f"{rank:.0f} (level {n})" if len(told) > 1 else f"{rank:.0f}"
            for n, rank in told.items()
        )
        said += ". "
    binned = len(metrics) > MOST_POINTS
    drawn_panels = panels(metrics)
    drawn = picture(
        plot_curves(metrics),
        "curves",
        f"{len(drawn_panels)} training curves over the optimizer step: "
        f"{', '.join(panel.title for panel in drawn_panels)}. {said}",
        ("Lines are means of the logged rows in a bin, bands their range. " if binned else "")
        + "A shaded stretch is one in which an alarm was raised.",
        paper=False,
    )
    return _section("Training", f"<p>{escape(said)}</p>\n", drawn, _alarms(metrics))


def _alarms(metrics: Sequence[Mapping[str, Any]]) -> str:
    watched = [row for row in metrics if "alarms" in row]
    if not watched:
        return (
            "<p>Collapse alarms: the metrics of this run hold none, collapse was not watched.</p>"
        )
    found = first_alarms(watched)
    if not found:
        return f"<p>Collapse alarms: none in {len(watched):,} logged rows.</p>\n"
    still = set(watched[-1]["alarms"])
    body = [
        [name, f"{first:,}", f"{count:,} of {len(watched):,}", "yes" if name in still else "no"]
        for name, (first, count) in found.items()
    ]
    head = ["alarm", "first step", "logged rows", "still raised at the end"]
    return '<div class="notice">' + (
        table("Collapse alarms raised while training.", head, body, numeric=(1, 2)) + "</div>\n"
    )


def _ecg(
    recording: Recording, patch_errors: npt.ArrayLike, patch_seconds: float, predicted_from: str
) -> str:
    errors = np.asarray(patch_errors, dtype=np.float64)
    seen = errors[np.isfinite(errors)]
    spread = (
        f"median {np.median(seen):.2f}, largest {seen.max():.2f} in the patch at "
        f"{np.nanargmax(errors) * patch_seconds:.2f} s"
        if seen.size
        else "no patch was predicted"
    )
    drawn = picture(
        plot_recording(recording, patch_errors=errors, patch_seconds=patch_seconds),
        "ecg",
        f"ECG of record {recording.record_id} with leads {', '.join(recording.leads)} on "
        f"millimetre paper, tinted by the prediction error of each patch: {spread}.",
        "How to read it: each vertical band is one patch, and the darker the band and the taller "
        f"its bar, the less of it the model foresaw from {predicted_from}; an error of 0 is a "
        "perfect prediction, 1 is no better than an unrelated direction. Surprise is not "
        f"abnormality. Here: {spread}.",
        paper=True,
    )
    return _section("Where the model is surprised", drawn)


def _map(
    features: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.bool_],
    classes: Sequence[str],
    features_from: str,
) -> str:
    features, labels, named = shown(features, labels, classes)
    which = ""
    if len(named) < len(classes):
        which = f" Shown are the {len(named)} most frequent of {len(classes)} classes."
    drawn = picture(
        plot_embedding(features, labels, named),
        "map",
        f"Two maps of {len(features):,} test records, by principal components "
        f"and by t-SNE, coloured by {', '.join(named)}, and one small t-SNE map for each.",
        f"{len(features):,} records of the test fold, {features_from}.{which} Grey: several of "
        "these classes, or none. Left: first two principal components. Right and below: "
        "t-SNE of the leading components. For looking only: distances between groups, their size "
        "and their number mean nothing in t-SNE; what the features are worth is in the tables.",
        paper=False,
    )
    return _section("Map of the features", drawn)


def _run(what: Mapping[str, Any], environment: Mapping[str, Any], config_yaml: str) -> str:
    return _section(
        "What was run",
        facts(what),
        "<h3>Environment</h3>\n",
        facts(environment),
        "<details><summary>Resolved configuration; this file alone reproduces the run</summary>"
        f"<pre>{escape(config_yaml)}</pre></details>\n",
    )


def _caveats(probe: Mapping[str, Any]) -> str:
    positives = [label["positives"]["test"] for label in probe["labels"]]
    unit = probe["bootstrap"]["unit"]
    said = [
        f"The intervals say how the result varies with the choice of test {unit}s. They do not "
        "hold the variation between training seeds, which needs several runs.",
        f"The test fold has {probe['records']['test']:,} records and its rarest label "
        f"{min(positives, default=0):,} positives; small differences cannot be seen in it.",
        "A linear probe of frozen features measures what is readable by a line. It ranks "
        "representations otherwise than fine-tuning or an attention head does, and its numbers "
        "must not stand in one table with theirs.",
        "One data source: nothing here says how the features carry over to another hospital or "
        "device.",
    ]
    left_out = [f"{x['name']} ({x['left_out']})" for x in probe["labels"] if x["left_out"]]
    if left_out:
        said.append(f"In no average: {', '.join(left_out)}.")
    return _section("Caveats", f"<ul>{''.join(f'<li>{escape(x)}</li>' for x in said)}</ul>\n")
