"""Loggers: they hear every number, a resumed run goes on in the same place, none stops a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.monitors.loggers import IDENTITY, open_loggers

ROWS = [(step, {"loss": 1.0 / step, "rank": 3.0}) for step in range(1, 6)]


class Service:
    """What a stand-in was asked: ``opened`` by keyword, ``heard`` as (step, name, value)."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.heard: list[tuple[int, str, float]] = []
        self.closed = 0
        self.fails = ""

    def _maybe(self, act: str) -> None:
        if self.fails == act:
            raise ConnectionError("no route to\nhost")

    # torch.utils.tensorboard
    def SummaryWriter(self, log_dir: str, *, purge_step: int) -> Service:
        self._maybe("open")
        self.opened.append({"log_dir": log_dir, "purge_step": purge_step})
        return self

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self._maybe("log")
        self.heard.append((global_step, tag, scalar_value))

    def flush(self) -> None: ...

    # wandb and trackio
    def init(self, **given: Any) -> Service:
        self._maybe("open")
        self.opened.append(given)
        return self

    def log(self, data: dict[str, float], *, step: int) -> None:
        self._maybe("log")
        self.heard += [(step, name, value) for name, value in data.items()]

    def finish(self) -> None:
        self._maybe("close")
        self.closed += 1

    close = finish


MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


@pytest.fixture
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The stand-in of the logger that a test is parametrised with."""
    name, made = request.getfixturevalue("name"), Service()
    module = ModuleType(MODULES[name])
    for attribute in ("init", "SummaryWriter"):
        setattr(module, attribute, getattr(made, attribute))
    monkeypatch.setitem(sys.modules, MODULES[name], module)
    return made


def told(run: Path, config: Config, rows: list[Any] = ROWS) -> list[str]:
    """Open, log, close; what was said."""
    said: list[str] = []
    loggers = open_loggers(run, config, said.append)
    for step, row in rows:
        for logger in loggers:
            logger.log(step, row)
    for logger in loggers:
        logger.close()
    return said


def listening(config: Config, *names: str) -> Config:
    return config.updated({"machine.loggers": list(names)})


@pytest.mark.parametrize("name", MODULES)
def test_every_number_arrives_at_its_step(
    name: str, service: Service, small_config: Config, tmp_path: Path
) -> None:
    assert told(tmp_path, listening(small_config, name)) == []
    assert service.heard == [(s, key, v) for s, row in ROWS for key, v in row.items()]
    assert len(service.opened) == 1 and service.closed == 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_under_its_name_also_when_the_folder_has_moved(
    name: str, service: Service, small_config: Config, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.delenv(f"{name.upper()}_PROJECT", raising=False)
    (tmp_path / "run #1").mkdir()
    (tmp_path / "other" / "run #1").mkdir(parents=True)
    config = listening(small_config, name)
    told(tmp_path / "run #1", config)
    told(tmp_path / "run #1", config)
    (tmp_path / "run #1").rename(tmp_path / "best")
    told(tmp_path / "best", config)
    told(tmp_path / "other" / "run #1", config)
    key = "id" if name == "wandb" else "name"
    *mine, other = [given[key] for given in service.opened]
    assert len(set(mine)) == 1 and other not in mine
    assert all(given["resume"] == "allow" for given in service.opened)
    assert all(given["project"] == "latentcast" for given in service.opened)
    assert service.opened[0]["config"]["encoder"]["width"] == 24
    assert not set(mine[0]) & set("/\\#?%:")  # what an id must not hold


def test_the_project_of_the_environment_is_respected(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "trackio"):
        made, module = Service(), ModuleType(name)
        module.init = made.init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setenv(f"{name.upper()}_PROJECT", "hearts")
        told(tmp_path, listening(small_config, name))
        assert made.opened[0]["project"] == "hearts"


@pytest.mark.parametrize("name", ["tensorboard"])
def test_tensorboard_hides_what_a_killed_run_told_beyond_its_checkpoint(
    name: str, service: Service, small_config: Config, tmp_path: Path
) -> None:
    config = listening(small_config, name)
    told(tmp_path, config)
    told(tmp_path, config, [(3, {"loss": 9.0})])
    assert [given["purge_step"] for given in service.opened] == [1, 3]
    assert {given["log_dir"] for given in service.opened} == {str(tmp_path / "tensorboard")}
    told(tmp_path, config, [])  # a finished run: nothing to say, nothing to open
    assert len(service.opened) == 2


@pytest.mark.parametrize("act", ["open", "log", "close"])
@pytest.mark.parametrize("name", MODULES)
def test_a_logger_that_fails_is_left_out_and_said_once(
    name: str, act: str, service: Service, small_config: Config, tmp_path: Path
) -> None:
    service.fails = act
    (said,) = told(tmp_path, listening(small_config, name))
    assert said.startswith(f"logger {name}: no route to host; the run goes on without it")
    assert "\n" not in said
    assert bool(service.heard) == (act == "close")


def test_one_that_fails_does_not_silence_the_others(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: Service() for name in ("wandb", "trackio")}
    for name, service in made.items():
        module = ModuleType(name)
        module.init = service.init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    made["wandb"].fails = "log"
    assert len(told(tmp_path, listening(small_config, "wandb", "trackio"))) == 1
    assert len(made["trackio"].heard) == 2 * len(ROWS)


def test_an_identity_that_cannot_be_written_does_not_stop_the_run(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentcast.monitors import loggers

    def full_disk(path: Path, text: str) -> None:
        raise OSError("no space left on device")

    module = ModuleType("trackio")
    module.init = Service().init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    monkeypatch.setattr(loggers, "write_text", full_disk)
    (said,) = told(tmp_path, listening(small_config, "trackio"))
    assert "no space left" in said and not (tmp_path / IDENTITY).exists()


@pytest.mark.parametrize("name", MODULES)
def test_a_package_that_is_not_installed_is_named_before_training(
    name: str, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    with pytest.raises(LatentcastError, match=rf"pip install 'latentcast\[{name}\]'"):
        open_loggers(tmp_path, listening(small_config, name))
    assert list(tmp_path.iterdir()) == []


def test_interrupting_is_not_an_error_of_a_logger(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(**_: Any) -> None:
        raise KeyboardInterrupt

    module = ModuleType("wandb")
    module.init = stopped  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(KeyboardInterrupt):
        open_loggers(tmp_path, listening(small_config, "wandb"))


def test_a_real_tensorboard_reads_a_resumed_run_as_one(
    small_config: Config, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = listening(small_config, "tensorboard")
    told(tmp_path, config, [(step, {"loss": 100.0 + step}) for step in range(1, 6)])
    told(tmp_path, config, [(step, {"loss": float(step)}) for step in range(4, 8)])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars("loss")]
    assert read == [(1, 101.0), (2, 102.0), (3, 103.0), *((s, float(s)) for s in range(4, 8))]
