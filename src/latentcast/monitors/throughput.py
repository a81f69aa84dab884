"""How fast against how fast it could be: the matrix-product peak of this machine."""

from __future__ import annotations

import time

import torch


def matmul_peak(device: torch.device, precision: torch.dtype, size: int | None = None) -> float:
    """Measured floating-point operations per second of a square matrix product.

    The best of a few products, because a peak is what the machine can do; about a third of a
    second on two cores.
    """
    # A CPU has no products in fp16 of its own; at the usual size they take a minute.
    slow = device.type == "cpu" and precision is torch.float16
    size = size or (8192 if device.type == "cuda" else 256 if slow else 1536)
    a = torch.randn(size, size, device=device, dtype=precision)
    best = float("inf")
    for _ in range(6):
        wait(device)
        start = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
