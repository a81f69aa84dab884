"""Files that are whole or not there, and that stay in their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentcast.errors import LatentcastError
from latentcast.files import apart, inside


@pytest.mark.parametrize(
    "name",
    ["../beside", "deep/../here", "deep/../../beside", "/dev/zero", "link", "device", "through/x",
     "fifo", "deep", "", ".", "absent", "loop", "n\0ul", "x" * 300],
)  # fmt: skip
def test_a_file_name_cannot_leave_its_folder_nor_name_what_never_ends(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "here").touch()
    (tmp_path / "beside").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").touch()
    (folder / "link").symlink_to("../beside")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "through").symlink_to("../out")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    with pytest.raises(LatentcastError, match=r"folder(/absent)?: "):
        inside(folder, name)


def test_a_file_of_the_folder_and_a_link_within_it_are_found(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/x").touch()
    (tmp_path / "real/link").symlink_to("deep/x")
    (tmp_path / "moved").symlink_to("real")
    for name in ("deep/x", "./deep/x", "link"):
        assert inside(tmp_path / "moved", name).samefile(tmp_path / "real/deep/x")


def test_a_source_that_is_a_link_to_itself_is_left_to_who_reads_it(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    apart(tmp_path / "out", source=tmp_path / "loop")
