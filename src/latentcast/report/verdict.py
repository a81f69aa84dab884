"""What a probe result lets one say, in words: chosen by whether the paired interval excludes zero.

Input is the JSON that ``evaluation.results.ProbeReport`` writes; nothing here computes a statistic
or decides what an interval means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentcast.evaluation import results
from latentcast.evaluation.metrics import Estimate, Outcome


@dataclass(frozen=True)
class Verdict:
    """``headline`` is one line; ``sentences`` hold the numbers behind it."""

    outcome: Outcome
    headline: str
    sentences: tuple[str, ...]


def verdict(probe: Mapping[str, Any]) -> Verdict:
    """The headline compares the first source with the first floor, the sentences with each.

    A floor may be read in several ways (at the layer it chose itself, at the layer of the tested
    encoder). The first is the one compared; where another reading decides otherwise, it is said.
    """
    rows, level = probe["rows"], level_of(probe)
    tested = rows[0]
    test = probe["records"]["test"]
    sentences = [
        f"On {probe['task']} ({test:,} test records) the {tested['name']} features reach a macro "
        f"AUROC of {interval(tested['score']['macro'])}, {level} interval in brackets."
    ]
    references = list(dict.fromkeys(d["reference"] for d in probe["differences"]))
    decisions: list[Outcome] = []
    for reference in references:
        readings = [d for d in probe["differences"] if d["reference"] == reference]
        first = _outcome(readings[0])
        decisions.append(first)
        floor = next(row for row in rows if row["name"] == reference)
        sentences.append(
            f"{_capital(reference)}: {interval(floor['score']['macro'])}. "
            f"Paired difference {interval(readings[0]['estimate'], signed=True)}: "
            + _consequence(first, level)
        )
        for other in readings[1:]:
            if _outcome(other) != first:
                sentences.append(
                    f"Read at the {other['choice']}, {reference} gives another answer: "
                    f"{interval(other['estimate'], signed=True)}, "
                    + _consequence(_outcome(other), level)
                )
    return _decided(tested["name"], references, decisions, sentences)


def class_verdict(probe: Mapping[str, Any]) -> Verdict:
    """The same of images, by the JSON of a ``ClassificationReport``.

    The headline rests on the linear head; where kNN decides otherwise, it is said.
    """
    level, first = level_of(probe), heads(probe)[0]
    tested = probe["rows"][0]["name"]
    right = " and ".join(
        f"{interval(read_by(probe, head)[0]['accuracy'])} ({head})" for head in heads(probe)
    )
    sentences = [
        f"On {len(probe['classes']):,} classes ({probe['images']['test']:,} test images) the "
        f"{tested} features reach an accuracy of {right}, {level} interval in brackets; always "
        f"naming the most frequent class reaches {results.number(probe['majority'])}."
    ]
    references = list(dict.fromkeys(d["reference"] for d in probe["differences"]))
    decisions: list[Outcome] = []
    for reference in references:
        readings = [d for d in probe["differences"] if d["reference"] == reference]
        by = {head: next((d for d in readings if d["head"] == head), None) for head in heads(probe)}
        leading = by[first] or readings[0]
        outcome = _outcome(leading)
        decisions.append(outcome)
        sentences.append(
            f"{_capital(reference)}, {leading['head']}: paired difference "
            f"{interval(leading['estimate'], signed=True)}: " + _consequence(outcome, level)
        )
        for head, other in by.items():
            if other is not None and _outcome(other) != outcome:
                sentences.append(
                    f"{_capital(reference)}, {head}, gives another answer: "
                    f"{interval(other['estimate'], signed=True)}, "
                    + _consequence(_outcome(other), level)
                )
    return _decided(tested, references, decisions, sentences)


def heads(probe: Mapping[str, Any]) -> list[str]:
    """The heads of a probe of images, the linear one first."""
    return sorted({row["head"] for row in probe["rows"]}, key=lambda head: (head != "linear", head))


def read_by(probe: Mapping[str, Any], head: str) -> list[Mapping[str, Any]]:
    """The first row of each source under one head, in order."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in probe["rows"]:
        if row["head"] == head:
            first.setdefault(row["name"], row)
    return list(first.values())


def _decided(
    tested: str, references: list[str], decisions: list[Outcome], sentences: list[str]
) -> Verdict:
    """The headline over all floors: the first is the one compared."""
    if not decisions:
        return Verdict("undefined", "Scored without a floor to compare with", tuple(sentences))
    headline = _headline(decisions[0], tested, references[0])
    if decisions[0] == "better":  # over the weakest floor: that must not stand alone
        decided = list(zip(references, decisions, strict=True))
        worse = [name for name, outcome in decided if outcome == "worse"]
        open_ = [name for name, outcome in decided if outcome in ("undecided", "undefined")]
        headline += f", but is worse than {' and '.join(worse)}" if worse else ""
        headline += f", but not {' or '.join(open_)}" if open_ else ""
    return Verdict(decisions[0], headline, tuple(sentences))


def _outcome(difference: Mapping[str, Any]) -> Outcome:
    return Estimate.from_json(difference["estimate"]).outcome


def _headline(decided: Outcome, tested: str, floor: str) -> str:
    return {
        "better": f"{_capital(tested)} beats {floor}",
        "worse": f"{_capital(tested)} is worse than {floor}",
        "undecided": f"No difference shown between {tested} and {floor}",
        "undefined": f"The difference between {tested} and {floor} is undefined",
    }[decided]


def _consequence(decided: Outcome, level: str) -> str:
    return {
        "better": f"the {level} interval excludes zero, in favour of the tested encoder.",
        "worse": f"the {level} interval excludes zero, against the tested encoder.",
        "undecided": f"the {level} interval includes zero, so no difference is shown.",
        "undefined": "the interval is undefined, so nothing is claimed.",
    }[decided]


def difference_of(probe: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The paired difference of the tested encoder and one row of the table, where there is one."""
    for difference in probe["differences"]:
        if (difference["reference"], difference["choice"]) == (row["name"], row["choice"]):
            estimate: Mapping[str, Any] = difference["estimate"]
            return estimate
    return None


def first_readings(probe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The first row of each source, in order: what the comparison rests on."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in probe["rows"]:
        first.setdefault(row["name"], row)
    return list(first.values())


def level_of(probe: Mapping[str, Any]) -> str:
    """The bootstrap's confidence level, as in "95 %"; the space does not break."""
    return f"{100 * probe['bootstrap']['level']:.0f}\u00a0%"


def interval(estimate: Mapping[str, Any], *, signed: bool = False) -> str:
    """``value [low, high]``."""
    return results.interval(Estimate.from_json(estimate), signed=signed)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
