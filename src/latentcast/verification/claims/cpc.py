"""CPC: which patch is found among which, by which loss, from what came before."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.objectives.cpc import Cpc, CpcConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest
from latentcast.verification.observe.config import is_sequence
from latentcast.verification.observe.nepa import draw_of, with_padding
from latentcast.verification.observe.network import (
    EXACT,
    corners,
    furthest,
    later_effect,
    outputs_of,
    real,
    sequence,
    stirred,
    window,
)
from latentcast.verification.observe.twin import Twin

NEEDS = is_sequence
INFONCE = "van den Oord, Li & Vinyals 2018, equations 3 and 4"
VARIANTS = (("recording", 0.1), ("recording", None), ("batch", 0.1))


def is_cpc(twin: Twin) -> bool:
    return isinstance(twin.recipe.objective, CpcConfig)


def _cpc(twin: Twin, negatives: str = "recording", temperature: float | None = 0.1) -> Cpc:
    own = {"objective.negatives": negatives, "objective.temperature": temperature}
    objective = stirred(twin.objective({**own, "train.micro_batches": 1}), twin.seed)
    assert isinstance(objective, Cpc)
    return objective


def _naive(objective: Cpc, h: Tensor, z: Tensor, valid: list[list[bool]]) -> tuple[float, int, int]:
    """A sample, a step and a patch at a time; of how many terms, and how many are found."""
    config, terms, right = objective.config, list[float](), 0
    rows, states = z.detach().numpy(), h.detach().numpy()
    everything = [(b, j) for b in range(len(rows)) for j in range(rows.shape[1]) if valid[b][j]]
    for k, predictor in enumerate(objective.predictors, start=1):
        matrix = predictor.get_parameter("weight").detach().numpy()
        for b in range(len(rows)):
            own = (
                everything if config.negatives == "batch" else [p for p in everything if p[0] == b]
            )
            for t in range(rows.shape[1] - k):
                if not valid[b][t + k]:
                    continue
                scores = {
                    p: _score(matrix @ states[b, t], rows[p], config.temperature) for p in own
                }
                top = max(scores.values())
                total = math.fsum(math.exp(score - top) for score in scores.values())
                terms.append(scores[b, t + k] - top - math.log(total))
                right += max(scores, key=scores.__getitem__) == (b, t + k)
    return -math.fsum(terms) / max(1, len(terms)), len(terms), right


def _score(a: np.ndarray, b: np.ndarray, temperature: float | None) -> float:
    if temperature is None:
        return float(a @ b)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature)


@claim("cpc.loss", "The loss is InfoNCE: minus the mean log share of the patch k steps ahead "
       "among the measured patches, each step with a linear predictor of its own.",
       source=INFONCE, about=is_cpc)  # fmt: skip
def loss(twin: Twin) -> Evidence:
    inputs, valid = with_padding(twin)
    parts = list[Evidence]()
    for negatives, temperature in VARIANTS:
        objective = _cpc(twin, negatives, temperature)
        with outputs_of(sequence(objective).norm) as (normed,), torch.no_grad():
            output = objective(inputs, draw_of(twin, inputs))
            z = objective.student.embed(inputs.values)
        prefix = objective.student.prefix
        expected, terms, right = _naive(objective, normed[0][:, prefix:], z[:, prefix:], valid)
        name = f"negatives of the {negatives}, temperature {temperature}"
        parts += [
            at_most(f"{name}: difference", abs(float(output.loss) - expected), 1e-6),
            equal(f"{name}: terms", float(output.weight), terms),
            at_most(
                f"{name}: share that is found, difference",
                abs(float(output.scalars["found"]) - right / terms),
                1e-9,
            ),
        ]
    return all_of(*parts)


@claim("cpc.candidates", "The positive is the patch at t + k of the same recording and counts "
       "once; no negative is the positive.", source=INFONCE, about=is_cpc)  # fmt: skip
@torch.no_grad()
def candidates(twin: Twin) -> Evidence:
    """Orthogonal patches, each predicted perfectly: the share of the positive is then a number."""
    samples, patches, parts = 3, 7, list[Evidence]()
    z = torch.eye(samples * patches, dtype=torch.float64).view(samples, patches, -1)
    counted = torch.ones(samples, patches, dtype=torch.bool)
    counted[0, 0] = False
    for negatives, others in (("recording", counted.sum(1) - 1), ("batch", counted.sum() - 1)):
        objective, worst, largest = _cpc(twin, negatives), 0.0, 0.0
        others = others.double().expand(samples)[:, None]
        expected = -(1 + others * math.exp(-10)).log()
        for k in (1, 3):
            share, _ = objective.identify(z[:, k:], z, counted, k)
            worst = greatest(worst, furthest(share, expected.expand_as(share)))
            for wrong in (z[:, :-k], z[:, k:].roll(1, 0), z[:, k:].roll(1, 1)):
                share = objective.identify(wrong, z, counted, k)[0].exp() * (others + 1)
                largest = greatest(largest, float(share.max()))
        parts += [
            at_most(f"{negatives}: share, from that of one positive", worst, EXACT),
            at_most(f"{negatives}: shares by chance, predicting others", largest, 1 + EXACT),
        ]
    return all_of(*parts)


@claim("cpc.padding", "What was not measured is neither positive nor negative.",
       source="our design", about=is_cpc)  # fmt: skip
def padding(twin: Twin) -> Evidence:
    """Other values in what was not measured, which comes last, change nothing."""
    inputs, _ = with_padding(twin)
    assert inputs.valid is not None
    other = Inputs(torch.where(inputs.valid, inputs.values, 2.5), inputs.valid)
    losses = [float(_cpc(twin)(one, draw_of(twin, one)).loss.detach()) for one in (inputs, other)]
    return all_of(at_most("change of the loss", abs(losses[1] - losses[0]), EXACT), loss=losses[0])


@claim("cpc.causal", "No output changes by a bit when a later patch changes; by no more than "
       "roundings of float64 where the network convolves by FFT.",
       source=INFONCE, about=is_cpc)  # fmt: skip
@torch.no_grad()
def causal(twin: Twin) -> Evidence:
    """Sample t has patch t changed: no output before it may change a bit."""
    encoder = sequence(_cpc(twin))
    size, patch = twin.config.input.size, twin.config.encoder.patch
    places = corners(size, patch)
    start = real(twin, 1).values
    values = start.expand(len(places), *start.shape[1:]).clone()
    before = encoder.encode(values)[:, encoder.prefix :]
    for sample, corner in enumerate(places):
        window(values[sample], corner, patch).mul_(-1.5).add_(1.0)
    gap = (encoder.encode(values)[:, encoder.prefix :] - before).abs().amax(-1)
    bound = later_effect(twin)
    changed = gap > bound
    return all_of(
        at_most("change of an earlier output", float(gap.tril(-1).max()), bound),
        above("least change of its own or a later one", float(gap[changed.triu()].min()), 1e-12),
        equal("outputs that change", int(changed.sum()), len(places) * (len(places) + 1) // 2),
    )
