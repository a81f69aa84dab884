"""The store of images: what is taken, what is damaged, and the batches of training."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import DIGITS, write_classes

from latentcast.data.ingest import ingest
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe


@pytest.fixture(scope="module")
def digits_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "digits"
    ingest(DIGITS, out, shard_bytes=20_000, quiet=True)
    return out


def test_rows_come_from_every_shard_in_the_order_asked_for(digits_store: Path) -> None:
    store = Store.open(digits_store)
    assert len(store.manifest.shards) == 6
    with np.load(DIGITS) as file:
        images = file["images"]
    rows = np.random.default_rng(0).integers(0, 1797, 200)
    taken = store.take(rows)
    assert taken.shape == (200, 8, 8, 1) and taken.dtype == np.uint8
    assert np.array_equal(taken[..., 0], images[rows])
    assert store.take([]).shape == (0, 8, 8, 1)
    for wrong in ([1797], [-1]):
        with pytest.raises(IndexError):
            store.take(wrong)


def test_splits_are_ascending_disjoint_and_everything(digits_store: Path) -> None:
    store = Store.open(digits_store)
    parts = [store.rows(split) for split in ("train", "validation", "test")]
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    with pytest.raises(LatentcastError, match="did you mean 'train'"):
        store.rows("trian")


def test_a_pickled_store_carries_no_pixels(digits_store: Path) -> None:
    store = Store.open(digits_store)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).take([5, 1700]), store.take([5, 1700]))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    ingest(DIGITS, tmp_path / "a", shard_bytes=20_000, quiet=True)
    store = Store.open(tmp_path / "a")
    store.verify()
    shard = tmp_path / "a" / "shard-00003.npy"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(LatentcastError, match="shard-00003.npy: is damaged"):
        store.verify()
    shard.write_bytes(data[:-64])
    with pytest.raises(LatentcastError, match="cannot be read"):
        Store.open(tmp_path / "a")
    shard.unlink()
    with pytest.raises(LatentcastError, match="'shard-00003.npy' is missing"):
        store.verify()


def test_an_encoded_image_that_was_damaged_is_named_when_it_is_taken(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 10)
    store = ingest(tmp_path / "in", tmp_path / "out", encoding="encoded", quiet=True).store
    index = dict(np.load(tmp_path / "out" / "index.npz"))
    shard = tmp_path / "out" / "shard-00000.npy"
    data = bytearray(shard.read_bytes())
    start = 128 + int(index["offset"][4])
    data[start : start + 60] = bytes(60)
    del store
    shard.write_bytes(data)
    damaged = Store.open(tmp_path / "out")
    damaged.take([0, 1, 2, 3, 5])
    with pytest.raises(LatentcastError, match=str(damaged.record_ids[4])):
        damaged.take(np.arange(10))


def test_what_belongs_to_the_other_modality_is_refused_by_name(
    digits_store: Path, small_store: Path
) -> None:
    images, recordings = Store.open(digits_store), Store.open(small_store)
    assert (images.modality, recordings.modality) == ("image", "ecg")
    for attribute in ("leads", "sampling_rate", "scale", "lengths", "signal"):
        with pytest.raises(LatentcastError, match="is a store of images; name one of recordings"):
            getattr(images, attribute)
    for attribute in ("height", "width", "channels"):
        with pytest.raises(LatentcastError, match="is a store of recordings; name one of images"):
            getattr(recordings, attribute)
    with pytest.raises(ValueError, match="images are taken as they are"):
        images.take([0], [0], 4)
    with pytest.raises(LatentcastError, match="does not exist"):
        Store.open(digits_store / "nowhere")


def loader(store: Path, channels: int = 1) -> Loader:
    config = recipe("nepa-image-tiny").updated(
        {
            "input.height": 8,
            "input.width": 8,
            "input.channels": channels,
            "input.normalisation": None,
            "encoder.patch": 2,
            "train.batch_size": 32,
            "train.micro_batches": 4,
            "train.seed": 3,
        }
    )
    opened = Store.open(store)
    return Loader(opened, opened.rows("train"), config)


def test_a_stream_from_any_attempt_gives_the_same_batches(digits_store: Path) -> None:
    alone = loader(digits_store)
    stream = loader(digits_store).stream(4)
    for attempt in (4, 5, 6):
        pieces = next(stream)
        assert len(pieces) == 4
        expected = alone.batch(attempt)
        assert torch.equal(torch.cat([piece.samples for piece in pieces]), expected.samples)
        assert torch.equal(torch.cat([piece.ids for piece in pieces]), expected.ids)
    stream.close()  # type: ignore[attr-defined]
    assert expected.samples.dtype == torch.uint8 and expected.samples.shape == (32, 8, 8, 1)
    assert expected.ids.tolist() == list(range(6 * 32, 7 * 32))


def test_an_epoch_shows_every_training_image_once(digits_store: Path) -> None:
    one = loader(digits_store)
    train = one.order.rows
    batches = [one.batch(n).samples.numpy() for n in range(len(train) // 32 + 1)]
    shown = np.concatenate(batches)[: len(train)].reshape(len(train), -1)
    expected = one.store.take(train).reshape(len(train), -1)
    assert np.array_equal(np.sort(shown.sum(axis=1)), np.sort(expected.sum(axis=1)))
    assert len(np.unique(shown, axis=0)) == len(np.unique(expected, axis=0))


def test_a_store_of_other_channels_is_refused_before_training(digits_store: Path) -> None:
    with pytest.raises(LatentcastError, match="have 1 channels, input.channels is 3"):
        loader(digits_store, channels=3)
