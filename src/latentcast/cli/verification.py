"""The verb that measures what the others promise: verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from latentcast.errors import LatentcastError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from latentcast.verification.report.lines import Section


REPLAY = 60.0


def verify(
    subjects: Positional[tuple[str, ...]] = (),
    all: bool = False,
    seeds: int = 1,
    parity: tuple[Path, ...] = (),
    data: Path | None = None,
    replay: Annotated[float, arg(metavar="SECONDS")] = REPLAY,
    out: Path | None = None,
) -> int:
    """Measure what recipes promise, audit run folders, compare with the public references.

    The exit status is 0 only if every claim holds.

    Args:
        subjects: names of recipes, folders of runs.
        all: every recipe.
        seeds: repeat the claims over so many seeds.
        parity: files with numbers of a public reference (safetensors).
        data: where the store of an audited run is now, if it was moved.
        replay: for how long the last stretch of an audited run may be trained again; 0 leaves
            that out.
        out: folder for report.html, report.md, report.json and badge.svg.
    """
    from latentcast.data.store import Store
    from latentcast.recipes import RECIPES
    from latentcast.runs import is_run

    names = (*(RECIPES if all else ()), *subjects)
    if not names and not parity:
        raise LatentcastError(
            "verify: has nothing to compare; name recipes or run folders, give --all, or give "
            "files with --parity"
        )
    if seeds < 1:
        raise LatentcastError(f"--seeds {seeds}: measures nothing; give 1 or more")
    if not replay >= 0:
        raise LatentcastError(f"--replay {replay:g}: is no time; give seconds, 0 to leave it out")
    recipes = [name for name in names if name in RECIPES]
    for given, needs, flag in (
        (data is not None, len(recipes) < len(names), f"--data {data}: names a run folder's store"),
        (seeds > 1, recipes, f"--seeds {seeds}: repeats the claims of a recipe"),
        (replay != REPLAY, len(recipes) < len(names), f"--replay {replay:g}: trains a run again"),
    ):
        if given and not needs:
            raise LatentcastError(f"{flag}, and there is none here; give it or leave this out")
    for name in names:  # before the first minute is spent
        if name not in RECIPES and not is_run(Path(name)):
            raise LatentcastError(
                f"{name}: is neither a recipe nor a run folder; {nearest(name, RECIPES)}"
            )

    if data is not None:
        Store.open(data)

    from rich.console import Console

    from latentcast.runs.new import surroundings
    from latentcast.verification.audit.checks import audit
    from latentcast.verification.parity.compare import compare
    from latentcast.verification.report.console import print_section, print_verdict
    from latentcast.verification.report.lines import Report
    from latentcast.verification.report.page import write_report, writing_to
    from latentcast.verification.report.table import print_agreements
    from latentcast.verification.suite import parity_section

    console, sections = Console(), list["Section"]()
    agreed = {file: compare(file) for file in parity}  # seconds; a bad file is told before hours
    if out is not None:
        with writing_to(out):
            pass
    for name in dict.fromkeys(names):
        if name in RECIPES:
            section = _recipe(name, seeds, console)
        else:
            with console.status(f"auditing {name}"):
                section = audit(Path(name), data, replay)
        sections.append(section)
        print_section(section, console)
    for file, agreements in agreed.items():
        print_agreements(file, agreements, console)
        sections.append(parity_section(file, agreements))
    report = Report(tuple(sections), surroundings())
    if names:
        print_verdict(report, console)
    if out is not None:
        console.print(f"report: {write_report(report, out)}", soft_wrap=True)
    return 0 if report.holds else 1


def _recipe(name: str, seeds: int, console: Console) -> Section:
    """Measured under a line that says where it is."""
    from latentcast.recipes import recipe
    from latentcast.verification.claim import Finding
    from latentcast.verification.claims import all_claims
    from latentcast.verification.suite import verify_recipe

    with console.status(f"verifying {name}") as status:

        def told(found: object) -> None:
            if isinstance(found, Finding):
                status.update(f"verifying {name}: {found.claim.id}")

        return verify_recipe(recipe(name), all_claims(), seeds=seeds, told=told)
