"""Data order and crops: functions of the step, each record once an epoch, whoever reads them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentcast.batch import Batch
from latentcast.config import Config
from latentcast.data.fit import fitted, reading
from latentcast.data.loader import Loader, ahead, split, to_device
from latentcast.data.order import Order
from latentcast.data.store import Store
from latentcast.data.workers import AHEAD, SPARE, read
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.signals.recording import INVALID


@pytest.fixture
def loader(small_store: Path, small_config: Config) -> Loader:
    store = Store.open(small_store)
    return Loader(store, store.rows("train"), small_config)


def test_every_record_once_an_epoch_across_batches() -> None:
    order = Order(np.arange(100, 137), seed=1)
    visits = np.concatenate([order.at(np.arange(8 * n, 8 * n + 8)) for n in range(37)])  # 8 epochs
    for epoch in range(8):
        assert sorted(visits[epoch * 37 : (epoch + 1) * 37]) == list(range(100, 137))
    assert list(visits[:37]) != list(visits[37:74])


def test_order_depends_on_the_seed_only() -> None:
    first, same, other = (Order(np.arange(50), seed).at(np.arange(48, 64)) for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_batch_larger_than_the_data_goes_round() -> None:
    assert sorted(Order(np.arange(3), 0).at(np.arange(6))) == [0, 0, 1, 1, 2, 2]


def test_crops_lie_inside_the_record_and_reach_both_ends(loader: Loader) -> None:
    starts = loader.starts(np.arange(5000), np.repeat(loader.order.rows[:1], 5000))
    assert starts.min() == 0 and starts.max() == 600


def test_same_attempt_same_crop_whatever_came_before(loader: Loader) -> None:
    loader.batch(0)
    again = loader.batch(7)
    assert torch.equal(loader.batch(7).samples, again.samples)
    assert not torch.equal(loader.batch(8).samples, again.samples)


def test_stream_from_any_attempt_equals_the_batches(loader: Loader) -> None:
    stream = loader.stream(4)
    for attempt in (4, 5, 6):
        joined = torch.cat([piece.samples for piece in next(stream)])
        assert torch.equal(joined, loader.batch(attempt).samples)
    stream.close()


def test_crops_equal_the_recordings(loader: Loader) -> None:
    batch, rows = loader.batch(0), loader.order.at(np.arange(6))
    starts = loader.starts(batch.ids.numpy(), rows)
    for sample, row, start in zip(batch.samples, rows.tolist(), starts.tolist(), strict=True):
        signal = loader.store.recording(row).signal[:, start : start + 400].T
        measured = sample.numpy() != INVALID
        assert measured.mean() > 0.5
        np.testing.assert_allclose(sample.numpy()[measured] * 0.001, signal[measured], atol=1e-6)


def test_without_random_crops_the_middle_is_taken(small_store: Path, small_config: Config) -> None:
    store = Store.open(small_store)
    still = Loader(store, store.rows("train"), small_config.updated({"train.random_crop": False}))
    rows = store.rows("train")
    assert set(still.starts(np.arange(len(rows)), rows)) == {300}


def test_a_record_met_twice_in_a_batch_is_cropped_twice(
    small_store: Path, small_config: Config
) -> None:
    store = Store.open(small_store)
    few = Loader(store, store.rows("train")[:2], small_config)
    starts = few.starts(few.batch(0).ids.numpy(), few.order.at(np.arange(6)))
    assert len(set(starts.tolist())) > 2


def test_an_error_in_the_reading_thread_reaches_the_loop() -> None:
    def items() -> Iterator[int]:
        yield from (0, 1)
        raise OSError("the disk is gone")

    stream = ahead(items())  # type: ignore[arg-type, var-annotated]
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


def test_reading_ahead_ends_where_the_items_end_and_when_it_is_closed() -> None:
    closed = []

    def items(n: int) -> Iterator[int]:
        try:
            yield from range(n)
        finally:
            closed.append(n)

    assert list(ahead(items(5))) == [0, 1, 2, 3, 4]  # type: ignore[arg-type, var-annotated]
    endless = ahead(items(10**9))  # type: ignore[arg-type, var-annotated]
    next(endless)
    endless.close()
    until(lambda: closed == [5, 10**9])


def test_split_keeps_order_and_all_samples(loader: Loader) -> None:
    batch = loader.batch(0)
    for count, sizes in ((3, [2, 2, 2]), (4, [2, 2, 1, 1])):
        pieces = split(batch, count)
        assert [len(p) for p in pieces] == sizes
        assert torch.equal(torch.cat([p.ids for p in pieces]), batch.ids)
        assert torch.equal(torch.cat([p.samples for p in pieces]), batch.samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_targets_are_those_of_the_records_that_were_read(
    workers: int, small_store: Path, small_config: Config
) -> None:
    store = Store.open(small_store)
    config = small_config.updated({"machine.workers": workers, "train.batch_size": 7})
    targets = np.stack([np.arange(len(store)), -np.arange(len(store))], axis=1).astype(np.float32)
    loader, _ = reading(store, fitted(config, store), (1, 2), targets)
    with closing(loader.stream(3)) as stream:
        for pieces in islice(stream, 4):
            assert len(pieces) == 2
            for piece in pieces:
                rows = loader.order.at(piece.ids.numpy())
                assert piece.targets is not None
                assert piece.targets.numpy().tolist() == targets[rows].tolist()
                moved = piece.to(torch.device("meta"))
                assert moved.targets is not None and moved.targets.device.type == "meta"
    assert loader.batch(0).targets is not None
    assert Loader(store, store.rows("train"), config).batch(0).targets is None
    with pytest.raises(LatentcastError, match=r"targets: has 3 rows, .* 20 records; give one row"):
        reading(store, fitted(config, store), targets=targets[:3])


# Ranks ---------------------------------------------------------------------------------------


class Numbers(Loader):
    """Knows which places it would read, and reads nothing."""

    def request(self, ids: np.ndarray) -> tuple[object, ...]:
        raise AssertionError


@given(
    size=st.integers(1, 60),
    k=st.integers(1, 7),
    ranks=st.integers(1, 5),
    attempt=st.integers(0, 9),
)
def test_ranks_together_have_the_pieces_of_one_process(
    size: int, k: int, ranks: int, attempt: int
) -> None:
    config = recipe("nepa-ecg-tiny").updated({"train.batch_size": 60})
    train = config.train.model_copy(update={"batch_size": size, "micro_batches": k})
    config = config.model_copy(update={"train": train})

    def pieces(rank: int) -> list[list[int]]:
        loader = Numbers(None, np.arange(9), config, (rank, ranks))  # type: ignore[arg-type]
        ids = torch.from_numpy(loader.ids(attempt))
        return [piece.ids.tolist() for piece in split(Batch(ids, ids), k)]

    if k * ranks > size:
        with pytest.raises(LatentcastError, match=f"set it to {k * ranks} or more, or lower"):
            pieces(0)
        return
    expected = np.array_split(np.arange(attempt * size, (attempt + 1) * size), k)
    for rank in range(ranks):
        mine = [np.array_split(piece, ranks)[rank].tolist() for piece in expected]
        assert pieces(rank) == mine and all(mine)


def test_a_rank_asks_the_store_for_its_own_rows_only(
    small_store: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, taken = Store.open(small_store), []
    take = Store.take
    monkeypatch.setattr(
        Store, "take", lambda self, rows, *more: taken.append(len(rows)) or take(self, rows, *more)
    )
    halves = [Loader(store, store.rows("train"), small_config, (r, 2)).batch(3) for r in (0, 1)]
    assert taken == [4, 2]
    alone = Loader(store, store.rows("train"), small_config).batch(3)
    found = dict(zip(alone.ids.tolist(), alone.samples, strict=True))
    for half in halves:
        for place, samples in zip(half.ids.tolist(), half.samples, strict=True):
            assert torch.equal(samples, found[place])


# Reader processes ----------------------------------------------------------------------------


def until(condition: object, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.01)


def readers() -> list[BaseProcess]:
    return [p for p in multiprocessing.active_children() if p.name == "latentcast-reader"]


def images(store: Path, changes: dict[str, object]) -> Loader:
    opened = Store.open(store)
    shape = {"input.height": 8, "input.width": 8, "input.channels": 1, "input.normalisation": None}
    config = recipe("nepa-image-tiny").updated({**shape, "encoder.patch": 2, **changes})
    return Loader(opened, opened.rows("train"), config, (1, 3))


@pytest.mark.parametrize("kind", ["ecg", "image"])
def test_the_same_batches_with_0_1_and_4_workers_from_any_attempt(
    kind: str, small_store: Path, digits_store: Path, small_config: Config
) -> None:
    def stream(workers: int, attempt: int) -> list[list[Batch]]:
        size = {"train.batch_size": 23, "train.micro_batches": 3, "machine.workers": workers}
        if kind == "image":
            loader: Loader = images(digits_store, size)  # type: ignore[type-arg]
        else:
            store = Store.open(small_store)
            loader = Loader(store, store.rows("train"), small_config.updated(size), (1, 2))
        with closing(loader.stream(attempt)) as batches:
            return list(islice(batches, 12))

    expected = stream(0, 5)
    assert len({tuple(b.ids.tolist()) for pieces in expected for b in pieces}) == 36
    for workers, first in ((1, 5), (4, 7)):
        found = stream(workers, first)
        for ours, theirs in zip(found, expected[first - 5 :], strict=False):
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a.ids, b.ids) and torch.equal(a.samples, b.samples)
                assert a.samples.dtype == b.samples.dtype
    assert not readers()


def one_reader(store: Path, config: Config) -> Loader:
    opened = Store.open(store)
    return Loader(opened, opened.rows("train"), config.updated({"machine.workers": 1}))


def test_batches_that_are_kept_are_not_overwritten(small_store: Path, small_config: Config) -> None:
    loader = one_reader(small_store, small_config)
    with closing(loader.stream(0)) as stream:
        kept = list(islice(stream, 3 * (AHEAD + SPARE)))
        for attempt, pieces in enumerate(kept):
            samples = torch.cat([piece.samples for piece in pieces])
            assert torch.equal(samples, loader.batch(attempt).samples)
        piece = kept[0][1].samples[1:]  # a part of a part keeps the whole
        before = piece.clone()
        del kept, pieces
        for _ in range(3 * (AHEAD + SPARE)):
            next(stream)
        assert torch.equal(piece, before)


def test_batches_that_are_dropped_are_read_by_the_readers(
    small_store: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = one_reader(small_store, small_config)
    monkeypatch.setattr(Store, "take", lambda *_: pytest.fail("read by the trainer"))
    with closing(loader.stream(0)) as stream:
        places = set()
        for pieces in islice(stream, 20):  # holds one while it waits for the next
            places.add(pieces[0].samples.data_ptr())
    assert len(places) <= AHEAD + SPARE


def test_a_killed_reader_ends_the_stream_with_its_name_and_the_mend(
    small_store: Path, small_config: Config
) -> None:
    stream = one_reader(small_store, small_config).stream(0)
    next(stream)
    (reader,) = readers()
    for quiet in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # meant for the trainer
        os.kill(reader.pid or 0, quiet)
    for _ in range(5):
        next(stream)
    os.kill(reader.pid or 0, signal.SIGKILL)
    with pytest.raises(LatentcastError, match=f"reader process {reader.pid} was ended by SIGKILL"):
        for _ in range(5):
            next(stream)
    assert not readers()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["vanishes", "is cut short"])
def test_a_shard_that_is_lost_ends_the_stream_with_its_name(
    fault: str,
    workers: int,
    small_store: Path,
    small_config: Config,
    tmp_path: Path,
    between_reads: threading.Lock,
) -> None:
    copytree(small_store, tmp_path / "store")
    store, shard = Store.open(tmp_path / "store"), tmp_path / "store" / "shard-00000.npy"
    config = small_config.updated({"machine.workers": workers})
    with closing(Loader(store, store.rows("train"), config).stream(0)) as stream:
        next(stream)
        with between_reads:
            if fault == "vanishes":
                shard.unlink()
            else:
                os.truncate(shard, 4096)
        problem = "vanished" if fault == "vanishes" else "has 4096 bytes and had"
        with pytest.raises(LatentcastError, match=f"{shard.name}: {problem}.*restore it"):
            for _ in range(10):
                next(stream)


def test_a_shard_cut_short_in_the_middle_of_a_read_is_named_by_a_reader_that_died_of_it(
    small_store: Path, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(small_store, tmp_path / "store")
    loader = one_reader(tmp_path / "store", small_config)
    with closing(loader.stream(0)) as stream:
        next(stream)
        (reader,) = readers()
        os.kill(reader.pid or 0, signal.SIGBUS)  # as reading past the end of a file does
        reader.join(10)
        with pytest.raises(LatentcastError, match="was ended by SIGBUS; the disk could not"):
            for _ in range(5):
                next(stream)
    with closing(loader.stream(0)) as stream:
        next(stream)
        (reader,) = readers()
        os.truncate(tmp_path / "store" / "shard-00000.npy", 0)
        os.kill(reader.pid or 0, signal.SIGBUS)
        with pytest.raises(LatentcastError, match="shard-00000.npy: has 0 bytes"):
            for _ in range(5):
                next(stream)


def test_an_error_while_reading_comes_out_of_the_reader_as_what_it_is(small_store: Path) -> None:
    store = Store.open(small_store)
    requests = iter([(np.array([0]), np.array([0]), length) for length in (10, 20)] * 9)
    with closing(read(store, requests, (1, 10, 12), np.int16, 1)) as arrays:
        assert np.array_equal(next(arrays), store.take([0], [0], 10))
        with pytest.raises(ValueError, match="shape") as caught:
            next(arrays)
    assert "in a reader process" in caught.value.__notes__[0]


SCRIPT = """
import itertools, multiprocessing, os, sys
import numpy as np
from latentcast.data.workers import read
from latentcast.data.store import Store

