"""What leaves a run is what was trained, read as training read it."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentcast.artifacts import public_ijepa, public_nepa
from latentcast.artifacts.encoder import Encoder
from latentcast.config import JepaConfig, NepaConfig, SinCos
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.engine.ranks import ALONE
from latentcast.errors import LatentcastError
from latentcast.evaluation import features
from latentcast.nn.encoder import PatchEncoder
from latentcast.nn.tokens import token_validity
from latentcast.objectives.jepa import Jepa
from latentcast.pretrain import reading
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import from_signal
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.known import TWELVE, is_ecg, recordings
from latentcast.verification.observing import finest, stirred, within
from latentcast.verification.rehearsal import averages, pairs
from latentcast.verification.scored import encoder
from latentcast.verification.subject import Subject

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
    loader, preprocess = reading(subject.store, config, ALONE)
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
    if isinstance(store, Store):
        rows, starts, length = loader.request(batch.ids.numpy())
        asked = []
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            whole = store.recording(row)
            here = slice(start, start + length)
            asked.append(replace(whole, signal=whole.signal[:, here], valid=whole.valid[:, here]))
    else:
        asked = batch.samples.numpy()
    used = torch.cat(_entering(source._network, lambda: source.embed(asked)))
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
        given = source.counts(read_recording(record.file))  # type: ignore[attr-defined]
        row = store.row_of(name)
        stored = store.take([row], [0], int(store.lengths[row]))[0]
        differing = int((given != stored).sum()) if given.shape == stored.shape else given.size
        told[f"{name}: counts that differ"] = differing
        holds = holds and not differing
    cohort = held.cohort.store
    for row in (0, 2):  # with a gap, with a flat stretch
        truth = held.cohort.signals[row].astype(np.float32)
        read = from_signal(truth, TWELVE, held.rate, f"record {row}")
        given = source.counts(read)  # type: ignore[attr-defined]
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
        assert not isinstance(images, Store)
        rows = np.arange(5)
        given = source.embed(images.take(rows), pooling="mean+std")
        read = features.extract_images(source, images, rows, pooling="mean+std")["norm"]
    if given.shape != read.shape:
        return Evidence(False, {"shape": str(given.shape), "the probe's": str(read.shape)})
    apart = float(np.abs(given - read).max() / np.abs(read).max())
    return within({"largest difference": (apart, 256 * FLOAT)}, records=len(rows))


def _shorter(subject: Subject) -> Evidence:
    """What is beyond the end of a short recording counts for nothing: filled with anything else
    that is not valid, it embeds alike."""
    held, source = recordings(subject), encoder(subject)
    short = read_recording(held.devices["short"].file)
    room = source.length - short.samples  # type: ignore[attr-defined]
    filled = replace(
        short,
        signal=np.concatenate([short.signal, np.full((12, room), np.nan, np.float32)], 1),
        valid=np.concatenate([short.valid, np.zeros((12, room), bool)], 1),
    )
    one, two = (source.embed([recording]) for recording in (short, filled))  # type: ignore[attr-defined]
    entered = torch.cat(
        _entering(source._network, lambda: source.embed([short]))  # type: ignore[attr-defined]
    )
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
    _, preprocess = reading(subject.store, subject.config.updated(changes), ALONE)
    inputs = preprocess(batch.samples)
    network = live.encoder("teacher")
    valid = None
    if inputs.valid is not None:
        valid = token_validity(inputs.valid, network.patches)
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
        held = list(loaded._network.parameters())
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


# Public layouts, by their own tables of names

_NEPA = {
    "cls": "embeddings.cls_token",
    "patches": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.proj": "attention.output.dense",
    "attention.q_norm": "attention.attention.q_norm",
    "attention.k_norm": "attention.attention.k_norm",
    "scale1.gain": "layer_scale.lambda1",
    "scale2.gain": "output.layer_scale.lambda1",
    "mlp.up": "intermediate.up_proj",
    "mlp.gate": "intermediate.gate_proj",
    "mlp.down": "output.dense",
}
_IJEPA = {
    "patches": "patch_embed.proj", "norm": "norm", "norm1": "norm1", "norm2": "norm2",
    "attention.qkv": "attn.qkv", "attention.proj": "attn.proj", "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2", "embed": "predictor_embed", "proj": "predictor_proj",
}  # fmt: skip


def _expected_nepa(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    expected: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        block = re.match(r"blocks\.(\d+)\.(.*)", name)
        where = f"encoder.layer.{block[1]}." if block else ""
        rest = block[2] if block else name
        part, _, kind = rest.rpartition(".")
        if part == "attention.qkv":
            size = len(tensor) // 3
            for n, of in enumerate(("query", "key", "value")):
                third = tensor[n * size : (n + 1) * size]
                expected[f"{where}attention.attention.{of}.{kind}"] = third
        elif rest in _NEPA:
            expected[where + _NEPA[rest]] = tensor
        else:
            expected[f"{where}{_NEPA[part]}.{kind}"] = tensor
    return expected


def _expected_ijepa(weights: Mapping[str, Tensor], predictor: bool) -> dict[str, Tensor]:
    expected: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        block = re.match(r"blocks\.(\d+)\.(.*)", name)
        blocks = "predictor_blocks" if predictor else "blocks"
        where = f"{blocks}.{block[1]}." if block else ""
        part, _, kind = (block[2] if block else name).rpartition(".")
        if name == "mask_token":
            expected[name] = tensor
        elif predictor and name.startswith("norm."):
            expected[f"predictor_norm.{kind}"] = tensor
        else:
            expected[f"{where}{_IJEPA[part]}.{kind}"] = tensor
    return expected


def _apart(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names that only one has, or whose tensors are not the same bits."""
    wrong = sorted(set(given) ^ set(expected))
    return wrong + [
        name for name, tensor in expected.items()
        if name in given and not torch.equal(given[name], tensor)
    ]  # fmt: skip


