"""What leaves a run is what was trained, read as training read it."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export
from latentcast.data.fit import reading
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.evaluation import features
from latentcast.objectives.base import Role
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import from_signal
from latentcast.signals.windows import window_starts
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, true
from latentcast.verification.observe.config import has_transformer
from latentcast.verification.observe.jepa import apart, changes, is_jepa
from latentcast.verification.observe.loop_recorder import teacher_pairs
from latentcast.verification.observe.nepa import is_nepa
from latentcast.verification.observe.network import finest, inputs_of
from latentcast.verification.observe.probe import can_be_probed, encoder
from latentcast.verification.observe.recordings import (
    TWELVE,
    has_twelve_leads,
    is_ecg,
    recordings,
)
from latentcast.verification.observe.rehearsal import averages
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 5: preprocessing travels with the weights"
FLOAT = 2.0**-23


def _tokenizer(network: Any) -> nn.Module:
    tokenizer: nn.Module = getattr(network, "finest", network).tokenizer
    return tokenizer


def _tokenizes_twelve_leads(twin: Twin) -> bool:
    return has_transformer(twin) and has_twelve_leads(twin)


@claim("artifact.same-tensor", "embed gives the network exactly the tensor that training gave it "
       "of the same samples.", source=OURS, about=has_transformer)  # fmt: skip
def same_tensor(twin: Twin) -> Evidence:
    """What preprocessing gives in training without augmentation, what enters the network there, and
    what enters it in ``embed``."""
    plain: dict[str, Any] = {"train.micro_batches": 1}
    if not is_ecg(twin):
        plain |= {"input.crop_scale": None, "input.flip": False}
    loader: Any
    loader, preprocess = reading(twin.store, twin.config.updated(plain))
    batch, draw, objective = loader.batch(3), twin.draw(3), twin.objective()
    inputs, network = preprocess(batch.samples, draw), objective.encoder("student")
    with inputs_of(_tokenizer(network)) as entered:
        objective(inputs, draw)
    source: Any = encoder(twin)
    samples: Any = batch.samples.numpy()
    if is_ecg(twin):
        rows, starts, length = loader.request(batch.ids.numpy())
        samples = []
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            record = twin.store.recording(row)
            window = slice(start, start + length)
            signal, valid = record.signal[:, window], record.valid[:, window]
            samples.append(replace(record, signal=signal, valid=valid))
    with inputs_of(_tokenizer(source.network)) as embedded:
        source.embed(samples)
    ways = {"embed": torch.cat(embedded)}
    if is_nepa(twin) or (is_jepa(twin) and finest(objective).can_drop):  # others may mask it
        ways["training"] = entered[0]
    return all_of(*(
        at_most(f"{name}: largest difference", apart(values, inputs.values), 0.0)
        for name, values in ways.items()
    ), mean=float(inputs.values.mean()))  # fmt: skip


@claim("artifact.counts", "A file read for an encoder becomes the counts that ingest stores.",
       source=OURS, about=has_twelve_leads)  # fmt: skip
def counts(twin: Twin) -> Evidence:
    """Files of all kinds, ingested, and read by an encoder: the same integers."""
    fixtures, source = recordings(twin), encoder(twin)
    store, parts = fixtures.device_store, list[Evidence]()
    for name, record in fixtures.devices.items():
        if record.rate != fixtures.rate:
            continue
        read = source.counts(read_recording(record.file))
        row = store.row_of(name)
        stored = store.take([row], [0], int(store.lengths[row]))[0]
        differing = int((read != stored).sum()) if read.shape == stored.shape else read.size
        parts.append(equal(f"{name}: counts that differ", differing, 0))
    for row in (0, 2):  # with a gap, with a flat stretch
        signal = fixtures.cohort.signals[row].astype(np.float32)
        read = source.counts(from_signal(signal, TWELVE, fixtures.rate, f"record {row}"))
        differing = int((read != fixtures.cohort.store.take([row])[0]).sum())
        parts.append(equal(f"record {row} with what is no signal: differ", differing, 0))
    return all_of(*parts)


@claim("artifact.filters", "A file gives the network the same values after ingest, a crop and "
       "training's filters as in embed, filters and masked stretches alike.",
       source=OURS, about=_tokenizes_twelve_leads)  # fmt: skip
def filters(twin: Twin) -> Evidence:
    """Files, and recordings with a gap and with a flat stretch, by two filters: one that adds and
    one that does not."""
    fixtures, own = recordings(twin), encoder(twin)
    hum = {"kind": "notch", "hertz": 0.2 * fixtures.rate}
    config = own.config.updated({"input.filters": [{"kind": "baseline"}, hum]})
    source, (_, preprocess) = Encoder(config, own.objective), reading(twin.store, config)
    _, unfiltered = reading(twin.store, own.config)
    devices = {name: r.file for name, r in fixtures.devices.items() if r.rate == fixtures.rate}
    cases: list[tuple[str, Any, Store, str]]
    cases = [(name, file, fixtures.device_store, name) for name, file in devices.items()]
    cohort = fixtures.cohort
    for row in (0, 2):
        record = from_signal(
            cohort.signals[row].astype(np.float32), TWELVE, fixtures.rate, f"record {row}"
        )
        cases.append((record.record_id, record, cohort.store, str(cohort.store.record_ids[row])))
    parts, effect = list[Evidence](), 0.0
    for name, recording, store, record_id in cases:
        row, length = store.row_of(record_id), fixtures.length
        starts = window_starts(int(store.lengths[row]), length)
        crops: Any = torch.from_numpy(store.take([row] * len(starts), starts, length))
        expected = preprocess(crops).values
        with inputs_of(_tokenizer(source.network)) as entered:
            source.embed(recording)
        gap = apart(torch.cat(entered), expected)
        parts.append(at_most(f"{name}: largest difference", gap, 0.0))
        effect = greatest(effect, apart(expected, unfiltered(crops).values))
    return all_of(*parts, true("the filters change the values", effect > 0.01))


@claim("artifact.embed", "embed and the probe read the same features, of what is longer than the "
       "training length too.", source=OURS, about=can_be_probed)  # fmt: skip
def embed(twin: Twin) -> Evidence:
    """Long recordings, and images."""
    source: Any = encoder(twin)
    if is_ecg(twin):
        store = recordings(twin).cohort.store
        rows = np.array([0, 2, 5])
        embedded = source.embed([store.recording(int(row)) for row in rows], pooling="mean+std")
    else:
        store, rows = twin.store, np.arange(5)
        embedded = source.embed(store.take(rows), pooling="mean+std")
    read = features.extract(source, store, rows, pooling="mean+std")[source.layer]
    gap = apart(torch.from_numpy(embedded), torch.from_numpy(read)) / float(np.abs(read).max())
    return all_of(
        equal("shape", str(embedded.shape), str(read.shape)),
        at_most("largest difference", gap, 256 * FLOAT),
    )


@claim("artifact.short", "A recording shorter than the training length is padded with what is not "
       "valid, and not stretched.",
       source="specification, defect 10: the time scale destroyed",
       about=has_twelve_leads)  # fmt: skip
def short(twin: Twin) -> Evidence:
    """What is beyond its end counts for nothing: filled with anything else that is not valid, it
    embeds alike."""
    source: Any = encoder(twin)
    recording = read_recording(recordings(twin).devices["short"].file)
    room = source.length - recording.samples
    filled = replace(
        recording,
        signal=np.concatenate([recording.signal, np.full((12, room), np.nan, np.float32)], 1),
        valid=np.concatenate([recording.valid, np.zeros((12, room), bool)], 1),
    )
    with inputs_of(_tokenizer(source.network)) as entered:
        one, two = (source.embed([each]) for each in (recording, filled))
    beyond = greatest(*(float(values[..., recording.samples :].abs().max()) for values in entered))
    return all_of(
        at_most("difference", float(np.abs(one - two).max()), 0.0),
        at_most("largest value beyond its end", beyond, 0.0),
        samples=recording.samples,
    )


# Weights


@claim("artifact.equal", "Features of the loaded encoder are those of the library's objective, "
       "bit for bit.", source="specification, executable requirement 28")  # fmt: skip
def equal_features(twin: Twin) -> Evidence:
    """Every layer, of the encoder that was loaded and of the objective as training left it."""
    source: Any = encoder(twin)
    batch = twin.batch(4)
    loaded, _ = source.token_layers(batch.samples.numpy())
    live = copy.deepcopy(twin.trained().objective).eval()
    _, preprocess = reading(twin.store, twin.config.updated({"train.micro_batches": 1}))
    inputs = preprocess(batch.samples)
    network = live.encoder("teacher")
    valid = None if inputs.valid is None else network.valid(inputs.valid)
    with torch.no_grad():
        expected = network.read(inputs.values, valid)
    return all_of(
        at_most("largest difference", max(changes(loaded, expected)), 0.0),
        equal("layers", len(loaded), len(network.layer_names)),
    )


@claim("artifact.exported", "An exported file gives the features of its run, bit for bit.",
       source=OURS)  # fmt: skip
def exported(twin: Twin) -> Evidence:
    file, samples = twin.folder / "exported.safetensors", twin.batch(4).samples.numpy()
    step = export(twin.trained().folder, file)
    loaded = encoder(twin), Encoder.from_pretrained(file, device="cpu")
    layers = [source.token_layers(samples)[0] for source in loaded]
    return all_of(
        at_most("largest difference", max(changes(*layers)), 0.0),
        equal("step", step, twin.trained().state.step),
        layers=len(layers[0]),
    )


@claim("artifact.teacher", "The averaged weights are what is read by default, and the trained "
       "ones where the student is named.",
       source="NEPA evaluates the average", about=averages)  # fmt: skip
def teacher(twin: Twin) -> Evidence:
    """By its weights at the end of the last step, which hooks recorded."""
    run = twin.trained()
    end, names = run.steps[-1].end, teacher_pairs(run.objective)
    weights = {"student": [end[s] for s, _ in names], "teacher": [end[t] for _, t in names]}
    shared = sum(torch.equal(s, t) for s, t in zip(*weights.values(), strict=True))
    parts = [at_most("share of tensors that are both's", shared / len(names), 0.99)]
    for role in get_args(Role):
        loaded = list(Encoder.from_pretrained(run.folder, role, "cpu").network.parameters())
        wrong = sum(not torch.equal(a, b) for a, b in zip(loaded, weights[role], strict=True))
        parts.append(equal(f"{role}: tensors that are not its", wrong, 0))
    default = Encoder.from_pretrained(run.folder).role
    return all_of(*parts, equal("by default", default, "teacher"))


@claim("artifact.damaged", "A checkpoint that is damaged is refused.",
       source="specification, executable requirement 21: must raise")  # fmt: skip
def damaged(twin: Twin) -> Evidence:
    """A bit turned in the weights, a file cut short, and a record that is gone."""
    newest = checkpoint.latest(twin.trained().checkpoints)
    parts, answers = list[Evidence](), dict[str, str]()
    for name in ("a bit turned", "cut short", "record gone"):
        folder = twin.folder / "damaged run"
        shutil.rmtree(folder, ignore_errors=True)
        target = folder / "checkpoints" / newest.name
        shutil.copytree(newest, target)
        weights = sorted((target / "model").glob("*.safetensors"))[0]
        raw = bytearray(weights.read_bytes())
        if name == "a bit turned":
            raw[-6] ^= 0x40
            weights.write_bytes(raw)
        elif name == "cut short":
            weights.write_bytes(raw[:-64])
        else:
            (target / "state.json").unlink()
        answer, refused = "loaded", False
        try:
            Encoder.from_pretrained(folder)
        except LatentcastError as problem:
            answer, refused = str(problem), True
        except Exception as problem:
            answer = f"an error of another kind, {type(problem).__name__}"
        parts.append(true(f"{name}: refused", refused))
        answers[name] = answer
    return all_of(*parts, **answers)
