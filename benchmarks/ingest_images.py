"""What a whole ``ingest`` of JPEG files costs beside a loop that opens them with PIL; prints JSON.

    python benchmarks/ingest_images.py FOLDER [--images N] [--sizes 32 500] [--rounds 3]

Of ``FOLDER`` (SPLIT/CLASS/FILE) the first N images are copied, as they are and, for each further
size, enlarged and saved as JPEG of quality 90. A round is one ingest (its own processes, listing,
checks, checksums and writing) and one loop (open, to RGB, to an array) in one process, one right
after the other. ``pil_ceiling`` is the loop in as many processes as the machine has cores: what
decoding as PIL does it costs. ``cpu_us`` are microseconds of the processors for an image, of all
processes together: what can be compared where other programs run beside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import latentcast


def decode(files: list[str]) -> int:
    total = 0
    for file in files:
        with Image.open(file) as image:
            total += int(np.asarray(image.convert("RGB"))[0, 0, 0])
    return total


def processors() -> float:
    """Seconds of the processors so far, of this process and of those it waited for."""
    return sum(os.times()[:4])


def copies(folder: Path, out: Path, images: int, size: int | None) -> list[str]:
    """The first images, spread over the classes; enlarged where a size is named."""
    files = sorted(folder.rglob("*.jpg"))
    chosen, made = files[:: max(1, len(files) // images)][:images], []
    for file in chosen:
        target = out / file.parent.name / f"{file.parents[1].name}-{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if size is None:
            shutil.copyfile(file, target)
        else:
            with Image.open(file) as image:
                image.convert("RGB").resize((size, size)).save(target, quality=90)
        made.append(str(target))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--sizes", type=int, nargs="*", default=[500])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    found = {}
    for size in (None, *arguments.sizes):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "images"
            count = arguments.images if size is None else max(1, arguments.images // 10)
            files = copies(arguments.folder, folder, count, size)
            ours, loops, ceilings, ours_cpu, loops_cpu = [], [], [], [], []
            for turn in range(arguments.rounds):
                started, cpu = time.perf_counter(), processors()
                with contextlib.redirect_stdout(sys.stderr):
                    latentcast.ingest(folder, Path(name) / f"store-{turn}")
                ours.append(time.perf_counter() - started)
                ours_cpu.append(processors() - cpu)
                started, cpu = time.perf_counter(), processors()
                decode(files)
                loops.append(time.perf_counter() - started)
                loops_cpu.append(processors() - cpu)
                with ProcessPoolExecutor(cores) as pool:
                    list(pool.map(decode, [[file] for file in files[:cores]]))  # started
                    begun = time.perf_counter()
                    list(pool.map(decode, [files[n::cores] for n in range(cores)]))
                    ceilings.append(time.perf_counter() - begun)
            ours_us, loops_us = (
                [round(1e6 * spent / len(files), 1) for spent in each]
                for each in (ours_cpu, loops_cpu)
            )
            ratios = [loop / whole for whole, loop in zip(ours, loops, strict=True)]
            found["as they are" if size is None else f"{size} × {size}"] = {
                "images": len(files),
                "ingest_per_second": len(files) / statistics.median(ours),
                "pil_per_second": len(files) / statistics.median(loops),
                "pil_ceiling_per_second": len(files) / statistics.median(ceilings),
                "times_a_pil_loop": statistics.median(ratios),
                "ingest_cpu_us": ours_us,
                "pil_cpu_us": loops_us,
            }
    print(json.dumps({"benchmark": "ingest_images", "cores": cores, "rounds": arguments.rounds,
                      **found}, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
