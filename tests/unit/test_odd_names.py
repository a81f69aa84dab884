"""What a real folder holds beside its records stops no ingest and breaks no table."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecg_files import write_some
from image_files import coloured, digits, write_classes
from PIL import Image

from conftest import WFDB, Command
from latentcast.data.store import Store

NAMES = {
    "not utf-8": b"bad\xff\xfe",
    "newline": b"new\nline",
    "escape": b"\x1b[31mred\x07",
    "markup": b"[bold]x[link=u] <b>&amp;",
    "comma": b'a,"b";c',
    "spaces": b" . ",
    "long": b"x" * 240,
    "separator": "a\u2028b\u00a0\u202e".encode(),
}
EMPTY = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._x{}", "._x{}", "empty{}")


def zoo(folder: Path, suffix: str, good: Path) -> None:
    """Beside the records of ``folder``."""
    for name in EMPTY:
        file = folder / name.format(suffix)
        file.parent.mkdir(exist_ok=True)
        file.touch()
    for name in NAMES.values():
        shutil.copy(good, folder / (os.fsdecode(name) + suffix))
    (folder / f"folder{suffix}").mkdir()
    (folder / f"gone{suffix}").symlink_to("nowhere")
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / f"pipe{suffix}")
    shutil.copy(good, folder / f"unreadable{suffix}")
    (folder / "locked").mkdir()
    shutil.copy(good, folder / "locked" / f"inside{suffix}")


@pytest.fixture(autouse=True)
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read everything."""
    opened, scanned = io.open, os.scandir

    def open_(file: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and Path(os.fsdecode(file)).stem == "unreadable":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    def scandir(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(os.fsdecode(path)).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scanned(path)

    monkeypatch.setattr(io, "open", open_)
    monkeypatch.setattr(os, "scandir", scandir)


def recordings(folder: Path) -> tuple[Path, Path, str]:
    write_some(folder, 3, 2.0)
    return folder, folder / "r000.hea", ".hea"


def ptbxl(folder: Path) -> tuple[Path, Path, str]:
    shutil.copytree(WFDB, folder, ignore=shutil.ignore_patterns("records500"))
    inside = folder / "records100" / "00000"
    return inside, inside / "00001_lr.hea", ".hea"


def images(folder: Path) -> tuple[Path, Path, str]:
    write_classes(folder, 12)
    return folder / "digit 0", folder / "digit 0" / "0000.png", ".png"


def classes(folder: Path) -> tuple[Path, Path, str]:
    """Folders with such names."""
    write_classes(folder, 12)
    for name in NAMES.values():
        (folder / os.fsdecode(name)).mkdir()
        shutil.copy(folder / "digit 1" / "0001.png", folder / os.fsdecode(name) / "copy.png")
    return folder / "digit 0", folder / "digit 0" / "0000.png", ".png"


def array(folder: Path) -> tuple[Path, Path, str]:
    folder.mkdir()
    np.save(folder / "ecgs.npy", np.random.default_rng(0).normal(size=(3, 2, 500)))
    (folder / "ecgs.csv").mkdir()
    return folder, folder / "ecgs.npy", ".npy"


def image_array(folder: Path) -> tuple[Path, Path, str]:
    folder.mkdir()
    np.savez(folder / "x.npz", images=digits()[0][:12])
    return folder, folder / "x.npz", ".npz"


def parquet(folder: Path) -> tuple[Path, Path, str]:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    pictures = []
    for image in digits()[0][:12]:
        file = io.BytesIO()
        Image.fromarray(coloured(image)).save(file, "png")
        pictures.append(file.getvalue())
    table = pa.table({"image": pa.array(pictures, pa.binary()), "label": list(range(12))})
    pq.write_table(table, folder / "part-0.parquet")
    return folder, folder / "part-0.parquet", ".parquet"


def shards(folder: Path) -> tuple[Path, Path, str]:
    folder.mkdir()
    with tarfile.open(folder / "part-0.tar", "w") as tar:
        for name in [f"{n}.png".encode() for n in range(12)] + [b"in" + n for n in NAMES.values()]:
            file = io.BytesIO()
            Image.fromarray(digits()[0][len(tar.members)]).save(file, "png")
            info = tarfile.TarInfo(os.fsdecode(name.removesuffix(b".png")) + ".png")
            info.size = file.tell()
            file.seek(0)
            tar.addfile(info, file)
    return folder, folder / "part-0.tar", ".tar"


def archive(folder: Path) -> tuple[Path, Path, str]:
    return images(folder)


ARRAY = ("--sampling-rate", "100", "--unit", "mV", "--layout", "records,leads,samples")
OPTIONS: dict[Callable[[Path], tuple[Path, Path, str]], tuple[str, ...]] = {
    recordings: (), ptbxl: (), images: (), classes: (), array: (*ARRAY, "--leads", "I,II"),
    image_array: (), parquet: (), shards: (), archive: (),
}  # fmt: skip


@pytest.mark.parametrize("make", OPTIONS, ids=lambda make: make.__name__)
def test_an_odd_name_stops_an_ingest_or_passes_unseen(
    make: Callable[[Path], tuple[Path, Path, str]], tmp_path: Path, command: Command
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    beside, good, suffix = make(folder)
    source = good if suffix in (".npy", ".npz") else folder
    assert command("ingest", source, "--out", tmp_path / "plain", *OPTIONS[make]).status == 0
    zoo(beside, suffix, good)
    if make is archive:
        source = tmp_path / "x.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(folder, "in", filter=lambda info: None if "locked" in info.name else info)
    answers = [
        command("ingest", source, "--out", out, *OPTIONS[make]),
        command("ingest", source, "--out", out, *OPTIONS[make]),
        command("inspect", out),
    ]
    for answer in answers:
        assert answer.status == 0, answer
        assert not set(answer.out + answer.err) & {"\x1b", "\x07"}, answer
    plain, store = Store.open(tmp_path / "plain"), Store.open(out)
    store.verify()
    json.loads((out / "manifest.json").read_text("utf-8"))
    with (out / "quarantine.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    copies = {row["record"] for row in rows if row["reason"].startswith("duplicate record: same")}
    if make in (shards, parquet):  # an id there depends on the other files of the data set
        assert len(store) >= len(plain)
    else:
        assert set(plain.record_ids.tolist()) <= {*store.record_ids.tolist(), *copies}
    assert store.manifest.provenance["listed"] == len(store) + len(rows)
    if suffix in (".npy", ".npz"):
        assert not rows
        return
    listed = " ".join(str(row) for row in [*rows, *store.record_ids.tolist()])
    for name in ("unreadable", "gone", "loop", "pipe", "locked", "empty"):
        if make is not archive or name in ("empty", "gone", "pipe"):
            assert name in listed, f"{name} passed unseen"
    assert "bad\\xff" in listed or "bad\\\\udcff" in listed
