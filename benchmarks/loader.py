"""Records per second from a warm store to integer batches, by reader processes; prints JSON.

    python benchmarks/loader.py [--records N] [--batch B] [--workers 0 1 2]

Writes a store of synthetic recordings (10 s, 12 leads, 500 Hz: 5000 x 12 int16, 120 kB each) to a
temporary folder and takes batches from ``CropLoader.stream``, shuffled, in a process that does
nothing else. Every round takes as many records as the store holds. Each number of processes is
measured in every round, in turn; medians are quoted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from latentcast.data.ingest import ingest
from latentcast.data.loader import CropLoader
from latentcast.data.store import Store
from latentcast.recipes import recipe

RATE, SECONDS = 500, 10
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic(Path(folder), arguments.records)
        starts, rates = {}, {workers: [] for workers in arguments.workers}
        for _ in range(arguments.rounds):
            for workers in arguments.workers:
                start, rate = once(store, workers, arguments.batch)
                starts.setdefault(workers, []).append(start)
                rates[workers].append(rate)
    told = {
        str(workers): {
            "records_per_second": round(statistics.median(measured)),
            "lowest": round(min(measured)),
            "highest": round(max(measured)),
            "gigabytes_per_second": round(statistics.median(measured) * 120e-6, 2),
            "seconds_to_first_batch": round(statistics.median(starts[workers]), 3),
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
        fs=RATE,
        leads=LEADS,
        unit="uV",
        layout="records,samples,leads",
        quiet=True,
    ).store
    (folder / "noise.npy").unlink()
    return store


def once(store: Store, workers: int, batch: int) -> tuple[float, float]:
    """Seconds to the first batch, and records per second of those after it."""
    config = recipe("nepa-ecg-small").updated(
        {
            "input.length": RATE * SECONDS,
            "input.sampling_rate": RATE,
            "train.batch_size": batch,
            "machine.workers": workers,
        }
    )
    loader = CropLoader(store, np.arange(len(store)), config)
    begun = time.perf_counter()
    with closing(loader.stream(0)) as stream:
        next(stream)
        started = time.perf_counter()
        batches = max(1, len(store) // batch)
        for _ in range(batches):
            next(stream)
        return started - begun, batches * batch / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
