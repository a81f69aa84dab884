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


@fixes("cli/training.py", "{}: {}; name a recipe (latentcast recipes) or")
def _(t: Terminal) -> None:
    verb = t.refused(f"train {t.new('gone')} --data {t.at.bare} --out {t.new()}").typed(
        "latentcast (recipes)"
    )
    assert ECG in t.works(verb)


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
