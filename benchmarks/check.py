"""Whether a step is slower beside its peers than it was when ``step.json`` was written.

    python benchmarks/check.py [--recipes nepa-ecg-tiny ...] [--rounds 5] [--record FILE]

A ratio is of two steps of one process, so it can be compared between runs where times cannot. The
floor of each is its recorded median less twice what its lowest pair was below that, and at least
less a twentieth. A recorded ratio of another device than this one says nothing and is left out.
Ends with 1 if a ratio is under its floor; another run then tells a slow step from a busy machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from latentcast.recipes import recipe
from step import measure

RECORD = Path(__file__).parent / "step.json"
LEAST_NOISE = 0.05


def floor_of(ratio: dict[str, float]) -> float:
    """What a ratio may come down to by chance, of the median and the lowest of its pairs."""
    noise = max(2 * (ratio["median"] - ratio["least"]), LEAST_NOISE * ratio["median"])
    return ratio["median"] - noise


def ratios(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name.removeprefix("against_"): value["times_as_fast"]
        for name, value in row.items()
        if name.startswith("against_")
    }


def compared(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Each ratio that both rows have: what it is against, its floor, what it is now."""
    current = ratios(now)
    return [
        (name, floor_of(ratio), current[name]["median"])
        for name, ratio in ratios(before).items()
        if name in current
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", help="all that are recorded by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()
    slower = 0
    for before in json.loads(arguments.record.read_text()):
        if arguments.recipes and before["recipe"] not in arguments.recipes:
            continue
        about = before["machine"]
        changes = {"train.precision": about["precision"], "train.batch_size": before["batch_size"]}
        config = recipe(before["recipe"]).updated({"machine.loggers": [], **changes})
        now = measure(config, arguments.rounds, compiled=False)
        if now["machine"]["device"] != about["device"]:
            print(f"{before['recipe']}: recorded on {about['device']}, left out")
            continue
        for name, floor, value in compared(before, now):
            slower += value < floor
            verdict = "SLOWER" if value < floor else "ok"
            print(
                f"{before['recipe']} {about['precision']}, against {name}: {value:.2f} times as "
                f"fast, floor {floor:.2f}: {verdict}",
                flush=True,
            )
    return int(slower > 0)


if __name__ == "__main__":
    sys.exit(main())
