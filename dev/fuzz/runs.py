"""The ways into the library that load torch: runs, weights, configurations."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import latentcast
from dev.fuzz.paths import REFUSED, Content, InputPath, digest, make_ptbxl
from latentcast import config
from latentcast.artifacts import public_ijepa, public_nepa
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export
from latentcast.data.ingest import ingest
from latentcast.nn.transformer import PatchEncoder
from latentcast.recipes import recipe
from latentcast.runs.folder import read_environment, write_environment
from latentcast.runs.summary import list_runs
from latentcast.verification.audit.audit import audit
from latentcast.workflows.train import train


def small_config() -> config.Config:
    return recipe("nepa-ecg-tiny").updated(
        {
            "encoder.width": 16, "encoder.depth": 1, "encoder.heads": 2, "encoder.mlp_width": 16,
            "input.length": 100, "optimizer.warmup_steps": 1, "train.precision": "fp32",
            "train.steps": 2, "train.batch_size": 3, "train.micro_batches": 1,
            "train.log_every": 1, "train.checkpoint_every": 1,
        }
    )  # fmt: skip


def make_run(folder: Path) -> None:
    make_ptbxl(folder, 40)
    ingest(folder / "source", folder / "store", workers=1, quiet=True)
    shutil.rmtree(folder / "source")
    train(small_config(), folder / "store", folder / "run", quiet=True)
    record = read_environment(folder / "run/environment.json")
    record["data"]["store"] = "./store"  # the sample is moved to wherever it is read
    write_environment(folder / "run/environment.json", record)


def read_encoder(folder: Path, name: str = "run") -> Content:
    encoder = Encoder.from_pretrained(folder / name)
    weights = {key: digest(value.numpy()) for key, value in encoder.state_dict().items()}
    return weights | {"config": digest(encoder.config), "step": digest(encoder.step)}


def read_resumed(folder: Path) -> Content:
    """The run goes on from its first checkpoint; nothing is to be done after its second."""
    done = train(small_config(), folder / "store", folder / "run", quiet=True)
    return {"step": digest(done.step, done.skipped)} | read_encoder(folder)


def make_export(folder: Path) -> None:
    make_run(folder)
    export(folder / "run", folder / "encoder.safetensors")
    for name in ("run", "store"):
        shutil.rmtree(folder / name)


def read_listing(folder: Path) -> Content:
    """The table of ``latentcast runs``, printed."""
    from io import StringIO

    from latentcast.runs.listing import print_runs
    from latentcast.terminal import Terminal

    found = [dataclasses.replace(run, written=0.0, bytes=0) for run in list_runs([folder])]
    print_runs(found, Terminal(file=(page := StringIO()), width=200), now=0.0)
    (run,) = found
    text = page.getvalue() + json.dumps(run.as_json(), default=str)
    content = {"listing": digest(text.replace(str(folder), "."))}
    return content | {f"{REFUSED} {n}": text for n, text in enumerate(run.problems)}


def read_audit(folder: Path) -> Content:
    section = audit(folder / "run", folder / "store", seconds=0)
    found = {line.id: f"{line.verdict} {line.numbers}" for line in section.lines}
    lines = {name: digest(text.replace(str(folder), ".")) for name, text in found.items()}
    broken = {f"{REFUSED} {line.id}": "" for line in section.lines if line.verdict == "broken"}
    return lines | broken


def make_probed(folder: Path) -> None:
    make_run(folder)
    report = latentcast.probe(folder / "run", folder / "store", task="metadata:age")
    report = dataclasses.replace(report, data={**report.data, "store": "./store"})
    report.write(folder / "run")


def make_config(folder: Path) -> None:
    (folder / "config.yaml").write_text(small_config().to_yaml())


def read_config(folder: Path) -> Content:
    return {"config": digest(config.resolve(recipe("nepa-ecg-tiny"), folder / "config.yaml"))}


def make_public_nepa(folder: Path) -> None:
    from safetensors.torch import save_file

    about = {"patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "layerscale_value": 1e-5, "hidden_act": "gelu",
             "qkv_bias": True, "rope_theta": 100.0, "num_channels": 3}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    encoder = PatchEncoder(public_nepa.encoder_config(about), 3, axes=2)
    encoder.initialise(0)
    save_file(public_nepa.to_public(encoder.state_dict()), folder / "model.safetensors")


def read_public_nepa(folder: Path) -> Content:
    encoder = public_nepa.load_public(folder)
    return {name: digest(value.numpy()) for name, value in encoder.state_dict().items()}


def make_public_ijepa(folder: Path) -> None:
    from safetensors.torch import save_file

    encoder = PatchEncoder(public_ijepa.encoder_config(4, 16, 1, 2, 32), 3, axes=2)
    encoder.initialise(0)
    public = public_ijepa.encoder_to_public(encoder.state_dict(), (4, 4))
    save_file(public, folder / "model.safetensors")


def read_public_ijepa(folder: Path) -> Content:
    encoder = public_ijepa.load_public(folder / "model.safetensors", heads=2)
    return {name: digest(value.numpy()) for name, value in encoder.state_dict().items()}


def _runs() -> Iterable[InputPath]:
    weights = ("run/checkpoints/*/model/*",)
    moments = ("run/checkpoints/*/optimizer/*",)
    record = ("run/checkpoints/*/state.json",)
    about = ("run/config.yaml", "run/environment.json")
    yield InputPath("run-records", make_run, read_resumed, about, about)
    yield InputPath("checkpoint-record", make_run, read_encoder, record, record)
    yield InputPath("checkpoint-weights", make_run, read_encoder, weights, weights)
    files = (*moments, *record)
    yield InputPath("resumed-run", make_run, read_resumed, (*files, "run/metrics.jsonl"), files)
    name = "encoder.safetensors"
    yield InputPath("exported-file", make_export, functools.partial(read_encoder, name=name),
                    (name,), (name,))  # fmt: skip
    parts = ("run/metrics.jsonl", "run/probe-*.json", "run/environment.json", "run/config.yaml",
             *record)  # fmt: skip
    sealed = (*about, "run/probe-*.json", *record)
    # A report that is gone is a probe that was not made: nothing lists it.
    yield InputPath("run-listing", make_probed, read_listing, parts, sealed, listed=False)
    yield InputPath("run-audit", make_probed, read_audit, (*parts, "store/manifest.json"), sealed)
    yield InputPath("config-file", make_config, read_config, ("config.yaml",))
    yield InputPath("public-nepa", make_public_nepa, read_public_nepa, ("*.json", "*.safetensors"))
    yield InputPath("public-ijepa", make_public_ijepa, read_public_ijepa, ("*.safetensors",))


PATHS: tuple[InputPath, ...] = tuple(_runs())