def _public_nepa(subject: Subject) -> Evidence:
    encoder = finest(stirred(subject.objective(), subject.seed, wide=False)).eval()
    weights = {name: tensor.detach() for name, tensor in encoder.state_dict().items()}
    public = public_nepa.to_public(weights)
    out = _apart(public, _expected_nepa(weights))
    there = {f"vit_nepa.{name}": tensor.clone().contiguous() for name, tensor in public.items()}
    back = _apart(public_nepa.from_public(there), weights)
    told: dict[str, Number] = {"tensors": len(weights), "out: wrong": ", ".join(out[:3]) or "none",
                               "back: wrong": ", ".join(back[:3]) or "none"}  # fmt: skip
    holds = not out and not back
    if holds and not is_ecg(subject):
        folder = subject.folder / "public nepa"
        folder.mkdir(exist_ok=True)
        save_file(there, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(_nepa_config(encoder)))
        loaded = public_nepa.load_public(folder).eval()
        told["features of the file, difference"] = gap = _features_apart(subject, encoder, loaded)
        holds = holds and gap == 0
    return Evidence(holds, told)


def _nepa_config(encoder: PatchEncoder) -> dict[str, Any]:
    """``config.json`` of a public NEPA, which says the same."""
    c = encoder.config
    assert not isinstance(c.positions, SinCos)
    return {
        "patch_size": c.patch, "hidden_size": c.width, "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads, "intermediate_size": c.mlp_width,
        "use_gated_mlp": c.gated_mlp, "qkv_bias": c.qkv_bias, "qk_norm": c.qk_norm,
        "qk_norm_affine": c.qk_norm_affine, "qk_norm_bias": c.qk_norm_bias,
        "layerscale_value": c.layer_scale or 0.0, "layer_norm_eps": c.norm_eps,
        "is_causal": c.causal, "rope_theta": c.positions.theta,
        "num_channels": encoder.patches.weight.shape[1],
    }  # fmt: skip


def _features_apart(subject: Subject, one: PatchEncoder, other: PatchEncoder) -> float:
    values = subject.inputs().values[:3]
    with torch.no_grad():
        layers = zip(one.read(values), other.read(values), strict=True)
        return max(float((a - b).abs().max()) for a, b in layers)


def _public_ijepa(subject: Subject) -> Evidence:
    objective = stirred(subject.objective(), subject.seed, wide=False).eval()
    assert isinstance(objective, Jepa)
    encoder, predictor = finest(objective), objective.predictors[0]
    grid = subject.config.grids[0]
    told, holds = dict[str, Number](), True
    ways = {
        "encoder": (encoder, public_ijepa.encoder_to_public, public_ijepa.encoder_from_public),
        "predictor": (
            predictor, public_ijepa.predictor_to_public, public_ijepa.predictor_from_public
        ),
    }  # fmt: skip
    for name, (network, to_public, from_public) in ways.items():
        weights = {n: tensor.detach() for n, tensor in network.state_dict().items()}
        public = to_public(weights)
        out = _apart(public, _expected_ijepa(weights, name == "predictor"))
        there = {f"module.{n}": tensor.clone() for n, tensor in public.items()}
        back = _apart(from_public(there), weights)
        told[f"{name}: tensors"] = len(weights)
        told[f"{name} out: wrong"] = ", ".join(out[:3]) or "none"
        told[f"{name} back: wrong"] = ", ".join(back[:3]) or "none"
        holds = holds and not out and not back
    weights = {n: tensor.detach() for n, tensor in encoder.state_dict().items()}
    public = public_ijepa.encoder_to_public(weights)
    theirs = public_ijepa.to_transformers(public)
    packed = [theirs[f"encoder.layer.0.attention.attention.{of}.weight"]
              for of in ("query", "key", "value")]  # fmt: skip
    split = torch.equal(torch.cat(packed), weights["blocks.0.attention.qkv.weight"])
    wrong = _apart(public_ijepa.from_transformers(theirs), public)
    told |= {"transformers: wrong": ", ".join(wrong[:3]) or "none", "q, k, v in order": split}
    holds = holds and not wrong and split
    if not is_ecg(subject) and isinstance(encoder.config.positions, SinCos):
        file = subject.folder / "ijepa.safetensors"
        public = public_ijepa.encoder_to_public(weights, grid)
        save_file({f"module.{n}": t.clone().contiguous() for n, t in public.items()}, file)
        loaded = public_ijepa.load_public(file, heads=encoder.config.heads).eval()
        gap = _features_apart(subject, encoder, loaded)
        told["features of the file, difference"] = gap
        holds = holds and gap == 0
    return Evidence(holds, told)


def _is_nepa(subject: Subject) -> bool:
    return isinstance(subject.config.objective, NepaConfig)


def _is_ijepa(subject: Subject) -> bool:
    """Of the published kind: one level, plain blocks."""
    objective, network = subject.config.objective, subject.config.encoder
    plain = not network.qk_norm and network.layer_scale is None and not network.gated_mlp
    return isinstance(objective, JepaConfig) and not objective.coarser and plain


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
    Claim("artifact.public-nepa", "Weights go out to the public NEPA names and back without loss.",
          "SixAILab/nepa-*", _public_nepa, _is_nepa),
    Claim("artifact.public-ijepa", "Weights go out to the public I-JEPA names, the original's and "
          "those of transformers, and back without loss.", "facebookresearch/ijepa; transformers",
          _public_ijepa, _is_ijepa),
)  # fmt: skip
