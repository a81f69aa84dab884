"""Data order and crops: functions of the step, each record once an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.config import Config
from latentcast.data.loader import CropLoader, ahead, split
from latentcast.data.order import Order
from latentcast.data.store import Store
from latentcast.signals.recording import INVALID


@pytest.fixture
def loader(small_store: Path, small_config: Config) -> CropLoader:
    store = Store.open(small_store)
    return CropLoader(store, store.rows("train"), small_config)


def test_every_record_once_an_epoch_across_batches() -> None:
    order = Order(np.arange(100, 137), seed=1)
    seen = np.concatenate([order.batch(n, 8) for n in range(37)])  # 8 epochs of 37
    for epoch in range(8):
        assert sorted(seen[epoch * 37 : (epoch + 1) * 37]) == list(range(100, 137))
    assert list(seen[:37]) != list(seen[37:74])


def test_order_depends_on_the_seed_only() -> None:
    first, same, other = (Order(np.arange(50), seed).batch(3, 16) for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_batch_larger_than_the_data_goes_round() -> None:
    assert sorted(Order(np.arange(3), 0).batch(0, 6)) == [0, 0, 1, 1, 2, 2]


def test_crops_lie_inside_the_record_and_reach_both_ends(loader: CropLoader) -> None:
    starts = loader.starts(np.arange(5000), np.repeat(loader.order.rows[:1], 5000))
    assert starts.min() == 0 and starts.max() == 600


def test_same_attempt_same_crop_whatever_came_before(loader: CropLoader) -> None:
    loader.batch(0)
    again = loader.batch(7)
    assert torch.equal(loader.batch(7).samples, again.samples)
    assert not torch.equal(loader.batch(8).samples, again.samples)


def test_stream_from_any_attempt_equals_the_batches(loader: CropLoader) -> None:
    stream = loader.stream(4)
    for attempt in (4, 5, 6):
        joined = torch.cat([piece.samples for piece in next(stream)])
        assert torch.equal(joined, loader.batch(attempt).samples)
    stream.close()  # type: ignore[attr-defined]


def test_crops_equal_the_recordings(loader: CropLoader) -> None:
    batch, rows = loader.batch(0), loader.order.batch(0, 6)
    starts = loader.starts(batch.ids.numpy(), rows)
    for sample, row, start in zip(batch.samples, rows.tolist(), starts.tolist(), strict=True):
        signal = loader.store.recording(row).signal[:, start : start + 400].T
        measured = sample.numpy() != INVALID
        assert measured.mean() > 0.5
        np.testing.assert_allclose(sample.numpy()[measured] * 0.001, signal[measured], atol=1e-6)


def test_without_random_crops_the_middle_is_taken(small_store: Path, small_config: Config) -> None:
    store = Store.open(small_store)
    still = CropLoader(
        store, store.rows("train"), small_config.updated({"train.random_crop": False})
    )
    rows = store.rows("train")
    assert set(still.starts(np.arange(len(rows)), rows)) == {300}


def test_a_record_met_twice_in_a_batch_is_cropped_twice(
    small_store: Path, small_config: Config
) -> None:
    store = Store.open(small_store)
    few = CropLoader(store, store.rows("train")[:2], small_config)
    starts = few.starts(few.batch(0).ids.numpy(), few.order.batch(0, 6))
    assert len(set(starts.tolist())) > 2


def test_an_error_in_the_reading_thread_reaches_the_loop() -> None:
    def make(number: int) -> list[object]:
        if number == 2:
            raise OSError("the shard vanished")
        return [number]

    stream = ahead(make, 0)  # type: ignore[arg-type]
    assert [next(stream), next(stream)] == [[0], [1]]
    with pytest.raises(OSError, match="the shard vanished"):
        next(stream)


def test_split_keeps_order_and_all_samples(loader: CropLoader) -> None:
    whole = loader.batch(0)
    pieces = split(whole, 3)
    assert [len(p) for p in pieces] == [2, 2, 2]
    assert torch.equal(torch.cat([p.ids for p in pieces]), whole.ids)
