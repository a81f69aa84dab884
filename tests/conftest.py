"""Small real stores, small configurations and the command line for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

# Several test processes share a machine, and torch reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings

from latentcast import cli
from latentcast.batch import Batch
from latentcast.config import Config
from latentcast.data.ingest import ingest
from latentcast.data.loader import Loader
from latentcast.engine import context
from latentcast.monitors import forecast, journal
from latentcast.recipes import recipe
from public_ecg import kweimann

# What a shell starts in the background ignores Ctrl-C, and nohup SIGHUP; so would all that tests
# start.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

REPOSITORY = Path(__file__).parents[1]
BUNDLED = REPOSITORY / "data" / "ptbxl2980-100hz"
WFDB = REPOSITORY / "tests" / "data" / "ptbxl_wfdb"

# How long an example takes says how busy the machine is.
settings.register_profile("busy machine", settings.default, deadline=None)
settings.load_profile("busy machine")


@pytest.fixture(autouse=True, scope="session")
def quick_training() -> Iterator[None]:
    """Hundreds of trainings of ten steps: the processor is not measured before each of them, and
    the objects of the whole test process are not searched for garbage."""

    def young(generation: int = 2) -> int:
        return gc.collect(generation) if generation < 2 else 0

    functions = {name: getattr(gc, name) for name in dir(gc)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (forecast, journal):
            patch.setattr(module, "matmul_peak", lambda *_: 1e9)
        patch.setattr(context, "gc", SimpleNamespace(**functions | {"collect": young}))
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that probes keep do not go where those of the user lie."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


class Answer(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Answer]


def latentcast(*arguments: str | float | Path) -> int:
    """Exit status of ``latentcast`` with some arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["latentcast", *map(str, arguments)])
        cli.main()  # any other exception would be a traceback
    return int(end.value.code or 0)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``latentcast`` with some arguments and captures what it prints."""

    def run(*arguments: str | float | Path) -> Answer:
        capsys.readouterr()
        status = latentcast(*arguments)
        printed = capsys.readouterr()
        return Answer(status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the bundled original PTB-XL files at 100 Hz."""
    out = tmp_path_factory.mktemp("stores") / "small"
    ingest(WFDB, out, fs=100, workers=1, quiet=True)
    return out


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the bundled digits."""
    out = tmp_path_factory.mktemp("stores") / "digits"
    ingest(REPOSITORY / "data" / "digits" / "digits.npz", out, quiet=True)
    return out


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """What commands of the documents find: arrays, and the repository's files as from its root."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("tests", "benchmarks", "examples"):
        (home / name).symlink_to(REPOSITORY / name)
    (home / "digits.npz").symlink_to(REPOSITORY / "data" / "digits" / "digits.npz")
    (home / "ecg.dcm").symlink_to(
        REPOSITORY / "tests" / "data" / "formats" / "guangxi_teaching_sinus_rhythm.dcm"
    )
    generator = np.random.default_rng(0)
    np.save(home / "ecgs.npy", generator.normal(0, 0.3, (20, 1000, 12)).astype(np.float32))
    torch.save(kweimann(1, bias=False, gain=0.0)[0], home / "weights.pt")
    return home


@pytest.fixture
def between_reads(monkeypatch: pytest.MonkeyPatch) -> threading.Lock:
    """Who holds it knows that no thread of this process is reading a batch, and that the sizes of
    the shards are looked at before the next one: a file cut short inside a read is the end (SIGBUS)
    of the process that reads, which here is the one that tests."""
    lock, alone = threading.Lock(), Loader._alone

    def one_by_one(self: Loader, attempt: int) -> Generator[list[Batch]]:
        batches = alone(self, attempt)
        while True:
            with lock:
                batch = next(batches)
            yield batch

    monkeypatch.setattr(Loader, "_alone", one_by_one)
    # On a busy machine a look may take long and the next one wait.
    monkeypatch.setattr("latentcast.data.workers._FREE_SECONDS", 1e9)
    return lock


@pytest.fixture(scope="session")
def small_config() -> Config:
    """NEPA on 100 Hz recordings, so small that a step takes milliseconds."""
    return recipe("nepa-ecg-tiny").updated(
        {
            "encoder.width": 24,
            "encoder.depth": 2,
            "encoder.heads": 2,
            "encoder.mlp_width": 48,
            "encoder.drop_path": 0.2,
            "encoder.positions.rescale": 1.5,
            "input.length": 400,
            "optimizer.lr": 1e-3,
            "optimizer.warmup_steps": 4,
            "train.precision": "fp32",
            "train.steps": 12,
            "train.batch_size": 6,
            "train.micro_batches": 2,
            "train.log_every": 1,
            "train.checkpoint_every": 5,
        }
    )


@pytest.fixture(scope="session")
def small_convnet(small_config: Config) -> Config:
    """Masked latent prediction on a residual network with batch norms, cut into no pieces."""
    mine = {name: getattr(small_config, name) for name in ("train", "optimizer")}
    return (
        recipe("conv-ecg-tiny")
        .model_copy(update={**mine, "train": mine["train"].model_copy(update={"micro_batches": 1})})
        .updated(
            {
                "input.length": 400,
                "encoder.width": 24,
                "encoder.stem_width": 6,
                "objective.predictor.width": 16,
                "objective.views": None,
            }
        )
    )


@pytest.fixture(scope="session")
def small_views(small_config: Config) -> Config:
    """CPC and a term between two views, with every augmentation."""
    strong = {"kind": "ecg", "warp": 0.1}
    return small_config.updated(
        {
            "train.micro_batches": 1,
            "objective": {"kind": "cpc", "negatives": "batch"},
            "objective.views": {"projector": [16, 8], "augmentation": strong},
        }
    )


@pytest.fixture(scope="session")
def small_run(
    small_store: Path, small_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of the small configuration; who changes it makes a copy."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "config.yaml").write_text(small_config.to_yaml())
    where = ("--data", small_store, "--out", folder / "small")
    assert latentcast("train", "--config", folder / "config.yaml", *where) == 0
    return folder / "small"


@pytest.fixture(scope="session")
def small_hierarchy(small_config: Config) -> Config:
    """H-JEPA on two levels with a teacher that moves, drop-path and accumulation."""
    made = recipe("hjepa-ecg-tiny")
    mine = {name: getattr(small_config, name) for name in ("input", "train", "optimizer")}
    narrow = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 32}
    return made.model_copy(update=mine).updated(
        {
            "input.length": 400,
            "encoder.patch": 10,
            "encoder.width": 24,
            "encoder.depth": 2,
            "encoder.heads": 2,
            "encoder.mlp_width": 48,
            "encoder.drop_path": 0.2,
            "objective.predictor": narrow,
            "objective.masks": {"kind": "context_blocks", "least_block": 3},
            "objective.coarser.0.stride": 4,
            "objective.coarser.0.width": 16,
            "objective.coarser.0.heads": 2,
            "objective.coarser.0.mlp_width": 32,
            "objective.coarser.0.predictor": narrow,
            "objective.top_down": True,
            "objective.regularizer": None,  # refuses micro-batches
            "ema.base": 0.9,
        }
    )
