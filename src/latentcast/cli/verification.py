"""The verbs that measure promises: verify, those of the others; watch, anybody's training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from latentcast.errors import LatentcastError


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


def watch(
    script: Positional[str],
    arguments: Positional[tuple[str, ...]] = (),
    *,
    module: Annotated[bool, arg(aliases=["-m"])] = False,
    steps: int = 8,
    seconds: float | None = None,
    momentum: str | None = None,
    total: int | None = None,
    stop: bool = False,
    out: Path | None = None,
) -> int:
    """Run anybody's PyTorch training script as it stands and measure its steps.

    Flags of watch stand before the script; what stands after it is the script's. It computes what
    it computes without watch. The exit status is 0 if no line is broken, or the script's own.

    Args:
        script: a Python file; with -m, a module.
        arguments: of the script.
        module: script is a module, as for python -m.
        steps: optimizer steps to look at; then the script goes on unwatched.
        seconds: looks no longer than that after the first step.
        momentum: what that of an average should be: 0.996, or 0.996:1.0:10000 for a line from one
            to the other in so many steps.
        total: optimizer steps of the whole training; its scheduler is followed to the last one.
        stop: end the script when the report is there.
        out: folder for report.html, report.md, report.json and badge.svg.
    """
    from latentcast.verification.foreign.script import watch as run

    return run(
        script, arguments, module=module, steps=steps, seconds=seconds,
        momentum=None if momentum is None else _momentum(momentum), total=total,
        stop=stop, out=out,
    )  # fmt: skip


def _momentum(text: str) -> float | Callable[[int], float]:
    """``0.996``, or ``0.996:1.0:10000``."""
    try:
        start, *line = map(float, text.split(":"))
        if not line:
            return start
        end, steps = line
    except ValueError:
        raise LatentcastError(
            f"--momentum {text}: is no momentum; give --momentum 0.996, or --momentum "
            "0.996:1.0:10000 for a line in so many steps"
        ) from None
    return lambda step: start + (end - start) * min(1.0, step / steps)
