"""What is said of a path of another kind than needed, and of a command that was stopped."""

from __future__ import annotations

from unittest.mock import patch

from terminal import AXES, CANONICAL_LEADS, ECG, WFDB, Terminal, fixes

from latentcast.artifacts.encoder import Encoder


@fixes("data/manifest.py", "{}: is no store")
def _(t: Terminal) -> None:
    command = t.refused(f"inspect {WFDB}").typed("latentcast (ingest .+ --out STORE)")
    t.works(command.replace("STORE", str(t.new())) + " --fs 100")


@fixes("data/formats.py", "{}: is a single record")
def _(t: Terminal) -> None:
    record = WFDB / "records100" / "00000" / "00001_lr"
    folder = t.refused(f"ingest {record} --out {t.new()}").typed(r"its folder, (\S+)")
    t.works(f"ingest {folder} --out {t.new()}")


@fixes("data/formats.py", "{}: is already a store")
def _(t: Terminal) -> None:
    assert t.refused(f"ingest {t.at.bare} --out {t.new()}").typed("name the source")
    t.works(f"ingest {t.at.npy} {AXES} --out {t.new()}")


@fixes("places.py", "{}: {}; name the run")
def _(t: Terminal) -> None:
    run = t.refused(lambda: Encoder.from_pretrained(t.at.run / "checkpoints")).typed("run, (.+)")
    t.works(lambda: Encoder.from_pretrained(run))


@fixes("cli/training.py", "{}: {}; name a recipe (latentcast recipes) and")
def _(t: Terminal) -> None:
    flag = t.refused(f"train {t.at.bare}").typed("--data .+")
    t.works(f"train {ECG} --config {t.at.small} {flag} --out {t.new()}")


@fixes("cli/training.py", "{}: {}; to start")
def _(t: Terminal) -> None:
    Encoder.from_pretrained(t.at.run).save_pretrained(t.new("model"))
    flag = t.refused(f"train {t.new('model')} --data {t.at.bare} --out {t.new()}").typed(
        "--init .+"
    )
    t.works(f"train {ECG} --config {t.at.small} --data {t.at.bare} --out {t.new()} {flag}")


@fixes("cli/training.py", "{}: {}; name a recipe (latentcast recipes) or")
def _(t: Terminal) -> None:
    verb = t.refused(f"train {t.new('gone')} --data {t.at.bare} --out {t.new()}").typed(
        "latentcast (recipes)"
    )
    assert ECG in t.works(verb)


@fixes("cli/data.py", "{}: is a model, of which")
@fixes("report/run.py", "without the curves")
@fixes("runs/summary.py", "without the log")
@fixes("verification/verify.py", "and an audit")
def _(t: Terminal) -> None:
    """A model, where a run or a store is needed."""
    model, verb = t.new("model"), t.messages[0].file.partition("/")[0]
    Encoder.from_pretrained(t.at.run).save_pretrained(model)
    if verb == "cli":
        assert t.refused(f"inspect {model} --plot {t.new('a.png')}").typed("leave out the options")
        t.works(f"inspect {model}")
        return
    error = t.refused(f"{verb.replace('verification', 'verify')} {model}")
    t.works(error.typed(r"latentcast (inspect \S+)"))
    if verb == "report":
        command = error.typed(r"latentcast (evaluate .+) writes").replace("STORE", str(t.at.probed))
        t.works(f"{command.replace('OUT', str(t.new()))} --task labels --resamples 9")


@fixes("runs/new.py", "{}: has done")
def _(t: Terminal) -> None:
    more = t.refused(f"train {t.run} --steps 1").typed(r"more than (\d+)")
    t.works(f"train {t.run} --steps {int(more) + 1}")


@fixes("artifacts/recordings.py", "{} of numbers")
def _(t: Terminal) -> None:
    import numpy

    encoder, x = Encoder.from_pretrained(t.at.run), numpy.load(t.at.npy)[0].T.tolist()
    about = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "unit": "mV"}
    code = t.refused(lambda: encoder.embed(x, **about)).typed(r"numpy.array\(x\)")
    t.works(lambda: encoder.embed(eval(code, {"numpy": numpy, "x": x}), **about))


@fixes("cli/__init__.py", "; the same command")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.npy} {AXES} --out {t.new()}"
    with patch("latentcast.data.ingest._write", side_effect=KeyboardInterrupt):
        assert t.refused(command).typed("the same command goes on")
    t.works(command)
