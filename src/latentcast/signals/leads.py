"""Leads by name: spellings, the canonical order, and the four limb leads that follow from two.

Sources disagree about order (aVF before aVL in MIMIC-IV-ECG) and spelling (``AVR``, ``avr``,
``MLII``), so a channel is only ever found by its name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from latentcast.errors import LatentcastError

CANONICAL_LEADS: tuple[str, ...] = (
    "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
)  # fmt: skip

LIMB_LEADS: tuple[str, ...] = CANONICAL_LEADS[:6]

OTHER_LEADS: tuple[str, ...] = (
    "V7", "V8", "V9", "V3R", "V4R", "V5R", "V6R", "VX", "VY", "VZ",
)  # fmt: skip
"""Leads outside the twelve: a reader accepts them, the default store leaves them out."""

DERIVED_FROM_I_AND_II: dict[str, tuple[float, float]] = {
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""``lead = a * I + b * II``: Einthoven's law and Goldberger's definition of the augmented leads."""

ELECTRODES: tuple[str, ...] = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
"""Of the twelve leads; the one on the right leg is the ground."""

_SPELLINGS: dict[str, str] = {name.lower(): name for name in CANONICAL_LEADS + OTHER_LEADS}
# MLI to MLIII are the modified limb leads of ambulatory recorders (electrodes on the torso); they
# stand for the limb lead, which is how every 2-lead Holter set is used. DI to DIII and C1 to C6
# are the continental spellings.
_SPELLINGS |= {f"ml{n}": n.upper() for n in ("i", "ii", "iii")}
_SPELLINGS |= {f"d{n}": n.upper() for n in ("i", "ii", "iii")}
_SPELLINGS |= {f"c{n}": f"V{n}" for n in range(1, 7)}
_SPELLINGS |= {"x": "VX", "y": "VY", "z": "VZ"}

_TURNED = re.compile(r"^-|[-\u2212]$|^\u2212|\binv|\bminus\b|\bneg|\*\s*-\s*1")
_PREFIX = re.compile(r"^(?:mdc_ecg_lead_|(?:ecg|ekg|lead)[\s_:-]*)+", re.IGNORECASE)


@lru_cache(256)
def canonical_name(name: str) -> str:
    """The canonical spelling of a lead: ``"AVF"`` -> ``"aVF"``, ``"MLII"`` -> ``"II"``.

    Raises:
        LatentcastError: no lead has this name; names the nearest one.
    """
    bare = _PREFIX.sub("", name.strip()).strip().lower()
    try:
        return _SPELLINGS[bare]
    except KeyError:
        lead = nearest_lead(name)
        names = ", ".join(CANONICAL_LEADS + OTHER_LEADS)
        hint = f"did you mean '{lead}'?" if lead else f"known: {names}"
        raise LatentcastError(f"lead '{name}': is no known lead name; {hint}") from None


def is_turned(name: str) -> bool:
    """Whether a name is that of a channel with its sign turned: ``-aVR``, ``aVR-``, ``II inv``."""
    return _TURNED.search(name.strip().lower()) is not None


def nearest_lead(name: str) -> str | None:
    """The lead that a misspelled name is likely to be; None where none is near enough, and for a
    channel with its sign turned, which is none of them."""
    if is_turned(name):
        return None
    bare = _PREFIX.sub("", name.strip()).strip().lower()
    # Of the twelve alone: CO2 is near C2. Below 0.7 ART is aVR, and a number a chest lead.
    twelve = {lead.lower(): lead for lead in CANONICAL_LEADS}
    close = difflib.get_close_matches(bare, twelve, n=1, cutoff=0.7)
    return twelve[close[0]] if close else None


def name_pairs(text: str | None) -> dict[str, str] | None:
    """``ECG1=II,ECG2=V1`` of the command line as ``{"ECG1": "II", "ECG2": "V1"}``.

    Raises:
        LatentcastError: a part is no such pair.
    """
    pairs, rest = dict[str, str](), text or ""
    while rest:
        # Commas may be part of a name, and are of no lead.
        pair = re.match(r"(.+?)=([^,=]+)(?:,|$)", rest)
        if pair is None:
            raise LatentcastError(f"--rename {rest}: write NAME=LEAD, for example ECG1=II")
        pairs[pair[1]] = pair[2]
        rest = rest[pair.end() :]
    return pairs or None


def renamed(names: Mapping[str, str]) -> dict[str, str]:
    """What files call their channels, and the canonical name of the lead that each is.

    Raises:
        LatentcastError: one is no lead, or is the name of two channels.
    """
    leads = canonical_names(names.values())
    return dict(zip((name.strip() for name in names), leads, strict=True))


def canonical_names(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical spellings of several names, in the given order.

    Raises:
        LatentcastError: a name of no lead, or one lead named twice (``"II"`` and ``"MLII"``).
    """
    check_names(names)
    spelling: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if spelling.get(canonical) == name:
            raise LatentcastError(f"lead '{name}': is given twice; keep one of the two")
        if canonical in spelling:
            raise LatentcastError(
                f"lead '{name}': is the same lead as '{spelling[canonical]}'; keep one of the two"
            )
        spelling[canonical] = name
    return tuple(spelling)


def check_names(names: object) -> None:
    """Raises LatentcastError: it is no list of texts."""
    if isinstance(names, str):
        raise LatentcastError(f"leads '{names}': is one text; give a list of names")
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise LatentcastError(f'leads {names}: are no names; give a list such as ["I", "II"]')


def electrode_weights(leads: tuple[str, ...]) -> list[list[float]]:
    """Each of the twelve leads as a sum over :data:`ELECTRODES`.

    I = LA − RA and II = LL − RA; the other limb leads follow from them; a chest lead is its
    electrode less the mean of the three on the limbs (Wilson's terminal).
    """
    rows: dict[str, list[float]] = {"I": [-1.0, 1.0, 0.0], "II": [-1.0, 0.0, 1.0]}
    for name, (a, b) in DERIVED_FROM_I_AND_II.items():
        rows[name] = [a * one + b * two for one, two in zip(rows["I"], rows["II"], strict=True)]
    chest = ELECTRODES[3:]
    table = {name: row + [0.0] * len(chest) for name, row in rows.items()}
    for name in chest:
        table[name] = [-1 / 3] * 3 + [float(name == electrode) for electrode in chest]
    return [table[name] for name in leads]


def in_canonical_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Canonical names sorted I II III aVR aVL aVF V1 ... V6, then the others."""
    return tuple(name for name in CANONICAL_LEADS + OTHER_LEADS if name in names)


def with_derived(names: tuple[str, ...]) -> tuple[str, ...]:
    """Canonical names in their order, with those leads that follow from I and II among them."""
    derived = tuple(DERIVED_FROM_I_AND_II) if "I" in names and "II" in names else ()
    return in_canonical_order(names + derived)
