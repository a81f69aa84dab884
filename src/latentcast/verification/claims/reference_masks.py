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
from latentcast.verification.claim import Claim, Evidence, Number
from latentcast.verification.observe.jepa import marked
from latentcast.verification.observe.twin import Subject

SIDE = 16
RULE = "I-JEPA, src/masks/multiblock.py; spec of I-JEPA, 1.1"


def sizes(subject: Subject) -> Evidence:
    """Height and width of each step's blocks, and that all blocks of a step have them."""
    shares, aspects, contexts, wrong = list[float](), list[float](), list[int](), 0
    for context, targets in _drawn(subject, 200, 2):
        axes = torch.stack(torch.unravel_index(targets, (SIDE, SIDE)))
        heights, widths = (axes.amax(-1) - axes.amin(-1) + 1).flatten(1)
        wrong += int((heights * widths != targets.shape[2]).sum()) + (len(targets) != 4)
        wrong += int((heights != heights[0]).sum() + (widths != widths[0]).sum())
        shares.append(float(heights[0] * widths[0]) / SIDE**2)
        aspects.append(float(heights[0] / widths[0]))
        contexts.append(context.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):  # of squares alone there is none
        together = float(np.corrcoef(shares, np.log(aspects))[0, 1])
    mean = sum(shares) / len(shares)
    told: dict[str, Number] = {
        "blocks of another shape": wrong, "shares": f"{min(shares):.3f} to {max(shares):.3f}",
        "mean share": mean, "aspects": f"{min(aspects):.2f} to {max(aspects):.2f}",
        "correlation of share and aspect": together, "fewest patches of a context": min(contexts),
    }  # fmt: skip
    # 0.15 to 0.2 of 256 patches and 0.75 to 1.5, both rounded to whole cells.
    right = 0.13 <= min(shares) <= 0.155 and 0.18 <= max(shares) <= 0.22
    right = right and abs(mean - 0.173) <= 0.015 and together > 0.4
    right = right and 0.7 <= min(aspects) <= 0.9 and 1.2 <= max(aspects) <= 1.6
    return Evidence(right and not wrong and min(contexts) > 10, told)


def biases(subject: Subject) -> Evidence:
    """What the original does to the last row and column, and to the end of a context."""
    as_target, as_context = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    both = samples = 0
    for context, targets in _drawn(subject, 48, 32):
        seen = marked(context, SIDE**2)
        asked = marked(targets.transpose(0, 1).flatten(1), SIDE**2)
        as_target += asked.sum(0).view(SIDE, SIDE)
        as_context += seen.sum(0).view(SIDE, SIDE)
        both += int((seen & asked).any(1).sum())
        samples += len(seen)
    thirds = as_context[: SIDE // 3].mean(), as_context[-SIDE // 3 :].mean()
    told: dict[str, Number] = {
        "samples": samples, "with a target in the context": both,
        "targets in the last row and column": int(as_target[-1].sum() + as_target[:, -1].sum()),
        "in the first": int(as_target[0].sum() + as_target[:, 0].sum()),
        "context, first third of the rows": float(thirds[0]) / samples,
        "context, last third": float(thirds[1]) / samples,
    }  # fmt: skip
    never = int(as_target[-1].sum() + as_target[:, -1].sum()) == 0 < int(as_target[0].sum())
    return Evidence(never and both <= 0.02 * samples and bool(thirds[1] < 0.8 * thirds[0]), told)


def _drawn(subject: Subject, steps: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    sampler, seed = ReferenceMasks((SIDE, SIDE), ReferenceBlocks()), subject.seed
    return [
        sampler(Draw(seed, step, torch.arange(step * batch, (step + 1) * batch)))
        for step in range(steps)
    ]


def flat_images(subject: Subject) -> bool:
    """One level over two axes, as the original."""
    jepa = subject.recipe.objective
    return isinstance(jepa, JepaConfig) and not jepa.coarser and len(subject.recipe.grids[0]) == 2


CLAIMS: tuple[Claim, ...] = (
    Claim("masks.reference-sizes", "The original's rule, where it is asked for, draws one size a "
          "batch, share and aspect by one number.", RULE, sizes, flat_images),
    Claim("masks.reference-biases", "It has the original's biases: the last row and column are no "
          "target, contexts are cut from the front.", RULE, biases, flat_images),
)  # fmt: skip
