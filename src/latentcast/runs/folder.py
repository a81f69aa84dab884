"""What lies in a run folder, and what is wrong with it; nothing here raises over a damaged file.

No torch: a listing of a hundred runs should not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from latentcast.config import (
    Config,
    EmaConfig,
    MachineConfig,
    OptimizerConfig,
    Settings,
    TrainConfig,
    read_yaml,
)
from latentcast.errors import LatentcastError
from latentcast.files import check_digest, digested, read_object, read_text, write_text
from latentcast.monitors.rows import present
from latentcast.pretrained.models import at_step

PARTS: Final = ("config.yaml", "environment.json", "metrics.jsonl", "checkpoints")
"""What a run folder holds; any two of them make a folder one, so that a damaged run is found."""
TUNED: Final = "finetune.json"
"""What a fine-tuning found, written when it has ended."""
LOCK: Final = ".lock"
"""Locked by the training that writes into the folder, until its process ends."""
_FORMAT: Final = 2
"""Of ``environment.json``; the first had none, and no digest."""
_SECTIONS: Final[dict[str, type[Settings]]] = {
    "optimizer": OptimizerConfig,
    "ema": EmaConfig,
    "train": TrainConfig,
    "machine": MachineConfig,
}
"""Sections whose keys are looked through; those of encoders and objectives are their own."""


@dataclass(frozen=True)
class RunFolder:
    """The readable part of a run, and a sentence for whatever is not.

    Attributes:
        path: the folder.
        tree: ``config.yaml`` as it stands there; empty when it cannot be read.
        environment: ``environment.json``; empty when it cannot be read.
        rows: of ``metrics.jsonl``, those of a repeated step each once, in the order of steps.
        checkpoints: ``state.json`` of each checkpoint by its step, ascending.
        probes: file name -> what a probe wrote.
        tuned: ``finetune.json``, the score of a fine-tuned run; empty of any other.
        problems: ``file: what is wrong`` of every file that is absent, cut or of another version.
    """

    path: Path
    tree: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    checkpoints: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        problems: list[str] = []
        tree = _config(path / "config.yaml", problems)
        environment = _object(path / "environment.json", problems)
        try:
            environment = _without_digest(environment)
        except ValueError as problem:
            problems.append(f"environment.json: {problem}")
        checkpoints = _checkpoints(path / "checkpoints", problems)
        rows = read_rows(path / "metrics.jsonl", problems)
        # A run that was stopped before its first step has a checkpoint and no row.
        if any(checkpoints) and not rows and not problems:
            problems.append("metrics.jsonl: has no row and there are checkpoints")
        probes = {
            file.name: content
            for file in sorted(path.glob("probe-*.json"))
            if (content := _object(file, problems))
        }
        tuned = _object(path / TUNED, problems) if (path / TUNED).exists() else {}
        return cls(path, tree, environment, rows, checkpoints, probes, tuned, tuple(problems))


def is_run(path: Path) -> bool:
    """Whether a folder is a run, whole or not."""
    return sum((path / part).exists() for part in PARTS) >= 2


def run_of(path: Path) -> Path:
    """The run that a checkpoint, ``RUN@STEP`` or ``RUN/checkpoints/step-N``, is of; any other path
    as it is."""
    path = at_step(path)
    return Path(os.path.normpath(path / "../..")) if (path / "state.json").is_file() else path


def find(folder: Path) -> Iterator[Path]:
    """The run folders below one, itself included, sorted; a run inside a run is not looked for.

    Links to folders are followed, each folder is entered once.
    """
    visited: set[str] = set()
    for root, inside, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            inside.clear()
            continue
        visited.add(real)
        if is_run(Path(root)):
            inside.clear()
            yield Path(root)
        # Hidden folders (.git, .venv) hold many files and no runs.
        inside[:] = sorted(name for name in inside if not name.startswith("."))


def write_config(file: Path, config: Config) -> None:
    """``config.yaml`` of a run, with a digest of itself in the first line, a comment."""
    write_text(file, _sealed(config.to_yaml()))


def _sealed(text: str) -> str:
    return f"# sha256 of the lines below: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def check_config(file: Path) -> None:
    """Compare a run's ``config.yaml`` with its first line.

    That of an earlier version has none; its ``environment.json`` has no format then.

    Raises:
        LatentcastError: it was changed since.
    """
    try:
        text = read_text(file)
    except (OSError, ValueError):
        return  # who reads it says what is wrong
    earlier = not text.startswith("#") and not _has_format(file.with_name("environment.json"))
    if not earlier and text != _sealed(text.partition("\n")[2]):
        raise LatentcastError(
            f"{file}: was changed since the run wrote it; undo the change, or give a copy of it to "
            "train --config with another --out"
        )


def _has_format(environment: Path) -> bool:
    try:
        return "format" in read_object(environment)
    except (OSError, ValueError):
        return False  # who reads it says what is wrong


def write_environment(file: Path, record: Mapping[str, Any]) -> None:
    """``environment.json`` of a run, with its digest."""
    write_text(file, json.dumps(digested({**record, "format": _FORMAT}), indent=1))


def read_environment(file: Path) -> dict[str, Any]:
    """``environment.json`` of a run; that of an earlier version has no digest.

    Raises:
        OSError, ValueError: it cannot be read, or was changed.
    """
    return _without_digest(read_object(file))


def _without_digest(record: dict[str, Any]) -> dict[str, Any]:
    if record.keys() & {"format", "digest"}:
        check_digest(record)
    return {name: value for name, value in record.items() if name not in ("format", "digest")}


def read_rows(file: Path, problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    """The rows of a ``metrics.jsonl`` by ascending step.

    A last line that a kill cut short is none, as a resumed run sees it; any other line that is no
    row goes to ``problems``.
    """
    try:
        text = read_text(file, errors="replace")
    except FileNotFoundError:
        return ()
    except OSError as problem:
        problems.append(f"{file.name}: cannot be read ({problem})")
        return ()
    lines = text.splitlines()
    rows: dict[int, Mapping[str, Any]] = {}
    for place, line in enumerate(lines, 1):
        try:
            row = json.loads(line, parse_constant=_no_number)
            rows[int(row["step"])] = present(row)
        except (ValueError, TypeError, KeyError, RecursionError):
            if place < len(lines) or text.endswith("\n"):
                problems.append(f"{file.name}: line {place} is no row")
                break  # what follows a torn line is not trusted by a resumed run either
    return tuple(rows[step] for step in sorted(rows))


def _no_number(name: str) -> None:
    """NaN and Infinity, which JSON does not have, are what is not known."""


def _config(file: Path, problems: list[str]) -> dict[str, Any]:
    """As it stands there: to validate it would take the objective's code, and with it torch."""
    try:
        tree = read_yaml(file)
        check_config(file)
    except LatentcastError as problem:
        sentence = " ".join(str(problem).split())  # YAML's own has several lines
        problems.append(sentence.replace(f"{file}: ", f"{file.name}: ", 1))
        return {}
    unknown = [name for name in tree if name not in Config.model_fields]
    for section, model in _SECTIONS.items():
        keys = tree.get(section)
        if isinstance(keys, Mapping):
            unknown += [f"{section}.{key}" for key in keys if key not in model.model_fields]
    if unknown:
        problems.append(f"{file.name}: {unknown[0]} is an unknown key; another version wrote it")
    return {name: value for name, value in tree.items() if name in Config.model_fields}


def _object(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file), parse_constant=_no_number)
    except FileNotFoundError:
        problems.append(f"{file.name}: does not exist")
        return {}
    except (OSError, ValueError) as problem:
        problems.append(f"{file.name}: cannot be read ({problem})")
        return {}
    except RecursionError:
        problems.append(f"{file.name}: cannot be read (it is nested too deeply)")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{file.name}: holds no JSON object")
        return {}
    return content


def _checkpoints(folder: Path, problems: list[str]) -> dict[int, Mapping[str, Any]]:
    """``.draft-*`` folders of interrupted saves are none, and no problem: a resume clears them."""
    found: dict[int, Mapping[str, Any]] = {}
    for checkpoint in sorted(folder.glob("step-*")):
        number = checkpoint.name.removeprefix("step-")
        wrong: list[str] = []
        record = _object(checkpoint / "state.json", wrong)
        if number.isdigit() and not wrong:
            found[int(number)] = record
        else:
            problem = wrong[0] if wrong else "is no step"
            problems.append(f"{folder.name}/{checkpoint.name}/{problem}")
    return found
