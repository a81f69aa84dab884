"""The command line as a user meets it: fast help, errors with a mend and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import WFDB
from latentcast import cli

PARITY = Path(__file__).parents[1] / "parity" / "nepa_ecg.safetensors"


def latentcast(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latentcast", *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, latentcast.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    start = time.perf_counter()
    answer = latentcast("--help")
    assert answer.returncode == 0 and time.perf_counter() - start < 10
    for verb in ("ingest", "inspect", "recipes", "train", "probe", "report", "verify"):
        assert verb in answer.stdout


def test_importing_needs_no_optional_package() -> None:
    """design.md law 8: torchvision, timm and transformers are on no path; extras are lazy."""
    code = (
        "import sys; from latentcast import Encoder, Store, recipe, ingest, train;"
        "heavy = {'torchvision', 'timm', 'transformers', 'sklearn', 'matplotlib', 'wfdb', 'scipy'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_recipes_are_listed_and_printed() -> None:
    assert "nepa-ecg-small" in latentcast("recipes").stdout
    assert "warmup_steps: 10000" in latentcast("recipes", "nepa-ecg-small").stdout


def test_verify_prints_differences_and_exits_zero_only_when_all_agree(tmp_path: Path) -> None:
    good = latentcast("verify", "--parity", PARITY)
    assert good.returncode == 0 and "62 of 62 quantities agree" in good.stdout
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(PARITY, "pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(PARITY)
    tensors["output.loss"] += 1e-3
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    bad = latentcast("verify", "--parity", PARITY, tmp_path / "bad.safetensors")
    assert bad.returncode == 1
    assert "DIFFERS" in bad.stdout and "61 of 62 quantities agree" in bad.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "nepa-ecg-smal", "--data", "x", "--out", "y"), "did you mean 'nepa-ecg-small'"),
        (("train", "nepa-ecg-tiny", "--data", "nowhere", "--out", "y"), "nowhere"),
        (("train", "--data", "x", "--out", "y"), "needs a recipe or --config"),
        (("train", "nepa-ecg-tiny", "--data", "x", "--out", "y", "--set", "train.step=3"),
         "did you mean 'steps'"),
        (("train", "nepa-ecg-tiny", "--config", "gone.yaml", "--data", "x", "--out", "y"),
         "gone.yaml: does not exist"),
        (("probe", "nowhere", "--data", "x"), "nowhere"),
        (("report", "nowhere", "--data", "x"), "nowhere"),
        (("inspect", "nowhere"), "nowhere"),
        (("ingest", "nowhere", "--out", "y"), "nowhere: does not exist"),
        (("verify", "--parity"), "nothing to compare"),
        (("verify", "--parity", "nowhere.safetensors"), "nowhere.safetensors: cannot be read"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_names_the_thing(
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["latentcast", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:  # and no other exception, which would be a traceback
        cli.main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and words in told
    assert told.startswith("latentcast: ") and told.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_named(small_store: Path, tmp_path: Path) -> None:
    for picture in (tmp_path / "first.xyz", tmp_path / "nowhere" / "first.png"):
        answer = latentcast("inspect", small_store, "--plot", picture)
        assert answer.returncode == 2 and "Traceback" not in answer.stderr
        assert f"{picture}: cannot be written" in answer.stderr


def test_an_empty_folder_and_an_unwritable_output_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = latentcast("ingest", tmp_path / "empty", "--out", tmp_path / "store")
    assert empty.returncode == 2 and "holds no records" in empty.stderr
    (tmp_path / "file").write_text("in the way")
    blocked = latentcast("ingest", WFDB / "records100", "--out", tmp_path / "file" / "store")
    assert blocked.returncode == 2 and "Traceback" not in blocked.stderr
    assert str(tmp_path / "file") in blocked.stderr
