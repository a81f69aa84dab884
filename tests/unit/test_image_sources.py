"""What lies in a folder, an array file or a dataset is found in itself, or asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ecg_files import write_some
from image_files import DIGITS, coloured, contents, digits, quarantine, write_classes
from PIL import Image

from conftest import BUNDLED, WFDB
from latentcast.data.formats import format_of, open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError


def test_the_bundled_digits_are_scikit_learns() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    images, labels = digits()
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and images.max() == 255
    assert np.array_equal(np.rint(images / 255 * 16), load_digits().images)
    assert np.array_equal(labels, load_digits().target)


def test_the_bundled_digits_become_a_store(tmp_path: Path) -> None:
    store = ingest(DIGITS, tmp_path / "out", quiet=True).store
    images, labels = digits()
    assert len(store) == 1797 and store.classes == tuple("0123456789")
    assert np.array_equal(store.take(np.arange(1797))[..., 0], images)
    assert np.array_equal(store.class_ids, labels)
    assert [len(store.rows(s)) > 150 for s in ("train", "validation", "test")] == [True] * 3


def kind_of(path: Path) -> str:
    return format_of(path).modality


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_training", "Y_training", "X_Test", "Y_Test"),
    ],
)
def test_arrays_by_the_names_people_give_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    images, labels = digits()
    parts = (images[:200], labels[:200], images[200:230], labels[200:230, None])
    path = save(tmp_path / "a.npz", **dict(zip(names, parts, strict=True)), note=np.array("x"))
    assert kind_of(path) == "image"
    store = ingest(path, tmp_path / "out", quiet=True).store
    test = store.rows("test")
    assert store.record_ids[test].tolist() == [f"test-{i:06d}" for i in range(30)]
    assert np.array_equal(store.take(test)[..., 0], images[200:230])
    assert np.array_equal(store.class_ids[test], labels[200:230])
    assert len(store) == 230 and len(store.rows("validation")) > 5


@pytest.mark.parametrize("layout", ["NHW", "NHW1", "N1HW", "NHW3", "N3HW"])
def test_channels_are_found_where_they_lie(tmp_path: Path, layout: str) -> None:
    images = digits()[0][:7]
    colour = np.stack([coloured(image) for image in images])
    arrays = {"NHW": images, "NHW1": images[..., None], "N1HW": images[:, None],
              "NHW3": colour, "N3HW": colour.transpose(0, 3, 1, 2)}  # fmt: skip
    path = save(tmp_path / "a.npz", data=arrays[layout], target=np.array(list("abcabca")))
    store = ingest(path, tmp_path / "out", quiet=True).store
    assert store.classes == ("a", "b", "c") and store.class_ids.tolist() == [0, 1, 2, 0, 1, 2, 0]
    expected = colour if "3" in layout else images[..., None]
    assert np.array_equal(store.take(np.arange(7)), expected)


def test_images_win_over_flat_data_and_names_of_classes_are_used(tmp_path: Path) -> None:
    """The layout of scikit-learn's own digits."""
    images, labels = digits()
    path = save(tmp_path / "a.npz", data=images.reshape(-1, 64), images=images, target=labels,
                target_names=np.array([f"digit {i}" for i in range(10)]))  # fmt: skip
    store = ingest(path, tmp_path / "out", quiet=True).store
    assert store.classes[3] == "digit 3" and len(store) == 1797


