"""Labels of one's own: what becomes of a table, and the sentence that each mistake in it gets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ecg_files import write_wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Command
from latentcast.config import Config
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.data.tables.attached import Attachment, label, tables_of
from latentcast.data.tables.splits import stratified_folds
from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks import label_tasks, task
from latentcast.signals.synthetic import synthetic_recording

RECORDS = 40
Labelled = Callable[..., Attachment]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WFDB files as LUDB has them: numbers for names, nothing about the patient."""
    folder = tmp_path_factory.mktemp("archive")
    for n in range(RECORDS):
        recording = synthetic_recording(seconds=2, sampling_rate=100, seed=n)
        write_wfdb(folder / "data", recording, str(n + 1))
    return folder


@pytest.fixture
def labelled(archive: Path, tmp_path: Path) -> Labelled:
    """Ingest the archive, and give it a table."""
    store = ingest(archive, tmp_path / "store", fs=100, workers=1, quiet=True).store

    def go(*lines: str, **options: object) -> Attachment:
        file = tmp_path / "labels.csv"
        file.write_text("\n".join(lines) + "\n")
        return label(store, file, **options)

    return go


def rows(*columns: Callable[[int], object]) -> list[str]:
    return [",".join(str(column(n)) for column in columns) for n in range(1, RECORDS + 1)]


def name(n: int) -> str:
    return f"data/{n}"


def test_a_missing_label_is_not_a_zero(labelled: Labelled) -> None:
    done = labelled("id,af", *rows(name, lambda n: "" if n < 5 else n % 2))
    column = done.table.columns["af"]
    assert column.mask.sum() == RECORDS - 4
    assert np.isnan(column.values[~column.mask]).all()
    assert "missing for 4 records" in " ".join(done.lines)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (lambda n: n % 2, "binary"),
        (lambda n: "true" if n % 2 else "false", "binary"),
        (lambda n: ["mild", "severe"][n % 2], "classes"),
        (lambda n: "AF;LBBB" if n % 2 else "SR", "codes"),
        (lambda n: "AF|LBBB" if n % 2 else "SR", "codes"),
        (lambda n: n / 3, "number"),
    ],
)
def test_a_column_is_what_its_cells_are(
    labelled: Labelled, cells: Callable[[int], object], kind: str
) -> None:
    assert labelled("id,x", *rows(name, cells)).table.columns["x"].kind == kind


def test_a_byte_order_mark_is_no_part_of_a_name(labelled: Labelled) -> None:
    assert labelled("\ufeffid,af", *rows(name, lambda n: n % 2)).table.columns["af"].mask.all()


