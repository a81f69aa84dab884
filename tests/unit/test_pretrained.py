"""Models that ship with the package, and folders that a model is saved to: read by name, refused
when damaged, with a card of what is recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import Command
from latentcast.artifacts.card import Facts, Result, card
from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export_encoder
from latentcast.artifacts.weights import encoder_weights, read_weights
from latentcast.engine.checkpoint import list_steps, step_of
from latentcast.errors import LatentcastError
from latentcast.files import digested, sha256
from latentcast.objectives.build import build
from latentcast.pretrained import models

NAME = "latentcast/tiny"


@pytest.fixture
def shipped(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a package that ships one model; the current folder is an empty one."""
    folder, encoder = tmp_path / "package", Encoder.from_pretrained(small_run, device="cpu")
    file = folder / "tiny.safetensors"
    export_encoder(encoder.network, encoder.config, encoder.step, file, half=True)
    (folder / "tiny.md").write_text("# card\n")
    digests = {path.name: sha256(path) for path in folder.iterdir()}
    (folder / "models.json").write_text(json.dumps(digested({"sha256": digests})))
    monkeypatch.setattr(models, "FOLDER", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return file


def test_a_model_that_ships_is_another_one_than_its_run(
    shipped: Path, small_run: Path, small_store: Path
) -> None:
    run, stored = (Encoder.from_pretrained(source, device="cpu") for source in (small_run, NAME))
    before, after = (encoder.embed(small_store, "joined") for encoder in (run, stored))
    assert 0 < np.abs(after - before).max() < 0.01 * before.std()
    assert {p.dtype.itemsize for p in stored.network.parameters()} == {4}
    with pytest.raises(LatentcastError, match="averaged weights alone"):
        Encoder.from_pretrained(NAME, role="student")
    with pytest.raises(LatentcastError, match="without the predictor"):
        stored.patch_errors(np.zeros((1, 400, 12), np.int16))
    assert stored.predicted_from is None and run.predicted_from is not None


def test_a_model_that_ships_starts_nothing(
    shipped: Path, small_run: Path, small_store: Path, command: Command, tmp_path: Path
) -> None:
    weights = read_weights(NAME)
    begun = encoder_weights(weights, build(weights.config)).tensors
    network = Encoder.from_pretrained(NAME).network.state_dict()
    assert all((begun[f"student.{name}"] == t).all() for name, t in network.items())
    config = small_run / "config.yaml"
    to = ("--data", small_store, "--set", "train.steps=4", "--out", tmp_path / "new")
    answer = command("train", "--config", config, "--init", NAME, *to)
    assert answer.status == 0 and f"start from {NAME}, step 12" in answer.out
    assert "left at initialisation" not in answer.out
    assert command("export", NAME, "--out", tmp_path / "x.safetensors").status == 0
    assert (tmp_path / "x.safetensors").read_bytes() == shipped.read_bytes()
    assert models.scores_folder(NAME) == Path()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("probe latentcast/tini", "did you mean 'latentcast/tiny'?"),
        ("models latentcast/tini", "did you mean 'latentcast/tiny'?"),
        ("probe google/tiny", "does not exist, and nothing is downloaded; name"),
        ("probe tiny", "name latentcast/tiny, a run folder"),
        ("predict latentcast/tiny nix.npy --out x.csv", "was trained without labels"),
        ("train latentcast/tiny --data s --out r", "give --init latentcast/tiny"),
        *((f"{verb} g.onnx", "is a graph") for verb in ("inspect", "report", "runs", "verify")),
        ("embed g.pt2 nix.npy --out x.csv", "is a graph"),
    ],
)
def test_what_a_model_that_ships_cannot_do_is_no_sentence(
    shipped: Path, command: Command, line: str, words: str
) -> None:
    for name in ("g.onnx", "g.pt2"):
        Path(name).touch()
    answer = command(*line.split())
    assert answer.status == 2 and words in answer.err and answer.err.count("\n") == 1
    assert command("models").out == f"{NAME}\n" and command("models", NAME).out == "# card\n"


def test_damaged_weights_of_the_package_are_read(shipped: Path) -> None:
    shipped.write_bytes(shipped.read_bytes()[:-1] + b"#")
    with pytest.raises(LatentcastError, match="is damaged .*install the package again"):
        Encoder.from_pretrained(NAME)


