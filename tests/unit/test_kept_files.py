"""A path named by mistake costs nobody a table or a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import Command
from latentcast.artifacts.classifier import Predicted
from latentcast.artifacts.tables import write_predictions
from latentcast.data.writer import kind_of
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.workflows.train import train

ONE = Predicted(("a",), ("x,y",), np.ones((1, 1)), np.zeros((1, 1)), np.ones(1, dtype=np.int64))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_written_over_a_table_of_labels(tmp_path: Path, suffix: str) -> None:
    labels = tmp_path / f"labels.{suffix}"
    if suffix == "csv":
        labels.write_text("id,sinus\na,1\n")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"id": ["a"], "sinus": [1]}), labels)
    before = labels.read_bytes()
    with pytest.raises(LatentcastError, match="holds no predictions"):
        write_predictions(ONE, labels)
    assert labels.read_bytes() == before
    for _ in range(2):  # earlier predictions are replaced
        write_predictions(ONE, tmp_path / f"found.{suffix}")


def test_a_run_written_into_another_store(tmp_path: Path) -> None:
    for name in ("manifest.json", "index.npz"):
        (tmp_path / name).write_text("")
    with pytest.raises(LatentcastError, match="is a store; choose another --out"):
        train(recipe("nepa-ecg-tiny"), tmp_path / "other", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_export_or_a_picture_written_over_another_file(
    command: Command, small_run: Path, small_store: Path, tmp_path: Path
) -> None:
    for name, arguments in (
        ("x.safetensors", ("export", small_run, "--out")),
        ("x.png", ("inspect", small_store, "--plot")),
        ("x.pdf", ("masks", "ijepa-ecg-tiny", "--out")),
    ):
        file = tmp_path / name
        file.write_text("of somebody else")
        refused = command(*arguments, file)
        assert refused.status == 2 and f"{file}: exists and " in refused.err
        assert file.read_text() == "of somebody else"
        file.unlink()
        for _ in range(2):
            assert command(*arguments, file).status == 0


def test_a_run_written_among_recordings(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "slurm-1.out").touch()
    (tmp_path / "a.hea").touch()
    with pytest.raises(LatentcastError, match=r"holds no run \(but a.hea\); choose an empty"):
        train(recipe("nepa-ecg-tiny"), small_store, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_reason_of_a_quarantine_is_the_name_of_a_file() -> None:
    assert kind_of("r 1.dat: is truncated, 50 bytes of 120") == "is truncated, … bytes of …"
    assert kind_of("is no image (a.png: x)") == "is no image"
