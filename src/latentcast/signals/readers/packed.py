"""The compact lossless form of the ECGs this project carries (``data/ptbxl2980-100hz``).

``signals.json`` names the leads, the rate, and per part file the number of records and the
sha256 of the decoded int16 microvolts. A part is xz over eight planes of bytes, in this order: the
low and then the high bytes of the zigzag-coded first differences of I, II, V1 to V6, then the same
two planes of the zigzag-coded residuals of III, aVR, aVL, aVF against the (floored) Einthoven and
Goldberger predictions. Every plane is C-ordered ``(records, leads, samples)``.
"""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError
from latentcast.files import inside, read_object
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import ptbxl
from latentcast.signals.readers.numbers import number
from latentcast.signals.readers.source import RecordingSource
from latentcast.signals.recording import Recording, from_signal
from latentcast.source import Annotation, BadRecord, RecordRef, record_file

FORMAT = "latentcast-packed-ecg-1"
LARGEST_PART = 2**28
"""Bytes of the samples of a part, which is unpacked as one; the parts of this project have 7 MB."""
MEMORY = 2**28
"""Bytes that unpacking itself may take: a stream announces its own window."""
INDEX = "signals.json"
_CODED = [0, 1, 6, 7, 8, 9, 10, 11]
_PREDICTED = [2, 3, 4, 5]
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0}]

Counts = npt.NDArray[np.int16]


def _prediction(lead_i: npt.NDArray[np.int32], lead_ii: npt.NDArray[np.int32]) -> Any:
    return np.stack(
        [
            lead_ii - lead_i,
            -((lead_i + lead_ii) >> 1),
            (2 * lead_i - lead_ii) >> 1,
            (2 * lead_ii - lead_i) >> 1,
        ],
        axis=1,
    )


def _planes(values: npt.NDArray[np.int32]) -> bytes:
    # Zigzag puts small magnitudes of either sign into small numbers; 17 bits cannot occur because
    # the sum is taken modulo 2^16 on the way back.
    wrapped = values.astype(np.int16).astype(np.int32)
    zigzag = ((wrapped << 1) ^ (wrapped >> 31)).astype("<u2")
    low, high = (zigzag & 255).astype(np.uint8), (zigzag >> 8).astype(np.uint8)
    return low.tobytes() + high.tobytes()


def _from_planes(planes: npt.NDArray[np.uint8], shape: tuple[int, int, int]) -> Counts:
    low, high = planes.reshape(2, *shape)
    zigzag = low.astype("<u2") | high.astype("<u2") << 8
    signs = (-(zigzag & 1).astype(np.int16)).view(np.uint16)
    values: Counts = ((zigzag >> 1) ^ signs).view(np.int16)
    return values


def encode(counts: Counts) -> bytes:
    """One part from int16 microvolts ``(records, 12, samples)`` in canonical lead order."""
    wide = counts.astype(np.int32)
    differences = np.diff(wide[:, _CODED], axis=-1, prepend=0)
    residual = wide[:, _PREDICTED] - _prediction(wide[:, 0], wide[:, 1])
    return lzma.compress(
        _planes(differences) + _planes(residual), format=lzma.FORMAT_XZ, filters=_XZ
    )


def decode(data: bytes, records: int, samples: int) -> Counts:
    """The int16 microvolts ``(records, 12, samples)`` that :func:`encode` was given, exactly.

    Raises:
        ValueError: the data is no such part.
    """
    size = 2 * records * 12 * samples
    try:
        # One byte more than it should hold is enough to see that it holds more.
        unpacked = lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY).decompress(data, size + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"is damaged ({error})") from error
    planes = np.frombuffer(unpacked, dtype=np.uint8)
    if planes.size != size:
        raise ValueError(f"does not hold the {size} bytes of {records} records")
    split = 2 * records * 8 * samples
    counts = np.empty((records, 12, samples), dtype=np.int16)
    differences = _from_planes(planes[:split], (records, 8, samples))
    counts[:, _CODED] = np.cumsum(differences, axis=-1, dtype=np.int16)
    prediction = _prediction(counts[:, 0].astype(np.int32), counts[:, 1].astype(np.int32))
    residual = _from_planes(planes[split:], (records, 4, samples))
    counts[:, _PREDICTED] = (prediction + residual).astype(np.int16)
    return counts


