"""Every way into the library, fed with changed files; what came of it, counted.

    python -m dev.fuzz.run [PATH ...] [--mutations N] [--first SEED]

A mutation is a function of the name of the path and a seed: ``--first SEED --mutations 1`` makes
one again and prints its traceback. The exit status is 1 when something was read that a checksum
covers and should have refused, or a change ended in anything but content or a sentence of ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from dev.fuzz.mutations import change
from dev.fuzz.paths import FOREIGN, REFUSED, Content, InputPath
from latentcast.errors import LatentcastError

MODULES = ("dev.fuzz.paths", "dev.fuzz.runs")
"""The second one loads torch, whose memory a fork has to copy: it comes last."""
SECONDS = 20
TOGETHER = 50
"""Mutations that share a process: to fork costs as much as to read a small file."""
ADDRESS_SPACE = 4 * 2**30
"""Bytes beyond those of the parent that a mutation may map, ..."""
RESIDENT = 2**30
"""... and those that it may use."""
FINE = ("equal", "differs", "refused")
BAD = ("traceback", "death", "hang", "blow-up", "unnoticed")


@dataclass(frozen=True)
class Result:
    """What a reader did with one change.

    Attributes:
        outcome: ``equal`` content, ``differs`` where no checksum covers the file, ``refused`` by a
            sentence of ours (all of it, or some records); or one of :data:`BAD`.
        detail: the sentence, the exception and where it was raised, or the signal.
    """

    outcome: str
    detail: str
    operator: str = ""
    seed: int = 0


def attempt(path: InputPath, sample: Path, valid: Content, seed: int, loud: bool) -> Result:
    """Change one file of a copy of the sample and read it."""
    random = Random(f"{path.name} {seed}")
    folder = Path(tempfile.mkdtemp(dir=sample.parent))
    try:
        shutil.copytree(sample, folder, dirs_exist_ok=True, symlinks=True)
        file = random.choice(_files(folder, path.damaged))
        covered = file in _files(folder, path.covered)
        operator = change(random, file)
        covered = covered and (path.listed or file.is_file())
        outcome, detail = _judged(path, folder, valid, covered, loud)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(outcome, detail, operator, seed)


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())


def _judged(
    path: InputPath, folder: Path, valid: Content, covered: bool, loud: bool
) -> tuple[str, str]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome, detail = _compared(path.read(folder), valid, covered)
    except LatentcastError as error:
        outcome, detail = "refused", str(error)
        if loud:
            print(error, file=sys.stderr)
    except (Exception, SystemExit) as error:
        outcome, detail = "traceback", _place_of(error)
        if loud:
            traceback.print_exc()
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if used > RESIDENT or "MemoryError" in detail or "Unable to allocate" in detail:
        return "blow-up", f"{used >> 20} MiB; {detail}"
    return outcome, detail


def _compared(found: Content, valid: Content, covered: bool) -> tuple[str, str]:
    for name, reason in found.items():
        if name.startswith(FOREIGN):
            return "traceback", f"in quarantine: {reason}"
    read = {name: value for name, value in found.items() if not name.startswith(REFUSED)}
    if read == valid and len(found) == len(read):
        return "equal", ""
    refused = len(found) > len(read)
    if all(valid.get(name) == value for name, value in read.items()) and refused:
        return "refused", next(found[name] for name in found if name.startswith(REFUSED))
    changed = [name for name in read.keys() | valid.keys() if read.get(name) != valid.get(name)]
    if covered and not refused:
        return "unnoticed", f"{sorted(changed)[:5]}"
    return "differs", ""


def _place_of(error: BaseException) -> str:
    """The exception, and the last line of ours on the way to it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/latentcast/" in f.filename]
    at = frames[-1] if frames else None
    where = f" at {at.filename.split('/latentcast/')[-1]}:{at.lineno}" if at else ""
    return f"{type(error).__name__}{where}: {str(error)[:200]!r}"


def in_children(
    work: Callable[[int], Result], seeds: Sequence[int], quiet: bool = True
) -> list[Result]:
    """``work`` of each seed, :data:`TOGETHER` of them in a process, or how the process ended.

    A process that ends or hangs costs its own seed; the next process goes on behind it.
    """
    results: list[Result] = []
    while len(results) < len(seeds):
        results += _one_child(work, seeds[len(results) :][:TOGETHER], quiet)
    return results


