"""Features kept by what they are functions of, so that a second task does not compute them again.

A file is named by the digest of all that its numbers depend on: weights and preprocessing of the
source, samples of the store, layers, pooling, windows, kind of device, and the source code that
computes them. Nothing is ever out of date: what changed has another name.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.weights import fingerprint
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import FeatureSource, Ints, Windows, extract, pooling_of
from latentcast.evaluation.missing_leads import WithoutLeads
from latentcast.files import replacing
from latentcast.npy import read_members

Layers = dict[str, npt.NDArray[np.float32]]

CODE = (
    "nn", "data", "signals", "images", "artifacts", "evaluation/features.py",
    "evaluation/baselines.py", "evaluation/foreign", "evaluation/missing_leads.py",
)  # fmt: skip
"""Folders and files of the package that decide what a feature is."""
FORMAT = 2
"""Of the files; 2 has the seconds that reading took."""
MOST = 4 * 2**30
"""Bytes of the folder that nobody named."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A source whose features can be kept; those of any other are kept as long as the process."""

    @property
    def fingerprint(self) -> str | None:
        """Of weights and preprocessing: another one where a feature may differ; None where that
        cannot be told."""
        ...


class FeatureCache:
    """Features of all records of a store, computed once.

    Attributes:
        folder: of the files, made when the first one is written; None keeps them in memory.
        notes: sentences about files that were damaged, and were computed again, or are not kept.
        found, computed: how many sources had features in it for a store, and had not.
    """

    def __init__(self, folder: str | Path | None = None, most: int | None = None) -> None:
        """``most`` bytes stay in a folder that the caller did not name: what was used longest ago
        goes. There nothing is computed for the sake of the cache alone, and what cannot be written
        is not kept."""
        self.folder = None if folder is None else Path(folder)
        self.most = most
        self.notes: list[str] = []
        self.found = self.computed = 0
        self._counted = set[str]()
        self._seconds = dict[str, float]()
        self._in_memory: dict[tuple[int, str], tuple[FeatureSource, Layers]] = {}

    def extract(
        self,
        source: FeatureSource,
        store: Store,
        rows: Ints,
        *,
        pooling: str = "mean+std",
        windows: Windows = "strided",
    ) -> Layers:
        """What :func:`~latentcast.evaluation.features.extract` gives; computed for all records, of
        a store without leads for those that it is about.

        Raises:
            LatentcastError: what ``extract`` refuses; or a file cannot be written.
        """
        key, computed = _key(source, store, pooling, windows), _computed_rows(store)
        lasting = self.folder is not None and fingerprint_of(source) is not None
        few = 2 * len(rows) < len(computed)
        if self.most is not None and (few or not lasting):
            return extract(source, store, rows, pooling=pooling, windows=windows)
        if self.folder is None or not lasting:
            # The source is kept beside its features, so that its id stays its own.
            place = (id(source), key)
            if place not in self._in_memory:
                self._in_memory[place] = (source, self._computed(source, store, pooling, windows))
            layers = self._in_memory[place][1]
        else:
            file = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npz"
            found = self._read(file, key)
            if found is None:
                found = self._computed(source, store, pooling, windows)
                self._write(file, key, found)
            else:
                self.found += key not in self._counted
            layers = found
        self._counted.add(key)
        places = np.searchsorted(computed, rows)
        return {name: features[places] for name, features in layers.items()}

    def seconds(self, source: FeatureSource, store: Store, pooling: str, windows: Windows) -> float:
        """That reading the features from samples took, then or now."""
        return self._seconds[_key(source, store, pooling, windows)]

    def _computed(
        self, source: FeatureSource, store: Store, pooling: str, windows: Windows
    ) -> Layers:
        self.computed += 1
        begin, rows = time.perf_counter(), _computed_rows(store)
        found = extract(source, store, rows, pooling=pooling, windows=windows)
        self._seconds[_key(source, store, pooling, windows)] = time.perf_counter() - begin
        return found

    def _read(self, file: Path, key: str) -> Layers | None:
        if not file.exists():
            return None
        try:
            about = read_members(file, ["key", "layers", "seconds"])
            if str(about["key"]) != key:
                raise ValueError("is of other features")
            self._seconds[key] = float(about["seconds"])
            names = about["layers"].tolist()
            arrays = read_members(file, [str(place) for place in range(len(names))])
        except (OSError, ValueError) as problem:
            self.notes.append(f"{file}: is damaged ({problem}); computed again")
            return None
        if self.most is not None:
            with suppress(OSError):  # of another user's, or on a disk for reading only
                os.utime(file)
        return dict(zip(names, arrays.values(), strict=True))

    def _write(self, file: Path, key: str, layers: Mapping[str, npt.NDArray[np.float32]]) -> None:
        arrays: dict[str, Any] = {"key": np.array(key), "layers": np.array(list(layers))}
        arrays["seconds"] = np.array(self._seconds[key])
        arrays |= {str(place): features for place, features in enumerate(layers.values())}
        size = sum(array.nbytes for array in arrays.values())
        if self.most is not None and size > self.most:
            self.notes.append(
                f"features of {size / 2**30:.1f} GiB are not kept in {file.parent}, which holds at "
                f"most {self.most / 2**30:.0f}; --cache FOLDER keeps them"
            )
            return
        try:
            # Of patients, and in a folder that nobody named: for this user alone.
            file.parent.mkdir(0o777 if self.most is None else 0o700, parents=True, exist_ok=True)
            with replacing(file) as draft, draft.open("wb") as stream:
                np.savez(stream, **arrays)
            if self.most is not None:
                _make_room(file.parent, self.most)
        except OSError as error:
            if self.most is not None:
                self.notes.append(
                    f"features are not kept in {file.parent} ({error}); --cache FOLDER keeps them, "
                    "--no-cache does not try"
                )
                return
            raise LatentcastError(
                f"{file}: cannot be written ({error}); free space, or name another folder with "
                "--cache"
            ) from None


