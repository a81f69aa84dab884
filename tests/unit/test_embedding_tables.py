"""Tables of embeddings: the vectors of the encoder with ids, patients and splits; a killed call
goes on; what is nearest."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from conftest import WFDB, Command
from latentcast.artifacts.embeddings import Embeddings
from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.locks import locked
from latentcast.workflows import embed_sources as workflow
from latentcast.workflows.embed import embed
from latentcast.workflows.similar import similar


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_a_table_has_other_vectors_patients_or_splits_than_its_sources(
    suffix: str, small_run: Path, small_store: Path, tmp_path: Path, command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(workflow, "RECORDS", 7)
    store, out = Store.open(small_store), tmp_path / f"e.{suffix}"
    file = WFDB / "records100" / "00000" / "00002_lr.hea"
    answer = command("embed", small_run, small_store, WFDB, file, "--out", out, "--layer", "joined")
    assert answer.status == 0, answer.err
    table, encoder = Embeddings.read(out), Encoder.from_pretrained(small_run)
    vectors = encoder.embed(small_store, "joined")
    np.testing.assert_allclose(table.vectors[: len(store)], vectors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.vectors[len(store) : -1], vectors, rtol=1e-4, atol=1e-5)
    assert table.ids.tolist() == [*store.record_ids.tolist()] * 2 + ["00002_lr"]
    for part in (slice(0, len(store)), slice(len(store), -1)):
        assert table.patients[part].tolist() == store.patient_ids.tolist()
        for split in ("train", "validation", "test"):
            assert np.flatnonzero(table.splits[part] == split).tolist() == [*store.rows(split)]
    assert not (tmp_path / f"e.{suffix}.parts").exists()
    if suffix == "csv":
        with out.open() as stream:
            rows = list(csv.DictReader(stream))
        assert float(rows[0]["age"]) == store.metadata(0)["age"]
    assert command("embed", small_run, WFDB, "--out", out).status == 0, "it is replaced"


def test_a_killed_embedding_begins_again_or_mixes_two_calls(
    small_run: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "RECORDS", 4)
    whole, out = tmp_path / "whole.csv", tmp_path / "e.csv"
    embed(small_run, small_store, whole, quiet=True)
    rows: list[Any] = []
    embedded = Encoder.embed

    def killed(self: Encoder, *x: Any, **how: Any) -> Any:
        rows.append(how["rows"])
        if len(rows) == 3:
            raise KeyboardInterrupt
        return embedded(self, *x, **how)

    monkeypatch.setattr(Encoder, "embed", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(small_run, small_store, out, quiet=True)
    assert not out.exists()
    with pytest.raises(LatentcastError, match=r"e.csv.parts: .*another pooling"):
        embed(small_run, small_store, out, pooling="max", quiet=True)
    embed(small_run, small_store, out, quiet=True)
    assert rows[2] == rows[3] == [8, 9, 10, 11], "the first two parts were there"
    assert out.read_bytes() == whole.read_bytes()


def test_files_that_changed_after_a_kill_go_unnoticed_or_two_calls_write_one_table(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = shutil.copytree(WFDB, tmp_path / "in"), tmp_path / "e.csv"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "embed", Mock(side_effect=KeyboardInterrupt))
        embed(small_run, folder, out, quiet=True)
    os.utime(next(folder.rglob("*.dat")), (0, 0))
    with pytest.raises(LatentcastError, match="another records"):
        embed(small_run, folder, out, quiet=True)
    with locked(tmp_path / ".e.csv.lock"), pytest.raises(LatentcastError, match="being written"):
        embed(small_run, folder, out, quiet=True)


def test_one_bad_file_ends_an_embedding_or_goes_unlisted(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(workflow, "RECORDS", 2)
    shutil.copytree(WFDB, tmp_path / "ecgs")
    for file in sorted((tmp_path / "ecgs").rglob("*_lr.dat"))[:3]:
        file.write_bytes(file.read_bytes()[:100])
    answer = command("embed", small_run, tmp_path / "ecgs", "--out", tmp_path / "e.npz")
    assert answer.status == 0 and "3 records left out" in answer.out
    with (tmp_path / "e.rejected.csv").open() as stream:
        bad = [row["record"] for row in csv.DictReader(stream)]
    assert len(bad) == 3 and not {*bad} & {*Embeddings.read(tmp_path / "e.npz").ids.tolist()}
    (tmp_path / "labels.csv").write_text("id,AF\n1,0\n")
    answer = command("embed", small_run, WFDB, "--out", tmp_path / "labels.csv")
    assert "holds no embeddings" in answer.err


def test_images_have_no_table(digits_store: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    short = ("train.steps=2", "train.batch_size=8", "optimizer.warmup_steps=1")
    where = ("--data", digits_store, "--out", run)
    assert command("train", "ijepa-image-digits", *where, "--set", *short).status == 0
    made = embed(run, digits_store, tmp_path / "e.npz", quiet=True)
    store = Store.open(digits_store)
    assert Embeddings.read(made.file).splits.tolist().count("test") == len(store.rows("test"))
    with pytest.raises(LatentcastError, match="trained on images; leave out"):
        embed(run, digits_store, tmp_path / "f.npz", unit="mV", quiet=True)


def test_what_is_nearest_is_not_or_is_the_query_itself(
    small_run: Path, small_store: Path, tmp_path: Path, command: Command
) -> None:
    encoder, out = Encoder.from_pretrained(small_run), tmp_path / "near.csv"
    file, table = WFDB / "records100" / "00000" / "00002_lr.hea", tmp_path / "e.csv"
    embed(small_run, small_store, table, quiet=True)
    for source in (table, small_store):
        answer = command("similar", small_run, file, "--in", source, "--k", 3, "--out", out)
        assert answer.status == 0 and "1 with the very vector" in answer.out
        with out.open() as stream:
            rows = list(csv.DictReader(stream))
        vectors = encoder.embed(small_store).astype(np.float64)
        store = Store.open(small_store)
        query = vectors[store.row_of("00002")]
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        order = np.argsort(-cosines)[1:4]
        assert [row["id"] for row in rows] == store.record_ids[order].tolist()
        assert [row["patient"] for row in rows] == store.patient_ids[order].tolist()
        found = [float(row["cosine"]) for row in rows]
        np.testing.assert_allclose(found, cosines[order], atol=1e-5)
    shutil.copy(table, other := tmp_path / "other.csv")
    answer = command("similar", small_run, file, "--in", table, "--out", other)
    assert "holds no neighbours; name another file" in answer.err
    embed(small_run, small_store, tmp_path / "max.npz", pooling="max", quiet=True)
    with pytest.raises(LatentcastError, match="pooling max, not mean"):
        similar(small_run, file, tmp_path / "max.npz")