def test_labels_with_gaps_keep_their_values_as_names_and_minus_one_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=digits()[0][:5], labels=np.array([7, 2, -1, 7, 900]))
    store = ingest(path, tmp_path / "out", quiet=True).store
    assert store.classes == ("2", "7", "900") and store.class_ids.tolist() == [1, 0, -1, 1, 2]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((4, 8, 8))}, "holds float64, whose range of values is open.*astype"),
        ({"images": np.zeros((4, 8, 8), int)}, "holds int64.*uint8"),
        ({"images": np.zeros((4, 64), np.uint8)}, r"has shape \(4, 64\)"),
        ({"images": np.zeros((4, 3, 9, 3), np.uint8)}, "both axis 1 and axis 3"),
        ({"images": np.zeros((4, 8, 8, 4), np.uint8)}, "neither axis 1 nor axis 3"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(3, int)}, "one label an image"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(4)}, "holds float64; give whole"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.full(4, -2)}, "number classes from 0"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.full(4, 2), "classes": np.array(["a"])},
         "name every class"),
        ({"x_train": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(4, int)}, "same ending"),
        ({"x_train": np.zeros((4, 8, 8), np.uint8), "x_test": np.zeros((4, 9, 9), np.uint8)},
         "two files, or at one size"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "none of its arrays"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "split": np.array(["train"])}, "one split an image"),
        ({"x": np.zeros((3, 8, 8), np.uint8), "split": np.array(["train", "val", "new"])},
         "new is not; --splits named"),
        *(({"images": np.zeros(shape, np.uint8)}, r"could be one image.*x\[\.\.\., None\] for")
          for shape in [(8, 9, 1), (8, 9, 2), (8, 9, 3), (8, 9, 4), (3, 8, 9)]),
    ],
)  # fmt: skip
def test_arrays_that_do_not_say_what_they_are(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    path = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(LatentcastError, match=words):
        ingest(path, tmp_path / "out", kind="image", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dtype", "advice"), [(bool, r"x.astype\('uint8'\) \* 255"), (object, "np.asarray")]
)
def test_images_of_an_odd_type_are_not_taken_for_recordings(
    tmp_path: Path, dtype: type, advice: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((40, 32, 32), dtype))
    with pytest.raises(LatentcastError, match=f"holds {np.dtype(dtype)}.*{advice}"):
        ingest(tmp_path / "a.npy", tmp_path / "out", quiet=True)


def test_an_array_of_splits_counts_and_one_that_is_not_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "Training", "val", "test", "dev"] * 2
    images = digits()[0][:10]
    path = save(tmp_path / "a.npz", images=images, split=np.array(words), note=np.arange(3))
    store = ingest(path, tmp_path / "out", workers=1).store
    assert "a.npz: does not read note" in capsys.readouterr().err
    for split, rows in {"train": [0, 1, 5, 6], "validation": [2, 4, 7, 9], "test": [3, 8]}.items():
        assert store.record_ids[store.rows(split)].tolist() == [f"a-{row:06d}" for row in rows]
        assert np.array_equal(store.take(store.rows(split))[..., 0], images[rows])
    path = save(tmp_path / "b.npz", images=images, split=np.arange(10))
    ingest(path, tmp_path / "other", workers=1)
    assert "b.npz: does not read split" in capsys.readouterr().err


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    images = digits()[0][:4]
    path = tmp_path / "a.npz"
    np.savez(path, images=images, labels=np.array([Bomb()] * 4, object), allow_pickle=True)
    with pytest.raises(LatentcastError, match="cannot be read .*Python objects"):
        ingest(path, tmp_path / "out", quiet=True)
    assert not (tmp_path / "executed").exists()


def test_folders_whose_meaning_cannot_be_told_are_asked_about(tmp_path: Path) -> None:
    write_classes(tmp_path / "wrapped" / "cifar", 3)
    with pytest.raises(LatentcastError, match="all images lie below one folder, 'cifar'"):
        open_source(tmp_path / "wrapped")
    write_classes(tmp_path / "mixed", 3)
    Image.fromarray(digits()[0][9]).save(tmp_path / "mixed" / "loose.png")
    with pytest.raises(LatentcastError, match="loose.png lies beside class folders"):
        open_source(tmp_path / "mixed")
    write_classes(tmp_path / "split" / "train", 3)
    Image.fromarray(digits()[0][9]).save(tmp_path / "split" / "loose.png")
    with pytest.raises(LatentcastError, match="has images beside its split folders train"):
        open_source(tmp_path / "split")
    with pytest.raises(LatentcastError, match="is one image; name the folder"):
        open_source(tmp_path / "split" / "loose.png")
    with pytest.raises(LatentcastError, match="does not exist"):
        open_source(tmp_path / "nowhere")


def test_a_class_may_be_named_like_a_split_and_a_test_split_may_lack_labels(tmp_path: Path) -> None:
    for name in ("car", "train"):
        (tmp_path / "vehicles" / name).mkdir(parents=True)
        Image.fromarray(digits()[0][len(name)]).save(tmp_path / "vehicles" / name / "1.png")
    source = open_source(tmp_path / "vehicles", splits="none")
    assert source.classes == ("car", "train")
    assert {ref.split for ref in source.refs()} == {None}
    write_classes(tmp_path / "in" / "train", 5)
    (tmp_path / "in" / "test").mkdir()
    Image.fromarray(digits()[0][9]).save(tmp_path / "in" / "test" / "a.png")
    refs = open_source(tmp_path / "in").refs()
    assert (refs[0].record_id, refs[0].split) == ("test/a.png", "test")


