"""The probe protocol: every number in its place, no peeking at the test fold, floors beside it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_stores import ImagePatches, Images, PatchSource, write_store
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score

from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation import protocol
from latentcast.evaluation.baselines import Pixels, RandomConvolutions, baseline
from latentcast.evaluation.estimate import Estimate, number
from latentcast.evaluation.features import FeatureSource, extract
from latentcast.evaluation.heads import HEADS
from latentcast.evaluation.heads.multinomial import fit as fit_multinomial
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.results import ProbeReport, file_name
from latentcast.evaluation.tables import print_probe
from latentcast.evaluation.tasks import CodeGroups, task
from latentcast.evaluation.tasks.classes import Classes
from latentcast.runs.scores import scores_of
from latentcast.signals.recording import INVALID
from latentcast.terminal import Terminal

CLASSES = ("NORM", "AFIB", "STACH")
DIGITS = Path(__file__).parents[2] / "data" / "digits" / "digits.npz"


def labelled_store(path: Path, n: int = 400, **changes: object) -> Store:
    """Noise ECGs; NORM doubles the amplitude, AFIB adds a rhythm, STACH is rare."""
    rng = np.random.default_rng(0)
    fold = rng.integers(1, 11, n)
    labels: list[dict[str, float]] = []
    records = []
    for i in range(n):
        codes = [c for c, p in zip(CLASSES, (0.5, 0.3, 0.0), strict=True) if rng.random() < p]
        if i < 12:
            codes.append("STACH")
        signal = rng.normal(size=(40, 2)) * (150 if "NORM" in codes else 100)
        if "AFIB" in codes:
            signal += 60 * np.sin(np.arange(40) * 1.3 + rng.uniform(0, 6))[:, None]
        labels.append(dict.fromkeys(codes, 0.0))
        records.append(signal.round().astype(np.int16))
    fold[:12] = 10  # STACH occurs in the test fold only
    metadata = [{"sex": "fm"[n % 2]} for n in range(n)]
    return write_store(
        path, records, folds=fold.tolist(), labels=labels, metadata=metadata, **changes
    )


MIXED = CodeGroups("mixed", {name: (name,) for name in CLASSES}, keeps_unlabelled=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("probe") / "store")


def test_report_has_every_row_difference_label_and_source_of_the_numbers(
    store: Store, tmp_path: Path
) -> None:
    sources = [
        PatchSource("pretrained", seed=1),
        PatchSource("random init", seed=2),
        RandomConvolutions.from_store(store, kernels=60),
    ]
    report = probe(
        sources, store, MIXED, resamples=100, seed=7, provenance={"command": "probe RUN", "lr": 0.1}
    )
    assert [(row.name, row.choice) for row in report.rows] == [
        ("pretrained", "chosen on validation"),
        ("random init", "chosen on validation"),
        ("random init", "layer of pretrained"),
        ("random convolutions", "chosen on validation"),
    ]
    assert report.rows[2].layer == report.rows[0].layer
    assert [d.reference for d in report.differences] == [row.name for row in report.rows[1:]]
    for difference, row in zip(report.differences, report.rows[1:], strict=True):
        gap = report.rows[0].score.main.value - row.score.main.value
        assert difference.estimate.value == pytest.approx(gap)
    assert report.protocol == "mixed, splits train/validation/test, linear probe"
    assert report.left_out == {"STACH": "no positive in train"}
    assert report.labels[2].positives == {"train": 0, "validation": 0, "test": 12}

    path = report.write(tmp_path)
    assert path.name == "probe-mixed.json"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    read = json.loads(path.read_text())
    assert read["records_without_token"] == {"train": 0, "validation": 0, "test": 0}
    assert read["rows"][0]["score"]["main"]["value"] == report.rows[0].score.main.value
    assert ProbeReport.from_json(read) == report
    assert read["data"]["shards"] == {"shard-00000.npy": store.manifest.shards[0].sha256}
    assert read["provenance"] == {"command": "probe RUN", "lr": 0.1}
    assert read["bootstrap"] == {
        "resamples": 100, "level": 0.95, "seed": 7, "unit": "patient",
        "units": report.records["test"],
    }  # fmt: skip

    assert len(repr(report)) < 300 and "random convolutions 0." in repr(report)
    page = report._repr_html_()
    assert page.count("<tr>") == 4 and "<td style='text-align:left'>random init</td>" in page

    text = printed(report, 200)
    for expected in ("random convolutions", "layer of pretrained", "STACH", "no positive in train"):
        assert expected in text
    assert f"{report.rows[0].score.main.value:.3f}" in text


def printed(report: ProbeReport, width: int) -> str:
    console = Terminal(width=width, record=True, file=io.StringIO())
    print_probe(report, console)
    return console.export_text()


@pytest.mark.parametrize("name", ["pretrained", "nepa-ecg-tiny (step-00004000, student)"])
def test_a_terminal_of_80_columns_shows_every_number_whole(store: Store, name: str) -> None:
    sources = [
        PatchSource(name, seed=1),
        PatchSource("random-initialised", seed=2),
        RandomConvolutions.from_store(store, kernels=30),
    ]
    report = probe(sources, store, MIXED, resamples=50, by=["sex"])
    shown = [group.main.text() for group in report.rows[0].score.subgroups]
    lines = printed(report, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    # Its two readings and their two differences: the name is not broken either.
    assert sum(line.startswith("random-initialised ") for line in lines) >= 4
    shown += [row.score.main.text() for row in report.rows]
    shown += [d.estimate.text(signed=True) for d in report.differences]
    first, *others = report.readings()
    shown += [score.text() for score in (first.score.supported, *first.score.others.values())]
    shown += [number(row.score.supported.value) for row in others]
    shown += [number(point.f1.value) for point in first.score.points]
    shown += [label.auroc.text() for label in report.rows[0].score.labels]
    shown += [number(x.auroc.value) for row in report.readings()[1:] for x in row.score.labels]
    for numbers in shown:  # the same number may stand in two tables, and must be whole in both
        assert sum(line.count(numbers) for line in lines) >= shown.count(numbers), numbers


def test_a_named_layer_shows_the_tested_encoder_label_by_label(store: Store) -> None:
    sources = [PatchSource("pretrained"), RandomConvolutions.from_store(store, kernels=30)]
    report = probe(sources, store, MIXED, layer="embedding", resamples=50)
    assert [row.name for row in report.readings()] == ["pretrained", "random convolutions"]
    line = next(line for line in printed(report, 80).splitlines() if line.startswith("AFIB "))
    assert report.rows[0].score.labels[1].auroc.text() in line


def test_the_same_probe_twice_gives_the_same_report(store: Store) -> None:
    first, second = (probe([PatchSource()], store, MIXED, resamples=50).as_json() for _ in range(2))
    assert first == second


def test_a_named_layer_is_read_everywhere_it_exists(store: Store) -> None:
    sources = [PatchSource("a"), PatchSource("b"), RandomConvolutions.from_store(store, kernels=30)]
    report = probe(sources, store, MIXED, layer="embedding", resamples=20)
    assert [row.layer for row in report.rows] == ["embedding"] * 2 + ["kernels"]
    with pytest.raises(LatentcastError, match="known: all, embedding, block 1"):
        probe(sources, store, MIXED, layer="block1")


def test_a_write_that_fails_leaves_the_report_before_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = probe([PatchSource()], store, MIXED, resamples=10)
    before = report.write(tmp_path).read_text()

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LatentcastError, match="probe-mixed.json: cannot be written.*disk full"):
        dataclasses.replace(report, protocol="another").write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["probe-mixed.json"]
    assert (tmp_path / "probe-mixed.json").read_text() == before


def test_a_run_folder_that_is_gone_is_named_with_the_mend(store: Store, tmp_path: Path) -> None:
    report = probe([PatchSource()], store, MIXED, resamples=10)
    with pytest.raises(LatentcastError, match="gone/probe-mixed.json: cannot.*probe again"):
        report.write(tmp_path / "gone")


def test_a_cls_probe_of_a_causal_encoder_is_refused_with_the_reason(store: Store) -> None:
    """NEPA defect 9: the head read token 0, whose logits are the same for any ECG."""
    with pytest.raises(LatentcastError, match="token 0 sees only itself.*use mean"):
        probe([PatchSource(causal=True)], store, MIXED, pooling="cls")
    with pytest.raises(LatentcastError, match="no objective here trains the CLS"):
        probe([PatchSource(causal=False)], store, MIXED, pooling="cls")


def test_an_undefined_number_is_null_in_json(tmp_path: Path) -> None:
    """NEPA defect 7: a class without positives must not become a number."""
    rng = np.random.default_rng(0)
    records = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(60)]
    fold = [1] * 40 + [9] * 10 + [10] * 10
    labels = [{"NORM": 1.0} if i % 2 and i < 50 else {} for i in range(60)]  # none in fold 10
    lacking = write_store(tmp_path / "store", records, folds=fold, labels=labels)
    report = probe(
        [PatchSource()], lacking, CodeGroups("one", {"NORM": ("NORM",)}, True), resamples=10
    )
    assert report.left_out == {"NORM": "no positive in test"}
    read = json.loads(report.write(tmp_path).read_text())
    assert read["rows"][0]["score"]["main"] == {"value": None, "low": None, "high": None}


def test_records_without_a_label_of_the_task_are_dropped(store: Store) -> None:
    members = {name: (name,) for name in ("NORM", "AFIB")}
    some = probe([PatchSource()], store, CodeGroups("some", members), resamples=10)
    everything = probe([PatchSource()], store, CodeGroups("every", members, True), resamples=10)
    assert sum(everything.records.values()) == len(store)
    labelled = store.labels.indicator(["NORM", "AFIB"]).any(axis=1).sum()
    assert sum(some.records.values()) == labelled < len(store)


def test_a_leak_stops_the_probe_and_a_possible_one_is_printed(tmp_path: Path) -> None:
    """NEPA defect 15: no overlap check between pretraining and evaluation data."""
    leaky = labelled_store(
        tmp_path / "store", n=200, patient_ids=[f"p{i % 50}" for i in range(200)]
    )
    with pytest.raises(LatentcastError, match="patient in two splits"):
        probe([PatchSource()], leaky, MIXED, resamples=10)
    allowed = probe([PatchSource()], leaky, MIXED, resamples=10, allow_leaks=True)
    assert "LEAK (error): patient in two splits" in printed(allowed, 200)
    [score] = scores_of(allowed.as_json())
    assert score.variant == "in spite of a leak" and allowed.as_json()["leaks"]

    store = labelled_store(tmp_path / "mine", n=200)
    rng = np.random.default_rng(5)
    other = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(200)]
    ids = [f"x{i}" for i in range(200)]
    for source, folder in (("test", "same"), ("hospital B", "other")):
        write_store(tmp_path / folder, other, folds=[1] * 200, record_ids=ids, source=source)
    with pytest.raises(LatentcastError, match="patient id in pretraining.*both stores come from"):
        probe([PatchSource()], store, MIXED, trained_on=[Store.open(tmp_path / "same")])
    pretraining = Store.open(tmp_path / "other")
    report = probe([PatchSource()], store, MIXED, trained_on=[pretraining], resamples=10)
    assert "LEAK (warning): patient id in pretraining" in printed(report, 200)


def test_records_of_one_patient_widen_the_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(90), 4)  # four records each, all in one fold
    folds = np.repeat([1] * 40 + [9] * 15 + [10] * 35, 4).tolist()
    ill = rng.random(90) < 0.5
    signs = rng.normal(size=(90, 40, 2)) * np.where(ill, 130, 100)[:, None, None]
    records = [(signs[p] + rng.normal(size=(40, 2))).round().astype(np.int16) for p in people]
    labels = [{"NORM": 1.0} if ill[p] else {} for p in people]
    one = CodeGroups("one", {"NORM": ("NORM",)}, keeps_unlabelled=True)
    reports = {}
    for name, ids in (("known", [f"p{p}" for p in people]), ("unknown", [""] * len(people))):
        store = write_store(tmp_path / name, records, folds=folds, labels=labels, patient_ids=ids)
        floor = RandomConvolutions.from_store(store, kernels=20)
        reports[name] = probe([PatchSource(), floor], store, one)
    assert reports["known"].bootstrap["unit"] == "patient"
    assert reports["known"].bootstrap["units"] == 35
    assert reports["unknown"].bootstrap["unit"] == "record"
    wide, narrow = (r.rows[0].score.main for r in reports.values())
    assert wide.value == narrow.value and wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    wide, narrow = (r.differences[0].estimate for r in reports.values())
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


class PickySource(PatchSource):
    """Reads a record only when its first sample is valid."""

    def token_layers(self, samples: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        layers, valid = super().token_layers(samples)
        return layers, valid & torch.from_numpy(samples[:, :1, 0] != INVALID)


def test_records_that_some_source_cannot_read_are_left_out_for_all_and_counted(
    store: Store, tmp_path: Path
) -> None:
    records = [store.take([row])[0] for row in range(len(store))]
    test, train = store.rows("test")[-2:], store.rows("train")[0]
    records[train] = np.full_like(records[train], INVALID)
    for row in test:
        records[row][0] = INVALID  # only the floor cannot read these
    labels = [store.labels.of(row) for row in range(len(store))]
    holes = write_store(tmp_path / "holes", records, folds=store.folds.tolist(), labels=labels)
    report = probe([PatchSource("a"), PickySource("b")], holes, MIXED, resamples=20)
    assert report.records_without_token == {"train": 1, "validation": 0, "test": 2}
    assert report.as_json()["records_without_token"] == {"train": 1, "validation": 0, "test": 2}
    before = probe([PatchSource("a")], store, MIXED, resamples=20).records
    assert report.records["train"] == before["train"] - 1
    assert report.records["test"] == before["test"] - 2
    assert {label.records for label in report.rows[0].score.labels} == {report.records["test"]}
    text = " ".join(printed(report, 80).split())
    assert "3 records without a valid token left out (train 1, test 2)" in text

    # As if they were not in the store at all.
    kept = np.delete(np.arange(len(records)), [train, *test])
    clean = write_store(
        tmp_path / "clean", [records[i] for i in kept], folds=store.folds[kept].tolist(),
        labels=[labels[i] for i in kept],
    )  # fmt: skip
    alone = probe([PatchSource("a")], clean, MIXED, resamples=20)
    assert alone.rows[0].score == report.rows[0].score


def test_a_split_without_a_readable_record_is_an_error(store: Store, tmp_path: Path) -> None:
    records = [store.take([row])[0] for row in range(len(store))]
    for row in store.rows("validation"):
        records[row][:] = INVALID
    labels = [store.labels.of(row) for row in range(len(store))]
    blank = write_store(tmp_path / "blank", records, folds=store.folds.tolist(), labels=labels)
    with pytest.raises(LatentcastError, match="with a valid token in the validation split"):
        probe([PatchSource()], blank, MIXED)


@pytest.mark.parametrize(("records", "patients"), [(9, None), (30, 9), (30, 1)])
def test_fewer_than_ten_test_patients_give_no_interval(
    tmp_path: Path, records: int, patients: int | None
) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(31 + records)]
    labels = [{"NORM": 1.0} if i % 2 else {} for i in range(len(samples))]
    owners = [f"p{i}" for i in range(31)] + [f"t{i % (patients or 99)}" for i in range(records)]
    few = write_store(
        tmp_path / "few", samples, folds=[1] * 20 + [9] * 11 + [10] * records, labels=labels,
        patient_ids=owners if patients else [""] * len(owners),
    )  # fmt: skip
    report = probe([PatchSource()], few, CodeGroups("one", {"NORM": ("NORM",)}, True))
    text = printed(report, 100)
    drawn = {None: "9 test records are", 9: "9 test patients are", 1: "1 test patient is"}
    assert text.startswith(f"{drawn[patients]} too few: ") and "intervals from" not in text
    assert "[0" not in text and "[–" not in text
    assert np.isfinite(report.rows[0].score.main.value)


def test_an_empty_test_fold_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [rng.integers(-99, 99, (40, 2)).astype(np.int16) for _ in range(20)]
    labels = [{"NORM": 1.0} if i % 2 else {} for i in range(20)]
    small = write_store(tmp_path / "s", records, folds=[1] * 10 + [9] * 10, labels=labels)
    with pytest.raises(LatentcastError, match="test split"):
        probe([PatchSource()], small, CodeGroups("one", {"NORM": ("NORM",)}, True))


def test_every_head_reads_images_next_to_the_floors(tmp_path: Path) -> None:
    store = Images()
    sources = [ImagePatches("trained", seed=1), ImagePatches("random init", seed=2),
               baseline(store)]  # fmt: skip
    report = probe(sources, store, Classes("classes"), resamples=100, seed=7)
    assert [(row.name, row.head, row.choice) for row in report.rows] == [
        ("trained", "kNN", "chosen on validation"),
        ("trained", "linear", "chosen on validation"),
        ("random init", "kNN", "chosen on validation"),  # and it is the layer of trained
        ("random init", "linear", "chosen on validation"),
        ("random init", "linear", "layer of trained"),
        ("pixels", "kNN", "chosen on validation"),
        ("pixels", "linear", "chosen on validation"),
    ]
    first = {row.head: row for row in report.rows[:2]}
    for row in report.rows:
        assert (row.penalty is None) == (row.head == "kNN")
        assert row.score.main.low < row.score.main.value < row.score.main.high
        if row.choice == "layer of trained":
            assert row.layer == first[row.head].layer
    rest = [row for row in report.rows if row.name != "trained"]
    for difference, row in zip(report.differences, rest, strict=True):
        assert (difference.reference, difference.head, difference.choice) == (
            row.name, row.head, row.choice,
        )  # fmt: skip
        gap = first[row.head].score.main.value - row.score.main.value
        assert difference.estimate.value == pytest.approx(gap)
    assert report.records == {"train": 360, "validation": 120, "test": 120}
    assert report.protocol == "classes, folds 1–3/4/5, kNN (k = 20) and linear probe"
    cats = report.labels[2].positives["test"]
    assert cats == (store.class_ids[store.rows("test")] == 2).sum() and not report.left_out
    read = json.loads(report.write(tmp_path).read_text())
    assert (tmp_path / "probe-classes.json").exists() and ProbeReport.from_json(read) == report
    assert read["bootstrap"]["unit"] == "image" and read["bootstrap"]["units"] == 120
    assert [row.head for row in report.readings()] == ["linear"] * 3

    twins: list[FeatureSource] = [ImagePatches("a", seed=1), ImagePatches("b", seed=1)]
    for difference in probe(twins, store, Classes("classes"), resamples=50).differences:
        assert difference.estimate == Estimate(0.0, 0.0, 0.0)


def test_images_of_one_patient_are_drawn_together() -> None:
    store = Images()
    store.patient_ids = np.array([f"p{n // 15}" for n in range(600)])
    store.folds = np.repeat(np.arange(40) % 5 + 1, 15)
    report = probe([Pixels(6, 6, 1)], store, Classes("classes"), resamples=10)
    assert report.bootstrap["unit"] == "patient" and report.bootstrap["units"] == 8


def test_a_class_without_a_training_record_is_never_predicted_and_counts_as_a_miss() -> None:
    store = Images(classes=4)
    gone = (store.class_ids == 1) & np.isin(store.folds, [1, 2, 3])
    store.class_ids[gone] = -1
    report = probe([Pixels(6, 6, 1)], store, Classes("classes"), resamples=20)
    assert report.labels[1].positives["train"] == 0 < report.labels[1].positives["test"]
    assert report.records_without_target == {"train": gone.sum(), "validation": 0, "test": 0}
    missed = report.labels[1].positives["test"] / report.records["test"]
    for row in report.rows:
        assert 0.4 < row.score.main.value <= 1 - missed


@pytest.mark.parametrize("name", ["pretrained", "ijepa-image-tiny (step-00004000, student)"])
def test_a_table_of_two_heads_fits_80_columns(name: str) -> None:
    store = Images(n=300)
    store.classes = ("[red]", "bee", "cat")  # a folder's name is no markup
    store.class_ids[:3] = -1
    sources = [ImagePatches(name), ImagePatches("random-initialised", seed=3), Pixels(6, 6, 1)]
    report = probe(sources, store, Classes("classes"), resamples=30)
    lines = printed(report, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines) and any(line.startswith("[red] ") for line in lines)
    shown = [row.score.main.text() for row in report.rows]
    shown += [d.estimate.text(signed=True) for d in report.differences]
    for numbers in shown:
        assert sum(line.count(numbers) for line in lines) >= shown.count(numbers), numbers
    text = " ".join("".join(f"{line} " for line in lines).split())
    assert "3 images without a label of the task left out (train 3)" in text
    assert f"always the most frequent class: accuracy {report.floors['accuracy']:.3f}" in text


def test_many_classes_are_summed_up_and_not_listed() -> None:
    store = Images(n=300)
    store.classes = ("ant", "bee", "cat", *(f"class {i}" for i in range(30)))
    text = printed(probe([Pixels(6, 6, 1)], store, Classes("classes"), resamples=10), 80)
    assert "33 classes; images of each: train 0 to" in " ".join(text.split())
    assert "class 7" not in text


def test_the_test_split_has_no_say_in_layer_penalty_or_validation() -> None:
    store = Images()
    sources: list[FeatureSource] = [ImagePatches("a", seed=1), Pixels(6, 6, 1)]
    before = probe(sources, store, Classes("classes"), resamples=10)
    test = store.rows("test")
    store.pixels[test] = np.random.default_rng(9).integers(0, 256, store.pixels[test].shape)
    store.class_ids[test] = (store.class_ids[test] + 1) % 3
    after = probe(sources, store, Classes("classes"), resamples=10)
    chosen = [[(r.layer, r.penalty, r.validation) for r in x.rows] for x in (before, after)]
    assert chosen[0] == chosen[1]
    assert [r.score for r in before.rows] != [r.score for r in after.rows]


def test_thresholds_and_temperatures_do_not_depend_on_the_labels_of_the_test_split(
    store: Store, tmp_path: Path
) -> None:
    labels = [store.labels.of(row) for row in range(len(store))]
    for row in store.rows("test"):
        labels[row] = {code: 0.0 for code in ("NORM", "AFIB") if code not in labels[row]}
    records = [store.take([row])[0] for row in range(len(store))]
    other = write_store(
        tmp_path / "o", records, folds=store.folds.tolist(), labels=labels,
        metadata=[{"sex": "fm"[n % 2]} for n in range(len(records))],
    )  # fmt: skip
    chosen, scores = [], []
    for one in (store, other):
        report = probe(
            [PatchSource()], one, MIXED, heads=("kNN", "linear"), resamples=20, by=["sex"]
        )
        for row in report.rows:
            points = [(point.name, point.threshold) for point in row.score.points]
            calibration = row.score.calibration
            assert calibration is not None
            fitted = row.layer, row.penalty, row.validation, calibration.temperature
            chosen.append((*fitted, points))
            scores.append(row.score.main.value)
    assert chosen[:2] == chosen[2:] and scores[:2] != scores[2:]
    women, test = report.rows[0].score.subgroups[0], store.rows("test")
    ill = [code for row in test if row % 2 == 0 for code in labels[row] if code != "STACH"]
    assert (women.name, women.records) == ("f", (test % 2 == 0).sum())
    assert women.positives == len(ill)
    assert all(0 < threshold < 1 for *_, points in chosen for _, threshold in points)


def test_classes_compare_layers_on_some_records_and_are_scored_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def watched(train: np.ndarray, *rest: np.ndarray) -> Any:
        sizes.append(len(train))
        return fit_multinomial(train, *rest)

    monkeypatch.setitem(HEADS["linear"], "multi-class", watched)
    monkeypatch.setattr(protocol, "COMPARED", 50)
    report = probe([ImagePatches("a"), Pixels(6, 6, 1)], Images(), Classes("classes"), resamples=9)
    # Three layers and all joined, the chosen one, the pixels, which have no layers to join.
    assert sizes == [50, 50, 50, 50, 360, 360]
    assert report.compared == 50
    assert "layers compared on 50 training images" in " ".join(printed(report, 80).split())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda store: store.class_ids.fill(-1), "holds no labels; ingest images in one folder a"),
        (lambda store: setattr(store, "classes", ()), "images: holds no labels"),
        (lambda store: store.class_ids.__setitem__(store.rows("train"), 1),
         "train split are of class 'bee'; ingest records that differ"),
        (lambda store: store.class_ids.__setitem__(store.rows("validation"), -1),
         "no record of task classes in the validation split"),
    ],
)  # fmt: skip
def test_a_store_without_what_a_head_needs_is_named_with_the_fix(spoil: Any, message: str) -> None:
    store = Images()
    spoil(store)
    with pytest.raises(LatentcastError, match=message):
        probe([Pixels(6, 6, 1)], store, Classes("classes"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "cls"}, "token 0 sees only itself"),
        ({"heads": ("knn", "lineal")}, "head lineal: does not exist; did you mean 'linear'"),
        ({"resamples": 0}, "resamples 0; ask for one or more"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(LatentcastError, match=message):
        probe([ImagePatches("a", causal=True)], Images(), Classes("classes"), **changes)
    twice: Sequence[FeatureSource] = [Pixels(6, 6, 1)] * 2
    with pytest.raises(LatentcastError, match="one name; name them apart"):
        probe(twice, Images(), Classes("classes"))


def aged(path: Path, n: int = 400) -> Store:
    """Noise ECGs whose amplitude grows with an age that some records do not have."""
    rng = np.random.default_rng(0)
    ages = rng.uniform(20, 90, n).round(1)
    records = [rng.normal(0, 50 + age, (40, 2)).round().astype(np.int16) for age in ages]
    metadata = [{"age": None if i % 20 == 3 else age} for i, age in enumerate(ages.tolist())]
    fold = rng.integers(1, 11, n).tolist()
    return write_store(path, records, folds=fold, metadata=metadata)


def test_a_number_is_regressed_and_scored_by_what_it_explains(tmp_path: Path) -> None:
    store = aged(tmp_path / "store")
    sources = [PatchSource("pretrained"), RandomConvolutions.from_store(store, kernels=30)]
    age = task("metadata:age", store)
    report = probe(sources, store, age, heads=("knn", "linear"), layer="embedding", resamples=50)
    assert (report.kind, report.metric, report.labels) == ("regression", "R²", ())
    targets = age.targets(store)
    train, test = (rows[targets.mask[rows]] for rows in (store.rows("train"), store.rows("test")))
    x = extract(sources[0], store, np.arange(len(store)))["embedding"].astype(np.float64)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    linear = next(row for row in report.rows if row.head == "linear")
    reference = Ridge(alpha=1 / (linear.penalty or 0)).fit(x[train], targets.values[train])
    predicted, true = reference.predict(x[test]), targets.values[test]
    assert linear.score.main.value == pytest.approx(r2_score(true, predicted), abs=1e-6)
    error = linear.score.others["MAE"]
    assert error.value == pytest.approx(mean_absolute_error(true, predicted), abs=1e-5)
    assert linear.score.main.value > 0.5 > 0 > report.floors["R²"] > -0.2
    mean = np.full(len(test), targets.values[train].mean())
    assert report.floors["MAE"] == pytest.approx(mean_absolute_error(true, mean))
    assert error.low < error.value < error.high < report.floors["MAE"]
    assert sum(report.records_without_target.values()) == 20
    lines = printed(report, 80).splitlines()
    assert max(map(len, lines)) <= 80 and any(error.text() in line for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "20 records without a value left out" in text
    assert (
        f"always the mean of the training records: R² {number(report.floors['R²'], signed=True)}"
        in text
    )
    assert report.write(tmp_path).name == file_name("metadata:age") == "probe-metadata-age.json"
    assert (
        ProbeReport.from_json(json.loads((tmp_path / "probe-metadata-age.json").read_text()))
        == report
    )


def test_own_codes_are_scored_and_those_that_cannot_be_are_named(store: Store) -> None:
    report = probe([PatchSource()], store, task("labels", store), resamples=10)
    assert [label.name for label in report.labels] == ["AFIB", "NORM", "STACH"]
    assert report.left_out == {"STACH": "no positive in train"}
    everyone = CodeGroups("one", {"NORM": ("NORM",)})
    with pytest.raises(LatentcastError, match="no label .* in the train split; .*such as normal"):
        probe([PatchSource()], store, everyone)


def test_a_probe_of_another_version_is_told_from_one_of_this(store: Store) -> None:
    plain = probe([PatchSource()], store, MIXED, resamples=10).as_json()
    with pytest.raises(LatentcastError, match="another version .*windows differs.; probe again"):
        ProbeReport.from_json({k: v for k, v in plain.items() if k != "windows"})
    plain["rows"][0]["score"] = {"macro": plain["rows"][0]["score"]["main"]}
    with pytest.raises(LatentcastError, match="another version .*rows.0.score.main differs"):
        ProbeReport.from_json(plain)


def test_digits_are_scored_from_their_store_with_intervals_and_floors(tmp_path: Path) -> None:
    store = ingest(DIGITS, tmp_path / "store", workers=1, quiet=True).store

    class Edge(Pixels):
        name = "upper edge"
        layer_names = ("edge",)

        def token_layers(self, samples: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
            layers, valid = super().token_layers(samples)
            return [layers[0][..., :12]], valid

    sources = [Pixels.from_store(store), Edge.from_store(store)]
    report = probe(sources, store, task(None, store), resamples=200)
    assert sum(report.records.values()) == len(store) and len(report.labels) == 10
    nearest, linear, *_ = (row.score.main.value for row in report.rows)
    assert nearest > 0.95 and linear > 0.93
    assert [d.estimate.outcome for d in report.differences] == ["better", "better"]
    assert report.data["shards"] == store.checksums
