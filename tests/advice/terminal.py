"""What a reader of an error has: files, a command line, Python, and the text that was printed."""

from __future__ import annotations

import io
import multiprocessing
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import numpy as np
from messages import Message, advice

from conftest import WFDB, latentcast
from latentcast import config as configuration
from latentcast.data.arrays import write_store
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.signals.leads import CANONICAL_LEADS

Attempt = str | Callable[[], object]
"""A command, as it is typed behind ``latentcast``, or a call."""
ECG, IMAGE = "nepa-ecg-tiny", "ijepa-image-digits"
LAYOUT = "--layout records,samples,leads"
AXES = f"--sampling-rate 100 --unit mV {LAYOUT} --leads {','.join(CANONICAL_LEADS)}"
EEG_AXES = f"--sampling-rate 100 --unit mV {LAYOUT} --leads Fp1,Fp2 --signal other --scale 0.001"
SMALL = """
optimizer: {warmup_steps: 1}
train: {steps: 2, batch_size: 4, micro_batches: 1, precision: fp32, evaluate_every: null}
encoder: {depth: 1}
"""


@dataclass
class Material:
    """Files that several fixes need, each made when it is first named."""

    folder: Path
    store: Path
    digits: Path

    @cached_property
    def npy(self) -> Path:
        """Ten ECGs of ten seconds at 100 Hz, twelve leads last."""
        return write_array(self.folder / "ecgs.npy", 12)

    @cached_property
    def eeg_npy(self) -> Path:
        """The same of two channels that are no ECG leads."""
        return write_array(self.folder / "eeg.npy", 2)

    @cached_property
    def bare(self) -> Path:
        """A store of recordings without labels and metadata."""
        return self.stored("bare", f"ingest {self.npy} {AXES}")

    @cached_property
    def eeg(self) -> Path:
        return self.stored("eeg", f"ingest {self.eeg_npy} {EEG_AXES}")

    @cached_property
    def small(self) -> Path:
        """YAML that makes any recipe a run of two steps."""
        path = self.folder / "small.yaml"
        path.write_text(SMALL)
        return path

    @cached_property
    def images(self) -> Path:
        """Images of 32 × 32 with three channels in two class folders."""
        return write_images(self.folder / "images", [32] * 12)

    @cached_property
    def coloured(self) -> Path:
        return self.stored("coloured", f"ingest {self.images}")

    @cached_property
    def grey(self) -> Path:
        """The store of images of 32 × 32 with one channel."""
        images = np.random.default_rng(3).integers(0, 255, (12, 32, 32), np.uint8)
        np.save(self.folder / "grey.npy", images)
        return self.stored("grey", f"ingest {self.folder / 'grey.npy'}")

    @cached_property
    def probed(self) -> Path:
        """A store of forty recordings with labels and an age, patients in one split each."""
        write_labelled(self.folder / "probed", labels=["a", "b"] * 20,
                       metadata=[{"age": 30 + i % 40} for i in range(40)])  # fmt: skip
        return self.folder / "probed"

    @cached_property
    def run(self) -> Path:
        """A finished run on those."""
        return self.trained("run", ECG, self.probed)

    @cached_property
    def image_run(self) -> Path:
        return self.trained("image-run", IMAGE, self.digits)

    @cached_property
    def hierarchy(self) -> Path:
        """A finished run of two levels on images."""
        return self.trained("hierarchy", "hjepa-image-digits", self.digits)

    def trained(self, name: str, recipe_name: str, data: Path) -> Path:
        return self.stored(name, f"train {recipe_name} --config {self.small} --data {data}")

    def stored(self, name: str, command: str) -> Path:
        out = self.folder / name
        status, printed = execute(f"{command} --out {out}")
        assert status == 0, printed
        return out


@dataclass
class Terminal:
    """Where one fix is tried; it has an empty folder of its own."""

    messages: Sequence[Message]
    at: Material
    folder: Path
    unseen: set[Message] = field(default_factory=set)
    typed: list[str] = field(default_factory=list)
    worked: bool = False

    @cached_property
    def run(self) -> Path:
        """A copy of the finished run, to be written into."""
        return Path(shutil.copytree(self.at.run, self.folder / "copy"))

    def new(self, name: str = "new") -> Path:
        return self.folder / name

    def refused(self, attempt: Attempt) -> Printed:
        """The error of an attempt, which has to be that of the message."""
        failed, printed = execute(attempt)
        assert failed, f"{attempt}: was expected to fail and did not:\n{printed}"
        return self.holding(printed)

    def prints(self, attempt: Attempt) -> Printed:
        """What an attempt that works prints; the message has to be in it."""
        failed, printed = execute(attempt)
        assert not failed, printed
        return self.holding(printed)

    def attempt(self, attempt: Attempt) -> str:
        """What an attempt prints that may fail."""
        return execute(attempt)[1]

    def works(self, attempt: Attempt) -> str:
        failed, printed = execute(attempt)
        assert not failed, f"{attempt}: does not work, typed as printed:\n{printed}"
        self.worked = bool(self.typed)
        return printed

    def holding(self, printed: str) -> Printed:
        """A text, such as a file's, in which the message has to be."""
        held = [message for message in self.messages if message.stands_in(printed)]
        assert held, f"none of {[m.text for m in self.messages]} is in what was printed:\n{printed}"
        self.unseen -= set(held)
        return Printed(printed, self.typed)