def test_a_test_folder_beside_one_of_another_name_is_not_trained_on_as_a_class(
    tmp_path: Path,
) -> None:
    """STL-10 has train, test and unlabeled: its test images ended in the training split."""
    for number, name in enumerate(("train", "test", "unlabeled")):
        write_classes(tmp_path / name, 1, skip=number)
    (tmp_path / "unlabeled" / "digit 2" / "0002.png").rename(tmp_path / "unlabeled" / "a.png")
    with pytest.raises(LatentcastError) as refusal:
        open_source(tmp_path)
    assert "test, train are named like splits, unlabeled is not; --splits named takes" in str(
        refusal.value
    )
    splits = open_source(tmp_path, splits="named")
    assert {ref.record_id.split("/")[0]: ref.split for ref in splits.refs()} == {
        "test": "test", "train": "train", "unlabeled": "train",
    }  # fmt: skip
    assert splits.classes == ("digit 0", "digit 1")
    (tmp_path / "unlabeled" / "a.png").unlink()
    assert {ref.split for ref in open_source(tmp_path).refs()} == {"train", "test"}
    with pytest.raises(LatentcastError, match=r"none of digit 0 is named like a split"):
        open_source(tmp_path / "train", splits="named")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Cat", "cat"), "'Cat' and 'cat' differ in case alone; rename"),
        (("caf\u00e9", "cafe\u0301"), "two Unicode spellings of one name"),
    ],
)
def test_one_class_in_two_spellings_is_not_two(
    tmp_path: Path, names: tuple[str, str], words: str
) -> None:
    for number, name in enumerate((*names, "x", "X")):  # letters are classes
        (tmp_path / name).mkdir()
        Image.fromarray(digits()[0][number]).save(tmp_path / name / "1.png")
    with pytest.raises(LatentcastError, match=words):
        open_source(tmp_path)
    path = save(tmp_path / "a.npz", images=digits()[0][:2], labels=np.array(names))
    with pytest.raises(LatentcastError, match=words):
        open_source(path)


def test_a_linked_class_folder_is_followed_and_a_circle_ends(tmp_path: Path) -> None:
    written = write_classes(tmp_path / "elsewhere", 5)
    (tmp_path / "in").mkdir()
    for folder in (tmp_path / "elsewhere").iterdir():
        (tmp_path / "in" / folder.name).symlink_to(folder)
    (tmp_path / "in" / "digit 0" / "round").symlink_to(tmp_path / "in")
    assert [ref.record_id for ref in open_source(tmp_path / "in").refs()] == sorted(written)


def test_recordings_and_images_are_told_apart(tmp_path: Path) -> None:
    assert kind_of(WFDB) == kind_of(BUNDLED) == "ecg"
    with pytest.raises(LatentcastError, match="nowhere: does not exist"):
        kind_of(tmp_path / "nowhere")
    write_classes(tmp_path / "in", 2)
    assert kind_of(tmp_path / "in") == kind_of(DIGITS) == "image"
    (tmp_path / "in" / "r.hea").write_text("a header")
    assert kind_of(tmp_path / "in") == "ecg"
    kinds = {
        "ecg": [{"x": np.zeros((4, 12, 500), np.float32)},
                {"data": np.zeros((4, 12, 500), np.int16)}],
        "image": [{"x": np.zeros((4, 8, 8), np.uint8)}, {"x": np.zeros((4, 8, 8, 3))},
                  {"x_train": np.zeros((4, 28, 28)), "y_train": np.zeros(4)},
                  {"images": np.zeros((4, 8, 8))}],
    }  # fmt: skip
    for kind, cases in kinds.items():
        for number, arrays in enumerate(cases):
            assert kind_of(save(tmp_path / f"{kind}{number}.npz", **arrays)) == kind


def write_source(kind: str, folder: Path) -> None:
    folder.mkdir()
    if kind == "wfdb":
        write_some(folder, 2, 2.0)
    elif kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(dataset_table(12), folder / "a.parquet")
    else:
        write_classes(folder, 12)
    if kind == "shards":
        for file in sorted(folder.rglob("*.png")):
            with tarfile.open(folder / "a.tar", "a") as tar:
                tar.add(file, file.name)
                tar.addfile(tarfile.TarInfo(f"{file.stem}.cls"))
        for classes in folder.glob("digit*"):
            shutil.rmtree(classes)


