"""What a JEPA training step costs against its matrix products alone, and what a context saves.

    python benchmarks/jepa_step.py [--recipes ijepa-ecg-small hjepa-ecg-small] [--batch 16]

A step is what the engine does: masks, forward, backward, AdamW, EMA. Its matrix products (those of
the linear layers forward and backward, and the two of each attention forward and the five
backward) are recorded once and then run alone, on random matrices of the same shapes and layout.
Both are timed in turns. The second part times steps that differ in the share of patches kept as
context and in nothing else. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine.context import Context
from latentcast.recipes import recipe
from latentcast.workflows import bench

aten = torch.ops.aten
Product = Callable[[], object]


class Products(TorchDispatchMode):
    """Records the matrix products of whatever runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket
        if name in (aten.mm, aten.bmm):
            self._add(name, *args[:2])
        elif name is aten.addmm:
            self._add(aten.mm, *args[1:3])
        elif "scaled_dot_product" in str(name):
            backward = "backward" in str(name)
            q, k, v = args[1:4] if backward else args[:3]
            # Forward QKᵀ and PV; backward QKᵀ again, dV, dP, dQ and dK.
            for _ in range(3 if backward else 1):
                self._add(aten.bmm, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
            for _ in range(2 if backward else 1):
                scores = q.new_empty(q.shape[0] * q.shape[1], q.shape[2], k.shape[2])
                self._add(aten.bmm, scores, v.flatten(0, 1))
        return func(*args, **(kwargs or {}))

    def _add(self, product: Any, a: Tensor, b: Tensor) -> None:
        with torch.no_grad():
            a, b = _like(a), _like(b)
        self.found.append(lambda: product(a, b))


def _like(matrix: Tensor) -> Tensor:
    made = torch.empty_strided(matrix.shape, matrix.stride(), dtype=matrix.dtype)
    return made.normal_()


def step_of(config: Config) -> Callable[[], object]:
    """The first training step, again and again, as the engine takes it."""
    size = (config.train.batch_size, config.input.channels, *config.input.size)
    batch = Batch(torch.randn(size), torch.arange(size[0]))
    context = Context.of(config.updated({"train.precision": "fp32", "machine.device": "cpu"}))
    return partial(bench.step_of(config, lambda x, draw: Inputs(x), [batch], context), 0)


def seconds(run: Callable[[], object]) -> float:
    return bench.timed(run, torch.device("cpu"))[0]


def against_products(config: Config, rounds: int) -> dict[str, Any]:
    step = step_of(config)
    step()
    with Products() as products:
        step()

    def alone() -> None:
        for product in products.found:
            product()

    alone()
    pairs = [(seconds(step), seconds(alone)) for _ in range(rounds)]
    return {
        "step_ms": round(1e3 * statistics.median(a for a, _ in pairs), 1),
        "products_ms": round(1e3 * statistics.median(b for _, b in pairs), 1),
        "products": len(products.found),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
    }


def context_cost(config: Config, rounds: int) -> dict[str, Any]:
    """Steps at a quarter and at (nearly) all of the patches as context; the targets are alike."""
    steps = {}
    for share in (0.25, 1.0):
        one = {"kind": "blocks", "targets": 1, "target_scale": [0.02, 0.02], "shapes": 1,
               "context_scale": [share, share]}  # fmt: skip
        changes: dict[str, Any] = {"objective.masks": one}
        steps[share] = step_of(config.updated(changes))
        steps[share]()
    pairs = [(seconds(steps[0.25]), seconds(steps[1.0])) for _ in range(rounds)]
    return {
        "quarter_ms": round(1e3 * statistics.median(a for a, _ in pairs), 1),
        "whole_ms": round(1e3 * statistics.median(b for _, b in pairs), 1),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["ijepa-ecg-small", "hjepa-ecg-small"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name in arguments.recipes:
        config = recipe(name).updated({"train.batch_size": arguments.batch})
        found[name] = {
            "batch": arguments.batch,
            "step against its products": against_products(config, arguments.rounds),
        }
        if len(config.grids) == 1:
            found[name]["a quarter against all as context"] = context_cost(config, arguments.rounds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
