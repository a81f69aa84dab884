"""The device that a run trains on and that an encoder reads on."""

from __future__ import annotations

import torch

from latentcast.errors import LatentcastError

AUTO = "auto"
"""The GPU when there is one, else the CPU."""


def device_of(name: str | torch.device, setting: str = "device") -> torch.device:
    """The device of a name such as ``cuda:1``, or :data:`AUTO`.

    Args:
        setting: where the name stands, for the message.

    Raises:
        LatentcastError: there is no such device.
    """
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as problem:
        reason = str(problem).partition("\n")[0]
        if "device type" in reason:  # torch lists all that it may have been built for
            reason = "it is no name of a device"
        raise LatentcastError(f"{setting} {name}: cannot be used ({reason}); try cpu") from None
    return device
