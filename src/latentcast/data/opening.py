"""Recordings or images: told from what lies in a store or a source."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from latentcast.data.image_store import ImageStore
from latentcast.data.manifest import modality_of
from latentcast.data.store import Store
from latentcast.images.arrays import looks_like_images
from latentcast.images.folder import is_image, walk
from latentcast.images.huggingface import is_dataset
from latentcast.signals.readers import packed

Kind = Literal["ecg", "image"]


def open_store(path: str | Path) -> Store | ImageStore:
    """Open a store of either kind.

    Raises:
        LatentcastError: it is missing, unfinished, of another version, or a file of it is gone.
    """
    folder = Path(path)
    return ImageStore.open(folder) if modality_of(folder) == "image" else Store.open(folder)


def kind_of(source: str | Path) -> Kind:
    """What a source holds; ``ecg`` also where nothing says, so that its readers name the mend.

    WFDB headers and packed folders are recordings whatever lies beside them. Datasets of Hugging
    Face, folders with image files and arrays that look like images are images.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix in (".npy", ".npz"):
            return "image" if looks_like_images(path) else "ecg"
        return "image" if is_dataset(path) or is_image(path) else "ecg"
    if not path.is_dir() or (path / packed.INDEX).is_file():
        return "ecg"
    files = walk(path)
    if any(file.suffix == ".hea" for file in files):
        return "ecg"
    return "image" if is_dataset(path) or any(map(is_image, files)) else "ecg"
