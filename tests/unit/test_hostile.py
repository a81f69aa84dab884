"""Files that were damaged, or made to do harm: one sentence each, and the others are read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED, write_some
from image_files import quarantine, write_classes
from PIL import Image

from conftest import REPOSITORY, WFDB
from latentcast import npy
from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.images.decode import Canvas, decode, measure
from latentcast.images.huggingface import HuggingFaceImages
from latentcast.signals.readers import packed, read_recording
from latentcast.signals.readers.numbers import integer, integral, number
from latentcast.source import BadRecord


@pytest.mark.parametrize("text", ["1_0", "٣", "-inf", "nan", "1e-320", "1e999", "0x1", "", "1 0"])
def test_what_python_takes_for_a_number_and_no_file_format_writes(text: str) -> None:
    for parse in (number, integer, integral):
        with pytest.raises(ValueError, match="is no|out of range"):
            parse(text)


def test_a_number_with_decimals_is_not_rounded_to_a_whole_one() -> None:
    assert integral("7.0") == 7 and number(" -1.5e2") == -150 and integer("+07") == 7
    for parse, text in (
        (integral, "1.9"),
        (integral, "1e17"),
        (integer, "7.0"),
        (integer, "1" * 19),
    ):
        with pytest.raises(ValueError, match="is no whole number"):
            parse(text)


def edited(folder: Path, file: str, old: str, new: str) -> Path:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return folder


@pytest.mark.parametrize(
    ("gain", "reason"),
    [("1e-320", "out of range"), ("1_0", "no decimal"), ("٣", "no decimal"), ("nan", "no decimal"),
     ("1000.0(1.9)", "no whole number")],
)  # fmt: skip
def test_a_gain_that_is_no_plain_number_is_refused(tmp_path: Path, gain: str, reason: str) -> None:
    write_some(tmp_path, 1)
    edited(tmp_path, "r000.hea", " 1000.0(0)/mV", f" {gain}/mV")
    with pytest.raises(BadRecord, match=f"gain .* cannot be read .*{reason}"):
        read_recording(tmp_path / "r000")


@pytest.fixture
def ptbxl(tmp_path: Path) -> Path:
    shutil.copytree(WFDB, tmp_path / "ptbxl")
    (tmp_path / "ptbxl" / "SHA256SUMS.txt").unlink()
    return tmp_path / "ptbxl"


def change_cell(folder: Path, column: str, text: str) -> None:
    """In the first row of PTB-XL's table."""
    table = folder / "ptbxl_database.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = text
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [("age", "-inf", "age '-inf' is no decimal"), ("strat_fold", "1.9", "strat_fold '1.9' is no"),
     ("ecg_id", "1_0", "ecg_id '1_0' is no"), ("scp_codes", "{'NORM': 1e999}", "no dict of code"),
     ("filename_lr", "../outside", "leads out of the folder"),
     ("filename_lr", "/dev/zero", "leads out of the folder"),
     ("filename_lr", "a\0b", "another control character")],
)  # fmt: skip
def test_a_row_of_the_table_that_lies_is_one_record_in_quarantine(
    tmp_path: Path, ptbxl: Path, column: str, text: str, reason: str
) -> None:
    shutil.copy(next(ptbxl.rglob("*_lr.hea")), tmp_path / "outside.hea")
    whole_store = ingest(ptbxl, tmp_path / "whole", fs=100, workers=1, quiet=True)
    change_cell(ptbxl, column, text)
    result = ingest(ptbxl, tmp_path / "out", fs=100, workers=1, quiet=True)
    assert result.records == whole_store.records - 1
    assert any(reason in found for found in quarantine(tmp_path / "out").values())


