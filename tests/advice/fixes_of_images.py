"""What errors and hints of images say to type."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from terminal import ECG, Terminal, fixes, train

from latentcast.engine.callbacks import Callback
from latentcast.images.arrays import one_or_many
from latentcast.workflows.train import train as train_in_python


@fixes("images/arrays.py", "{}: could be")
def _(t: Terminal) -> None:
    for shape in [(8, 9, 4), (8, 9, 2), (3, 8, 9)]:
        x = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        error = t.refused(lambda x=x: list(one_or_many(x, 3)))
        np.save(t.new("x.npy"), x)
        command = f"ingest {t.new('x.npy')} --out {t.new()}"
        one, several = error.typed(r"give (x\[.+?\])"), error.typed(r", (x\[\.+, None\]) for")
        assert t.refused(command).typed(r"give (x\[.+?\])") == one
        for number, code in enumerate((one, several)):
            t.works(lambda x=x, code=code: list(one_or_many(eval(code, {"x": x}), 3)))
            np.save(t.new("y.npy"), eval(code, {"x": x}))
            t.works(f"ingest {t.new('y.npy')} --out {t.new(f'{shape[2]}{number}')}")


@fixes("images/arrays.py", "{}: --splits {}")
def _(t: Terminal) -> None:
    np.save(t.new("x.npy"), np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8))
    command = f"ingest {t.new('x.npy')} --out {t.new()}"
    assert t.refused(f"{command} --splits none").typed("leave it out")
    t.works(command)


@fixes("images/arrays.py", "{}: {} has shape {}, {} holds {} images")
def _(t: Terminal) -> None:
    images = np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8)
    command = f"ingest {t.new('x.npz')} --out {t.new()}"
    np.savez(t.new("x.npz"), images=images, labels=np.arange(3))
    assert t.refused(command).typed("give one label an image")
    np.savez(t.new("x.npz"), images=images, labels=np.arange(9))
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


@fixes("workflows/train.py", "callbacks: hold a {}")
def _(t: Terminal) -> None:
    class Mine(Callback):
        pass

    def attempt(callbacks: object) -> None:
        keys = {"train.steps": 1, "optimizer.warmup_steps": 1, "train.batch_size": 4}
        train_in_python(ECG, t.at.store, t.new(), set=keys, callbacks=callbacks, quiet=True)

    code = t.refused(lambda: attempt(Mine)).typed(r"callbacks=(\[Mine\(\)\])")
    t.works(lambda: attempt(eval(code, {"Mine": Mine})))
