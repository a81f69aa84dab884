"""Images in array files: one ``.npy``, or an ``.npz`` whose arrays have telling names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latentcast import npy
from latentcast.errors import LatentcastError
from latentcast.files import sha256
from latentcast.images.decode import Measured, Pixels
from latentcast.images.source import HELD_OUT_FIRST, SPLIT_NAMES, ImageSource, check_classes
from latentcast.source import Annotation, RecordRef, Split

_Role = Literal["images", "labels", "classes"]

# The first name that occurs counts: scikit-learn's digits hold `images` and, flat, `data`.
_NAMES: dict[_Role, tuple[str, ...]] = {
    "images": ("images", "image", "imgs", "img", "x", "data", "pixels"),
    "labels": ("labels", "label", "y", "target", "targets"),
    "classes": ("classes", "class_names", "label_names", "target_names"),
}
_SAYS_IMAGE = _NAMES["images"][:4]


class ImageArrays(ImageSource):
    """uint8 images ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels.

    Names of an ``.npz``: ``images``, ``x`` or ``data``, ``labels``, ``y`` or ``target``, each
    alone or with a split (``x_train``, ``test_images``), and ``classes`` or ``target_names``.
    Other arrays are not read. Without names of classes, the values of the labels are the names;
    a label of -1 is none.

    Raises:
        LatentcastError: the arrays are not as described above.
    """

    kind = "image arrays"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.is_file() and path.suffix in (".npy", ".npz")

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        headers = read_headers(path)
        self._places = _places(path, headers)
        for split, name in self._places["images"].items():
            shape, dtype = headers[name]
            _check(path, name, shape, dtype)
            labels = self._places["labels"].get(split)
            if labels is not None:
                found = headers[labels][0]
                if found not in ((shape[0],), (shape[0], 1)):
                    raise LatentcastError(
                        f"{path}: {labels} has shape {found}, {name} holds {shape[0]} images; "
                        "give one label an image"
                    )
        first, *others = self._places["images"].values()
        canvas = _canvas(headers[first][0])
        for name in others:
            if _canvas(headers[name][0]) != canvas:
                raise LatentcastError(
                    f"{path}: {first} has shape {headers[first][0]} and {name} "
                    f"{headers[name][0]}; save them as two files, or at one size"
                )
        self._measured = Measured(canvas[0], canvas[1], canvas[2] == 1)
        self.classes, self._labels = self._read_labels()

    def refs(self) -> list[RecordRef]:
        return [
            RecordRef(f"{split or self.path.stem}-{row:06d}", self.name, row, split=split)
            for split in HELD_OUT_FIRST
            if split in self._places["images"]
            for row in range(len(self._images[split]))
        ]

    def fingerprint(self) -> str:
        return sha256(self.path)

    def measure(self, ref: RecordRef) -> Measured:
        return self._measured

    def read(self, ref: RecordRef) -> tuple[Pixels, Annotation]:
        ids = self._labels.get(ref.split)
        label = -1 if ids is None else int(ids[ref.row])
        labels = {} if label == -1 else {self.classes[label]: 1.0}
        return channels_last(self._images[ref.split][ref.row]), Annotation(labels=labels)

    @cached_property
    def _images(self) -> dict[Split | None, Pixels]:
        return {split: self._load(name) for split, name in self._places["images"].items()}

    def _load(self, name: str) -> npt.NDArray[Any]:
        try:
            return npy.read_array(self.path, name)
        except (OSError, ValueError) as error:
            raise LatentcastError(
                f"{self.path}: {name} cannot be read ({error}); save plain arrays anew"
            ) from error

    def _read_labels(self) -> tuple[tuple[str, ...], dict[Split | None, npt.NDArray[np.int64]]]:
        raw = {
            split: self._load(name).reshape(-1) for split, name in self._places["labels"].items()
        }
        if not raw:
            return (), {}
        for split, labels in raw.items():
            if labels.dtype.kind not in "iuUS":
                raise LatentcastError(
                    f"{self.path}: {self._places['labels'][split]} holds {labels.dtype}; "
                    "give whole numbers or text"
                )
        values = np.unique(np.concatenate([*raw.values()]))
        if values.dtype.kind in "US":
            names = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
            check_classes(str(self.path), names)
            return tuple(names), {
                split: np.searchsorted(values, labels.astype(values.dtype)).astype(np.int64)
                for split, labels in raw.items()
            }
        values = values[values != -1]
        if len(values) and values[0] < 0:
            raise LatentcastError(
                f"{self.path}: has label {values[0]}; number classes from 0, -1 is no label"
            )
        named = next(iter(self._places["classes"].values()), None)
        if named is not None:
            classes = tuple(str(name) for name in self._load(named).tolist())
            if len(values) and values[-1] >= len(classes):
                raise LatentcastError(
                    f"{self.path}: has label {values[-1]}, and {named} {len(classes)} names; "
                    "name every class"
                )
            return classes, {split: labels.astype(np.int64) for split, labels in raw.items()}
        return tuple(str(value) for value in values.tolist()), {
            split: np.where(labels == -1, -1, np.searchsorted(values, labels))
            for split, labels in raw.items()
        }


def looks_like_images(path: Path) -> bool:
    """Whether an array file holds images and not recordings, by names, types and axes.

    Recordings are one array of three axes. So images are: what has four axes, bytes with three, a
    name of images, and an ``x`` or ``data`` beside other arrays.
    """
    try:
        headers = read_headers(path)
    except LatentcastError:
        return False
    named = {
        name: header
        for name, header in headers.items()
        if path.suffix == ".npy" or _role(name)[0] == "images"
    }
    for name, (shape, dtype) in named.items():
        if len(shape) == 4 or (len(shape) == 3 and dtype == np.uint8):
            return True
        if len(headers) > 1 or any(word in _SAYS_IMAGE for word in _words(name)):
            return True
    return False


def read_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of a file, without reading any.

    Raises:
        LatentcastError: it is no array file.
    """
    try:
        return npy.read_headers(path)
    except (OSError, ValueError) as error:
        raise LatentcastError(f"{path}: is no readable array file ({error})") from error


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[_\-. ]+", name.lower()) if word]


