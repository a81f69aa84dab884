"""Wrong input, and whether it is refused by the sentence that names the fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from latentcast.verification.evidence import Evidence, all_of, equal, none

Case = tuple[Callable[[], object], str]
"""A call that is to be refused, and words of the sentence."""


def refusals(cases: Mapping[str, Case], accepted: Mapping[str, Callable[[], object]]) -> Evidence:
    """Holds when every case is refused by its words, and what lies just inside the limit is not.

    Args:
        cases: by name.
        accepted: calls that go through, by name.
    """
    others = [name for name, (call, words) in cases.items() if words not in answer(call)]
    refused = [f"{name} ({said})" for name, call in accepted.items() if (said := answer(call))]
    return all_of(
        equal("refused by their sentence", len(cases) - len(others), len(cases)),
        none("not refused, or by other words", others),
        none("refused without a reason", refused),
    )


def answer(call: Callable[[], object]) -> str:
    """The sentence that a call is refused by; empty where it goes through."""
    try:
        call()
    except Exception as problem:  # a number that nobody made sense of, too
        return f"{type(problem).__name__}: {problem}"
    return ""
