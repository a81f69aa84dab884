"""From integer counts to what the encoder sees; the same function in training and in use."""

from __future__ import annotations

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import EcgInput
from latentcast.data.ecg_augment import kept_leads
from latentcast.data.ecg_filters import filtered
from latentcast.errors import LatentcastError
from latentcast.randomness import Draw
from latentcast.signals.recording import INVALID


class EcgPreprocess:
    """``clip((filters(counts · scale) − mean) / std, ±c)`` per lead, and 0 where nothing was
    measured.

    Runs on the device of the batch: integers travel, floats are made there.
    """

    def __init__(self, config: EcgInput) -> None:
        if config.normalisation is None:
            raise LatentcastError(
                "input.normalisation: is not set; train from a store (its statistics are used) "
                "or give mean and std of each lead in millivolts"
            )
        if len(config.normalisation.mean) != config.channels:
            raise LatentcastError(
                f"input.normalisation: has {len(config.normalisation.mean)} leads, input.leads "
                f"has {config.channels}; give one mean and std for each lead"
            )
        self.scale, self.clip, self.drop_leads = config.scale, config.clip, config.drop_leads
        self.filters, self.sampling_rate = config.filters, config.sampling_rate
        self.mean = torch.tensor(config.normalisation.mean)
        self.std = torch.tensor(config.normalisation.std)

    def __call__(self, counts: Tensor, draw: Draw | None = None) -> Inputs:
        """int16 ``(B, samples, leads)`` time-major to values ``(B, leads, samples)``.

        With a ``draw`` leads are lost where ``drop_leads`` is on; the crop was drawn where the
        samples lie.
        """
        device = counts.device
        valid = (counts != INVALID).transpose(1, 2)
        millivolts = counts.transpose(1, 2).to(torch.float32) * self.scale
        if self.filters:
            millivolts = filtered(millivolts, valid, self.filters, self.sampling_rate)
        if draw is not None and self.drop_leads:
            valid = valid & kept_leads(draw, "input", valid.shape[1], self.drop_leads)[:, :, None]
        values = (millivolts - self.mean.to(device)[:, None]) / self.std.to(device)[:, None]
        if self.clip is not None:
            values = values.clamp(-self.clip, self.clip)
        return Inputs(torch.where(valid, values, 0.0), valid)
