"""A source of recordings, whatever its format."""

from __future__ import annotations

from latentcast.signals.recording import Recording
from latentcast.source import Modality, Source


class RecordingSource(Source[Recording]):
    """A set of recordings; see :class:`~latentcast.source.Source`.

    Attributes:
        sampling_rate: of all records, None where each record has its own.
        leads: of all records, where the caller named the channels (arrays); None where the files
            name their own.
    """

    modality: Modality = "ecg"
    sampling_rate: float | None = None
    leads: tuple[str, ...] | None = None
