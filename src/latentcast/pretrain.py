"""From a configuration and a store to a run folder: the pieces put together, once."""

from __future__ import annotations

import fcntl
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentcast import config as configuration
from latentcast.config import Config, EcgInput, ImageInput, Normalisation
from latentcast.data.image_loader import ImageLoader
from latentcast.data.image_store import ImageStore
from latentcast.data.loader import CropLoader
from latentcast.data.opening import open_store
from latentcast.data.staging import staged
from latentcast.data.store import Store
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.loop import train
from latentcast.engine.ranks import Ranks, joined_ranks
from latentcast.errors import LatentcastError
from latentcast.files import write_text
from latentcast.images.preprocess import ImagePreprocess
from latentcast.monitors.journal import Journal
from latentcast.monitors.online import Panel
from latentcast.objectives.base import Objective
from latentcast.objectives.build import assemble, build
from latentcast.signals.preprocess import EcgPreprocess


def pretrain(config: Config, data: Path, run: Path) -> State:
    """Train a configuration on a store, or go on where the run was interrupted.

    Args:
        config: resolved; its normalisation is filled in from the store when it has none.
        data: folder of the store.
        run: folder to write to; made when absent.

    Raises:
        LatentcastError: the store does not fit the configuration or is damaged, the run folder
            belongs to another configuration or cannot be written.
    """
    with joined_ranks(config.machine.device) as ranks, ExitStack() as held:
        store = open_store(data)
        config = fitted(config, store)
        if ranks.first:
            open_run(run, config, store)
            held.enter_context(_alone_in(run))
        ranks.wait()
        objective = _built(config, ranks)
        if (stage := config.machine.stage) is not None:
            store = open_store(staged(store.path, stage))
        loader, preprocess = reading(store, config, ranks)
        panel = Panel.of(store, config)

        def look(step: int, context: Context) -> dict[str, float]:
            return panel.look(objective, preprocess, context) if panel.due(step) else {}

        flops = objective.step_flops(config.input.size)
        with Journal(run, config, flops, ranks, look) as journal:
            journal.say(panel.summary)
            return train(objective, preprocess, loader.stream, config, run, journal, ranks)


def _built(config: Config, ranks: Ranks) -> Objective:
    """With its weights, or, to be drawn in shards, with their shapes alone."""
    if ranks.size == 1 or config.machine.parallel == "ddp":
        return build(config)
    with torch.device("meta"):
        return assemble(config)


def reading(
    store: Store | ImageStore, config: Config, ranks: Ranks
) -> tuple[CropLoader | ImageLoader, EcgPreprocess | ImagePreprocess]:
    """What brings batches, and what makes floats of them on the device."""
    rows, share = store.rows("train"), (ranks.rank, ranks.size)
    if isinstance(store, ImageStore):
        assert isinstance(config.input, ImageInput)  # fitted has seen to it
        return ImageLoader(store, rows, config, share), ImagePreprocess(config.input)
    assert isinstance(config.input, EcgInput)
    return CropLoader(store, rows, config, share), EcgPreprocess(config.input)


def fitted(config: Config, store: Store | ImageStore) -> Config:
    """The configuration with the store's statistics, after checking that the two fit.

    Raises:
        LatentcastError: recordings for an image recipe or the other way round, another sampling
            rate, scale or number of channels, a lead the store lacks, an empty split.
    """
    manifest = store.path / "manifest.json"
    if not len(store.rows("train")):
        raise LatentcastError(f"{manifest}: the training split is empty; check the folds")
    if isinstance(store, ImageStore):
        return _fitted_to_images(config, store)
    if not isinstance(config.input, EcgInput):
        raise LatentcastError(
            f"{config.recipe}: is an image recipe and {store.path} holds recordings; "
            "choose a recipe with -ecg- in its name"
        )
    wanted = config.input
    if store.sampling_rate != wanted.sampling_rate:
        raise LatentcastError(
            f"{manifest}: sampling_rate is {store.sampling_rate:g}, the recipe needs "
            f"{wanted.sampling_rate:g}; re-ingest with --fs {wanted.sampling_rate:g}"
        )
    if store.leads != wanted.leads:
        raise LatentcastError(
            f"{manifest}: leads are {' '.join(store.leads)}, the recipe needs "
            f"{' '.join(wanted.leads)}; re-ingest with --leads {','.join(wanted.leads)}, or "
            f"train with --set input.leads=[{','.join(store.leads)}]"
        )
    if store.scale != wanted.scale:
        raise LatentcastError(
            f"{manifest}: scale is {store.scale}, the recipe has {wanted.scale}; "
            f"train with --set input.scale={store.scale}"
        )
    if wanted.normalisation is not None:
        return config
    return config.updated({"input.normalisation": _statistics(store).model_dump()})


