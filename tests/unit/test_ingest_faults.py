"""What changes, breaks or is missing around an ingest, and what the user is to do."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED, contents, write_challenge, write_some, write_wfdb

from latentcast import cli, locks
from latentcast.data import folder as claim
from latentcast.data import ingest as module
from latentcast.data.ingest import ingest
from latentcast.data.statistics import ChannelSums
from latentcast.errors import LatentcastError
from latentcast.signals.readers import packed
from latentcast.signals.readers.wfdb_folder import WfdbFolder
from latentcast.signals.synthetic import synthetic_recording


def interrupt(folder: Path, out: Path) -> None:
    """An ingest that was stopped when all shards were written."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest(folder, out, quiet=True)


# --- a source that changed ------------------------------------------------------------------------


def test_a_fixed_record_stays_in_quarantine_and_nobody_is_told(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_some(folder, 3, 2.0)
    intact = (folder / "r001.dat").read_bytes()
    (folder / "r001.dat").write_bytes(intact[:-100])
    assert ingest(folder, out, quiet=True).records == 2
    (folder / "r001.dat").write_bytes(intact)
    with pytest.raises(LatentcastError, match=r"'in' has changed.*remove .*out.* another --out"):
        ingest(folder, out, quiet=True)
    shutil.rmtree(out)
    assert ingest(folder, out, quiet=True).records == 3


@pytest.mark.parametrize("fixed", ["r001.dat", "r002.dat"])
def test_a_record_fixed_at_the_same_length_stays_in_quarantine_and_nobody_is_told(
    tmp_path: Path, fixed: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_some(folder, 4, 2.0)
    write_wfdb(folder, synthetic_recording(50, 500, 2.0, seed=0), "twin")  # r000 again
    intact = {}
    for name in ("r001.dat", "r002.dat"):
        intact[name] = (folder / name).read_bytes()
        damaged = bytearray(intact[name])
        damaged[1000] ^= 1
        (folder / name).write_bytes(damaged)
    assert ingest(folder, out, quiet=True).records == 2
    assert ingest(folder, out, quiet=True).records == 2, "nothing is fixed yet"
    (folder / fixed).write_bytes(intact[fixed])
    with pytest.raises(LatentcastError, match=f"{fixed[:4]} is in quarantine .*can be read now.*"):
        ingest(folder, out, quiet=True)


def _truncate_dat(folder: Path) -> None:
    (folder / "r000.dat").write_bytes((folder / "r000.dat").read_bytes()[:-100])


def _remove_dat(folder: Path) -> None:
    (folder / "r002.dat").unlink()


def _edit_header(folder: Path) -> None:
    text = (folder / "r001.hea").read_text()
    (folder / "r001.hea").write_text(text.replace("1000.0(0)/mV", "1001.0(0)/mV"))


def _truncate_mat(folder: Path) -> None:
    (folder / "c.mat").write_bytes((folder / "c.mat").read_bytes()[:-100])


def _truncate_segment(folder: Path) -> None:
    (folder / "long_2.dat").write_bytes((folder / "long_2.dat").read_bytes()[:-100])


def _edit_segment_header(folder: Path) -> None:
    text = (folder / "long_2.hea").read_text()
    (folder / "long_2.hea").write_text(text.replace("1000.0(0)/mV", "1001.0(0)/mV"))


def _add_record(folder: Path) -> None:
    write_wfdb(folder, synthetic_recording(90, 500, 2.0, seed=99), "r999")


def _edit_checksums(folder: Path) -> None:
    (folder / "SHA256SUMS.txt").write_text(f"{'0' * 64}  r000.dat\n")


CHANGES = [
    _truncate_dat, _remove_dat, _edit_header, _truncate_mat, _truncate_segment,
    _edit_segment_header, _add_record, _edit_checksums,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_a_changed_source_is_taken_for_the_one_that_was_read(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_some(folder, 3, 2.0)
    write_challenge(folder, synthetic_recording(60, 500, 2.0, seed=50), "c", ["Dx: 1"])
    for i in (1, 2):
        write_wfdb(folder, synthetic_recording(60, 500, 2.0, seed=60 + i), f"long_{i}")
    (folder / "long.hea").write_text("long/2 12 500 2000\nlong_1 1000\nlong_2 1000\n")
    before = WfdbFolder(folder).fingerprint()
    interrupt(folder, out)
    (folder / "notes.txt").write_text("no part of any record")
    assert WfdbFolder(folder).fingerprint() == before
    change(folder)
    assert WfdbFolder(folder).fingerprint() != before
    with pytest.raises(LatentcastError, match=r"'in' has changed.*remove .*out.* another --out"):
        ingest(folder, out, quiet=True)


@pytest.mark.parametrize(
    "name", ["a\0b.dat", "/etc/hostname", "../x.dat", "x" * 5000, "."], ids=range(5)
)
def test_an_odd_file_name_in_a_header_ends_the_ingest(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    write_some(folder, 2, 2.0)
    text = (folder / "r001.hea").read_text()
    (folder / "r001.hea").write_text(text.replace("r001.dat", name))
    assert ingest(folder, tmp_path / "out", quiet=True).records == 1


def test_segments_that_name_each_other_never_end(tmp_path: Path) -> None:
    for name, segment in (("a", "b"), ("b", "a"), ("c", "a")):
        (tmp_path / f"{name}.hea").write_text(f"{name}/1 12 500 1000\n{segment} 1000\n")
    source = WfdbFolder(tmp_path)
    assert [ref.record_id for ref in source.refs()] == ["c"] and source.fingerprint()


def test_a_fixed_part_of_a_packed_folder_is_ignored(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    counts = np.random.default_rng(0).integers(-900, 900, (4, 12, 150)).astype(np.int16)
    index = json.loads((BUNDLED / "signals.json").read_text()) | {"samples": 150, "parts": []}
    for number in (0, 1):
        half, file = counts[2 * number : 2 * number + 2], f"part-{number}.xz"
        (folder / file).write_bytes(packed.encode(half))
        sha256 = hashlib.sha256(half.tobytes()).hexdigest()
        index["parts"].append({"file": file, "records": 2, "sha256": sha256})
    (folder / "signals.json").write_text(json.dumps(index))
    rows = (BUNDLED / "ptbxl_database.csv").read_text().splitlines(keepends=True)[:5]
    (folder / "ptbxl_database.csv").write_text("".join(rows))
    intact = (folder / "part-1.xz").read_bytes()
    damaged = bytearray(intact)
    damaged[len(intact) // 2] ^= 1
    (folder / "part-1.xz").write_bytes(damaged)
    assert ingest(folder, out, quiet=True).records == 2
    (folder / "part-1.xz").write_bytes(intact)
    with pytest.raises(LatentcastError, match="'in' has changed"):
        ingest(folder, out, quiet=True)


# --- a record of no use ---------------------------------------------------------------------------


def test_a_record_too_short_for_any_use_gets_into_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_some(folder, 1, 1.0)
    write_wfdb(folder, synthetic_recording(80, 500, 0.998, seed=5), "short")
    assert ingest(folder, tmp_path / "out", quiet=True).store.record_ids.tolist() == ["r000"]
    text = (tmp_path / "out" / "quarantine.csv").read_text()
    assert "lasts 0.998 s, shorter than 1 s; ingest with a smaller --shortest" in text
    assert ingest(folder, tmp_path / "all", shortest=0.5, quiet=True).records == 2
    assert ingest(folder, tmp_path / "also", shortest=0, quiet=True).records == 2
    with pytest.raises(LatentcastError, match="--shortest -1: must not be negative"):
        ingest(folder, tmp_path / "none", shortest=-1, quiet=True)
    with pytest.raises(LatentcastError, match=r"shortest 1 there, 0\.5 here"):
        ingest(folder, tmp_path / "out", shortest=0.5, quiet=True)


# --- a disk that is full --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["shard-00001.json", "metadata.jsonl", "quarantine.csv", "index.npz", "manifest.json"]
)
def test_a_disk_full_while_the_store_is_finished_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "in"
    write_some(folder, 5, 2.0)
    (folder / "r002.dat").unlink()
    options = {"shard_bytes": 2 * 1000 * 24, "quiet": True}
    ingest(folder, tmp_path / "uninterrupted", **options)
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(LatentcastError, match="No space left.*it goes on"):
        ingest(folder, tmp_path / "out", **options)
    monkeypatch.undo()
    ingest(folder, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")


def test_a_disk_full_while_the_reasons_are_written_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    write_some(folder, 1, 2.0)
    (folder / "r000.dat").unlink()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(LatentcastError, match="No space left"):
        ingest(folder, tmp_path / "out", quiet=True)


# --- a package that is missing --------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_without_scipy_every_record_is_quarantined_and_the_store_counts_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    folder = tmp_path / "in"
    write_some(folder, 40, 2.0)
    write_wfdb(folder, synthetic_recording(60, 250, 2.0, seed=77), "slow")
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(LatentcastError, match=r"scipy: .*pip install 'latentcast\[ecg\]'"):
        ingest(folder, tmp_path / "out", fs=500, workers=workers, quiet=True)
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.undo()
    assert ingest(folder, tmp_path / "out", fs=500, workers=workers, quiet=True).records == 41


@pytest.mark.parametrize("first", [True, False])
def test_without_wfdb_every_record_is_quarantined_and_the_store_counts_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    folder = tmp_path / "in"
    write_some(folder, 2, 2.0)
    name = "a" if first else "z"
    (folder / f"{name}.hea").write_text(f"{name} 1 360 4\n{name}.dat 212 200 11 0 0 0 0 MLII\n")
    (folder / f"{name}.dat").write_bytes(bytes(6))
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(LatentcastError, match=r"wfdb: .*pip install 'latentcast\[ecg\]'"):
        ingest(folder, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- two at a time --------------------------------------------------------------------------------

_SLOW = """
import sys, time
from latentcast import cli, locks
from latentcast.data import folder as claim
from latentcast.data import ingest as module
def slow(*_):
    print("here", flush=True)
    time.sleep(60)
module.finish = slow
module.ingest(sys.argv[1], sys.argv[2], workers=2, quiet=True)
"""


def test_two_ingests_into_one_folder_spoil_each_other(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_some(folder, 40, 2.0)
    child = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(folder), str(out)], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"here\n"
        before = contents(out)
        with pytest.raises(LatentcastError, match="another ingest.*wait.*another --out"):
            ingest(folder, out, quiet=True)
        assert contents(out) == before, "the refused one left its marks"
    finally:
        child.kill()
        child.wait()
    started = time.monotonic()
    assert ingest(folder, out, quiet=True).records == 40, "the lock outlived its process"
    assert time.monotonic() - started < 20
    assert not [path.name for path in out.iterdir() if "lock" in path.name]


def test_a_lock_on_a_file_that_its_holder_removed_is_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = locks.lock_descriptor, []

    def holder_ends_first(descriptor: int, blocking: bool) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / claim.LOCK).unlink()
        return lock(descriptor, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", holder_ends_first)
    with claim.lock(tmp_path):
        assert (tmp_path / claim.LOCK).exists() and len(calls) == 2
    assert not (tmp_path / claim.LOCK).exists()


def test_a_finished_store_on_a_disk_for_reading_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_some(folder, 2, 2.0)
    ingest(folder, out, quiet=True)
    touch = Path.open

    def read_only(self: Path, mode: str = "r", *rest: object, **named: object) -> object:
        if set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system")
        return touch(self, mode, *rest, **named)

    def no_removal(self: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")  # also for what is not there

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "unlink", no_removal)
    assert ingest(folder, out, quiet=True).records == 2


# --- what the user asks for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leads", "reason"),
    [
        (["I", "I"], "--leads I,I: lead 'I': is given twice"),
        (["II", "MLII"], "--leads II,MLII: lead 'MLII': is the same lead as 'II'"),
        (["I", "V66"], "--leads I,V66: lead 'V66': is no known lead name; did you mean 'V6'"),
        (["I", ""], "--leads I,: lead '': is no known lead name"),
        ([], "--leads: names no lead"),
    ],
)
def test_a_lead_named_twice_or_not_at_all_is_guessed(
    tmp_path: Path, leads: list[str], reason: str
) -> None:
    folder = tmp_path / "in"
    write_some(folder, 1, 2.0)
    with pytest.raises(LatentcastError, match=reason):
        ingest(folder, tmp_path / "out", leads=leads, quiet=True)
    np.save(tmp_path / "a.npy", np.zeros((1, 2, 600)))
    array = {"sampling_rate": 500, "unit": "mV", "layout": "records,leads,samples", "quiet": True}
    with pytest.raises(LatentcastError, match=reason):
        ingest(tmp_path / "a.npy", tmp_path / "out", leads=leads, **array)
    assert not (tmp_path / "out").exists()


def test_the_fix_is_a_command_that_does_not_exist(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 2, 600)))
    with pytest.raises(LatentcastError, match="--leads I,II,V1 --unit mV"):
        ingest(tmp_path / "a.npy", tmp_path / "out", quiet=True)
    sources = [
        p
        for part in ("data", "signals")
        for p in (Path(cli.__file__).parents[1] / part).rglob("*.py")
    ]
    named = {flag for p in sources for flag in re.findall(r"--[a-z][a-z-]*", p.read_text())}
    # What fits a store to a configuration speaks of train, quality flags of inspect.
    verbs = (cli.ingest, cli.label, cli.train, cli.inspect, cli.convert)
    flags = {"--" + name.replace("_", "-") for verb in verbs for name in verb.__annotations__}
    assert len(named) > 5 and named <= flags


# --- sums -----------------------------------------------------------------------------------------


def test_sums_of_a_record_of_a_day_are_rounded() -> None:
    counts = np.full((1, 12_000_002), 32767, dtype=np.int16)
    valid = np.ones(counts.shape, dtype=np.bool_)
    valid[0, 5] = False
    sums = ChannelSums.of(counts, valid)
    assert sums.samples == (12_000_001,)
    assert sums.total == (32767 * 12_000_001,)
    assert sums.squares == (32767**2 * 12_000_001,), "odd and beyond 2^53: no float64 holds it"
