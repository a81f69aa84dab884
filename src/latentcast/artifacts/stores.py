"""A store as what an encoder reads: of its own modality, its files compared with their digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentcast.data.manifest import MANIFEST
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.places import kind_of
from latentcast.source import Modality


def store_at(x: Any, modality: Modality) -> Any:
    """The store whose path is given; anything else as it is.

    Raises:
        LatentcastError: it is the path of an archive.
    """
    if isinstance(x, str | Path) and (kind := kind_of(Path(x))) == "is an archive":
        raise LatentcastError(f"{x}: {kind}; ingest it and give the store")
    if isinstance(x, str | Path) and (Path(x) / MANIFEST).is_file():
        return readable_store(Path(x), modality)
    return x


def readable_store(store: Store | Path, modality: Modality) -> Store:
    """The store, opened where it is a path.

    Raises:
        LatentcastError: it is damaged, or of the other modality.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    if opened.modality != modality:
        content = "recordings" if opened.modality == "ecg" else "images"
        raise LatentcastError(
            f"{opened.path}: holds {content}, the encoder was trained on {modality} data; give "
            "it a store of its own kind"
        )
    opened.verify_once()
    return opened