def _count(value: Any) -> int:
    """Raises ValueError: a number of the index is no positive whole one."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{str(value)[:40]} is no number of records or samples")
    return value


@dataclass(frozen=True)
class Part:
    """One file of records; ``sha256`` is that of the decoded samples."""

    file: str
    records: int
    sha256: str


class PackedSource(RecordingSource):
    """The records of a folder in this form, with PTB-XL's table beside them."""

    kind = "packed"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return (path / INDEX).is_file()

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name
        try:
            index = read_object(inside(root, INDEX))
        except (OSError, ValueError) as error:
            raise LatentcastError(
                f"{root / INDEX}: cannot be read ({error}); restore it"
            ) from error
        if index.get("format") != FORMAT or index.get("leads") != list(CANONICAL_LEADS):
            raise LatentcastError(
                f"{root / INDEX}: format is {index.get('format')!r}, this version reads {FORMAT!r}"
            )
        try:
            self.sampling_rate = number(str(index["sampling_rate"]))
            self.samples = _count(index["samples"])
            self.parts = [
                Part(str(part["file"]), _count(part["records"]), str(part["sha256"]))
                for part in index["parts"]
            ]
            if len({part.file for part in self.parts}) < len(self.parts):
                raise ValueError("it names a part twice")
            if max((p.records for p in self.parts), default=0) * self.samples * 24 > LARGEST_PART:
                raise ValueError(f"a part is to unpack to more than {LARGEST_PART:,} bytes")
        except (KeyError, TypeError, ValueError) as error:
            raise LatentcastError(
                f"{root / INDEX}: is damaged ({type(error).__name__}: {error}); restore it"
            ) from error
        # A part is decoded whole, so one process had better read all of it.
        self.batch = max((part.records for part in self.parts), default=1)
        self.rows = ptbxl.read_table(inside(root, ptbxl.TABLE))
        total = sum(part.records for part in self.parts)
        if len(self.rows) != total:
            raise LatentcastError(
                f"{root}: {ptbxl.TABLE} has {len(self.rows)} rows for {total} records; restore it"
            )

    def refs(self) -> list[RecordRef]:
        files = [part.file for part in self.parts for _ in range(part.records)]
        refs = []
        for position, (file, row) in enumerate(zip(files, self.rows, strict=True)):
            key, _, problem = ptbxl.identify(row, position + 2)
            refs.append(RecordRef(key, file, position, problem))
        return refs

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        # Parts are few and small enough to read them whole: no damage of theirs goes unseen.
        for file in (INDEX, ptbxl.TABLE, *(part.file for part in self.parts)):
            try:
                content = inside(self.root, file).read_bytes()
            except (OSError, LatentcastError):
                content = b"missing"
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        first = 0
        for part in self.parts:
            if part.file == ref.file:
                break
            first += part.records
        counts = _part(record_file(self.root, ref.file), part.records, self.samples, part.sha256)
        assert self.sampling_rate is not None
        signal = counts[ref.row - first].astype(np.float32) / np.float32(1000.0)
        annotation = ptbxl.annotation(self.rows[ref.row])
        recording = from_signal(
            signal, CANONICAL_LEADS, self.sampling_rate, ref.record_id, annotation.patient_id
        )
        return recording, annotation


# Two parts: the records of one batch may cross from a part into the next.
@lru_cache(maxsize=2)
def _part(path: Path, records: int, samples: int, sha256: str) -> Counts:
    try:
        counts = decode(path.read_bytes(), records, samples)
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path.name}: {error}") from error
    if hashlib.sha256(counts.tobytes()).hexdigest() != sha256:
        raise BadRecord(f"{path.name}: decodes to other samples than {INDEX} promises")
    return counts
