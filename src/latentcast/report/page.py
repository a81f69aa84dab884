"""The report of a run: one HTML file that needs no network, no script and no second file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from latentcast.errors import LatentcastError
from latentcast.evaluation.results import ProbeReport
from latentcast.files import write_text
from latentcast.report import probe as probed
from latentcast.report import score_pictures
from latentcast.report.picture import Picture, write_figures
from latentcast.report.svg import escape
from latentcast.report.templates import Table, render
from latentcast.report.training import Training, cards, curves, standing
from latentcast.report.tuned import Tuned
from latentcast.report.verdict import Verdict, verdict

PAGE = "report.html"
Change = tuple[str, str, str]
"""A dotted key of the configuration, its value in the run, its value in the recipe."""


def write_report(
    run_dir: str | Path,
    *,
    title: str,
    steps: int | None,
    metrics: Sequence[Mapping[str, Any]],
    probes: Sequence[ProbeReport],
    changes: Sequence[Change] | None,
    what_was_run: Mapping[str, Any],
    environment: Mapping[str, Any],
    config_yaml: str,
    pictures: Sequence[Picture] = (),
    tuned: Tuned | None = None,
    remarks: Sequence[str] = (),
    figures: Path | None = None,
) -> Path:
    """Write ``RUN/report.html`` atomically and return its path.

    Args:
        run_dir: folder of the run; must exist.
        title: name of the run.
        steps: length of the whole run.
        metrics: rows of ``metrics.jsonl``; see :func:`~latentcast.report.curves.plot_curves`.
        probes: the first one makes the headline.
        changes: what differs from the recipe; None where this version has no such recipe.
        what_was_run: command, seeds, data, licence and attribution, in the order to be shown.
        environment: versions and machine, as in ``environment.json``; may be nested.
        config_yaml: the resolved configuration.
        pictures: what only the network or a store can show.
        tuned: what a fine-tuning found.
        remarks: what a reader must know of the files of the run, above all else.
        figures: folder for every picture of the page, as PDF and SVG with captions.

    Raises:
        LatentcastError: matplotlib or scikit-learn is missing, a picture's input does not fit, or
            the page cannot be written.
    """
    found = _verdict(probes, tuned, metrics, steps)
    of_probes = [
        score_pictures.of_probe(probe, f"-{n}" if n > 1 else "")
        for n, probe in enumerate(probes, 1)
    ]
    of_tuning = tuned.pictures() if tuned else []
    of_training = curves(metrics, steps)
    first = probed.cards(probes[0]) if probes else tuned.cards() if tuned else cards(metrics)
    caveats = dict.fromkeys(sentence for probe in probes for sentence in probed.caveats(probe))
    page = render(
        "run.html", title=title, verdict=found, remarks=remarks, cards=first,
        leaks=[probe.leaks for probe in probes],
        tuned=tuned, of_tuning=of_tuning, side_by_side=probed.side_by_side(probes),
        probes=[
            probed.ProbeSection(probe, drawn)
            for probe, drawn in zip(probes, of_probes, strict=True)
        ],
        training=Training(metrics, steps, of_training), pictures=pictures,
        changes=changes, differences=_differences(changes or ()), config_yaml=config_yaml,
        what_was_run=what_was_run, caveats=caveats, **_environment(environment),
    )  # fmt: skip
    if figures is not None:
        drawn = [of_training, *of_tuning, *(one for part in of_probes for one in part), *pictures]
        write_figures(drawn, figures)
    path = Path(run_dir) / PAGE
    try:
        write_text(path, page)
    except OSError as error:
        raise LatentcastError(
            f"{path}: cannot be written ({error}); make the folder writable or free space, and "
            "run the report again"
        ) from error
    return path


def _verdict(
    probes: Sequence[ProbeReport],
    tuned: Tuned | None,
    metrics: Sequence[Mapping[str, Any]],
    steps: int | None,
) -> Verdict:
    if probes:
        return verdict(probes[0])
    if tuned is not None:
        return Verdict("undefined", tuned.headline, (standing(metrics, steps) + ".",))
    advice = "Not probed: latentcast probe scores the features next to their floors."
    return Verdict("undefined", standing(metrics, steps), (advice,))


def _differences(changes: Sequence[Change]) -> Table:
    """From the recipe; a narrow window breaks a dotted key behind a dot."""
    body = [
        [Markup("<code>{}</code>").format(escape(key).replace(".", Markup(".<wbr>"))), *values]
        for key, *values in changes
    ]
    caption = "Keys that differ from the recipe. Those of machine are no part of what was trained."
    return Table(caption, ["key", "this run", "recipe"], body, (), kind="")


def _environment(environment: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Resumes under another machine or version apart, and checksums."""
    found = dict(environment)
    resumed, data = found.pop("resumed_under", None) or [], found.get("data")
    checksums: Mapping[str, Any] = {}
    if isinstance(data, Mapping) and isinstance(data.get("sha256"), Mapping):
        checksums = data["sha256"]
        found["data"] = {name: value for name, value in data.items() if name != "sha256"}
    changes = {f"{n}": dict(change) for n, change in enumerate(resumed, 1) if change}
    return {"environment": found, "resumed": changes, "checksums": checksums}
