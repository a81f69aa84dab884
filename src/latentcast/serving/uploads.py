"""From the bytes of a request to a recording, by the readers that ingest uses.

A reader wants a path. The bytes are a file in memory for as long as they are read: in a folder of
this server alone, on a file system that is kept in memory (``/dev/shm``).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from latentcast.archives import DAMAGE
from latentcast.artifacts.recordings import AXES, ArrayAxes, RecordingReader
from latentcast.config import EcgInput
from latentcast.data.convert import reason_of
from latentcast.errors import LatentcastError, printable
from latentcast.files import parse_object
from latentcast.npy import array_of
from latentcast.serving.fhir import recording_of
from latentcast.signals.readers.arrays import array_recording, channels_of, check_array
from latentcast.signals.recording import Recording, hertz
from latentcast.source import BadRecord

IN_MEMORY = Path("/dev/shm")
_PREFIX = "latentcast-serve-"
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
LONGEST_NAME = 200
MOST_FILES = 16
"""In a zip of one record: a header and its signals."""
MOST_UNZIPPED = 2**26
"""Bytes of them all."""


class Refused(Exception):
    """A request that has no answer: its status, and the reason."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, printable(reason), headers or {}


class Signal(BaseModel):
    """A recording as numbers."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"sampling_rate": 500, "leads": ["I", "II"], "unit": "mV",
                        "signal": [[0.01, 0.02], [0.0, None]]}
        },
    )  # fmt: skip

    signal: list[list[float | None]]
    """A list of samples for each lead; null where nothing was measured."""
    leads: list[str]
    sampling_rate: float
    """Hz."""
    unit: str = "mV"
    """V, mV, uV or nV."""
    id: str = "signal"

    def recording(self) -> Recording:
        """Raises LatentcastError: it is none."""
        leads, factor = channels_of(self.leads, self.unit, "ecg")
        if len({len(row) for row in self.signal}) > 1:
            raise BadRecord("signal: its leads have different lengths; fill up with null")
        block = np.array(self.signal, np.float64)
        check_array("signal", block, len(leads))
        if block.ndim != 2:
            raise BadRecord("signal: is no list of samples for each lead")
        rate = hertz(self.sampling_rate, "sampling_rate")
        return array_recording(block, leads, factor, rate, self.id[:LONGEST_NAME])


class Uploads:
    """Reads uploads; its folder is private and is removed by :meth:`close`.

    Attributes:
        folder: where an upload is a file while it is read.
        in_memory: whether that is memory and no disk.
    """

    def __init__(self, config: EcgInput) -> None:
        self._config = config
        self.in_memory = os.access(IN_MEMORY, os.W_OK) and os.path.ismount(IN_MEMORY)
        if self.in_memory:
            _remove_left()
        room = IN_MEMORY if self.in_memory else None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=room))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, body: bytes, name: str, axes: ArrayAxes) -> Recording:
        """Of any format that ingest reads of which one file holds one recording; or a zip of the
        files of one WFDB record.

        Args:
            name: of the file where it came from; "" where that is not named.
            axes: of files that do not name their rate, unit or leads.

        Raises:
            Refused: it cannot be read.
        """
        if not body:
            raise Refused(400, "the body: is empty; send the bytes of an ECG file")
        reader = RecordingReader(self._config, axes, resample=True)
        suffix, title = Path(name).suffix, name[:LONGEST_NAME] or "upload"
        if suffix == ".npy":  # read without a file: no format to recognise, nothing beside it
            _check_axes(axes)
            recording = _read(
                lambda: _only(reader.load(array_of(body))), lambda text: f"{title}: {text}"
            )
            return replace(recording, record_id=Path(title).stem)
        with self._file(body, suffix if _SUFFIX.fullmatch(suffix) else "") as path:

            def read() -> Recording:
                zipped = body.startswith(b"PK\x03\x04") and suffix != ".npz"
                return _only(reader.load(_unzipped(path) if zipped else path))

            recording = _read(
                read, lambda text: text.replace(str(path), title).replace(f"{path.parent}/", "")
            )
        return replace(recording, record_id=Path(title).stem)

    def signal(self, body: bytes) -> Recording:
        """Of JSON, a :class:`Signal`. Raises Refused: it is none."""
        return _read(lambda: Signal.model_validate_json(body).recording())

    def observation(self, body: bytes, unit: str | None) -> Recording:
        """Of a FHIR Observation with SampledData.

        Args:
            unit: of an Observation whose origin has none.

        Raises:
            Refused: it is none.
        """
        return _read(lambda: recording_of(parse_object(body), unit))

    @contextmanager
    def _file(self, body: bytes, suffix: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as room:
            path = Path(room, f"upload{suffix}")
            path.write_bytes(body)
            yield path


def _check_axes(axes: ArrayAxes) -> None:
    missing = [name for name in AXES if getattr(axes, name) is None]
    if missing:
        raise Refused(
            422, f"the array: comes without its {', '.join(missing)}; add what it has, such as "
            "?sampling_rate=500&unit=mV&leads=I,II,V1",
        )  # fmt: skip
    if axes.rename is not None:
        raise Refused(422, "rename: is for files that name their leads; an array has them of leads")


def _only(recordings: Iterator[Recording]) -> Recording:
    found = list(islice(recordings, 2))
    if len(found) != 1:
        many = "several recordings" if found else "no recording"
        raise BadRecord(f"holds {many}; send a file of one")
    return found[0]


def _read(read: Callable[[], Recording], named: Callable[[str], str] = str) -> Recording:
    """Raises Refused: whatever is wrong with what was uploaded."""
    try:
        return read()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(422, f"{where}: {first['msg']}") from None
    except LatentcastError as error:  # BadRecord is one
        raise Refused(422, named(str(error))) from None
    except MemoryError:
        raise Refused(413, "the upload: needs more memory than there is") from None
    except Exception as error:
        # Foreign files fail in foreign ways. A fault of ours would look the same: it is printed.
        if not isinstance(error, ValueError):
            traceback.print_exc(file=sys.stderr)
        raise Refused(422, named(reason_of(error))) from None


def _unzipped(path: Path) -> Path:
    """The header of a WFDB record, or the one file, of a zip; its files are beside it then.

    Raises:
        BadRecord: it holds something else, or more than a recording.
    """
    folder = path.parent / "unzipped"
    folder.mkdir()
    left = MOST_UNZIPPED
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MOST_FILES:
                raise BadRecord(f"holds {len(members)} files; send a zip of one record")
            for member in members:
                with archive.open(member) as file:
                    data = file.read(left + 1)
                if (left := left - len(data)) < 0:
                    raise BadRecord(f"unpacks to more than {MOST_UNZIPPED:,} bytes")
                (folder / PurePosixPath(member.filename).name).write_bytes(data)
    except DAMAGE as error:
        raise BadRecord(f"is a damaged zip ({error}); copy it again") from None
    files = sorted(folder.iterdir())
    headers = [file for file in files if file.suffix == ".hea"]
    if len(headers or files) != 1:
        raise BadRecord(f"holds {len(headers or files)} records; send a zip of one")
    return (headers or files)[0]


def _remove_left() -> None:
    """Remove the folders of servers that were killed."""
    for folder in IN_MEMORY.glob(f"{_PREFIX}*"):
        try:
            os.kill(int(folder.name.removeprefix(_PREFIX).partition("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, OSError):  # of somebody else
            continue
