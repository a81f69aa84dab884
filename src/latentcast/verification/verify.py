"""The one call behind ``latentcast verify``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.config.resolve import Flags, listed
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, nearest
from latentcast.files import apart
from latentcast.places import refuse_model
from latentcast.recipes import RECIPES
from latentcast.recipes import recipe as named
from latentcast.runs import is_run
from latentcast.runs.folder import run_of
from latentcast.runs.new import surroundings
from latentcast.signatures import checked
from latentcast.terminal import Terminal
from latentcast.verification.audit.audit import audit
from latentcast.verification.claim import Finding
from latentcast.verification.claims import all_claims
from latentcast.verification.evidence import first_of
from latentcast.verification.observe.twin import Twin
from latentcast.verification.parity.compare import compare
from latentcast.verification.report.console import print_agreements, print_section, print_verdict
from latentcast.verification.report.lines import Report, Section
from latentcast.verification.report.page import write_report, writing_to
from latentcast.verification.suite import parity_section, verify_recipe

Subject = str | Path | Config
"""The name of a recipe, a configuration, or the folder of a run."""
REPLAY = 60.0


@checked
def verify(
    subject: Subject | Sequence[Subject] = (),
    *,
    config: str | Path | None = None,
    set: Flags = (),
    seeds: int = 1,
    parity: str | Path | Sequence[str | Path] = (),
    data: str | Path | None = None,
    replay: float = REPLAY,
    out: str | Path | None = None,
    full: bool = False,
    quiet: bool = False,
) -> Report:
    """Measure what configurations promise, audit run folders, compare with the public references.

    Args:
        subject: what to verify, one or several: a recipe by its name or a configuration, of which
            a small twin is built and measured; the folder of a run, which is audited.
        config: YAML with all or some of the keys; takes precedence over the recipe, and stands
            alone where it has all.
        set: single keys, as ``optimizer.lr=3e-4``; take precedence over everything else.
        seeds: repeat the claims of a configuration over so many seeds.
        parity: files with numbers of a public reference (safetensors).
        data: where the store of an audited run is now, if it was moved.
        replay: seconds for which the last stretch of an audited run may be trained again; 0 leaves
            that out.
        out: folder for ``report.html``, ``report.md``, ``report.json`` and ``badge.svg``.
        full: print a line for what holds, too.
        quiet: print nothing.

    Returns:
        The report; its ``holds`` is True only if every claim holds.

    Raises:
        LatentcastError: there is nothing to verify, something is neither a recipe nor a run, an
            argument belongs to something that is not verified here, or a configuration has no
            small twin.
    """
    subjects = [subject] if isinstance(subject, str | Path | Config) else list(subject)
    if config is not None and not subjects:
        subjects, config = [configuration.load(Path(config))], None
    files = [Path(parity)] if isinstance(parity, str | Path) else [Path(file) for file in parity]
    flags = listed(set)
    _check(subjects, files, config, flags, seeds, data, replay)
    made = {_name(one): _configured(one, config, flags) for one in subjects if not _is_run(one)}
    if out is not None:  # a bad folder or file is an error before the first minute is spent
        for path in filter(None, (*filter(_is_run, subjects), data, config, *files)):
            apart(out, input=str(path))
        with writing_to(Path(out)):
            pass
    if data is not None:
        Store.open(data)
    agreements = {file: compare(file) for file in files}

    console, sections = Terminal(quiet=quiet), list[Section]()
    for name, one in {_name(one): one for one in subjects}.items():
        if _is_run(one):
            with console.status(f"auditing {name}"):
                section = audit(
                    run_of(Path(str(one))), None if data is None else Path(data), replay
                )
        else:
            section = _measured(name, *made[name], seeds, console)
        sections.append(section)
        print_section(section, console, full)
    for file, found in agreements.items():
        print_agreements(file, found, console)
        sections.append(parity_section(file, found))
    report = Report(tuple(sections), surroundings())
    if subjects:
        print_verdict(report, console)
    if out is not None:
        console.print(f"report: {write_report(report, Path(out))}", soft_wrap=True)
    return report


def _name(subject: Subject) -> str:
    return subject.recipe if isinstance(subject, Config) else str(subject)


def _folder(subject: Subject) -> Path:
    """Of a run, also where one of its checkpoints is named: an audit is of all of them."""
    return run_of(Path(str(subject)))


def _is_run(subject: Subject) -> bool:
    return not isinstance(subject, Config) and str(subject) not in RECIPES


def _check(
    subjects: Sequence[Subject], parity: Sequence[Path], config: str | Path | None,
    flags: Sequence[str], seeds: int, data: str | Path | None, replay: float,
) -> None:  # fmt: skip
    if not subjects and not parity:
        raise LatentcastError(
            "verify: has nothing to compare; name recipes or run folders, give --all, --config or "
            "files with --parity"
        )
    if seeds < 1:
        raise LatentcastError(f"--seeds {seeds}: measures nothing; give 1 or more")
    if not replay >= 0:
        raise LatentcastError(f"--replay {replay:g}: is no time; give seconds, 0 to leave it out")
    runs = [subject for subject in subjects if _is_run(subject)]
    recipes = len(subjects) > len(runs)
    for is_set, needed, flag in (
        (data is not None, runs, f"--data {data}: names a run folder's store"),
        (replay != REPLAY, runs, f"--replay {replay:g}: trains a run again"),
        (seeds > 1, recipes, f"--seeds {seeds}: repeats the claims of a recipe"),
        (config is not None, recipes, f"--config {config}: changes a recipe"),
        (bool(flags), recipes, f"--set {' '.join(flags)}: changes a recipe"),
    ):
        if is_set and not needed:
            raise LatentcastError(f"{flag}, and there is none here; give it or leave this out")
    for run in runs:
        refuse_model(
            _folder(run), "and an audit compares the files of a run; latentcast inspect {} reads "
            "its weights and prints what it holds",
        )  # fmt: skip
        if not is_run(_folder(run)):
            raise LatentcastError(
                f"{run}: is neither a recipe nor a run folder; {nearest(str(run), RECIPES)}"
            )


def _configured(
    subject: Subject, file: str | Path | None, flags: Sequence[str]
) -> tuple[Config, list[str]]:
    """The configuration to measure, and in what it is another than its recipe.

    Raises:
        LatentcastError: no small twin can be built of it.
    """
    base = subject if isinstance(subject, Config) else named(str(subject))
    resolved = configuration.resolve(base, None if file is None else Path(file), flags)
    shipped = named(base.recipe) if base.recipe in RECIPES else None
    changes = [] if shipped is None else configuration.differences(resolved, shipped)
    if shipped is None or changes:
        try:
            Twin(resolved).close()
        except LatentcastError as problem:
            raise LatentcastError(
                f"{base.recipe}: has no small twin to be measured ({problem})"
            ) from None
    return resolved, changes


def _measured(
    name: str, config: Config, changes: Sequence[str], seeds: int, console: Terminal
) -> Section:
    """Under a line that says where it is."""
    with nullcontext() if console.quiet else console.status(f"verifying {name}") as status:

        def notify(finding: Finding) -> None:
            if status is not None:
                status.update(f"verifying {name}: {finding.claim.id}")

        section = verify_recipe(config, all_claims(), seeds=seeds, notify=notify)
    if not changes:
        return section
    facts = {**section.facts, "changed": first_of(changes)}
    return replace(section, name=f"{name}, changed", facts=facts)