def test_notes_are_no_classes(labelled: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentcast.data.tables.attached.MOST_CLASSES", 30)
    lines = ["id,af,note", *rows(name, lambda n: n % 2, lambda n: f"note {n}")]
    assert list(labelled(*lines).table.columns) == ["af"]
    assert "note" in labelled(*lines, kinds={"note": "classes"}).table.columns


def test_a_column_with_the_name_of_a_task_is_reached_by_its_table(
    labelled: Labelled, tmp_path: Path
) -> None:
    labelled('id,rhythm,"a, b"', *rows(name, lambda n: "ab"[n % 2], lambda n: n % 2))
    labelled("id,x", *rows(name, lambda n: n % 2), name="x")
    store = Store.open(tmp_path / "store")
    assert label_tasks(store) == ["labels/rhythm", "a, b", "x"]
    for chosen in label_tasks(store):
        assert task(chosen, store).targets(store).mask.all()
    with pytest.raises(LatentcastError, match="such as --task labels/rhythm"):
        task(None, store)


@pytest.mark.parametrize("spelling", ["data/{}", "{}", "{}.dat", "archive/data/{}.hea"])
def test_records_are_found_by_id_or_file_name(labelled: Labelled, spelling: str) -> None:
    done = labelled("file,af", *rows(spelling.format, lambda n: n % 2))
    assert done.table.columns["af"].mask.all()


def test_each_mismatch_has_its_sentence(labelled: Labelled) -> None:
    lines = rows(name, lambda n: int(n == 1), lambda n: "train" if n < 30 else "test")[5:]
    done = labelled("id,af,split", *lines, lines[0], "data/999,1,train", ",1,train")
    told = "\n".join(done.lines)
    assert "1 record id of the table is not in the store: 'data/999'" in told
    assert "5 records of the store have no row" in told
    assert "1 row repeats an earlier one" in told
    assert "1 row of the table has an empty 'id'" in told
    assert "no positive in the test split" in told


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["id,af", "data/1,1", "data/1,0"], "'data/1' has two rows that differ in column 'af'"),
        (["id,af", "lr/1.dat,1", "hr/1.dat,0"], "two rows, under two names, that differ"),
        (["id,af", "x-1,1"], "no record of column 'id' is in the store"),
        (["af,mi", "1,0"], "name it with --id-column COLUMN"),
        (["id,file,af", "data/1,1.dat,1"], "choose one, such as --id-column id"),
        (["id", "data/1"], "no column of labels"),
        (["id,af", "data/1"], "line 2: has 1 cells, the header line 2"),
        (["id,af,af", "data/1,1,0"], "two columns 'af'"),
        (["id,af,split", "data/1,1,holdout"], "not train, validation or test"),
        (["id,af,fold", "data/1,1,11"], "not a fold from 1 to 10"),
        (["id,af,fold", "data/1,1,1_0"], "not a fold from 1 to 10"),
        (["id,patient,af,split", "data/1,p,1,train", "data/2,p,1,test"], "are in two splits"),
        (["id,af"], "holds no rows"),
    ],
)
def test_each_mistake_is_named(labelled: Labelled, lines: list[str], sentence: str) -> None:
    with pytest.raises(LatentcastError, match=sentence):
        labelled(*lines)


def test_a_cell_of_another_kind_is_refused_and_its_advice_works(labelled: Labelled) -> None:
    lines = ["id,qrs", *rows(name, lambda n: "wide" if n == 3 else n)]
    with pytest.raises(LatentcastError, match="'wide' is not a number.*--kinds qrs=classes"):
        labelled(*lines, kinds={"qrs": "number"})
    assert labelled(*lines, kinds={"qrs": "classes"}).table.columns["qrs"].kind == "classes"


