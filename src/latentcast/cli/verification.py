"""The verb that measures what the others promise: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def verify(
    subjects: Positional[tuple[str, ...]] = (),
    all: bool = False,
    config: Path | None = None,
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE ...")] = (),
    seeds: int = 1,
    parity: tuple[Path, ...] = (),
    data: Path | None = None,
    replay: Annotated[float, arg(metavar="SECONDS")] = 60.0,
    out: Path | None = None,
    full: bool = False,
) -> int:
    """Measure what recipes promise, audit run folders, compare with the public references.

    The exit status is 0 only if every claim holds.

    Args:
        subjects: names of recipes, folders of runs.
        all: every recipe.
        config: YAML with all or some of the keys; takes precedence over the recipe.
        set: single keys, as encoder.depth=6; take precedence over everything else.
        seeds: repeat the claims over so many seeds.
        parity: files with numbers of a public reference (safetensors).
        data: where the store of an audited run is now, if it was moved.
        replay: for how long the last stretch of an audited run may be trained again; 0 leaves
            that out.
        out: folder for report.html, report.md, report.json and badge.svg.
        full: print a line for what holds, too.
    """
    from latentcast.recipes import RECIPES
    from latentcast.verification.verify import verify as measure

    names = (*(RECIPES if all else ()), *subjects)
    report = measure(
        names,
        config=config,
        set=set,
        seeds=seeds,
        parity=parity,
        data=data,
        replay=replay,
        out=out,
        full=full,
    )
    return 0 if report.holds else 1