def usual_folder() -> Path | None:
    """Of the features that probes keep for the next one: in the cache of the user; None where there
    is none."""
    named = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    home = Path(named or os.path.expanduser("~/.cache"))  # noqa: PTH111  # Path's raises
    return home / "latentcast" / "features" if home.is_absolute() else None


def _make_room(folder: Path, most: int) -> None:
    """Remove the files that were used longest ago, until the others take ``most`` bytes."""
    states = []
    for file in folder.glob("*.npz"):
        with suppress(FileNotFoundError):  # another process makes room as well
            states.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    left = sum(size for _, size, _ in states)
    for _, size, file in sorted(states):
        if left <= most:
            return
        file.unlink(missing_ok=True)
        left -= size


def _key(source: FeatureSource, store: Store, pooling: str, windows: Windows) -> str:
    content = {
        "source": fingerprint_of(source) or source.name,
        "device": torch.device(getattr(source, "device", "cpu")).type,
        "store": store.files,
        "layers": source.layer_names,
        "pooling": pooling_of(source, pooling),
        "windows": windows,
        "code": code_digest(),
        "format": FORMAT,
        "torch": torch.__version__,
    }
    return json.dumps(content, sort_keys=True)


def _computed_rows(store: Store) -> Ints:
    """The records whose features are kept, ascending."""
    return store.about if isinstance(store, WithoutLeads) else np.arange(len(store))


def fingerprint_of(source: FeatureSource) -> str | None:
    """Of weights and preprocessing; None of a source that has none."""
    if isinstance(source, Encoder):
        return fingerprint(source.config, source.network)
    return source.fingerprint if isinstance(source, Fingerprinted) else None


@cache
def code_digest() -> str:
    """Of the source files in CODE."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for place in CODE:
        path = package / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(package)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