def test_a_table_gives_one_label_to_all_records_of_a_patient(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "patients.csv"
    file.write_text("id,patient,x\n" + "\n".join(rows(name, lambda n: f"p{n % 10}", str)))
    store = ingest(archive, tmp_path / "s", fs=100, workers=1, quiet=True, labels=file).store
    labels = tmp_path / "af.csv"
    labels.write_text("patient,af\n" + "\n".join(f"p{n},{n % 2}" for n in range(10)))
    column = label(store, labels).table.columns["af"]
    assert column.values.tolist() == [float(p[1:]) % 2 for p in store.patient_ids]


def test_a_patient_in_two_splits_is_refused_before_anything_is_read(
    archive: Path, tmp_path: Path
) -> None:
    file, store = tmp_path / "labels.csv", tmp_path / "s"
    file.write_text("id,patient,af,split\ndata/1,p,1,train\ndata/2,p,0,test\n")
    with pytest.raises(LatentcastError, match="records of 1 patient are in two splits"):
        ingest(archive, store, fs=100, workers=1, quiet=True, labels=file)
    assert not store.exists()
    file.write_text("id,patient,af\ndata/1,p,1\ndata/2,p,0\n")
    ingest(archive, store, fs=100, workers=1, quiet=True, labels=file)
    file.write_text("id,patient,af\ndata/1,p,1\ndata/2,p,1\n")
    with pytest.raises(LatentcastError, match=f"latentcast label {store} TABLE"):
        ingest(archive, store, fs=100, workers=1, quiet=True, labels=file)


def test_a_table_at_ingest_divides_by_patient(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "id,patient,af\n" + "\n".join(rows(name, lambda n: f"p{n % 20}", lambda n: int(n % 4 == 0)))
    )
    store = ingest(archive, tmp_path / "s", fs=100, workers=1, quiet=True, labels=file).store
    fold = dict(zip(store.patient_ids.tolist(), store.folds.tolist(), strict=True))
    assert [fold[p] for p in store.patient_ids.tolist()] == store.folds.tolist()
    assert len(fold) == 20
    # One patient of each fold in every ten: each split has its share of the five positives.
    assert [len(store.rows(split)) for split in store.manifest.splits] == [32, 4, 4]


def test_a_split_of_the_table_is_the_split_of_the_store(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    splits = ["train", "val", "test"]
    file.write_text(
        "id,af,split\n" + "\n".join(rows(name, lambda n: n % 2, lambda n: splits[n % 3]))
    )
    done = ingest(archive, tmp_path / "s", fs=100, workers=1, quiet=True, labels=file)
    assert {splits[int(r) % 3] for r in done.store.record_ids[done.store.rows("test")]} == {"test"}
    assert task("af", done.store).targets(done.store).folds is None  # no second division
    again = ingest(archive, tmp_path / "s", fs=100, workers=1, quiet=True, labels=file)
    assert again.labels == done.labels


def test_a_split_that_the_table_has_not_is_a_tenth_of_training_by_patient(
    archive: Path, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    lines = rows(
        lambda n: n, lambda n: n // 2, lambda n: n % 2, lambda n: "test" if n > 29 else "train"
    )
    file.write_text("id,patient,af,split\n" + "\n".join(lines))
    store = ingest(archive, tmp_path / "s", fs=100, workers=1, quiet=True, labels=file).store
    plain = ingest(archive, tmp_path / "plain", fs=100, workers=1, quiet=True).store
    done = label(plain, file)
    assert "validation: a tenth of the training rows" in " ".join(done.lines)
    assert done.table.folds is not None and done.table.folds.tolist() == store.folds.tolist()
    ids, held = store.record_ids.astype(int), store.rows("validation")
    assert len(held) and (ids[held] <= 29).all() and (ids[store.rows("test")] > 29).all()
    assert set(store.patient_ids[held]).isdisjoint(store.patient_ids[store.rows("train")])


def test_a_damaged_table_is_refused(labelled: Labelled, tmp_path: Path) -> None:
    labelled("id,af", *rows(name, lambda n: n % 2))
    store = Store.open(tmp_path / "store")
    file = store.path / "tables" / "labels.npz"
    whole = file.read_bytes()
    refused = 0
    for place in range(0, len(whole), 5):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        os.utime(file, ns=(place, place))  # or the reader would answer from the file before
        try:
            column = tables_of(store)["labels"].columns["af"]
        except LatentcastError as error:
            assert "is damaged" in str(error)
            refused += 1
        else:  # a date in the archive, which nobody reads
            assert column.values.tolist() == [float(n % 2) for n in map(int, store.record_ids)]
    assert refused > 40


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), min_size=1, max_size=120)
)
def test_drawn_folds_keep_patients_together_and_labels_apart(
    records: list[tuple[int, bool, bool]],
) -> None:
    patients = [f"p{patient}" for patient, _, _ in records]
    positives = np.array([labels for _, *labels in records], dtype=bool)
    folds = stratified_folds(patients, positives, seed=3)
    assert ((folds >= 1) & (folds <= 10)).all()
    assert len({(p, f) for p, f in zip(patients, folds.tolist(), strict=True)}) == len(
        set(patients)
    )
    assert (folds == stratified_folds(patients, positives, seed=3)).all()


