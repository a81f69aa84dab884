"""I-JEPA and H-JEPA on a labelled store of images with the same compute, probed alike.

    python benchmarks/compare_images.py STORE --out FOLDER --recipes NAME NAME [--seeds 0 1 2]

Every run gets as many operations in matrix products as the first recipe does in its steps. kNN and
a linear head choose their layer on the validation split; the test split is scored once, next to
the same network at initialisation and to the pixels. Prints one JSON object; runs are kept in
FOLDER and resumed, so an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from latentcast.recipes import recipe
from latentcast.workflows.bench import operations
from latentcast.workflows.probe import probe
from latentcast.workflows.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    budget, runs = operations(recipe(arguments.recipes[0])), []
    for seed in arguments.seeds:
        for name in arguments.recipes:
            config = recipe(name)
            steps = round(config.train.steps * budget / operations(config))
            config = config.updated({"train.steps": steps, "train.seed": seed})
            run = arguments.out / f"{name}-seed{seed}"
            with contextlib.redirect_stdout(sys.stderr):
                state = train(config, arguments.store, run)
            if state.step < config.train.steps:  # asked to stop: score nothing unfinished
                sys.exit(143)
            if not (run / "probe-classes.json").exists():
                probe(run, arguments.store, "classes").write(run)
            told: dict[str, Any] = json.loads((run / "probe-classes.json").read_text())
            runs.append({"recipe": name, "seed": seed, "steps": steps, "rows": told["rows"]})
            print(f"{name}, seed {seed}: {told['rows']}", file=sys.stderr)
    print(json.dumps({"store": arguments.store.name, "runs": runs}))


if __name__ == "__main__":
    main()
