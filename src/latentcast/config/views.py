"""Two views of each sample: how they are cut and changed, and the term that compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from latentcast.config.inputs import EcgInput, ImageInput, check_crops
from latentcast.config.settings import Count, Interval, NotNegative, Positive, Settings, Share
from latentcast.signals.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from latentcast.config.run import Config


class EcgAugmentation(Settings):
    """What may differ between two recordings of one heart; a strength of 0 is off."""

    kind: Literal["ecg"] = "ecg"
    gain: NotNegative = 0.15
    """Standard deviation of the logarithm of a factor on all leads."""
    lead_gain: NotNegative = 0.1
    """The same for each lead by itself, the limb leads together where ``consistent``."""
    wander: NotNegative = 0.05
    """Standard deviation in mV of the amplitude of a wave of 0.05 to 0.5 Hz at each electrode."""
    noise: NotNegative = 0.02
    """White noise at each electrode: a standard deviation up to this, in mV, uniform."""
    powerline: NotNegative = 0.0
    """Standard deviation in mV of the amplitude of the mains' hum at each electrode."""
    mains: Literal[50, 60] = 50
    """Hz of the mains."""
    drop_leads: Share = 0.3
    """Mean share of the leads that half of the crops lose: they read 0, as leads that were not
    recorded; one is always kept. This breaks the relations between the leads on purpose."""
    warp: NotNegative = 0.0
    """Largest logarithm of a factor on time: a faster or a slower heart."""
    consistent: bool = True
    """Whether what is added keeps III = II − I and aVR, aVL, aVF what they are of I and II: it
    arises at the nine electrodes and reaches each lead as its electrodes do. False adds to each
    channel by itself."""

    def check(self, config: Config) -> None:
        recording = config.input
        if not isinstance(recording, EcgInput):
            raise ValueError(
                "objective.views.augmentation ecg is for recordings; set "
                "objective.views.augmentation.kind=image"
            )
        if self.consistent and (
            recording.signal != "ecg" or not set(recording.leads) <= set(CANONICAL_LEADS)
        ):
            raise ValueError(
                "objective.views.augmentation.consistent needs the twelve ECG leads or some of "
                "them; set objective.views.augmentation.consistent=false"
            )
        if self.powerline and recording.sampling_rate <= 2 * self.mains:
            raise ValueError(
                f"objective.views.augmentation.powerline: {self.mains} Hz cannot be sampled at "
                f"{recording.sampling_rate:g} Hz; set objective.views.augmentation.powerline=0"
            )


class ImageAugmentation(Settings):
    """Random-resized crops, mirroring, and small changes of colour."""

    kind: Literal["image"] = "image"
    crop_scale: Interval = (0.3, 1.0)
    """Share of the input's area that a crop keeps."""
    crop_aspect: Interval = (3 / 4, 4 / 3)
    """Width over height of that crop, drawn log-uniformly."""
    size: Count | None = None
    """Pixels a side of a view; None: those of the input. Smaller ones cost less, and the network
    reads the input itself as well (FixRes, Touvron et al. 2019)."""
    flip: bool = True
    """Mirror half of the crops."""
    brightness: Share = 0.2
    """Half-width of a factor on the pixel values, about 1."""
    contrast: Share = 0.2
    """Half-width of a factor on the distance from the crop's mean grey."""
    saturation: Share = 0.2
    """Half-width of a factor on the distance of each colour from the pixel's grey."""
    grey: Share = 0.0
    """Share of the crops that lose their colours (the grayscale of SimCLR, Chen et al. 2020)."""

    def check(self, config: Config) -> None:
        if config.input.kind != "image":
            raise ValueError(
                "objective.views.augmentation image is for images; set "
                "objective.views.augmentation.kind=ecg"
            )
        patch = config.encoder.patch
        if self.size is not None and self.size % patch:
            raise ValueError(
                f"objective.views.augmentation.size {self.size} is not a multiple of encoder.patch "
                f"{patch}; set objective.views.augmentation.size={-(-self.size // patch) * patch}"
            )

    def size_of_view(self, image: ImageInput) -> tuple[int, int]:
        """Height and width of a view of an image."""
        return (self.size, self.size) if self.size else (image.height, image.width)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_crops(self.crop_scale, self.crop_aspect)
        return self


class VicRegPair(Settings):
    """VICReg between two views, with the weights of its published code (Bardes et al. 2022)."""

    kind: Literal["vicreg"] = "vicreg"
    invariance: NotNegative = 25.0
    variance: NotNegative = 25.0
    covariance: NotNegative = 1.0


class SigRegPair(Settings):
    """LeJEPA between two views: ``(1 − λ) · invariance + λ · SIGReg``."""

    kind: Literal["sigreg"] = "sigreg"
    share: Share = 0.05
    """λ."""
    slices: Count = 256


class NtXent(Settings):
    """SimCLR's cross-entropy (Chen et al. 2020): a view finds the other one of its sample."""

    kind: Literal["ntxent"] = "ntxent"
    temperature: Positive = 0.1
    decoupled: bool = False
    """Leave the other view itself out of what it is compared with (DCL, Yeh et al. 2022): a sample
    that is found easily still counts, which helps batches of some hundred samples."""


class Views(Settings):
    """A term between two augmented crops of each sample, added to the loss of any objective."""

    crop: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a recording that a view keeps, rounded down to whole patches; an image is cropped
    by its augmentation."""
    augmentation: Annotated[EcgAugmentation | ImageAugmentation, Field(discriminator="kind")] = (
        EcgAugmentation()
    )
    projector: Annotated[tuple[Count, ...], Field(min_length=1)] = (512, 512, 512)
    """Widths of the layers between the pooled tokens and the term."""
    comparison: Annotated[VicRegPair | SigRegPair | NtXent, Field(discriminator="kind")] = (
        VicRegPair()
    )
    weight: Positive = 0.1
    """Of the term, beside a weight of 1 of the objective's own loss."""

    @field_validator("augmentation", "comparison", mode="before")
    @classmethod
    def _of_default_kind(cls, section: Any, field: ValidationInfo) -> Any:
        """Of a section in which single keys are set and no kind, the kind is the default's."""
        if not isinstance(section, dict) or field.field_name is None:
            return section
        return {"kind": cls.model_fields[field.field_name].default.kind, **section}

    def check(self, config: Config) -> None:
        """Refuse what cannot be cut or changed so.

        Raises:
            ValueError: a sentence that names the key and the value to set.
        """
        self.augmentation.check(config)
        extent, patch = config.input.size[0], config.encoder.patch
        if config.input.kind == "ecg" and self.length(extent, patch) == 0:
            raise ValueError(
                f"objective.views.crop {self.crop} of {extent} samples is less than a patch of "
                f"{patch}; set objective.views.crop=1"
            )

    def input(self, source: EcgInput | ImageInput, patch: int) -> EcgInput | ImageInput:
        """A view as an input of its own: shorter recordings, or images of another size."""
        if isinstance(source, EcgInput):
            return source.model_copy(update={"length": self.length(source.length, patch)})
        if isinstance(self.augmentation, EcgAugmentation):
            return source  # which :meth:`check` refuses
        height, width = self.augmentation.size_of_view(source)
        return source.model_copy(update={"height": height, "width": width})

    def length(self, samples: int, patch: int) -> int:
        """Samples of a view of a recording of ``samples``."""
        return int(self.crop * (samples // patch)) * patch
