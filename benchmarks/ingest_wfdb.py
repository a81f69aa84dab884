"""How much faster records are read than by a loop of ``wfdb.rdrecord``; prints JSON.

    python benchmarks/ingest_wfdb.py [FOLDER] [--rounds N]

Both readers go over the same records, one right after the other, ``rounds`` times, the order of
the two alternating, so that what else the machine does meets both alike. The figure is the median
of the ratios of the pairs. Before timing, every sample is compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import wfdb as package

from latentcast.signals.readers import wfdb
from latentcast.signals.readers.wfdb_header import parse_header

DEFAULT = Path(__file__).parent.parent / "tests" / "data" / "ptbxl_wfdb"


def seconds(read: Callable[[], None]) -> float:
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    headers = sorted((arguments.folder).rglob("*.hea"))
    results = {}
    for rate in (100, 500):
        chosen = [h for h in headers if parse_header(h.read_text()).sampling_rate == rate]
        if not chosen:
            continue
        names = [str(header.with_suffix("")) for header in chosen]
        for header, name in zip(chosen, names, strict=True):
            ours, theirs = wfdb.read(header)[0], package.rdrecord(name)
            if not np.array_equal(ours.signal, theirs.p_signal.T.astype(np.float32), True):
                raise SystemExit(f"{header}: the two readers differ")

        def direct(chosen: list[Path] = chosen) -> None:
            for header in chosen:
                wfdb.read(header)

        def loop(names: list[str] = names) -> None:
            for name in names:
                package.rdrecord(name)

        pairs = []
        for turn in range(arguments.rounds):
            if turn % 2:
                slow = seconds(loop)
                fast = seconds(direct)
            else:
                fast = seconds(direct)
                slow = seconds(loop)
            pairs.append((fast, slow))
        results[f"{rate} Hz"] = {
            "records": len(chosen),
            "equal": "sample for sample",
            "latentcast_ms_per_record": 1e3 * statistics.median(f for f, _ in pairs) / len(chosen),
            "wfdb_ms_per_record": 1e3 * statistics.median(s for _, s in pairs) / len(chosen),
            "times_faster_median": statistics.median(s / f for f, s in pairs),
            "times_faster_lowest": min(s / f for f, s in pairs),
        }
    print(json.dumps({"benchmark": "ingest_wfdb", "rounds": arguments.rounds, **results}, indent=1))


if __name__ == "__main__":
    main()
