"""Build data/ptbxl2980-100hz from 2,980 PTB-XL records at 500 Hz.

    python scripts/build_ptbxl2980.py INPUT OUTPUT

INPUT holds ``ptbxl2980_500hz_delta.npz`` (delta-coded int16 microvolts, byte planes ``lo`` and
``hi`` of shape (2980, 12, 5000)), ``meta.csv`` and ``LICENSE.txt``. Every record is resampled with
``scipy.signal.resample_poly(x, 1, 5, padtype="line")`` in float64 (its default anti-alias filter:
linear-phase FIR, 101 taps, Kaiser window beta 5.0, cut-off 50 Hz) and rounded to whole
microvolts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import packed, ptbxl

RECORDS_PER_PART = 298
# Not of PTB-XL: the subset's own bookkeeping, and classes that follow from scp_codes.
DROPPED_COLUMNS = ("src", "superclasses")


def main(source: Path, target: Path) -> None:
    archive = np.load(source / "ptbxl2980_500hz_delta.npz", allow_pickle=False)
    target.mkdir(parents=True, exist_ok=True)
    low, high = archive["lo"], archive["hi"]
    parts = []
    for number, first in enumerate(range(0, len(low), RECORDS_PER_PART)):
        span = slice(first, first + RECORDS_PER_PART)
        deltas = (high[span].astype("<u2") << 8 | low[span]).view("<i2")
        original = np.cumsum(deltas, axis=-1, dtype=np.int16)
        resampled = np.rint(resample_poly(original.astype(np.float64), 1, 5, -1, padtype="line"))
        if np.abs(resampled).max() > 32767:
            raise SystemExit(f"part {number}: exceeds int16 microvolts")
        counts = resampled.astype("<i2")
        data = packed.encode(counts)
        if not np.array_equal(packed.decode(data, *counts.shape[::2]), counts):
            raise SystemExit(f"part {number}: does not decode to what was encoded")
        file = f"part-{number:02d}.xz"
        (target / file).write_bytes(data)
        digest = hashlib.sha256(counts.tobytes()).hexdigest()
        parts.append({"file": file, "records": len(counts), "sha256": digest})
        print(f"{file}: {len(data):,} bytes", flush=True)
    index = {
        "format": packed.FORMAT,
        "sampling_rate": 100,
        "unit": "uV",
        "leads": CANONICAL_LEADS,
        "samples": 1000,
        "parts": parts,
    }
    (target / packed.INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    with (source / "meta.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name not in DROPPED_COLUMNS]
    with (target / ptbxl.TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    shutil.copyfile(source / "LICENSE.txt", target / "LICENSE.txt")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
