"""A store copied to a node's own disk: once a node, checked against the manifest, kept for later.

Ranks and jobs of one node may all ask at the same moment; one copies and the others wait for it.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path

from latentcast.data.manifest import MANIFEST, verify_files
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, printable
from latentcast.files import sha256, sync
from latentcast.locks import locked


def staged(store_path: Path, folder: Path) -> Path:
    """The folder of a copy of the store in ``folder``, made unless a complete one is in it.

    Args:
        store_path: the store, on a disk that many nodes share.
        folder: on this node's own disk; may hold copies of several stores and versions of them.

    Raises:
        LatentcastError: the store is damaged, or ``folder`` has no room or cannot be written.
    """
    store = Store.open(store_path)
    # The manifest holds the checksums of everything else, so its own tells all stores apart.
    digest = sha256(store.path / MANIFEST)
    # The name of the path as it was given may be empty (".") or that of a link.
    copy = folder / f"{store.path.resolve().name}-{digest[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Whoever waits on this node does so for the same file, and it stays.
        with locked(folder / f".{copy.name}.lock", patience=math.inf):
            if not _is_complete(copy, store):
                _copy(store, copy)
            elif int(os.environ.get("LOCAL_RANK", "0")) == 0:  # once a node
                _compare_again(store, copy)
    except OSError as error:
        raise LatentcastError(
            f"machine.stage {folder}: {store.path} cannot be copied to it ({error}); free space "
            "there, name another folder, or set machine.stage=null to read the store where it is"
        ) from error
    return copy


def _is_complete(copy: Path, store: Store) -> bool:
    """Whether a finished copy still has files of the right size."""
    return all(
        (copy / file).is_file()
        and (copy / file).stat().st_size == (store.path / file).stat().st_size
        for file in (*store.files, MANIFEST)
    )


def _copy(store: Store, copy: Path) -> None:
    """Copy into a neighbour, compare with the manifest, then give it its name in one step."""
    draft = copy.with_name(f".{copy.name}.partial")
    for remains in (draft, copy):  # of a process that was killed; of a copy that lost a file
        shutil.rmtree(remains, ignore_errors=True)
    original, files = store.path, (*store.files, MANIFEST)
    size = sum((original / file).stat().st_size for file in files)
    if (room := shutil.disk_usage(copy.parent).free) < size:
        raise OSError(f"it needs {size / 1e9:.1f} GB and {room / 1e9:.1f} GB are free")
    line = f"stage: copying {size / 1e9:.1f} GB from {original} to {copy}"
    print(printable(line), file=sys.stderr)
    try:
        draft.mkdir()
        for file in files:
            shutil.copyfile(original / file, draft / file)
            sync(draft / file)
        _compare(store, draft)
        draft.replace(copy)
        sync(copy.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _compare_again(store: Store, copy: Path) -> None:
    """What a local disk has done to a copy since it was made must not be learned from."""
    try:
        verify_files(copy, store.files)
    except LatentcastError as error:
        # Not made anew here: another rank of this node may be reading it already.
        damage = str(error).split("; ")[0]
        raise LatentcastError(f"{damage}; remove {copy}, the next start copies it anew") from error


def _compare(store: Store, draft: Path) -> None:
    try:
        verify_files(draft, store.files)
    except LatentcastError as error:
        store.verify()  # raises when it is the store itself
        raise OSError(
            f"the copy differs from the store, which is intact: {error}; check that disk"
        ) from error
