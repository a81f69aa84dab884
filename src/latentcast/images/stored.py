"""One image as a store gives it back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from latentcast.images.decode import Pixels


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image of a store with what is known of it; an encoder takes it as it is.

    Attributes:
        pixels: uint8 ``(height, width, channels)``.
        record_id: unique in its store.
        patient_id: None where the source names none.
        metadata: of the source, and ``labels`` and ``fold``, as of a recording.
    """

    pixels: Pixels
    record_id: str
    patient_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width, channels = self.pixels.shape
        return f"StoredImage({self.record_id!r}: {height} × {width} × {channels})"
