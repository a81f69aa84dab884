"""Many runs under one harness: what a row is made of, what is kept, and what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evaluation_stores import write_store

from conftest import Command
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.baselines import RandomConvolutions
from latentcast.evaluation.cache import FeatureCache, fingerprint_of
from latentcast.evaluation.comparisons import holm
from latentcast.evaluation.cross_validation import CrossValidation, groups_of
from latentcast.evaluation.evaluation import Evaluation, Row
from latentcast.evaluation.evaluation_tables import markdown, print_evaluation
from latentcast.evaluation.foreign.specification import foreign
from latentcast.evaluation.heads import PATHS, attentive, logistic
from latentcast.evaluation.low_shot import Amount, subset
from latentcast.evaluation.metrics import auroc
from latentcast.evaluation.missing_leads import WithoutLeads
from latentcast.evaluation.tasks import task
from latentcast.report.evaluation import page
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.recording import INVALID
from latentcast.terminal import Terminal
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
                metadata=[{"sex": "mf"[i // 4 % 2]} for i in range(n)],
                leads=CANONICAL_LEADS, record_ids=[f"{folder.name} {i}" for i in range(n)],
                source=folder.name)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, two runs that differ in the seed, a wider one, and two that are fine-tuned."""
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
    finetune(folder / "run-0", store, folder / "scratch", "labels", epochs=1, batch_size=20,
             from_scratch=True, quiet=True)  # fmt: skip
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
    assert html.count("<table") == html.count('<div class="scroll"><table class="wide"') == 2
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


def test_every_source_and_head_has_all_that_a_probe_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    monkeypatch.setattr(attentive, "LEAST_STEPS", 20)
    both = f"{NAME} + {FLOOR}"
    found = evaluate(
        [folder / "run-0", folder / "tuned", folder / "scratch"], folder / "store", "labels",
        heads=["linear", "attentive", "kNN"], encoders={"theirs": lambda x: x.std(dim=2)},
        concatenate=[both], by=["sex"], cv=True, drop_leads=[6], resamples=30,
    )  # fmt: skip
    ours, joined = row(found, NAME), row(found, both)
    scratch = row(found, f"{NAME}, supervised from scratch", "from scratch")
    less = row(found, NAME, store="store, 6 of 12 leads missing")
    assert {r.head for r in found.rows if r.source == both} == {"linear", "kNN"}
    assert row(found, "theirs", "attentive").kind == "foreign" and joined.kind == "concatenated"
    assert less.readings[0].layer == ours.readings[0].layer and less.main != ours.main
    for each in (ours, joined, scratch, less):
        score = each.readings[0].score
        assert (
            each.readings[0].run
            and score.calibration
            and score.points
            and score.others["macro AP"].value > 0
        )
        assert [group.name for group in score.subgroups] == ["f", "m"]
        assert set(each.seconds) == {"features", "fit"} and each.seconds["features"] > 0
    compared = [r for r in found.rows if r.store == "store" and r.difference]
    assert [r.holm for r in compared] == holm([r.p for r in compared if r.p is not None])
    within = [r for r in found.rows if r.cross_validated]
    assert {r.head for r in within} == {"linear", "kNN"} and {r.store for r in within} == {"store"}
    assert ours.cross_validated and ours.cross_validated.main.low < ours.cross_validated.main.high
    for shown in (markdown(found), page(found)):
        assert ours.cross_validated.main.text() in shown and "by sex" in shown
        assert "4 groups of patients" in shown and "6 of 12 leads missing" in shown
    narrow = Terminal(width=80, file=(written := io.StringIO()))
    print_evaluation(found, narrow)
    assert ours.cross_validated.main.text() in written.getvalue()
    whole = evaluate([folder / "run-0"], folder / "store", "labels", heads=["linear"],
                     layer="joined", resamples=9)  # fmt: skip
    assert row(whole, NAME).layers == "joined" and row(whole, FLOOR).layers == "kernels"


