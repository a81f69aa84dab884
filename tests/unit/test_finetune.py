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
from latentcast.artifacts.classifier import Classifier, Predicted
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export
from latentcast.artifacts.predictions import activated
from latentcast.artifacts.tables import write_predictions
from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.data.tables.attached import label
from latentcast.engine.checkpoint import list_steps
from latentcast.engine.optimizer import build_optimizer
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
from latentcast.monitors.journal import read_metrics
from latentcast.monitors.validation import SCORE
from latentcast.objectives.build import build
from latentcast.objectives.supervised import Supervised, SupervisedConfig
from latentcast.runs import list_runs
from latentcast.runs.folder import TUNED
from latentcast.signals.windows import window_starts
from latentcast.verification.verify import verify
from latentcast.workflows.finetune import FinetuneResult, finetune
from latentcast.workflows.probe import probe
from latentcast.workflows.train import train

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
    optimizer = build_optimizer(objective, supervised.optimizer)
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


def test_a_pretraining_cannot_start_from_what_was_fine_tuned(
    tuned: tuple[FinetuneResult, Store, Path], small_config: Config, tmp_path: Path
) -> None:
    done, store, _ = tuned
    still = {"optimizer.lr": 0.0, "optimizer.weight_decay": 0.0, "ema": {"base": 1.0}}
    run = train(
        small_config.updated(still), store.path, tmp_path / "run", init=done.run, quiet=True
    ).run
    one, two = (Encoder.from_pretrained(path).network for path in (done.run, run))
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


@pytest.mark.parametrize("begins", ["the pretraining", "a run that began with it", "@1, pruned"])
def test_a_test_record_of_the_pretraining_is_scored(
    small_config: Config, small_store: Path, tmp_path: Path, begins: str
) -> None:
    store = labelled_store(tmp_path / "store")
    records = np.split(np.load(store.path / "shard-00000.npy"), np.cumsum(store.lengths)[:-1])
    seen = [records[row] for row in store.rows("test")]
    write_store(tmp_path / "seen", seen, folds=[1] * len(seen), leads=LEADS)
    run = train(small_config, tmp_path / "seen", tmp_path / "first", quiet=True).run
    if begins != "the pretraining":
        init = run if begins != "@1, pruned" else f"{run}@{small_config.train.steps}"
        run = train(small_config, small_store, tmp_path / "second", init=init, quiet=True).run
        if begins == "@1, pruned":
            shutil.rmtree(tmp_path / "first" / "checkpoints")
        with pytest.raises(LatentcastError, match="test recording in pretraining: .*--allow-leaks"):
            probe(run, store.path, "labels")
    arguments = {"epochs": 1, "batch_size": 8, "quiet": True}
    with pytest.raises(LatentcastError, match="test recording in pretraining: .*--allow-leaks"):
        finetune(run, store.path, tmp_path / "run", "labels", **arguments)
    assert not (tmp_path / "run").exists()
    finetune(run, store.path, tmp_path / "run", "labels", allow_leaks=True, **arguments)
    (score,) = list_runs([tmp_path / "run"])[0].scores
    assert score.variant == "in spite of a leak"
    finetune(run, store.path, tmp_path / "new", "labels", from_scratch=True, **arguments)


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