def main():
    store = Store.open(sys.argv[1])
    requests = ((np.array([i % 9]), np.array([0]), 50) for i in itertools.count())
    stream = read(store, requests, (1, 50, 12), np.int16, 2)
    next(stream)
    print(*(p.pid for p in multiprocessing.active_children()), flush=True)
    {then}

{start}
"""


def program(tmp_path: Path, store: Path, then: str, start: str) -> subprocess.Popen[str]:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.format(then=then, start=start))
    arguments = [sys.executable, str(file), str(store)]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


GUARDED = "if __name__ == '__main__': main()"


def test_a_stream_left_open_by_an_error_does_not_keep_the_program(
    small_store: Path, tmp_path: Path
) -> None:
    then = "globals()['kept'] = stream; raise OSError('the trainer failed')"
    ended = program(tmp_path, small_store, then, GUARDED)
    out, errors = ended.communicate(timeout=120)
    assert ended.returncode == 1 and "the trainer failed" in errors
    pids = [int(word) for word in out.split()]
    assert len(pids) == 2 and all(map(is_gone, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_readers_end_with_a_trainer_that_is_killed(small_store: Path, tmp_path: Path) -> None:
    trainer = program(tmp_path, small_store, "import time; time.sleep(60)", GUARDED)
    assert trainer.stdout is not None
    pids = [int(word) for word in trainer.stdout.readline().split()]
    os.killpg(trainer.pid, signal.SIGTERM)  # of which only the trainer dies at once
    trainer.communicate(timeout=120)
    assert len(pids) == 2
    until(lambda: all(map(is_gone, pids)))


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(small_store: Path, tmp_path: Path) -> None:
    ended = program(tmp_path, small_store, "pass", "main()")
    _, errors = ended.communicate(timeout=120)
    assert ended.returncode == 1
    assert "ended with exit code 1" in errors and "under if __name__ == '__main__':" in errors


# To the device -------------------------------------------------------------------------------


def test_nothing_moves_to_the_processor(loader: Loader) -> None:
    stream = loader.stream(0)
    with to_device(stream, torch.device("cpu")) as moved:
        assert moved is stream


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_on_the_device_as_they_were(loader: Loader) -> None:
    with to_device(loader.stream(0), torch.device("cuda")) as stream:
        for attempt, pieces in enumerate(islice(stream, 50)):
            torch.cuda._sleep(10_000_000)  # a step still at work when the next ones are copied
            assert pieces[0].samples.is_cuda
            found = torch.cat([piece.samples for piece in pieces]).cpu()
            assert torch.equal(found, loader.batch(attempt).samples)
    assert not [t for t in threading.enumerate() if t.name == "latentcast-loader"]
