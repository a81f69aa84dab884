"""What makes NEPA learn from ECG: variants of the demo's recipe, trained and probed alike.

    python benchmarks/ablate_nepa_ecg.py STORE --out FOLDER [--steps 1000] [--seeds 0 1 2]

Each variant changes the named keys of `nepa-ecg-tiny` and nothing else. Layer and penalty are
chosen on the validation fold. Compare variants by their validation score; the
test fold is for the record. Prints one JSON object (the training log
goes to stderr); runs are kept in FOLDER and resumed, so an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.tasks import task
from latentcast.recipes import recipe
from latentcast.workflows.train import train

VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "fixed patch embedding": {"objective.patch_embedding": "fixed"},
    "fixed patch embedding, seconds": {
        "objective.patch_embedding": "fixed",
        "encoder.positions.coordinates": "seconds",
    },
    "LayerScale 1e-5 (published)": {"encoder.layer_scale": 1e-5},
    "patches of 50 ms (published)": {"encoder.patch": 5, "train.batch_size": 8},
}
"""50 ms patches quadruple the tokens, so a quarter of the batch keeps the cost of a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    store, rows = Store.open(arguments.store), []
    superdiagnostic = task("superdiagnostic", store)
    for seed in arguments.seeds:
        for variant in arguments.variants:
            config = recipe("nepa-ecg-tiny").updated(
                {
                    **VARIANTS[variant],
                    "train.seed": seed,
                    "train.steps": arguments.steps,
                    "train.log_every": 100,
                }
            )
            run = arguments.out / f"{variant.replace(' ', '-').replace(',', '')}-seed{seed}"
            with contextlib.redirect_stdout(sys.stderr):
                train(config, arguments.store, run)
            sources = [Encoder.from_pretrained(run), Encoder.random(run)]
            found = probe(sources, store, superdiagnostic)
            trained, floor = found.rows[0], found.rows[1]
            difference = found.differences[0].estimate
            rows.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "layer": trained.layer,
                    "validation": round(trained.validation, 4),
                    "auroc": round(trained.score.main.value, 4),
                    "floor": round(floor.score.main.value, 4),
                    "difference": [
                        round(v, 4) for v in (difference.value, difference.low, difference.high)
                    ],
                }
            )
    print(json.dumps({"store": store.path.name, "steps": arguments.steps, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