class Printed(str):
    """A printed text; what is typed after it has to stand in it."""

    def __new__(cls, text: str, typed: list[str]) -> Printed:
        made = super().__new__(cls, text)
        made.record = typed
        return made

    def typed(self, pattern: str) -> str:
        """The last place that fits a regular expression, or its first group there."""
        found = [*re.finditer(pattern, self)]
        assert found, f"{pattern!r} does not stand in:\n{self}"
        text = found[-1].group(found[-1].re.groups and 1)
        self.record.append(text)
        return text


@dataclass(frozen=True)
class Fix:
    """How to run into the messages of a file that begin so, and what to type then."""

    file: str
    starts: tuple[str, ...]
    follow: Callable[[Terminal], None]

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(advice(self.file, start) for start in self.starts)


FIXES: list[Fix] = []

Follow = Callable[["Terminal"], None]


def fixes(file: str, *starts: str) -> Callable[[Follow], Follow]:
    """Register a function as the fix of the messages of ``file`` that begin so."""

    def register(follow: Follow) -> Follow:
        FIXES.append(Fix(file, starts, follow))
        return follow

    return register


def setting(
    file: str,
    start: str | tuple[str, ...],
    name: str,
    bad: str,
    pattern: str,
    fixed: str = "{}",
    *,
    instead: bool = False,
) -> None:
    """Register a configuration that is refused until what ``pattern`` finds is set.

    Args:
        name: of a recipe.
        bad: ``key=value``, several divided by spaces.
        fixed: what is set beside the other keys of ``bad``, or ``instead`` of all of it, with what
            was found for ``{}``.
    """

    @fixes(file, *(start if isinstance(start, tuple) else (start,)))
    def _(t: Terminal) -> None:
        found = t.refused(resolving(name, bad)).typed(pattern)
        now = fixed.format(found).split()
        keys = [f"{word.partition('=')[0]}=" for word in now]  # of which the former value goes
        before = [] if instead else [w for w in bad.split() if not w.startswith(tuple(keys))]
        t.works(resolving(name, " ".join(before + now)))


def resolving(name: str, flags: str) -> Callable[[], object]:
    return lambda: configuration.resolve(recipe(name), None, flags.split())


def train(t: Terminal, name: str, data: Path, rest: str = "", out: str = "run") -> str:
    return f"{training(t, name, data, rest)} --out {t.new(out)}"


def training(t: Terminal, name: str, data: Path, rest: str = "") -> str:
    return f"train {name} --config {t.at.small} --data {data} {rest}"


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_only(function: str) -> AbstractContextManager[object]:
    """A function of the library that writes is refused, as on a disk that is for reading only."""
    return patch(function, side_effect=PermissionError(13, "Permission denied"))


@contextmanager
def another_process(hold: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Hold a lock in a process of its own: locks of one process do not keep itself out."""
    ready, done = multiprocessing.Event(), multiprocessing.Event()

    def run() -> None:
        with hold():
            ready.set()
            done.wait(60)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        done.set()
        process.join()


def write_array(path: Path, channels: int, size: float = 0.3, records: int = 10) -> Path:
    """Noise ``(records, 1000, channels)``; ``size`` is its standard deviation."""
    values = np.random.default_rng(0).normal(0, size, (records, 1000, channels))
    np.save(path, values.astype(np.float32))
    return path


def write_labelled(
    folder: Path, records: int = 40, sampling_rate: float = 100, seed: int = 0, **columns: object
) -> Path:
    """A store of noise on twelve leads, with columns of one entry a record."""
    samples = round(10 * sampling_rate)
    signals = np.random.default_rng(seed).normal(0, 0.3, (records, 12, samples))
    about = {"sampling_rate": sampling_rate, "leads": CANONICAL_LEADS, "quiet": True}
    write_store(folder, signals=signals, **about, **columns)
    return folder


def write_images(folder: Path, sides: Sequence[int]) -> Path:
    from PIL import Image

    generator = np.random.default_rng(2)
    for number, side in enumerate(sides):
        file = folder / ("ant", "bee")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (side, side, 3), np.uint8)).save(file)
    return folder


def wfdb(folder: Path) -> Path:
    """A copy of the bundled original records, to be damaged."""
    return Path(shutil.copytree(WFDB, folder))


def execute(attempt: Attempt) -> tuple[bool, str]:
    """Whether an attempt failed, and all that it printed."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        if isinstance(attempt, str):
            return bool(latentcast(*shlex.split(attempt))), out.getvalue()
        try:
            attempt()
        except (LatentcastError, ValueError, KeyboardInterrupt) as problem:
            return True, f"{out.getvalue()}\n{problem}"
    return False, out.getvalue()
