"""A record that cannot be read: it ends the call, or is left out and listed with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from latentcast.data.convert import Rejected, reason_of
from latentcast.data.writer import kind_of
from latentcast.errors import LatentcastError
from latentcast.source import BadRecord

Errors = Literal["refuse", "skip"]
"""What to do about records that cannot be read: raise, or leave them out and list them."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """What could be read of many records.

    Attributes:
        ids: of the records, one for each row.
        vectors: float32 ``(n, features)``.
        rejected: the records that could not be read, each with its ``reason``.
    """

    ids: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    rejected: tuple[Rejected, ...]


class NoneRead(LatentcastError):
    """Of many records none could be read; ``rejected`` has the reason of each."""

    def __init__(self, message: str, rejected: tuple[Rejected, ...]) -> None:
        super().__init__(message)
        self.rejected = rejected


@dataclass
class Rejections:
    """The records that one call could not read.

    Attributes:
        errors: ``refuse``, the first one ends the call, or ``skip``.
        records: those left out.
    """

    errors: Errors = "refuse"
    records: list[Rejected] = field(default_factory=list)

    @property
    def skipping(self) -> bool:
        return self.errors == "skip"

    def add(self, name: str, error: Exception, source: str | None = None) -> None:
        """List a record with the reason.

        Raises:
            BadRecord: none is to be left out.
            LatentcastError: the error is not that of one record.
        """
        reason = reason_of(error).removeprefix(f"{name}: ")
        if self.skipping:
            self.records.append(Rejected(name, name, reason))
            return
        place = name if source is None else f"{name} of {source}"
        raise BadRecord(f"{place}: {reason}") from error

    def check(self, read: int) -> tuple[Rejected, ...]:
        """The records left out, of a call that read as many others.

        Raises:
            NoneRead: none is left.
        """
        if self.records and not read:
            first = self.records[0]
            n = len(self.records)
            others = f" (the first of {n}, of which none can be read)" if n > 1 else ""
            raise NoneRead(
                f"{first.record_id}: {first.reason}{others}; name others", tuple(self.records)
            )
        return tuple(self.records)


def summary(rejected: Sequence[Rejected]) -> list[str]:
    """Each reason in a line, the most common first, with a record as an example."""
    kinds = Counter(kind_of(record.reason) for record in rejected)
    examples = {kind_of(record.reason): record.record_id for record in reversed(rejected)}
    return [f"{n} × '{kind}', such as {examples[kind]}" for kind, n in kinds.most_common(5)]
