"""What an encoder sees: recordings or images, and how they are normalised."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentcast.config.filters import AnyFilter, LinearFilter
from latentcast.config.settings import Count, Interval, Positive, Settings, Share
from latentcast.signals.channels import Channels, Signal
from latentcast.signals.leads import canonical_names


class Normalisation(Settings):
    """Per-channel mean and standard deviation, in the physical unit of the input."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive in every channel")
        return self


class EcgInput(Settings):
    """What the encoder sees of a recording; travels with the weights."""

    kind: Literal["ecg"] = "ecg"
    sampling_rate: Positive = 500.0
    """Hz; a store at another rate is refused."""
    signal: Signal = "ecg"
    """``other``: the channels are no ECG leads and have any distinct names."""
    leads: tuple[str, ...] = (
        "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
    )  # fmt: skip
    length: Count = 5000
    """Samples a crop; shorter recordings are padded, and padding is not valid."""
    scale: Positive = 0.001
    """Millivolts for one integer count of the store."""
    tokens: Literal["joint", "per_lead"] = "joint"
    """``joint``: a token is a patch of all leads. ``per_lead``: of one lead, on a grid of leads ×
    time, lead by lead; a lead that was not recorded has no valid token."""
    drop_leads: Share = 0.0
    """Training only, ``per_lead``: mean share of the leads that half of the samples lose, as if
    they had not been recorded; one is always kept."""
    filters: tuple[AnyFilter, ...] = ()
    """Of each window, in this order, before it is normalised; see docs/signals.md."""
    clip: Positive | None = 5.0
    """Normalised values are clipped to ±clip."""
    normalisation: Normalisation | None = None
    """Millivolts; None until training starts, then the statistics of the store's training split,
    after the filters."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.drop_leads and self.tokens == "joint":
            raise ValueError(
                f"drop_leads {self.drop_leads:g}: takes away the tokens of leads, and a joint "
                "token is of all leads; set input.drop_leads=0 or input.tokens=per_lead"
            )
        for one in self.filters:
            for edge in one.edges if isinstance(one, LinearFilter) else ():
                if edge >= self.sampling_rate / 2:
                    raise ValueError(
                        f"filters: {edge:g} Hz of the {one.kind} is not below half of "
                        f"sampling_rate {self.sampling_rate:g}; choose a lower frequency or leave "
                        "the filter out"
                    )
        if self.signal == "other":
            Channels.of(self.leads, None)
            return self
        canonical = canonical_names(self.leads)
        if canonical != self.leads:
            raise ValueError(
                f"leads are {' '.join(self.leads)}; write input.leads=[{','.join(canonical)}]"
            )
        return self

    @property
    def channels(self) -> int:
        return len(self.leads)

    @property
    def lead_rows(self) -> int | None:
        """Rows of the grid of tokens where each is of one lead; None where it is of all."""
        return len(self.leads) if self.tokens == "per_lead" else None

    @property
    def size(self) -> tuple[int, ...]:
        return (self.length,)


class ImageInput(Settings):
    """What the encoder sees of an image: uint8 in, normalised floats out."""

    kind: Literal["image"] = "image"
    height: Count = 224
    width: Count = 224
    channels: Count = 3
    canvas: tuple[Count, Count] | None = None
    """Height and width of the store's images, where they are others than the encoder sees. Random
    crops are cut from them; what is not cropped is resized: the largest middle that has the shape
    of the input, bicubic and antialiased. None: as large as the input, and any others are refused.
    """
    bits: Annotated[int, Field(ge=9, le=16)] | None = None
    """Of 16-bit image files, the bits in use; that of the store, filled in when training starts."""
    normalisation: Normalisation | None = Normalisation(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    """Of values in [0, 1], by default ImageNet's; None takes the statistics of the store's training
    split when training starts."""
    crop_scale: Interval | None = None
    """Training only: share of the image's area that a random-resized crop keeps; None is no crop.
    I-JEPA uses (0.3, 1.0)."""
    crop_aspect: Interval = (3 / 4, 4 / 3)
    """Width over height of that crop, drawn log-uniformly."""
    flip: bool = False
    """Training only: mirror half of the images."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.normalisation is not None and len(self.normalisation.mean) != self.channels:
            raise ValueError(
                f"normalisation has {len(self.normalisation.mean)} channels, the input has "
                f"{self.channels}; give one mean and std a channel, or null for the store's own"
            )
        check_crops(self.crop_scale, self.crop_aspect)
        return self

    @property
    def size(self) -> tuple[int, ...]:
        return (self.height, self.width)

    @property
    def lead_rows(self) -> None:
        """An image has no leads."""
        return None

    @property
    def store_size(self) -> tuple[int, int]:
        """Height and width of the images as a store holds them."""
        return self.canvas or (self.height, self.width)


def check_crops(scale: Interval | None, aspect: Interval) -> None:
    """Refuse random-resized crops that no image has.

    Raises:
        ValueError: a sentence that names the key and the form of its value.
    """
    if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"crop_scale {scale} is no interval of area shares; "
            "write [low, high] with 0 < low <= high <= 1"
        )
    if not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"crop_aspect {aspect} is no interval of ratios; write [0.75, 1.333]")
