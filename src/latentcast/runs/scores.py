"""The probes in a run folder, a line for each head."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import UNDEFINED
from latentcast.evaluation.results import ProbeReport
from latentcast.files import check_digest
from latentcast.monitors.rows import number


@dataclass(frozen=True)
class ProbeScore:
    """The tested encoder read by one head, with its interval on the test split.

    Attributes:
        task: superdiagnostic, labels, classes, metadata:age, ...
        head: linear, kNN, attentive; or fine-tuned, or from scratch.
        measure: macro AUROC, accuracy or R².
        layer: the one read.
        validation: the measure on the validation split.
        value, low, high: of the test split; None where undefined.
        floor: what it is compared with first, as "random-initialised".
        gain, gain_low, gain_high: test value minus the floor's, paired; None without a floor.
        weights: which were probed.
        variant: what was chosen otherwise than by default, as "layer block 2"; or "".
        step: of the weights; None where the file does not say.
        store: folder of the samples, at the time.
        shards: checksums of the samples.
    """

    task: str
    head: str
    measure: str
    layer: str
    validation: float | None
    value: float | None
    low: float | None
    high: float | None
    floor: str | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    weights: str | None
    variant: str
    step: int | None
    store: str
    shards: Mapping[str, str]

    @property
    def question(self) -> tuple[str, ...]:
        """Scores that agree in it can stand beside each other."""
        return self.task, self.variant, self.head, self.measure, self.samples

    @property
    def samples(self) -> str:
        """Eight digits that tell the samples from others."""
        return hashlib.sha256(str(sorted(self.shards.items())).encode()).hexdigest()[:8]

    def as_json(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "shards"}


def scores_of(plain: Mapping[str, Any]) -> list[ProbeScore]:
    """The scores of the first source of a ``probe-*.json``.

    Raises:
        LatentcastError: another version wrote it.
    """
    report = ProbeReport.from_json(plain)
    found = []
    for head in report.heads:
        row = report.readings(head)[0]
        first = next((gap for gap in report.differences if gap.head == head), None)
        gain = first.estimate if first else UNDEFINED
        found.append(
            ProbeScore(
                task=report.task,
                head=head,
                measure=report.metric,
                layer=row.layer,
                validation=row.validation,
                value=number(row.score.main.value),
                low=number(row.score.main.low),
                high=number(row.score.main.high),
                floor=first.reference if first else None,
                gain=number(gain.value),
                gain_low=number(gain.low),
                gain_high=number(gain.high),
                weights=report.weights or None,
                variant=report.variant,
                step=report.step,
                store=str(report.data.get("store", "")),
                shards=report.data["shards"],
            )
        )
    return found


def tuned_score(plain: Mapping[str, Any]) -> ProbeScore:
    """The score of a fine-tuned run, of its ``finetune.json``; of another head than a probe's.

    Raises:
        LatentcastError: it was edited, or another version wrote it.
    """
    try:
        if "shards" in plain:  # the first version wrote none, and NaN, which JSON has not
            check_digest(plain)
        main, step = plain["score"]["main"], int(plain["step"])
        return ProbeScore(
            task=str(plain["task"]),
            head="fine-tuned" if plain["init"] else "from scratch",
            measure=str(plain["metric"]),
            layer="",
            validation=number(plain["validation"]),
            value=number(main["value"]),
            low=number(main["low"]),
            high=number(main["high"]),
            floor=None,
            gain=None,
            gain_low=None,
            gain_high=None,
            weights=None,
            variant="in spite of a leak" if _leaking(plain) else "",
            step=step,
            store=str(plain["store"]),
            shards=plain.get("shards", {}),
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise LatentcastError(f"cannot be used ({problem}); fine-tune again") from None


def _leaking(plain: Mapping[str, Any]) -> bool:
    return any(leak["severity"] == "error" for leak in plain.get("leaks", ()))


def newest(scores: Iterable[ProbeScore]) -> tuple[ProbeScore, ...]:
    """Of scores of the same question those of the most trained weights."""
    found: dict[tuple[str, ...], ProbeScore] = {}
    for score in scores:
        other = found.setdefault(score.question, score)
        if (score.step or 0) > (other.step or 0):
            found[score.question] = score
    return tuple(found.values())
