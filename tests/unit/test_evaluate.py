"""Many runs under one harness: what a row is made of, what is kept, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_stores import write_store

from conftest import Command
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.baselines import RandomConvolutions
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.evaluation import Evaluation, Row
from latentcast.evaluation.low_shot import Amount, subset
from latentcast.evaluation.tasks import task
from latentcast.report.evaluation import page
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.workflows.evaluate import evaluate
from latentcast.workflows.finetune import finetune
from latentcast.workflows.train import train

FLOOR, NAME = "random convolutions", "nepa-ecg-tiny"


@pytest.fixture(autouse=True, scope="module")
def cheap_floor() -> Any:
    few = dict(RandomConvolutions.__init__.__kwdefaults__, kernels=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RandomConvolutions.__init__, "__kwdefaults__", few)
        yield


def write(
    folder: Path, codes: Sequence[str] = ("AF", "SR"), swapped: int = 0, n: int = 80, seed: int = 0
) -> Path:
    """A slow wave is the first code, but for every fifth record; in fold ``swapped`` the second."""
    rng = np.random.default_rng(seed)
    slow = rng.integers(2, size=n).astype(bool)
    folds = [(1, 2, 9, 10)[i % 4] for i in range(n)]
    time = np.arange(400)[:, None]
    records = [
        (200 * np.sin(time / (9 if is_slow else 4)) + 150 * rng.standard_normal((400, 12))).astype(
            np.int16
        )
        for is_slow in slow
    ]
    labels = [
        {codes[int(is_slow == (fold == swapped)) ^ (i % 5 == 1)]: 1.0}
        | dict.fromkeys(codes[2:], float(i % 2))
        for i, (is_slow, fold) in enumerate(zip(slow, folds, strict=True))
    ]
    patients = [f"{folder.name} {i // 8} {i % 4}" for i in range(n)]
    write_store(folder, records, folds=folds, labels=labels, patient_ids=patients,
                leads=CANONICAL_LEADS, record_ids=[f"{folder.name} {i}" for i in range(n)],
                source=folder.name)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, two runs that differ in the seed, a wider one and a fine-tuned one."""
    folder = tmp_path_factory.mktemp("evaluate")
    store = write(folder / "store")
    config = small_config.updated(
        {"train.steps": 2, "optimizer.warmup_steps": 1, "train.checkpoint_every": 1,
         "train.keep_checkpoints": 2}
    )  # fmt: skip
    for seed in (0, 1):
        train(config.updated({"train.seed": seed}), store, folder / f"run-{seed}", quiet=True)
    train(config.updated({"encoder.depth": 1}), store, folder / "shallow", quiet=True)
    finetune(folder / "run-0", store, folder / "tuned", "labels", epochs=1, batch_size=20,
             quiet=True)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Evaluation:
    runs = [folder / name for name in ("run-0", "run-1", "shallow", "tuned")]
    return evaluate(runs, folder / "store", "labels", labels_fraction=(0.5, 1), draws=2,
                    resamples=50, out=folder / "out", command="by hand")  # fmt: skip


def row(
    found: Evaluation, source: str, head: str = "linear", amount: str = "1", store: str = "store"
) -> Row:
    key = (source, head, amount, store)
    (one,) = [r for r in found.rows if (r.source, r.head, r.amount, r.store) == key]
    return one


def test_runs_that_differ_in_the_seed_are_one_row_and_others_are_not(found: Evaluation) -> None:
    seeds, shallow = "nepa-ecg-tiny (run-0)", "nepa-ecg-tiny (shallow)"
    pair = row(found, seeds)
    values = [reading.score.main.value for reading in pair.readings]
    assert [reading.seed for reading in pair.readings] == [0, 1]
    assert pair.main.value == pytest.approx(np.mean(values))
    assert pair.seeds is not None and pair.seeds.n == 2 and pair.draws is None
    assert pair.seeds.sd == pytest.approx(np.std(values, ddof=1))
    assert pair.main.low < pair.main.value < pair.main.high
    assert row(found, shallow).seeds is None
    assert len(row(found, f"{seeds} at initialisation").readings) == 2
    assert pair.difference is not None and row(found, FLOOR).difference is None
    gap = pair.main.value - row(found, FLOOR).main.value
    assert pair.difference.value == pytest.approx(gap)
    tuned = row(found, NAME, "fine-tuned")
    report = json.loads((Path(tuned.readings[0].run) / "finetune.json").read_text())
    assert tuned.main.value == pytest.approx(report["score"]["main"]["value"])
    few = row(found, seeds, amount="0.5")
    assert few.draws is not None and few.draws.n == 2 and len(few.readings) == 4


def test_what_is_written_is_complete_and_fits_a_phone(found: Evaluation, folder: Path) -> None:
    out = folder / "out"
    assert Evaluation.read(out / "evaluation.json") == found
    text, html = (out / "evaluation.md").read_text(), (out / "evaluation.html").read_text()
    for each in found.rows:
        assert each.main.text() in text and each.main.text() in html
    assert "by hand" in text and "by hand" in html
    assert html.count('<svg class="forest"') == 2 and 'viewBox="0 0 400' in html
    assert html.count("<table") == html.count('<table class="stacked"') == 2
    (out / "evaluation.json").write_text(
        (out / "evaluation.json").read_text().replace('"run-0"', '"run-7"').replace("0.9", "0.8")
    )
    with pytest.raises(LatentcastError, match="was changed since"):
        Evaluation.read(out / "evaluation.json")
    assert "<script" not in page(found)


