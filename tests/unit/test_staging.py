"""A store on the node's own disk: copied once, complete or not at all, checked on arrival."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from latentcast.data.staging import staged
from latentcast.data.store import Store
from latentcast.errors import LatentcastError


@pytest.fixture
def store(small_store: Path, tmp_path: Path) -> Path:
    return copytree(small_store, tmp_path / "store")


def test_the_copy_is_the_store(store: Path, digits_store: Path, tmp_path: Path) -> None:
    local = Store.open(staged(store, tmp_path / "local"))
    local.verify()
    original = Store.open(store)
    assert local.checksums == original.checksums
    assert np.array_equal(local.take([0, 5]), original.take([0, 5]))
    assert local.metadata(3) == original.metadata(3)
    images = Store.open(staged(digits_store, tmp_path / "local"))
    images.verify()
    assert images.path.parent == local.path.parent and images.path != local.path


def test_a_copy_that_is_there_is_used_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = staged(store, tmp_path / "local")
    monkeypatch.setattr(shutil, "copyfile", lambda *_: pytest.fail("copied again"))
    assert staged(store, tmp_path / "local") == local


def test_two_stores_of_one_name_do_not_clash(
    store: Path, digits_store: Path, tmp_path: Path
) -> None:
    other = copytree(digits_store, tmp_path / "other" / "store")
    first, second = (staged(path, tmp_path / "local") for path in (store, other))
    assert Store.open(first).checksums != Store.open(second).checksums


@pytest.mark.parametrize("fault", ["a shard is gone", "a shard is cut short", "a draft is left"])
def test_a_copy_that_is_not_whole_is_made_anew(fault: str, store: Path, tmp_path: Path) -> None:
    local = staged(store, tmp_path / "local")
    shard = local / "shard-00000.npy"
    if fault == "a shard is gone":
        shard.unlink()
    elif fault == "a shard is cut short":
        os.truncate(shard, 1000)
    else:
        local.rename(local.with_name(f".{local.name}.partial"))
    assert staged(store, tmp_path / "local") == local
    Store.open(local).verify()
    assert {path.name for path in local.parent.iterdir()} == {local.name, f".{local.name}.lock"}


def test_a_copy_that_was_damaged_since_is_used_again(store: Path, tmp_path: Path) -> None:
    shard = np.load(staged(store, tmp_path / "local") / "shard-00000.npy", mmap_mode="r+")
    shard[500, 0] += 9000
    shard.flush()
    with pytest.raises(LatentcastError, match=r"is damaged .*remove .*copies it anew"):
        staged(store, tmp_path / "local")


def test_a_damaged_store_is_not_staged(store: Path, tmp_path: Path) -> None:
    shard = store / "shard-00000.npy"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(LatentcastError, match=f"{shard}: is damaged"):
        staged(store, tmp_path / "local")
    assert not [path for path in (tmp_path / "local").iterdir() if path.suffix != ".lock"]


def test_a_disk_that_garbles_the_copy_is_blamed_and_not_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def garble(source: Path, target: Path) -> None:
        content = bytearray(Path(source).read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr(shutil, "copyfile", garble)
    with pytest.raises(LatentcastError, match="the store, which is intact.*check that disk"):
        staged(store, tmp_path / "local")


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_is_named_and_nothing_is_left(
    when: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if when == "before":
        usage = namedtuple("usage", "total used free")(10, 9, 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    else:

        def full(source: Path, target: Path) -> None:
            target.write_bytes(b"some")
            raise OSError(errno.ENOSPC, "No space left on device", str(target))

        monkeypatch.setattr(shutil, "copyfile", full)
    problem = "GB are free" if when == "before" else "No space left on device"
    with pytest.raises(LatentcastError, match=f"machine.stage .*{problem}.*free space there"):
        staged(store, tmp_path / "local")
    assert not [path for path in (tmp_path / "local").iterdir() if path.suffix != ".lock"]


def test_a_folder_that_cannot_be_made_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LatentcastError, match="machine.stage .*file/local: .*name another folder"):
        staged(store, tmp_path / "file" / "local")


SCRIPT = """
import shutil, sys, time
from pathlib import Path
from latentcast.data.staging import staged
copyfile = shutil.copyfile
def slowly(source, target):
    print("copies", flush=True)
    time.sleep({seconds})
    return copyfile(source, target)
shutil.copyfile = slowly
print(staged(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def rank(store: Path, local: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SCRIPT.format(seconds=seconds), str(store), str(local)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_of_several_ranks_one_copies_and_the_others_wait(store: Path, tmp_path: Path) -> None:
    ranks = [rank(store, tmp_path / "local", 0.2) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in ranks]
    assert all(process.returncode == 0 for process in ranks)
    assert len({words[-1] for words in outputs}) == 1
    assert sorted(words.count("copies") for words in outputs) == [0, 4]
    Store.open(outputs[0][-1]).verify()


def test_a_rank_killed_while_it_copies_leaves_the_next_one_to_do_it(
    store: Path, tmp_path: Path
) -> None:
    first = rank(store, tmp_path / "local", 60)
    assert first.stdout is not None and first.stdout.readline() == "copies\n"
    second = rank(store, tmp_path / "local", 0)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    output, _ = second.communicate(timeout=120)
    Store.open(output.split()[-1]).verify()


def test_the_files_of_a_store_are_all_that_reading_needs(store: Path) -> None:
    files = {path.name for path in store.iterdir()} - {"quarantine.csv", "manifest.json"}
    assert set(Store.open(store).files) == files
