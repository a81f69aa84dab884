"""Filters of recordings: what each does to a sine of any rate, in one formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from latentcast.config.settings import Positive, Settings

Floats = npt.NDArray[np.float64]
Order = Annotated[int, Field(ge=1, le=8)]


class LinearFilter(Settings, ABC):
    """A filter that is applied forwards and backwards, so that its phase is zero.

    It multiplies a sine by ``|H|²`` of the digital filter ``H``: half at a cut-off frequency.
    """

    @property
    @abstractmethod
    def edges(self) -> tuple[float, ...]:
        """Its frequencies in Hz; all below half of the sampling rate."""

    @abstractmethod
    def gain(self, hertz: Floats, rate: float) -> Floats:
        """``|H|²`` at some frequencies, at a sampling rate."""


class HighPass(LinearFilter):
    """A Butterworth high-pass."""

    kind: Literal["high-pass"] = "high-pass"
    hertz: Positive = 0.5
    order: Order = 2

    @property
    def edges(self) -> tuple[float, ...]:
        return (self.hertz,)

    def gain(self, hertz: Floats, rate: float) -> Floats:
        cut, warped = _warped(np.array(self.hertz), rate), _warped(hertz, rate)
        power = warped ** (2 * self.order)
        gain: Floats = power / (power + cut ** (2 * self.order))
        return gain


class BandPass(LinearFilter):
    """A Butterworth band-pass."""

    kind: Literal["band-pass"] = "band-pass"
    low: Positive = 0.5
    high: Positive = 40.0
    order: Order = 2

    @model_validator(mode="after")
    def _is_a_band(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; exchange the two")
        return self

    @property
    def edges(self) -> tuple[float, ...]:
        return (self.low, self.high)

    def gain(self, hertz: Floats, rate: float) -> Floats:
        low, high = (_warped(np.array(edge), rate) for edge in self.edges)
        warped = _warped(hertz, rate)
        power = ((high - low) * warped) ** (2 * self.order)
        gain: Floats = power / (power + (warped**2 - low * high) ** (2 * self.order))
        return gain


class Notch(LinearFilter):
    """A notch of second order, as for the hum of the mains."""

    kind: Literal["notch"] = "notch"
    hertz: Positive = 50.0
    quality: Positive = 30.0
    """``hertz`` over the width at which one pass of it has -3 dB."""

    @property
    def edges(self) -> tuple[float, ...]:
        return (self.hertz,)

    def gain(self, hertz: Floats, rate: float) -> Floats:
        centre, angle = (2 * np.pi * x / rate for x in (self.hertz, hertz))
        depth = (np.cos(angle) - np.cos(centre)) ** 2
        width = np.tan(centre / self.quality / 2) * np.sin(angle)
        # Both are 0 at no frequency but the ends, where the first is not.
        gain: Floats = depth / (depth + width**2)
        return gain


class Baseline(Settings):
    """What medians over 0.2 s and then 0.6 s leave of a lead is taken off (de Chazal et al. 2004).

    The first takes the QRS complex away and the second the T wave.
    """

    kind: Literal["baseline"] = "baseline"


AnyFilter = Annotated[HighPass | BandPass | Notch | Baseline, Field(discriminator="kind")]


def _warped(hertz: Floats, rate: float) -> Floats:
    """Of the bilinear transform; large but finite at half of the rate."""
    warped: Floats = np.tan(np.minimum(np.pi * hertz / rate, np.pi / 2 - 1e-9))
    return warped