def test_a_fine_tuning_that_was_trained_on_chooses_again(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    done, store, pretrained = tuned
    run = shutil.copytree(done.run, tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    worst = [row | ({SCORE: 0.0} if SCORE in row else {}) for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in worst))
    again = finetune(pretrained, store.path, run, "labels", epochs=6, batch_size=8, quiet=True)
    assert again.step > rows[-1]["step"]
    assert Choice.read(run / CHOICE).step == again.step
    with pytest.raises(LatentcastError, match="has done .* more --epochs"):
        finetune(pretrained, store.path, run, "labels", epochs=1, batch_size=8, quiet=True)


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


def test_an_export_and_a_checkpoint_predict_with_what_was_chosen_for_them(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    done, store, _ = tuned
    export(done.run, tmp_path / "tuned.safetensors")
    chosen = Classifier.from_pretrained(done.run)
    assert chosen.choice.temperature != 1 and len(chosen.choice.thresholds) == 2
    own = done.run / "checkpoints" / f"step-{done.step:08d}"
    for path in (tmp_path / "tuned.safetensors", own):
        again = Classifier.from_pretrained(path)
        assert again.choice == chosen.choice
        np.testing.assert_array_equal(again.predict(store).values, chosen.predict(store).values)
    others = [path for path in list_steps(done.run / "checkpoints") if path != own]
    assert all(math.isnan(Classifier.from_pretrained(path).choice.score) for path in others)


def test_training_ends_when_patience_does_and_an_interrupted_run_where_it_would_have(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    _, store, pretrained = tuned

    def tune(out: str) -> Path:
        return finetune(pretrained, store.path, tmp_path / out, "labels", epochs=20, patience=2,
                        batch_size=16, quiet=True).run  # fmt: skip

    first, second = tune("first"), tmp_path / "second"
    scores = {row["step"]: row[SCORE] for row in read_metrics(first) if SCORE in row}
    best = max(scores, key=lambda step: (scores[step], -step))
    last = list_steps(first / "checkpoints")[-1]
    assert [step for step in scores if step > best] == [best + 3, best + 6] and best + 6 < 60
    assert last.name == f"step-{best + 6:08d}" and tune("first") == first
    (summary,) = list_runs([first])
    assert (summary.state, summary.best.head) == ("done", "fine-tuned")  # type: ignore[union-attr]
    assert summary.best.value == json.loads((first / TUNED).read_text())["score"]["main"]["value"]  # type: ignore[union-attr]

    shutil.copytree(first, second)
    for path in (second / "checkpoints" / last.name, second / CHOICE, second / TUNED):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert tune("second") == second
    assert (second / CHOICE).read_bytes() == (first / CHOICE).read_bytes()
    one, two = (Encoder.from_pretrained(run / "checkpoints" / last.name).objective.state_dict()
                for run in (first, second))  # fmt: skip
    assert all(map(torch.equal, one.values(), two.values()))


def test_a_table_of_predictions_has_no_two_columns_of_one_name(tmp_path: Path) -> None:
    names = ("id", "a", "a_spread", "crops", "label id")
    found = Predicted(("x", "y", "z"), names, np.arange(15.0).reshape(3, 5), np.zeros((3, 5)),
                      np.array([1, 2, 3]))  # fmt: skip
    write_predictions(found, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        header, first, *_ = csv.reader(file)
    assert len(set(header)) == len(header) == 12 and header[0] == "id" and first[0] == "x"
    assert first[1:6] == ["0.0", "1.0", "2.0", "3.0", "4.0"]
    patients = found.by_patient(["p", "", "p"])
    assert (patients.ids, patients.crops.tolist()) == (("p", "y"), [4, 2])
    assert patients.values.tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]]
    assert patients.spread[:, 0].tolist() == [5, 0]


def test_a_recipe_is_trained_from_scratch_and_is_no_pretraining(
    tuned: tuple[FinetuneResult, Store, Path], tmp_path: Path
) -> None:
    _, store, _ = tuned
    with pytest.raises(LatentcastError, match=r"is a recipe and not pretrained; .*--from-scratch"):
        finetune("nepa-ecg-tiny", store.path, tmp_path / "run", "labels", quiet=True)
    done = finetune(
        "nepa-ecg-tiny", store.path, tmp_path / "run", "labels", epochs=1, batch_size=16,
        from_scratch=True, crop_seconds=2.0, quiet=True,
        set=["encoder.depth=1", "encoder.width=48", "encoder.heads=1"],
    )  # fmt: skip
    settings = Encoder.from_pretrained(done.run).config
    assert (settings.train.init, settings.input.size, done.step) == (None, (200,), 3)


def test_a_validation_split_that_chooses_nothing_fails_before_the_training(
    small_run: Path, tmp_path: Path
) -> None:
    store = labelled_store(tmp_path / "store")
    validation = store.rows("validation")
    store.labels.indices[store.labels.indptr[validation]] = 0
    with pytest.raises(LatentcastError, match="lacks positives or negatives, so no checkpoint"):
        supervision(store, "labels")


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


def test_a_convolutional_encoder_is_pretrained_exported_and_fine_tuned(
    small_convnet: Config, small_store: Path, tmp_path: Path
) -> None:
    """Batch norms: the average evaluates by its own statistics, and they leave with its weights."""
    train(small_convnet, small_store, tmp_path / "pre", quiet=True)
    encoder = Encoder.from_pretrained(tmp_path / "pre")
    export(tmp_path / "pre", tmp_path / "file.safetensors")
    store = labelled_store(tmp_path / "store")
    embedded = encoder.embed(store, layer="stem", pooling="mean+std")
    assert embedded.shape == (60, 12) and np.isfinite(embedded).all()
    same = Encoder.from_pretrained(tmp_path / "file.safetensors").embed(
        store, layer="stem", pooling="mean+std"
    )
    assert np.array_equal(embedded, same)
    done = finetune(tmp_path / "pre", store.path, tmp_path / "run", "labels", epochs=4,
                    batch_size=8, quiet=True)  # fmt: skip
    assert done.score.main.value > 0.6
    loaded = Encoder.from_pretrained(tmp_path / "run")
    objective = loaded.objective
    assert isinstance(objective, Supervised)
    depths = {objective.lr_scale(f"student.encoder.{name}") for name, _ in
              objective.student.encoder.named_parameters()}  # fmt: skip
    assert len(depths) == 1 + small_convnet.encoder.depth
    own, average = (objective.classifier(role).encoder for role in ("student", "teacher"))
    for (name, a), b in zip(own.named_buffers(), average.buffers(), strict=True):
        assert torch.equal(a, b) and (not name.endswith("batches") or int(a) > 12)
    frozen = build(loaded.config.updated({"objective.layer_decay": 0.0}))
    assert isinstance(frozen, Supervised)
    frozen.train()
    assert not frozen.student.encoder.training and frozen.student.head.training


def test_fine_tuning_a_run_with_muon_goes_back_to_adamw(
    small_config: Config, small_store: Path, tmp_path: Path
) -> None:
    """Its steps are made for pretraining, and far larger than those of fine-tuning."""
    muon = small_config.updated({"optimizer.muon": {}})
    before = train(muon, small_store, tmp_path / "before", quiet=True).run
    store = labelled_store(tmp_path / "store")
    finetune(before, store.path, tmp_path / "tuned", "labels", epochs=1, batch_size=8, quiet=True)
    assert "muon: null" in (tmp_path / "tuned" / "config.yaml").read_text()
