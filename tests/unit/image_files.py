"""Image files made of the bundled digits, for tests that need real JPEGs and PNGs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from latentcast.data.manifest import QUARANTINE

DIGITS = Path(__file__).parents[2] / "data" / "digits" / "digits.npz"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 ``(1797, 8, 8)`` and their labels."""
    with np.load(DIGITS) as file:
        return file["images"], file["labels"]


def coloured(image: np.ndarray) -> np.ndarray:
    """A grey image ``(H, W)`` with three different channels."""
    return np.stack([image, 255 - image, image // 2], axis=2)


def write_classes(
    folder: Path,
    count: int,
    *,
    suffix: str = ".png",
    grey: bool = False,
    side: int = 8,
    skip: int = 0,
) -> dict[str, np.ndarray]:
    """``count`` digits, from ``skip`` on, as ``folder/CLASS/0007.png``; what was written, by path.

    A larger ``side`` repeats pixels.
    """
    written = {}
    for i, (image, label) in enumerate(zip(*digits(), strict=True)):
        if not skip <= i < skip + count:
            continue
        pixels = np.kron(image, np.ones((side // 8, side // 8), np.uint8))
        pixels = pixels if grey else coloured(pixels)
        file = folder / f"digit {label}" / f"{i:04d}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        written[file.relative_to(folder).as_posix()] = pixels.reshape(side, side, -1)
    return written


def quarantine(store: Path) -> dict[str, str]:
    with (store / QUARANTINE).open(newline="", encoding="utf-8") as file:
        return {row["record"]: row["reason"] for row in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
