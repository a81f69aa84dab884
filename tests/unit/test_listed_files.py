"""Files that are named one by one, by a table or a pattern: none is lost or taken unseen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ecg_files import write_wfdb
from test_tables import reasons

from dev.fuzz.xml_files import sample, write_muse
from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.signals.synthetic import synthetic_recording


def write_files(folder: Path) -> None:
    """``ward/a``, ``ward/b`` (WFDB), ``x/e.xml`` and ``y/e.xml`` (MUSE)."""
    for i, name in enumerate("ab"):
        write_wfdb(folder / "ward", synthetic_recording(60 + i, 100, 2, seed=i), name)
    for i, name in enumerate("xy"):
        (folder / name).mkdir()
        write_muse(folder / name / "e.xml", sample(2 + i))


TABLE = """path;Patient ID;split;labels;ward
ward\\a.dat;p1;train;AFIB;9
{folder}/ward/b;p2;test;AFIB;9
x/e.xml;p3;train;NORM;9
y/e.xml;p1;train;;9
y/gone.xml;p4;train;;9
../e.xml;p5;train;;9
;p6;train;;9
x/e.xml;p7;early;;9
./;p8;train;;9
"""


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
def test_a_row_of_a_table_of_files_is_lost_or_read_as_another(tmp_path: Path, kind: str) -> None:
    write_files(folder := tmp_path / "in")
    table = folder / "list.csv"
    table.write_text(TABLE.format(folder=folder.resolve()), encoding="utf-8-sig")
    if kind == ".parquet":
        csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
        rows = csv.read_csv(table, parse_options=csv.ParseOptions(delimiter=";"))
        parquet.write_table(rows, table := folder / "list.parquet")
    write_muse(folder / "unlisted.xml", sample())
    remarks = "\n".join(open_source(table).remarks)
    assert "files from 'path'" in remarks and "patient from 'Patient ID'" in remarks
    assert "5 of 9 rows" in remarks and "such as unlisted.xml" in remarks
    store = ingest(table, tmp_path / "out", fs=100, workers=1, quiet=True).store
    assert dict(zip(store.record_ids, store.patient_ids, strict=True)) == {
        "a": "p1", "b": "p2", "x/e.xml": "p3", "y/e.xml": "p1",
    }  # fmt: skip
    assert store.record_ids[store.rows("test")].tolist() == ["b"]
    assert store.labels.counts() == {"AFIB": 2, "NORM": 1}
    why = reasons(tmp_path / "out")
    assert "is missing" in why["gone"] and "outside of the folder" in why["../e.xml"]
    assert why["line 8"] == why["line 10"] == "its row names no file"
    assert "line 9: 'early' is not train, validation or test" in list(why.values())[3]


def test_a_table_that_names_no_file_is_refused_without_its_columns(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("Dateiname;PatientID\na.hea;p1\n")
    with pytest.raises(LatentcastError, match="'Dateiname', 'PatientID' name neither.*files path"):
        open_source(tmp_path / "list.csv")


def test_a_table_that_breaks_a_line_within_its_names_is_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path\rlabels\na,b\n")
    with pytest.raises(LatentcastError, match="is of no format read here"):
        open_source(tmp_path / "list.csv")


@pytest.mark.parametrize(
    "table",
    ["record_list.csv", "machine_measurements.csv", "ptbxl_database.csv", "RECORDS-acceptable",
     "SHA256SUMS.txt"],
)  # fmt: skip
def test_a_pipe_in_the_place_of_a_table_hangs_or_loses_the_patients(
    tmp_path: Path, table: str
) -> None:
    write_files(tmp_path)
    for name in ("RECORDS-acceptable", "RECORDS-unacceptable"):
        (tmp_path / name).write_text("a\n")
    if table == "machine_measurements.csv":
        row = "subject_id,study_id,path\n1,2,ward/a\n"
        (tmp_path / "record_list.csv").write_text(row)
    (tmp_path / table).unlink(missing_ok=True)
    os.mkfifo(tmp_path / table)
    with pytest.raises(LatentcastError, match=f"{table}.* no regular file"):
        open_source(tmp_path)


def test_a_patient_of_a_table_of_files_is_trained_and_tested_on(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "list.csv").write_text("file,patient,split\nward/a,p1,train\nward/b,p1,test\n")
    with pytest.raises(LatentcastError, match="patient 'p1' has records in two splits.* line 3"):
        open_source(tmp_path / "list.csv")


def test_a_pattern_names_more_or_fewer_files_than_it_says(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "x" / ".e.xml").write_bytes((tmp_path / "x" / "e.xml").read_bytes())
    for pattern, expected in (
        ("**/*.xml", ["x/e.xml", "y/e.xml"]),
        ("ward/*", ["a", "b"]),
        ("[wx]*/*", ["a", "b", "e"]),
    ):
        source = open_source(tmp_path / pattern)
        assert [ref.record_id for ref in source.refs()] == expected
        assert all(source.read(ref)[0].samples for ref in source.refs())
    with pytest.raises(LatentcastError, match="no file is named so"):
        open_source(tmp_path / "*.scp")
    (odd := tmp_path / "[1]").mkdir()
    write_wfdb(odd, synthetic_recording(60, 100, 2), "a")
    assert [ref.record_id for ref in open_source(odd).refs()] == ["a"]


def test_a_changed_file_of_a_list_is_taken_for_the_one_that_was_read(tmp_path: Path) -> None:
    write_files(tmp_path)
    before = open_source(tmp_path / "*" / "*").fingerprint()
    write_wfdb(tmp_path / "ward", synthetic_recording(99, 100, 2), "a")
    assert open_source(tmp_path / "*" / "*").fingerprint() != before
