"""All claims that concern a recipe, measured on its twin, over seeds, with and without faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from latentcast.config import Config
from latentcast.objectives.build import assemble
from latentcast.verification.claim import Claim, Finding
from latentcast.verification.fault import Fault
from latentcast.verification.matrix import Row, against, measured
from latentcast.verification.parity.agreement import Agreement
from latentcast.verification.report.lines import Line, Section, line_of


def verify_recipe(
    recipe: Config,
    claims: Sequence[Claim],
    faults: Sequence[Fault] | None = None,
    *,
    seeds: int = 1,
    full: bool = False,
    told: Callable[[Finding | Row], object] = lambda found: None,
) -> Section:
    """Measure what a recipe promises.

    Args:
        recipe: as shipped or changed; a twin of it is measured, its numbers at full size.
        claims: of which those that concern it are measured.
        faults: to inject afterwards; None leaves that out.
        seeds: subjects, from 0 up; faults are injected with the first.
        full: hold each fault against all claims, not only against those of its areas.
        told: called with each finding and each row of the matrix, as they come.
    """
    start, found = time.perf_counter(), dict[str, dict[int, Finding]]()
    for seed in range(seeds):
        for finding in measured(recipe, claims, seed):
            found.setdefault(finding.claim.id, {})[seed] = finding
            told(finding)
    lines = tuple(line_of(findings) for findings in found.values())
    matrix = None
    if faults is not None:
        held = {line.id for line in lines if line.verdict == "holds"}
        healthy = [claim for claim in claims if claim.id in held]
        matrix = against(recipe, healthy, faults, 0, full, told)
    facts = {"parameters": parameters(recipe), "seeds": seeds, "claims": len(lines)}
    return Section(recipe.recipe, "recipe", lines, facts, matrix, time.perf_counter() - start)


def parity_section(file: Path, agreements: Sequence[Agreement]) -> Section:
    """What a parity file found, a line a quantity."""
    lines = tuple(
        Line(
            agreement.quantity,
            f"{agreement.quantity} is the reference's",
            "public reference implementation",
            "holds" if agreement.holds else "broken",
            {
                "absolute": agreement.absolute,
                "relative": agreement.relative,
                "tolerance": agreement.tolerance,
            },
        )
        for agreement in agreements
    )
    return Section(file.name, "parity", lines, {"quantities": len(lines)})


def parameters(recipe: Config) -> int:
    """Of the whole objective, teacher included; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in assemble(recipe).parameters())
