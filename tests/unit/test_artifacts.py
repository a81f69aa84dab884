"""The encoder a run leaves: its weights, its preprocessing, its refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.pretrain import pretrain
from latentcast.signals.recording import INVALID


@pytest.fixture(scope="module")
def run(small_store: Path, small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pretrain(small_config, small_store, folder)
    return folder


def test_run_folder_holds_what_a_reader_needs(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints"}


def test_encoder_has_the_weights_and_statistics_of_the_run(run: Path, small_store: Path) -> None:
    encoder = Encoder.from_pretrained(run, "student")
    saved = checkpoint.read_tensors(checkpoint.latest(run / "checkpoints"), "model.safetensors")
    for name, tensor in encoder._network.state_dict().items():
        assert torch.equal(tensor, saved[f"student.{name}"])
    normalisation = encoder.config.input.normalisation
    assert normalisation is not None
    assert normalisation.mean == Store.open(small_store).manifest.statistics.mean


def test_teacher_student_and_random_are_three_encoders(run: Path, small_store: Path) -> None:
    samples = Store.open(small_store).take([0, 1], length=400)
    last = [
        e.token_layers(samples)[0][-1]
        for e in (Encoder.from_pretrained(run), Encoder.from_pretrained(run, "student"),
                  Encoder.random(run), Encoder.random(run, seed=9))
    ]  # fmt: skip
    for i, one in enumerate(last):
        assert all(not torch.allclose(one, other) for other in last[i + 1 :])


def test_random_encoder_is_where_the_run_started(run: Path, small_config: Config) -> None:
    from latentcast.objectives.build import build

    start = build(small_config).encoder("student").state_dict()
    floor = Encoder.random(run)._network.state_dict()
    assert all(torch.equal(start[name], floor[name]) for name in start)


def test_tokens_leave_out_cls_and_mark_padding(run: Path, small_store: Path) -> None:
    encoder = Encoder.from_pretrained(run)
    samples = Store.open(small_store).take([0], length=400)
    samples[:, 200:] = INVALID
    layers, valid = encoder.token_layers(samples)
    assert [layer.shape for layer in layers] == [(1, 20, 24)] * len(encoder.layer_names)
    assert valid[0].tolist() == [True] * 10 + [False] * 10
    assert np.isnan(encoder.patch_errors(samples)[0, 10:]).all()


def test_embedding_a_recording_sees_the_tensor_that_training_saw(
    run: Path, small_store: Path
) -> None:
    store, encoder = Store.open(small_store), Encoder.from_pretrained(run)
    recording = store.recording(3)
    assert np.array_equal(encoder.counts(recording)[None], store.take([3], length=1000))
    (vector,) = encoder.embed([recording])
    layers, valid = encoder.token_layers(store.take([3], length=1000))
    np.testing.assert_allclose(vector, layers[-1][0][valid[0]].mean(0), rtol=1e-6)


def test_leads_are_found_by_name_whatever_their_order(run: Path, small_store: Path) -> None:
    """NEPA defect 8: MIMIC-IV stores aVF before aVL."""
    from dataclasses import replace

    encoder, recording = Encoder.from_pretrained(run), Store.open(small_store).recording(0)
    order = [0, 1, 2, 3, 5, 4, *range(6, 12)]
    swapped = replace(
        recording, signal=recording.signal[order], valid=recording.valid[order],
        leads=tuple(recording.leads[i] for i in order),
    )  # fmt: skip
    assert np.array_equal(encoder.counts(swapped), encoder.counts(recording))


def test_another_rate_and_a_missing_lead_are_refused(run: Path, small_store: Path) -> None:
    from dataclasses import replace

    encoder, recording = Encoder.from_pretrained(run), Store.open(small_store).recording(0)
    with pytest.raises(LatentcastError, match="sampling_rate is 250, the encoder needs 100"):
        encoder.embed([replace(recording, sampling_rate=250.0)])
    eleven = replace(recording, signal=recording.signal[:11], valid=recording.valid[:11],
                     leads=recording.leads[:11])  # fmt: skip
    with pytest.raises(LatentcastError, match="lead V6 is missing"):
        encoder.embed([eleven])
    with pytest.raises(LatentcastError, match="is no layer; known: embedding"):
        encoder.embed([recording], layer="block 99")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match=r"config\.yaml: does not exist"):
        Encoder.from_pretrained(tmp_path)