def _one_child(
    work: Callable[[int], Result], seeds: Sequence[int], quiet: bool
) -> Iterator[Result]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.setpgid(0, 0)
            if quiet:
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, 1)
                os.dup2(silence, 2)
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with os.fdopen(writing, "w") as pipe:
                for seed in seeds:
                    try:
                        result = work(seed)
                    except MemoryError:
                        result = Result("blow-up", "MemoryError", seed=seed)
                    print(json.dumps(dataclasses.astuple(result)), file=pipe, flush=True)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    done, rest, open_ = 0, b"", True
    with os.fdopen(reading, "rb", buffering=0) as pipe_:
        while done < len(seeds) and open_:
            deadline = time.monotonic() + SECONDS
            while b"\n" not in rest and open_:
                if not select.select([pipe_], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    yield Result("hang", f"after {SECONDS} s", seed=seeds[done])
                    return
                received = pipe_.read(2**16)
                rest, open_ = rest + received, bool(received)
            *lines, rest = rest.split(b"\n")
            yield from (Result(*json.loads(line)) for line in lines)
            done += len(lines)
    _, status = os.waitpid(child, 0)
    if done < len(seeds):
        code = os.waitstatus_to_exitcode(status)
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        yield Result("death", name, seed=seeds[done])


def make_sample(path: InputPath, folder: Path) -> tuple[Path, Content]:
    """A valid sample and what is read of it; made in a child, so that no thread stays here.

    Raises:
        RuntimeError: the sample itself cannot be made or read.
    """
    sample, scratch = folder / f"{path.name}-sample", folder / f"{path.name}-scratch"
    sample.mkdir()

    def work(_: int) -> Result:
        try:
            path.make(sample)
            shutil.copytree(sample, scratch)
            return Result("made", json.dumps([path.read(scratch), [*sys.modules]]))
        except Exception:
            return Result("failed", traceback.format_exc())

    (made,) = in_children(work, [0])
    shutil.rmtree(scratch, ignore_errors=True)
    if made.outcome != "made":
        raise RuntimeError(f"{path.name}: the sample is {made.outcome}: {made.detail}")
    content: Content
    content, modules = json.loads(made.detail)
    for name in modules:  # not by every child again
        with suppress(ImportError):
            import_module(name)
    if any(name.startswith((FOREIGN, REFUSED)) for name in content):
        raise RuntimeError(f"{path.name}: of the sample something is refused: {content}")
    return sample, content


def fuzz(path: InputPath, seeds: Sequence[int], loud: bool = False) -> list[Result]:
    """The results of one path."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        sample, valid = make_sample(path, Path(folder))
        return in_children(lambda seed: attempt(path, sample, valid, seed, loud), seeds, not loud)


def all_paths(patterns: Sequence[str]) -> Iterator[InputPath]:
    """Those of a name that fits one of the patterns."""
    for module in MODULES:
        paths: tuple[InputPath, ...] = import_module(module).PATHS
        yield from (path for path in paths if any(fnmatch(path.name, p) for p in patterns))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.fuzz.run", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("paths", nargs="*", metavar="PATH", help="names or patterns; all of them")
    parser.add_argument("--mutations", type=int, default=1500, help="of each path")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    options = parser.parse_args(arguments)
    table = Table("path", *(*FINE, *BAD), "seconds")
    failed = False
    console = Console(width=200)
    for path in all_paths(options.paths or ["*"]):
        if not path.available:
            table.add_row(path.name, f"{path.package} is not installed")
            continue
        start = time.monotonic()
        seeds = range(options.first, options.first + options.mutations)
        results = fuzz(path, seeds, loud=options.mutations == 1)
        counts = Counter(result.outcome for result in results)
        cells = [str(counts[outcome] or "") for outcome in (*FINE, *BAD)]
        table.add_row(path.name, *cells, f"{time.monotonic() - start:.0f}")
        console.out(f"{path.name}: {dict(counts)}", highlight=False)
        alike: dict[tuple[str, str], list[Result]] = defaultdict(list)
        for result in results:
            if result.outcome in BAD:
                alike[result.outcome, result.detail.split(": ")[0]].append(result)
        for (outcome, _), same in alike.items():
            first = f"seed {same[0].seed}, {same[0].operator}: {same[0].detail}"
            console.out(f"  {outcome} × {len(same)}: {first}", highlight=False)
        failed = failed or bool(alike)
    if not table.row_count:
        names = ", ".join(path.name for path in all_paths(["*"]))
        parser.error(f"no path is named {' or '.join(options.paths)}; there are {names}")
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
