"""What tables show of a probe beside its main scores: further averages, subgroups."""

from __future__ import annotations

import math

from latentcast.evaluation.estimate import SUPPORT, UNDEFINED, Estimate, Subgroup
from latentcast.evaluation.results import ProbeReport


def averages(report: ProbeReport) -> dict[str, dict[str, Estimate]]:
    """Further scores of the first readings by source, under the name of each."""
    rows, found = report.readings(), dict[str, dict[str, Estimate]]()
    enough = [n for n in report.labels if n.positives["test"] >= SUPPORT and not n.left_out]
    rare = len(report.labels) - len(enough) if report.kind == "multi-label" and enough else 0
    labels = f"{len(enough)} labels" if len(enough) > 1 else "one label"
    if rare:
        fewer = f"{rare} have fewer" if rare > 1 else "one has fewer"
        name = f"{report.metric} over the {labels} with {SUPPORT} or more positives; {fewer}"
        found[name] = {row.name: row.score.supported or UNDEFINED for row in rows}
    for name in rows[0].score.others:
        lower = ", lower is better" * (name in report.lower_is_better)
        found[name + lower] = {row.name: row.score.others.get(name, UNDEFINED) for row in rows}
        if rare and name in rows[0].score.supported_others:
            found[f"{name} over the {labels}"] = {
                row.name: row.score.supported_others.get(name, UNDEFINED) for row in rows
            }
    calibrated = {row.name: row.score.calibration for row in rows if row.score.calibration}
    if calibrated:
        found["calibration error, lower is better"] = {
            name: Estimate(own.error, math.nan, math.nan) for name, own in calibrated.items()
        }
    return found


def groupings(report: ProbeReport) -> dict[str, list[tuple[Subgroup, ...]]]:
    """By key of the metadata its subgroups, each as the first reading of every source has it."""
    found: dict[str, list[tuple[Subgroup, ...]]] = {}
    for groups in zip(*(row.score.subgroups for row in report.readings()), strict=True):
        found.setdefault(groups[0].by, []).append(groups)
    return found
