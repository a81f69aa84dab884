"""What ingest asks of a source of records, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from latentcast.signals.recording import Recording


@dataclass(frozen=True)
class RecordRef:
    """Where one record lies.

    Attributes:
        record_id: its id in the store.
        file: the file that holds it, relative to the source.
        row: its row, in a file that holds many records.
        problem: why it cannot be read, where the listing already knows.
    """

    record_id: str
    file: str
    row: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Annotation:
    """What a source says about a record beside its signal.

    ``labels`` maps a code to its likelihood as given; a code with likelihood 0.0 is present.
    ``fold`` is 1 to 10, or None where the source has no folds.
    """

    patient_id: str | None = None
    fold: int | None = None
    labels: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """A set of records in one format; picklable, so that worker processes can read from it."""

    kind: str
    name: str
    sampling_rate: float | None
    """The rate of all records where the source has one; None where each record says its own."""
    batch: int
    """Records that are best read by one process, one after the other."""
    native_leads: tuple[str, ...] | None
    """Leads the caller named for the channels (arrays); None where the files name their own."""

    def refs(self) -> Sequence[RecordRef]:
        """All records in an order that depends on nothing but the source."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source does: a hash of listing, headers, tables and checksums, and of
        the size of every signal file at least."""
        ...

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        """One record; raises BadRecord with the reason when it cannot be used."""
        ...
