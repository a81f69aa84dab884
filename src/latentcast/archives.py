"""Archives (.zip, .tar, .tar.gz, .tgz), unpacked into a folder that lasts as long as it is read.

Nothing of a member but its bytes is taken over: no link, no owner, no mode; and none leaves the
folder. What cannot be taken is listed with its reason, and the rest goes on.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Self

from latentcast.errors import LatentcastError, printable
from latentcast.files import sha256
from latentcast.locks import Locked, locked

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_TIMES, ALWAYS_ALLOWED = 100, 2**29
"""An archive may unpack to so many times its size, and to so many bytes in any case; a member of a
zip, which says so beforehand, to an eighth of that. Recordings and images are far below."""
RESERVE = 2**26
"""Bytes that stay free on the disk that it is unpacked to."""
_LONGEST_HEADER = 2**20
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_PREFIX, _LOCK = "latentcast-unpacked-", ".lock"
DAMAGE = (
    OSError, EOFError, ValueError, OverflowError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, lzma.LZMAError,
)  # fmt: skip
"""What reading a damaged archive raises."""


@dataclass(frozen=True)
class Member:
    """A file of an archive; ``problem`` is why it cannot be taken.

    ``offset`` is where its bytes begin in a tar that is not compressed.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]
    problem: str | None = None
    offset: int = 0


@dataclass(frozen=True)
class Unpacked:
    """What an archive holds.

    Attributes:
        archive: the file.
        sha256: of its bytes.
        folder: what was unpacked, under the archive's name.
        path: what is to be read: ``folder``, or the one folder in it that holds all the rest but
            a README or licence, or what was named.
        rejected: name and reason of each member that was not taken.
    """

    archive: Path
    sha256: str
    folder: Path
    path: Path
    rejected: tuple[tuple[str, str], ...]


def archive_of(path: Path) -> Path | None:
    """The archive that a path names or leads into, as ``x.zip/inner`` does; None for others."""
    for part in (path, *path.parents):
        if part.is_file():
            return part if part.name.lower().endswith(SUFFIXES) else None
    return None


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """Unpack the archive that ``path`` names or leads into; its folder is removed at the end.

    Errors raised inside name the archive where they would name the folder.

    Raises:
        LatentcastError: it is no archive, a bomb, or the disk is too small for what it holds.
    """
    archive = archive_of(path)
    assert archive is not None
    _remove_left()
    temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    with temporary as room, ExitStack() as stack:
        folder = Path(room).resolve() / archive.name
        try:
            stack.enter_context(locked(Path(room) / _LOCK))  # see _remove_left
            folder.mkdir()
            rejected = tuple(_unpack(archive, folder))
            inner = folder / path.relative_to(archive)
            yield Unpacked(
                archive, sha256(archive), folder, _descend(inner) if inner == folder else inner,
                rejected,
            )  # fmt: skip
        except LatentcastError as error:
            shown = str(error).replace(printable(str(folder)), printable(str(archive)))
            error.args = (shown,)
            raise


def _descend(folder: Path) -> Path:
    """Where all lies below one folder, that one: what one would name after unpacking."""
    while True:
        entries = [path for path in folder.iterdir() if path.is_dir() or not _is_about(path)]
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _is_about(file: Path) -> bool:
    """Whether it tells of the others, by its name."""
    return file.name.lower().startswith(("readme", "license", "licence", "citation", "notice"))


def _remove_left() -> None:
    """Remove the folders of processes that were killed: nobody locks them any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            about = folder.lstat()
            mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
            # A new one is not locked for an instant.
            if mine and stat.S_ISDIR(about.st_mode) and time.time() - about.st_mtime > 60:
                with locked(folder / _LOCK, patience=0):
                    pass
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Locked):
            continue


def _unpack(archive: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Write the members; yields name and reason of each that is not written."""
    size = archive.stat().st_size
    limit = max(ALWAYS_ALLOWED, MOST_TIMES * size)
    names: set[str] = set()
    total = 0
    try:
        for member in _members(archive):
            name, problem = member.name, member.problem
            if problem is None and name in names:
                problem = "is the second file of this name"
            if problem is None:
                total += member.size + tarfile.BLOCKSIZE
                if total > limit:
                    raise LatentcastError(
                        f"{archive}: unpacks its {size} bytes to more than {limit}, as no data set "
                        "does; if it is none, unpack it and name the folder"
                    )
                problem = _write(member, folder / name, archive)
            if problem is None:
                names.add(name)
            else:
                yield name, problem
    except DAMAGE as error:
        # A damaged stream may have given wrong bytes before it is noticed; a short one has not.
        if not names or (_is_stream(archive) and not isinstance(error, EOFError)):
            raise LatentcastError(
                f"{archive}: is damaged or no archive ({error}); copy or download it again"
            ) from error
        yield archive.name, f"is damaged or cut off after {len(names)} files ({error})"


