"""Graphs for runtimes without torch give what the library gives, or are not written."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import WFDB
from latentcast.artifacts.choice import Choice
from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.graph import export as exporting
from latentcast.artifacts.graph.export import export_graph
from latentcast.artifacts.graph.networks import EmbeddingGraph, PredictionGraph, Windows
from latentcast.artifacts.graph.session import Graph
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.objectives.build import build
from latentcast.recipes import recipe
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.windows import window_starts
from latentcast.workflows.train import train

RECORDS = sorted(path.with_suffix("") for path in WFDB.rglob("*_lr.hea"))[:4]


def encoder_of(name: str, changes: dict[str, Any]) -> Encoder:
    config = recipe(name).updated(changes)
    count = config.input.channels
    config = config.updated({"input.normalisation": {"mean": [0.01] * count, "std": [0.3] * count}})
    objective = build(config)
    objective.initialise(0)
    return Encoder(config, objective).to("cpu")


def cut(recording: Recording, samples: int) -> Recording:
    return replace(
        recording, signal=recording.signal[:, :samples], valid=recording.valid[:, :samples]
    )


def millivolts(encoder: Encoder, recordings: list[Recording]) -> Tensor:
    counts = np.stack([encoder.counts(recording) for recording in recordings])
    signal = np.where(counts == INVALID, np.nan, counts * np.float32(encoder.scale))
    return torch.from_numpy(signal.astype(np.float32).swapaxes(1, 2).copy())


@pytest.mark.parametrize("samples", [200, 399, 400, 401, 600, 1000])
def test_windows_are_those_of_the_library_to_the_count(samples: int) -> None:
    counts = np.random.default_rng(0).integers(-32767, 32768, (2, samples, 3)).astype(np.int16)
    counts[0, 7:40, 1] = INVALID
    signal = np.where(counts == INVALID, np.nan, counts * np.float32(0.001)).astype(np.float32)
    found = Windows(400, 0.001)(torch.from_numpy(signal.swapaxes(1, 2))).numpy()
    padded = np.full((2, max(samples, 400), 3), INVALID, np.int16)
    padded[:, :samples] = counts
    starts = window_starts(samples, 400)
    expected = [padded[n, start : start + 400] for n in range(2) for start in starts]
    np.testing.assert_array_equal(found, np.stack(expected))


@pytest.mark.parametrize(
    ("name", "changes", "layer"),
    [
        ("nepa-ecg-tiny", {"input.length": 400}, "joined"),
        ("hjepa-ecg-tiny", {}, "fused"),
        ("conv-ecg-tiny", {}, "block 3"),
        ("ijepa-ecg-leads-tiny", {}, "norm"),
    ],
)
def test_a_graph_embeds_real_ecgs_of_any_length_as_the_library_does(
    name: str, changes: dict[str, Any], layer: str
) -> None:
    encoder = encoder_of(name, changes)
    graph = EmbeddingGraph(encoder, layer, "mean+std").eval()
    for samples in (1000, 500, 130):
        recordings = [cut(read_recording(path), samples) for path in RECORDS]
        expected = encoder.embed(recordings, layer, "mean+std")
        with torch.no_grad():
            found = graph(millivolts(encoder, recordings)).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    with torch.no_grad():
        assert graph(torch.full((1, 12, 300), torch.nan)).isnan().all()


@pytest.mark.parametrize("target", ["multi-label", "multi-class", "regression"])
def test_a_graph_predicts_with_the_temperature_and_the_unit_of_the_library(
    small_config: Config, target: str
) -> None:
    objective = {"kind": "supervised", "task": "t", "target": target, "names": ["a", "b", "c"]}
    if target == "regression":
        objective |= {"names": ["age"], "mean": 60.0, "std": 20.0}
    encoder = encoder_of("nepa-ecg-tiny", {"objective": objective, "input.length": 400})
    classifier = Classifier(encoder, Choice(0, 0.9, temperature=1.7))
    recordings = [read_recording(path) for path in RECORDS]
    with torch.no_grad():
        found = PredictionGraph(classifier).eval()(millivolts(encoder, recordings)).numpy()
    np.testing.assert_allclose(found, classifier.predict(recordings).values, rtol=1e-5)


@pytest.fixture(scope="module")
def run(small_store: Path, small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph") / "run"
    train(small_config.updated({"train.steps": 4}), small_store, folder, quiet=True)
    return folder


def test_an_onnx_file_reads_files_without_torch_in_the_process(
    run: Path, small_store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"
    record = export_graph(run, file, layer="block 1", pooling="mean+std", data=small_store)
    assert record.difference < 1e-5 and record.compared.endswith(f"of {small_store.name}")
    assert Graph(file).record == record and list(tmp_path.iterdir()) == [file]
    paths = [str(path) for path in RECORDS]
    program = (
        "import sys\nfrom latentcast.artifacts.graph.session import Graph\n"
        "graph = Graph(sys.argv[1], threads=1)\n"
        "for path in sys.argv[2:]:\n    print(*graph.read(path))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, file, *paths], capture_output=True, text=True, check=True
    )
    found = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.float32)
    expected = Encoder.from_pretrained(run).embed(paths, "block 1", "mean+std")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformer", "convolutions"])
def test_8_bits_are_as_alike_as_the_file_says_and_a_third_of_the_size(
    run: Path, small_store: Path, small_convnet: Config, tmp_path: Path, kind: str
) -> None:
    if kind == "convolutions":
        run = tmp_path / "run"
        train(small_convnet, small_store, run, quiet=True)
        with pytest.raises(LatentcastError, match="name a store with --data"):
            export_graph(run, tmp_path / "small.onnx", int8=True)
    export_graph(run, tmp_path / "net.onnx", data=small_store)
    record = export_graph(run, tmp_path / "small.onnx", data=small_store, int8=True)
    exact, small = Graph(tmp_path / "net.onnx", threads=1), Graph(tmp_path / "small.onnx")
    assert small.record == record and record.bits == 8 and 0.98 <= record.cosine < 1
    vectors = [np.stack([graph.read(path) for path in RECORDS]) for graph in (exact, small)]
    norms = np.linalg.norm(vectors, axis=2).prod(axis=0)
    assert ((vectors[0] * vectors[1]).sum(axis=1) / norms).min() > record.cosine - 0.01
    assert 1e-5 < record.difference < 0.1


def test_a_torch_graph_reads_one_recording_and_many(run: Path, tmp_path: Path) -> None:
    record = export_graph(run, tmp_path / "net.pt2")
    assert record.compared == "32 synthetic recordings" and record.difference < 1e-5
    program = torch.export.load(tmp_path / "net.pt2").module(check_guards=False)
    for shape in ((1, 12, 400), (5, 12, 900)):
        assert program(torch.zeros(shape)).shape == (shape[0], 24)


def test_a_graph_that_differs_from_the_library_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(EmbeddingGraph):
        def forward(self, samples: Tensor) -> Tensor:
            return super().forward(samples) * 1.01

    (tmp_path / "net.pt2").write_bytes(b"an earlier one")
    monkeypatch.setattr(exporting, "EmbeddingGraph", Wrong)
    with pytest.raises(LatentcastError, match="differs by .* nothing was written"):
        export_graph(run, tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").read_bytes() == b"an earlier one"
    assert len(list(tmp_path.iterdir())) == 1
