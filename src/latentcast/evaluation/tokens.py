"""Frozen tokens of an encoder, for heads that choose among them instead of reading their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.data.store import Store
from latentcast.evaluation.features import FeatureSource, Passes, Windows, check_finite

BUDGET = 1 << 30
"""Bytes of tokens in memory at a time; a layer that is larger alone lies in a temporary file."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenFeatures:
    """The tokens of one layer, of records that may differ in their number of crops.

    Attributes:
        values: float32 ``(crops, N, D)``; 0 where not valid.
        valid: bool ``(crops, N)``.
        begins: int64 ``(records + 1,)``, where the crops of each record of the store begin.
        rows: the records that these are of; indexing chooses among them.
    """

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    begins: Ints
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Ints) -> TokenFeatures:
        return replace(self, rows=self.rows[places])

    @property
    def width(self) -> int:
        """Of a token."""
        return int(self.values.shape[2])

    def batch(self, places: Ints) -> tuple[Tensor, Tensor]:
        """All tokens of some records ``(B, tokens, D)`` and their validity ``(B, tokens)``; of
        fewer crops than another has the rest is not valid."""
        rows = self.rows[places]
        counts = self.begins[rows + 1] - self.begins[rows]
        steps = np.arange(counts.max())
        crops = np.minimum(self.begins[rows, None] + steps, len(self.values) - 1)
        valid = self.valid[crops] & (steps < counts[:, None])[:, :, None]
        values, records = torch.from_numpy(self.values[crops]), len(rows)
        return values.reshape(records, -1, self.width), torch.from_numpy(valid.reshape(records, -1))


class TokenLayers(Mapping[str, TokenFeatures]):
    """The tokens of every layer of a source, read when a layer is asked for.

    As many layers as fit :data:`BUDGET` are read in one go over the store and kept until one is
    asked for that is not among them.
    """

    def __init__(
        self, source: FeatureSource, store: Store, rows: Ints, windows: Windows = "strided"
    ) -> None:
        self._source, self._passes = source, Passes.over(source, store, rows, windows)
        self._begins = np.searchsorted(self._passes.owner, np.arange(len(rows) + 1))
        self._in_memory: dict[str, TokenFeatures] = {}
        self._lock = Lock()

    def __contains__(self, layer: object) -> bool:
        return layer in self._source.layer_names  # Mapping's own would read the layer

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.layer_names)

    def __len__(self) -> int:
        return len(self._source.layer_names)

    def __getitem__(self, layer: str) -> TokenFeatures:
        if layer not in self._source.layer_names:
            raise KeyError(layer)
        with self._lock:  # of two threads at two tasks one reads
            if layer not in self._in_memory:
                self._in_memory = {}  # before the next are read, not after
                self._in_memory = self._read(layer)
            return self._in_memory[layer]

    def _read(self, first: str) -> dict[str, TokenFeatures]:
        names, crops = list(self._source.layer_names), len(self._passes.owner)
        order = names[names.index(first) :] + names[: names.index(first)]
        rooms: dict[str, npt.NDArray[np.float32]] = {}
        measured = np.zeros((crops, 0), np.bool_)
        for part, layers, valid in self._passes:
            by_name = dict(zip(names, layers, strict=True))
            if not rooms:
                measured = np.zeros((crops, valid.shape[1]), np.bool_)
                shapes = {name: (crops, *by_name[name].shape[1:]) for name in order}
                sizes = np.cumsum([4 * math.prod(shape) for shape in shapes.values()])
                fitting = max(1, int((sizes <= BUDGET).sum()))
                rooms = {name: _room(shapes[name]) for name in order[:fitting]}
            measured[part] = valid.cpu().numpy()
            for name, room in rooms.items():
                several = room.shape[1] // valid.shape[1]  # of a layer finer than the patches
                of_layer = valid.repeat_interleave(several, dim=1).unsqueeze(-1)
                tokens = torch.where(of_layer, by_name[name].float(), 0.0)
                room[part] = tokens.cpu().numpy()
                check_finite(room[part], self._source, name)
        rows = np.arange(len(self._begins) - 1)
        found = {}
        for name, room in rooms.items():
            own = np.repeat(measured, room.shape[1] // measured.shape[1], axis=1)
            found[name] = TokenFeatures(room, own, self._begins, rows)
        return found


def _room(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if 4 * math.prod(shape) <= BUDGET:
        return np.empty(shape, np.float32)
    # The file has no name any more and goes with the array.
    return np.memmap(TemporaryFile(), np.float32, "w+", shape=shape)