def _role(name: str) -> tuple[_Role | None, Split | None, int]:
    """What an array is by its name, of which split, and how good a name for it that is."""
    words = _words(name)
    splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    rest = "_".join(word for word in words if word not in SPLIT_NAMES)
    for role, names in _NAMES.items():
        if rest in names and len(splits) <= 1:
            return role, splits[0] if splits else None, names.index(rest)
    return None, None, 0


def _places(
    path: Path, headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> dict[_Role, dict[Split | None, str]]:
    """Role and split to the name of the array."""
    best: dict[tuple[_Role, Split | None], tuple[int, str]] = {}
    for name in headers:
        role, split, strength = _role(name)
        if role is not None:
            best[role, split] = min((strength, name), best.get((role, split), (99, name)))
    places: dict[_Role, dict[Split | None, str]] = {role: {} for role in _NAMES}
    for (role, split), (_, name) in best.items():
        places[role][split] = name
    if not places["images"] and len(headers) == 1:
        places["images"][None] = next(iter(headers))
    if not places["images"]:
        raise LatentcastError(
            f"{path}: none of its arrays ({', '.join(sorted(headers))}) is named as images are; "
            "name them images and labels, or x_train, y_train, x_test, y_test"
        )
    for split in places["labels"].keys() - places["images"].keys():
        raise LatentcastError(
            f"{path}: has {places['labels'][split]} and no images of that name beside "
            f"{', '.join(sorted(places['images'].values()))}; give both the same ending"
        )
    return places


def _check(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    try:
        check_images(shape, dtype)
    except LatentcastError as error:
        raise LatentcastError(f"{path}: {name} {error} (for recordings: --kind ecg)") from None


def check_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that is no uint8 ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``.

    Raises:
        LatentcastError: the message lacks the name of the array.
    """
    if len(shape) not in (3, 4):
        raise LatentcastError(
            f"has shape {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    if dtype != np.uint8:
        raise LatentcastError(
            f"holds {dtype}, whose range of values is open; save them as uint8 from 0 to 255, such "
            f"as {_to_bytes(dtype)}"
        )
    if len(shape) == 4:
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first == last:
            wrong = "both axis 1 and axis 3 could be" if first else "neither axis 1 nor axis 3 is"
            raise LatentcastError(
                f"has shape {shape}: {wrong} 1 or 3 channels; save it as (N, H, W) or (N, H, W, 3)"
            )


def _to_bytes(dtype: np.dtype[Any]) -> str:
    match dtype.kind:
        case "f":
            return "(x * 255).round().astype('uint8') of values from 0 to 1"
        case "b":
            return "x.astype('uint8') * 255"
        case "i" | "u":
            return "x.astype('uint8') of values up to 255, (x // 256).astype('uint8') of 16 bits"
    return "np.asarray(images, dtype='uint8')"


def one_or_many(array: npt.NDArray[Any], channels: int) -> Iterator[Pixels]:
    """Each image of an array that holds one, ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``, or many,
    as :func:`check_images` takes them; for who reads that many ``channels``.

    Raises:
        LatentcastError: it is neither, no uint8, or could be one image as well as several.
    """
    several = array
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3)):
        several = array[np.newaxis]
    elif array.ndim == 3 and array.shape[0] == channels != 1:
        raise LatentcastError(
            f"array of {array.dtype} {array.shape}: could be one image, channels first, or "
            f"{channels} grey ones; give x[None] for one, x[..., None] for {channels}"
        )
    try:
        check_images(several.shape, several.dtype)
    except LatentcastError as error:
        raise LatentcastError(f"array of {array.dtype} {array.shape}: {error}") from None
    return map(channels_last, several)


def channels_last(image: Pixels) -> Pixels:
    """One image of an array that :func:`check_images` took, as ``(height, width, channels)``."""
    if image.ndim == 2:
        return image[:, :, None]
    return image.transpose(1, 2, 0) if _channels_first(image.shape) else image


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Of one image ``(a, b, c)``, which was checked."""
    return shape[2] not in (1, 3)


def _canvas(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape[1], shape[2], 1
    if _channels_first(shape[1:]):
        return shape[2], shape[3], shape[1]
    return shape[1], shape[2], shape[3]