@pytest.mark.parametrize("kind", ["wfdb", "images", "parquet", "shards"])
def test_a_copy_in_a_hidden_folder_is_ingested_in_place_of_the_file(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    write_source(kind, source)
    ingest(source, tmp_path / "out", workers=1, quiet=True)
    shutil.copytree(source, tmp_path / ".git")
    (tmp_path / ".git").rename(source / ".git")
    ingest(source, tmp_path / "again", workers=1)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")
    assert len(re.findall("are hidden or in a hidden folder", capfd.readouterr().err)) == 1


def latentcast(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latentcast", *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_one_verb_for_both_and_a_flag_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    done = latentcast("ingest", DIGITS, "--out", tmp_path / "digits", "--size", 16)
    assert done.returncode == 0 and "1797 records, 0 in quarantine" in done.stdout
    shown = latentcast("inspect", tmp_path / "digits")
    for words in ("1,797 images", "16 × 16 pixels, 1 channel", "10 classes", "train 1,4", "grey"):
        assert words in shown.stdout, shown.stdout + shown.stderr
    for arguments, words in (
        (("ingest", DIGITS, "--kind", "image", "--fs", 500), "--fs: is for recordings"),
        (("ingest", WFDB, "--size", 16), "--size: is for images"),
        (("ingest", WFDB, "--encoding", "pixels"), "--encoding: is for images"),
        (("ingest", DIGITS, "--encoding", "encoded"), "--encoding encoded: keeps the bytes"),
        (("ingest", DIGITS, "--size", 0), "--size 0: must be positive"),
    ):
        answer = latentcast(*arguments, "--out", tmp_path / "x")
        assert answer.returncode == 2 and words in answer.stderr, answer.stderr
    plotted = latentcast("inspect", tmp_path / "digits", "--plot", tmp_path / "a.png")
    assert plotted.returncode == 2 and "holds images" in plotted.stderr


def png(image: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def dataset_table(count: int, skip: int = 0) -> Any:
    """Rows as the package ``datasets`` writes them, with its description in the schema."""
    pa = pytest.importorskip("pyarrow")
    images, labels = digits()
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": [f"digit {i}" for i in range(10)]},
    }
    rows = range(skip, skip + count)
    table = pa.table(
        {
            "image": [{"bytes": png(images[i]), "path": f"{i}.png"} for i in rows],
            "label": pa.array([int(labels[i]) for i in rows], pa.int64()),
        }
    )
    description = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": description})


def save_to_disk(folder: Path, table: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (folder / "dataset_info.json").write_text("{}")


def test_datasets_of_hugging_face_on_disk(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    save_to_disk(tmp_path / "dict" / "train", dataset_table(50))
    save_to_disk(tmp_path / "dict" / "test", dataset_table(10, 50))
    (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    images, labels = digits()
    assert kind_of(tmp_path / "dict") == "image"
    store = ingest(tmp_path / "dict", tmp_path / "out", quiet=True).store
    test = store.rows("test")
    assert store.record_ids[test].tolist() == [f"test-{i:06d}" for i in range(10)]
    assert np.array_equal(store.take(test)[..., 0], images[50:60])
    assert np.array_equal(store.class_ids[test], labels[50:60]) and store.classes[0] == "digit 0"
    single = ingest(tmp_path / "dict" / "train", tmp_path / "one", quiet=True).store
    assert len(single) == 50 and len(single.rows("test")) > 0


def test_parquet_files_and_images_that_are_not_in_them(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    folder = tmp_path / "in" / "data"
    folder.mkdir(parents=True)
    pq.write_table(dataset_table(20), folder / "train-00000-of-00002.parquet")
    pq.write_table(dataset_table(20, 20), folder / "train-00001-of-00002.parquet")
    pq.write_table(dataset_table(5, 40), folder / "validation-00000-of-00001.parquet")
    encoded = ingest(tmp_path / "in", tmp_path / "out", encoding="encoded", quiet=True).store
    assert len(encoded.rows("validation")) == 5 and len(encoded) == 45
    expected = [f"validation-{i:06d}" for i in range(5)] + [f"train-{i:06d}" for i in range(40)]
    assert encoded.record_ids.tolist() == expected
    assert np.array_equal(encoded.take(encoded.rows("validation"))[..., 0], digits()[0][40:45])
    absent = dataset_table(3).to_pylist()
    absent[1]["image"] = {"bytes": None, "path": "gone.png"}
    pq.write_table(pa.Table.from_pylist(absent), tmp_path / "a.parquet")
    result = ingest(tmp_path / "a.parquet", tmp_path / "few", quiet=True)
    assert result.quarantined == 1
    assert "names the file gone.png" in next(iter(quarantine(tmp_path / "few").values()))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LatentcastError, match="bad.parquet: cannot be read"):
        open_source(tmp_path / "bad.parquet")


@pytest.mark.parametrize("label", ["label", "none"])
def test_what_is_no_parquet_file_stops_the_ingest_of_those_beside_it(
    tmp_path: Path, label: str
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("damaged", "good", "page"):
        table = dataset_table(3 * len(name), 40 * (name == "page")).rename_columns(["image", label])
        pq.write_table(table, folder / f"{name}.parquet", write_page_checksum=True)
    for name, skip in (("damaged", -100), ("page", 1000)):
        content = bytearray((folder / f"{name}.parquet").read_bytes())
        content[skip : skip + 100 or None] = bytes(100)
        (folder / f"{name}.parquet").write_bytes(content)
    for name in ("empty", "._good"):
        (folder / f"{name}.parquet").touch()
    (folder / "folder.parquet").mkdir()
    (folder / "gone.parquet").symlink_to("nowhere")
    store = ingest(folder, tmp_path / "out", quiet=True).store
    assert np.array_equal(store.take(range(12))[..., 0], digits()[0][:12]) and len(store) == 12
    rows = quarantine(tmp_path / "out")
    assert {"damaged.parquet", "empty.parquet", "gone.parquet"} <= rows.keys()
    # Labels are a column of their own: those of the file are read, and none of its images.
    assert sum("cannot be read" in row for row in rows.values()) > 2


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"labels": [1, 0, None]}, {}, ["1", "0", ""]),
        ({"Target": ["b", "a", "b"]}, {}, ["b", "a", "b"]),
        ({"class": [[2], [], [3, 2]]}, {}, ["2", "", "2+3"]),
        ({"diagnosis": [5, 5, 6]}, {"label_column": "diagnosis"}, ["5", "5", "6"]),
        (
            {"diagnosis": [5, 5, 6]},
            {},
            "none of the columns diagnosis is read .* --label-column diag",
        ),
        (
            {"target": [0, 1, 2], "labels": [0, 1, 2]},
            {},
            "2 columns could .* --label-column target",
        ),
        ({"label": [0.5, 1.5, 2.0]}, {}, "label is neither whole numbers nor text"),
        ({"label": [{"a": 1}] * 3}, {}, "label is neither whole numbers nor text"),
        ({"label": [0, 1, 1]}, {"label_column": "lable"}, "no column lable; did you mean 'label'"),
    ],
)
def test_labels_of_a_parquet_file_are_read_or_asked_about(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], expected: list[str] | str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": png(digits()[0][i]), "path": None} for i in range(3)]
    pq.write_table(pa.table({"image": images, **columns}), tmp_path / "a.parquet")
    try:
        store = ingest(tmp_path / "a.parquet", tmp_path / "out", **options).store
    except LatentcastError as refusal:
        assert isinstance(expected, str) and re.search(expected, str(refusal))
        return
    if isinstance(expected, str):
        assert re.search(expected, capsys.readouterr().err) and not store.classes
    else:
        assert ["+".join(sorted(store.labels.of(row))) for row in range(3)] == expected


def test_a_parquet_file_of_no_split_beside_those_of_splits_is_asked_about(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for number, name in enumerate(("train-0", "test-0", "extra-0")):
        pq.write_table(dataset_table(3, 3 * number), tmp_path / f"{name}.parquet")
    with pytest.raises(LatentcastError, match="extra-0.parquet is not; --splits named"):
        open_source(tmp_path)
    for choice, splits in (("named", {"train", "test"}), ("none", {None})):
        assert {ref.split for ref in open_source(tmp_path, splits=choice).refs()} == splits


def test_without_pyarrow_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(
        LatentcastError, match=r"pyarrow: is not installed.*latentcast\[huggingface\]"
    ):
        open_source(tmp_path / "a.parquet")
