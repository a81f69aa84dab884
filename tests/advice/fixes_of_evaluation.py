"""What errors and hints of probes, pictures, bench and verify say to type."""

from __future__ import annotations

import ast
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from messages import SOURCE
from safetensors.torch import load_file, save_file
from terminal import (
    ECG,
    Attempt,
    Terminal,
    fixes,
    train,
    write_labelled,
)  # fmt: skip
from torch import Tensor

from conftest import REPOSITORY
from latentcast.errors import missing_extra
from latentcast.signals.writers import FILE_WRITERS
from latentcast.workflows.probe import probe

# Probes ---------------------------------------------------------------------------------------


@fixes("evaluation/protocol.py", "{}: {}: {} cases")
def _(t: Terminal) -> None:
    names = [f"x{n}" for n in range(40)]  # by which the same samples are divided otherwise
    write_labelled(t.new("data"), labels=["a", "b"] * 20, record_ids=names)
    command = f"probe {t.run} --data {t.new('data')} --task labels "
    t.works(command + t.refused(command).typed("--allow-leaks"))


@fixes("workflows/probe.py", "{}: the store it was trained on")
def _(t: Terminal) -> None:
    shutil.copytree(t.at.bare, t.new("gone"))
    t.works(train(t, ECG, t.new("gone")))
    shutil.rmtree(t.new("gone"))
    command = f"probe {t.new('run')} --task labels "
    t.works(command + t.refused(command).typed(r"\((--data)\)") + f" {t.at.probed}")


@fixes("cli/evaluation.py", "--encoder {}: is no NAME=SPEC")
def _(t: Terminal) -> None:
    command = f"probe {t.run} --data {t.at.probed} --task labels --encoder"
    name = t.refused(f"{command} {t.at.run}").typed("write (theirs=)net.onnx")
    t.works(f"{command} {name}{t.at.run}")


FOREIGN = "evaluation/foreign/"


def foreign_encoder(file: str, start: str, bad: str, pattern: str, good: str) -> None:
    """Register a spec of a foreign encoder that is refused, and one with what is typed in it.

    M stands for theirs:mean.
    """

    @fixes(f"{FOREIGN}{file}.py", start)
    def _(t: Terminal) -> None:
        def mean(samples: Tensor) -> Tensor:
            return samples.mean(dim=2).flatten(1)

        class Session:
            def __init__(self, file: str, providers: list[str]) -> None: ...
            def get_inputs(self) -> list[SimpleNamespace]:
                return [SimpleNamespace(name="ecg")]

            def get_modelmeta(self) -> SimpleNamespace:
                return SimpleNamespace(custom_metadata_map={})

            def run(self, outputs: None, feed: dict[str, Any]) -> list[Any]:
                assert feed["ecg"].shape[1:] == (2, 1000)
                return [feed["ecg"].mean(axis=2)]

        theirs = SimpleNamespace(mean=mean, text="", counts=lambda signal: signal.int())
        modules = {"theirs": theirs, "onnxruntime": SimpleNamespace(InferenceSession=Session)}
        run, store = (t.at.image_run, t.at.digits) if file == "images" else (t.at.run, t.at.probed)
        task = "classes" if file == "images" else "labels"

        def attempt(spec: str) -> Attempt:
            spec = spec.replace("M", "theirs:mean", 1) if spec[0] == "M" else spec
            encoders = {"theirs": spec.format(run=run)}
            return lambda: probe(run, store, task, encoders=encoders)

        with patch.dict(sys.modules, modules):
            found = t.refused(attempt(bad)).typed(pattern)
            t.works(attempt(good.format(found=found, run=run)))


