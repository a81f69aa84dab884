"""What a child measures: claims on the twin of a recipe. Imports latentcast when it is called."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from dev.catalogue import Fault
from dev.conditions import hold
from dev.overlay import Done, Job


class Red(NamedTuple):
    """A claim that does not hold: it raised, which proves nothing, or it measured a number."""

    claim: str
    raised: bool
    numbers: dict[str, Any]


def area(name: str) -> str:
    """The part of an id that names what it is about."""
    return name.partition(".")[0]


def areas(fault: Fault) -> frozenset[str]:
    """Whose claims are measured under a fault: its own area and those of what it reddens."""
    return frozenset(map(area, (fault.id, *fault.reddens)))


def healthy(recipe: str, parts: Collection[str] | None, faults: Sequence[Fault]) -> Job:
    """Without a fault: ``ids`` of the claims about a recipe, the ``red``, and ``faults`` of it."""
    return Job(recipe, partial(_healthy, recipe, parts, faults))


def under(key: Any, files: dict[str, str], recipe: str, ids: Sequence[str], first: bool) -> Job:
    """With edited files: the claims of these ids that are red, or the ``first`` by a number."""
    return Job(key, partial(_red, recipe, ids, first), files)


def reds(done: Done) -> list[Red]:
    """What a child told of the claims that do not hold."""
    return [Red(*found) for found in done.answer] if done.answer is not None else []


def _healthy(recipe: str, parts: Collection[str] | None, faults: Sequence[Fault]) -> dict[str, Any]:
    from latentcast.verification.claims import all_claims
    from latentcast.verification.observe.twin import Twin

    config, claims = _config(recipe), all_claims()
    with closing(Twin(config)) as twin:
        about = {claim.id for claim in claims if claim.concerns(twin)}
        small = twin.config
    unknown = {name for fault in faults for name in fault.reddens} - {c.id for c in claims}
    ids = [c.id for c in claims if c.id in about and (parts is None or area(c.id) in parts)]
    concerned = [
        fault.id
        for fault in faults
        if about.issuperset(fault.reddens) and hold(fault.where, config, small)
    ]
    return {
        "ids": ids, "red": _red(recipe, ids, False), "faults": concerned, "unknown": sorted(unknown)
    }  # fmt: skip


def _config(recipe: str) -> Any:
    """Of a recipe and keys that are set, as ``nepa-ecg-tiny encoder.kind=s4d``."""
    from latentcast.config import resolve
    from latentcast.recipes import recipe as config_of

    name, *settings = recipe.split()
    return resolve(config_of(name), None, settings)


def _red(recipe: str, ids: Sequence[str], first: bool) -> list[Red]:
    import torch

    from latentcast.verification.claims import all_claims
    from latentcast.verification.measure import measured

    torch.set_num_threads(1)
    claims = {claim.id: claim for claim in all_claims()}
    found = []
    for finding in measured(_config(recipe), [claims[name] for name in ids]):
        numbers = dict(finding.evidence.numbers)
        if not finding.holds:
            found.append(Red(finding.claim.id, finding.raised, numbers))
            if first and not found[-1].raised:
                break
    return found
