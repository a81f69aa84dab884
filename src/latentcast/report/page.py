"""The report of a run: one HTML file that needs no network, no script and no second file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError
from latentcast.evaluation.results import ProbeReport
from latentcast.files import write_text
from latentcast.report import probe as probed
from latentcast.report import score_pictures
from latentcast.report.markup import Html, document, escape, facts, notice, section, table
from latentcast.report.picture import Picture, side_by_side, write_figures
from latentcast.report.training import cards, curves, standing, training
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
    sections = [
        tuned.section(of_tuning) if tuned else "",
        *(_probe(probe, drawn) for probe, drawn in zip(probes, of_probes, strict=True)),
        training(metrics, steps, of_training),
        *(one.section() for one in pictures),
        _configuration(changes, config_yaml),
        _environment(what_was_run, environment),
        _caveats(probes),
    ]
    sentences = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in found.sentences)
    header = (
        f'<p class="verdict">{escape(found.headline)}</p>\n'
        f"{notice([escape(remark) for remark in remarks])}{_first(probes, tuned, metrics)}"
        f"{sentences}"
    )
    footer = "Written by latentcast. Not a medical device."
    page = document(f"{title}: {found.headline}", title, header, "".join(sections), footer)
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


def _first(
    probes: Sequence[ProbeReport], tuned: Tuned | None, metrics: Sequence[Mapping[str, Any]]
) -> str:
    """The leaks of all probes and the scores of the first; without one, where training stands."""
    warnings = "".join(probed.leaks(probe) for probe in probes)
    items = probed.cards(probes[0]) if probes else tuned.cards() if tuned else cards(metrics)
    return warnings + (f'<ul class="cards">{items}</ul>\n' if items else "")


def _probe(probe: ProbeReport, drawn: Sequence[Picture]) -> str:
    """Of two probes of one task the titles, or the weights and stores below them, differ."""
    about = {"weights": probe.weights, "store": probe.data.get("store")}
    parts = [f"the {name} {value}" for name, value in about.items() if value]
    remark = f"<p>Of {escape(', '.join(parts))}.</p>\n" if parts else ""
    title = ", ".join(filter(None, (probe.task, probe.variant)))
    return probed.sections(probe, f"Probe: {title}", remark, side_by_side(drawn))


def _key(key: str) -> Html:
    """A dotted key that a narrow window breaks behind a dot."""
    return Html(f"<code>{escape(key).replace('.', '.<wbr>')}</code>")


def _configuration(changes: Sequence[Change] | None, config_yaml: str) -> str:
    if changes is None:
        differences = "<p>latentcast has no recipe of that name to compare with.</p>\n"
    elif not changes:
        differences = "<p>The recipe as it is, in every key.</p>\n"
    else:
        body = [[_key(key), *values] for key, *values in changes]
        caption = (
            "Keys that differ from the recipe. Those of machine are no part of what was trained."
        )
        differences = table(caption, ["key", "this run", "recipe"], body, numeric=())
    return section(
        "Configuration",
        differences,
        "<details><summary>Resolved configuration; this file alone reproduces the run</summary>"
        f"<pre>{escape(config_yaml)}</pre></details>\n",
    )


def _environment(what: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Resumes under another machine or version apart, checksums folded away."""
    facts_of_run = dict(environment)
    resumed, data = facts_of_run.pop("resumed_under", None) or [], facts_of_run.get("data")
    checksums: Mapping[str, Any] = {}
    if isinstance(data, Mapping) and isinstance(data.get("sha256"), Mapping):
        checksums = data["sha256"]
        facts_of_run["data"] = {name: value for name, value in data.items() if name != "sha256"}
    parts = [facts(what), "<h3>Environment</h3>\n", facts(facts_of_run)]
    if resumed:
        changes = {f"{n}": dict(change) for n, change in enumerate(resumed, 1) if change}
        parts += ["<h3>Resumed under</h3>\n", facts(changes)]
    if checksums:
        parts.append(
            f"<details><summary>SHA-256 of the data, {len(checksums)} "
            f"file{'s' * (len(checksums) != 1)}</summary>{facts(checksums)}</details>\n"
        )
    return section("What was run", *parts)


def _caveats(probes: Sequence[ProbeReport]) -> str:
    found = [sentence for probe in probes for sentence in probed.caveats(probe)]
    if not found:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in dict.fromkeys(found))
    return section("Caveats", f"<ul>{items}</ul>\n")