for row in (
    ("networks", "{}: of samples", "theirs:counts", "return finite floats", "M"),
    ("networks", "--encoder {}: {} is no option", "M,rate=9", "(sampling_rate)", "M,{found}=50"),
    ("specification", "--encoder {}: {} carries", "{run},unit=mV", "leave out unit", "{run}"),
    ("recordings", "{}: has no lead", "M,leads=V9", r"of (\S+) \(leads", "M,leads={found}"),
    ("recordings", "--encoder {}: unit", "M,unit=mv", "mean '(mV)'", "M,unit={found}"),
    ("networks", "--encoder {}: {} {} is no number", "M,length=x", "write (.*)", "M,{found}"),
    ("networks", "--encoder {}: {} does not exist", "nowhere", "or (module:function)", "M"),
    ("networks", "--encoder {}: {} cannot be", "theirs:gone", "write (module:function)", "M"),
    ("networks", "--encoder {}: {} is a {}", "theirs:text", "name a function", "M"),
    ("networks", "{}: does not read samples", "net.onnx", r"\(as (\S+),", "net.onnx,{found}"),
    ("specification", "{}: a file of this kind", "net.pth", "(module:function)", "M"),
    ("images", "--encoder {}: reads {} channels", "M,channels=0.1", "write (.*)", "M,{found}"),
    ("images", "--encoder {}: {} is not above 0", "M,std=0", "write (.*)", "M,{found}"),
    ("images", "--encoder {}: {} {} is neither", "M,mean=a", "write (.*)", "M,{found}"),
):
    foreign_encoder(*row)


@fixes("cli/evaluation.py", "task {}: suits")
def _(t: Terminal) -> None:
    command = f"probe {t.run} "
    t.works(f"{command} {t.prints(command).typed('(--task) names')} metadata:age")


@fixes("evaluation/features.py", "{}: {} {}", "re-ingest with --fs {}")
@fixes("evaluation/features.py", "{}: {} {}", "re-ingest with --scale {}")
def _(t: Terminal) -> None:
    name, other = ("fs", {}) if "fs" in t.messages[1].text else ("scale", {"scale": 0.002})
    about = {"labels": ["a", "b"] * 20, "sampling_rate": 100 if other else 200}
    data = write_labelled(t.new("other"), **about, **other)
    value = t.refused(f"probe {t.run} --data {data}").typed(f"re-ingest with --{name} (.*)")
    data = write_labelled(t.new("again"), **about, **{name: float(value)})
    t.works(f"probe {t.run} --data {data}")


@fixes("evaluation/protocol.py", "layer {}: does not exist")
def _(t: Terminal) -> None:
    layer = t.refused(lambda: probe(t.at.run, layer="blok 1")).typed("all, ([^,]+),")
    t.works(lambda: probe(t.at.run, layer=layer))


@fixes("evaluation/protocol.py", "head {}: does not")
def _(t: Terminal) -> None:
    head = t.refused(lambda: probe(t.at.run, heads=["lineal"])).typed("mean '(.+)'")
    t.works(lambda: probe(t.at.run, heads=[head]))


@fixes("evaluation/protocol.py", "{}: {}: {} cases")
def _(t: Terminal) -> None:
    columns = {"labels": ["a", "b"] * 20, "patient_ids": [f"p{i // 4}" for i in range(40)]}
    data = write_labelled(
        t.new("labelled"), seed=1, **columns, folds=[1 + i % 10 for i in range(40)]
    )
    command = f"probe {t.run} --data {data} --task labels"
    assert t.refused(command).typed("re-ingest with the source's folds or patient ids")
    shutil.rmtree(data)
    write_labelled(data, **columns, seed=1, name="others")
    t.works(command)


@fixes("evaluation/tasks/__init__.py", "{}: holds no labels")
@fixes("evaluation/tasks/codes.py", "{}: holds no labels")
def _(t: Terminal) -> None:
    data = write_labelled(t.new("labelled"), metadata=[{"age": 30 + i % 40} for i in range(40)])
    task = "" if "__init__" in t.messages[0].file else "--task labels"
    flag = t.refused(f"probe {t.run} --data {data} {task}").typed("(--task metadata:)NAME")
    t.works(f"probe {t.run} --data {data} {flag}age")


@fixes("evaluation/tasks/__init__.py", "task {}: does not")
@fixes("evaluation/tasks/metadata.py", "task {}: no record has")
def _(t: Terminal) -> None:
    metadata = "metadata" in t.messages[0].file
    task = t.refused(f"probe {t.run} --task {'metadata:agee' if metadata else 'labls'}").typed(
        "mean '(.+)'"
    )
    t.works(f"probe {t.run} --task {'metadata:' * metadata}{task}")


@fixes("evaluation/tasks/metadata.py", "task {}: has {}")
def _(t: Terminal) -> None:
    metadata = [{"name": f"patient {i}", "age": 20 + i} for i in range(60)]
    write_labelled(t.new(), 60, metadata=metadata)
    command = f"probe {t.run} --data {t.new()} --task metadata:"
    assert t.refused(command + "name").typed("name a number")
    t.works(command + "age")


