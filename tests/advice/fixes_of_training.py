"""What errors of `train` and of run folders say to type."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from contextlib import closing
from unittest.mock import patch

from terminal import (
    AXES,
    ECG,
    IMAGE,
    WFDB,
    Terminal,
    fixes,
    read_only,
    train,
)  # fmt: skip

from latentcast import config as configuration
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.loader import Loader, places
from latentcast.data.store import Store
from latentcast.data.workers import Shards
from latentcast.recipes import recipe

# Recipe and data ------------------------------------------------------------------------------


def recipe_with(t: Terminal, part: str) -> str:
    """A small one whose name holds what was printed."""
    names = [line.split()[0] for line in t.works("recipes").splitlines()]
    return next(name for name in names if part in name and name.endswith("tiny"))


@fixes("recipes/__init__.py", "{}: is no recipe")
def _(t: Terminal) -> None:
    name = t.refused(train(t, "nepa-ecg-tinny", t.at.bare)).typed("mean '(.+)'")
    t.works(train(t, name, t.at.bare))


@fixes("cli/training.py", "train: needs a recipe")
def _(t: Terminal) -> None:
    rest = f"--data {t.at.store} --out {t.new()}"
    error = t.refused(f"train {rest}")
    assert ECG in t.works(error.typed("latentcast (recipes)"))
    t.works(train(t, ECG, t.at.store))
    t.works(f"train {error.typed('--config')} {t.new('run') / 'config.yaml'} {rest}")


@fixes("cli/training.py", "train: needs --data")
def _(t: Terminal) -> None:
    error = t.refused(f"train {ECG} --config {t.at.small}")
    data, out = error.typed("(--data) STORE"), error.typed("(--out) RUN")
    t.works(f"train {ECG} --config {t.at.small} {data} {t.at.bare} {out} {t.new('run')}")
    assert error.typed("the folder of a run")
    t.works(f"train {t.new('run')}")


@fixes("cli/training.py", "{}: is a checkpoint")
def _(t: Terminal) -> None:
    error = t.refused(train(t, str(t.run / "checkpoints" / "step-00000002"), t.at.bare))
    t.works(train(t, ECG, t.at.bare, error.typed(r"--init \S+")))
    assert error.typed("name its run to go on")
    t.works(f"train {t.run}")


@fixes("cli/training.py", "--batch-size {}")
def _(t: Terminal) -> None:
    flags = t.refused(train(t, ECG, t.at.bare, "--batch-size 5")).typed("write (--set .*)")
    t.works(train(t, ECG, t.at.bare, flags))


def by_epochs(start: str, bad: str, pattern: str, fixed: str) -> None:
    """Register flags for a training by epochs that are refused until what is found is given."""

    @fixes("config/advice.py", *start.split(" + "))
    def _(t: Terminal) -> None:
        command = f"train {ECG} --data {t.at.bare} --out {t.new('run')} --set encoder.depth=1 "
        found = t.refused(command + bad).typed(pattern)
        t.works(command + fixed.format(found))


by_epochs("--auto {}: is no number", "--auto 0", "(--auto) 100", "{} 1 --batch-size 4")
by_epochs("--batch-size {}: is no batch", "--auto 1 --batch-size 0", "(--batch-size) 0: is no",
          "--auto 1 {} 4")  # fmt: skip
by_epochs("--auto: the training split + --batch-size {}", "--auto 1", r"use (--batch-size \d+)",
          "--auto 1 {}")  # fmt: skip
by_epochs("--batch-size {}: {} is set as well", "train.batch_size=8 --auto 1 --batch-size 4",
          "leave one of the two out", "--auto 1 --batch-size 4")  # fmt: skip


@fixes("data/fit.py", "{}: is an image recipe")
def _(t: Terminal) -> None:
    name = recipe_with(t, t.refused(train(t, IMAGE, t.at.bare)).typed("with (-ecg-) in its name"))
    t.works(train(t, name, t.at.bare))


@fixes("data/fit.py", "{}: is a recipe for recordings")
def _(t: Terminal) -> None:
    part = t.refused(train(t, ECG, t.at.coloured)).typed("with (-image-) in its name")
    t.works(train(t, recipe_with(t, part), t.at.coloured))


@fixes("data/fit.py", "{}: signal is")
@fixes("data/fit.py", "{}: scale is")
@fixes("data/fit.py", "{}: channels is", "input.canvas=[")
def _(t: Terminal) -> None:
    name, data = ECG, t.at.eeg
    if "scale is" in t.messages[0].text:
        t.works(f"ingest {t.at.npy} {AXES} --scale 0.002 --out {t.new()}")
        data = t.new()
    elif "channels is" in t.messages[0].text:
        name, data = "nepa-image-tiny", t.at.digits
    t.works(train(t, name, data, t.refused(train(t, name, data)).typed("train with (--set .*)")))


@fixes("data/fit.py", "{}: sampling_rate is")
def _(t: Terminal) -> None:
    flag = t.refused(train(t, "nepa-ecg-small", t.at.store)).typed("re-ingest with (--fs .*)")
    t.works(f"ingest {WFDB} --out {t.new()} {flag}")
    t.works(train(t, "nepa-ecg-small", t.new()))


@fixes("data/fit.py", "{}: sampling_rate is")
def _(t: Terminal) -> None:
    """Of an array the rate is declared: the store's is another flag, and resamples."""
    ingest = f"ingest {t.at.npy} {AXES.replace('100', '250')} --out {t.new()}"
    t.works(ingest)
    flag = t.refused(train(t, ECG, t.new())).typed("re-ingest with (--fs .*)")
    t.works(ingest.replace("/new", f"/again {flag}"))
    assert Store.open(t.new("again")).lengths[0] == 400
    t.works(train(t, ECG, t.new("again")))


