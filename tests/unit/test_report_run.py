"""A report is of one checkpoint and of one store, or it is not written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_stores import write_store

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config
from latentcast.data.fit import fitted
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.attention import received_attention
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.tasks import task
from latentcast.nn.blocks import Attention
from latentcast.objectives.base import Objective, Role
from latentcast.objectives.build import build
from latentcast.objectives.nepa import Nepa
from latentcast.report import embedding
from latentcast.report.run import report_pictures, report_run
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.recording import INVALID

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


def ecgs(path: Path, seed: int = 0) -> Store:
    """Noise of two classes, 60 records of 4 s; one test record without a valid sample."""
    rng = np.random.default_rng(seed)
    ill = np.arange(60) % 2 == 0
    records = [
        rng.normal(0, 150 if sick else 100, (400, 12)).round().astype(np.int16) for sick in ill
    ]
    records[-1][:] = INVALID
    return write_store(
        path,
        records,
        folds=[1] * 30 + [9] * 14 + [10] * 16,
        labels=[{"AMI": 100.0} if sick else {"NORM": 0.0} for sick in ill],
        leads=CANONICAL_LEADS,
    )


def encoder(config: Config, step: int = 7, role: Role = "teacher") -> Encoder:
    return Encoder(config, build(config), role, "pretrained", step)


@pytest.fixture
def run(tmp_path: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A probed run: its folder, its encoder and its store."""
    monkeypatch.setattr(embedding, "project", lambda x, seed: (x[:, :2], 0.5, x[:, :2]))
    store = ecgs(tmp_path / "store")
    config = fitted(small_config, store)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "environment.json").write_text('{"command": "latentcast train tiny"}')
    (folder / "config.yaml").write_text(config.to_yaml())
    tested = encoder(config)
    weights = f"{config.recipe}, teacher, step 7"
    probe(
        [tested],
        store,
        task("superdiagnostic", store),
        layer="block 1",
        resamples=20,
        provenance={"weights": weights},
    ).write(folder)
    return folder, tested, store


def test_a_probed_run_has_a_report_without_the_record_that_cannot_be_read(run: Any) -> None:
    folder, tested, store = run
    page = report_pictures(folder, tested, store, "superdiagnostic").read_text("utf-8")
    assert (
        page.count("latentcast train tiny") == 1
        and f"{tested.config.recipe}, teacher, step 7" in page
    )
    assert "1 record without a valid token left out (test 1)" in page
    assert "15 records of the test fold, layer block 1, mean+std" in page


def test_an_objective_without_patch_errors_has_a_report_without_their_picture(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("predicted_from", "patch_errors"):
        monkeypatch.setattr(Nepa, name, getattr(Objective, name))
    page = report_pictures(*run, "superdiagnostic").read_text("utf-8")
    assert "Where the model is surprised" not in page and "t-SNE" in page


@pytest.mark.parametrize(("step", "role"), [(8, "teacher"), (7, "student")])
def test_a_probe_of_other_weights_is_refused(run: Any, step: int, role: Role) -> None:
    folder, tested, store = run
    with pytest.raises(LatentcastError) as problem:
        report_pictures(folder, encoder(tested.config, step, role), store, "superdiagnostic")
    message = str(problem.value)
    assert "teacher, step 7'" in message and f"{role}, step {step}'" in message
    assert f"run latentcast probe {folder} --data {store.path} --task superdiag" in message
    assert not (folder / "report.html").exists()


def test_a_probe_of_other_samples_is_refused(run: Any, tmp_path: Path) -> None:
    folder, tested, store = run
    other = ecgs(tmp_path / "other", seed=1)
    with pytest.raises(LatentcastError, match=f"samples of {store.path}.*probe"):
        report_pictures(folder, tested, other, "superdiagnostic")
    # The same samples at another place are the same samples.
    report_pictures(folder, tested, ecgs(tmp_path / "copy"), "superdiagnostic")


def test_a_probe_of_another_version_is_refused(run: Any) -> None:
    folder, tested, store = run
    file = folder / "probe-superdiagnostic.json"
    plain = json.loads(file.read_text())
    del plain["records_without_token"], plain["sha256"]
    file.write_text(json.dumps(plain))
    with pytest.raises(
        LatentcastError,
        match="another version .*_token differs.*: run latentcast",
    ):
        report_pictures(folder, tested, store, "superdiagnostic")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("environment.json", None, "environment.json: does not exist; restore it"),
        ("environment.json", "{", "environment.json: cannot be read"),
        ("probe-superdiagnostic.json", None, "does not exist; run latentcast probe"),
        ("probe-superdiagnostic.json", '{"a', "json: cannot be read.*: run latentcast probe"),
        ("probe-superdiagnostic.json", "[]", "holds no JSON object"),
    ],
)
def test_a_file_of_the_run_that_is_gone_or_cut_is_named(
    run: Any, name: str, text: str | None, words: str
) -> None:
    folder, tested, store = run
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(LatentcastError, match=words):
        report_pictures(folder, tested, store, "superdiagnostic")


