"""What ``latentcast embed`` and the features of ``evaluate`` cost beside the bare forward; JSON.

    python benchmarks/embed.py RUN STORE [--rounds R]

In each round the same records go through the network alone (batches of 64 that are prepared before
the clock starts), through ``embed`` (reading, preprocessing, pooling, parts, the table) and through
``extract`` (reading, preprocessing, pooling of all layers), one after the other; each is scored by
the share of its round's bare forward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.evaluation.features import extract
from latentcast.nn.pooling import BATCH
from latentcast.workflows.embed import embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("store")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder.from_pretrained(arguments.run, device="cpu")
    store = Store.open(arguments.store)
    rows = np.arange(len(store))
    starts = np.zeros(BATCH, np.int64)
    batches = [
        encoder.inputs(torch.from_numpy(store.take(part, starts[: len(part)], encoder.length)))
        for part in np.split(rows, range(BATCH, len(rows), BATCH))
    ]

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                tokens = None if batch.valid is None else encoder.network.valid(batch.valid)
                encoder.network.read(batch.values, tokens)

    def table() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "e.npz"
            embed(arguments.run, arguments.store, out, device="cpu", quiet=True)

    def features() -> None:
        extract(encoder, store, rows)

    parts: dict[str, Callable[[], None]] = {"bare": bare, "embed": table, "extract": features}
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(arguments.rounds):
        for name, part in parts.items():
            begin = time.process_time()  # of one thread; others may use the machine
            part()
            seconds[name].append(time.process_time() - begin)
    shares = {
        name: [one / other for one, other in zip(seconds["bare"], seconds[name], strict=True)]
        for name in ("embed", "extract")
    }
    print(json.dumps({
        "benchmark": "embed", **vars(arguments), "weights": encoder.weights,
        "cpu seconds": {name: round(statistics.median(s), 3) for name, s in seconds.items()},
        "records a cpu second": {
            name: round(len(rows) / statistics.median(s)) for name, s in seconds.items()
        },
        "share of the bare forward": {
            name: {"median": round(statistics.median(s), 3), "least": round(min(s), 3)}
            for name, s in shares.items()
        },
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
