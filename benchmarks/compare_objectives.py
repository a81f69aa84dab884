"""NEPA, I-JEPA and H-JEPA on the same recordings with the same compute, probed alike.

    python benchmarks/compare_objectives.py STORE --out FOLDER [--seeds 0 1 2] [--part I/N]

Every run gets as many operations in matrix products as `nepa-ecg-tiny` does in its 4,000 steps: the
number of steps follows from what a step of each recipe costs. Layers are chosen on the validation
fold among those that a row names; the test fold is scored once. The floor is the same network at
initialisation. Prints one JSON object with a curve of loss and rank for each run (the training log
goes to stderr); runs are kept in FOLDER and resumed, so an interrupted call goes on. `--part 0/2`
and `--part 1/2` share the runs between two processes; a last call without it prints all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.recordings import Counts
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.tasks import task
from latentcast.monitors.journal import read_metrics
from latentcast.recipes import recipe
from latentcast.workflows.bench import operations
from latentcast.workflows.train import train

RECIPES = ("nepa-ecg-tiny", "ijepa-ecg-tiny", "hjepa-ecg-tiny")
POINTS = 60


class Layers:
    """An encoder of which only some layers may be chosen."""

    def __init__(self, encoder: Encoder, name: str, layers: Iterable[str]) -> None:
        self.encoder, self.name = encoder, name
        self.layer_names = tuple(layers)
        self.causal, self.leads, self.scale = encoder.causal, encoder.leads, encoder.scale
        self.sampling_rate, self.length = encoder.sampling_rate, encoder.length

    def token_layers(self, samples: Counts) -> tuple[list[Tensor], Tensor]:
        layers, valid = self.encoder.token_layers(samples)
        held = dict(zip(self.encoder.layer_names, layers, strict=True))
        return [held[name] for name in self.layer_names], valid


def at_equal_compute(name: str, seed: int) -> Config:
    budget, config = operations(recipe("nepa-ecg-tiny")), recipe(name)
    steps = round(config.train.steps * budget / operations(config))
    return config.updated(
        {"train.steps": steps, "train.seed": seed, "train.log_every": max(1, steps // POINTS)}
    )


def readings(encoder: Encoder) -> dict[str, list[str]]:
    """What a row may choose its layer from: the levels apart, and everything."""
    names = encoder.layer_names
    coarser = [name for name in names if name.startswith("level")]
    if not coarser:
        return {"all layers": list(names)}
    fused = [name for name in names if name == "fused"]
    finest = [name for name in names if name not in (*coarser, *fused)]
    rows = {"level 0": finest} | {name: [name] for name in coarser}
    return rows | ({"fused": fused} if fused else {}) | {"all layers": list(names)}


def scored(run: Path, store: Store) -> list[dict[str, Any]]:
    encoder, floor = Encoder.from_pretrained(run), Encoder.random(run)
    rows = []
    for what, layers in readings(encoder).items():
        sources = [Layers(encoder, "pretrained", layers), Layers(floor, "random", layers)]
        found = probe(sources, store, task("superdiagnostic", store))
        trained, untrained, gain = found.rows[0], found.rows[1], found.differences[0].estimate
        score = trained.score.main
        rows.append(
            {
                "read": what,
                "layer": trained.layer,
                "validation": round(trained.validation, 4),
                "auroc": [round(v, 4) for v in (score.value, score.low, score.high)],
                "floor": round(untrained.score.main.value, 4),
                "gain": [round(v, 4) for v in (gain.value, gain.low, gain.high)],
            }
        )
    return rows


def hierarchy_against_one_level(out: Path, seed: int, store: Store) -> dict[str, Any]:
    """Test AUROC of H-JEPA minus I-JEPA of one seed, paired over patients, by what is read."""
    runs = [out / f"{name}-seed{seed}" for name in ("hjepa-ecg-tiny", "ijepa-ecg-tiny")]
    several, one = (Encoder.from_pretrained(run) for run in runs)
    found: dict[str, Any] = {"seed": seed}
    for what, layers in (("fused", ["fused"]), ("all layers", several.layer_names)):
        sources = [Layers(several, "H-JEPA", layers), Layers(one, "I-JEPA", one.layer_names)]
        gain = probe(sources, store, task("superdiagnostic", store)).differences[0].estimate
        found[what] = [round(v, 4) for v in (gain.value, gain.low, gain.high)]
    return found


def curve(run: Path) -> dict[str, list[float | None]]:
    rows = read_metrics(run)
    keys = [k for k in rows[-1] if k == "step" or k.endswith(("loss", "target_rank"))]
    rounded = {k: [None if r.get(k) is None else float(f"{r[k]:.4g}") for r in rows] for k in keys}
    return rounded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--part", default="0/1")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    asked = [(name, seed) for seed in arguments.seeds for name in arguments.recipes]
    store, runs = Store.open(arguments.store), []
    for name, seed in asked[part::parts]:
        config, run = at_equal_compute(name, seed), arguments.out / f"{name}-seed{seed}"
        with contextlib.redirect_stdout(sys.stderr):
            state = train(config, arguments.store, run)
        if state.step < config.train.steps:  # asked to stop: score nothing unfinished
            sys.exit(143)
        kept = run / "compared.json"
        if not kept.exists():
            kept.write_text(json.dumps(scored(run, store)))
        runs.append(
            {
                "recipe": name,
                "seed": seed,
                "steps": config.train.steps,
                "teraflop": round(operations(config) / 1e12, 1),
                "rows": json.loads(kept.read_text()),
                "curve": curve(run),
            }
        )
        print(f"{name}, seed {seed}: {runs[-1]['rows']}", file=sys.stderr)
    told: dict[str, Any] = {"store": store.path.name, "runs": runs, "mean": means(runs)}
    if parts == 1 and set(RECIPES) <= set(arguments.recipes):
        told["H-JEPA minus I-JEPA"] = [
            hierarchy_against_one_level(arguments.out, seed, store) for seed in arguments.seeds
        ]
    print(json.dumps(told))


def means(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds of each row."""
    found = []
    for name in dict.fromkeys(run["recipe"] for run in runs):
        mine = [run["rows"] for run in runs if run["recipe"] == name]
        for rows in zip(*mine, strict=True):
            scores = [row["auroc"][0] for row in rows]
            found.append(
                {
                    "recipe": name,
                    "read": rows[0]["read"],
                    "auroc": round(float(np.mean(scores)), 4),
                    "seeds": scores,
                    "validation": round(float(np.mean([row["validation"] for row in rows])), 4),
                    "floor": round(float(np.mean([row["floor"] for row in rows])), 4),
                    "gain": round(float(np.mean([row["gain"][0] for row in rows])), 4),
                }
            )
    return found


if __name__ == "__main__":
    main()
