"""What a probe result shows, in words: chosen by whether the paired interval excludes zero.

Nothing here computes a statistic or decides what an interval means.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentcast.evaluation.estimate import Outcome, number
from latentcast.evaluation.results import Difference, ProbeReport


@dataclass(frozen=True)
class Verdict:
    """``headline`` is one line; ``sentences`` hold the numbers behind it."""

    outcome: Outcome
    headline: str
    sentences: tuple[str, ...]


def verdict(probe: ProbeReport) -> Verdict:
    """The headline compares the first source with the first floor, the sentences with each.

    A floor may be read in several ways (at the layer it chose itself, at the layer of the tested
    encoder, by another head). The first one of the first head is the one compared; where another
    reading decides otherwise, that is a sentence too.
    """
    tested, level = probe.rows[0].name, probe.level
    several = len(probe.heads) > 1
    reached = " and ".join(
        probe.readings(head)[0].score.main.text() + f" ({head})" * several for head in probe.heads
    )
    constant = ""
    if probe.kind == "multi-class":
        floor_of_all = number(probe.floors[probe.metric])
        constant = f"; always naming the most frequent class reaches {floor_of_all}"
    sentences = [
        f"On {probe.task} ({probe.records['test']:,} test {probe.noun}s) the {tested} features "
        f"reach {_article(probe.metric)} {probe.metric} of {reached}, {level} interval in "
        f"brackets{constant}."
    ]
    if probe.too_few:
        sentences.insert(0, f"{probe.too_few}.")
    references = list(dict.fromkeys(gap.reference for gap in probe.differences))
    outcomes: list[Outcome] = []
    for reference in references:
        gaps = [gap for gap in probe.differences if gap.reference == reference]
        gaps.sort(key=lambda gap: probe.heads.index(gap.head))
        first, *others = gaps
        outcome = first.estimate.outcome
        outcomes.append(outcome)
        floor = next(row for row in probe.readings(first.head) if row.name == reference)
        sentences.append(
            f"{_capital(reference)}{f', {first.head}' * several}: {floor.score.main.text()}. "
            f"Paired difference {first.estimate.text(signed=True)}: {_consequence(outcome, level)}"
        )
        sentences += [
            f"{_reading(first, other)} gives another answer: {other.estimate.text(signed=True)}, "
            + _consequence(other.estimate.outcome, level)
            for other in others
            if other.estimate.outcome != outcome
        ]
    if not outcomes:
        return Verdict("undefined", "Scored without a floor to compare with", tuple(sentences))
    headline = _headline(outcomes[0], tested, references[0])
    if outcomes[0] == "better":  # over the weakest floor: that must not stand alone
        decided = list(zip(references, outcomes, strict=True))
        worse = [name for name, outcome in decided if outcome == "worse"]
        open_ = [name for name, outcome in decided if outcome in ("undecided", "undefined")]
        headline += f", but is worse than {' and '.join(worse)}" if worse else ""
        headline += f", but not {' or '.join(open_)}" if open_ else ""
    return Verdict(outcomes[0], headline, tuple(sentences))


def _reading(first: Difference, other: Difference) -> str:
    """How another reading of a floor differs from the first."""
    name = other.reference if other.head == first.head else f"{other.reference}, {other.head},"
    return _capital(name if other.choice == first.choice else f"read at the {other.choice}, {name}")


def _headline(outcome: Outcome, tested: str, floor: str) -> str:
    return {
        "better": f"{_capital(tested)} beats {floor}",
        "worse": f"{_capital(tested)} is worse than {floor}",
        "undecided": f"No difference shown between {tested} and {floor}",
        "undefined": f"The difference between {tested} and {floor} is undefined",
    }[outcome]


def _consequence(outcome: Outcome, level: str) -> str:
    return {
        "better": f"the {level} interval excludes zero, in favour of the tested encoder.",
        "worse": f"the {level} interval excludes zero, against the tested encoder.",
        "undecided": f"the {level} interval includes zero, so no difference is shown.",
        "undefined": "the interval is undefined, so nothing is claimed.",
    }[outcome]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiouR" else "a"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
