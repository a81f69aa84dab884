"""However an ingest is run, and wherever it is stopped, the store holds the same bytes."""

from __future__ import annotations

import os
import random
import signal as signals
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ecg_files import contents, write_some, write_wfdb

from latentcast.data import ingest as module
from latentcast.data import shard_log, writer
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.signals.synthetic import synthetic_recording


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_change_no_byte(tmp_path: Path, workers: int) -> None:
    write_some(tmp_path / "in", 80, 1.0)
    (tmp_path / "in" / "r030.dat").unlink()
    options = {"shard_bytes": 20 * 500 * 24, "quiet": True}
    ingest(tmp_path / "in", tmp_path / "one", workers=1, **options)
    ingest(tmp_path / "in", tmp_path / "many", workers=workers, **options)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "many")
    assert sum(name.startswith("shard") for name in one) == 4
    assert set(one) - {f"shard-0000{i}.npy" for i in range(4)} == {
        "index.npz", "manifest.json", "metadata.jsonl", "quarantine.csv",
    }  # fmt: skip


_CHILD = """
import sys, time
from latentcast.data import writer
from latentcast.data.ingest import ingest

def slowly(self, record, position, add=writer.ShardWriter.add):
    time.sleep(0.001)  # so that the kills come before the end on a fast machine too
    add(self, record, position)

writer.ShardWriter.add = slowly
ingest(sys.argv[1], sys.argv[2], shard_bytes=20 * 500 * 24, workers=2, quiet=True)
"""


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_some(folder, 120, 1.0)
    (folder / "r050.dat").write_bytes(b"short")
    write_wfdb(folder, synthetic_recording(50, 500, 1.0, seed=0), "r150b")  # r000 again
    ingest(folder, tmp_path / "uninterrupted", shard_bytes=20 * 500 * 24, workers=1, quiet=True)
    out, rng, kills, went_on, longest = tmp_path / "killed", random.Random(0), 0, 0, 0.06
    for attempt in range(21):
        born = time.time_ns()
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder), str(out)], start_new_session=True
        )
        # Wait until it writes, then some milliseconds, so that kills fall into every phase.
        before = len(list(out.glob("shard-*.json"))) if out.is_dir() else 0
        went_on += before > 0
        while child.poll() is None and not _writes(out, born):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, longest))
        if attempt == 20:  # on a busy machine no run gets far before it is killed
            child.wait()
        if child.poll() is not None:
            break
        os.kill(child.pid, signals.SIGKILL)
        child.wait()
        kills += 1
        if len(list(out.glob("shard-*.json"))) == before:  # a busy machine gets less done
            longest *= 2
    assert kills >= 2 and went_on >= 1 and child.returncode == 0
    assert contents(out) == contents(tmp_path / "uninterrupted")


def _cut(path: Path, count: int) -> None:
    os.truncate(path, path.stat().st_size - count)


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(128 + 14 * 500 * 24)
        file.write(b"\x11\x22\x33")


@pytest.mark.parametrize(
    ("damage", "most_read"),
    [
        (None, 8),
        (lambda out: _cut(out / "shard-00000.log.partial", 9), 12),
        (lambda out: _cut(out / "shard-00000.npy.partial", 6 * 500 * 24), 16),
        (lambda out: _change(out / "shard-00000.npy.partial"), 20),
        (lambda out: (out / "shard-00000.npy.partial").unlink(), 32),
        (lambda out: (out / "shard-00000.log.partial").unlink(), 32),
    ],
)
def test_what_a_killed_ingest_wrote_of_an_open_shard_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], most_read: int
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_some(folder, 31, 1.0)
    (folder / "r005.dat").write_bytes(b"short")
    write_wfdb(folder, synthetic_recording(50, 500, 1.0, seed=0), "r020b")  # r000 again
    ingest(folder, tmp_path / "uninterrupted", workers=1, quiet=True)
    monkeypatch.setattr(shard_log, "RECORDS", 4)
    add = writer.ShardWriter.add
    for last in (3, 9, 18):
        if not (child := os.fork()):
            calls = iter(range(1, last))

            def dies(self, record, position, calls=calls):
                if next(calls, None) is None:
                    os.kill(os.getpid(), signals.SIGKILL)
                add(self, record, position)

            writer.ShardWriter.add = dies
            ingest(folder, out, workers=1, quiet=True)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signals.SIGKILL
    if damage is not None:
        damage(out)
    done = ingest(folder, out, workers=1, quiet=True)
    assert most_read - 4 < done.read <= most_read
    assert contents(out) == contents(tmp_path / "uninterrupted")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_readers_do_not_outlive_a_killed_ingest(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 200, 1.0)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "in"), str(tmp_path / "out")],
        start_new_session=True,
    )
    while child.poll() is None and not _writes(tmp_path / "out", 0):
        time.sleep(0.001)
    os.kill(child.pid, signals.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 10
    while _session(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _session(child.pid) == []


def _writes(out: Path, since: int) -> bool:
    """Whether a shard is open that is younger than ``since``; a killed run leaves its own."""
    try:
        return any(path.stat().st_mtime_ns > since for path in out.glob("*.partial"))
    except FileNotFoundError:
        return True


def _session(leader: int) -> list[int]:
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rsplit(") ", 1)[1].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            alive.append(int(stat.parent.name))
    return alive


def test_a_finished_store_is_left_alone_and_another_one_refused(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 3)
    write_some(tmp_path / "other", 4)
    ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    again = ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert (again.records, again.quarantined) == (3, 0)
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    with pytest.raises(LatentcastError, match="already holds another store.*'in' there, 'other'"):
        ingest(tmp_path / "other", tmp_path / "out", quiet=True)
    with pytest.raises(LatentcastError, match=r"already holds another store.*scale 0\.001 there"):
        ingest(tmp_path / "in", tmp_path / "out", scale=0.005, quiet=True)


def test_an_unfinished_store_of_other_options_is_not_mixed_with(
    tmp_path: Path, monkeypatch
) -> None:
    write_some(tmp_path / "in", 3)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    with pytest.raises(LatentcastError, match="interrupted; run the same ingest again"):
        Store.open(tmp_path / "out")
    with pytest.raises(LatentcastError, match="already holds another store"):
        ingest(tmp_path / "in", tmp_path / "out", fs=250, quiet=True)
    monkeypatch.undo()
    assert ingest(tmp_path / "in", tmp_path / "out", quiet=True).records == 3


@pytest.mark.parametrize("file", ["shard-00000.json", "ingest.json"])
@pytest.mark.parametrize("damage", ["edited", "cut", "no object"])
def test_what_an_interrupted_ingest_left_was_damaged_and_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, damage: str
) -> None:
    write_some(tmp_path / "in", 3)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    monkeypatch.undo()
    path = tmp_path / "out" / file
    text = path.read_text()
    path.write_text({"edited": text.replace("r00", "s00").replace('"in"', '"on"'),
                     "cut": text[:-9], "no object": "[1]"}[damage])  # fmt: skip
    with pytest.raises(LatentcastError, match="remove"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
