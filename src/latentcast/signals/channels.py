"""Channels that are no ECG leads (EEG, PPG, names of one's own): taken by name, in one unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from latentcast.errors import LatentcastError
from latentcast.signals.recording import MILLIVOLTS_PER_UNIT, millivolts_per, spelled

Signal = Literal["ecg", "other"]
"""``ecg``: leads have canonical names, some follow from others, and the limb leads are checked
against each other. ``other``: nothing of this."""
LEFT_OUT = (
    "channels are no ECG leads: their names are the source's own, and nothing that holds of ECGs "
    "alone is derived or checked (leads, Einthoven's law, saturation)"
)
"""What a user of ``other`` is to know."""
MILLIVOLTS = "mV"


@dataclass(frozen=True)
class Channels:
    """Any distinct names, in the order given.

    Attributes:
        names: as the source spells them.
        unit: of all of them: ``mV`` for any voltage, otherwise the source's own text.
    """

    names: tuple[str, ...]
    unit: str = MILLIVOLTS

    @classmethod
    def of(cls, names: Sequence[str] | None, unit: str | None) -> Channels:
        """Raises LatentcastError: no name, an empty one, or one twice; an empty unit."""
        if not names:
            raise LatentcastError(
                "--signal other: takes channels by their names; give them with --leads, for "
                "example --leads Fp1,Fp2"
            )
        for name in names:
            if not name.strip():
                raise LatentcastError(f"--leads {','.join(names)}: a name is empty; fill it in")
            if list(names).count(name) > 1:
                raise LatentcastError(f"--leads {','.join(names)}: '{name}' occurs twice; drop one")
        if unit is None or spelled(unit) in MILLIVOLTS_PER_UNIT:
            return cls(tuple(names))
        if not unit.strip():
            raise LatentcastError("--unit: is empty; name the unit, such as mV or a.u.")
        return cls(tuple(names), unit.strip())

    def factor(self, unit: str) -> float:
        """What a value in ``unit`` is multiplied by.

        Raises:
            LatentcastError: it is another unit than that of the channels.
        """
        if self.unit == MILLIVOLTS:
            return millivolts_per(unit)
        if unit.strip() != self.unit:
            raise LatentcastError(f"unit '{unit}': is not '{self.unit}', which all channels need")
        return 1.0
