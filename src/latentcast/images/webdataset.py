"""WebDataset shards: tar files whose members of one name are one sample, read where they lie.

Convention: https://github.com/webdataset/webdataset. The key of a sample is the path of a member up
to the first dot of its file name; what follows says what the member is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from latentcast.archives import DAMAGE, Member, members_of, open_tar
from latentcast.errors import LatentcastError
from latentcast.images.folder import SUFFIXES
from latentcast.images.source import (
    HELD_OUT_FIRST,
    ImageSource,
    SplitChoice,
    check_classes,
    hash_of_sizes,
    splits_of,
)
from latentcast.source import (
    SPLIT_NAMES,
    Annotation,
    BadRecord,
    RecordRef,
    find_files,
    record_file,
    remark_of_hidden,
)

_BESIDE = {"cls", "json", "txt"}
_LABELS = ("cls", "label", "class", "target")
_PATIENTS = ("patient_id", "patient", "subject_id")
_LONGEST_TEXT = 2**20
_LOOKED_AT = 32


@dataclass(slots=True)
class _Sample:
    """Offset and size of each file of a sample, by what it is; the class, where it has one."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    label: str | None = None
    problem: str | None = None

    def image(self) -> str:
        """Raises BadRecord: it has none, or several."""
        kinds = [kind for kind in self.files if f".{kind}" in SUFFIXES]
        if len(kinds) != 1:
            raise BadRecord(f"holds {len(kinds) or 'no'} images ({', '.join(self.files)})")
        return kinds[0]


class WebDataset(ImageSource):
    """The shards below a folder, or one: ``key.jpg`` (or another image), ``.cls``, ``.json``,
    ``.txt``.

    The class is the text of ``.cls``, or without one what the JSON has as ``cls``, ``label``,
    ``class`` or ``target``; -1 is none. ``patient_id``, ``patient`` or ``subject_id`` of the JSON
    is the patient, the rest metadata (a remark says which), and so is the text. The last word of a
    shard's path that names a split counts. A sample's id is its key, or with its shard's name where
    a key occurs twice.

    Args:
        splits: what the names of shards mean where only some are those of splits, see
            :func:`~latentcast.images.source.splits_of`.
        annotated: whether classes and splits are wanted; without them no name is unclear.

    Raises:
        LatentcastError: only some shards name a split, or they hold class folders.
    """

    kind = "webdataset"
    encoded = True

    def __init__(
        self, path: Path, splits: SplitChoice | None = None, annotated: bool = True
    ) -> None:
        self.root, self.name = path.parent if path.is_file() else path, path.name
        shards, hidden = _shards(path)
        self.remarks = remark_of_hidden(hidden)
        words = {shard: _word(shard) for shard in shards}
        self._splits = splits_of(str(path), words, splits, "one set", annotated)
        self._damaged: list[RecordRef] = []
        found = {(shard, key): s for shard in shards for key, s in self._list(shard).items()}
        if found and not any(
            "/" not in key or _BESIDE & sample.files.keys() for (_, key), sample in found.items()
        ):
            shard = self.root / next(iter(found))[0]
            raise LatentcastError(
                f"{shard}: holds folders of images and no .cls, .json or .txt beside them, so it "
                f"is no WebDataset shard; ingest it alone, {shard}"
            )
        times = Counter(key for _, key in found)
        self._samples = {
            (key if times[key] == 1 else f"{shard.removesuffix('.tar')}/{key}", shard): sample
            for (shard, key), sample in found.items()
        }
        labels = {sample.label for sample in found.values() if sample.label is not None}
        self.classes = tuple(sorted(labels, key=_numbers_first))
        if annotated:
            check_classes(str(path), self.classes)
            self.remarks = (*self.remarks, *self._remarks())

    @classmethod
    def detects(cls, path: Path) -> bool:
        if path.is_file():
            return path.suffix == ".tar" and _is_shard(path)
        return bool(_shards(path)[0])

    def refs(self) -> list[RecordRef]:
        refs = [
            RecordRef(name, shard, problem=sample.problem, split=self._splits[shard])
            for (name, shard), sample in self._samples.items()
        ]
        return sorted([*refs, *self._damaged], key=lambda ref: HELD_OUT_FIRST.index(ref.split))

    def fingerprint(self) -> str:
        shards = [shard for shard in self._splits if (self.root / shard).is_file()]
        digest = hashlib.sha256(hash_of_sizes(self.root, shards).encode())
        for name, sample in self._samples.items():
            digest.update(repr((name, sample)).encode())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[bytes, Annotation]:
        sample = self._samples[ref.record_id, ref.file]
        try:
            with record_file(self.root, ref.file).open("rb") as file:
                image = _read(file, sample, sample.image())
                metadata = _object(file, sample)
                if "txt" in sample.files:
                    metadata["text"] = _text(file, sample, "txt")
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error
        if "cls" not in sample.files:
            _take_label(metadata)
        patient = metadata.pop(_first_of(_PATIENTS, metadata) or "", None)
        return image, Annotation(
            patient_id=None if patient is None else str(patient),
            labels={} if sample.label is None else {sample.label: 1.0},
            metadata=metadata,
        )

    def _remarks(self) -> tuple[str, ...]:
        """What the keys of the first JSON become; of the others it is taken to be the same."""
        for (name, shard), sample in self._samples.items():
            if sample.problem is not None or "json" not in sample.files:
                continue
            with record_file(self.root, shard).open("rb") as file:
                try:
                    found = _object(file, sample)
                except BadRecord:
                    continue
            patient, label = _first_of(_PATIENTS, found), None
            rest = {key: value for key, value in found.items() if key != patient}
            if "cls" not in sample.files:
                _take_label(rest)
                label = next(iter(found.keys() - rest.keys() - {patient}), None)
            return (
                f"the JSON of {name}: the patient is {patient or 'in no key of it'}, the class "
                f"{label or 'in no key of it'}, metadata are {', '.join(rest) or 'none'} "
                f"(patients are looked for in {', '.join(_PATIENTS)})",
            )
        return ()

    def _list(self, shard: str) -> dict[str, _Sample]:
        """The samples of a shard by key, with their labels; what is damaged is noted."""
        samples: dict[str, _Sample] = {}
        sample = None
        try:
            path = record_file(self.root, shard)
            with path.open("rb") as file, open_tar(path) as tar:
                for member in members_of(tar):
                    key, kind = _key(member)
                    sample = samples.setdefault(key, _Sample())
                    if kind in sample.files:
                        sample.problem = f"holds two files .{kind}"
                    sample.problem = member.problem or sample.problem
                    sample.files[kind] = member.offset, member.size
                _read_labels(file, samples)
        except (*DAMAGE, BadRecord) as error:
            why = getattr(error, "strerror", None) or error
            what = f"is damaged or cut off after {len(samples)} samples ({why})"
            self._damaged.append(RecordRef(shard, shard, problem=what, split=self._splits[shard]))
            if sample is not None:
                sample.problem = "is the last of a shard that is damaged or cut off"
                with path.open("rb") as file:
                    _read_labels(file, samples)
        return samples