@fixes("evaluation/subgroups.py", "by {}: no record has")
def _(t: Terminal) -> None:
    key = t.refused(f"probe {t.run} --by agee").typed("mean '(.+)'")
    t.works(f"probe {t.run} --by {key}")


@fixes("evaluation/subgroups.py", "by {}: has {}")
def _(t: Terminal) -> None:
    metadata = [{"name": f"patient {i}", "age": 20 + i} for i in range(60)]
    write_labelled(t.new(), 60, labels=["a", "b"] * 30, metadata=metadata)
    command = f"probe {t.run} --data {t.new()} --task labels --by "
    t.works(command + t.refused(command + "name").typed("name (age),"))


@fixes("evaluation/tasks/classes.py", "{}: has records of several")
@fixes("evaluation/tasks/codes.py", "task {}: the store has none")
def _(t: Terminal) -> None:
    task = "classes" if "classes" in t.messages[0].file else "superdiagnostic"
    data = write_labelled(
        t.new("labelled"), labels=[["a", "b"], ["b"]] * 10 + [["c", "b"], ["c"]] * 10
    )
    command = f"probe {t.run} --data {data} --task "
    t.works(command + t.refused(command + task).typed("--task (labels)"))


# Pictures, bench and verify -------------------------------------------------------------------


@fixes("cli/data.py", "{}: holds images")
def _(t: Terminal) -> None:
    assert t.refused(f"inspect {t.at.grey} --record 1").typed("leave out --record$")
    t.works(f"inspect {t.at.grey}")


@fixes("report/style.py", "{}: '{}' is no format of a picture")
@fixes("report/style.py", "{}: cannot be written ({}); name")
def _(t: Terminal) -> None:
    t.new("file").touch()
    bad = "a.foo" if "format" in t.messages[0].text else "file/a.png"
    command = f"inspect {t.at.bare} --plot"
    ending = t.refused(f"{command} {t.new(bad)}").typed(r"name a (\.png), \.svg or \.pdf")
    t.works(f"{command} {t.new('another') / ('a' + ending)}")


@fixes("report/masks.py", "{}: objective {} hides nothing")
def _(t: Terminal) -> None:
    verb = t.refused(f"masks {ECG}").typed(r"JEPA recipe \(latentcast (recipes)\)")
    name = next(line.split()[0] for line in t.works(verb).splitlines() if "I-JEPA" in line)
    t.works(f"masks {name} --set encoder.depth=1")


@fixes("workflows/bench.py", "--what {}")
@fixes("workflows/bench.py", "--rounds {}")
def _(t: Terminal) -> None:
    command = f"bench {ECG} --data {t.at.bare} "
    if "what" in t.messages[0].text:
        part = t.refused(command + "--what loade").typed("mean '(loader)'")
        t.works(f"{command} --rounds 1 --what {part}")
    else:
        count = t.refused(command + "--rounds 0 --what loader").typed(r"give (\d) or more")
        t.works(f"{command} --what loader --rounds {count}")


@fixes("cli/training.py", "{}: cannot be written")
def _(t: Terminal) -> None:
    command = f"bench {ECG} --data {t.at.bare} --what loader --rounds 1 --out"
    assert t.refused(f"{command} {t.new('none') / 'b.json'}").typed("name another file")
    t.works(f"{command} {t.new('b.json')}")


@fixes("verification/verify.py", "verify: has nothing")
@fixes("verification/parity/compare.py", "{}: is not of the documented")
def _(t: Terminal) -> None:
    bad = ""
    if "documented" in t.messages[0].text:
        tensors = load_file(REPOSITORY / "tests" / "parity" / "nepa_ecg.safetensors")
        save_file(tensors, t.new("bad.safetensors"), metadata={"config": "{"})
        bad = f"--parity {t.new('bad.safetensors')}"
    error = t.refused(f"verify {bad}")
    folder = REPOSITORY / (error.typed("tests/parity") if bad else "tests/parity")
    flag = "--parity" if bad else error.typed("--parity")
    t.works(f"verify {flag} {folder / 'nepa_ecg.safetensors'}")


