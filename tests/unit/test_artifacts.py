"""The encoder a run leaves: its weights, its preprocessing, its refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Command
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import extract
from latentcast.runs.new import data_of
from latentcast.signals.recording import INVALID
from latentcast.signals.synthetic import synthetic_recording
from latentcast.workflows.train import train


@pytest.fixture(scope="module")
def run(small_store: Path, small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(small_config, small_store, folder)
    return folder


@pytest.mark.parametrize("verb", ["embed", "probe", "report"])
def test_the_gpu_that_is_there_reads_and_another_device_can_be_named(
    run: Path, small_store: Path, verb: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*device: str) -> str:
        if verb == "embed":
            with pytest.raises(LatentcastError) as refused:
                Encoder.from_pretrained(run, device=device[-1] if device else "auto")
            return str(refused.value)
        return command(verb, run, "--data", small_store, *device).err

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "device cuda: cannot be used" in read(), "this machine has none"
    assert "device toaster: cannot be used" in read("--device", "toaster")
    assert Encoder.from_pretrained(run, device="cpu").device.type == "cpu"


def test_run_folder_holds_what_a_reader_needs(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    names.remove(".lock")  # of a training that may still be going on
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints"}


def test_encoder_has_the_weights_and_statistics_of_the_run(run: Path, small_store: Path) -> None:
    """NEPA defect 12: statistics were recomputed for every data set and never saved."""
    encoder = Encoder.from_pretrained(run, "student")
    saved = checkpoint.read_tensors(checkpoint.latest(run / "checkpoints"), "model")
    for name, tensor in encoder.network.state_dict().items():
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
    floor = Encoder.random(run).network.state_dict()
    assert all(torch.equal(start[name], floor[name]) for name in start)


def test_tokens_leave_out_cls_and_mark_padding(run: Path, small_store: Path) -> None:
    encoder = Encoder.from_pretrained(run)
    samples = Store.open(small_store).take([0], length=400)
    samples[:, 200:] = INVALID
    layers, valid = encoder.token_layers(samples)
    assert [layer.shape for layer in layers] == [(1, 20, 24)] * len(encoder.layer_names)
    assert valid[0].tolist() == [True] * 10 + [False] * 10
    assert np.isnan(encoder.patch_errors(samples)[0, 10:]).all()


def test_embedding_a_recording_is_what_the_probe_reads(run: Path, small_store: Path) -> None:
    """Law 5: windows, padding, mask and pooling are those of the evaluation."""
    store, encoder = Store.open(small_store), Encoder.from_pretrained(run)
    assert np.array_equal(encoder.counts(store.recording(3))[None], store.take([3], length=1000))
    read = extract(encoder, store, np.array([3, 5]), pooling="mean+std")
    for layer in encoder.layer_names:
        vectors = encoder.embed([store.recording(3), store.recording(5)], layer, "mean+std")
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, read[layer], rtol=1e-5, atol=1e-6)


def test_a_short_recording_is_padded_not_stretched_and_a_long_one_is_windowed(run: Path) -> None:
    """NEPA defect 10: positions of an input of another length had another time scale."""
    encoder = Encoder.from_pretrained(run)
    long = synthetic_recording(70, sampling_rate=100, seconds=10)
    cut = slice(0, 231)
    short = replace(long, signal=long.signal[:, cut], valid=long.valid[:, cut])
    padded = np.full((1, 400, 12), INVALID, np.int16)
    padded[0, :231] = encoder.counts(short)
    layers, valid = encoder.token_layers(padded)
    assert valid[0].tolist() == [True] * 12 + [False] * 8  # the twelfth patch is half measured
    np.testing.assert_allclose(
        encoder.embed([short])[0], layers[-1][0][valid[0]].mean(0), rtol=1e-6
    )
    assert encoder.embed([long]).shape == (1, 24)


def test_a_file_is_masked_as_ingest_masks_it(run: Path, small_store: Path) -> None:
    encoder = Encoder.from_pretrained(run)
    recording = synthetic_recording(70, sampling_rate=100, seconds=10)
    recording.signal[7, 300:] = 0.2  # a lead that came off
    assert (encoder.counts(recording)[310:, 7] == INVALID).all()


def test_derived_leads_need_not_be_in_the_file(run: Path) -> None:
    encoder, twelve = Encoder.from_pretrained(run), synthetic_recording(70, sampling_rate=100)
    eight = [0, 1, *range(6, 12)]
    fewer = replace(
        twelve, signal=twelve.signal[eight], valid=twelve.valid[eight],
        leads=tuple(twelve.leads[i] for i in eight),
    )  # fmt: skip
    np.testing.assert_allclose(encoder.counts(fewer), encoder.counts(twelve), atol=1)


def test_a_recording_without_one_valid_patch_is_refused_not_nan(run: Path) -> None:
    recording = synthetic_recording(70, sampling_rate=100)
    blip = replace(recording, signal=recording.signal[:, :8], valid=recording.valid[:, :8])
    with pytest.raises(LatentcastError, match="has no valid patch"):
        Encoder.from_pretrained(run).embed([blip])


def test_tokens_have_seen_no_later_patch_and_leave_out_cls(run: Path, small_store: Path) -> None:
    """NEPA defect 9: CLS under a causal mask is the same for every ECG; it is not among them."""
    encoder = Encoder.from_pretrained(run)
    samples = Store.open(small_store).take([0], length=400)
    changed = samples.copy()
    changed[:, :20] += 100  # the first patch: every patch token sees it, CLS would not
    before, after = (encoder.token_layers(s)[0] for s in (samples, changed))
    for layer in range(1, len(before)):
        assert all(not torch.equal(before[layer][0, n], after[layer][0, n]) for n in range(20))


def test_an_edited_config_file_does_not_change_what_is_read(
    run: Path, small_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    config = tmp_path / "copy" / "config.yaml"
    config.write_text(config.read_text().replace("clip: 5.0", "clip: 0.1"))
    samples = Store.open(small_store).take([0], length=400)
    ours, theirs = (
        Encoder.from_pretrained(r).token_layers(samples)[0][-1] for r in (run, tmp_path / "copy")
    )
    assert torch.equal(ours, theirs)


def test_a_checkpoint_cut_in_half_is_named_by_whoever_reads_it(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    (file,) = (checkpoint.latest(tmp_path / "copy" / "checkpoints") / "model").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LatentcastError, match=r"\.safetensors: is damaged"):
        Encoder.from_pretrained(tmp_path / "copy")


def test_leads_are_found_by_name_whatever_their_order(run: Path, small_store: Path) -> None:
    """NEPA defect 8: MIMIC-IV stores aVF before aVL."""
    encoder, recording = Encoder.from_pretrained(run), Store.open(small_store).recording(0)
    order = [0, 1, 2, 3, 5, 4, *range(6, 12)]
    swapped = replace(
        recording, signal=recording.signal[order], valid=recording.valid[order],
        leads=tuple(recording.leads[i] for i in order),
    )  # fmt: skip
    assert np.array_equal(encoder.counts(swapped), encoder.counts(recording))


def test_another_rate_and_a_missing_lead_are_refused(run: Path, small_store: Path) -> None:
    encoder, recording = Encoder.from_pretrained(run), Store.open(small_store).recording(0)
    with pytest.raises(LatentcastError, match="sampling_rate is 250, the encoder needs 100"):
        encoder.embed([replace(recording, sampling_rate=250.0)])
    eleven = replace(recording, signal=recording.signal[:11], valid=recording.valid[:11],
                     leads=recording.leads[:11])  # fmt: skip
    with pytest.raises(LatentcastError, match="V6"):
        encoder.embed([eleven])
    with pytest.raises(LatentcastError, match="is no layer; known: embedding"):
        encoder.embed([recording], layer="block 99")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="is no run; name the folder of a run"):
        Encoder.from_pretrained(tmp_path)


# One plain file


def test_an_earlier_checkpoint_is_refused_where_a_run_is_taken(
    run: Path, small_store: Path, tmp_path: Path, command: Command
) -> None:
    earlier = checkpoint.list_steps(run / "checkpoints")[0]
    saved = checkpoint.read_tensors(earlier, "model")
    export(earlier, tmp_path / "earlier.safetensors")
    for source in (earlier, tmp_path / "earlier.safetensors"):
        encoder = Encoder.from_pretrained(source, "student")
        assert encoder.step == int(earlier.name[5:]) < Encoder.from_pretrained(run).step
        for name, tensor in encoder.objective.state_dict().items():
            assert torch.equal(tensor, saved[name])
    store = data_of(earlier)
    assert store is not None and store.path == data_of(run).path  # type: ignore[union-attr]
    out = command("train", "--data", small_store, "--out", tmp_path / "on", "--init", earlier,
                  "--config", run / "config.yaml", "--steps", 2,
                  "--set", "optimizer.warmup_steps=1").out  # fmt: skip
    assert f"step {encoder.step}: {len(saved)} of {len(saved)} tensors loaded" in " ".join(
        out.split()
    )
    answer = command("train", earlier, "--steps", 40)
    assert answer.status == 2 and "name its run to go on" in answer.err
    assert command("verify", earlier, "--replay", 0).status == 0


def test_an_exported_file_is_the_run(run: Path, small_store: Path, tmp_path: Path) -> None:
    from latentcast.artifacts.export import export

    file = tmp_path / "encoder.safetensors"
    assert export(run, file) == 12
    (tmp_path / "beside").touch()
    assert file.stat().st_mode == (tmp_path / "beside").stat().st_mode  # others may read it
    samples = Store.open(small_store).take([0, 1], length=400)
    ours, theirs = Encoder.from_pretrained(run), Encoder.from_pretrained(file)
    assert theirs.config == ours.config and theirs.weights == ours.weights
    for a, b in zip(
        ours.token_layers(samples)[0], theirs.token_layers(samples)[0], strict=True
    ):  # fmt: skip
        assert torch.equal(a, b)
    assert np.array_equal(ours.patch_errors(samples), theirs.patch_errors(samples), equal_nan=True)


def rewrite(file: Path, old: str, new: str, *, version: str = "2") -> None:
    """Change the metadata of an exported file, as one edits text; of version 1 it has no digest."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, "pt") as stream:
        about = {name: text.replace(old, new) for name, text in stream.metadata().items()}
    about["format"] = version
    if version == "1":
        about.pop("digest", None)
    save_file(load_file(file), file, about)


def test_an_exported_file_that_was_damaged_or_edited_is_loaded(run: Path, tmp_path: Path) -> None:
    from latentcast.artifacts.export import export

    file = tmp_path / "encoder.safetensors"
    export(run, file)
    intact = file.read_bytes()
    file.write_bytes(intact[:-5] + bytes([intact[-5] ^ 1]) + intact[-4:])
    with pytest.raises(LatentcastError, match="is damaged .*its digest is another.*export the run"):
        Encoder.from_pretrained(file)
    for old, new in (('"clip": 5.0', '"clip": 0.1'), ("12", "13")):
        file.write_bytes(intact)
        rewrite(file, old, new)
        with pytest.raises(LatentcastError, match="is damaged"):
            Encoder.from_pretrained(file)
    file.write_bytes(intact)
    rewrite(file, "", "", version="1")
    assert Encoder.from_pretrained(file).step == 12
    rewrite(file, '"width": 24', '"width": 24000000', version="1")
    with pytest.raises(LatentcastError, match="does not fit the configuration beside it"):
        Encoder.from_pretrained(file)


def test_a_file_that_is_no_export_names_what_reads_it(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from latentcast.artifacts.export import export

    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(LatentcastError, match="and is of no public layout"):
        Encoder.from_pretrained(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"123456789")
    with pytest.raises(LatentcastError, match="cannot be read .* export the run again"):
        Encoder.from_pretrained(tmp_path / "cut.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(LatentcastError, match="name another file"):
        export(run, tmp_path / "file" / "folder.safetensors")
    export(run, tmp_path / "new" / "folder.safetensors")
    assert (tmp_path / "new" / "folder.safetensors").is_file()