def test_links_and_pipes_in_place_of_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_some(folder, 4)
    (folder / "r000.dat").rename(tmp_path / "private.dat")
    (folder / "r000.dat").symlink_to("../private.dat")
    for name in ("r001.dat", "r002.hea"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    result = ingest(folder, tmp_path / "out", workers=1, quiet=True)
    reasons = quarantine(tmp_path / "out")
    assert result.records == 1 and "put the file itself in the place" in reasons["r000"]
    assert "no regular file" in reasons["r001"] and "no regular file" in reasons["r002"]


def test_an_image_that_is_a_link_out_of_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 6)
    (tmp_path / "in" / "digit 0" / "x.png").symlink_to("/dev/zero")
    # A data set may be put together of parts that lie elsewhere.
    (tmp_path / "in" / "digit 1").rename(tmp_path / "elsewhere")
    (tmp_path / "in" / "digit 1").symlink_to("../elsewhere")
    result = ingest(tmp_path / "in", tmp_path / "out", workers=1, quiet=True)
    assert result.records == 6
    assert "outside the folder" in quarantine(tmp_path / "out")["digit 0/x.png"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("state.json", {"_data_files": [{"filename": "../../x.arrow"}]}, "leads out of the folder"),
        ("state.json", {"_data_files": [{"filename": "/dev/zero"}]}, "leads out of the folder"),
        ("state.json", {"_data_files": [{"filename": 7}]}, "names no data files"),
        ("state.json", {"_data_files": 7}, "names no data files"),
        ("state.json", {"_data_files": [{"filename": "state.json"}] * 2}, "lists a file twice"),
        ("dataset_dict.json", {"splits": ["../other"]}, "leads out of the folder"),
        ("dataset_dict.json", {"splits": []}, "lists no files"),
    ],
)
def test_a_dataset_cannot_name_files_out_of_its_folder_or_none(
    tmp_path: Path, file: str, content: object, reason: str
) -> None:
    for folder in ("set", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(json.dumps(content))
    with pytest.raises(LatentcastError, match=reason):
        HuggingFaceImages(tmp_path / "set")


def _index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / packed.INDEX).read_text())
        change(index)
        (folder / packed.INDEX).write_text(json.dumps(index))

    return edit


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / packed.INDEX).write_text("[" * 10**5), "nested too deeply|cannot be read"),
        (_index(lambda index: index["parts"][0].update(records=-1)), "is no number of records"),
        (_index(lambda index: index.update(samples=10**12)), "unpack to more than"),
        (_index(lambda index: index.update(sampling_rate="1_0")), "no decimal number"),
    ],
)
def test_an_index_that_lies_is_a_sentence(
    tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    for name in (packed.INDEX, "ptbxl_database.csv"):
        shutil.copy(BUNDLED / name, tmp_path)
    change(tmp_path)
    with pytest.raises(LatentcastError, match=reason):
        open_source(tmp_path)


def test_a_part_that_unpacks_to_more_than_it_announces_is_not_unpacked() -> None:
    bomb = lzma.compress(bytes(2**24))
    assert len(bomb) < 2**14
    with pytest.raises(ValueError, match="does not hold"):
        packed.decode(bomb, 1, 10)


def _npz() -> bytes:
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    np.savez_compressed(file := io.BytesIO(), images=images)
    return file.getvalue()


def _bomb() -> bytes:
    file, header = io.BytesIO(), io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (300, 2**10, 2**10)}
    np.lib.format.write_array_header_1_0(header, shape)
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as member,
    ):
        member.write(header.getvalue())
        for _ in range(300):
            member.write(bytes(2**20))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _npz()[:-30],
        _npz()[:150] + b"damage" + _npz()[156:],
        b"PK\x03\x04",
        _bomb(),
    ],
    ids=["cut", "changed", "empty", "bomb"],
)
def test_a_damaged_array_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(LatentcastError, match="a.npz: .*(no readable array|cannot be read)"):
        source = open_source(tmp_path / "a.npz", "image")
        source.read(source.refs()[0])


@pytest.mark.parametrize("shape", ["(999999999999, 8, 8)", "(-4, 8, 8)", "(4, 8", "((((4, 8, 8)"])
def test_the_shape_of_an_array_is_checked_before_memory_is_taken(
    tmp_path: Path, shape: str
) -> None:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(256)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError):  # the reasons are numpy's
        npy.read_array(tmp_path / "a.npy", "a")
    with pytest.raises(LatentcastError, match="no readable array file"):
        open_source(tmp_path / "a.npy", "image")


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "png")
    with pytest.raises(BadRecord, match="more than .* pixels"):
        measure(file)
    with pytest.raises(BadRecord, match="more than .* pixels"):
        decode(file.getvalue(), Canvas(8, 8, 1, resize=True))


def test_a_header_that_announces_more_than_its_files_hold_takes_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("wfdb")
    lines = [f"a 1 100 {10**12}", "a.dat 212 1000(0)/mV 12 0 0 0 0 I"]
    (tmp_path / "a.hea").write_text("\n".join(lines))
    (tmp_path / "a.dat").write_bytes(bytes(300))
    with pytest.raises(BadRecord, match="is truncated, 300 bytes of"):
        read_recording(tmp_path / "a")


def test_a_name_that_no_file_can_have_is_a_traceback() -> None:
    with pytest.raises(BadRecord, match="too long"):
        read_recording("x" * 5000)


def test_a_wrong_rate_does_not_make_a_recording_of_a_million_times_its_length(
    tmp_path: Path,
) -> None:
    write_some(tmp_path / "in", 2)
    edited(tmp_path / "in", "r000.hea", "r000 12 500 ", "r000 12 0.0001 ")
    result = ingest(tmp_path / "in", tmp_path / "out", fs=100, workers=1, quiet=True)
    assert result.records == 1 and "which no ECG has" in quarantine(tmp_path / "out")["r000"]


def test_a_header_that_is_gone_and_in_the_list_of_checksums_is_noticed(tmp_path: Path) -> None:
    write_some(tmp_path / "in", 2)
    files = sorted((tmp_path / "in").iterdir())
    sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.name}\n" for file in files)
    (tmp_path / "in" / "SHA256SUMS.txt").write_text("".join(sums))
    (tmp_path / "in" / "r001.hea").unlink()
    ingest(tmp_path / "in", tmp_path / "out", workers=1, quiet=True)
    assert "header r001.hea is missing" in quarantine(tmp_path / "out")["r001"]


@pytest.mark.parametrize(
    "module", ["dev.fuzz.paths", pytest.param("dev.fuzz.runs", marks=pytest.mark.slow)]
)
def test_every_way_into_the_library_is_fed_with_changed_files(module: str) -> None:
    """``make fuzz`` with two changes a path: the harness itself still runs."""
    names = [path.name for path in import_module(module).PATHS]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-m", "dev.fuzz.run", *names, "--mutations", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"│ {name} " in done.stdout for name in names), done.stdout
