"""Training in half precision: what is short, and what must not be."""

from __future__ import annotations

import torch

from latentcast.verification.claim import claim
from latentcast.verification.claims.loop import apart
from latentcast.verification.evidence import Evidence, above, all_of, at_most, none, true
from latentcast.verification.observe.rehearsal import short_run
from latentcast.verification.observe.twin import Twin

BF16 = 2.0**-8


@claim("loop.half-precision", "In bf16 the products are rounded; gradients, weights, moments and "
       "the loss stay in float32 and are those of float32 but for that.",
       source="Micikevicius et al. 2018: mixed precision training",
       about=lambda twin: twin.recipe.train.precision == "bf16")  # fmt: skip
def half_precision(twin: Twin) -> Evidence:
    """Two attempts in each precision, the first of them compared."""
    half, full = (
        short_run(twin, f"in {name}", {"train.precision": name}, most=2).attempts[0]
        for name in ("bf16", "fp32")
    )
    tensors = {**half.gradients, **half.end}
    gap = abs(half.loss - full.loss) / max(1.0, abs(full.loss))
    return all_of(
        none("not in float32", [n for n, t in tensors.items()
                                if t.is_floating_point() and t.dtype is not torch.float32]),
        true("the loss has more digits than bf16", float(torch.tensor(half.loss).bfloat16())
             != half.loss),
        at_most("difference of the loss", gap, BF16),
        at_most("of the gradient, relative", apart(half.gradients, full.gradients), 0.25),
        above("of the gradient", apart(half.gradients, full.gradients), 1e-5),
        loss=half.loss, in_float32=full.loss,
    )  # fmt: skip
