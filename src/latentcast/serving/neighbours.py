"""The recordings whose embeddings are nearest to one: an index in memory, searched exactly."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.stores import readable_store
from latentcast.data.manifest import SPLITS
from latentcast.errors import LatentcastError
from latentcast.places import is_store
from latentcast.serving.answers import Neighbour

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Index:
    """Embeddings of many recordings.

    Attributes:
        ids: str ``(n,)``.
        patients: str ``(n,)``, "" where none is named.
        splits: str ``(n,)``, likewise.
        vectors: float32 ``(n, features)``, each of length 1.
    """

    ids: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]
    splits: npt.NDArray[np.str_]
    vectors: Floats

    @classmethod
    def of(cls, path: Path, encoder: Encoder, layer: str, pooling: str, features: int) -> Self:
        """From a store, whose recordings are embedded now, or from a ``.npz`` with ``ids`` and
        ``vectors`` (and ``patients``, ``splits``).

        Raises:
            LatentcastError: it is neither, damaged, or of vectors of another model.
        """
        index = (
            cls._of_store(path, encoder, layer, pooling) if is_store(path) else cls._of_file(path)
        )
        if index.vectors.shape[1] != features:
            raise LatentcastError(
                f"{path}: holds vectors of {index.vectors.shape[1]} numbers, the model gives "
                f"{features}; embed the recordings with this model, layer and pooling"
            )
        return index

    @classmethod
    def _of_store(cls, path: Path, encoder: Encoder, layer: str, pooling: str) -> Self:
        store = readable_store(path, "ecg")
        found = encoder.embed(store, layer, pooling, errors="skip")
        row_of = {str(name): row for row, name in enumerate(store.record_ids)}
        rows = np.array([row_of[name] for name in found.ids], np.int64)
        splits = np.full(len(store), "", "<U16")
        for split in SPLITS:
            splits[store.rows(split)] = split
        return cls(
            store.record_ids[rows], store.patient_ids[rows], splits[rows], _unit(found.vectors)
        )

    @classmethod
    def _of_file(cls, path: Path) -> Self:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                vectors = np.asarray(arrays["vectors"], np.float32)
                ids = np.asarray(arrays["ids"], np.str_)
                none = np.full(len(ids), "")
                patients, splits = (
                    np.asarray(arrays[name], np.str_) if name in arrays else none
                    for name in ("patients", "splits")
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as problem:
            raise LatentcastError(
                f"{path}: is neither a store nor a .npz of ids and vectors ({problem}); name a "
                "store, or what latentcast embed wrote"
            ) from None
        if vectors.ndim != 2 or not len(ids) == len(vectors) == len(patients) == len(splits):
            raise LatentcastError(
                f"{path}: has {len(ids)} ids and vectors of {vectors.shape}; give both one length"
            )
        return cls(ids, patients, splits, _unit(vectors))

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(self, vector: Floats, count: int) -> list[Neighbour]:
        """The nearest by the cosine, the nearest first."""
        cosines = self.vectors @ _unit(vector[np.newaxis])[0]
        count = min(count, len(self))
        rows = np.argpartition(-cosines, count - 1)[:count] if count else np.zeros(0, np.int64)
        return [
            Neighbour(
                id=self.ids[row], patient=self.patients[row], split=self.splits[row],
                similarity=cosines[row],
            )
            for row in rows[np.argsort(-cosines[rows], kind="stable")]
        ]  # fmt: skip


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit
