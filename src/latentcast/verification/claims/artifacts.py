"""What leaves a run is what was trained, read as training read it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latentcast.artifacts.encoder import Encoder
from latentcast.data.fit import reading
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.evaluation import features
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import from_signal
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.data import TWELVE, is_ecg, recordings
from latentcast.verification.observe.network import within
from latentcast.verification.observe.probe import encoder
from latentcast.verification.observe.rehearsal import averages, pairs
from latentcast.verification.observe.twin import Subject

OURS = "our design, law 5: preprocessing travels with the weights"
FLOAT = 2.0**-23


def _entering(network: nn.Module, run: Callable[[], object]) -> list[Tensor]:
    """The tensors that came to the patch embedding of an encoder."""
    seen: list[Tensor] = []
    patches = network.get_submodule("patches" if hasattr(network, "blocks") else "finest.patches")
    handle = patches.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        run()
    finally:
        handle.remove()
    return seen


def _plain_inputs(subject: Subject) -> tuple[Any, Any, Tensor]:
    """A training batch without augmentation: its loader, the batch, and what entered the network
    while the objective was computed."""
    changes: dict[str, Any] = {"train.micro_batches": 1}
    if not is_ecg(subject):
        changes |= {"input.crop_scale": None, "input.flip": False}
    config = subject.config.updated(changes)
    loader, preprocess = reading(subject.store, config)
    batch = loader.batch(3)
    objective = subject.objective()
    draw = subject.draw(3)
    entered = _entering(
        objective.encoder("student"),
        lambda: objective(preprocess(batch.samples, draw), draw),
    )
    return loader, batch, entered[0]


def _same_tensor(subject: Subject) -> Evidence:
    """At the patch embedding, in training and in ``embed``."""
    loader, batch, trained = _plain_inputs(subject)
    source: Any = encoder(subject)
    store = subject.store
    if store.modality == "ecg":
        rows, starts, length = loader.request(batch.ids.numpy())
        asked = []
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            whole = store.recording(row)
            here = slice(start, start + length)
            asked.append(replace(whole, signal=whole.signal[:, here], valid=whole.valid[:, here]))
    else:
        asked = batch.samples.numpy()
    used = torch.cat(_entering(source.network, lambda: source.embed(asked)))
    same = used.shape == trained.shape and torch.equal(used, trained)
    told: dict[str, Number] = {"samples": len(trained), "same bits": same}
    if used.shape == trained.shape:
        told["largest difference"] = float((used - trained).abs().max())
        told |= {"mean of embed's": float(used.mean()), "of training's": float(trained.mean())}
    return Evidence(same, told)


def _counts(subject: Subject) -> Evidence:
    """Files of all kinds, ingested, and read and given to an encoder: the same integers."""
    held, source = recordings(subject), encoder(subject)
    store, told, holds = held.device_store, dict[str, Number](), True
    for name, record in held.devices.items():
        if record.rate != held.rate:
            continue
        given = source.counts(read_recording(record.file))
        row = store.row_of(name)
        stored = store.take([row], [0], int(store.lengths[row]))[0]
        differing = int((given != stored).sum()) if given.shape == stored.shape else given.size
        told[f"{name}: counts that differ"] = differing
        holds = holds and not differing
    cohort = held.cohort.store
    for row in (0, 2):  # with a gap, with a flat stretch
        truth = held.cohort.signals[row].astype(np.float32)
        read = from_signal(truth, TWELVE, held.rate, f"record {row}")
        given = source.counts(read)
        differing = int((given != cohort.take([row])[0]).sum())
        told[f"record {row} with what is no signal: differ"] = differing
        holds = holds and not differing
    return Evidence(holds and len(told) > 2, told)


def _embedded(subject: Subject) -> Evidence:
    """Whole records, longer than the training length, and images: embedded, and by the probe."""
    source: Any = encoder(subject)
    if is_ecg(subject):
        store = recordings(subject).cohort.store
        rows = np.array([0, 2, 5])
        given = source.embed([store.recording(int(row)) for row in rows], pooling="mean+std")
        read = features.extract(source, store, rows, pooling="mean+std")["norm"]
    else:
        images = subject.store
        assert images.modality == "image"
        rows = np.arange(5)
        given = source.embed(images.take(rows), pooling="mean+std")
        read = features.extract(source, images, rows, pooling="mean+std")["norm"]
    if given.shape != read.shape:
        return Evidence(False, {"shape": str(given.shape), "the probe's": str(read.shape)})
    apart = float(np.abs(given - read).max() / np.abs(read).max())
    return within({"largest difference": (apart, 256 * FLOAT)}, records=len(rows))


def _shorter(subject: Subject) -> Evidence:
    """What is beyond the end of a short recording counts for nothing: filled with anything else
    that is not valid, it embeds alike."""
    held, source = recordings(subject), encoder(subject)
    short = read_recording(held.devices["short"].file)
    room = source.length - short.samples
    filled = replace(
        short,
        signal=np.concatenate([short.signal, np.full((12, room), np.nan, np.float32)], 1),
        valid=np.concatenate([short.valid, np.zeros((12, room), bool)], 1),
    )
    one, two = (source.embed([recording]) for recording in (short, filled))
    entered = torch.cat(_entering(source.network, lambda: source.embed([short])))
    beyond = float(entered[..., short.samples :].abs().max())
    return within(
        {"difference": (float(np.abs(one - two).max()), 0.0),
         "largest value beyond its end": (beyond, 0.0)}, samples=short.samples,
    )  # fmt: skip


# Weights


def _newest(subject: Subject) -> Path:
    return checkpoint.latest(subject.trained().folder / "checkpoints")


def _written(subject: Subject) -> Evidence:
    """The files themselves, read by safetensors, against the objective that was trained."""
    live = {n: t.detach() for n, t in subject.trained().objective.state_dict().items()}
    held: dict[str, Tensor] = {}
    for file in sorted((_newest(subject) / "model").glob("*.safetensors")):
        held |= load_file(file)
    read = checkpoint.read_tensors(_newest(subject), "model")
    strange = sorted(set(live) ^ set(held))
    wrong = [n for n in live if n in held and not torch.equal(live[n], held[n])]
    wrong += [n for n in live if n not in read or not torch.equal(live[n], read[n])]
    told: dict[str, Number] = {
        "tensors": len(live), "missing or strange": ", ".join(strange[:3]) or "none",
        "differ": ", ".join(wrong[:3]) or "none",
    }  # fmt: skip
    return Evidence(not strange and not wrong, told)


def _equal(subject: Subject) -> Evidence:
    """Every layer, of the encoder that was loaded and of the objective as training left it."""
    source: Any = encoder(subject)
    batch = subject.batch(4)
    given, _ = source.token_layers(batch.samples.numpy())
    live = copy.deepcopy(subject.trained().objective).eval()
    changes: dict[str, Any] = {"train.micro_batches": 1}
    _, preprocess = reading(subject.store, subject.config.updated(changes))
    inputs = preprocess(batch.samples)
    network = live.encoder("teacher")
    valid = None
    if inputs.valid is not None:
        valid = network.valid(inputs.valid)
    with torch.no_grad():
        wanted = network.read(inputs.values, valid)
    worst = max(float((a - b).abs().max()) for a, b in zip(given, wanted, strict=True))
    same = all(torch.equal(a, b) for a, b in zip(given, wanted, strict=True))
    told = {"layers": len(given), "same bits": same, "largest difference": worst}
    return Evidence(same and len(given) == len(network.layer_names), told)


def _teacher(subject: Subject) -> Evidence:
    """By its weights at the end of the last step, which were seen from outside."""
    run = subject.trained()
    end, names = run.steps[-1].end, pairs(run.objective)
    told, holds = dict[str, Number](), True
    for role, column in (("teacher", 1), ("student", 0)):
        loaded = Encoder.from_pretrained(run.folder, role)  # type: ignore[arg-type]
        held = list(loaded.network.parameters())
        own = [end[pair[column]] for pair in names]
        other = [end[pair[1 - column]] for pair in names]
        wrong = sum(not torch.equal(a, b) for a, b in zip(held, own, strict=True))
        alike = sum(torch.equal(a, b) for a, b in zip(own, other, strict=True))
        told[f"{role}: tensors that are not its"] = wrong
        told["tensors that are both's"] = alike
        holds = holds and not wrong and alike < len(own)
    by_default = Encoder.from_pretrained(run.folder).role
    return Evidence(holds and by_default == "teacher", told | {"by default": by_default})


def _damaged(subject: Subject) -> Evidence:
    """A bit turned in the weights, a file cut short, and a record that is gone."""
    told, holds = dict[str, Number](), True
    for name, spoil in (("a bit turned", _turn), ("cut short", _cut), ("record gone", _lose)):
        folder = subject.folder / "damaged run"
        shutil.rmtree(folder, ignore_errors=True)
        target = folder / "checkpoints" / _newest(subject).name
        shutil.copytree(_newest(subject), target)
        spoil(target)
        try:
            Encoder.from_pretrained(folder)
            told[name], holds = "loaded", False
        except LatentcastError as problem:
            told[name] = "refused: " + str(problem).replace(str(subject.folder), "")[:70]
        except Exception as problem:
            told[name], holds = f"fell over: {type(problem).__name__}", False
    return Evidence(holds, told)


def _weights_file(target: Path) -> Path:
    return sorted((target / "model").glob("*.safetensors"))[0]


def _turn(target: Path) -> None:
    file = _weights_file(target)
    raw = bytearray(file.read_bytes())
    raw[-6] ^= 0x40
    file.write_bytes(raw)


def _cut(target: Path) -> None:
    file = _weights_file(target)
    file.write_bytes(file.read_bytes()[:-64])


def _lose(target: Path) -> None:
    (target / "state.json").unlink()


CLAIMS: tuple[Claim, ...] = (
    Claim("artifact.same-tensor", "embed gives the network exactly the tensor that training gave "
          "it of the same samples.", OURS, _same_tensor),
    Claim("artifact.counts", "A file read for an encoder becomes the counts that ingest stores.",
          OURS, _counts, is_ecg),
    Claim("artifact.embed", "embed and the probe read the same features, of what is longer than "
          "the training length too.", OURS, _embedded),
    Claim("artifact.short", "A recording shorter than the training length is padded with what is "
          "not valid, and not stretched.", "specification, defect 10: the time scale destroyed",
          _shorter, is_ecg),
    Claim("artifact.written", "A checkpoint holds every tensor as training left it.",
          "our design, law 1: the state is the step", _written),
    Claim("artifact.equal", "Features of the loaded encoder are those of the library's objective, "
          "bit for bit.", "specification, executable requirement 28", _equal),
    Claim("artifact.teacher", "The averaged weights are what is read by default, and the trained "
          "ones where they are asked for.", "NEPA evaluates the average", _teacher, averages),
    Claim("artifact.damaged", "A checkpoint that is damaged is refused.",
          "specification, executable requirement 21: must raise", _damaged),
)  # fmt: skip
