"""TensorBoard, Weights & Biases and trackio behind one small interface; none may stop a training.

``metrics.jsonl`` is what a run keeps. These are windows on it: each hears the numbers of every row,
and a run that is resumed goes on in the same place.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from latentcast.config import Config
from latentcast.errors import missing_extra
from latentcast.files import write_text

PROJECT: Final = "latentcast"
"""Under which Weights & Biases and trackio keep the runs, unless their environment variables
``WANDB_PROJECT`` and ``TRACKIO_PROJECT`` name another."""
IDENTITY: Final = "logger-id"
"""File of a run folder: by what name the services know the run, also when it has moved."""


class Logger(Protocol):
    """What hears the numbers of each row of ``metrics.jsonl``."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """The numbers after optimizer step ``step``; a resumed run tells some steps once more."""
        ...

    def close(self) -> None:
        """Deliver what is still under way."""
        ...


def open_loggers(run: Path, config: Config, say: Callable[[str], None] = print) -> list[Logger]:
    """The loggers of ``config.machine.loggers``, for the first rank of a run.

    One that fails, now or later (no network, a full disk), is left out from then on; ``say`` is
    told so once. The run goes on.

    Args:
        run: folder of the run; must exist.
        config: resolved; services that show a configuration are given this one.
        say: prints a line.

    Raises:
        LatentcastError: the package of one is not installed, named before the first step is taken.
    """
    packages = [(name, _imported(name)) for name in config.machine.loggers]
    return [
        _Forgiving(name, partial(_OPENERS[name], package, run, config), say)
        for name, package in packages
    ]


class _Forgiving:
    """A logger that is left out, and said to be, from its first error on."""

    def __init__(self, name: str, make: Callable[[], Logger], say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._logger: Logger | None = None
        self._try(lambda: setattr(self, "_logger", make()))

    def log(self, step: int, row: Mapping[str, float]) -> None:
        if (logger := self._logger) is not None:
            self._try(lambda: logger.log(step, row))

    def close(self) -> None:
        if (logger := self._logger) is not None:
            self._try(logger.close)
        self._logger = None

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as problem:  # whatever a service may raise: it is not worth a run
            self._logger = None
            reason = " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
            self._say(
                f"logger {self._name}: {reason}; the run goes on without it, metrics.jsonl has "
                "every row"
            )


class _TensorBoard:
    """Event files under ``RUN/tensorboard``."""

    def __init__(self, package: ModuleType, run: Path) -> None:
        self._package, self._folder = package, run / "tensorboard"
        self._writer: Any = None

    def log(self, step: int, row: Mapping[str, float]) -> None:
        if self._writer is None:
            # What a killed run had told beyond its last checkpoint is told again: purge_step hides
            # the old events. The first row says from where.
            self._writer = self._package.SummaryWriter(str(self._folder), purge_step=step)
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Service:
    """A run of Weights & Biases, or of trackio, which has the same interface.

    A step that is told again the first ignores by itself; in the second it is there twice.
    """

    def __init__(self, package: ModuleType, config: Config, **options: Any) -> None:
        settings = config.model_dump(mode="json")
        self._run = package.init(resume="allow", config=settings, **options)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()


def _wandb(package: ModuleType, run: Path, config: Config) -> Logger:
    return _Service(
        package,
        config,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.resolve().name,
        id=_identity(run),
        dir=str(run.resolve()),
        allow_val_change=True,  # a run may be resumed under another config.machine
    )


def _trackio(package: ModuleType, run: Path, config: Config) -> Logger:
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    return _Service(package, config, project=project, name=_identity(run))


_MODULES: Final = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
_OPENERS: Final[dict[str, Callable[[ModuleType, Path, Config], Logger]]] = {
    "tensorboard": lambda package, run, config: _TensorBoard(package, run),
    "wandb": _wandb,
    "trackio": _trackio,
}


def _imported(name: str) -> ModuleType:
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        raise missing_extra(name, name, f"machine.loggers={name}") from error


def _identity(run: Path) -> str:
    """The run's name for services, made once: the folder's, and what no other run is called."""
    file = run / IDENTITY
    if not file.exists():
        # Weights & Biases refuses slashes and #?%: in an id.
        name = re.sub(r"[^\w.-]", "-", run.resolve().name)[:60]
        write_text(file, f"{name}-{uuid.uuid4().hex[:12]}")
    return file.read_text().strip()
