"""What errors of encoders, networks and files of weights say to type."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from terminal import CANONICAL_LEADS, ECG, WFDB, Terminal, fixes, write_images

from latentcast import config as configuration
from latentcast.artifacts import public_ijepa
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.public import read_public
from latentcast.artifacts.public_nepa import encoder_config
from latentcast.data.store import Store
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.nn.initialise import initialise
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.base import Objective
from latentcast.objectives.build import build
from latentcast.objectives.regularizers import sigreg
from latentcast.recipes import recipe
from latentcast.serving.model import Served
from latentcast.workflows.probe import probe
from latentcast.workflows.train import train
from public_ecg import kweimann

ROLE = "role='teacher'"
RECORD_500 = WFDB / "records500" / "00000" / "00001_hr"


def ecgs(t: Terminal) -> np.ndarray:
    return np.load(t.at.npy)[:2].swapaxes(1, 2)


@fixes("signatures.py", "{}; {}")
def _(t: Terminal) -> None:
    role = t.refused(lambda: Encoder.from_pretrained(t.at.run, "techer")).typed("mean '(.+)'")
    t.works(lambda: Encoder.from_pretrained(t.at.run, role))


@fixes("engine/device.py", "{} {}: cannot be used")
def _(t: Terminal) -> None:
    device = t.refused(lambda: Encoder.from_pretrained(t.at.run, device="cuda:77")).typed(
        "try (cpu)"
    )
    t.works(lambda: Encoder.from_pretrained(t.at.run, device=device))


class Diverging(Callback):
    """Weights that are no numbers, from the second step on."""

    def on_step_end(self, state: State, *_: object) -> None:
        if state.step == 2:
            for parameter in self.network.parameters():
                parameter.data.fill_(float("nan"))


@fixes("artifacts/encoder.py", "{}: features are not finite")
@fixes("evaluation/features.py", "{}, layer {}: features are not finite")
@fixes("serving/model.py", "{}: features are not finite")
def _(t: Terminal) -> None:
    config = configuration.resolve(recipe(ECG), t.at.small, ["train.checkpoint_every=1"])
    listener = Diverging()

    def built(config: configuration.Config) -> Objective:
        listener.network = build(config)
        return listener.network

    with patch("latentcast.workflows.train.build", built):
        train(config, t.at.probed, t.new("RUN"), callbacks=[listener])

    def use(run: Path) -> object:
        if t.messages[0].file == "serving/model.py":
            return Served(run)
        if "layer" in t.messages[0].text:
            return probe(run, task="labels")
        return Encoder.from_pretrained(run).embed(Store.open(t.at.probed), rows=[0])

    typed = t.refused(lambda: use(t.new("RUN"))).typed(r"RUN/checkpoints/step-")
    earlier = min(t.folder.glob(f"{typed}*"))
    t.works(lambda: use(earlier))


def argument(file: str, start: str, name: str, bad: str, pattern: str) -> None:
    """Register an argument of ``embed`` that is refused until it is what ``pattern`` finds."""

    @fixes(file, start)
    def _(t: Terminal) -> None:
        encoder, store = Encoder.from_pretrained(t.at.run), Store.open(t.at.bare)
        found = t.refused(lambda: encoder.embed(store, rows=[0], **{name: bad})).typed(pattern)
        t.works(lambda: encoder.embed(store, rows=[0], **{name: found}))


argument("nn/pooling.py", "{}: is no layer", "layer", "block 99", r"known: .*, (.+)")
argument("nn/pooling.py", "pooling cls", "pooling", "cls", r"use (mean\+std), mean")
argument("nn/pooling.py", "pooling {}: no such", "pooling", "meen", "mean '(.+)'")


@fixes("artifacts/readers.py", "{}: was trained on images; leave")
def _(t: Terminal) -> None:
    encoder, images = Encoder.from_pretrained(t.at.image_run), np.zeros((1, 8, 8, 1), np.uint8)
    assert t.refused(lambda: encoder.embed(images, sampling_rate=100)).typed(
        "leave out sampling_rate"
    )
    t.works(lambda: encoder.embed(images))


@fixes("artifacts/images.py", "rows: are of a store")
@fixes("artifacts/images.py", "{}: is nothing that")
@fixes("artifacts/images.py", "array of {} {}")
def _(t: Terminal) -> None:
    encoder = Encoder.from_pretrained(t.at.image_run)
    x = np.random.default_rng(0).random((2, 8, 8, 1))
    text = t.messages[0].text
    if "rows" in text:
        images = (x * 255).astype(np.uint8)
        assert t.refused(lambda: encoder.embed(images, rows=[0])).typed("leave them out")
    elif "nothing" in text:
        assert t.refused(lambda: encoder.embed(5)).typed("give a (uint8) array")
        images = (x * 255).astype(np.uint8)
    else:
        images = eval(t.refused(lambda: encoder.embed(x)).typed(r"\(x \* 255\).*\)"), {"x": x})
    t.works(lambda: encoder.embed(images))


@fixes("artifacts/images.py", "{}); errors=")
def _(t: Terminal) -> None:
    encoder, folder = Encoder.from_pretrained(t.at.image_run), t.new("images")
    write_images(folder, (8, 8))
    (folder / "ant" / "bad.png").write_bytes(b"no image")
    found = t.refused(lambda: encoder.embed(folder)).typed('errors="(.*)"')
    t.works(lambda: encoder.embed(folder, errors=found))


@fixes("artifacts/recordings.py", "rows: are of a store")
@fixes("artifacts/recordings.py", "{}: is nothing that")
@fixes("artifacts/recordings.py", "{}: is for arrays")
def _(t: Terminal) -> None:
    encoder, text = Encoder.from_pretrained(t.at.run), t.messages[0].text
    record = RECORD_500.parents[2] / "records100" / "00000" / "00001_lr"
    source = 5 if "nothing" in text else record
    more = {"rows": [0]} if "rows" in text else {} if "nothing" in text else {"unit": "mV"}
    assert t.refused(lambda: encoder.embed(source, **more)).typed("leave|the path of a record")
    t.works(lambda: encoder.embed(record))


@fixes("artifacts/recordings.py", "{}: sampling_rate is")
@fixes("artifacts/recordings.py", "(resample=True")
def _(t: Terminal) -> None:
    encoder = Encoder.from_pretrained(t.at.run)
    more = {"sampling_rate": 500} if t.messages[0].text.startswith("(") else {}
    code = t.refused(lambda: encoder.embed(RECORD_500, **more)).typed("resample=True")
    t.works(lambda: encoder.embed(RECORD_500, **eval(f"dict({code})")))


@fixes("artifacts/recordings.py", "array {}: comes without")
def _(t: Terminal) -> None:
    """The example is of another array; its names are what is typed."""
    encoder = Encoder.from_pretrained(t.at.run)
    names = eval(t.refused(lambda: encoder.embed(ecgs(t))).typed(r"embed\(x, (.*)\)").join(
        ("dict(", ")")))  # fmt: skip
    own = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "unit": "mV"}
    t.works(lambda: encoder.embed(ecgs(t), **{name: own[name] for name in names}))


@fixes("signals/readers/arrays.py", "layout '{}': is unknown")
def _(t: Terminal) -> None:
    encoder = Encoder.from_pretrained(t.at.run)
    own = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "unit": "mV"}
    layout = t.refused(lambda: encoder.embed(ecgs(t), **own, layout="leads")).typed(
        r"give (\S+) or"
    )
    t.works(lambda: encoder.embed(ecgs(t), **own, layout=layout))


@fixes("artifacts/encoder.py", "{}: holds the averaged")
@fixes("artifacts/encoder.py", "{}: an exported encoder")
def _(t: Terminal) -> None:
    run, saved = t.at.run, t.new("saved")
    student = Encoder.from_pretrained(run, role="student")
    if "holds" in t.messages[0].text:
        Encoder.from_pretrained(run).save_pretrained(saved)
        error = t.refused(lambda: Encoder.from_pretrained(saved, role="student"))
        more = eval(f"dict({error.typed(ROLE)})")
        t.works(lambda: Encoder.from_pretrained(saved, **more))
        return
    more = eval(f"dict({t.refused(lambda: student.save_pretrained(saved)).typed(ROLE)})")
    t.works(lambda: Encoder.from_pretrained(run, **more).save_pretrained(saved))


@fixes("artifacts/weights.py", "{}: does not exist")
def _(t: Terminal) -> None:
    error = t.refused(lambda: Encoder.from_pretrained("somebody/encoder"))
    t.works(error.typed("latentcast (models)"))


@fixes("pretrained/models.py", "{}: does not exist here")
def _(t: Terminal) -> None:
    from latentcast.files import digested, sha256
    from latentcast.pretrained import models

    Encoder.from_pretrained(t.at.run).save_pretrained(t.new("saved"))
    (t.new("saved") / models.WEIGHTS).rename(t.folder / "tiny.safetensors")
    digests = {"tiny.safetensors": sha256(t.folder / "tiny.safetensors")}
    (t.folder / "models.json").write_text(json.dumps(digested({"sha256": digests})))
    with patch.object(models, "FOLDER", t.folder):
        error = t.refused(lambda: Encoder.from_pretrained("latentcast/tini"))
        name = error.typed("mean '(.+)'")
        t.works(lambda: Encoder.from_pretrained(name))


@fixes("artifacts/export.py", "{}: what is written")
@fixes("cli/evaluation.py", "{}: is not how --format")
def _(t: Terminal) -> None:
    ending = "--format safetensors " if "--format" in t.messages[0].text else ""
    command = f"export {t.at.run} {ending}--out "
    name = t.refused(command + str(t.new("a.bin"))).typed(r"name it (\S+)")
    t.works(f"{command} {t.new(name)}")


@fixes("artifacts/export.py", "{}: cannot be read")
@fixes("artifacts/export.py", "{}: is damaged")
def _(t: Terminal) -> None:
    file = t.new("a.safetensors")
    t.works(f"export {t.at.run} --out {file}")
    changed = b"#" if "damaged" in t.messages[0].text else b""
    file.write_bytes(file.read_bytes()[:-1] + changed)
    assert t.refused(lambda: Encoder.from_pretrained(file)).typed("export the run again")
    t.works(f"export {t.at.run} --out {file}")
    t.works(lambda: Encoder.from_pretrained(file))


@fixes("artifacts/export.py", "{}: exists and was not")
@fixes("report/style.py", "{}: exists and is no picture")
@fixes("runs/new.py", "{}: is not empty and holds no run")
def _(t: Terminal) -> None:
    place = t.new("out.safetensors")
    command = f"export {t.at.run} --out"
    if "picture" in t.messages[0].text:
        place, command = t.new("out.png"), f"inspect {t.at.bare} --plot"
    place.write_text("of somebody else")
    if "no run" in t.messages[0].text:
        place, command = t.folder, f"train {ECG} --config {t.at.small} --data {t.at.bare} --out"
    assert t.refused(f"{command} {place}").typed("name another file|choose an empty or new")
    t.works(f"{command} {place.with_name('other' + place.suffix)}")


@fixes("artifacts/export.py", "{}: was not written by")
@fixes("artifacts/public.py", "{}: was not written by")
def _(t: Terminal) -> None:
    from safetensors.torch import save_file

    about = {"config": "{}"} if t.messages[0].file == "artifacts/export.py" else {}
    save_file({"a": torch.zeros(1)}, t.new("public.safetensors"), metadata=about)
    verb = t.refused(lambda: Encoder.from_pretrained(t.new("public.safetensors"))).typed(
        "export a|export the"
    )
    t.works(f"{verb.split()[0]} {t.at.run} --out {t.new('public.safetensors')}x.safetensors")


@fixes("artifacts/public_unread.py", "{}: holds {}, which is not read")
def _(t: Terminal) -> None:
    names = {"stage_list.0.block_list.0.se_fc1.weight": torch.zeros(1)}
    torch.save({"state_dict": names}, file := t.new("public.pth"))
    spec = t.refused(lambda: Encoder.from_pretrained(file)).typed("NAME=(module:function)")
    theirs = SimpleNamespace(function=lambda signal: signal.mean(-1))
    with patch.dict(sys.modules, {"module": theirs}):
        t.works(lambda: probe(t.at.run, t.at.probed, "labels", encoders={"theirs": spec}))


@fixes("artifacts/public.py", "{}: does not hold the mean")
@fixes("artifacts/public_layout.py", "{}: heads {}: were")
def _(t: Terminal) -> None:
    content, _ = kweimann(1, bias=False, gain=0.0)
    torch.save(content, file := t.new("public.pt"))
    if "leave heads" in t.messages[0].text:
        assert t.refused(lambda: read_public(file, heads=5)).typed("leave heads out")
        t.works(lambda: read_public(file))
        return
    command = t.refused(f"inspect {file}").typed("latentcast (export .* --data STORE)")
    t.works(command.replace("FOLDER", str(t.new("x"))).replace("STORE", str(t.at.store)))
    t.works(f"inspect {t.new('x')}")


PUBLIC = {"patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
          "intermediate_size": 8}  # fmt: skip


@fixes("artifacts/public_nepa.py", "hidden_act {}")
def _(t: Terminal) -> None:
    name = t.refused(lambda: encoder_config(PUBLIC | {"hidden_act": "geluu"})).typed("mean '(.+)'")
    t.works(lambda: encoder_config(PUBLIC | {"hidden_act": name}))


@fixes("artifacts/public_nepa.py", "must be like {}", "{} {}: cannot be used")
def _(t: Terminal) -> None:
    error = t.refused(lambda: encoder_config(PUBLIC | {"qkv_bias": "yes"}))
    value = error.typed("must be like (true)") == "true"
    t.works(lambda: encoder_config(PUBLIC | {"qkv_bias": value}))
    assert error.typed("leave it out")
    t.works(lambda: encoder_config(PUBLIC))


@fixes("artifacts/public_layout.py", "{}: heads {} of width")
@fixes("artifacts/public_ijepa.py", "{}: has no part")
def _(t: Terminal) -> None:
    network = PatchEncoder(public_ijepa.encoder_config(4, 192, 1, 3, 16), 1, axes=2)
    file, how = t.new("a.pth"), {}
    torch.save({"encoder": public_ijepa.encoder_to_public(network.state_dict())}, file)
    pattern = r"give part='(encoder)'"
    if "heads" in t.messages[0].text:
        pattern, how = r"give heads=(\d+)", {"part": "encoder", "heads": 4}
    found = t.refused(lambda: public_ijepa.load_public(file, **how)).typed(pattern)
    how |= {"heads": int(found)} if how else {"part": found}
    t.works(lambda: public_ijepa.load_public(file, **how))


@fixes("nn/initialise.py", "{}: has no initial value")
def _(t: Terminal) -> None:
    class Scale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(2))

    method = t.refused(lambda: initialise(Scale(), 0, "x")).typed(r"method (\w+)\(generator\)")
    fixed = type("Fixed", (Scale,), {method: lambda self, generator: None})
    t.works(lambda: initialise(fixed(), 0, "x"))


@fixes("objectives/regularizers.py", "sigreg: {} knots")
def _(t: Terminal) -> None:
    x = torch.randn(8, 4)
    knots = int(t.refused(lambda: sigreg(x, 1, knots=1)).typed(r"use (\d+)"))
    t.works(lambda: sigreg(x, 1, knots=knots))
