"""Public ECG encoders, against their forward passes written plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from conftest import Command
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.public import read_public
from latentcast.errors import LatentcastError
from latentcast.objectives.build import assemble
from latentcast.signals.synthetic import synthetic_recording
from public_ecg import HEADS, kweimann, sehunfromdaegu


@pytest.mark.parametrize(
    ("made", "heads", "shape"),
    [
        (sehunfromdaegu(), HEADS, (8, 2500)),
        (kweimann(1, bias=False, gain=0.0), None, (12, 1000)),
        (kweimann(0, bias=True, gain=0.1), None, (12, 1000)),
    ],
    ids=["sehunfromdaegu", "kweimann", "kweimann, biases and no register"],
)
def test_a_public_ecg_encoder_computes_something_else(
    tmp_path: Path, made: tuple[Any, Callable[[Tensor], Tensor]], heads: int | None,
    shape: tuple[int, int],
) -> None:  # fmt: skip
    content, forward = made
    torch.save(content, tmp_path / "weights.pth")
    found = read_public(tmp_path / "weights.pth", heads)
    network = assemble(found.config).encoder("teacher").double().eval()
    network.load_state_dict(found.tensors)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        ours = network.read(x[None])[-1][0]
    torch.testing.assert_close(ours, forward(x), rtol=0, atol=1e-11)


def test_a_public_file_is_no_model_to_the_verbs(
    small_store: Path, tmp_path: Path, command: Command
) -> None:
    content, forward = sehunfromdaegu(768, 16)
    torch.save(content, tmp_path / "a.pth")
    encoder = Encoder.from_pretrained(tmp_path / "a.pth")
    millivolts = torch.from_numpy(encoder.counts(recording := synthetic_recording(60, 250, 10)))
    vector = torch.from_numpy(encoder.embed(recording)[0])
    plain = forward(millivolts.T.double() * 0.001).mean(0)
    torch.testing.assert_close(vector.double(), plain, rtol=0, atol=1e-3)

    torch.save(kweimann(1, bias=False, gain=0.0)[0], file := tmp_path / "b.pt")
    assert "--out FOLDER --data STORE" in command("inspect", file).err
    to = ("--out", tmp_path / "b", "--data", small_store)
    assert command("export", file, *to).status == 0
    card = (tmp_path / "b" / "README.md").read_text()
    assert "kweimann" in card and "steps of" not in card
    to = ("--config", tmp_path / "b" / "config.json", "--out", tmp_path / "run", "--data")
    more = ("--set", "train.steps=1", "optimizer.warmup_steps=1", "train.batch_size=2")
    answer = command("train", *to, small_store, "--init", tmp_path / "b", *more)
    assert answer.status == 0 and "registers.weight" not in answer.err, answer.err


def test_other_heads_or_other_positions_are_read(tmp_path: Path) -> None:
    torch.save(sehunfromdaegu(768)[0], file := tmp_path / "a.pth")
    with pytest.raises(LatentcastError, match="heads 12 of width 768.*give heads=16"):
        read_public(file, heads=12)
    content, _ = sehunfromdaegu()
    torch.save(content, file)
    with pytest.raises(LatentcastError, match="give heads=N"):
        read_public(file)
    content["encoder"]["pos_embed"] = content["encoder"]["pos_embed"].flip(0)
    torch.save(content, file)
    with pytest.raises(LatentcastError, match="other positions cannot be loaded"):
        read_public(file, heads=4)
    torch.save(kweimann(1, bias=False, gain=0.0)[0], file)
    with pytest.raises(LatentcastError, match="heads 8: were 4"):
        read_public(file, heads=8)


@pytest.mark.parametrize("extra", [{}, {"settings": Path("a")}], ids=["tensors", "with an object"])
def test_a_published_model_that_is_not_read_is_called_unknown(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    names = ("first_conv.conv.weight", "stage_list.0.block_list.0.se_fc1.weight", "dense.weight")
    content = {"state_dict": dict.fromkeys(names, torch.zeros(1)), **extra}
    torch.save(content, file := tmp_path / "12_lead_ECGFounder.pth")
    with pytest.raises(
        LatentcastError, match=r"holds ECGFounder, which is not read here .*--encoder"
    ):
        read_public(file)
    save_file({"feature_projection.projection.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(LatentcastError, match="holds HuBERT-ECG"):
        Encoder.from_pretrained(tmp_path / "a.safetensors")
