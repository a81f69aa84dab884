"""A recording without what names its patient: keyed hashes for names and ids, shifted dates.

The same key gives the same hashes, so that records of one patient stay together and later files
join them; who has the key can find a patient again by hashing the id.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from latentcast.errors import LatentcastError
from latentcast.files import read_text
from latentcast.signals.recording import Recording

SHORTEST_KEY = 16
OLDEST = 90.0
"""Years that a higher age counts as: so few are older that it is nearly a name."""
MOST_DAYS = 3650
_KEPT = ("sex", "height", "weight", "derived_leads", "leads_off", "missing_leads")
_CODE = re.compile(r"[\w.+-]{1,20}", re.ASCII)


@dataclass(frozen=True)
class Key:
    """The secret that hashes and offsets are made with."""

    secret: bytes

    @classmethod
    def read(cls, path: Path) -> Key:
        """Of a file of at least :data:`SHORTEST_KEY` characters.

        Raises:
            LatentcastError: it is no such file.
        """
        try:
            secret = read_text(path).strip().encode()
        except (OSError, ValueError) as error:
            raise LatentcastError(f"--key {path}: cannot be read ({error}); name a file") from None
        if len(secret) < SHORTEST_KEY:
            raise LatentcastError(
                f"--key {path}: holds {len(secret)} characters, and fewer than {SHORTEST_KEY} can "
                "be guessed; name a file that does not exist yet, and a key is written to it"
            )
        return cls(secret)

    @classmethod
    def create(cls, path: Path) -> Key:
        """A new key, in a file that only its owner can read.

        Raises:
            LatentcastError: the file cannot be written.
        """
        secret = secrets.token_hex(32)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise LatentcastError(
                f"--key {path}: cannot be written ({error.strerror}); name a file in a folder that "
                "exists"
            ) from None
        with os.fdopen(file, "w") as stream:
            stream.write(secret + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return cls(secret.encode())

    def hash(self, kind: str, name: str) -> str:
        """A name or id as 16 hexadecimal digits; ``kind`` keeps equal texts of two kinds apart."""
        digest = hmac.new(self.secret, f"{kind}\0{name}".encode(errors="surrogateescape"), "sha256")
        return digest.hexdigest()[:16]

    def offset(self, patient: str) -> timedelta:
        """By which all dates of a patient are shifted back: whole days, so that the time of day
        and the days between two records stay."""
        number = hmac.new(self.secret, f"days\0{patient}".encode(), hashlib.sha256).digest()
        return timedelta(days=1 + int.from_bytes(number[:8]) % MOST_DAYS)


def anonymize(recording: Recording, key: Key) -> Recording:
    """The recording with hashed ids; of the metadata only what :data:`_KEPT` lists and what can be
    hashed or shifted. All other metadata may be free text, and is dropped.

    Labels stay that are codes: one word without blanks, of 20 characters at most.
    """
    person = recording.patient_id or recording.record_id
    return replace(
        recording,
        record_id=key.hash("record", recording.record_id),
        patient_id=recording.patient_id and key.hash("patient", recording.patient_id),
        metadata=dict(_metadata(recording.metadata, person, key)),
    )


def _metadata(metadata: dict[str, Any], person: str, key: Key) -> Iterator[tuple[str, Any]]:
    for name in _KEPT:
        if name in metadata and not (isinstance(metadata[name], str) and name != "sex"):
            yield name, metadata[name]
    if isinstance(age := metadata.get("age"), int | float):
        yield "age", min(age, OLDEST)
    for name in ("device", "site"):
        if name in metadata:
            yield name, key.hash(name, str(metadata[name]))
    if labels := {c: v for c, v in metadata.get("labels", {}).items() if _CODE.fullmatch(c)}:
        yield "labels", labels
    try:
        taken = datetime.fromisoformat(str(metadata.get("recording_date")))
        yield "recording_date", (taken - key.offset(person)).isoformat()
    except (ValueError, OverflowError):
        return
