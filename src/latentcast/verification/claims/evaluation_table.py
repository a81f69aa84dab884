"""The table of an evaluation of several sources: every cohort, row and difference, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentcast.evaluation import harness
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.evaluation import Evaluation
from latentcast.evaluation.low_shot import Amount
from latentcast.evaluation.question import Question
from latentcast.evaluation.tasks.base import Kind
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, none
from latentcast.verification.observe.answers import (
    answers,
    elsewhere,
)
from latentcast.verification.observe.compared import differences, numbers_of
from latentcast.verification.observe.plain_table import Table
from latentcast.verification.observe.twin import Twin
from latentcast.verification.observe.two_stores import (
    DRAWS,
    DROPPED,
    RESAMPLES,
    SEED,
    SHOTS,
    sources_of,
    task_of,
)

OURS = "our protocol, docs of evaluation/harness.py"


def _measured(twin: Twin, kinds: Sequence[Kind], heads: Sequence[str]) -> Evaluation:
    own, other = answers(twin), elsewhere(twin)
    image = own.store.modality == "image"
    question = Question(
        name="here", store=own.store, externals={"elsewhere": other.store}, heads=heads,
        layer="all", pooling="mean", windows="strided",
        amounts=(Amount(shots=SHOTS), Amount(1.0)), draws=DRAWS, resamples=RESAMPLES, seed=SEED,
        reference="floor", by=() if image else ("sex",), cross_validated=True,
        drop_leads=() if image else (DROPPED,),
    )  # fmt: skip
    tasks = [task_of(twin, kind) for kind in kinds]
    return harness.evaluate(sources_of(twin), tasks, question, FeatureCache())


@claim("evaluate.table", "Every number of an evaluation is that which counting gives: records, "
       "draws of few labels, scores at home, elsewhere and without leads, means over "
       "trainings, spreads, paired differences, p-values and cross-validated scores.",
       source=OURS)  # fmt: skip
def table(twin: Twin) -> Evidence:
    """Of a floor, two trainings of one recipe, and two sources joined, whose features are written
    here; of three kinds of tasks. The fits of the heads are the library's."""
    parts, numbers = list[Evidence](), 0
    cases: list[tuple[tuple[Kind, ...], tuple[str, ...]]] = [
        (("multi-label", "regression"), ("kNN", "linear")),
        (("multi-class",), ("kNN",)),
    ]
    for kinds, heads in cases:
        found = _measured(twin, kinds, heads)
        expected = [Table(twin, kind, heads) for kind in kinds]
        numbers += numbers_of(found.rows) + numbers_of(found.cohorts)
        for name, counted in (
            ("cohorts", [one.record for table in expected for one in table.cohorts]),
            ("rows", [row for table in expected for row in table.rows()]),
        ):
            stripped = _without_seconds(getattr(found, name))
            parts.append(none(f"{', '.join(kinds)}: {name}", differences(stripped, counted, 2e-6)))
        parts.append(none(f"{', '.join(kinds)}: other", _beside(twin, found)))
    return all_of(*parts, above("numbers compared", numbers, 4000))


def _beside(twin: Twin, found: Evaluation) -> list[str]:
    """What stands beside rows and cohorts, and what is written and read."""
    sources = [
        {"name": group.name, "kind": group.kind, "runs": [one.record for one in group.members]}
        for group in sources_of(twin)
    ]
    wrong = differences(found.sources, sources, at="sources")
    wrong += differences(
        (found.reference, found.layer, found.pooling, found.windows, found.leaks, found.bootstrap),
        ("floor", "all", "mean", "strided", [],
         {"resamples": RESAMPLES, "level": 0.95, "seed": SEED}), at="settings",
    )  # fmt: skip
    again = Evaluation.read(found.write(twin.folder / "evaluated"))
    return wrong + differences(again, found, at="written and read")


def _without_seconds(value: Any) -> Any:
    """Of rows all but the seconds, which are of the machine."""
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {name: _without_seconds(one) for name, one in value.items() if name != "seconds"}
    return [_without_seconds(one) for one in value] if isinstance(value, list | tuple) else value
