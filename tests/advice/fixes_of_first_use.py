"""What a first user runs into says to type: units, lengths, rates, and what is given twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from terminal import (
    AXES,
    CANONICAL_LEADS,
    ECG,
    WFDB,
    Terminal,
    fixes,
    train,
    write_array,
)

from latentcast.artifacts.encoder import Encoder
from latentcast.data.arrays import write_store
from latentcast.data.ingest import ingest
from latentcast.engine.callbacks import Callback
from latentcast.workflows.train import train as train_in_python


def short_and_long(t: Terminal) -> Path:
    """Most records shorter than half a window of ten seconds."""
    generator = np.random.default_rng(0)
    signals = [generator.normal(0, 0.3, (12, 1000 if i % 4 == 0 else 400)) for i in range(40)]
    about = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "quiet": True}
    write_store(t.new("short"), signals=signals, **about)
    np.savez(t.new("a.npz"), x=signals[0][None].transpose(0, 2, 1))
    return t.new("short")


@fixes("monitors/forecast.py", "warning: half of the records last")
def _(t: Terminal) -> None:
    command = train(t, ECG, short_and_long(t))
    key, value = t.prints(command).typed(r"lower (input\.length to \d+)").split(" to ")
    printed = t.works(f"{command.replace('run', 'again')} --set {key}={value}")
    assert "padding" not in printed


@fixes("monitors/forecast.py", ", or leave them out, with ingest")
def _(t: Terminal) -> None:
    flag = t.prints(train(t, ECG, short_and_long(t))).typed(r"ingest (--shortest \d+)")
    t.works(f"ingest {t.new('a.npz')} --out {t.new('some')} {AXES} {flag}")


@fixes("signals/counts.py", "{}; give an array with the unit")
@fixes("signals/counts.py", "{}; give the unit it is in")
def _(t: Terminal) -> None:
    file = write_array(t.new("a.npy"), 12, 300)
    if "--unit" in t.messages[0].text:
        command = f"ingest {file} --out {t.new()} {AXES}"
        unit = t.refused(command).typed("--unit uV")
        t.works(command.replace("--unit mV", unit))
        return
    encoder = Encoder.from_pretrained(t.at.run)
    about = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "layout": "records,samples,leads"}
    error = t.refused(lambda: encoder.embed(np.load(file), unit="mV", **about))
    unit = eval(f"dict({error.typed('unit=.uV.')})")
    t.works(lambda: encoder.embed(np.load(file), **unit, **about))


@fixes("data/plausibility.py", "{} of {} records name no patient")
def _(t: Terminal) -> None:
    for n in range(1, 7):
        (t.new("in") / f"patient{n // 2}").mkdir(parents=True, exist_ok=True)
        for file in (WFDB / "records100" / "00000").glob(f"0000{n}_lr.*"):
            shutil.copy(file, t.new("in") / f"patient{n // 2}")
    command = f"ingest {t.new('in')} --out {t.new()}"
    flag = t.prints(command).typed("--patients")
    again = f"{command}-again {flag} 'patient{{patient}}/'"
    assert "name no patient" not in t.works(again)


@fixes("data/plausibility.py", "half of the records span")
def _(t: Terminal) -> None:
    file = write_array(t.new("a.npy"), 12, 12)
    command = f"ingest {file} --out {t.new()} {AXES} --scale 0.01"
    flag = t.prints(command).typed("--unit")
    command = command.replace(str(t.new()), str(t.new("again"))).replace("--scale 0.01", "")
    assert "which no ECG" not in t.works(command.replace("--unit mV", f"{flag} uV"))


@fixes("data/codecs/counts.py", "a sampling rate of")
def _(t: Terminal) -> None:
    axes = AXES.replace("-rate 100", "-rate 5").replace("--fs 100", "--sampling-rate 5")
    command = f"ingest {t.at.npy} --out {t.new()} "
    flag = t.refused(command + axes).typed("--sampling-rate")
    t.works(command + axes.replace("--sampling-rate 5", f"{flag} 100"))


@fixes("data/ingest.py", "have a lower rate than --fs")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.npy} --out "
    flag = t.prints(f"{command} {t.new()} {AXES} --fs 200").typed("a lower (--fs)")
    assert "lower rate" not in t.works(f"{command} {t.new('again')} {AXES} {flag} 100")


@fixes("data/ingest.py", "--workers {}: must")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --out {t.new()} --fs 100 "
    t.works(command + t.refused(command + "--workers 0").typed("--workers 1"))


@fixes("cli/data.py", "finished before")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --out {t.new()} --fs 100"
    t.works(command)
    t.works(t.prints(command).typed("latentcast (inspect .+) compares"))


@fixes("cli/data.py", "--record {}: is the one")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} --record {t.new('1')}"
    flag = t.refused(command).typed(r"--plot \S+\.png")
    t.works(f"inspect {t.at.store} {flag}")


@fixes("config/resolve.py", "{}: is set twice")
def _(t: Terminal) -> None:
    command = train(t, ECG, t.at.store, "--set train.steps=2 ")
    t.refused(command + " --set train.steps=3").typed("leave one out")
    t.works(command)


@fixes("cli/training.py", "masks: needs a recipe")
def _(t: Terminal) -> None:
    name = "ijepa-ecg-tiny"
    assert name in t.works(t.refused("masks").typed("latentcast (recipes)"))
    t.works(f"masks {name}")


@fixes("monitors/forecast.py", "warning: that is longer than a week")
def _(t: Terminal) -> None:
    with patch("latentcast.monitors.forecast.WEEK", 0):
        printed = t.prints(train(t, ECG, t.at.store))
    t.works(train(t, ECG, t.at.store, printed.typed("(--steps) N") + " 1", "short"))
    t.works(train(t, ECG, t.at.store, printed.typed("(--auto) EPOCHS") + " 1", "auto"))


@fixes("signatures.py", "{}; give {}{}")
def _(t: Terminal) -> None:
    class Mine(Callback):
        pass

    def attempt(callbacks: object) -> None:
        keys = {"train.steps": 1, "optimizer.warmup_steps": 1, "train.batch_size": 4}
        train_in_python(ECG, t.at.store, t.new(), set=keys, callbacks=callbacks, quiet=True)

    code = t.refused(lambda: attempt(Mine)).typed(r"as (\[Mine\(\)\])")
    t.works(lambda: attempt(eval(code, {"Mine": Mine})))


@fixes("signatures.py", "{}; give a list, {}={}")
def _(t: Terminal) -> None:
    def attempt(leads: Any) -> None:
        ingest(WFDB, t.new(), fs=100, leads=leads, workers=1, quiet=True)

    t.works(lambda: attempt(eval(t.refused(lambda: attempt("I, II")).typed(r"leads=(\[.+\])"))))
