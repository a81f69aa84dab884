"""Sections of a report: all claims that concern a recipe, measured over seeds; a parity file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from latentcast.config import Config
from latentcast.objectives.build import assemble
from latentcast.verification.claim import Claim, Finding
from latentcast.verification.evidence import all_of, at_most
from latentcast.verification.measure import measured
from latentcast.verification.parity.agreement import Agreement
from latentcast.verification.report.lines import Line, Section, line_of


def verify_recipe(
    recipe: Config,
    claims: Sequence[Claim],
    *,
    seeds: int = 1,
    notify: Callable[[Finding], object] = lambda finding: None,
) -> Section:
    """Measure what a configuration promises.

    Args:
        recipe: as shipped or changed; a twin of it is measured, its numbers at full size.
        claims: of which those that concern it are measured.
        seeds: twins, from 0 up.
        notify: called with each finding as it comes.
    """
    start, findings = time.perf_counter(), dict[str, dict[int, Finding]]()
    for seed in range(seeds):
        for finding in measured(recipe, claims, seed):
            findings.setdefault(finding.claim.id, {})[seed] = finding
            notify(finding)
    lines = tuple(line_of(by_seed) for by_seed in findings.values())
    facts = {"parameters": parameters(recipe), "seeds": seeds, "claims": len(lines)}
    return Section(recipe.recipe, "recipe", lines, facts, time.perf_counter() - start)


def parity_section(file: Path, agreements: Sequence[Agreement]) -> Section:
    """A line for each quantity of a parity file."""
    lines = []
    for a in agreements:
        gap = at_most("relative difference", a.relative, a.tolerance)
        evidence, source = all_of(gap, absolute=a.absolute), "public reference implementation"
        lines.append(Line.of(a.quantity, f"{a.quantity} is the reference's", source, evidence))
    return Section(file.name, "parity", tuple(lines), {"quantities": len(lines)})


def parameters(recipe: Config) -> int:
    """Of the objective, teacher included; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in assemble(recipe).parameters())
