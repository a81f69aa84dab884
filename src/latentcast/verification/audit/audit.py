"""A run folder held against its own promises, after the fact: finished, stopped or running."""

from __future__ import annotations

import time
from pathlib import Path

from latentcast.verification.audit import checks, replay
from latentcast.verification.audit.run import Check, Run, Unmeasured
from latentcast.verification.claim import failure
from latentcast.verification.evidence import Evidence, Number
from latentcast.verification.report.lines import Line, Section, Verdict


def audit(path: Path, data: Path | None = None, seconds: float = 60.0) -> Section:
    """Check a run folder against its own claims.

    Args:
        data: where its store is now; where it was, by default.
        seconds: the last stretch is trained again for at most this long; 0 leaves it out.

    Raises:
        LatentcastError: its ``config.yaml`` cannot be read, without which nothing is promised.
    """
    start, run = time.perf_counter(), Run(path, data, seconds)
    try:
        lines = tuple(_line(run, check) for check in all_checks())
    finally:
        replay.replay.cache_clear()  # it keeps all weights
    facts: dict[str, Number] = {
        "recipe": run.config.recipe,
        "steps": run.config.train.steps,
        "newest checkpoint": run.steps[-1].name if run.steps else "none",
    }
    return Section(str(path), "run", lines, facts, seconds=time.perf_counter() - start)


def all_checks() -> tuple[Check, ...]:
    """In the order in which they are reported."""
    found = (*vars(checks).values(), *vars(replay).values())
    return tuple(item for item in found if isinstance(item, Check))


def _line(run: Run, check: Check) -> Line:
    start, verdict = time.perf_counter(), None
    try:
        evidence = check.probe(run)
    except Unmeasured as problem:
        evidence, verdict = Evidence(False, {"reason": str(problem)}), "not measured"
    except FileNotFoundError as problem:
        evidence = Evidence(False, {"missing": str(problem.filename)})
    except Exception as problem:  # a damaged file may break anything that reads it
        evidence = failure(problem)
    if not evidence.holds and verdict is None and run.overtaken:
        reason = "the run goes on and has put another checkpoint in the place of one; ask again"
        evidence, verdict = Evidence(False, {"reason": reason}), "not measured"
    outcome: Verdict = "not measured" if verdict else "holds" if evidence.holds else "broken"
    took = time.perf_counter() - start
    return Line(check.id, check.sentence, check.source, outcome, evidence.numbers, took)