def test_out_of_fold_scores_are_those_of_a_loop_over_groups_of_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    owner = np.arange(160) // 2
    store = write_store(
        tmp_path / "store", [np.ones((20, 2), np.int16)] * 160, folds=list(1 + owner % 8),
        labels=[{"ab"[patient % 2 ^ patient // 3 % 2]: 1.0} for patient in owner],
        patient_ids=[f"p{patient}" for patient in owner],
    )  # fmt: skip
    targets, rows = task("labels", store).targets(store), store.rows("train")
    y = targets.values
    layers = {
        "weak": (y[:, :1] + 9 * rng.standard_normal((160, 3))).astype(np.float32),
        "strong": (y[:, :1] + rng.standard_normal((160, 3))).astype(np.float32),
    }
    folds = CrossValidation(store, rows, targets, 20, 0)
    assert folds.division == "folds 1+2, 3+4, 5+6, 7+8"
    found = folds.choose(layers, PATHS["linear"]["multi-label"])
    best = -1.0
    for features in layers.values():
        for place in range(len(logistic.PENALTIES)):
            scores = np.zeros(y.shape)
            for pair in ((1, 2), (3, 4), (5, 6), (7, 8)):
                own = np.isin(store.folds, pair)
                heads = logistic.path(features[~own], y[~own])
                scores[own] = heads[place].predict(features[own])
            best = max(best, float(auroc(y, scores).mean()))
    assert found.layer == "strong" and found.redrawn[0] == pytest.approx(best)
    # A patient in two folds is not in two groups: what is alike of one patient would be learned.
    crossing = store.divided((1 + np.arange(160) % 8).astype(np.int16))
    groups, _ = groups_of(crossing, rows)
    assert all(len(set(groups[owner == patient])) == 1 for patient in owner)
    assert set(np.bincount(groups)) == {40}


def test_missing_leads_are_invalid_and_fewer_are_a_part_of_more(folder: Path) -> None:
    store = Store.open(folder / "store")
    rows = store.rows("test")
    few, many = (WithoutLeads(store, count, 0, rows) for count in (2, 5))
    samples = store.take(rows)
    lost = [(without.take(rows) == INVALID).all(axis=1) for without in (few, many)]
    assert (lost[0].sum(axis=1) == 2).all() and (lost[1].sum(axis=1) == 5).all()
    assert not (lost[0] & ~lost[1]).any() and len(np.unique(lost[0], axis=0)) > 1
    left = ~np.broadcast_to(lost[0][:, None], samples.shape)
    assert np.array_equal(few.take(rows)[left], samples[left])
    assert few.files != many.files != store.files


def test_features_of_a_changed_file_are_not_those_of_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def __init__(self, file: str, providers: list[str]) -> None: ...

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="ecg")]

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={})

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    store, file = Store.open(folder / "store"), tmp_path / "net.onnx"
    prints = []
    for content in (b"one", b"two", b"two", b"one, weights at another location"):
        file.write_bytes(content)
        prints.append(fingerprint_of(foreign("theirs", file, store)))
    assert prints[0] != prints[1] == prints[2] and prints[3] is None
    assert fingerprint_of(foreign("theirs", f"{file},leads=II", store)) != prints[0]
    assert fingerprint_of(foreign("theirs", lambda x: x, store)) is None


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
        ((run, "--drop-leads", 12), "--drop-leads 12: "),
        ((run, "--encoder", f"{FLOOR}=json:dumps"), "is the name of another source"),
        ((run, "--concatenate", f"{NAME} + nobody"), "nobody is no source with features"),
        ((run, "--concatenate", NAME), "names 1 sources"),
        ((run, "--concatenate", f"{NAME} + {FLOOR}", "--head", "attentive"), "add --head linear"),
        ((run, "--by", "sexx"), "by sexx: no record has"),
    ):
        answer = command("evaluate", *arguments, "--data", store, "--out", tmp_path / "out")
        assert answer.status == 2 and message in answer.err, answer.err
        assert len(re.findall("\n", answer.err)) == 1 and not (tmp_path / "out").exists()