def test_a_task_that_does_not_exist_is_not_asked_to_be_probed(run: Any) -> None:
    with pytest.raises(LatentcastError, match="did you mean 'superdiagnostic'"):
        report_pictures(*run, "superdiagnostics")


def test_a_run_of_any_kind_has_a_report_without_a_store(run: Any) -> None:
    folder, tested, _ = run
    (folder / "metrics.jsonl").write_text('{"step": 3, "loss": 0.5, "skipped": 0, "alarms": []}\n')
    page = report_run(folder).read_text("utf-8")
    assert "macro AUROC" in page and "the last at step 3 of 12" in page  # the probe is there
    assert "Where the model is surprised" not in page and "t-SNE" not in page
    (folder / "probe-superdiagnostic.json").unlink()
    page = report_run(folder).read_text("utf-8")
    assert "Stands at step 3 of 12" in page and "AUROC" not in page
    assert "optimizer.<wbr>warmup_steps" in page and f"{tested.config.recipe}, run" in page


def test_a_report_without_a_store_finds_the_runs_own_and_never_takes_pictures_away(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It overwrote the full page with a poor one."""
    folder, tested, store = run
    data = {"store": str(store.path), "sha256": store.checksums}
    (folder / "environment.json").write_text(json.dumps({"data": data}))
    monkeypatch.setattr(Encoder, "from_pretrained", lambda run, device: tested)
    page = report_run(folder)
    full = page.read_text("utf-8")
    assert "Where the model is surprised" in full and "t-SNE" in full
    store.path.rename(folder / "moved")
    for _ in range(2):  # the second page without pictures must not take the first one's place
        assert "report-earlier.html; name a store" in report_run(folder).read_text("utf-8")
        assert (folder / "report-earlier.html").read_text("utf-8") == full
    assert "t-SNE" in report_run(folder, folder / "moved").read_text("utf-8")


def test_pictures_of_a_run_that_was_not_probed_are_files_with_captions(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tested, store = run
    data = {"store": str(store.path), "sha256": store.checksums}
    (folder / "environment.json").write_text(json.dumps({"data": data}))
    (folder / "probe-superdiagnostic.json").unlink()
    monkeypatch.setattr(Encoder, "from_pretrained", lambda run, device: tested)
    page = report_run(folder, figures=tmp_path / "figures").read_text("utf-8")
    assert "layer norm, mean+std" in page and "What the tokens hold" in page
    names = ["curves", "ecg", "map", "tokens"]
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == sorted(
        ["captions.md", *(f"{name}{suffix}" for name in names for suffix in (".pdf", ".svg"))]
    )
    captions = (tmp_path / "figures" / "captions.md").read_text("utf-8")
    assert all(f"## {name}: " in captions for name in names)


def test_probes_of_two_heads_and_a_fine_tuning_stand_in_one_page(run: Any) -> None:
    folder, tested, store = run
    probe(
        [tested], store, task("superdiagnostic", store), layer="norm", heads=("kNN",), resamples=20,
        provenance={"weights": f"{tested.config.recipe}, teacher, step 7"},
    ).write(folder)  # fmt: skip
    plain = json.loads((folder / "probe-superdiagnostic.json").read_text())
    tuned = {
        "task": "superdiagnostic", "metric": "macro AUROC", "init": "x", "step": 3,
        "validation": 0.7, "records": plain["records"], "store": "s", "resamples": 20,
        "score": plain["rows"][0]["score"],
    }  # fmt: skip
    (folder / "finetune.json").write_text(json.dumps(tuned))
    page = report_run(folder).read_text("utf-8")
    assert page.count("<h2>Probe: superdiagnostic") == 2 and "<h2>Fine-tuning</h2>" in page
    assert page.count('aria-label="ROC curves on the test fold of') >= 2


def test_keys_that_differ_from_the_recipe_stand_before_those_of_the_machine(run: Any) -> None:
    folder, tested, _ = run
    config = tested.config.updated({"machine.workers": 3, "train.seed": 8, "ema": None})
    (folder / "config.yaml").write_text(config.to_yaml())
    page = report_run(folder).read_text("utf-8").replace("<wbr>", "")
    keys = re.findall("<code>(.*?)</code>", page)
    assert keys[-1] == "machine.workers" and {"train.seed", "ema.base"} < set(keys)
    assert "encoder.causal" not in keys
    (folder / "config.yaml").write_text(config.updated({"recipe": "mine"}).to_yaml())
    assert "no recipe of that name" in report_run(folder).read_text("utf-8")


def test_a_probe_that_is_not_of_this_run_any_more_is_said_to_be_so(run: Any) -> None:
    folder, _, _ = run
    (folder / "checkpoints" / "step-00000012").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000012" / "state.json").write_text('{"step": 12}')
    plain = json.loads((folder / "probe-superdiagnostic.json").read_text())
    del plain["sha256"]  # as a version before it wrote them
    (folder / "probe-form.json").write_text(json.dumps(plain | {"task": "form"}))
    del plain["windows"]
    (folder / "probe-rhythm.json").write_text(json.dumps(plain))
    (folder / "probe-all.json").write_text("{")
    page = report_run(folder).read_text("utf-8")
    assert "probe-form.json is about" in page and "newest checkpoint is of step 12" in page
    assert "probe-rhythm.json is not shown: another version" in page and "(windows differs)" in page
    assert "probe-all.json: cannot be read" in page
    assert page.index("Probe: superdiagnostic") < page.index("Probe: form")


def test_a_store_of_the_other_kind_is_refused(run: Any, digits_store: Path) -> None:
    folder, _, _ = run
    with pytest.raises(LatentcastError, match="holds images, .* was trained on ecg data; give"):
        report_run(folder, digits_store)


def test_a_store_of_few_or_unlabelled_samples_has_a_report_without_a_part(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tested, store = run
    monkeypatch.setattr(embedding, "project", lambda *_: pytest.fail("drew too few records"))
    monkeypatch.setattr("latentcast.report.store_pictures.LEAST", 16)
    remark = "without a map of the features: 15 test records are too few"
    page = report_pictures(folder, tested, store, "superdiagnostic").read_text("utf-8")
    assert "Where the model is surprised" in page and remark in page
    assert remark in capsys.readouterr().err
    (folder / "report.html").unlink()
    noise = np.random.default_rng(0).normal(0, 100, (4, 400, 12)).round().astype(np.int16)
    bare = write_store(
        tmp_path / "bare", list(noise), folds=[1, 1, 9, 10], labels=[{}] * 4, leads=CANONICAL_LEADS
    )
    remark = f"without scores and pictures of {bare.path}: it holds no labels"
    assert remark in report_run(folder, bare.path).read_text("utf-8")
    assert remark in capsys.readouterr().err


def test_a_run_without_its_configuration_is_named(run: Any) -> None:
    folder, _, _ = run
    (folder / "config.yaml").unlink()
    with pytest.raises(LatentcastError, match="config.yaml: does not exist"):
        report_run(folder)


def test_attention_received_is_that_of_the_softmax_over_what_a_token_may_attend_to(
    run: Any,
) -> None:
    """Of equal logits it is 1 for every token, also under a causal mask and with a CLS token."""
    _, tested, store = run
    assert tested.causal
    for module in tested.network.modules():
        if isinstance(module, Attention):
            module.qkv.weight.data.zero_()
    found = received_attention(tested, store.take(np.arange(3), length=tested.length))
    assert found is not None and found.shape == (3, tested.network.grid((tested.length,))[0])
    np.testing.assert_allclose(found, 1, atol=1e-5)
