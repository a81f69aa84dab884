"""Encoders of somebody else: what they are given, and what they may not return."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_stores import PatchSource, write_store
from test_probe import MIXED, labelled_store

from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import extract
from latentcast.evaluation.foreign.specification import foreign
from latentcast.evaluation.protocol import probe
from latentcast.signals.recording import INVALID


@pytest.fixture
def store(tmp_path: Path) -> Store:
    time = np.arange(200) / 100
    record = np.stack([800 * np.sin(9 * time), 300 * np.cos(5 * time)], axis=1).astype(np.int16)
    short = record[:120].copy()
    short[:60] = INVALID
    return write_store(tmp_path / "s", [record, short], folds=[1, 1])


def test_it_reads_its_leads_in_its_unit_and_rate_and_the_table_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = []

    def network(signal: torch.Tensor) -> torch.Tensor:
        windows.append(signal)
        return signal.unfold(2, 100, 100).mean(dim=(1, 3)).unsqueeze(2)

    network.unit, network.sampling_rate = "uV", 250  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(network=network))
    source: Any = foreign("theirs", "theirs:network,leads=II+I,length=500", store)
    layers, valid = source.token_layers(store.take([0, 1], [0, 0], source.length))
    assert source.length == 200 and windows[0].shape == (2, 2, 500)
    time = np.arange(500) / 250
    expected = np.stack([300 * np.cos(5 * time), 800 * np.sin(9 * time)])
    inner = slice(25, 475)
    np.testing.assert_allclose(windows[0][0, :, inner], expected[:, inner], atol=4)
    # Samples 60 to 120 of 200: tokens of the second and third fifth.
    assert valid.tolist() == [[True] * 5, [False, True, True, False, False]]
    assert layers[0].shape == (2, 5, 1)
    assert source.note == "theirs reads windows resampled from 100 to 250 Hz"
    assert extract(source, store, np.array([0, 1]))["output"].shape == (2, 2)


@pytest.mark.parametrize(
    ("spec", "returned", "message"),
    [
        ("theirs:network", torch.zeros(1), r"returns the shape \(1,\); return finite floats"),
        ("theirs:network", None, "returns a NoneType"),
        ("theirs:network,length=200", torch.zeros(2, 3, dtype=torch.int64), r"returns torch.int64"),
        (
            "theirs:network,length=200",
            torch.full((2, 3), torch.nan),
            "numbers that are not finite; return",
        ),
        ("theirs:network,leads=I+V9", None, r"has no lead V9, .* name leads of I\+II"),
        ("theirs:network,unit=mm", None, "unit mm is unknown; did you mean 'mV'"),
        ("theirs:network,rate=5", None, "rate is no option; known: leads, length, s"),
        ("theirs:network,length=-5", None, "length -5 is no number above 0; write length=500"),
        ("theirs:other", None, "theirs:other cannot be imported .* write module:function"),
        ("net.pth", None, "runs code when it is loaded; name what reads"),
        ("nowhere", None, "nowhere does not exist; name a run"),
        ("net.onnx", None, r"onnxruntime: is not installed, .* 'latentcast\[onnx\]'"),
    ],
)
def test_what_cannot_be_a_row_is_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, spec: str, returned: Any, message: str
) -> None:
    theirs = SimpleNamespace(network=lambda signal: returned)
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LatentcastError, match=message):
        extract(foreign("theirs", spec, store), store, np.array([0, 1]))


def test_images_arrive_resized_in_its_channels_and_normalisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received = []

    def network(images: torch.Tensor) -> torch.Tensor:
        received.append(images)
        return images.flatten(2).transpose(1, 2)

    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(network=network))
    store: Any = SimpleNamespace(modality="image", height=8, width=8, channels=1, path="s")
    spec = "theirs:network,size=4+8,channels=3,mean=0.5+0.4+0.3,std=0.5"
    source: Any = foreign("theirs", spec, store)
    pixels = np.zeros((2, 8, 8, 1), np.uint8)
    pixels[1] = 255
    layers, valid = source.token_layers(pixels)
    assert received[0].shape == (2, 3, 4, 8) and layers[0].shape == (2, 32, 3) and valid.all()
    np.testing.assert_allclose(layers[0][:, 0], [[-1, -0.8, -0.6], [1, 1.2, 1.4]], rtol=1e-6)
    assert source.note == "theirs reads images resized from 8 × 8 to 4 × 8"
    coloured: Any = SimpleNamespace(modality="image", height=8, width=8, channels=3, path="s")
    with pytest.raises(LatentcastError, match="reads 1 channels, s has 3; write channels=3"):
        foreign("theirs", "theirs:network,channels=1", coloured)


def test_an_onnx_file_and_a_callable_are_rows_beside_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = labelled_store(tmp_path / "s")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(80, 6), torch.nn.Dropout(0.5))

    class Session:
        def __init__(self, file: str, providers: list[str]) -> None: ...
        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="ecg")]

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={})

        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [feed["ecg"].std(axis=2)]

    runtime = SimpleNamespace(InferenceSession=Session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    others = [foreign("theirs", net, store), foreign("onnx", "net.onnx", store)]
    report = probe([PatchSource("pretrained"), *others], store, MIXED, resamples=9)
    assert [row.name for row in report.rows] == ["pretrained", "theirs", "onnx"]
    assert net.training and report.rows[2].score.main.value > 0.6  # amplitude is the label
