"""The choice between the readers of images, by what lies at a path."""

from __future__ import annotations

from pathlib import Path

from latentcast.errors import LatentcastError
from latentcast.images.arrays import ImageArrays
from latentcast.images.folder import ImageFolder, is_image
from latentcast.images.huggingface import HuggingFaceImages, is_dataset
from latentcast.images.source import ImageSource


def open_images(path: str | Path) -> ImageSource:
    """The source at ``path``: an array file, a Hugging Face dataset, or a folder of images.

    Raises:
        LatentcastError: nothing that can be read as images lies there.
    """
    root = Path(path)
    if root.is_file() and root.suffix in (".npy", ".npz"):
        return ImageArrays(root)
    if root.exists() and is_dataset(root):
        return HuggingFaceImages(root)
    if root.is_dir():
        return ImageFolder(root)
    if root.is_file() and is_image(root):
        raise LatentcastError(f"{root}: is one image; name the folder that holds the images")
    kind = "is no folder, .npy, .npz or .parquet file" if root.exists() else "does not exist"
    raise LatentcastError(f"{root}: {kind}; name the folder that holds the images")