def _write(member: Member, target: Path, archive: Path) -> str | None:
    """Write one member; the reason where that cannot be done.

    Raises:
        LatentcastError: the disk is too small.
        TarError, EOFError, OSError, zlib.error: of a tar, whose next members are then unreadable.
    """
    room = tempfile.gettempdir()
    try:
        if shutil.disk_usage(room).free < member.size + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            try:
                source = member.open()
                assert source is not None
                with source:
                    shutil.copyfileobj(source, file, 2**20)
                if file.tell() != member.size:
                    raise EOFError(f"{file.tell()} bytes of {member.size}")
            except BaseException:
                target.unlink()
                raise
    except DAMAGE as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise LatentcastError(
                f"{archive}: does not fit on the disk of {room}, to which it is unpacked; free "
                "space there, or set TMPDIR to a folder on a larger disk"
            ) from error
        if number is None and not _is_zip(archive):
            raise
        return f"cannot be unpacked ({os.strerror(number) if number else error})"
    return None


def _is_zip(archive: Path) -> bool:
    return archive.name.lower().endswith(".zip")


def _is_stream(archive: Path) -> bool:
    """Whether it is compressed as one."""
    return not archive.name.lower().endswith((".zip", ".tar"))


def _members(archive: Path) -> Iterator[Member]:
    """The files of an archive, in its order; each is to be read before the next is asked for.

    Raises:
        TarError, BadZipFile, OSError, EOFError, ValueError, zlib.error: it is damaged.
    """
    if _is_zip(archive):
        yield from _of_zip(archive)
    elif _is_stream(archive):
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
                yield from members_of(tar)
            while stream.read(2**20):  # the checksum is behind the last byte
                pass
    else:
        with open_tar(archive) as tar:
            yield from members_of(tar)


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # What Windows wrote before it followed the specification.
            name = info.orig_filename.replace("\\", "/")
            if name.endswith("/") or _is_hidden(name):
                continue
            kind, problem = stat.S_IFMT(info.external_attr >> 16), None
            if info.flag_bits & 1:
                problem = "is encrypted"
            elif kind not in (0, stat.S_IFREG):
                problem = "is a link" if kind == stat.S_IFLNK else "is no file"
            elif info.file_size > max(ALWAYS_ALLOWED // 8, MOST_TIMES * info.compress_size):
                problem = f"would unpack {info.compress_size} bytes to {info.file_size}"
            yield _member(name, info.file_size, partial(archive.open, info), problem)


def open_tar(path: Path) -> tarfile.TarFile:
    """A tar that is not compressed, of which damaged headers are noticed.

    Raises:
        TarError, OSError: it is none.
    """
    return tarfile.open(path, "r:", tarinfo=_Header)


def members_of(tar: tarfile.TarFile) -> Iterator[Member]:
    """The files of a tar.

    Raises:
        TarError, OSError, EOFError: it is damaged, from here on.
    """
    for info in tar:
        if info.isdir() or _is_hidden(info.name):
            continue
        problem = None
        if info.issym() or info.islnk():
            problem = "is a link"
        elif not info.isreg() or info.issparse():
            problem = "is no file"
        read = partial(tar.extractfile, info)
        yield _member(info.name, info.size, read, problem, info.offset_data)


def _is_hidden(name: str) -> bool:
    """Whether a file is passed over, as it is in a folder of images."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts)


def _member(
    name: str, size: int, read: Callable[[], IO[bytes] | None], problem: str | None, offset: int = 0
) -> Member:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name or not parts:
        return Member(name, size, read, "its name leads out of the archive", offset)
    return Member("/".join(parts), size, read, problem, offset)


class _Header(tarfile.TarInfo):
    """A header of a tar. tarfile takes a damaged one for the end, and reads long names whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if buf.count(0) == tarfile.BLOCKSIZE:
            return super().frombuf(buf, encoding, errors)  # raises what means the end
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header where one must be: {error}") from error
        if header.type in _LONG_HEADERS and header.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header
