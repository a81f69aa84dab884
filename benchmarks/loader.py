"""Records per second from a warm store to integer batches, by reader processes; prints JSON.

    python benchmarks/loader.py [--records N] [--batch B] [--workers 0 1 2]

Writes a store of synthetic recordings (10 s, 12 leads, 500 Hz: 5000 x 12 int16, 120 kB each) to a
temporary folder and takes shuffled batches from ``Loader.stream`` in a process that does
nothing else. The streams are open side by side, those that are not asked wait. Each first shows the
store once, unmeasured; then every round takes as many records as the store holds from each in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from latentcast.batch import Batch
from latentcast.data.ingest import ingest
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.recipes import recipe

RATE, SECONDS = 500, 10
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic(Path(folder), arguments.records)
        with ExitStack() as stack:
            streams, starts = {}, {}
            for workers in arguments.workers:
                begun = time.perf_counter()
                stream = stack.enter_context(closing(batches(store, workers, arguments.batch)))
                next(stream)
                starts[workers], streams[workers] = time.perf_counter() - begun, stream
                rate(stream, arguments)
            rates: dict[int, list[float]] = {workers: [] for workers in streams}
            for _ in range(arguments.rounds):
                for workers, stream in streams.items():
                    rates[workers].append(rate(stream, arguments))
    told = {
        str(workers): {
            "records_per_second": round(statistics.median(measured)),
            "lowest": round(min(measured)),
            "highest": round(max(measured)),
            "gigabytes_per_second": round(statistics.median(measured) * 120e-6, 2),
            "seconds_to_first_batch": round(starts[workers], 3),
        }
        for workers, measured in rates.items()
    }
    processors = len(os.sched_getaffinity(0))
    shown = {"benchmark": "loader", **vars(arguments), "processors": processors, "by_workers": told}
    print(json.dumps(shown, indent=1))


def synthetic(folder: Path, records: int) -> Store:
    """A store of noise, written by ingest."""
    shape = (records, RATE * SECONDS, len(LEADS))
    noise = np.random.default_rng(0).integers(-2000, 2000, shape, dtype=np.int16)
    np.save(folder / "noise.npy", noise)
    del noise
    store = ingest(
        folder / "noise.npy",
        folder / "store",
        sampling_rate=RATE,
        leads=LEADS,
        unit="uV",
        layout="records,samples,leads",
        quiet=True,
    ).store
    (folder / "noise.npy").unlink()
    return store


def batches(store: Store, workers: int, batch: int) -> Generator[list[Batch]]:
    """Whole recordings, as a run would get them."""
    config = recipe("nepa-ecg-small").updated(
        {"input.length": RATE * SECONDS, "train.batch_size": batch, "machine.workers": workers}
    )
    return Loader(store, np.arange(len(store)), config).stream(0)


def rate(stream: Iterator[list[Batch]], arguments: argparse.Namespace) -> float:
    """Records per second over as many as the store holds."""
    count = max(1, arguments.records // arguments.batch)
    begun = time.perf_counter()
    for _ in range(count):
        next(stream)
    return count * arguments.batch / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
