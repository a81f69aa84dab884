"""The embeddings among which a server finds neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentcast.artifacts.embeddings import SUFFIXES, Embeddings
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.stores import readable_store
from latentcast.data.manifest import SPLITS
from latentcast.errors import LatentcastError
from latentcast.places import is_store


def searched(path: Path, encoder: Encoder, layer: str, pooling: str, features: int) -> Embeddings:
    """Of a store, whose recordings are embedded now, or of a table of ``latentcast embed``.

    Raises:
        LatentcastError: it is neither, damaged, or of vectors of another model.
    """
    if is_store(path):
        found = _of_store(path, encoder, layer, pooling)
    elif path.suffix in SUFFIXES:
        found = Embeddings.read(path)
    else:
        raise LatentcastError(
            f"{path}: is neither a store nor a table of embeddings; name a store, or what "
            "latentcast embed wrote"
        )
    if found.vectors.shape[1] != features:
        raise LatentcastError(
            f"{path}: holds vectors of {found.vectors.shape[1]} numbers, the model gives "
            f"{features}; embed the recordings with this model, layer and pooling"
        )
    return found


def _of_store(path: Path, encoder: Encoder, layer: str, pooling: str) -> Embeddings:
    store = readable_store(path, "ecg")
    found = encoder.embed(store, layer, pooling, errors="skip")
    row_of = {str(name): row for row, name in enumerate(store.record_ids)}
    rows = np.array([row_of[name] for name in found.ids], np.int64)
    splits = np.full(len(store), "", "<U16")
    for split in SPLITS:
        splits[store.rows(split)] = split
    return Embeddings(
        store.record_ids[rows], store.patient_ids[rows], splits[rows], found.vectors, {}
    )