def test_kept_features_give_the_same_rows_and_others_are_not_taken(
    found: Evaluation, folder: Path, tmp_path: Path
) -> None:
    def again(*runs: str, **how: Any) -> Evaluation:
        return evaluate([folder / run for run in runs], folder / "store", "labels", resamples=50,
                        cache=tmp_path, **how)  # fmt: skip

    first, second = again("run-0"), again("run-0")
    assert first.provenance["features"] == "3 read from samples, 0 found in the cache"
    assert second.provenance["features"] == "0 read from samples, 3 found in the cache"
    assert first.rows == second.rows
    (earlier,) = (folder / "run-0" / "checkpoints").glob("step-*1")
    other = again(str(earlier.relative_to(folder)))
    assert other.provenance["features"] == "1 read from samples, 2 found in the cache"
    file = sorted(tmp_path.glob("*.npz"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    mended = again("run-0", heads=["linear"])
    rows = [r for r in first.rows if r.head == "linear"]
    assert list(mended.rows) == rows or str(file) not in "".join(mended.remarks)
    assert not list(tmp_path.glob(".*"))


def test_test_labels_change_nothing_but_the_score(folder: Path, tmp_path: Path) -> None:
    one, other = (
        evaluate([folder / "run-0", folder / "tuned"], store, "labels", resamples=20)
        for store in (folder / "store", write(tmp_path / "store", swapped=10))
    )
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        for a, b in zip(mine.readings, theirs.readings, strict=True):
            assert (a.layer, a.penalty, a.validation) == (b.layer, b.penalty, b.validation)
            assert b.score.main.value == pytest.approx(1 - a.score.main.value)


def test_a_store_from_elsewhere_is_scored_whole_by_heads_fitted_here(
    folder: Path, tmp_path: Path
) -> None:
    away, same = (
        write(tmp_path / name, codes, seed=3)
        for name, codes in (("away", ("SR", "AF", "AA")), ("same", ("AF", "SR", "AA")))
    )
    found = evaluate([folder / "run-0", folder / "tuned"], folder / "store", "labels",
                     external=[away, same], resamples=20)  # fmt: skip
    here, there, _ = found.cohorts
    assert there.external and there.records == {"test": 80} and here.records["test"] == 20
    assert there.unused == ("1 labels that were not trained",)
    for head in ("linear", "fine-tuned"):
        mine, swapped, fitting = (
            row(found, NAME, head, store=store) for store in ("store", "away", "same")
        )
        assert mine.readings[0].layer == fitting.readings[0].layer
        assert fitting.main.value == pytest.approx(1 - swapped.main.value)
    assert row(found, NAME, store="same").main.value > 0.6
    lacking = write(tmp_path / "lacking", ("AF", "B"), seed=4)
    with pytest.raises(LatentcastError, match=r"lacking: has no label SR of task labels; label it"):
        evaluate([folder / "run-0"], folder / "store", "labels", external=[lacking])
    copy = shutil.copytree(folder / "store", tmp_path / "copy")
    with pytest.raises(LatentcastError, match="test recording in pretraining"):
        evaluate([folder / "run-0"], folder / "store", "labels", external=[copy])


def test_a_smaller_amount_of_labels_is_a_subset_by_patient(folder: Path) -> None:
    store = Store.open(folder / "store")
    targets, train_rows = task("labels", store).targets(store), store.rows("train")
    for amounts in (
        (Amount(0.1), Amount(0.5), Amount()),
        (Amount(shots=1), Amount(shots=3), Amount(shots=100)),
    ):
        for seed in (0, 1):
            rows = [subset(amount, store, train_rows, targets, seed) for amount in amounts]
            assert set(rows[0]) < set(rows[1]) < set(rows[2]) == set(train_rows)
    drawn = subset(Amount(shots=2), store, train_rows, targets, 0)
    owners = [set(store.patient_ids[drawn[targets.values[drawn, c]]]) for c in (0, 1)]
    assert [len(patients) for patients in owners] == [2, 2]
    assert not np.array_equal(drawn, subset(Amount(shots=2), store, train_rows, targets, 1))


def test_everything_that_is_wrong_is_said_before_features_are_read(
    folder: Path, digits_store: Path, command: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    damaged = shutil.copytree(folder / "run-1", tmp_path / "damaged")
    for file in damaged.glob("checkpoints/*/model/*"):
        file.write_bytes(file.read_bytes()[:-9])
    monkeypatch.setattr(FeatureCache, "extract", lambda *_, **__: pytest.fail("read too early"))
    store, run = folder / "store", folder / "run-0"
    for arguments, message in (
        ((run, "--task", "labelz"), "task labelz: does not exist; did you mean 'labels'"),
        ((run, "--task", "labels", "--head", "lineal"), "head lineal: does not exist; did you"),
        ((run, "--task", "labels", "--layer", "block 7"), "layer block 7: does not exist; known"),
        ((run, "--task", "labels", "--reference", "run-0"), "reference run-0: is no source"),
        ((run, damaged), "damaged"),
        ((run, run), "has the weights of"),
        ((run, tmp_path / "nowhere"), "nowhere"),
        ((folder / "tuned", "--task", "classes"), "add --task labels"),
        ((run, "--labels-fraction", 0), "labels_fraction 0: give one above 0"),
        ((run, "--external", digits_store), "was trained on ecg data; score it on a store of"),
        ((run, "--external", store), "one store is there twice"),
    ):
        answer = command("evaluate", *arguments, "--data", store, "--out", tmp_path / "out")
        assert answer.status == 2 and message in answer.err, answer.err
        assert len(re.findall("\n", answer.err)) == 1 and not (tmp_path / "out").exists()