def _fitted_to_images(config: Config, store: ImageStore) -> Config:
    if not isinstance(config.input, ImageInput):
        raise LatentcastError(
            f"{config.recipe}: is a recipe for recordings and {store.path} holds images; "
            "choose a recipe with -image- in its name"
        )
    if store.channels != config.input.channels:
        raise LatentcastError(
            f"{store.path / 'manifest.json'}: channels is {store.channels}, the recipe needs "
            f"{config.input.channels}; train with --set input.channels={store.channels} "
            "input.normalisation=null"
        )
    if config.input.normalisation is not None:
        return config
    told = store.manifest.statistics
    # A channel that never varies is left at its mean.
    statistics = Normalisation(
        mean=tuple(mean or 0.0 for mean in told.mean), std=tuple(std or 1.0 for std in told.std)
    )
    return config.updated({"input.normalisation": statistics.model_dump()})


def _statistics(store: Store) -> Normalisation:
    told = store.manifest.statistics
    mean = tuple(value for value in told.mean if value is not None)
    std = tuple(value for value in told.std if value)
    if len(mean) < len(store.leads) or len(std) < len(store.leads):
        silent = next(
            lead for lead, m, s in zip(store.leads, told.mean, told.std, strict=True)
            if m is None or not s
        )  # fmt: skip
        raise LatentcastError(
            f"{store.path / 'manifest.json'}: lead {silent} holds no signal in the training "
            "split; ingest records that have it, or train with fewer leads"
        )
    return Normalisation(mean=mean, std=std)


def open_run(run: Path, config: Config, store: Store | ImageStore) -> None:
    """Make the run folder with its configuration and environment, or check that it is ours."""
    file, told = run / "config.yaml", run / "environment.json"
    if file.exists():
        theirs = configuration.load(file)
        if differing := configuration.differences(config, theirs):
            raise LatentcastError(
                f"{file}: belongs to another run ("
                + "; ".join(differing)
                + "); choose another --out, or repeat the run's own settings to resume it"
            )
        _note_resume(told, store)
        return
    store.verify()  # once a run, before its first step: a damaged shard must not be learned from
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_text(told, json.dumps(environment(store), indent=1))
        write_text(file, config.to_yaml())  # last: its presence says that the folder is a run
    except OSError as problem:
        raise LatentcastError(
            f"{run}: cannot be written ({problem}); choose another --out"
        ) from None


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Keep a second training out: its start would remove what this one is just saving.

    The lock ends with the process, however that ends; the file stays, so that all ask for the same.
    """
    path = run / ".lock"
    try:
        file = path.open("a")
    except OSError as problem:
        raise LatentcastError(
            f"{run}: cannot be written ({problem}); make it writable and give the same command"
        ) from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise LatentcastError(
                f"{run}: another training is writing into it; wait until it ends or choose another "
                f"--out (if none is alive on any machine, remove {path})"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def data_of(run: Path) -> Store | ImageStore | None:
    """The store a run was trained on, for the leak check; None when it is no longer there.

    A folder of that name that holds other data is not the store.
    """
    file = run / "environment.json"
    if not file.exists():
        return None
    told = json.loads(file.read_text())["data"]
    if not (Path(told["store"]) / "manifest.json").is_file():
        return None
    store = open_store(told["store"])
    return store if store.checksums == told["sha256"] else None


def _note_resume(file: Path, store: Store | ImageStore) -> None:
    """Refuse another store; write down another machine or version, since bits depend on it."""
    now = environment(store)
    try:
        told = json.loads(file.read_text())
        same = told["data"]["sha256"] == now["data"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be read ({problem}), and says which data the run was trained on; "
            "restore it or choose another --out"
        ) from None
    if not same:
        raise LatentcastError(
            f"{file}: the run was trained on {told['data']['store']}, {store.path} holds other "
            "data; resume with the run's own store or choose another --out"
        )
    changed = {k: v for k, v in now.items() if k not in ("data", "command") and told.get(k) != v}
    if changed and changed not in told.setdefault("resumed_under", []):
        told["resumed_under"].append(changed)
        try:
            write_text(file, json.dumps(told, indent=1))
        except OSError as problem:
            raise LatentcastError(
                f"{file}: cannot be written ({problem}); free space or make the folder writable, "
                "and give the same command"
            ) from None


def environment(store: Store | ImageStore) -> dict[str, Any]:
    """What a reader needs to trust or repeat a run: versions, git state, machine, data."""
    data = {"store": str(store.path.resolve()), "records": len(store), "sha256": store.checksums}
    return surroundings() | {"data": data}


def surroundings() -> dict[str, Any]:
    """Versions, git state, machine and command."""
    return {
        "latentcast": metadata.version("latentcast"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "git": _git(),
        "command": " ".join(["latentcast", *sys.argv[1:]]),
    }


def _git() -> str | None:
    """The commit of the code, with ``-dirty`` when it was changed; None outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()
