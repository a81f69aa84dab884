"""What the probes in a run folder found, of recordings and of images, in one form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProbeScore:
    """The tested encoder read by one head, with its interval on the test split.

    Attributes:
        task: superdiagnostic, form, ... of recordings; classes of images.
        head: linear or kNN.
        measure: macro AUROC or accuracy.
        layer: the one read.
        validation: the measure on the validation split; None where it is undefined.
        value, low, high: of the test split; None where undefined.
        floor: what it is compared with first, as "random-initialised".
        gain, gain_low, gain_high: test value minus the floor's, paired; None without a floor.
        weights: which were probed.
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
    shards: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "shards"}


def scores_of(probe: Mapping[str, Any]) -> list[ProbeScore] | None:
    """The scores of the first source of a ``probe-*.json``; None where it has another form."""
    try:
        return _scores(probe)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _scores(probe: Mapping[str, Any]) -> list[ProbeScore]:
    images = "majority" in probe
    tested = probe["rows"][0]["name"]
    found: list[ProbeScore] = []
    for row in probe["rows"]:
        head = row["head"] if images else "linear"
        if row["name"] != tested or any(score.head == head for score in found):
            continue
        test = row["accuracy"] if images else row["score"]["macro"]
        differences = (d for d in probe["differences"] if d.get("head", head) == head)
        first = next(differences, None)
        gain = first["estimate"] if first else {}
        found.append(
            ProbeScore(
                task="classes" if images else probe["task"],
                head=head,
                measure="accuracy" if images else "macro AUROC",
                layer=row["layer"],
                validation=row["validation"],
                value=test["value"],
                low=test["low"],
                high=test["high"],
                floor=first["reference"] if first else None,
                gain=gain.get("value"),
                gain_low=gain.get("low"),
                gain_high=gain.get("high"),
                weights=probe["provenance"].get("weights"),
                shards=probe["data"].get("shards", {}),
            )
        )
    return found
