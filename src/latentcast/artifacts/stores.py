"""A store as what an encoder reads: of its own modality, its files compared with their digests."""

from __future__ import annotations

from pathlib import Path

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.source import Modality


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
