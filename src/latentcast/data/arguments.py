"""Which arguments of an ingest go with which source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentcast.data.codecs import CODECS, Codec
from latentcast.data.formats import READER_ONLY, format_of, is_archive, is_array_file
from latentcast.errors import LatentcastError
from latentcast.source import Modality, Source


def files_of(source: str | Path | Source[Any], arguments: Mapping[str, Any]) -> tuple[Path, ...]:
    """What the machines of a cluster have to have: the files.

    Raises:
        LatentcastError: they are in an archive, which is unpacked here.
    """
    if isinstance(source, Source):
        return ()
    if is_archive(source):
        raise LatentcastError(
            f"{source}: is an archive, which --cluster cannot share; unpack it on a disk that all "
            "machines have, and ingest that"
        )
    tables = [arguments[name] for name in ("metadata", "patients") if name in arguments]
    files = [path for path in map(Path, (source, *tables)) if path.exists()]
    relative = not Path(source).is_absolute()
    return (*([Path.cwd()] if relative else []), *files)


def reader_of(
    source: str | Path | Source[Any], modality: Modality | None, arguments: Mapping[str, Any]
) -> type[Source[Any]] | Source[Any]:
    """The format of a path, or the source itself."""
    if isinstance(source, Source):
        return source
    common = set[str].intersection(*(set(codec.target.arguments) for codec in CODECS.values()))
    own = arguments.keys() - common
    about = [m for m, codec in CODECS.items() if own & codec.target.arguments.keys()]
    if modality is None and is_array_file(Path(source)) and len(about) == 1:
        # What an array holds is a guess from names and axes, until an argument settles it.
        modality = about[0]
    return format_of(Path(source), modality)


def refuse_others(source: Any, codec: Codec, arguments: Mapping[str, Any]) -> None:
    """Raises LatentcastError: an argument is about records of another modality, or about files."""
    what = source.name if isinstance(source, Source) else source
    for other in CODECS.values():
        for name in arguments.keys() & (other.target.arguments.keys() - codec.target.arguments):
            raise LatentcastError(
                f"--{name.replace('_', '-')}: is for {other.records}, {what} is read as "
                f"{codec.records}; leave it out"
            )
    free_unit = {"unit"} if arguments.get("signal") == "other" else set()
    if isinstance(source, Source) and (names := arguments.keys() & READER_ONLY - free_unit):
        raise LatentcastError(f"{min(names)}: is for files, {what} is none; leave it out")
