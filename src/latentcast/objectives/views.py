"""Two augmented views of each sample: a term beside any objective, or the objective itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from latentcast import randomness
from latentcast.batch import Inputs
from latentcast.config import OBJECTIVES, Config, EcgAugmentation, EcgInput, ImageInput, Views
from latentcast.config.objective import ObjectiveConfig
from latentcast.config.views import SigRegPair, VicRegPair
from latentcast.data.ecg_augment import EcgAugment
from latentcast.data.image_augment import ImageAugment
from latentcast.errors import LatentcastError
from latentcast.nn.backbones import build_encoder
from latentcast.nn.base import Readable
from latentcast.nn.initialise import initialise
from latentcast.objectives.averaged import Averaged
from latentcast.objectives.base import Objective, Output, Role, View
from latentcast.objectives.comparisons import Parts, ntxent, sigreg_pair, vicreg
from latentcast.objectives.projector import Projector, pooled
from latentcast.randomness import Draw


class TwoViews(Objective):
    """``L = L_base(both views) + w · term(projector(pool(view 1)), projector(pool(view 2)))``.

    Each sample is cropped and augmented twice. The objective sees the ``2 B`` views as a batch:
    its student the augmented ones, a teacher the crops as they were recorded (``Inputs.clean``).
    The student's tokens are pooled over what was measured and compared. All statistics are of the
    whole batch on all ranks; a batch cannot be cut into micro-batches.

    Args:
        base: the objective that reads one view; its output has ``tokens``.
        config: of the run.
    """

    def __init__(self, base: Objective, config: Config) -> None:
        super().__init__()
        views = config.objective.views
        assert views is not None
        self.base, self.views = base, views
        self.predicted_from = base.predicted_from  # type: ignore[misc]  # of the class, elsewhere
        self.augment = augment_of(views, config)
        self.size = config.of_views.input.size
        self.projector = Projector(2 * config.encoder.width, views.projector)

    @classmethod
    def of(cls, config: Config) -> Self:
        kind: type[Objective] = OBJECTIVES.builder(config.objective)
        return cls(kind.of(config.of_views), config)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        ids, pair = pair_draw(draw, inputs.values)
        with torch.no_grad(), torch.autocast(inputs.values.device.type, enabled=False):
            views = self.augment(twice(inputs), pair)
        output: Output = self.base(views, None if draw is None else pair)
        if output.tokens is None:
            raise LatentcastError(
                f"{type(self.base).__name__}: gives no tokens to compare between two views; the "
                "file that defines it has to return the tokens of its student in the Output"
            )
        rows, found = pooled(output.tokens, output.valid)
        # A sample counts when both of its views have something that was measured.
        counted = found.view(2, -1).amin(0)
        a, b = self.projector(rows, counted.repeat(2)).chunk(2)
        term, parts = self.compare(a, b, ids, counted, pair)
        scalars = {
            name: value for name, value in output.scalars.items() if name != "copy_last_loss"
        }
        scalars |= {f"views_{name}": value.detach() for name, value in parts.items()}
        scalars |= {"views_term": term.detach(), "objective_loss": output.loss.detach()}
        loss = output.loss + self.views.weight * term
        return Output(loss, output.weight, scalars, output.views)

    def compare(
        self, a: Tensor, b: Tensor, ids: Tensor, counted: Tensor, draw: Draw
    ) -> tuple[Tensor, Parts]:
        """The term of the projected views ``(B, width)`` of samples ``ids``, and its parts."""
        match self.views.comparison:
            case VicRegPair() as settings:
                return vicreg(a, b, ids, counted, settings)
            case SigRegPair() as settings:
                stream = randomness.key(draw.seed, draw.step, "sigreg views")
                return sigreg_pair(a, b, ids, counted, settings, stream)
            case settings:
                return ntxent(a, b, counted, settings)

    def patch_errors(self, inputs: Inputs, role: Role = "teacher") -> Tensor:
        return self.base.patch_errors(inputs, role)

    def initialise(self, seed: int) -> None:
        self.base.initialise(seed)
        initialise(self.projector, seed, "initialise projector")

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return self.base.ema_pairs()

    def encoder(self, role: Role) -> Readable:
        return self.base.encoder(role)

    def step_flops(self, size: tuple[int, ...]) -> int:
        return 2 * (self.base.step_flops(self.size) + 3 * self.projector.flops())

    def lr_scale(self, name: str) -> float:
        inner = name.removeprefix("base.")
        return 1.0 if inner == name else self.base.lr_scale(inner)

    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        inner = name.removeprefix("base.")
        if inner == name:
            return super().undecayed(name, parameter)
        return self.base.undecayed(inner, parameter)


def augment_of(views: Views, config: Config) -> EcgAugment | ImageAugment:
    """What cuts and changes the inputs of a run."""
    if isinstance(views.augmentation, EcgAugmentation):
        assert isinstance(config.input, EcgInput)
        return EcgAugment(views.augmentation, config.input, config.of_views.input.size[0])
    assert isinstance(config.input, ImageInput)
    return ImageAugment(views.augmentation, config.input)


def pair_draw(draw: Draw | None, values: Tensor) -> tuple[Tensor, Draw]:
    """The ids ``(B,)`` of the samples, and the randomness of their ``2 B`` views.

    Sample ``i`` has the views ``2 i`` and ``2 i + 1``, which draw apart from each other and from
    what is drawn for samples; the first views of all samples come first.
    """
    if draw is None:
        draw = Draw(0, 0, torch.arange(len(values), device=values.device))
    ids = torch.cat([2 * draw.ids, 2 * draw.ids + 1])
    return draw.ids, Draw(randomness.key(draw.seed, "views"), draw.step, ids)


def twice(inputs: Inputs) -> Inputs:
    """Each sample for both of its views, ``(2 B, channels, *size)``."""
    values, valid, targets = (
        None if x is None else torch.cat([x, x])
        for x in (inputs.values, inputs.valid, inputs.targets)
    )
    assert values is not None
    return Inputs(values, valid, targets)


class ViewsAloneConfig(ObjectiveConfig):
    """Nothing but the term between two views."""

    reads_leads: ClassVar[bool] = True

    kind: str = "two_views"
    views: Annotated[
        Views | None, BeforeValidator(lambda views: {} if views is None else views)
    ] = Views()
    """Always on: null is the default term."""


@OBJECTIVES.register
class ViewsAlone(Averaged):
    """A loss of 0 and the tokens of the encoder: :class:`TwoViews` adds the term."""

    settings = ViewsAloneConfig

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(build_encoder(config), teacher=config.ema is not None)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        valid, encoder = self.valid(inputs), self.student
        tokens = encoder.encode(inputs.values, None if encoder.causal else valid, draw=draw)
        tokens = tokens[:, encoder.prefix :]
        samples = tokens.new_tensor(len(tokens), dtype=torch.float32)
        return Output(
            loss=torch.zeros_like(samples),
            weight=samples,
            views=(View("output", tokens.detach(), "encoder", valid=valid),),
            tokens=tokens,
            valid=valid,
        )
