"""Labelled images of which every pixel is fixed here, as files, and the stores made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.config import EcgInput
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.verification.observe.twin import Twin

Pixels = npt.NDArray[np.uint8]


@dataclass
class Pictures:
    """Labelled images in the size and channels a twin reads: arrays, and files of raw pixels."""

    folder: Path
    height: int
    width: int
    channels: int

    @cached_property
    def images(self) -> dict[str, Pixels]:
        """uint8 ``(n, height, width, channels)`` by split; validation and test are brighter."""
        generator, splits = np.random.default_rng(5), {}
        size = (self.height, self.width, self.channels)
        rows = np.linspace(-20, 20, self.height)[:, None, None]
        for split, level in (("train", 90.0), ("val", 96.0), ("test", 102.0)):
            kinds = self.labels[split][:, None, None, None] - 1.0
            noise = 12 * generator.standard_normal((len(kinds), *size))
            tint = level + 20 * np.arange(self.channels)
            wedge = kinds * np.linspace(20, 60, self.width)[:, None]
            splits[split] = np.clip(noise + tint + rows + wedge, 0, 255).astype(np.uint8)
        return splits

    @cached_property
    def labels(self) -> dict[str, npt.NDArray[np.int64]]:
        """Three classes, which differ in how bright an image is, above all on its right."""
        return {s: np.arange(n) % 3 for s, n in (("train", 48), ("val", 12), ("test", 12))}

    @cached_property
    def store(self) -> Store:
        return self._ingested("arrays", self.images, self.labels)

    @cached_property
    def leaking(self) -> Store:
        """Three images; the test one is a training image of the other store."""
        images = {s: self.images[s][:1] // 2 for s in ("train", "val")}
        return self._ingested("leaking", images | {"test": self.images["train"][7:8]}, {})

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Rows of the store by the names ingest gave them, in the order of the source."""
        place = {name: row for row, name in enumerate(self.store.record_ids.tolist())}
        prefix = {"val": "validation"}.get(split, split)
        return np.array([place[f"{prefix}-{n:06d}"] for n in range(len(self.images[split]))])

    @cached_property
    def files(self) -> Store:
        """The training images as PPM or PGM files, which are raw pixels behind a line of text."""
        folder = self.folder / "files"
        folder.mkdir(parents=True)
        kind, suffix = ("P6", "ppm") if self.channels == 3 else ("P5", "pgm")
        for n, image in enumerate(self.images["train"][:6]):
            head = f"{kind}\n{self.width} {self.height}\n255\n".encode()
            (folder / f"{n:02d}.{suffix}").write_bytes(head + image.tobytes())
        return ingest(folder, self.folder / "files-store", workers=1, quiet=True).store

    def _ingested(
        self, name: str, images: Mapping[str, Pixels], labels: Mapping[str, npt.NDArray[np.int64]]
    ) -> Store:
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"x_{split}": pixels for split, pixels in images.items()}
        arrays |= {f"y_{split}": classes for split, classes in labels.items()}
        np.savez(self.folder / f"{name}.npz", **arrays)
        out = self.folder / f"{name}-store"
        return ingest(self.folder / f"{name}.npz", out, workers=1, quiet=True).store


def pictures(twin: Twin) -> Pictures:
    """Images in the twin's size, made once."""
    shape = twin.config.input
    assert not isinstance(shape, EcgInput)
    folder = twin.folder / "fixtures"
    return twin.once("images", lambda: Pictures(folder, shape.height, shape.width, shape.channels))


def is_image(twin: Twin) -> bool:
    return not isinstance(twin.config.input, EcgInput)
