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
from latentcast.images.source import (
    HELD_OUT_FIRST,
    ImageSource,
    SplitChoice,
    check_classes,
    splits_of,
)
from latentcast.source import SPLIT_NAMES, Annotation, RecordRef, Split

_Role = Literal["images", "labels", "classes", "splits"]

# The first name that occurs counts: scikit-learn's digits hold `images` and, flat, `data`.
_NAMES: dict[_Role, tuple[str, ...]] = {
    "images": ("images", "image", "imgs", "img", "x", "data", "pixels"),
    "labels": ("labels", "label", "y", "target", "targets"),
    "classes": ("classes", "class_names", "label_names", "target_names"),
    "splits": ("split", "splits"),
}
_SAYS_IMAGE = _NAMES["images"][:4]


class ImageArrays(ImageSource):
    """uint8 images ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels.

    Names of an ``.npz``: ``images``, ``x`` or ``data``, ``labels``, ``y`` or ``target``, each
    alone or with a split (``x_train``, ``test_images``), ``split`` with a word an image, and
    ``classes`` or ``target_names``. Other arrays are not read, which is a remark. Without names of
    classes, the values of the labels are the names; a label of -1 is none.

    Args:
        splits: what the words of ``split`` mean where only some name a split, see
            :func:`~latentcast.images.source.splits_of`.

    Raises:
        LatentcastError: the arrays are not as described above.
    """

    kind = "image arrays"

    @classmethod
    def detects(cls, path: Path) -> bool:
        return path.is_file() and path.suffix in (".npy", ".npz")

    def __init__(self, path: Path, splits: SplitChoice | None = None) -> None:
        self.path, self.name = path, path.name
        headers = read_headers(path)
        self._places = _places(path, headers)
        for split, name in self._places["images"].items():
            shape, dtype = headers[name]
            _check(path, name, shape, dtype)
            columns = {role: self._places[role].get(split) for role in ("labels", "splits")}
            if not any(columns.values()):
                refuse_two_readings(f"{path}: {name} {shape}", shape)
            for role, column in columns.items():
                if column and headers[column][0] not in ((shape[0],), (shape[0], 1)):
                    raise LatentcastError(
                        f"{path}: {column} has shape {headers[column][0]}, {name} holds {shape[0]} "
                        f"images; give one {role.removesuffix('s')} an image"
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
        self._splits = self._read_splits(splits)
        self._redrawn = splits == "none"
        read = {name for places in self._places.values() for name in places.values()}
        if unread := sorted(headers.keys() - read):
            self.remarks = (f"{path.name}: does not read {', '.join(unread)}",)

    def refs(self) -> list[RecordRef]:
        return [
            RecordRef(
                f"{part or self.path.stem}-{row:06d}",
                self.name,
                row,
                split=None if self._redrawn else self._splits[row] if self._splits else part,
            )
            for part in HELD_OUT_FIRST
            if part in self._places["images"]
            for row in range(len(self._images[part]))
        ]

    def fingerprint(self) -> str:
        return sha256(self.path)

    def measure(self, ref: RecordRef) -> Measured:
        return self._measured

    def read(self, ref: RecordRef) -> tuple[Pixels, Annotation]:
        named = SPLIT_NAMES.get(ref.record_id.rpartition("-")[0])
        part = named if named in self._places["images"] else None
        ids = self._labels.get(part)
        label = -1 if ids is None else int(ids[ref.row])
        labels = {} if label == -1 else {self.classes[label]: 1.0}
        return channels_last(self._images[part][ref.row]), Annotation(labels=labels)

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

    def _read_splits(self, choice: SplitChoice | None) -> list[Split | None]:
        """Of each image, where an array has them."""
        name = self._places["splits"].get(None)
        if name is None:
            if choice is not None and self._places["images"].keys() == {None}:
                raise LatentcastError(
                    f"{self.path}: --splits {choice}: has no arrays of splits; leave it out"
                )
            return []
        words = [str(word) for word in self._load(name).reshape(-1).tolist()]
        meaning = splits_of(
            str(self.path), {word: word for word in sorted(set(words))}, choice, "one set"
        )
        return [meaning[word] for word in words]

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
    name of images, and an ``x`` or ``data`` beside other arrays. Truth values and Python objects
    with three axes are refused as images are.
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
        if len(shape) == 4 or (len(shape) == 3 and (dtype == np.uint8 or dtype.kind in "bO")):
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
    if not places["images"] and len(headers) == 1:  # y.npy is no labels: there is nothing beside
        places = {role: {} for role in _NAMES} | {"images": {None: next(iter(headers))}}
    if not places["images"]:
        raise LatentcastError(
            f"{path}: none of its arrays ({', '.join(sorted(headers))}) is named as images are; "
            "name them images and labels, or x_train, y_train, x_test, y_test"
        )
    of_all = places["splits"].get(None)
    usable = of_all and places["images"].keys() == {None} and headers[of_all][1].kind == "U"
    places["splits"] = {None: of_all} if of_all and usable else {}
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


def refuse_two_readings(name: str, shape: tuple[int, ...], channels: int | None = None) -> None:
    """Refuse an array ``(a, b, c)`` that may be one image as well as several grey ones.

    Args:
        name: of the array, for the message.
        shape: of the array.
        channels: that an image has; None where they may be 1 or 3.
    """
    if len(shape) != 3:
        return
    one = "x[None]"
    if shape[2] <= 4 < min(shape[:2]):
        what = f"one image of {shape[2]} channels"
        if shape[2] in (2, 4):
            one = f"x[None, ..., :{shape[2] - 1}]"
            what += f" ({'grey' if shape[2] == 2 else 'red, green, blue'} and opacity)"
    elif shape[0] == 3 and channels in (None, 3) and min(shape[1:]) > 4:
        what = "one image, channels first,"
    else:
        return
    raise LatentcastError(
        f"{name}: could be {what} or {shape[0]} grey ones of {shape[1]} × {shape[2]} pixels; give "
        f"{one} for one, x[..., None] for {shape[0]}"
    )


def one_or_many(array: npt.NDArray[Any], channels: int) -> Iterator[Pixels]:
    """Each image of an array that holds one, ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``, or many,
    as :func:`check_images` takes them; for who reads that many ``channels``.

    Raises:
        LatentcastError: it is neither, no uint8, or could be one image as well as several.
    """
    several = array
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3)):
        several = array[np.newaxis]
    else:
        refuse_two_readings(f"array of {array.dtype} {array.shape}", array.shape, channels)
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