@fixes(
    "data/fit.py",
    "{}: leads are",
    "choose a new store folder (ingest --out) and re-ingest with --leads",
)
def _(t: Terminal) -> None:
    t.works(f"ingest {WFDB} --fs 100 --out {t.new('two')} --leads I,V1")
    error = t.refused(train(t, ECG, t.new("two")))
    t.works(train(t, ECG, t.new("two"), error.typed("train with (--set .*)")))
    t.works(
        f"ingest {WFDB} --fs 100 --out {t.new()} {error.typed(r're-ingest with (--leads .*?), or')}"
    )
    t.works(train(t, ECG, t.new(), out="again"))


@fixes("data/fit.py", "{}: lead {} holds no signal")
def _(t: Terminal) -> None:
    ingest = f"ingest {WFDB} --fs 100 --leads"
    t.works(f"{ingest} I,V7 --missing-leads mask --out {t.new('silent')}")
    error = t.refused(train(t, ECG, t.new("silent"), "--set input.leads=[I,V7]"))
    t.works(f"{ingest} {error.typed('the leads (.+) alone')} --out {t.new()}")
    t.works(train(t, ECG, t.new(), error.typed("train with (--set .*)")))


@fixes("data/loader.py", "{}: its images have")
def _(t: Terminal) -> None:
    store = Store.open(t.at.grey)
    rows, coloured = store.rows("train"), recipe("nepa-image-tiny")
    key, value = t.refused(lambda: Loader(store, rows, coloured)).typed(
        r"set (\S+ to \d)").split(" to ")  # fmt: skip
    t.works(lambda: Loader(store, rows, coloured.updated(
        {key: int(value), "input.normalisation": None})))  # fmt: skip


@fixes("data/loader.py", "train.batch_size {}")
def _(t: Terminal) -> None:
    few = recipe(ECG).updated({"train.batch_size": 3})
    size = t.refused(lambda: places(few, 0, 4)).typed(r"set it to (\d+) or more")
    t.works(lambda: places(few.updated({"train.batch_size": int(size)}), 0, 4))


@fixes("data/ecg_preprocess.py", "input.normalisation: is not set")
@fixes("data/ecg_preprocess.py", "input.normalisation: has")
@fixes("data/image_preprocess.py", "input.normalisation: is not set")
def _(t: Terminal) -> None:
    image = "image" in t.messages[0].file
    make, config = (ImagePreprocess, recipe(IMAGE)) if image else (EcgPreprocess, recipe(ECG))

    def with_channels(count: int) -> object:
        section = {"mean": [0.0] * count, "std": [1.0] * count} if count else None
        return make(config.updated({"input.normalisation": section}).input)

    few = 2 if "has {}" in t.messages[0].text else 0
    assert t.refused(lambda: with_channels(few)).typed("give one mean and std|give mean and std")
    t.works(lambda: with_channels(config.input.channels))


@fixes("data/synthetic.py", "input.leads {}")
def _(t: Terminal) -> None:
    command = (
        "bench nepa-ecg-tiny --what loader --rounds 1 --set input.leads=[I,II,V1,V2,V3,V4,V5,V6] "
    )
    t.works(f"ingest {WFDB} --fs 100 --out {t.new()} --leads I,II,V1,V2,V3,V4,V5,V6")
    flag = t.refused(command).typed("with (--data)")
    t.works(command.replace("--set", f"{flag} {t.new()} --set"))


# The machine ----------------------------------------------------------------------------------


@fixes("engine/device.py", "{} {}: cannot be used")
def _(t: Terminal) -> None:
    flags = "--set machine.device="
    device = t.refused(train(t, ECG, t.at.bare, flags + "cuda:77")).typed("try (cpu)")
    t.works(train(t, ECG, t.at.bare, flags + device))


@fixes("engine/ranks.py", "WORLD_SIZE {}")
def _(t: Terminal) -> None:
    with patch.dict(os.environ, {"WORLD_SIZE": "2"}):
        del os.environ[t.refused(train(t, ECG, t.at.bare)).typed("unset (WORLD_SIZE)")]
        t.works(train(t, ECG, t.at.bare))


