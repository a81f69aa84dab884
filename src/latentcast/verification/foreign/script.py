"""``latentcast watch``: a training script as it stands, run in this process."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.terminal import Terminal
from latentcast.verification.foreign.average import Momentum
from latentcast.verification.foreign.watch import STEPS, Watch
from latentcast.verification.report.console import print_section, print_verdict
from latentcast.verification.report.page import writing_to


class Stopped(SystemExit):
    """Ends a script after the steps that were to be watched."""


def watch(
    script: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    steps: int = STEPS,
    seconds: float | None = None,
    momentum: Momentum | None = None,
    total: int | None = None,
    stop: bool = False,
    out: str | Path | None = None,
) -> int:
    """Run a training script and measure its optimizer steps; it computes what it computes alone.

    The report is printed on the error stream, which leaves the script's own output as it is.

    Args:
        script: a file, or with ``module`` what ``python -m`` takes.
        arguments: of the script.
        steps: optimizer steps to look at; then the script goes on unwatched.
        seconds: looks no longer than that after the first step.
        momentum: what that of an average should be, a number or a function of the step from 0.
        total: optimizer steps of the whole training; its scheduler is followed to the last one.
        stop: end the script when the report is there.
        out: folder for ``report.html``, ``report.md``, ``report.json`` and ``badge.svg``.

    Returns:
        The exit status: the script's own where it failed, else 1 if a line is broken.

    Raises:
        LatentcastError: there is no such script, or no torch optimizer took a step.
    """
    if steps < 1:
        raise LatentcastError(f"--steps {steps}: watches nothing; give 1 or more")
    if not module and not Path(script).is_file():
        raise LatentcastError(f"{script}: is no file; name a script, or a module after -m")
    if out is not None:
        with writing_to(Path(out)):
            pass
    rank = int(os.environ.get("RANK", 0))
    name = " ".join([*(["-m"] if module else []), script, *arguments])
    written = False

    def write() -> None:
        nonlocal written
        written = True
        if rank:
            return
        console = Terminal(stderr=True)
        report = watching.report(name)
        print_section(report.sections[0], console)
        print_verdict(report, console)
        if out is not None:
            console.print(f"report: {watching.write(Path(out), name)}", soft_wrap=True)

    def ended() -> None:
        write()
        if stop:
            raise Stopped(0)

    watching = Watch(steps, seconds, momentum, ended, total)
    status = 0
    with watching.session, _as_main(script, arguments, module):
        try:
            if module:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except Exception:
            traceback.print_exc()
            status = 1
    if not watching.steps:
        if status:
            return status
        raise LatentcastError(
            f"{name}: no torch optimizer took a step in this process; give arguments with which "
            "it trains, and no processes of its own"
        )
    if not written:
        write()
    return status or int(not watching.holds)


@contextmanager
def _as_main(script: str, arguments: Sequence[str], module: bool) -> Iterator[None]:
    """Arguments and import path as Python itself would set them."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path.cwd() if module else Path(script).resolve().parent)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
