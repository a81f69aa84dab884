"""Two views: of the same recording, drawn from the step, compared as the equation says."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from latentcast import randomness
from latentcast.batch import Inputs
from latentcast.config import EcgInput
from latentcast.config.objective import Grid
from latentcast.data.image_augment import ImageAugment
from latentcast.objectives import regularizers
from latentcast.objectives.base import Output
from latentcast.objectives.jepa import Jepa
from latentcast.objectives.masked import Masked, MaskedConfig
from latentcast.objectives.views import TwoViews, augment_of
from latentcast.randomness import Draw
from latentcast.signals.leads import CANONICAL_LEADS, DERIVED_FROM_I_AND_II
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest
from latentcast.verification.observe.jepa import has_teacher
from latentcast.verification.observe.network import furthest, real, stirred
from latentcast.verification.observe.terms import naive_covariance, naive_sigreg, naive_variance
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 1: the state is the step"
VICREG = "VICReg (Bardes et al. 2022), equation 6 and published code"
STRENGTHS: dict[str, dict[str, Any]] = {
    "ecg": {"gain": 0.3, "lead_gain": 0.2, "wander": 0.1, "noise": 0.1, "warp": 0.1},
    "image": {"grey": 0.3},
}
STILL: dict[str, dict[str, Any]] = {
    "ecg": dict.fromkeys(("gain", "lead_gain", "wander", "noise", "drop_leads"), 0.0),
    "image": dict.fromkeys(("brightness", "contrast", "saturation"), 0.0),
}
COMPARISONS: dict[str, dict[str, Any]] = {
    "vicreg": {"kind": "vicreg"},
    "sigreg": {"kind": "sigreg", "share": 0.3, "slices": 5},
    "ntxent": {"kind": "ntxent"},
}


def takes_views(twin: Twin) -> bool:
    """Whether the objective trains without labels, and its context is long enough to be cut."""
    return twin.recipe.objective.kind in ("nepa", "cpc", "two_views") or (
        twin.recipe.objective.views is not None
    )


def of_recordings(twin: Twin) -> bool:
    return takes_views(twin) and twin.config.input.kind == "ecg"


def of_images(twin: Twin) -> bool:
    return takes_views(twin) and twin.config.input.kind == "image"


def has_twelve_leads(twin: Twin) -> bool:
    return takes_views(twin) and _has_limb_leads(twin)


def _changes(twin: Twin, strengths: dict[str, Any], comparison: str = "vicreg") -> dict[str, Any]:
    kind = twin.config.input.kind
    consistent = {"consistent": _has_limb_leads(twin)} if kind == "ecg" else {}
    augmentation = {"kind": kind, **consistent, **strengths}
    views = {"projector": [9, 7], "augmentation": augmentation,
             "comparison": COMPARISONS[comparison]}  # fmt: skip
    return {"objective.views": views, "train.micro_batches": 1}


def _has_limb_leads(twin: Twin) -> bool:
    recording = twin.config.input
    return isinstance(recording, EcgInput) and recording.leads == CANONICAL_LEADS


def _two(twin: Twin, strengths: dict[str, Any], comparison: str = "vicreg") -> TwoViews:
    objective = stirred(twin.objective(_changes(twin, strengths, comparison)), twin.seed)
    assert isinstance(objective, TwoViews)
    return objective


def _augment(twin: Twin, strengths: dict[str, Any]) -> Any:
    config = twin.config.updated(_changes(twin, strengths))
    assert config.objective.views is not None
    return augment_of(config.objective.views, config)


@dataclass
class Pass:
    """What was compared: the projected views, the term, and the output of all."""

    a: Tensor
    b: Tensor
    ids: Tensor
    base: float
    output: Output


def _pass(objective: TwoViews, inputs: Inputs, draw: Draw) -> Pass:
    found: dict[str, Any] = {}
    compare = objective.compare

    def recorded(a: Tensor, b: Tensor, ids: Tensor, *others: Any) -> Any:
        found.update(a=a.detach(), b=b.detach(), ids=ids)
        return compare(a, b, ids, *others)

    def base(module: Any, args: Any, output: Output) -> None:
        found["base"] = float(output.loss.detach())

    handle = objective.base.register_forward_hook(base)
    with mock.patch.object(objective, "compare", recorded), torch.no_grad():
        output = objective(inputs, draw)
    handle.remove()
    return Pass(output=output, **found)


def _draw(twin: Twin, count: int, step: int = 3) -> Draw:
    return Draw(twin.seed, step, torch.arange(count) + 5)


@claim("views.same-recording", "The two views that are compared are of one recording, and those "
       "of another recording are others.",
       source="spec of H-JEPA, defect D7", about=takes_views)  # fmt: skip
def same_recording(twin: Twin) -> Evidence:
    """Recordings that are constant, each another constant, cropped and neither augmented nor
    masked: two views have masks of their own."""
    size, count = (twin.config.input.channels, *twin.config.input.size), 5
    levels = torch.linspace(-1, 1, count, dtype=torch.float64)
    values = levels.view(-1, *(1,) * len(size)).expand(count, *size).clone()
    draw = _draw(twin, count)
    objective = _two(twin, STILL[twin.config.input.kind])
    with _unmasked(objective):
        found = _pass(objective, Inputs(values), draw)
    apart = torch.cdist(found.a, found.a) + torch.eye(count)
    return all_of(
        at_most("distance of the two views", furthest(found.a, found.b), 1e-6),
        above("least distance of two recordings", float(apart.min()), 1e-4),
        equal("ids of others", int((found.ids != draw.ids).sum()), 0),
    )


def _unmasked(objective: TwoViews) -> AbstractContextManager[Any]:
    if not isinstance(objective.base, Masked):
        return nullcontext()

    def none(config: MaskedConfig, draw: Draw, grid: Grid) -> Tensor:
        return torch.zeros(len(draw.ids), math.prod(grid), dtype=torch.bool)

    return mock.patch("latentcast.objectives.masked.span_masks", none)


@claim("views.term", "The loss is the objective's on both views and the weighted term between "
       "them: VICReg, SIGReg or NT-Xent as a loop.", source=VICREG, about=takes_views)  # fmt: skip
def term(twin: Twin) -> Evidence:
    inputs, parts = real(twin, 5), list[Evidence]()
    for name in COMPARISONS:
        objective, draw = _two(twin, STRENGTHS[twin.config.input.kind], name), _draw(twin, 5)
        found = _pass(objective, Inputs(inputs.values), draw)
        stream = randomness.key(randomness.key(draw.seed, "views"), draw.step, "sigreg views")
        expected = found.base + objective.views.weight * _naive(name, found.a, found.b, stream)
        gap = abs(float(found.output.loss) - expected)
        parts.append(at_most(f"{name}: difference", gap, 1e-6 * max(1.0, abs(expected))))
    return all_of(*parts)


def _naive(name: str, a: Tensor, b: Tensor, stream: int) -> float:
    """A pair of rows, a column, a candidate at a time."""
    width = a.shape[1]
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    distance = math.fsum(math.dist(x, y) ** 2 for x, y in rows) / len(rows) / width
    if name == "vicreg":
        spread = (naive_variance(a) + naive_variance(b)) / 2
        return 25 * distance + 25 * spread + naive_covariance(a) + naive_covariance(b)
    if name == "sigreg":
        directions = regularizers.directions(stream, width, 5, a)
        return 0.7 * distance / 4 + 0.3 * sum(naive_sigreg(x, directions) for x in (a, b)) / 2
    everything = [row / row.norm() for pair in zip(a, b, strict=True) for row in pair]
    terms = []
    for i, row in enumerate(everything):
        scores = [float(row @ other) / 0.1 for other in everything]
        total = math.fsum(math.exp(score) for j, score in enumerate(scores) if j != i)
        terms.append(math.log(total) - scores[i ^ 1])
    return math.fsum(terms) / len(terms)


@claim("views.drawn", "Crops and augmentation are functions of seed, step and sample: the same in "
       "whatever batch and after a resume, others in the next step and in the other view.",
       source=OURS, about=takes_views)  # fmt: skip
@torch.no_grad()
def drawn(twin: Twin) -> Evidence:
    augment = _augment(twin, STRENGTHS[twin.config.input.kind])
    values = real(twin, 1).values.float().expand(6, -1, *[-1] * len(twin.config.input.size))
    draw = _draw(twin, 6)
    at_once = augment(Inputs(values), draw).values
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    pieces = [
        augment(Inputs(values[:3]), Draw(draw.seed, draw.step, draw.ids[ids])).values
        for ids in (order[:3], order[3:])
    ]
    later = augment(Inputs(values), Draw(draw.seed, draw.step + 1, draw.ids)).values
    apart = torch.cdist(at_once.flatten(1), at_once.flatten(1)) + torch.eye(6)
    objective = _two(twin, STRENGTHS[twin.config.input.kind])
    first, again = (float(objective(Inputs(values.double()), draw).loss) for _ in range(2))
    return all_of(
        at_most("in another order and in pieces", furthest(torch.cat(pieces), at_once[order]), 0.0),
        above("change with the step", furthest(later, at_once), 1e-3),
        above("least difference of two samples", float(apart.min()), 1e-3),
        at_most("change of the loss when the step is done again", abs(again - first), 0.0),
    )


@claim("views.drawn-apart", "The two views of a recording are other crops, otherwise augmented.",
       source="our design", about=takes_views)  # fmt: skip
@torch.no_grad()
def drawn_apart(twin: Twin) -> Evidence:
    """Of the same recording, so that nothing but the draw can differ."""
    objective, inputs = _two(twin, STRENGTHS[twin.config.input.kind]), list[Tensor]()
    objective.base.register_forward_pre_hook(lambda module, args: inputs.append(args[0].values))
    objective(Inputs(real(twin, 4).values), _draw(twin, 4))
    first, second = inputs[0].chunk(2)
    apart = (first - second).abs().flatten(1).amax(1)
    return all_of(above("least difference of two views", float(apart.min()), 1e-3))


@claim("views.colours", "Crops of images change in brightness, contrast and saturation by the "
       "factors that were drawn, stay within the pixel values, and as many as configured are grey.",
       source="SimCLR (Chen et al. 2020), appendix A", about=of_images)  # fmt: skip
def colours(twin: Twin) -> Evidence:
    """Image by image in float64, from the factors of the same draw."""
    augment, count = _augment(twin, {"grey": 0.4}), 64
    assert isinstance(augment, ImageAugment)
    image, draw = augment.image, _draw(twin, count)
    scale = image.normalisation
    mean = torch.tensor([0.0] * image.channels if scale is None else scale.mean).double()
    std = torch.tensor([1.0] * image.channels if scale is None else scale.std).double()
    share = torch.tensor([0.299, 0.587, 0.114] if image.channels == 3 else [1 / image.channels])
    generator = torch.Generator().manual_seed(twin.seed)
    pixels = torch.rand(count, 6, 6, image.channels, generator=generator, dtype=torch.float64)
    found = augment.change((pixels - mean) / std, draw) * std + mean
    streams = ("brightness", "contrast", "saturation", "grey")
    drawn = torch.stack([draw.for_samples(f"view {stream}") for stream in streams], 1).double()
    expected, settings = pixels.clone(), augment.settings
    for one, (brightness, contrast, saturation, chance) in zip(
        expected, drawn.tolist(), strict=True
    ):
        one *= 1 + settings.brightness * (2 * brightness - 1)
        middle = (one * share).sum(-1).mean()
        one -= middle
        one *= 1 + settings.contrast * (2 * contrast - 1)
        one += middle
        luma = (one * share).sum(-1, keepdim=True)
        kept = 0.0 if chance < settings.grey else 1 + settings.saturation * (2 * saturation - 1)
        one.copy_((luma + kept * (one - luma)).clamp(0, 1))
    span = found.amax(-1) - found.amin(-1)
    greys = int((span.flatten(1).amax(1) < 1e-6).sum())
    grey = count if image.channels == 1 else int((drawn[:, 3] < settings.grey).sum())
    return all_of(
        at_most("furthest from the naive factors", furthest(found, expected), 1e-6),
        equal("grey crops", greys, grey),
    )


@claim("views.invalid", "What was not measured stays so: 0 and not valid in both views.",
       source="our design", about=of_recordings)  # fmt: skip
def invalid(twin: Twin) -> Evidence:
    values = real(twin, 4).values
    lead = torch.ones_like(values, dtype=torch.bool)
    lead[:, 0] = False
    cut = _augment(twin, STRENGTHS["ecg"])(
        Inputs(torch.where(lead, values, 0), lead), _draw(twin, 4)
    )
    return all_of(
        equal("valid in a lead that was not recorded", int(cut.valid[:, 0].sum()), 0),
        at_most("largest value in it", float(cut.values[:, 0].abs().max()), 0.0),
        equal("not valid in the others", int((~cut.valid[:, 1:]).sum()), 0),
    )


@claim("views.einthoven", "What is added keeps III = II − I, and aVR, aVL and aVF what they are of "
       "I and II; a lost lead is the only one that breaks them.",
       source="Einthoven's law and Goldberger's leads",
       about=has_twelve_leads)  # fmt: skip
def einthoven(twin: Twin) -> Evidence:
    """In millivolts, at strengths that clip nothing."""
    recording = twin.config.input
    assert isinstance(recording, EcgInput) and recording.normalisation is not None
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None]
                 for x in (recording.normalisation.mean, recording.normalisation.std))  # fmt: skip
    limb = 0.1 * torch.randn(4, 2, 1, *recording.size, dtype=torch.float64,
                             generator=torch.Generator().manual_seed(twin.seed))  # fmt: skip
    millivolts = torch.zeros(4, 12, *recording.size, dtype=torch.float64)
    rows = {"I": limb[:, 0, 0], "II": limb[:, 1, 0]}
    rows |= {lead: a * rows["I"] + b * rows["II"] for lead, (a, b) in DERIVED_FROM_I_AND_II.items()}
    for lead, row in rows.items():
        millivolts[:, CANONICAL_LEADS.index(lead)] = row
    augment = _augment(twin, STRENGTHS["ecg"] | {"drop_leads": 0.0})
    augment.clip = None
    cut = augment(Inputs((millivolts - mean) / std), _draw(twin, 4))
    changed = cut.values * std + mean
    of = {lead: changed[:, CANONICAL_LEADS.index(lead)] for lead in rows}
    broken = greatest(
        *(
            float((of[lead] - a * of["I"] - b * of["II"]).abs().max())
            for lead, (a, b) in DERIVED_FROM_I_AND_II.items()
        )
    )
    return all_of(
        at_most("largest deviation, mV", broken, 1e-5),
        above("change, mV", float((changed - (cut.clean * std + mean)).abs().max()), 0.01),
    )


@claim("views.clean-teacher", "A teacher reads the crops as they were recorded, the student the "
       "same crops augmented.", source="our design", about=has_teacher)  # fmt: skip
def clean_teacher(twin: Twin) -> Evidence:
    uncut = {"objective.views.crop": 1.0, "objective.regularizer": None}
    kind = twin.config.input.kind
    objective = twin.objective(_changes(twin, STRENGTHS[kind]) | uncut)
    assert isinstance(objective, TwoViews) and isinstance(objective.base, Jepa)
    read: dict[str, Tensor] = {}
    for name, network in (("student", objective.base.student), ("teacher", objective.base.teacher)):
        assert network is not None
        network.register_forward_pre_hook(
            lambda module, args, name=name: read.setdefault(name, args[0])
        )
    inputs, draws = real(twin, 3).values.float(), list[Draw]()
    augment, made = objective.augment, list[Inputs]()

    def recorded(views: Inputs, draw: Draw) -> Inputs:
        draws.append(draw)
        made.append(augment(views, draw))
        return made[-1]

    objective.augment = recorded  # type: ignore[assignment]
    objective(Inputs(inputs), _draw(twin, 3))
    (views,), cut = made, getattr(augment, "crop", None)
    expected = views.clean if cut is None else cut(Inputs(inputs.repeat(2, 1, 1)), draws[0]).values
    assert expected is not None
    return all_of(
        at_most("the teacher's, from the crops", furthest(read["teacher"], expected), 0.0),
        at_most(
            "the student's, from those augmented", furthest(read["student"], views.values), 0.0
        ),
        above("difference of the two", furthest(read["student"], read["teacher"]), 1e-3),
    )
