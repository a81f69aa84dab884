"""Initial weights from outside: are they drawn as they are declared to be?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn

from latentcast.errors import LatentcastError
from latentcast.verification.evidence import equal, first_of, none
from latentcast.verification.foreign.verified import Lines, Verified

SOURCE = "declared by the caller; a normal cut at two deviations keeps 0.88 of its own"
CUT = 0.15
"""Of a deviation, what cutting a normal at two deviations takes of it, and a little more."""
SURE = 6.0
"""Standard errors by which a mean or a deviation may differ."""
Draw = tuple[float, float]


def verify_initial(model: nn.Module, declared: Mapping[str, Draw]) -> Verified:
    """Hold the initial weights of a model against what its configuration says they are.

    Args:
        model: as it is before its first step.
        declared: by a regular expression that is searched in the names of parameters, the first
            one that fits: ``(mean, deviation)``; a deviation of 0 is a constant. As in
            ``{"norm.*weight|scale": (1.0, 0.0), "bias": (0.0, 0.0), "": (0.0, 0.02)}``.

    Raises:
        LatentcastError: no parameter has a name that fits.
    """
    lines, off, constant, other = Lines(SOURCE), list[str](), list[str](), list[str]()
    measured = 0
    for name, parameter in model.named_parameters():
        draw = next((d for pattern, d in declared.items() if re.search(pattern, name)), None)
        if draw is None:
            other.append(name)
            continue
        measured += 1
        values = parameter.detach().double()
        mean, deviation = float(values.mean()), float(values.std(correction=0))
        size = f"{name} has {mean:.3g} ± {deviation:.3g}"
        if draw[1] == 0.0:
            error = torch.finfo(parameter.dtype).eps * abs(draw[0])
            if float((values - draw[0]).abs().max()) > error:
                constant.append(size)
            continue
        error = draw[1] / math.sqrt(values.numel())
        spread = abs(deviation - draw[1]) - CUT * draw[1]
        if abs(mean - draw[0]) > SURE * error or spread > SURE * error:
            off.append(size)
    if not measured:
        raise LatentcastError(
            f"verify_initial: no parameter has a name with {first_of(declared)}; names are "
            f"{first_of(name for name, _ in model.named_parameters())}"
        )
    lines.add("initial.drawn", "Weights are drawn with the declared mean and deviation.",
              equal("different", len(off), 0), none("which", off), of=measured)  # fmt: skip
    lines.add("initial.constant", "Weights that are declared constant are.",
              equal("different", len(constant), 0), none("which", constant))  # fmt: skip
    if other:
        lines.note("initial.undeclared", "Nothing is declared of these weights.",
                   weights=len(other), which=first_of(other))  # fmt: skip
    return Verified(tuple(lines))
