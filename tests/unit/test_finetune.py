"""Labels to a classifier: what is trained, how fast, on whom, and what the test split decides."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from evaluation_stores import write_store

from conftest import Command
from latentcast.artifacts.choice import CHOICE, Choice
from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export
from latentcast.artifacts.predictions import activated
from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.data.tables.attached import label
from latentcast.engine.checkpoint import list_steps
from latentcast.engine.optimizer import adamw
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.evaluation.calibration import (
    expected_calibration_error,
    log_loss,
    temperature,
    thresholds,
)
from latentcast.evaluation.predictions import predict
from latentcast.evaluation.supervision import supervision
from latentcast.objectives.build import build
from latentcast.objectives.supervised import Supervised, SupervisedConfig
from latentcast.signals.windows import window_starts
from latentcast.verification.verify import verify
from latentcast.workflows.finetune import FinetuneResult, finetune

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SUPERVISED = {
    "objective": {"kind": "supervised", "task": "labels", "target": "multi-label",
                  "names": ("AF", "SR"), "layer_decay": 0.5},
    "ema": {"half_life": 20.0},
}  # fmt: skip


@pytest.fixture
def supervised(small_config: Config) -> Config:
    return small_config.updated(SUPERVISED)


def labelled_store(folder: Path, swapped: tuple[int, ...] = ()) -> Store:
    """60 patients; a slow wave means AF, and the labels of the test fold may be ``swapped``."""
    generator, records, labels, folds = np.random.default_rng(0), [], [], []
    for n in range(60):
        time = np.arange(500 + 40 * (n % 5))[:, None]
        wave = np.sin(time / (9 if n % 2 else 3)) * 300 + generator.normal(0, 40, (len(time), 12))
        records.append(wave.astype(np.int16))
        # Ten of each parity a fold would leave one label out of it: every other ten is shifted.
        fold = (n + 1 - n // 10 % 2) % 10 + 1
        folds.append(fold)
        af = bool(n % 2) != (fold in swapped)
        labels.append({"AF": 1.0} if af else {"SR": 1.0})
    return write_store(folder, records, folds=folds, labels=labels, leads=LEADS)


@pytest.fixture(scope="module")
def tuned(
    small_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneResult, Store, Path]:
    folder = tmp_path_factory.mktemp("finetune")
    store = labelled_store(folder / "store")
    done = finetune(small_run, store.path, folder / "run", "labels", epochs=4, batch_size=8,
                    quiet=True)  # fmt: skip
    return done, store, small_run


def test_each_layer_learns_at_its_share_of_the_rate(supervised: Config) -> None:
    objective = build(supervised)
    assert isinstance(objective, Supervised)
    optimizer = adamw(objective, supervised.optimizer)
    Schedules.of(supervised).apply(optimizer, 3)
    rates = {name: g["lr"] for g in optimizer.param_groups for name in g["names"]}
    top = Schedules.of(supervised).lr(3)
    for name, rate in rates.items():
        depth = 2 if ".blocks.1." in name else 1 if ".blocks.0." in name else 0
        above = 3 - depth if "encoder" in name and ".encoder.norm" not in name else 0
        assert rate == pytest.approx(top * 0.5**above), name
    assert len(set(rates.values())) == 4


def test_a_missing_label_teaches_nothing(supervised: Config) -> None:
    objective = build(supervised.updated({"encoder.drop_path": 0.0}))
    values = torch.randn(3, 12, 400, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0.0], [math.nan, 1.0], [0.0, math.nan]])
    output = objective(Inputs(values, targets=targets), None)
    logits = objective.student(Inputs(values)).detach().double()  # type: ignore[operator]
    terms = [
        -math.log(torch.sigmoid(z if y else -z).item())
        for row, own in zip(logits, targets, strict=True)
        for z, y in zip(row, own.tolist(), strict=True)
        if not math.isnan(y)
    ]
    assert output.weight == 4
    assert float(output.loss.detach()) == pytest.approx(sum(terms) / 4, rel=1e-5)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_what_is_not_valid_does_not_reach_the_head(supervised: Config, head: str) -> None:
    changes = {"objective.head": head, "encoder.causal": False}
    objective = build(supervised.updated(changes)).eval()
    values = torch.randn(2, 12, 400, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[:, :, 200:] = False
    other = torch.where(valid, values, 7.0)
    one, two = (objective.student(Inputs(v, valid)) for v in (values, other))  # type: ignore[operator]
    assert torch.equal(one, two)


def test_predictions_are_the_mean_over_strided_crops(
    tuned: tuple[FinetuneResult, Store, Path],
) -> None:
    done, store, _ = tuned
    classifier = Classifier.from_pretrained(done.run)
    assert f"outputs, {classifier.encoder!r}" in repr(classifier)
    rows, settings = store.rows("test"), classifier.settings
    found = predict(classifier.outputs, classifier.network, store, rows, 400, settings)
    for place, row in enumerate(rows.tolist()):
        signal = np.asarray(store.take([row]))[0]
        crops = [signal[b : b + 400] for b in window_starts(len(signal), 400)]
        with torch.no_grad():
            outputs = [classifier.outputs(crop[None]).double().numpy()[0] for crop in crops]
        naive = np.array([1 / (1 + np.exp(-z)) for z in outputs])
        assert found.crops[place] == len(crops) > 1
        assert found.values[place] == pytest.approx(naive.mean(axis=0), abs=1e-6)
        assert found.spread[place] == pytest.approx(naive.std(axis=0), abs=1e-6)


def test_the_labels_of_the_test_split_decide_nothing_but_the_score(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    done, _, pretrained = tuned
    other = labelled_store(tmp_path / "store", swapped=(10,))
    again = finetune(pretrained, other.path, tmp_path / "run", "labels", epochs=4, batch_size=8,
                     quiet=True)  # fmt: skip
    assert (again.step, again.validation) == (done.step, done.validation)
    assert (again.run / CHOICE).read_text() == (done.run / CHOICE).read_text()
    one, two = (Classifier.from_pretrained(result.run).network for result in (done, again))
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert done.score.main.value == pytest.approx(1 - again.score.main.value)


def test_the_pretraining_is_where_it_starts_and_is_left_alone(
    tuned: tuple[FinetuneResult, Store, Path],
) -> None:
    done, _, pretrained = tuned
    before = {file: file.read_bytes() for file in pretrained.rglob("*.safetensors")}
    assert done.validation > 0.9  # slow against fast waves
    assert {file: file.read_bytes() for file in pretrained.rglob("*.safetensors")} == before
    record = json.loads((done.run / "environment.json").read_text())
    assert record["init"]["source"] == str(pretrained)


def test_a_finished_fine_tuning_is_not_repeated_and_its_choice_is_checked(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    done, store, pretrained = tuned
    run = shutil.copytree(done.run, tmp_path / "run")
    again = finetune(pretrained, store.path, run, "labels", epochs=4, batch_size=8, quiet=True)
    assert str(again.score) == str(done.score)
    text = (run / CHOICE).read_text()
    (run / CHOICE).write_text(text.replace('"temperature": ', '"temperature": 9'))
    with pytest.raises(LatentcastError, match="fine-tune again"):
        Classifier.from_pretrained(run)
    with pytest.raises(LatentcastError, match="latentcast finetune"):
        Classifier.from_pretrained(pretrained)


def test_a_choice_that_was_cut_short_is_made_again(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, store, pretrained = tuned
    run = shutil.copytree(done.run, tmp_path / "run")
    (run / CHOICE).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "latentcast.workflows.finetune.temperature", Mock(side_effect=KeyboardInterrupt)
        )
        finetune(pretrained, store.path, run, "labels", epochs=4, batch_size=8, quiet=True)
    finetune(pretrained, store.path, run, "labels", epochs=4, batch_size=8, quiet=True)
    assert (run / CHOICE).read_text() == (done.run / CHOICE).read_text()


def test_a_fine_tuned_run_is_its_chosen_checkpoint_wherever_it_is_read(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(tuned[0].run, tmp_path / "run")
    earliest = list_steps(run / "checkpoints")[0]
    step = int(earliest.name.removeprefix("step-"))
    shutil.copytree(earliest, earliest.with_name("step-99999999"))
    choice = Choice.read(run / CHOICE)
    (run / CHOICE).write_text(json.dumps(replace(choice, step=step).as_json()))
    assert export(run, tmp_path / "run.safetensors") == step == Encoder.from_pretrained(run).step


def test_a_supervised_run_is_staged_and_audited(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    _, store, pretrained = tuned
    table = tmp_path / "af.csv"
    rows = [f"{name},{int('AF' in store.labels.of(n))}" for n, name in enumerate(store.record_ids)]
    table.write_text("id,af\n" + "\n".join(rows) + "\n")
    labelled = shutil.copytree(store.path, tmp_path / "store")
    label(Store.open(labelled), table)
    stage = [f"machine.stage={tmp_path / 'stage'}"]
    staged = finetune(pretrained, labelled, tmp_path / "run", "af", epochs=2, batch_size=8,
                      set=stage, quiet=True)  # fmt: skip
    assert verify(staged.run, quiet=True).holds


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 0}, {"labels_fraction": 0}, {"crop_seconds": math.nan}],
)
def test_a_number_that_trains_nothing_is_refused(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    _, store, pretrained = tuned
    with pytest.raises(LatentcastError, match="is not above 0"):
        finetune(pretrained, store.path, tmp_path / "run", "labels", quiet=True, **wrong)


def test_fractions_are_nested_and_of_patients(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    records = [generator.normal(0, 9, (300, 12)).astype(np.int16) for _ in range(90)]
    store = write_store(
        tmp_path, records, folds=[n // 3 % 10 + 1 for n in range(90)],
        patient_ids=[f"p{n // 3}" for n in range(90)], leads=LEADS,
        labels=[{"ab"[n % 2]: 1.0} for n in range(90)],
    )  # fmt: skip
    before: set[int] = set()
    for fraction, patients in ((0.1, 3), (0.5, 12), (1.0, 24)):
        rows = supervision(store, "labels", fraction, seed=1).rows["train"]
        assert len({store.patient_ids[row] for row in rows}) == patients == len(rows) / 3
        assert before <= set(rows.tolist())
        before = set(rows.tolist())


def test_temperature_and_thresholds_against_a_search(supervised: Config) -> None:
    settings = supervised.objective
    assert isinstance(settings, SupervisedConfig)
    generator = np.random.default_rng(0)
    targets = generator.random((400, 2)) < 0.3
    outputs = 4 * (targets - 0.5 + generator.normal(0, 1, (400, 2)))  # too sure of itself
    owner = np.arange(400)
    heat = temperature(owner, outputs, targets, settings)
    losses = {
        t: log_loss(1 / (1 + np.exp(-outputs / t)), targets)
        for t in (heat, heat * 1.1, heat / 1.1, 1)
    }
    assert min(losses, key=losses.__getitem__) == heat > 1.5
    sure = activated(outputs, settings, heat).round(2)  # ties
    for p, y, chosen in zip(sure.T, targets.T, thresholds(sure, targets), strict=True):
        f1 = {at: 2 * (y & (p >= at)).sum() / ((p >= at).sum() + y.sum()) for at in np.unique(p)}
        assert f1[chosen] == max(f1.values())
    bins = (15 * sure[:, 0]).astype(int).clip(max=14)
    gaps = [abs((sure[:, 0] - targets[:, 0])[bins == k].sum()) for k in range(15)]
    error = expected_calibration_error(sure, targets)[0]
    assert error == pytest.approx(sum(gaps) / len(sure))


def test_from_files_and_a_table_to_predictions(
    command: Command, small_run: Path, tmp_path: Path
) -> None:
    store = labelled_store(tmp_path / "store")
    table = tmp_path / "af.csv"
    rows = [f"{name},{int('AF' in store.labels.of(n))}" for n, name in enumerate(store.record_ids)]
    table.write_text("id,af\n" + "\n".join(rows) + "\n")
    out = tmp_path / "predictions.csv"
    for arguments in (
        ("label", store.path, table),
        ("finetune", small_run, "--data", store.path, "--out", tmp_path / "run", "--task", "af",
         "--epochs", 2, "--batch-size", 8, "--head", "attentive", "--balanced", "--bidirectional"),
        ("predict", tmp_path / "run", store.path, "--out", out),
    ):  # fmt: skip
        answer = command(*arguments)
        assert answer.status == 0, answer.err
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == store.record_ids.tolist()
    assert all(0 < float(row["af"]) < 1 for row in found)
    bad = tmp_path / "bad.hea"
    bad.write_text("no header\n")
    for inputs, left_out in (([bad], "1 record left out"), ([], "")):
        answer = command("predict", tmp_path / "run", store.path, *inputs, "--out", out)
        assert answer.status == 0 and left_out in answer.out, answer.err
        assert (str(bad) in (tmp_path / "predictions.rejected.csv").read_text()) == bool(inputs)
        assert len(out.read_text().splitlines()) == 1 + len(store)
    refused = command("predict", tmp_path / "run", bad, "--out", out)
    assert refused.status == 2 and "name others" in refused.err
    refused = command("predict", tmp_path / "run", store.path, "--out", tmp_path / "p.xlsx")
    assert refused.status == 2 and "name it p.csv" in refused.err
