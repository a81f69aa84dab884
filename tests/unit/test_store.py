"""Crops are exact, what is not valid is marked, and damage is named."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecg_files import write_wfdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latentcast.data import inspect
from latentcast.data.ingest import ingest
from latentcast.data.inspect import Kind, describe, print_description
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.files import digested
from latentcast.images.stored import StoredImage
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.terminal import Terminal

Change = Callable[[dict[str, Any]], object]
LENGTHS = (1000, 400, 3, 730)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four records of unequal length in two shards; NaN, a flat stretch, labels and patients."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    counts = rng.integers(-3000, 3000, (4, 3, 1000)).astype(np.float32)
    counts[0, 1, 50:60] = np.nan
    counts[3, 2, 300:600] = 123
    for i, length in enumerate(LENGTHS):
        counts[i, :, length:] = np.nan
    folder.joinpath("in").mkdir()
    for i, length in enumerate(LENGTHS):
        signal = counts[i, :, :length] / 1000
        recording = from_signal(signal.astype(np.float32), ("V1", "V2", "V3"), 100.0, f"r{i}")
        dx = [["Dx: A,B"], [], ["Dx: B"], ["Dx: C,B"]][i]
        write_wfdb(folder / "in", recording, f"r{i}", comments=dx)
    return ingest(
        folder / "in",
        folder / "out",
        leads=["V1", "V2", "V3"],
        shard_bytes=1500 * 6,
        shortest=0,
        quiet=True,
    ).store


def reference(store: Store, row: int, start: int, length: int) -> np.ndarray:
    """The crop by the definition: sample for sample from the physical recording."""
    recording = store.recording(row)
    crop = np.full((length, 3), INVALID, np.int16)
    for t in range(length):
        if 0 <= start + t < recording.samples:
            for lead in range(3):
                if recording.valid[lead, start + t]:
                    crop[t, lead] = round(float(recording.signal[lead, start + t]) / store.scale)
    return crop


@settings(max_examples=60)
@example(crops=[(3, 400)], length=350)  # begins inside the flat stretch
@example(crops=[(3, 200), (0, 55)], length=250)  # ends inside it; begins inside the NaN
@given(
    crops=st.lists(st.tuples(st.integers(0, 3), st.integers(-300, 1200)), min_size=1, max_size=4),
    length=st.integers(1, 350),
)
def test_every_crop_is_what_the_recording_says(
    store: Store, crops: list[tuple[int, int]], length: int
) -> None:
    rows, starts = zip(*crops, strict=True)
    taken = store.take(rows, starts, length)
    for crop, row, start in zip(taken, rows, starts, strict=True):
        assert np.array_equal(crop, reference(store, row, start, length))


def test_records_lie_in_more_than_one_shard_and_are_whole(store: Store) -> None:
    assert len(store.manifest.shards) == 2
    assert store.lengths.tolist() == list(LENGTHS) and len(store) == 4
    splits = ", ".join(f"{split} {len(store.rows(split))}" for split in store.manifest.splits)
    assert repr(store) == f"Store('{store.path}': 4 recordings, 3 leads at 100 Hz, {splits})"
    records = store.take(np.arange(4))
    assert records.shape == (4, 1000, 3)
    assert (records[2, 3:] == INVALID).all() and (records[2, :3] != INVALID).all()
    assert (records[0, 50:60, 1] == INVALID).all() and (records[3, 300:600, 2] == INVALID).all()


def test_a_reused_buffer_keeps_nothing_of_the_last_batch(store: Store) -> None:
    out = np.full((2, 500, 3), 77, np.int16)
    assert store.take([2, 1], [-10, 350], 500, out) is out
    assert np.array_equal(out, store.take([2, 1], [-10, 350], 500))


def test_wrong_arguments_are_refused_not_wrapped(store: Store) -> None:
    for wrong in (lambda: store.take([-1]), lambda: store.take([4]), lambda: store.recording(-1)):
        with pytest.raises(IndexError, match=r"has no row .*; it has 4, give one from 0 to 3"):
            wrong()
    for row in (slice(2), "a", None):
        with pytest.raises(LatentcastError, match="is no row of a store; .* use take"):
            store[row]  # type: ignore[index]
    with pytest.raises(ValueError, match="out is"):
        store.take([0], [0], 10, np.empty((1, 10, 3), np.int32))
    with pytest.raises(ValueError, match="starts has shape"):
        store.take([0, 1], [0], 10)
    assert store.take([], [], 10).shape == (0, 10, 3)


def test_a_store_cannot_be_indexed(store: Store, digits_store: Path) -> None:
    recordings = list(store)  # type: ignore[call-overload]  # by index, as of any sequence
    assert [r.record_id for r in recordings] == store.record_ids.tolist()
    last = store[-1]
    assert isinstance(last, Recording) and last.metadata == store.recording(3).metadata
    images = Store.open(digits_store)
    image = images[5]
    assert isinstance(image, StoredImage) and image.record_id == images.record_ids[5]
    assert np.array_equal(image.pixels, images.take([5])[0])
    assert image.metadata["labels"] == images.labels.of(5)


def test_labels(store: Store) -> None:
    assert store.labels.codes == ("A", "B", "C")
    expected = [[True, True], [False, False], [True, False], [True, False]]
    assert store.labels.indicator(["B", "A"]).tolist() == expected
    assert store.labels.counts() == {"B": 3, "A": 1, "C": 1}
    assert store.labels.counts(np.array([3])) == {"B": 1, "C": 1, "A": 0}
    with pytest.raises(LatentcastError, match="'NORM': no record"):
        store.labels.indicator(["NORM"])
    with pytest.raises(LatentcastError, match="'tran'.*did you mean 'train'"):
        store.rows("tran")


def test_a_store_travels_to_another_process_without_its_samples(store: Store) -> None:
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).take([0]), store.take([0]))


def copy(store: Store, folder: Path) -> Path:
    target = folder / "copy"
    target.mkdir(parents=True)
    for file in store.path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    Store.open(target).verify()
    return target


@pytest.mark.parametrize("file", ["shard-00000.npy", "shard-00001.npy", "metadata.jsonl"])
def test_one_flipped_bit_is_found_and_the_file_named(
    store: Store, tmp_path: Path, file: str
) -> None:
    target = copy(store, tmp_path)
    data = bytearray((target / file).read_bytes())
    data[-3] ^= 4
    (target / file).write_bytes(data)
    with pytest.raises(LatentcastError, match=f"{file}: is damaged.*ingest again"):
        Store.open(target).verify()


@pytest.mark.parametrize("file", ["shard-00001.npy", "index.npz", "manifest.json"])
@pytest.mark.parametrize("keep", [None, 0, 100, 0.5])
def test_a_missing_or_cut_file_is_an_error_on_opening(
    store: Store, tmp_path: Path, file: str, keep: float | None
) -> None:
    target = copy(store, tmp_path)
    data = (target / file).read_bytes()
    if keep is None:
        (target / file).unlink()
    else:
        (target / file).write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(LatentcastError):
        Store.open(target)


def test_a_store_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    target = copy(store, tmp_path)
    text = (target / "manifest.json").read_text()
    (target / "manifest.json").write_text(
        text.replace('"format_version": 2', '"format_version": 3')
    )
    with pytest.raises(LatentcastError, match=r"manifest\.json: format_version.*ingest again"):
        Store.open(target)


def edited(store: Store, folder: Path, change: Change, *, version: int, digest: bool) -> Path:
    """A copy whose manifest was changed; with a digest that fits all the same, or with none."""
    target = copy(store, folder)
    manifest = json.loads((target / "manifest.json").read_text())
    change(manifest)
    manifest = {k: v for k, v in manifest.items() if k != "digest"} | {"format_version": version}
    manifest = digested(manifest) if digest else manifest
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_a_manifest_that_was_edited_or_lost_its_digest_is_refused(
    store: Store, tmp_path: Path
) -> None:
    target = copy(store, tmp_path)
    text = (target / "manifest.json").read_text()
    for old, new in (("0.001", "0.002"), ('"train"', '"tests"'), ('"scale"', '"scales"')):
        assert old in text
        (target / "manifest.json").write_text(text.replace(old, new))
        with pytest.raises(LatentcastError, match=r"manifest\.json: cannot be used .*was changed"):
            Store.open(target)
    target = edited(store, tmp_path / "2", lambda _: None, version=2, digest=False)
    with pytest.raises(LatentcastError, match="has no digest"):
        Store.open(target)
    target = edited(store, tmp_path / "1", lambda _: None, version=1, digest=False)
    assert len(Store.open(target)) == len(store)


FAULTS: dict[str, Change] = {
    "name ..": lambda m: m["shards"][0].update(file="../a/shard-00000.npy"),
    "absolute name": lambda m: m["shards"][0].update(file="/dev/zero"),
    "huge shard": lambda m: m["shards"][0].update(samples=2**62),
    "negative shard": lambda m: m["shards"][0].update(samples=-1),
    "more records": lambda m: m.update(records=10**30),
    "text": lambda m: m.update(records="many"),
    "NaN": lambda m: m.update(scale=float("nan")),
    "infinity": lambda m: m.update(sampling_rate=float("inf")),
    "scale 0": lambda m: m.update(scale=0),
    "fold": lambda m: m["splits"].update(train=[2**70]),
    "list": lambda m: m.update(shards={}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_manifest_with_an_impossible_value_is_one_sentence(
    store: Store, tmp_path: Path, fault: str, version: int
) -> None:
    target = edited(store, tmp_path, FAULTS[fault], version=version, digest=version == 2)
    with pytest.raises(LatentcastError):
        Store.open(target)


@pytest.mark.parametrize("content", [b"[" * 10**5, b"\xff\xfe", b"[]", b'{"a": 1' + b"0" * 5000])
def test_a_manifest_that_is_no_json_object_is_one_sentence(
    store: Store, tmp_path: Path, content: bytes
) -> None:
    target = copy(store, tmp_path)
    (target / "manifest.json").write_bytes(content)
    with pytest.raises(LatentcastError, match=r"manifest\.json: cannot be used"):
        Store.open(target)


COLUMNS: dict[str, tuple[str, Any]] = {
    "another shard": ("shard", 7),
    "before a shard": ("offset", -1),
    "beyond a shard": ("offset", 2**63 - 1),
    "too long": ("length", 10**12),
    "no such lead": ("invalid", 99),
    "no such label": ("label_indices", 1000),
    "labels of nothing": ("label_indptr", -5),
    "metadata elsewhere": ("metadata_offset", 2**62),
    "objects": ("record_id", {}),
}


@pytest.mark.parametrize("fault", COLUMNS)
def test_an_index_that_points_elsewhere_is_one_sentence(
    store: Store, tmp_path: Path, fault: str
) -> None:
    target, (name, value) = copy(store, tmp_path), COLUMNS[fault]
    columns = dict(np.load(target / "index.npz"))
    columns[name] = columns[name].astype(object) if value == {} else columns[name]
    columns[name].reshape(-1)[-1] = value
    np.savez(target / "index.npz", **columns)
    with pytest.raises(LatentcastError, match=r"(index\.npz|metadata\.jsonl): cannot be read"):
        opened = Store.open(target)
        opened.recording(len(opened) - 1), opened.labels.counts(), opened.patients


def test_an_array_that_declares_more_than_its_file_takes_no_memory(
    store: Store, tmp_path: Path
) -> None:
    """A file of a kilobyte that declares, or unpacks to, terabytes."""
    target = copy(store, tmp_path)
    raw = (target / "shard-00000.npy").read_bytes()
    header = re.sub(rb"\(\d+, 3\)", b"(9999999999999, 3)", raw[:128])[:127] + b"\n"
    with zipfile.ZipFile(target / "index.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fold.npy", header + raw[128:])
    with pytest.raises(LatentcastError, match=r"index\.npz: cannot be read .*declares int16"):
        Store.open(target)
    with zipfile.ZipFile(target / "index.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fold.npy", raw[:128] + bytes(300 << 20))
    with pytest.raises(LatentcastError, match=r"index\.npz: .*would unpack to 314,572,928 bytes"):
        Store.open(target)


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="is no store.*latentcast ingest"):
        Store.open(tmp_path)


def test_each_kind_of_finding_is_listed_once_with_examples(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number in a reason made a row of each record."""
    rows = [{"record": f"r{n}", "reason": f"lasts 0.{n} s, less than 1 s"} for n in range(1, 8)]
    monkeypatch.setattr(inspect, "read_quarantine", lambda folder: rows)
    rows += [{"record": "a", "reason": f"duplicate record: same pixels as {name}"}
             for name in ("my photo.png", "your best photo.png")]  # fmt: skip
    kind, duplicates = describe(store).quarantine.values()
    assert duplicates.count == 2
    assert kind.count == 7 and kind.examples[0] == "r1: lasts 0.1 s, less than 1 s"
    assert len(kind.examples) == 3


def test_the_description_counts_what_is_there(store: Store) -> None:
    description = describe(store)
    assert description.labels == {"B": 3, "A": 1, "C": 1}
    assert description.contents["length"] == "0.03 to 10 s"
    shares = [100 * invalid / sum(LENGTHS) for invalid in (0, 10, 300)]
    assert [row[3] for row in description.channels[2]] == [f"{share:.3f} %" for share in shares]
    flat = Kind(1, [f"{store.record_ids[3]}: V3: flat stretch, masked"])
    assert description.findings["flat"] == flat
    console = Terminal(record=True, width=100, file=io.StringIO())
    print_description(description, console)
    text = console.export_text()
    for word in (
        "4, patients unknown, each",
        "100 Hz",
        "V3: flat stretch, masked",
        "quarantine: none",
    ):
        assert word in text