def _shards(path: Path) -> tuple[list[str], list[str]]:
    """Relative to the folder; and those that are hidden."""
    if path.is_file():
        return [path.name], []
    files, hidden = find_files(path, "*.tar")
    return [file for file in files if not (path / file).is_dir()], hidden


def _is_shard(path: Path) -> bool:
    """Whether one tar is a shard and no folder: by what lies beside its first images."""
    kinds: dict[str, set[str]] = {}
    try:
        with open_tar(path) as tar:
            for _, member in zip(range(_LOOKED_AT), members_of(tar), strict=False):
                key, kind = _key(member)
                kinds.setdefault(key, set()).add(kind)
    except DAMAGE:
        pass
    return any(
        "cls" in found or ("/" not in key and _BESIDE & found and len(found) > 1)
        for key, found in kinds.items()
        if any(f".{kind}" in SUFFIXES for kind in found)
    )


def _key(member: Member) -> tuple[str, str]:
    folder, slash, name = member.name.rpartition("/")
    stem, _, kind = name.partition(".")
    return folder + slash + stem, kind.lower()


def _word(shard: str) -> str:
    """The last word of a path such as ``imagenet/train-000000.tar`` that names a split."""
    words = re.split(r"[-_./]", shard.removesuffix(".tar"))
    return next((word for word in reversed(words) if word.lower() in SPLIT_NAMES), words[0])


def _read(file: IO[bytes], sample: _Sample, kind: str) -> bytes:
    offset, size = sample.files[kind]
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise BadRecord(f"its .{kind} is cut off, {len(data)} bytes of {size}")
    return data


def _text(file: IO[bytes], sample: _Sample, kind: str) -> str:
    if sample.files[kind][1] > _LONGEST_TEXT:
        raise BadRecord(f"its .{kind} has {sample.files[kind][1]} bytes")
    try:
        return _read(file, sample, kind).decode().strip()
    except UnicodeDecodeError as error:
        raise BadRecord(f"its .{kind} is no text in UTF-8 ({error})") from error


def _object(file: IO[bytes], sample: _Sample) -> dict[str, Any]:
    """What its JSON holds; nothing without one."""
    if "json" not in sample.files:
        return {}
    try:
        found = json.loads(_text(file, sample, "json"))
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"its .json cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise BadRecord("its .json is no object")
    return found


def _read_labels(file: IO[bytes], samples: Mapping[str, _Sample]) -> None:
    """Of all samples of a shard; what is wrong with a sample is noted in it."""
    for sample in samples.values():
        try:
            sample.image()
            sample.label = _label(file, sample)
        except BadRecord as error:
            sample.problem = sample.problem or str(error)


def _label(file: IO[bytes], sample: _Sample) -> str | None:
    if "cls" in sample.files:
        label = _text(file, sample, "cls")
    else:
        label = _take_label(_object(file, sample))
    return None if label in ("", "-1") else label


def _take_label(metadata: dict[str, Any]) -> str:
    """The first label of a JSON object, which is taken out of it."""
    for name in _LABELS:
        value = metadata.get(name)
        if isinstance(value, int | str) and not isinstance(value, bool):
            return str(metadata.pop(name)).strip()
    return ""


def _first_of(names: Iterable[str], metadata: Mapping[str, Any]) -> str | None:
    """The first of some keys that has a value."""
    return next((name for name in names if metadata.get(name) is not None), None)


def _numbers_first(label: str) -> tuple[bool, int, str]:
    number = int(label) if re.fullmatch(r"[0-9]{1,18}", label) else None
    return number is None, number or 0, label
