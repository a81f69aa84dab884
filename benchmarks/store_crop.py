"""What a random crop from a store costs, in microseconds; prints JSON.

    python benchmarks/store_crop.py [--records N] [--batch B]

Writes a store of synthetic samples (12 leads, 10,000 samples a record) to a temporary folder and
takes batches of random crops through ``Store.take`` into one reused buffer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from latentcast.data.ingest import ingest
from latentcast.data.store import Store

SAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=100)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        array = Path(folder) / "noise.npy"
        shape = (arguments.records, SAMPLES, 12)
        np.save(array, generator.integers(-2000, 2000, shape, dtype=np.int16))
        leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
        store = ingest(
            array,
            Path(folder) / "store",
            sampling_rate=500,
            leads=leads,
            unit="uV",
            layout="records,samples,leads",
            quiet=True,
        ).store
        results = {f"12x{n}": cost(store, n, arguments, generator) for n in (2500, 5000)}
    print(json.dumps({"benchmark": "store_crop", **vars(arguments), **results}, indent=1))


def cost(
    store: Store, length: int, arguments: argparse.Namespace, generator: np.random.Generator
) -> dict[str, float]:
    """Microseconds per crop over ``batches`` batches: mean, median batch and slowest batch."""
    batch = arguments.batch
    out = np.empty((batch, length, 12), dtype=np.int16)
    store.take(np.zeros(batch, dtype=np.int64), length=length, out=out)  # touches the buffer
    costs = []
    for _ in range(arguments.batches):
        rows = generator.integers(0, len(store), batch)
        starts = generator.integers(0, SAMPLES - length + 1, batch)
        started = time.perf_counter()
        store.take(rows, starts, length, out)
        costs.append(1e6 * (time.perf_counter() - started) / batch)
    return {
        "mean_us": statistics.fmean(costs),
        "median_us": statistics.median(costs),
        "slowest_batch_us": max(costs),
    }


if __name__ == "__main__":
    main()
