"""What may differ between two recordings of one heart, made on the device."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import EcgAugmentation, EcgInput
from latentcast.randomness import Draw
from latentcast.signals.leads import LIMB_LEADS, electrode_weights

WANDER = (0.05, 0.5)
"""Hz: slow breathing, and the edge of what a baseline filter takes away."""


class EcgAugment:
    """A crop of each recording, and the same with its gains, baseline, noise and leads changed.

    Everything is a function of (seed, step, sample) through the draw. What is added is added in
    millivolts and, where ``consistent``, at the electrodes: inputs are normalised for each lead by
    itself, so that noise on them as they are would break III = II − I.

    Args:
        settings: strengths; 0 is off.
        recording: leads, sampling rate, and the normalisation that values in millivolts got;
            without one they are millivolts.
        length: samples of a crop.
    """

    def __init__(self, settings: EcgAugmentation, recording: EcgInput, length: int) -> None:
        self.settings, self.length, self.clip = settings, length, recording.clip
        self.sampling_rate = recording.sampling_rate
        self.lead_tokens = recording.lead_rows is not None  # a lead that is lost has no tokens
        leads = recording.leads
        scale, cpu = recording.normalisation, torch.device("cpu")  # also where a model is on meta
        mean = [0.0] * len(leads) if scale is None else scale.mean
        std = [1.0] * len(leads) if scale is None else scale.std
        self.mean, self.std = (torch.tensor(x, device=cpu)[:, None] for x in (mean, std))
        # Which amplifier a lead has, and which electrodes it is made of.
        if settings.consistent:
            chest = [name for name in leads if name not in LIMB_LEADS]
            amplifiers = [0 if name in LIMB_LEADS else 1 + chest.index(name) for name in leads]
            self.electrodes = torch.tensor(electrode_weights(leads), device=cpu)
        else:
            amplifiers = list(range(len(leads)))
            self.electrodes = torch.eye(len(leads), device=cpu)
        self.amplifiers = torch.tensor(amplifiers, device=cpu)

    def __call__(self, inputs: Inputs, draw: Draw) -> Inputs:
        """Values ``(B, leads, samples)`` to crops ``(B, leads, length)``, the clean ones beside."""
        cut = self.crop(inputs, draw)
        valid = cut.valid
        if self.lead_tokens:
            kept = self._kept(draw, cut.values).expand_as(cut.values)
            valid = kept if valid is None else valid & kept
        return replace(cut, values=self.change(cut, draw), valid=valid, clean=cut.values)

    def crop(self, inputs: Inputs, draw: Draw) -> Inputs:
        """A crop at any place of each recording, faster or slower where ``warp`` is on."""
        values, valid, length = inputs.values, inputs.valid, self.length
        samples, device = values.shape[2], values.device
        place, steps = draw.for_samples("view place"), torch.arange(length, device=device)
        if self.settings.warp == 0:
            start = (place * (samples - length + 1)).long()
            index = (start[:, None] + steps)[:, None].expand(-1, values.shape[1], -1)
            cut = None if valid is None else valid.gather(2, index)
            return replace(inputs, values=values.gather(2, index), valid=cut)
        faster = torch.exp(self.settings.warp * (2 * draw.for_samples("view warp") - 1))
        extent = (length * faster).clamp(max=samples)
        first = place * (samples - extent)
        positions = first[:, None] + (steps + 0.5) * (extent / length)[:, None] - 0.5
        positions = positions.clamp(0, samples - 1)
        low = positions.long()[:, None].expand(-1, values.shape[1], -1)
        high = (low + 1).clamp(max=samples - 1)
        weight = (positions - positions.floor())[:, None].to(values.dtype)
        mixed = torch.lerp(values.gather(2, low), values.gather(2, high), weight)
        if valid is None:
            return replace(inputs, values=mixed)
        cut = valid.gather(2, low) & valid.gather(2, high)
        return replace(inputs, values=torch.where(cut, mixed, 0.0), valid=cut)

    def change(self, inputs: Inputs, draw: Draw) -> Tensor:
        """Values with other gains, added waves and noise, and leads lost; 0 where not valid."""
        values = inputs.values
        mean, std = self.mean.to(values), self.std.to(values)
        millivolts = (values * std + mean) * self._gains(draw).to(values)
        added = self._at_electrodes(draw, values.shape[2]).to(values)
        millivolts = millivolts + self.electrodes.to(values) @ added
        changed = (millivolts - mean) / std
        if self.clip is not None:
            changed = changed.clamp(-self.clip, self.clip)
        kept = self._kept(draw, values)
        return torch.where(kept if inputs.valid is None else kept & inputs.valid, changed, 0.0)

    def _kept(self, draw: Draw, values: Tensor) -> Tensor:
        """``(B, leads, 1)`` bool."""
        return kept_leads(draw, "view", values.shape[1], self.settings.drop_leads)[:, :, None]

    def _gains(self, draw: Draw) -> Tensor:
        """``(B, leads, 1)`` factors."""
        amplifiers = self.amplifiers.to(draw.ids.device)
        own = draw.normal("view lead gain", int(self.amplifiers.max()) + 1)[:, amplifiers]
        common = draw.normal("view gain", 1)
        return torch.exp(self.settings.gain * common + self.settings.lead_gain * own)[:, :, None]

    def _at_electrodes(self, draw: Draw, samples: int) -> Tensor:
        """``(B, electrodes, samples)`` millivolts of wander, noise and hum."""
        settings, count = self.settings, self.electrodes.shape[1]
        seconds = torch.arange(samples, device=draw.ids.device) / self.sampling_rate
        added = torch.zeros(len(draw.ids), count, samples, device=draw.ids.device)
        if settings.wander:
            low, high = WANDER
            hertz = low + (high - low) * draw.uniform("view wander rate", 1)
            added += settings.wander * _waves(draw, "view wander", count, hertz, seconds)
        if settings.powerline:
            hertz = torch.full((len(added), 1), float(settings.mains), device=added.device)
            added += settings.powerline * _waves(draw, "view mains", count, hertz, seconds)
        if settings.noise:
            white = draw.normal("view noise", count * samples).view(-1, count, samples)
            added += settings.noise * draw.uniform("view noise size", 1)[:, :, None] * white
        return added


def kept_leads(draw: Draw, stream: str, leads: int, share: float) -> Tensor:
    """``(B, leads)`` bool: half of the samples lose leads, in the mean ``share``, never all."""
    loses = 2 * share * draw.uniform(f"{stream} lost share", 1)
    loses = torch.where(draw.uniform(f"{stream} loses", 1) < 0.5, loses, 0.0)
    rank = draw.uniform(f"{stream} leads", leads)
    return (rank >= loses) | (rank == rank.amax(1, keepdim=True))


def _waves(draw: Draw, stream: str, count: int, hertz: Tensor, seconds: Tensor) -> Tensor:
    """``(B, count, samples)``: sines of one rate a sample ``(B, 1)``, each with its phase and
    amplitude."""
    phase = draw.uniform(f"{stream} phase", count)[:, :, None]
    angle = 2 * math.pi * (hertz[:, :, None] * seconds + phase)
    return draw.normal(f"{stream} size", count)[:, :, None] * torch.sin(angle)