@fixes("monitors/forecast.py", "warning: this device has")
@fixes("monitors/forecast.py", "warning: the training split has")
def _(t: Terminal) -> None:
    if "split" in t.messages[0].text:
        setting = t.prints(train(t, ECG, t.at.bare, "--set train.batch_size=50"))
        lower = f"--set {setting.typed('lower (train.batch_size)')}=4"
        assert "fewer than a batch" not in t.works(train(t, ECG, t.at.bare, lower, "other"))
        return
    with patch("latentcast.monitors.forecast._memory", lambda device: 1.0):
        printed = t.prints(train(t, ECG, t.at.bare))
    for number, (pattern, value) in enumerate(
        [("raise (train.micro_batches)", "=2"), ("set (machine.recompute=true)", ""),
         ("lower (train.batch_size)", "=2")]):  # fmt: skip
        t.works(train(t, ECG, t.at.bare, f"--set {printed.typed(pattern)}{value}", f"r{number}"))


@fixes("data/staging.py", "{}; remove {}, the next start")
def _(t: Terminal) -> None:
    flags = f"--set machine.stage={t.new('disk')}"
    t.works(train(t, ECG, t.at.bare, flags))
    (shard,) = t.new("disk").glob("*/shard-00000.npy")
    shard.write_bytes(shard.read_bytes()[:-2] + b"##")
    command = train(t, ECG, t.at.bare, flags, "other")
    shutil.rmtree(t.refused(command).typed("remove (.+), the next start"))
    t.works(command)


@fixes("data/staging.py", "machine.stage {}")
def _(t: Terminal) -> None:
    t.new("disk").write_text("a file")
    flags = f"--set machine.stage={t.new('disk')}"
    null = t.refused(train(t, ECG, t.at.bare, flags)).typed("machine.stage=null")
    t.works(train(t, ECG, t.at.bare, f"--set {null}"))


@fixes("data/workers.py", "machine.workers: reader", "resume, with machine.workers=0")
@fixes("data/workers.py", "machine.workers: reader", "memory may have run out")
@fixes("data/workers.py", "machine.workers: reader", "the disk could not deliver")
def _(t: Terminal) -> None:
    store = Store.open(t.at.bare)
    number, pattern, value = {
        "resume": (signal.SIGSEGV, "with (machine.workers)=0", 0),
        "memory": (signal.SIGKILL, "lower (machine.workers)", 0),
        "the": (signal.SIGBUS, "with (machine.stage)", str(t.new("disk"))),
    }[t.messages[1].text.split()[0].rstrip(",")]

    def read(config: configuration.Config, end: signal.Signals | None = None) -> None:
        with closing(Loader(store, store.rows("train"), config).stream(0)) as stream:
            next(stream)
            if end is not None:
                os.kill(multiprocessing.active_children()[0].pid or 0, end)
            for _ in range(5):
                next(stream)

    one = recipe(ECG).updated({"train.batch_size": 4, "machine.workers": 1})
    key = t.refused(lambda: read(one, number)).typed(pattern)
    t.works(lambda: read(one.updated({key: value})))


@fixes("data/workers.py", "{}: vanished")
@fixes("data/workers.py", "{}: has {} bytes")
def _(t: Terminal) -> None:
    t.works(f"ingest {t.at.npy} {AXES} --out {t.new()}")
    shard, shards = t.new() / "shard-00000.npy", Shards(Store.open(t.new()))
    shard.unlink() if "vanished" in t.messages[0].text else os.truncate(shard, 4096)
    error = t.refused(lambda: shards.check(now=True))
    shutil.rmtree(error.typed("remove (.+) and ingest again"))
    t.works(f"ingest {t.at.npy} {AXES} --out {t.new()}")
    t.works(train(t, ECG, t.new()))


@fixes("workflows/seeds.py", "--seeds {}: trains nothing")
@fixes("cli/training.py", "--seeds: is of")
def _(t: Terminal) -> None:
    if "nothing" in t.messages[0].text:
        command = train(t, ECG, t.at.bare)
        t.works(f"{command} --seeds {t.refused(f'{command} --seeds 0').typed('give (1) or')}")
        return
    error = t.refused(f"train {t.at.run} --seeds 2")
    assert error.typed("leave it out")
    t.works(f"train {t.at.run}")


@fixes("workflows/seeds.py", "{}: cannot be written")
def _(t: Terminal) -> None:
    command = f"{train(t, ECG, t.at.bare)} --seeds 2"
    with read_only("latentcast.workflows.seeds.write_text"):
        assert t.refused(command).typed("the same command")
    t.works(command)


@fixes("workflows/seeds.py", "{}: every seed")
def _(t: Terminal) -> None:
    with patch("latentcast.workflows.seeds.warnings", lambda rows, steps: ("dead",)):
        error = t.refused(f"{train(t, ECG, t.at.bare)} --seeds 2")
    t.works(error.typed("latentcast (train .*)"))


@fixes("data/flags.py", "{}: {}, so that none remains")
def _(t: Terminal) -> None:
    noise = f"{train(t, ECG, t.at.bare)} --set train.leave_out=[noise]"
    found = t.refused(noise).typed(r"set (train.leave_out=\[\])")
    t.works(f"{train(t, ECG, t.at.bare)} --set {found}")
