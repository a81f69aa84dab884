"""Ingest of a large WFDB archive against a loop of ``wfdb.rdrecord``, memory, and a kill; prints
JSON.

    python benchmarks/wfdb_archive.py [FOLDER] [--records N] [--rate HZ] [--workers W]

The archive is made of the records in FOLDER, each turned by another number of samples, so that
no two are the same. The command ``latentcast ingest`` is timed from its start to its end, and a
loop that only reads a sample of the same records goes before and after it on as many processes. A
second ingest, whose processes' memory is read every 50 ms, is killed (SIGKILL, all processes) in
its middle and started again: every file of its store has to be that of the first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import wfdb

from latentcast.data.store import Store
from latentcast.signals.readers.wfdb_header import parse_header

DEFAULT = Path(__file__).parent.parent / "tests" / "data" / "ptbxl_wfdb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=int, default=1000, help="records of the loop")
    parser.add_argument("--temporary", type=Path, help="folder for archive and stores")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.temporary) as name:
        print(json.dumps(measured(arguments, Path(name)), indent=1))


def measured(arguments: argparse.Namespace, room: Path) -> dict[str, object]:
    archive, workers, count = room / "archive", arguments.workers, arguments.records
    written = write_archive(arguments.folder, archive, count, arguments.rate)
    step = max(1, count // arguments.sample)
    sample = [str(header.with_suffix("")) for header in written[::step]]
    loops = [loop(sample, workers)]
    ingested = Ingest(archive, room / "store", workers)
    ingested.end()
    loops.append(loop(sample, workers))
    killed = Ingest(archive, room / "killed", workers)
    killed.wait(until=lambda: bytes_in(room / "killed") > bytes_in(room / "store") // 2)
    again = Ingest(archive, room / "killed", workers)
    again.wait()
    store = Store.open(room / "store")
    ids = set(store.record_ids.tolist())
    wall = [seconds / len(sample) for seconds, _ in loops]
    cpu = [seconds / len(sample) for _, seconds in loops]
    return {
        "benchmark": "wfdb_archive",
        "records": count,
        "sampling_rate": arguments.rate,
        "processes": workers,
        "stored": len(store),
        "ids": len(ids),
        "records_per_second": count / ingested.seconds,
        "loop_records_per_second": [1 / one for one in wall],
        "times_faster": [one * count / ingested.seconds for one in wall],
        # The loop's time has no start of an interpreter and no imports in it.
        "times_faster_without_start": [one * ingested.rate for one in wall],
        "times_less_processor_time": [one * count / ingested.processor for one in cpu],
        "peak_MiB_of_all_processes": max(killed.peak, again.peak) >> 20,
        "killed_after_bytes": killed.bytes,
        "resumed": again.goes_on,
        "same_bytes_as_without_the_kill": digests(room / "killed") == digests(room / "store"),
        "projection": ingested.projection,
    }


def write_archive(source: Path, target: Path, count: int, rate: float) -> list[Path]:
    """``count`` records in format 16, a hundred in a folder; the headers."""
    originals = []
    for file in sorted(source.rglob("*.hea")):
        header = parse_header(file.read_text())
        if header.sampling_rate == rate:
            counts = np.fromfile(file.with_suffix(".dat"), "<i2").reshape(-1, len(header.signals))
            originals.append((header, counts))
    headers = []
    for n in range(count):
        header, counts = originals[n % len(originals)]
        turned = np.roll(counts, 1 + n // len(originals), axis=0)
        folder, name = target / f"{n // 100:04d}", f"r{n:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        turned.tofile(folder / f"{name}.dat")
        lines = [f"{name} {len(header.signals)} {rate:g} {len(turned)}"]
        for signal_, first in zip(header.signals, turned[0], strict=True):
            lines.append(
                f"{name}.dat 16 {signal_.gain:g}({signal_.baseline})/{signal_.unit} 16 0 {first} "
                f"{signal_.checksum} 0 {signal_.name}"
            )
        headers.append(folder / f"{name}.hea")
        headers[-1].write_text("\n".join(lines) + "\n")
    return headers


def loop(names: list[str], workers: int) -> tuple[float, float]:
    """Seconds, and processor seconds, of reading records in so many processes."""
    before, started = processor_seconds(), time.perf_counter()
    with get_context("fork").Pool(workers) as pool:
        pool.map(read, names, chunksize=50)
        seconds = time.perf_counter() - started
        pool.close()
        pool.join()
    return seconds, processor_seconds() - before


def read(name: str) -> None:
    assert np.isfinite(wfdb.rdrecord(name).p_signal[0]).all()


def processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Ingest:
    """The command, in a process group of its own."""

    def __init__(self, archive: Path, store: Path, workers: int) -> None:
        self.store, self.peak, self.bytes = store, 0, 0
        command = "import sys; from latentcast.cli import main; sys.exit(main())"
        self.errors = store.with_suffix(".txt")
        with self.errors.open("w") as errors:
            self.before, self.started = processor_seconds(), time.perf_counter()
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, "ingest", str(archive), "--out", str(store),
                 "--workers", str(workers)],
                stdout=errors, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """For its end, or until it is to be killed, with a look at its memory now and then."""
        while self.process.poll() is None:
            self.peak = max(self.peak, resident(self.process.pid))
            if until():
                self.bytes = bytes_in(self.store)
                os.killpg(self.process.pid, signal.SIGKILL)
                break
            time.sleep(0.05)
        self.end()

    def end(self) -> None:
        """Wait for it, and look at nothing, which would take its processors."""
        status = self.process.wait()
        self.seconds = time.perf_counter() - self.started
        self.processor = processor_seconds() - self.before
        text = self.errors.read_text()
        if status != (-signal.SIGKILL if self.bytes else 0):
            raise SystemExit(f"ingest ended with {status}: {text}")
        self.goes_on = "goes on after" in text
        self.projection = [line for line in text.splitlines() if "million" in line]
        found = re.search(r"rate: ([0-9,]+) records/s", text)
        self.rate = float(found[1].replace(",", "")) if found else math.nan


def resident(group: int) -> int:
    """Bytes of all processes of a group, at most: what two share counts for each."""
    total, page = 0, resource.getpagesize()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            total += int(fields[21]) * page if int(fields[2]) == group else 0
        except (OSError, IndexError):  # it has just ended
            continue
    return total


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("shard-*"))


def digests(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


if __name__ == "__main__":
    main()