@fixes("verification/verify.py", "--seeds {}: measures")
@fixes("verification/verify.py", "--replay {}: is no time")
def _(t: Terminal) -> None:
    name, bad, pattern = ("seeds", 0, r"give (\d) or more")
    if "replay" in t.messages[0].text:
        name, bad, pattern = "replay", -1, r"(\d) to leave it out"
    command = f"verify {t.at.run} {'--replay 0' if name == 'seeds' else ''} "
    t.works(f"{command} --{name} {t.refused(f'{command} --{name} {bad}').typed(pattern)}")


@fixes("verification/report/page.py", "{}: cannot be written")
def _(t: Terminal) -> None:
    t.new("taken").write_text("a file")
    command = f"verify {t.at.run} --replay 0"
    flag = t.refused(f"{command} --out {t.new('taken')}").typed("another (--out)")
    t.works(f"{command} {flag} {t.new('other')}")


def left_out(flag: str, bad: str) -> None:
    """Register a flag of ``verify`` that has nothing to work on."""

    @fixes("verification/verify.py", f"--{flag} {{}}: {bad}")
    def _(t: Terminal) -> None:
        values = {"data": t.at.bare, "replay": 3, "seeds": 2, "config": t.at.small,
                  "set": "encoder.depth=1"}  # fmt: skip
        about = f"verify {t.at.run} --replay 0"
        if flag in ("data", "replay"):
            about = f"verify --parity {REPOSITORY}/tests/parity/nepa_ecg.safetensors"
        assert t.refused(f"{about} --{flag} {values[flag]}").typed("leave this out")
        t.works(about)


left_out("data", "names")
left_out("replay", "trains")
left_out("seeds", "repeats")
left_out("config", "changes")
left_out("set", "changes")


@fixes("verification/verify.py", "{}: is neither")
def _(t: Terminal) -> None:
    from latentcast.recipes import recipe

    name = t.refused("verify nepa-ecg-tinny").typed("mean '(.+)'")
    t.works(lambda: recipe(name))


@fixes("verification/audit/run.py", "the store is not at hand")
def _(t: Terminal) -> None:
    moved = Path(shutil.copytree(t.at.bare, t.new("here")))
    t.works(train(t, ECG, moved))
    moved = moved.rename(t.new("there"))
    command = f"verify {t.new('run')} --replay 0 "
    printed = t.works(f"{command} {t.prints(command).typed('(--data)')} {moved}")
    assert "not at hand" not in printed


# Optional packages ----------------------------------------------------------------------------


