"""The tensor that training sees, and that it is the same in use."""

from __future__ import annotations

import pytest
import torch

from latentcast.config import EcgInput, ImageInput, Normalisation
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.errors import LatentcastError
from latentcast.signals.recording import INVALID

LEADS = ("I", "II")


def config(**changes: object) -> EcgInput:
    normalisation = Normalisation(mean=(0.1, -0.2), std=(0.5, 2.0))
    return EcgInput(leads=LEADS, length=4, normalisation=normalisation, **changes)  # type: ignore[arg-type]


def test_counts_become_normalised_millivolts_per_lead() -> None:
    counts = torch.tensor([[[100, -200], [600, 1800], [0, 0], [-400, -2200]]], dtype=torch.int16)
    inputs = EcgPreprocess(config())(counts)
    expected = torch.tensor([[[0.0, 1.0, -0.2, -1.0], [0.0, 1.0, 0.1, -1.0]]])
    torch.testing.assert_close(inputs.values, expected)
    assert inputs.valid is not None and inputs.valid.all()


def test_large_values_are_clipped() -> None:
    counts = torch.tensor([[[32767, -32767]]], dtype=torch.int16)
    assert EcgPreprocess(config(clip=5.0))(counts).values.flatten().tolist() == [5.0, -5.0]
    assert EcgPreprocess(config(clip=None))(counts).values.abs().min() > 10


def test_invalid_samples_are_zero_and_marked_not_a_huge_voltage() -> None:
    """NEPA defect 11: one NaN must not reach the loss; nor may its marker, −32.8 mV."""
    counts = torch.tensor([[[INVALID, 100], [200, INVALID]]], dtype=torch.int16)
    inputs = EcgPreprocess(config(clip=None))(counts)
    assert inputs.valid is not None
    assert inputs.valid.tolist() == [[[False, True], [True, False]]]
    assert inputs.values[0, 0, 0] == 0 and inputs.values[0, 1, 1] == 0


def test_a_scale_other_than_a_microvolt_is_used() -> None:
    counts = torch.tensor([[[100, -200]]], dtype=torch.int16)
    fine = EcgPreprocess(config())(counts).values
    coarse = EcgPreprocess(config(scale=0.002))(counts // 2).values
    torch.testing.assert_close(fine, coarse)


def test_missing_statistics_stop_and_are_not_zero_and_one() -> None:
    """NEPA defect 11: statistics fell back to mean 0 and std 1 in silence."""
    with pytest.raises(LatentcastError, match="input.normalisation: is not set"):
        EcgPreprocess(EcgInput())
    with pytest.raises(LatentcastError, match="has 2 leads, input.leads has 12"):
        EcgPreprocess(EcgInput(normalisation=Normalisation(mean=(0, 0), std=(1, 1))))


def test_a_flat_lead_cannot_give_an_infinite_scale() -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        Normalisation(mean=(0.0,), std=(0.0,))


def test_images_are_normalised_per_channel_and_channels_come_first() -> None:
    pixels = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    inputs = ImagePreprocess(ImageInput(height=4, width=6))(pixels)
    assert inputs.values.shape == (2, 3, 4, 6)
    expected = (pixels[1, 2, 3, 0].float() / 255 - 0.485) / 0.229
    torch.testing.assert_close(inputs.values[1, 0, 2, 3], expected)