def test_a_saved_folder_is_another_encoder(shipped: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(NAME, device="cpu", frozen=False)
    next(encoder.network.parameters()).data += 1  # as fine-tuning does
    encoder.save_pretrained(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved", device="cpu")
    for name, tensor in encoder.network.state_dict().items():
        assert (again.network.state_dict()[name] == tensor).all()
    assert "Nothing is recorded" in (tmp_path / "saved" / "README.md").read_text()


def test_a_card_holds_what_the_run_does_not_say(
    small_run: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.md").touch()
    assert "name a new folder" in command("export", small_run, "--out", tmp_path / "full").err
    assert command("export", small_run, "--out", tmp_path / "model").status == 0
    text = (tmp_path / "model" / "README.md").read_text()
    for words in ("12 steps of 6 in", "It was not scored.", "checks hold", "licence of the data",
                  "weights in training is 0."):  # fmt: skip
        assert words in text
    assert str(tmp_path.parent) not in text and "license:" not in text
    assert sha256(tmp_path / "model" / "model.safetensors") in text
    loaded = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.predicted_from is not None
    with pytest.raises(LatentcastError, match="trained without labels"):
        Classifier.from_pretrained(tmp_path / "model")


def test_a_checkpoint_is_named_by_its_step_and_a_folder_with_an_at_by_its_name(
    small_run: Path, small_store: Path, command: Command, tmp_path: Path
) -> None:
    *_, older, newest = list_steps(small_run / "checkpoints")
    run = tmp_path / "mine@2"
    shutil.copytree(small_run, run)
    assert Encoder.from_pretrained(run).step == step_of(newest)
    named = f"{run}@{step_of(older)}"
    assert Encoder.from_pretrained(named).step == step_of(older)
    with pytest.raises(
        LatentcastError, match=f"it has .*{step_of(older)}.*{run}@{step_of(newest)}"
    ):
        Encoder.from_pretrained(f"{run}@7777")
    for words in (
        ("export", named, "--out", tmp_path / "x.safetensors"),
        ("export", named, "--out", tmp_path / "folder"),
        ("inspect", named), ("report", named), ("runs", named),
        ("verify", named, "--replay", 0),
        ("probe", named, "--data", small_store, "--task", "metadata:age"),
    ):  # fmt: skip
        assert command(*words).status == 0, words
    assert Encoder.from_pretrained(tmp_path / "folder").step == step_of(older)
    assert f"step {step_of(older)}" in (run / "probe-metadata-age.json").read_text()


@pytest.mark.parametrize("kind", ["file", "folder", "ships"])
def test_a_verb_takes_a_model_or_names_the_verb_that_does(
    kind: str, shipped: Path, small_run: Path, command: Command, tmp_path: Path
) -> None:
    model = {"file": "m.safetensors", "folder": "m", "ships": NAME}[kind]
    if kind != "ships":
        assert command("export", small_run, "--out", model).status == 0
    for verb in ("report", "verify", "runs"):
        assert f"latentcast inspect {model}" in command(verb, model).err
    assert "window" in command("inspect", model).out
    for out in ("copy.safetensors", "copy"):
        assert command("export", model, "--out", out).status == 0
        copied = Encoder.from_pretrained(out).network.state_dict()
        for name, tensor in Encoder.from_pretrained(model).network.state_dict().items():
            assert (copied[name] == tensor).all(), (out, name)
    ours = {"file": "saved from memory", "folder": Path("m/README.md"), "ships": "# card"}[kind]
    text = ours.read_text() if isinstance(ours, Path) else ours
    assert text in Path("copy/README.md").read_text()


def test_odd_names_leave_the_front_matter_of_a_card_yaml(small_run: Path) -> None:
    odd = 'a: "b" # {c}'
    facts = Facts("", "mit", (odd,), (Result(odd, odd, odd, 0.9, odd),))
    text = card(odd, Encoder.from_pretrained(small_run, device="cpu").config, "w", {}, facts)
    front = yaml.safe_load(text.split("---\n")[1])
    assert '\n# a: "b" \\# {c}\n' in text
    (result,) = front["model-index"][0]["results"]
    assert front["datasets"] == [odd] and result["metrics"][0]["value"] == 0.9
    assert result["dataset"]["name"] == result["task"]["name"] == odd
