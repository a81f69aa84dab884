"""Configuration: precedence, kinds, and errors that name the key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe


@pytest.fixture
def tiny() -> Config:
    return recipe("nepa-ecg-tiny")


def test_flag_beats_file_beats_recipe(tiny: Config, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer: {lr: 2.0e-4, weight_decay: 0.1}\n")
    resolved = configuration.resolve(tiny, file, ["optimizer.lr=3e-4"])
    assert resolved.optimizer.lr == 3e-4
    assert resolved.optimizer.weight_decay == 0.1
    assert resolved.optimizer.betas == tiny.optimizer.betas


def test_written_configuration_reproduces_itself(tiny: Config, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(tiny.to_yaml())
    assert configuration.load(tmp_path / "config.yaml") == tiny


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001"])
def test_scientific_notation_is_a_number_not_a_string(tiny: Config, written: str) -> None:
    assert configuration.resolve(tiny, None, [f"optimizer.lr={written}"]).optimizer.lr == 1e-3


def test_unknown_flag_offers_the_nearest_key(tiny: Config) -> None:
    with pytest.raises(
        LatentcastError, match=r"optimizer\.warmup_step: .*did you mean 'warmup_steps'"
    ):
        configuration.resolve(tiny, None, ["optimizer.warmup_step=5"])


def test_unknown_section_offers_the_nearest_one(tiny: Config) -> None:
    with pytest.raises(LatentcastError, match="did you mean 'optimizer'"):
        configuration.resolve(tiny, None, ["optimiser.lr=5"])


def test_unknown_key_in_a_file_names_file_key_and_nearest(tiny: Config, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("encoder: {dept: 3}\n")
    with pytest.raises(LatentcastError, match=r"mine\.yaml: encoder\.dept .*did you mean 'depth'"):
        configuration.resolve(tiny, file)


def test_unknown_key_of_the_input_is_found_through_the_union(tiny: Config, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("input: {sampling_rat: 250}\n")
    with pytest.raises(LatentcastError, match="did you mean 'sampling_rate'"):
        configuration.resolve(tiny, file)


def test_flag_without_value_is_refused(tiny: Config) -> None:
    with pytest.raises(LatentcastError, match="key=value"):
        configuration.resolve(tiny, None, ["optimizer.lr"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["encoder.patch=33"], "does not divide .* use a patch of 40"),
        (["encoder.width=99999999999999999999999"], "not a multiple of heads 4; use heads 3"),
        (["encoder.heads=5"], "not a multiple of heads 5"),
        (["encoder.causal=false"], "would see the patch it predicts"),
        (["optimizer.warmup_steps=100000"], "longer than"),
        (["train.batch_size=2", "train.micro_batches=3"], "set train.micro_batches to at most 2"),
        (["encoder.drop_path=1.5"], "encoder.drop_path: .* less than 1"),
        (["train.micro_batches=0"], "train.micro_batches: .* greater than 0"),
        (["encoder.patch=0"], "encoder.patch: .* greater than 0"),
        (["encoder.heads=0"], "encoder.heads: .* greater than 0"),
        (["train.log_every=0"], "train.log_every"),
        (["train.keep_checkpoints=0"], "train.keep_checkpoints"),
        (["input.scale=-1"], "input.scale"),
        (["ema.base=1.5"], "ema.base: .* less than or equal to 1"),
        (["optimizer.lr=nan"], "optimizer.lr: .* finite"),
        (["optimizer.betas=[1, 2]"], "optimizer.betas"),
        (["input.leads=[I, I]"], "I"),
        (["input.leads=[I, foo]"], "foo"),
        (["input.leads=[I, AVF]"], "leads are I AVF; write input.leads=.I,aVF"),
        (["input.leads=[I,II"], "is no value"),
        (["input.normalisation.mean=[0, 0]", "input.normalisation.std=[1]"], "mean has 2"),
    ],
)
def test_contradictions_are_sentences_with_the_mend(
    tiny: Config, flags: list[str], words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        configuration.resolve(tiny, None, flags)


BOMBS = {
    "a date that is none": "train: {steps: 2026-13-45}",
    "lists in 50,000 lists": "a: " + "[" * 50_000 + "]" * 50_000,
    "a number of 5,000 digits": "train: {steps: " + "9" * 5000 + "}",
    "depth": "a: " + "[" * 10**4,
    "aliases": "a0: &a0 [x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "merges": "m0: &m0 {a: 1}\n"
    + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    "itself": "a: &a [*a]",
    "a tag": "a: !!timestamp x",
    "a Python object": "a: !!python/object/apply:os.getcwd []",
    "length": "# " + "x" * 2**20,
    "a key that is no text": "? [1, 2]\n: 3",
    "null for a key": "~: 3",
    "a list for a kind": "encoder: {kind: [1]}",
    "infinity": "optimizer: {lr: .inf}",
    "bytes": "recipe: !!binary /w==",
    "a character that YAML does not have": "recipe: a\0b",
    "a list for a path": "machine: {stage: [x]}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_yaml_file_that_is_a_bomb_is_one_sentence(
    bomb: str, tiny: Config, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text(BOMBS[bomb])
    with pytest.raises(LatentcastError, match=r"bad\.yaml: "):
        configuration.resolve(tiny, tmp_path / "bad.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"recipe: caf\xe9")
    with pytest.raises(LatentcastError, match=r"latin\.yaml: cannot be read"):
        configuration.load(tmp_path / "latin.yaml")


def test_missing_file_and_broken_yaml_are_named(tiny: Config, tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match=r"gone\.yaml: does not exist"):
        configuration.resolve(tiny, tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(LatentcastError, match=r"bad\.yaml: is not valid YAML"):
        configuration.resolve(tiny, tmp_path / "bad.yaml")
    with pytest.raises(LatentcastError, match="cannot be read"):
        configuration.resolve(tiny, tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(LatentcastError, match="holds no mapping"):
        configuration.resolve(tiny, tmp_path / "list.yaml")


def test_configuration_cannot_be_changed_in_place(tiny: Config) -> None:
    with pytest.raises(ValidationError):
        tiny.recipe = "other"  # type: ignore[misc]


def test_differences_name_each_leaf(tiny: Config) -> None:
    other = tiny.updated({"optimizer.lr": 0.5, "train.seed": 3})
    assert len(configuration.differences(tiny, other)) == 2
    assert "optimizer.lr is 0.003 here, 0.5 there" in configuration.differences(tiny, other)


# Kinds of a section


def from_file(recipe_config: Config, tmp_path: Path, text: str, *flags: str) -> Config:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return configuration.resolve(recipe_config, file, flags)


def test_a_file_can_switch_the_kind_of_objective_and_encoder(tiny: Config, tmp_path: Path) -> None:
    """Keys that only the former kind has go; those that both have keep the recipe's values."""
    jepa = from_file(
        tiny,
        tmp_path,
        "objective: {kind: jepa, top_down: false}\n"
        "encoder: {kind: conv_transformer, stem_width: 8, causal: false, cls: false}\n",
    )
    flags = ["objective.kind=jepa", "encoder.kind=conv_transformer", "encoder.stem_width=8",
             "encoder.causal=false", "encoder.cls=false"]  # fmt: skip
    assert jepa == configuration.resolve(tiny, None, flags)
    assert (jepa.objective.kind, jepa.encoder.kind) == ("jepa", "conv_transformer")
    assert jepa.encoder.width == tiny.encoder.width and "patch_embedding" not in jepa.to_yaml()
    back = "objective: {kind: nepa}\nencoder: {kind: transformer, causal: true, cls: true}\n"
    assert from_file(jepa, tmp_path, back) == tiny


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("objective: {kind: jeppa}", "objective: kind 'jeppa' is unknown; did you mean 'jepa'"),
        ("encoder: {kind: conv}", "encoder: kind 'conv' is unknown; known: conv_tr"),
        # The nearest key of this kind, not of another: the transformer has mlp_width.
        ("encoder: {stem_width: 8}", r"encoder\.stem_width is .*; did you mean 'mlp_width'"),
        ("encoder: {kind: conv_transformer, stem_widht: 8}", "did you mean 'stem_width'"),
        ("objective: {patch_embeding: fixed}", "did you mean 'patch_embedding'"),
        ("objective: {kind: jepa, top_donw: true}", "objective.top_donw .*did you mean 'top_down'"),
        ("objective: {kind: jepa, patch_embedding: fixed}", "patch_embedding is .*; known: coarse"),
    ],
)
def test_an_unknown_kind_or_key_of_a_kind_offers_the_nearest(
    tiny: Config, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(LatentcastError, match=words) as raised:
        from_file(tiny, tmp_path, text)
    assert str(raised.value).count(" unknown") == 1  # and no other complaint beside it


def test_an_encoder_without_a_kind_is_the_transformer_it_was(tiny: Config, tmp_path: Path) -> None:
    """A run that was made before there were others still loads and still goes on."""
    former = yaml.safe_load(tiny.to_yaml())
    del former["encoder"]["kind"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(former))
    loaded = configuration.load(tmp_path / "config.yaml")
    assert loaded.encoder == tiny.encoder and configuration.differences(loaded, tiny) == []
    del former["objective"]["kind"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(former))
    one_of = r"set objective\.kind to one of cpc, jepa, masked, nepa"
    with pytest.raises(LatentcastError, match=one_of):
        configuration.load(tmp_path / "config.yaml")
