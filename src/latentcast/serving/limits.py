"""What one server takes: of size, of time, and at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from latentcast.errors import LatentcastError


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        most_bytes: of the body of a request.
        seconds: from the first byte of a request to its answer.
        queue: requests that are read or wait, beyond which others are sent away.
        batch: windows the network reads at a time.
        delay: seconds that a window waits for others to share its batch.
    """

    most_bytes: int = 2**24
    seconds: float = 30.0
    queue: int = 256
    batch: int = 64
    delay: float = 0.005

    @classmethod
    def of(cls, megabytes: float, seconds: float, queue: int, batch: int) -> Self:
        """From the flags of ``latentcast serve``. Raises LatentcastError: one is not positive."""
        for flag, value in (
            ("--max-megabytes", megabytes), ("--max-seconds", seconds), ("--queue", queue),
            ("--batch-size", batch),
        ):  # fmt: skip
            if not 0 < value < float("inf"):
                raise LatentcastError(f"{flag} {value:g}: is no limit; give a number above 0")
        return cls(int(megabytes * 2**20), seconds, queue, batch)
