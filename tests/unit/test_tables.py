"""A damaged table beside the records costs the damaged rows, or is named: file, line, fix."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED, write_wfdb

from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.signals.readers.roles import Roles
from latentcast.signals.synthetic import synthetic_recording

HEADER = "ecg_id,patient_id,scp_codes,strat_fold,filename_lr,filename_hr\n"
ARRAY = {"sampling_rate": 500, "leads": ["V1"], "unit": "mV", "layout": "records,leads,samples"}


def write_ptbxl(folder: Path, second_row: str) -> Path:
    """Two records; the row of the second is given."""
    for i in (1, 2):
        write_wfdb(folder / "r", synthetic_recording(seed=i), str(i))
    (folder / "ptbxl_database.csv").write_text(HEADER + "1,7,{'SR': 0.0},2,,r/1\n" + second_row)
    return folder


def reasons(store: Path) -> dict[str, str]:
    with (store / "quarantine.csv").open(newline="") as file:
        return {row["record"]: row["reason"] for row in csv.DictReader(file)}


BAD_CODES = {
    "a likelihood of None": "{'NORM': None}",
    "a likelihood beyond any number": "{'NORM': 1" + "0" * 400 + "}",
    "a list for a key": "{[1]: 2.0}",
    "no dict": "oops",
    "brackets beyond the parser's depth": "[" * 3000 + "]" * 3000,
    "signs beyond the interpreter's depth": "{1: " + "-" * 100_000 + "1}",
}


@pytest.mark.parametrize("cell", BAD_CODES.values(), ids=BAD_CODES.keys())
def test_codes_that_cannot_be_read_end_the_whole_ingest(tmp_path: Path, cell: str) -> None:
    folder = write_ptbxl(tmp_path / "in", f'2,8,"{cell}",3,,r/2\n')
    store = ingest(folder, tmp_path / "out", quiet=True).store
    assert store.record_ids.tolist() == ["00001"]
    assert "ptbxl_database.csv line 3: scp_codes" in reasons(tmp_path / "out")["line 3"]


@pytest.mark.parametrize(
    "row",
    ["2", "2,8", "2,8,{'SR': 0.0}", "2,8,{'SR': 0.0},3,", "2,8,{'SR': 0.0},3,,r/2,surplus"],
)
def test_a_row_with_too_few_or_too_many_cells_ends_the_whole_ingest(
    tmp_path: Path, row: str
) -> None:
    folder = write_ptbxl(tmp_path / "in", row)
    store = ingest(folder, tmp_path / "out", quiet=True).store
    assert store.record_ids.tolist() == ["00001"]
    assert "line 3: has" in reasons(tmp_path / "out")["line 3"]


@pytest.mark.parametrize("row", ["inf,8,{},3,,r/2", "2,inf,{},3,,r/2", "2,8,{},inf,,r/2"])
def test_an_infinite_number_ends_the_whole_ingest(tmp_path: Path, row: str) -> None:
    folder = write_ptbxl(tmp_path / "in", row)
    assert ingest(folder, tmp_path / "out", quiet=True).records == 1
    assert "line 3" in reasons(tmp_path / "out")


@pytest.mark.parametrize("cell", BAD_CODES.values(), ids=BAD_CODES.keys())
def test_codes_of_an_array_that_cannot_be_read_end_the_whole_ingest(
    tmp_path: Path, cell: str
) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(3, 1, 600)))
    (tmp_path / "a.csv").write_text(f'fold,scp_codes\n1,{{}}\n2,"{cell}"\n3,{{}}\n')
    store = ingest(tmp_path / "a.npy", tmp_path / "out", quiet=True, **ARRAY).store
    assert store.folds.tolist() == [1, 3]
    assert "its metadata row" in reasons(tmp_path / "out")["a-000001"]


@pytest.mark.parametrize("row", ["2", "2,{},x"])
def test_a_row_of_an_array_with_too_few_or_too_many_cells_loses_its_meaning(
    tmp_path: Path, row: str
) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(2, 1, 600)))
    (tmp_path / "a.csv").write_text(f"fold,scp_codes\n1,{{}}\n{row}\n")
    store = ingest(tmp_path / "a.npy", tmp_path / "out", quiet=True, **ARRAY).store
    assert store.folds.tolist() == [1]
    assert "cells" in reasons(tmp_path / "out")["a-000001"]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"ecg_id\xff\n", (HEADER + '1,"' + "x" * 200_000).encode()]
)
def test_a_table_that_is_no_csv_is_a_traceback(tmp_path: Path, content: bytes) -> None:
    folder = write_ptbxl(tmp_path / "in", "")
    (folder / "ptbxl_database.csv").write_bytes(content)
    with pytest.raises(LatentcastError, match=r"ptbxl_database\.csv: .*; "):
        ingest(folder, tmp_path / "out", quiet=True)
    np.save(tmp_path / "a.npy", np.zeros((1, 1, 600)))
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(LatentcastError, match=r"a\.csv: .*; "):
        ingest(tmp_path / "a.npy", tmp_path / "out", quiet=True, **ARRAY)


def packed_copy(folder: Path) -> Path:
    """The index and table of the carried ECGs; no part."""
    folder.mkdir()
    for name in ("signals.json", "ptbxl_database.csv"):
        shutil.copy(BUNDLED / name, folder / name)
    return folder


def test_a_packed_folder_without_its_table_is_a_traceback(tmp_path: Path) -> None:
    folder = packed_copy(tmp_path / "in")
    (folder / "ptbxl_database.csv").unlink()
    with pytest.raises(LatentcastError, match=r"ptbxl_database.csv. is missing; restore"):
        open_source(folder)


@pytest.mark.parametrize("key", ["parts", "samples", "sampling_rate"])
def test_a_packed_folder_with_half_an_index_is_a_traceback(tmp_path: Path, key: str) -> None:
    folder = packed_copy(tmp_path / "in")
    index = json.loads((folder / "signals.json").read_text())
    del index[key]
    (folder / "signals.json").write_text(json.dumps(index))
    with pytest.raises(LatentcastError, match=rf"signals\.json: .*{key}.*; restore"):
        open_source(folder)


def test_a_bad_row_of_a_packed_table_ends_the_whole_ingest(tmp_path: Path) -> None:
    folder = packed_copy(tmp_path / "in")
    lines = (folder / "ptbxl_database.csv").read_text().splitlines(keepends=True)
    lines[1], lines[-1] = "x" + lines[1], lines[-1][:20]
    (folder / "ptbxl_database.csv").write_text("".join(lines))
    refs = open_source(folder).refs()
    assert len(refs) == 2980
    bad = [ref for ref in refs if ref.problem is not None]
    assert [ref.record_id for ref in bad] == ["line 2", "line 2981"]
    assert "line 2: " in str(bad[0].problem) and "cells" in str(bad[1].problem)


@pytest.mark.parametrize("line", ["damaged", "damaged  r/a.dat", f"{'0' * 63}g  r/a.dat"])
def test_a_damaged_line_of_checksums_is_a_traceback(tmp_path: Path, line: str) -> None:
    write_wfdb(tmp_path / "r", synthetic_recording(), "a")
    (tmp_path / "SHA256SUMS.txt").write_text(f"{'0' * 64}  r/b.dat\n\n{line}\n")
    with pytest.raises(LatentcastError, match=r"SHA256SUMS\.txt line 3: .*; restore.* or remove"):
        open_source(tmp_path)


def test_checksums_that_are_no_text_are_a_traceback(tmp_path: Path) -> None:
    write_wfdb(tmp_path / "r", synthetic_recording(), "a")
    (tmp_path / "SHA256SUMS.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LatentcastError, match=r"SHA256SUMS\.txt: cannot be read .*; restore"):
        open_source(tmp_path)


PEOPLE = ["patient_id,labels,qrs", *(f"p{i // 3},MI,{i}.5" for i in range(30))]


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        ("utf-8-sig", lambda line: line),
        ("utf-16", lambda line: line.replace(",", "\t")),
        ("utf-8", lambda line: line.replace(",", ";").replace(".", ",")),
        ("utf-8", lambda line: line.replace(",", ", ")),
        ("utf-8", lambda line: line.replace(",", "|").replace("patient_id", "Subject ID")),
        ("utf-8", lambda line: line.replace("patient_id", "PatientNo").replace("labels", "Labels")),
        ("utf-8", lambda line: line.replace("patient", "sep=;\npatient").replace(",", ";")),
    ],
    ids=["byte order mark", "wide", "decimal comma", "blank", "subject", "case", "sep="],
)
def test_a_table_of_another_dialect_loses_patients(
    tmp_path: Path, encoding: str, change: Callable[[str], str]
) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(30, 1, 1000)))
    (tmp_path / "e.csv").write_text("\n".join(map(change, PEOPLE)), encoding=encoding)
    store = ingest(tmp_path / "e.npy", tmp_path / "out", workers=1, quiet=True, **ARRAY).store
    assert store.patients == 10 and store.labels.counts() == {"MI": 30}
    assert store.metadata(4)["qrs"] == "4.5"
    people = [set(store.patient_ids[store.rows(split)]) for split in store.manifest.splits]
    assert sum(map(len, people)) == 10


@pytest.mark.parametrize("nobody", ["unknown", "nan", "#N/A", "---", "Anonymous"])
def test_all_whose_patient_is_unknown_are_one_patient(tmp_path: Path, nobody: str) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(30, 1, 1000)))
    rows = [f"{nobody if i < 20 else i // 2},MI" for i in range(30)]
    (tmp_path / "e.csv").write_text("\n".join(["patient_id,labels", *rows]))
    store = ingest(tmp_path / "e.npy", tmp_path / "out", workers=1, quiet=True, **ARRAY).store
    assert store.patients == 25 and not any(store.patient_ids[:20])


@pytest.mark.parametrize(
    ("cell", "codes"),
    [
        ("MI;AF", ["AF", "MI"]),
        ("MI | AF", ["AF", "MI"]),
        ("427084000, AF", ["427084000", "AF"]),
        ("sinus rhythm, normal", ["sinus rhythm, normal"]),
        ("MI;none", ["MI"]),
        ("Unknown", []),
    ],
)
def test_a_list_of_codes_is_one_class(cell: str, codes: list[str]) -> None:
    roles = Roles.of(Path("t.csv"), ["labels", "age"])
    assert sorted(roles.annotation({"labels": cell, "age": "4"}).labels) == codes


def test_of_two_columns_of_one_name_the_last_counts(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((1, 1, 1000)))
    (tmp_path / "e.csv").write_text("patient_id,patient_id\np1,p2\n")
    with pytest.raises(LatentcastError, match="has two columns 'patient_id'; rename one"):
        ingest(tmp_path / "e.npy", tmp_path / "out", quiet=True, **ARRAY)


def test_a_table_of_which_no_column_is_understood_is_metadata(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((1, 1, 1000)))
    (tmp_path / "e.csv").write_text("person,class\np1,MI\n")
    with pytest.raises(LatentcastError, match="'person', 'class' would all be metadata"):
        ingest(tmp_path / "e.npy", tmp_path / "out", quiet=True, **ARRAY)


def write_visits(folder: Path) -> Path:
    """Three recordings of each of ten patients, a folder each."""
    for i in range(30):
        recording = synthetic_recording(seed=i, seconds=2, sampling_rate=100)
        write_wfdb(folder / f"patient{i // 3:03d}", recording, f"s{i:02d}")
    return folder


@pytest.mark.parametrize("way", ["pattern", "table", "metadata"])
def test_records_of_a_patient_are_in_two_splits(tmp_path: Path, way: str) -> None:
    folder, table = write_visits(tmp_path / "in"), tmp_path / "people.csv"
    rows = [f"patient{i // 3:03d}/s{i:02d}.hea;patient {i // 3};{50 + i};AF" for i in range(30)]
    table.write_text("\n".join(["file;subject;age;dx", *rows]))
    by = {"pattern": "patient{patient}/", "table": table}
    options = {"metadata": table} if way == "metadata" else {"patients": by[way]}
    store = ingest(folder, tmp_path / "out", quiet=True, workers=1, **options).store
    assert store.patients == 10
    people = [set(store.patient_ids[store.rows(split)]) for split in store.manifest.splits]
    assert sum(map(len, people)) == 10
    if way == "metadata":
        assert store.metadata(3)["age"] == "53" and store.labels.counts() == {"AF": 30}


def test_nobody_says_that_splits_are_by_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ingest(write_visits(tmp_path / "in"), tmp_path / "out", workers=1)
    assert "30 of 30 records name no patient" in capfd.readouterr().err
