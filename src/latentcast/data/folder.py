"""Whose a store's folder is: one ingest at a time, of one source, with one set of options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from latentcast.data.manifest import MANIFEST, PLAN, QUARANTINE
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.files import read_object, write_text
from latentcast.locks import Locked, is_locked, locked

LOCK = "ingest.lock"


@contextmanager
def writing(folder: Path, fix: str) -> Iterator[None]:
    """Turn an error of the file system into one that names the folder and the fix."""
    try:
        yield
    except OSError as error:
        raise LatentcastError(f"{folder}: cannot be written ({error}); {fix}") from error


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it; ends with this process at the latest.

    Raises:
        LatentcastError: another process holds it, or the folder cannot be written.
    """
    with writing(folder, "choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            with writing(folder, "choose another --out"):
                stack.enter_context(locked(folder / LOCK, remove=True))
        except Locked:
            raise LatentcastError(
                f"{folder}: another ingest is writing into it; wait until it ends, or choose "
                "another --out"
            ) from None
        yield


def finished_store(folder: Path, provenance: dict[str, Any]) -> Store | None:
    """The finished store of this very source and options, if the folder already holds it.

    Raises:
        LatentcastError: it holds the finished store of another source or other options.
    """
    if not (folder / MANIFEST).is_file():
        return None
    store = Store.open(folder)
    mine = json.loads(json.dumps(provenance))
    theirs = json.loads(json.dumps(store.manifest.provenance))
    # Another version that reads this format has nothing to redo.
    theirs["latentcast"] = mine["latentcast"]
    if theirs != mine:
        raise _taken(folder, theirs, mine)
    clear(folder)  # a kill between manifest and tidying leaves sidecars
    return store


def claim(folder: Path, plan: dict[str, Any]) -> None:
    """Make a folder ours to write to; goes on with what a killed ingest of the same plan left.

    Raises:
        LatentcastError: it holds something else.
    """
    text = json.dumps(plan, indent=1, ensure_ascii=False, sort_keys=True)
    if (folder / PLAN).is_file():
        try:
            theirs = read_object(folder / PLAN)
            provenance = dict(theirs["provenance"])
        except (ValueError, KeyError, TypeError) as error:
            raise LatentcastError(
                f"{folder / PLAN}: cannot be used ({error!r}); remove {folder} and ingest again"
            ) from error
        if theirs != json.loads(text):
            raise _taken(folder, provenance, plan["provenance"])
    elif any(not _harmless(path) for path in folder.iterdir()):
        raise LatentcastError(
            f"{folder}: is not empty and holds no store; choose an empty or new --out"
        )
    # Drafts of what a killed run was writing; its open shard is left to the writer.
    for draft in folder.glob(".*.*.*"):
        draft.unlink()
    write_text(folder / PLAN, text)


def _harmless(path: Path) -> bool:
    """Whether an ingest that came to nothing leaves it, killed or not."""
    return path.name in (QUARANTINE, LOCK) or path.match(f".{PLAN}.*")


def _flat(provenance: dict[str, Any]) -> dict[str, Any]:
    """With the options among the rest; those of a damaged plan may be anything."""
    options = provenance.get("options")
    return {**provenance, **(options if isinstance(options, dict) else {}), "options": None}


def _taken(folder: Path, stored: dict[str, Any], new: dict[str, Any]) -> LatentcastError:
    source = new["source"]
    stored, new = map(_flat, (stored, new))
    keys = [key for key in sorted(stored.keys() | new.keys()) if stored.get(key) != new.get(key)]
    # Of the content of one source; sixty-four digits tell a reader nothing.
    keys = [key for key in keys if key not in ("fingerprint", "listed", "archive_sha256")]
    # With nothing else different, what was found in the first records is (their rate).
    if not keys:
        return LatentcastError(
            f"{folder}: the source '{source}' has changed since its records were read into "
            f"this store; remove {folder} to ingest it anew, or choose another --out"
        )
    if keys == ["labels"]:
        return LatentcastError(
            f"{folder}: was ingested with another table of labels; give it this one with "
            f"latentcast label {folder} TABLE, or remove that folder to divide its records anew"
        )
    # What one of the two has no value for comes last: its value is not None, it is its default.
    keys.sort(key=lambda key: None in (stored.get(key), new.get(key)))
    differing = [f"{key} {_value(stored, key)} there, {_value(new, key)} here" for key in keys]
    return LatentcastError(
        f"{folder}: already holds another store ({'; '.join(differing[:3])}); choose "
        "another --out or remove that folder"
    )


def _value(flat: dict[str, Any], key: str) -> str:
    value = flat.get(key)
    if isinstance(value, float):
        return f"{value:g}"
    return "not set" if value is None else repr(value)


def clear(folder: Path) -> None:
    """Remove what only an unfinished ingest needs."""
    # Last first: a kill in between leaves a beginning, which is what a resumed ingest can read.
    sidecars = sorted(folder.glob("shard-*.json"), reverse=True)
    logs = folder.glob("shard-*.partial")
    for path in (*logs, *sidecars, folder / PLAN, folder / LOCK):
        # A disk for reading only refuses to remove even what is not there; the lock in use is
        # removed by who has it.
        if path.exists() and not (path.name == LOCK and is_locked(path)):
            path.unlink(missing_ok=True)
