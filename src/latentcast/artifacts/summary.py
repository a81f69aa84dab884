"""An encoder in a few words, for its notebook view, its ``repr`` and its card."""

from __future__ import annotations

from torch import nn

from latentcast.config import Config, EcgInput, Rotary, SinCos


def summary(config: Config, network: nn.Module, layer_names: tuple[str, ...]) -> dict[str, str]:
    """What it reads, and how large it is."""
    shape = config.input
    if isinstance(shape, EcgInput):
        content = f"{len(shape.leads)} leads at {shape.sampling_rate:g} Hz"
        window = f"windows of {shape.length / shape.sampling_rate:g} s"
    else:
        content = f"{shape.channels} channel" + "s" * (shape.channels > 1)
        window = f"{shape.height} × {shape.width} pixels"
    weights = sum(parameter.numel() for parameter in network.parameters())
    return {
        "reads": content,
        "size": window,
        "parameters": f"{weights:,} parameters",
        "layers": f"{len(layer_names)} layers",
    }


def where_patches_are(config: Config) -> str:
    """In a window or image of another size than training saw."""
    positions = getattr(config.encoder, "positions", None)
    if isinstance(positions, SinCos):
        return "counted in patches: those beyond the training length are new to the network"
    if isinstance(positions, Rotary) and positions.coordinates == "seconds":
        return "in seconds: those beyond the training length are new to the network"
    return "normalized: interpolated between the ends, whatever the length"