def test_drawn_folds_share_out_a_rare_label() -> None:
    positives = np.arange(1000)[:, None] < [[20, 300]]
    folds = stratified_folds([f"p{n}" for n in range(1000)], positives, seed=0)
    for positive in positives.T:
        counts = np.bincount(folds[positive], minlength=11)[1:]
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(folds)[1:]) <= 2


def test_from_files_and_a_table_to_a_score_in_three_commands(
    command: Command, archive: Path, small_config: Config, tmp_path: Path
) -> None:
    file, store, run = tmp_path / "labels.csv", tmp_path / "store", tmp_path / "run"
    lines = rows(name, lambda n: f"p{n}", lambda n: int(n % 2), lambda n: ["a", "b", ""][n % 3])
    file.write_text("study,patient,af,grade\n" + "\n".join(lines) + "\n")
    settings = tmp_path / "config.yaml"
    settings.write_text(small_config.updated({"input.length": 200}).to_yaml())
    done = command("ingest", archive, "--out", store, "--fs", 100, "--labels", file)
    assert done.status == 2 and "--id-column COLUMN" not in done.out
    for arguments in (
        ("ingest", archive, "--out", store, "--fs", 100, "--labels", file, "--id-column", "study"),
        ("train", "--config", settings, "--data", store, "--out", run),
        ("probe", run, "--task", "af"),
        ("probe", run, "--task", "grade"),
    ):
        done = command(*arguments)
        assert done.status == 0, done.err
    assert "unknown" not in done.out
    missed = command("probe", run, "--task", "fa")
    assert missed.status == 2 and "did you mean 'af'?" in missed.err


def test_a_task_of_a_file_groups_codes(labelled: Labelled, tmp_path: Path) -> None:
    store = Store.open(Path(labelled("id,x", *rows(name, str)).table and tmp_path / "store"))
    file = tmp_path / "rhythms.yaml"
    file.write_text("classes:\n  AF: [1, AFIB]\n")
    with pytest.raises(LatentcastError, match="the store has none of its codes"):
        task(str(file), store).targets(store)
    for text, sentence in (
        ("classes: []", "holds no classes"),
        ("classes: {AF: [1.5]}", "are no codes"),
        ("classes: {AF: 1}\nexclusiv: true", "no key of a task"),
        ("classes: {AF: 1}\nexclusive: 3", "write true or false"),
        ("classes: {AF: [", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(LatentcastError, match=sentence):
            task(str(file), store)


@pytest.mark.parametrize("spelling", ["{}", "{:03d}", "{}.0", "{:05d}_lr"])
def test_a_number_is_matched_however_it_is_padded(labelled: Labelled, spelling: str) -> None:
    done = labelled("ecg_id,af", *rows(lambda n: spelling.format(n), lambda n: n % 2))
    assert done.table.columns["af"].mask.all()
    by_number = any("matched by their number" in line for line in done.lines)
    assert by_number == (spelling in ("{:03d}", "{:05d}_lr"))


def test_whole_numbers_of_few_values_are_regressed_unsaid(labelled: Labelled) -> None:
    done = labelled("id,grade,qrs", *rows(name, lambda n: n % 4, lambda n: n))
    assert [line for line in done.lines if "--kinds grade=classes" in line]
    assert not [line for line in done.lines if "--kinds qrs" in line]


def test_snomed_codes_of_headers_make_no_task(tmp_path: Path) -> None:
    for n in range(20):
        recording = synthetic_recording(seconds=2, sampling_rate=100, seed=n)
        comments = [f"Dx: {('164889003', '426783006')[n % 2]}", f"Age: {40 + n}"]
        write_wfdb(tmp_path / "in", recording, f"r{n}", comments=comments)
    store = ingest(tmp_path / "in", tmp_path / "out", workers=1, quiet=True).store
    (tmp_path / "af.yaml").write_text(
        "classes: {AF: [164889003], sinus: [426783006]}\nexclusive: true\n"
    )
    for chosen in ("labels", "metadata:age", str(tmp_path / "af.yaml")):
        assert task(chosen, store).targets(store).mask.all()