@fixes("errors.py", "{}: is not installed")
def _(t: Terminal) -> None:
    """Nothing is installed here: the extra of each call has to hold the package."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    calls = [
        node
        for file in SOURCE.rglob("*.py")
        if "missing_extra(" in file.read_text()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "missing_extra"
    ]
    names = [[getattr(a, "value", None) for a in node.args[:2]] for node in calls]
    loggers = [[name, name] for name in ("tensorboard", "wandb", "trackio")]
    writers = [list(writer.package) for writer in FILE_WRITERS.values() if writer.package]
    named = [pair for pair in names if all(isinstance(name, str) for name in pair)]
    for package, extra in named + loggers + writers:

        def missing(package: str = package, extra: str = extra) -> None:
            raise missing_extra(package, extra, "this")

        typed = t.refused(missing).typed(r"pip install 'latentcast\[(\w+)\]'")
        assert any(p.startswith(package) for p in extras["optional-dependencies"][typed])
    t.works(lambda: None)


# Comparisons of encoders ------------------------------------------------------------------------


def evaluation(t: Terminal, rest: str, task: str = "labels", run: str | Path | None = None) -> str:
    about = f"--data {t.at.probed} --task {task} --resamples 10 --out {t.new('table')}"
    return f"evaluate {run or t.at.run} {about} {rest}"


@fixes("evaluation/cache.py", "{}: cannot be written")
def _(t: Terminal) -> None:
    t.new("file").write_text("no folder")
    flag = t.refused(evaluation(t, f"--cache {t.new('file')}")).typed("folder with (--cache)")
    t.works(evaluation(t, f"{flag} {t.new('features')}"))


@fixes("evaluation/cache.py", "features of {} GiB are not kept")
@fixes("evaluation/cache.py", "features are not kept in")
def _(t: Terminal) -> None:
    shutil.copytree(t.at.run, t.new("run"))  # a probe is kept in its run
    command = f"probe {t.new('run')} --data {t.at.probed} --task labels"
    t.new("file").write_text("no folder")
    full, most = "GiB" in t.messages[0].text, "latentcast.workflows.probe.MOST"
    with (
        patch.dict("os.environ", XDG_CACHE_HOME=str(t.new("home" if full else "file"))),
        patch(most, 100 if full else 2**30),
    ):
        printed = t.prints(command)
        flag = printed.typed(r"(--cache)\s+FOLDER")
        t.works(f"{command} {flag} {t.new('features')}")
        if not full:
            t.works(f"{command} {printed.typed(r'--no-cache')}")


@fixes("workflows/evaluate.py", "reference {}: is no source")
def _(t: Terminal) -> None:
    name = t.refused(evaluation(t, "--reference 'random convolution'")).typed("mean '(.+)'")
    t.works(evaluation(t, f"--reference '{name}'"))


@fixes("workflows/sources.py", "{}: has the weights of {}")
def _(t: Terminal) -> None:
    assert t.refused(evaluation(t, "", run=f"{t.at.run} {t.at.run}")).typed("leave one of them out")
    t.works(evaluation(t, "--head linear"))


@fixes("workflows/sources.py", "{}: has not chosen a checkpoint")
@fixes("workflows/evaluate.py", "{}: was fine-tuned on a task")
def _(t: Terminal) -> None:
    tuning = f"finetune {t.at.run} --data {t.at.probed} --task labels --epochs 1 --out {t.new()}"
    assert not t.attempt(tuning).startswith("latentcast:")
    if "checkpoint" in t.messages[0].text:
        (t.new() / "classifier.json").unlink()
        verb = t.refused(evaluation(t, "", run=t.new())).typed("same latentcast (finetune)")
        t.works(tuning.replace("finetune", verb, 1))
        t.works(evaluation(t, "", run=t.new()))
    else:
        flag = t.refused(evaluation(t, "", "metadata:age", t.new())).typed("add --task (.*)")
        t.works(evaluation(t, "", f"metadata:age {flag}", t.new()))


@fixes("workflows/sources.py", "--encoder {}: is the name of another")
@fixes("workflows/sources.py", "--concatenate '{}': {} is no source")
@fixes("workflows/sources.py", "--concatenate '{}': names {}")
@fixes("workflows/evaluate.py", "--concatenate: the attentive")
@fixes("evaluation/missing_leads.py", "--drop-leads {}: a token")
def _(t: Terminal) -> None:
    bad, pattern, good = {
        "--encoder": (f"--encoder {ECG}={t.at.run}", "write (.*=)", f"--encoder '{{}}{t.at.run}'"),
        "is no source": (f"--concatenate '{ECG} + pixels'", "(?:mean|known:) '?([^',]+)",
                         f"--concatenate '{ECG} + {{}}'"),
        "names {}": (f"--concatenate {ECG}", "as in '(.+)'", "--concatenate '{}'"),
        "the attentive": (f"--concatenate '{ECG} + random convolutions' --head attentive",
                          "add (--head .+)", f"--concatenate '{ECG} + random convolutions' {{}}"),
        "leads": ("--drop-leads 12", r"to (\d+)", "--drop-leads {}"),
    }[next(part for part in ("--encoder", "is no source", "names {}", "the attentive", "leads")
           if part in t.messages[0].text)]  # fmt: skip
    with patch.multiple("latentcast.evaluation.heads.attentive", EPOCHS=1, LEAST_STEPS=20):
        typed = t.refused(evaluation(t, bad)).typed(pattern)
        t.works(evaluation(t, good.format(typed)))


@fixes("evaluation/missing_leads.py", "{}: holds images")
def _(t: Terminal) -> None:
    command = f"evaluate {t.at.image_run} --resamples 10 --out {t.new('table')}"
    assert t.refused(f"{command} --drop-leads 1").typed("leave out --drop-leads")
    t.works(command)


@fixes("evaluation/cross_validation.py", "{}: {} training records")
def _(t: Terminal) -> None:
    write_labelled(t.new("few"), seed=1, name="few", labels=["a", "b"] * 20,
                   patient_ids=[f"p{i % 20 // 4}" for i in range(40)],
                   folds=[(1, 1, 1, 9, 10)[i % 20 // 4] for i in range(40)])  # fmt: skip
    command = f"evaluate {t.at.run} --data {t.new('few')} --task labels --resamples 9 --out "
    assert t.refused(f"{command} {t.new('table')} --cv").typed("leave out --cv")
    t.works(f"{command} {t.new('table')}")
