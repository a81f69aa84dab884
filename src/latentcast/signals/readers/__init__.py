"""Readers, one file a format, and the choice between them by what lies in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.signals.leads import canonical_names
from latentcast.signals.readers import packed, wfdb
from latentcast.signals.readers.arrays import ArraySource
from latentcast.signals.readers.source import Source
from latentcast.signals.readers.wfdb_folder import WfdbFolder
from latentcast.signals.recording import BadRecord, Recording

_ARRAYS = (".npy", ".npz")


def open_source(
    path: str | Path,
    *,
    fs: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    layout: str | None = None,
    metadata: str | Path | None = None,
    verify_checksums: bool = True,
) -> Source:
    """The source at ``path``: an array file, a packed folder, a PTB-XL folder or a WFDB folder.

    The arguments are those of :func:`latentcast.data.ingest.ingest`.

    Raises:
        LatentcastError: nothing that can be read lies there, or an argument belongs to another
            format.
    """
    root = Path(path)
    if leads is not None:
        leads = _asked(leads)
    if root.suffix in _ARRAYS and root.is_file():
        beside = None if metadata is None else Path(metadata)
        return ArraySource(
            root, sampling_rate=fs, leads=leads, unit=unit, layout=layout, metadata=beside
        )
    for flag, value in (("--unit", unit), ("--layout", layout), ("--metadata", metadata)):
        if value is not None:
            raise LatentcastError(f"{flag}: is for array files, {root} is none; leave it out")
    if not root.is_dir():
        kind = "is no folder and no .npy or .npz file" if root.exists() else "does not exist"
        raise LatentcastError(f"{root}: {kind}; name the folder that holds the records")
    if (root / packed.INDEX).is_file():
        return packed.PackedSource(root)
    if next(root.rglob("*.hea"), None) is not None:
        return WfdbFolder(root, fs, verify_checksums=verify_checksums)
    arrays = sorted(file.name for file in root.iterdir() if file.suffix in _ARRAYS)
    hint = f"name one file, {root / arrays[0]}" if arrays else "is this the right folder?"
    raise LatentcastError(f"{root}: holds no records (no .hea header, no {packed.INDEX}); {hint}")


def _asked(leads: Sequence[str]) -> tuple[str, ...]:
    if not leads:
        raise LatentcastError("--leads: names no lead; give names, for example --leads I,II,V1")
    try:
        return canonical_names(tuple(leads))
    except LatentcastError as error:
        raise LatentcastError(f"--leads {','.join(leads)}: {error}") from None


def read_recording(path: str | Path) -> Recording:
    """One WFDB or Challenge record, by its ``.hea``, ``.dat`` or ``.mat`` file or its bare name.

    Raises:
        BadRecord: it cannot be used; the message begins with the path.
    """
    file = Path(path)
    header = file.with_suffix(".hea") if file.suffix in (".hea", ".dat", ".mat") else (
        file.with_name(file.name + ".hea")
    )  # fmt: skip
    try:
        recording, annotation = wfdb.read(header)
    except BadRecord as error:
        raise BadRecord(f"{path}: {error}") from error
    recording.metadata.update(annotation.metadata, labels=annotation.labels)
    return recording
