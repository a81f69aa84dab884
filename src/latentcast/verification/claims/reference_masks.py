"""The original's own rule of masks, its biases included, for who compares with published runs.

Measured on the published grid of 16 × 16 patches, whatever the recipe uses.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentcast.config import ReferenceBlocks
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.jepa.reference_masks import ReferenceMasks
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal
from latentcast.verification.observe.jepa import marked
from latentcast.verification.observe.twin import Twin

SIDE = 16
RULE = "I-JEPA, src/masks/multiblock.py; spec of I-JEPA, 1.1"


def flat_images(twin: Twin) -> bool:
    """One level over two axes, as the original."""
    jepa = twin.recipe.objective
    return isinstance(jepa, JepaConfig) and not jepa.coarser and len(twin.recipe.grids[0]) == 2


def _drawn(twin: Twin, steps: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    sampler, seed = ReferenceMasks((SIDE, SIDE), ReferenceBlocks()), twin.seed
    return [
        sampler(Draw(seed, step, torch.arange(step * batch, (step + 1) * batch)))
        for step in range(steps)
    ]


@claim("masks.reference-sizes", "The original's rule, where a configuration chooses it, draws one "
       "size a batch, share and aspect by one number.", source=RULE, about=flat_images)  # fmt: skip
def sizes(twin: Twin) -> Evidence:
    """0.15 to 0.2 of 256 patches and 0.75 to 1.5, both rounded to whole cells."""
    shares, aspects, contexts, wrong = list[float](), list[float](), list[int](), 0
    for context, targets in _drawn(twin, 200, 2):
        axes = torch.stack(torch.unravel_index(targets, (SIDE, SIDE)))
        heights, widths = (axes.amax(-1) - axes.amin(-1) + 1).flatten(1)
        wrong += int((heights * widths != targets.shape[2]).sum()) + (len(targets) != 4)
        wrong += int((heights != heights[0]).sum() + (widths != widths[0]).sum())
        shares.append(float(heights[0] * widths[0]) / SIDE**2)
        aspects.append(float(heights[0] / widths[0]))
        contexts.append(context.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # of squares alone there is none
        correlation = float(np.corrcoef(shares, np.log(aspects))[0, 1])
    return all_of(
        equal("blocks of another shape", wrong, 0),
        at_most("least share, from 0.1425", abs(min(shares) - 0.1425), 0.0125),
        at_most("largest share, from 0.2", abs(max(shares) - 0.2), 0.02),
        at_most("mean share, from 0.173", abs(sum(shares) / len(shares) - 0.173), 0.015),
        at_most("least aspect, from 0.8", abs(min(aspects) - 0.8), 0.1),
        at_most("largest aspect, from 1.4", abs(max(aspects) - 1.4), 0.2),
        above("correlation of share and aspect", correlation, 0.4),
        above("fewest patches of a context", min(contexts), 10),
    )


@claim("masks.reference-biases", "It has the original's biases: the last row and column are no "
       "target, contexts are cut from the front.", source=RULE, about=flat_images)  # fmt: skip
def biases(twin: Twin) -> Evidence:
    as_target, as_context = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    both = samples = 0
    for places, targets in _drawn(twin, 48, 32):
        context = marked(places, SIDE**2)
        target = marked(targets.transpose(0, 1).flatten(1), SIDE**2)
        as_target += target.sum(0).view(SIDE, SIDE)
        as_context += context.sum(0).view(SIDE, SIDE)
        both += int((context & target).any(1).sum())
        samples += len(context)
    first, last = as_context[: SIDE // 3].mean(), as_context[-SIDE // 3 :].mean()
    at_the_end = as_target[-1].sum() + as_target[:, -1].sum()
    return all_of(
        equal("targets in the last row and column", int(at_the_end), 0),
        above("targets in the first row", int(as_target[0].sum()), 0),
        at_most("share of samples with a target in the context", both / samples, 0.02),
        at_most("context in the last third, over the first", float(last / first), 0.8),
        samples=samples,
    )
