"""Edited source over the package, in a forked process.

The process that forks has imported what is heavy (:func:`preload`) and nothing of latentcast, so
each child imports the package anew, edited, in well under a second. The installed files are never
touched: the overlay is a folder of links to them, with the edited files in their place, and it
stands first on the path.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.catalogue import Edit

SOURCE = Path(__file__).parents[1] / "src" / "latentcast"
HEAVY = ("torch", "torch._dynamo", "torch.distributed.fsdp", "pydantic", "safetensors.torch",
         "yaml", "rich.console", "scipy.signal", "scipy.stats", "scipy.optimize", "sklearn",
         "wfdb", "PIL.Image")  # fmt: skip
PATIENCE = 300.0
"""Seconds after which a child is ended: a fault may make it wait for ever."""


class Misfit(Exception):
    """The source does not have the lines that an edit replaces, or has them more than once."""


def edited(edits: Sequence[Edit], whose: str, source: Path = SOURCE) -> dict[str, str]:
    """The files that the edits change, as they are then, by their names in the package.

    Raises:
        Misfit: old lines are missing or occur more than once, or the result is no Python.
    """
    texts: dict[str, str] = {}
    for edit in edits:
        if edit.file not in texts:
            path = source / edit.file
            if not path.is_file():
                raise Misfit(f"{whose}: {edit.file} is not in the package")
            texts[edit.file] = path.read_text(encoding="utf-8")
        texts[edit.file] = _replaced(texts[edit.file], edit, whose)
    for file, text in texts.items():
        try:
            compile(text, file, "exec")
        except SyntaxError as problem:
            raise Misfit(f"{whose}: {file} is no Python after the edit: {problem}") from None
    return texts


def _replaced(text: str, edit: Edit, whose: str) -> str:
    lines, size = text.splitlines(), len(edit.old)
    found = [n for n in range(len(lines) - size + 1) if _margin(lines[n:], edit.old) is not None]
    if not found:
        raise Misfit(f"{whose}: {edit.file} has no line {_nearest(lines, edit.old)}")
    if len(found) > 1:
        where = ", ".join(str(n + 1) for n in found)
        raise Misfit(
            f"{whose}: {edit.file} has {edit.old[0].strip()!r} in lines {where}; add lines of its "
            "surroundings, which begin with two spaces"
        )
    start = found[0]
    margin = _margin(lines[start:], edit.old)
    lines[start : start + size] = [f"{margin}{line}" if line else line for line in edit.new]
    return "\n".join(lines) + "\n"


def _margin(lines: Sequence[str], old: Sequence[str]) -> str | None:
    """The indentation at which the lines begin with the old ones, if they do."""
    if not lines[0].endswith(old[0]):
        return None
    margin = lines[0][: len(lines[0]) - len(old[0])]
    fits = not margin.strip() and all(margin + b == a for a, b in zip(lines, old, strict=False))
    return margin if fits else None


def _nearest(lines: Sequence[str], old: Sequence[str]) -> str:
    """The first of the old lines that is not there at all, and what comes near it."""
    stripped = [line.strip() for line in lines]
    gone = next((line.strip() for line in old if line.strip() not in stripped), None)
    if gone is None:
        return f"{old[0].strip()!r} with the {len(old) - 1} that follow it here; each is there"
    near = difflib.get_close_matches(gone, stripped, 1, 0.3)
    told = f"; the nearest is line {stripped.index(near[0]) + 1}, {near[0]!r}" if near else ""
    return f"{gone!r}{told}"


def lay(files: Mapping[str, str], folder: Path, source: Path = SOURCE) -> None:
    """Write ``folder/latentcast``: links to the package, and the edited files."""
    top = folder / "latentcast"
    if not files:
        top.symlink_to(source)
        return
    opened = {Path(), *(parent for file in files for parent in Path(file).parents)}
    for part in sorted(opened):
        (top / part).mkdir()
        for entry in (source / part).iterdir():
            inside = part / entry.name
            if inside not in opened and str(inside) not in files and entry.name != "__pycache__":
                (top / inside).symlink_to(entry)
    for file, text in files.items():
        with (top / file).open("x", encoding="utf-8") as stream:  # never through a link
            stream.write(text)


def preload() -> None:
    """Import what takes long and is not edited, once and before all forks."""
    for name in HEAVY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # children end with it


@dataclass(frozen=True)
class Job:
    """What a child does under an overlay; ``task`` may import latentcast, and returns JSON."""

    key: Any
    task: Callable[[], Any]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A job and what came of it: its answer, or how it ended without one."""

    job: Job
    answer: Any
    seconds: float
    problem: str = ""


def run(jobs: Iterable[Job], workers: int = 1, patience: float = PATIENCE) -> Iterator[Done]:
    """Each job in a process of its own, so many at a time, in the order in which they end."""
    if "latentcast" in sys.modules:
        raise RuntimeError("overlay: latentcast is imported already, and no fork can edit it")
    waiting, living = iter(jobs), dict[int, tuple[Job, Path, float]]()
    try:
        while True:
            while len(living) < workers and (job := next(waiting, None)) is not None:
                folder = Path(tempfile.mkdtemp(prefix="latentcast-overlay-"))
                living[_forked(job, folder)] = job, folder, time.monotonic()
            if not living:
                return
            time.sleep(0.01)
            for pid, (job, folder, begun) in list(living.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                seconds = time.monotonic() - begun
                if not ended and seconds < patience:
                    continue
                problem = f"exit status {os.waitstatus_to_exitcode(status)}" if ended else ""
                _end(pid, reap=not ended)
                del living[pid]
                yield _answered(job, folder, seconds, problem or f"not done in {patience:g} s")
    finally:
        for pid, (_, folder, _) in living.items():
            _end(pid, reap=True)
            shutil.rmtree(folder, ignore_errors=True)


def _forked(job: Job, folder: Path) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()  # so that what the child starts ends with it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        (folder / "tmp").mkdir()
        tempfile.tempdir = str(folder / "tmp")
        sys.dont_write_bytecode = True
        lay(job.files, folder)
        sys.path.insert(0, str(folder))
        import latentcast

        assert str(latentcast.__file__).startswith(str(folder)), latentcast.__file__
        (folder / "answer").write_text(json.dumps(job.task()), encoding="utf-8")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end(pid: int, reap: bool) -> None:
    """The child and whatever it left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if reap:
        os.waitpid(pid, 0)


def _answered(job: Job, folder: Path, seconds: float, problem: str) -> Done:
    try:
        if (answer := folder / "answer").exists() and problem == "exit status 0":
            return Done(job, json.loads(answer.read_text(encoding="utf-8")), seconds)
        log = (folder / "log").read_text(encoding="utf-8", errors="replace").strip()
        last = log.splitlines()[-1][:300] if log else "nothing was printed"
        return Done(job, None, seconds, f"{problem}: {last}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
