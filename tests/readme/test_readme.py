"""Every command and every snippet of the README runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import BUNDLED, REPOSITORY
from latentcast.signals.readers import open_source
from unit.ecg_files import write_wfdb

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: 300 recordings in PTB-XL's layout, an array, the parity files."""
    home = tmp_path_factory.mktemp("readme")
    source = open_source(BUNDLED)
    for ref in source.refs()[:300]:
        recording, annotation = source.read(ref)
        file = home / "my-ecgs" / annotation.metadata["filename_lr"]
        write_wfdb(file.parent, recording, file.name)
    table = BUNDLED / "ptbxl_database.csv"
    rows = table.read_text().splitlines(keepends=True)[:301]
    (home / "my-ecgs" / table.name).write_text("".join(rows))
    (home / "tests").symlink_to(REPOSITORY / "tests")
    (home / "digits.npz").symlink_to(REPOSITORY / "data" / "digits" / "digits.npz")
    generator = np.random.default_rng(0)
    np.save(home / "ecgs.npy", generator.normal(0, 0.3, (20, 1000, 12)).astype(np.float32))
    return home


def in_order() -> list[tuple[str, str]]:
    found = []
    for language, text in BLOCKS:
        if language == "python":
            found.append(("python", text))
        elif language == "bash":
            lines = [line.split(" #")[0].strip() for line in text.splitlines()]
            found += [("bash", line) for line in lines if line]
    return found


def test_readme_in_its_order(folder: Path) -> None:
    commands = in_order()
    assert len(commands) > 8
    for kind, text in commands:
        if kind == "python":
            arguments = [sys.executable, "-c", text]
        else:
            program, *rest = shlex.split(text)
            modules = {"latentcast": "latentcast", "torchrun": "torch.distributed.run"}
            arguments = [sys.executable, "-m", modules[program], *rest]
        done = subprocess.run(
            arguments, cwd=folder, capture_output=True, text=True,
            env={**os.environ, "COLUMNS": "160"},
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    for name in (
        "first.png", "run/report.html", "run/probe-superdiagnostic.json", "masks.png",
        "hjepa/probe-superdiagnostic.json", "digits-run/probe-classes.json",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 1000


def test_inline_commands_name_verbs_that_exist() -> None:
    from latentcast import cli

    for verb in re.findall(r"`latentcast (\w+)", README):
        assert hasattr(cli, verb)


def test_the_number_of_claims_is_that_of_the_library() -> None:
    from latentcast.verification import claims

    told = " ".join(README.split())
    assert f"one of the {len(claims.all_claims())} claims" in told


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (REPOSITORY / link).exists(), link


@pytest.mark.slow
def test_make_demo_from_a_clean_copy(tmp_path: Path) -> None:
    """The whole demo; the environment of this test run serves as its .venv."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, tracked):
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
    (tmp_path / "copy" / ".venv").mkdir()
    (tmp_path / "copy" / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "copy" / ".venv" / "installed").touch()
    done = subprocess.run(["make", "demo"], cwd=tmp_path / "copy", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "copy" / "demo" / "run" / "report.html").exists()
