"""Agreement with the reference's numbers, and that disagreement is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.public_nepa import encoder_config, from_public, load_public, to_public
from latentcast.errors import LatentcastError
from latentcast.nn import transformer
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives import nepa as nepa_module
from latentcast.verification.parity.compare import compare

FILES = sorted(Path(__file__).parent.glob("nepa*.safetensors"))
VISION = Path(__file__).parent / "nepa_vision.safetensors"
TRAJECTORY = Path(__file__).parent / "nepa_ecg_trajectory.safetensors"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_reference_numbers_are_reproduced(file: Path) -> None:
    agreements = compare(file)
    assert len(agreements) > 50
    assert [a for a in agreements if not a.holds] == []


def differing(file: Path) -> set[str]:
    return {a.quantity for a in compare(file) if not a.holds}


def test_a_missing_stop_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "detach", lambda self: self.clone())
    names = differing(VISION)
    assert names and all(name.startswith("gradient") for name in names)


def test_positions_on_cls_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = transformer.rotary_tables

    def shifted(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cosine, sine = tables(*args)
        return cosine.roll(1, 0), sine.roll(1, 0)

    monkeypatch.setattr(transformer, "rotary_tables", shifted)
    assert {"last hidden state", "loss"} <= differing(VISION)


def test_an_off_by_one_target_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    true_cosine = nepa_module.cosine
    monkeypatch.setattr(nepa_module, "cosine", lambda a, b: true_cosine(a, b.roll(1, dims=1)))
    assert "loss" in differing(VISION)


def test_a_wrong_decay_group_is_seen(tmp_path: Path) -> None:
    with safe_open(TRAJECTORY, "pt") as stream:
        metadata = stream.metadata()
    told = json.loads(metadata["trajectory"])
    told["decayed"].remove("embeddings.cls_token")
    metadata["trajectory"] = json.dumps(told)
    save_file(load_file(TRAJECTORY), tmp_path / "t.safetensors", metadata)
    assert differing(tmp_path / "t.safetensors") == {"final embeddings.cls_token"}


def test_public_names_survive_the_round_trip() -> None:
    tensors = {
        n.removeprefix("weights."): t
        for n, t in load_file(VISION).items()
        if n.startswith("weights.")
    }
    back = to_public(from_public(tensors))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_published_folder_loads_without_edits(tmp_path: Path) -> None:
    public: dict[str, Any] = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "patch_size": 4, "num_channels": 3, "qk_norm": True,
        "use_gated_mlp": True, "hidden_act": "silu", "qk_norm_affine": True, "image_size": 16,
    }  # fmt: skip
    ours = PatchEncoder(encoder_config(public), 3, axes=2)
    ours.initialise(3)
    (tmp_path / "config.json").write_text(json.dumps(public))
    weights = {f"vit_nepa.{n}": t.contiguous() for n, t in to_public(ours.state_dict()).items()}
    weights["classifier.weight"] = torch.zeros(5, 24)  # a fine-tuned head beside it
    weights["vit_nepa.embeddings.mask_token"] = torch.zeros(1, 1, 24)
    save_file(weights, tmp_path / "model.safetensors")
    loaded = load_public(tmp_path)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(
        loaded.transform(loaded.embed(x), (16, 16)), ours.transform(ours.embed(x), (16, 16))
    )
    verbs = Encoder.from_pretrained(tmp_path, device="cpu").network  # what every verb reads
    assert torch.equal(verbs.read(x)[-1], loaded.read(x)[-1])
    del weights["vit_nepa.layernorm.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(LatentcastError, match=r"does not fit config\.json"):
        load_public(tmp_path)
    with pytest.raises(LatentcastError, match=r"config\.json: does not exist"):
        load_public(tmp_path / "nowhere")


REFUSED = object()
# Of each switch: where it goes, the reference's default, what null means, another value, and what
# that becomes.
SWITCHES: dict[str, tuple[str, Any, Any, Any, Any]] = {
    "patch_size": ("patch", 16, REFUSED, 2, 2),
    "hidden_size": ("width", 768, REFUSED, 48, 48),
    "num_hidden_layers": ("depth", 12, REFUSED, 3, 3),
    "num_attention_heads": ("heads", 12, REFUSED, 3, 3),
    "intermediate_size": ("mlp_width", 3072, REFUSED, 96, 96),
    "num_channels": ("", 3, REFUSED, 1, None),
    "use_gated_mlp": ("gated_mlp", False, REFUSED, True, True),
    "hidden_act": ("activation", "gelu", REFUSED, "gelu_new", "gelu_tanh"),
    "hidden_dropout_prob": ("", 0.0, REFUSED, 0.1, REFUSED),
    "attention_probs_dropout_prob": ("", 0.0, REFUSED, 0.1, REFUSED),
    "initializer_range": ("", 0.02, None, 0.1, None),
    "layer_norm_eps": ("norm_eps", 1e-12, REFUSED, 1e-6, 1e-6),
    "rope_theta": ("positions.theta", 100.0, REFUSED, 50.0, 50.0),
    "image_size": ("", 224, None, 64, None),
    "qkv_bias": ("qkv_bias", True, REFUSED, False, False),
    "qk_norm": ("qk_norm", False, REFUSED, True, True),
    "qk_norm_affine": ("qk_norm_affine", False, REFUSED, True, True),
    "qk_norm_bias": ("qk_norm_bias", False, REFUSED, True, True),
    "layerscale_value": ("layer_scale", 1e-5, None, 0, None),
    "drop_path_prob": ("drop_path", 0.0, REFUSED, 0.1, 0.1),
    "add_pooling_layer": ("", False, None, True, None),
    "is_causal": ("causal", True, REFUSED, False, False),
    "pos_embed_rescale": ("positions.rescale", 2.0, None, 0.0, REFUSED),
    "pos_embed_shift": ("positions.shift", None, None, 0.1, 0.1),
    "pos_embed_jitter": ("positions.jitter", None, None, 1.5, 1.5),
}


@pytest.mark.parametrize("how", ["absent", "null", "set"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_public_configuration_with_this_switch_is_malformed(
    tmp_path: Path, switch: str, how: str
) -> None:
    place, default, null, value, becomes = SWITCHES[switch]
    public: dict[str, Any] = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4,
        "intermediate_size": 48, "qk_norm": switch.startswith("qk_norm_"),
        "qk_norm_affine": switch == "qk_norm_bias",
    }  # fmt: skip
    public.pop(switch, None)
    expected = {"absent": default, "null": null, "set": becomes}[how]
    if how != "absent":
        public[switch] = value if how == "set" else None
    (tmp_path / "config.json").write_text(json.dumps(public))
    tensors = {"layernorm.weight": torch.ones(24)}
    if expected is REFUSED:
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(LatentcastError, match=rf"json: {switch} .*(cannot be used|is unknown)"):
            load_public(tmp_path)
        return
    network = PatchEncoder(encoder_config(public), public.get("num_channels", 3), axes=2)
    tensors = {name: t.contiguous() for name, t in to_public(network.state_dict()).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    found = load_public(tmp_path).config
    for name in place.split(".") if place else ():
        found = getattr(found, name)
    assert not place or found == expected


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(LatentcastError, match="is not a NEPA weight"):
        from_public({"encoder.layer.0.crossattention.key.weight": torch.zeros(1)})
    with pytest.raises(LatentcastError, match="is not a NEPA weight"):
        from_public({"decoder.weight": torch.zeros(1)})


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", VISION.read_bytes()[:5000]])
def test_a_damaged_parity_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.safetensors").write_bytes(content)
    with pytest.raises(LatentcastError, match=r"p\.safetensors: cannot be read"):
        compare(tmp_path / "p.safetensors")


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "p.safetensors")
    with pytest.raises(LatentcastError, match="is not a parity file"):
        compare(tmp_path / "p.safetensors")


@pytest.mark.parametrize("config", ["no JSON", '{"num_hidden_layers": 2}', "[]"])
def test_a_configuration_that_is_damaged_is_named(tmp_path: Path, config: str) -> None:
    tensors = {"weights.a": torch.zeros(1)}
    save_file(tensors, tmp_path / "p.safetensors", metadata={"config": config})
    with pytest.raises(LatentcastError, match=r"p\.safetensors: is (not of|neither)"):
        compare(tmp_path / "p.safetensors")
