"""What a device does at best: matrix products, copies, attention, a graph of a step.

    python benchmarks/device.py

Products by type and size, the bandwidth of copies, causal attention through each kernel that torch
has here, and a small network's step replayed as a CUDA graph against the same step launched anew.
Every part is printed as a line of JSON as soon as it is measured; the last line joins them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentcast.monitors.throughput import wait

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def best(run: Callable[[], object], rounds: int = 8) -> float:
    """Seconds of the fastest of some calls."""
    taken = []
    for _ in range(rounds + 1):
        wait(DEVICE)
        start = time.perf_counter()
        run()
        wait(DEVICE)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def products() -> dict[str, float]:
    """Teraflop a second."""
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        for size in (1024, 4096, 8192) if GPU else (128, 256):
            a = torch.randn(size, size, device=DEVICE, dtype=dtype)
            name = f"{str(dtype).removeprefix('torch.')} {size}"
            found[name] = _rounded(2 * size**3 / best(lambda a=a: a @ a) / 1e12)
    return found


def bandwidth() -> float:
    """Gigabytes a second, read and written."""
    block = torch.empty(2**28 if GPU else 2**20, device=DEVICE)
    other = torch.empty_like(block)
    return _rounded(8 * block.numel() / best(lambda: other.copy_(block)) / 1e9)


def attention() -> dict[str, Any]:
    """Milliseconds forward and backward of a batch of nepa-ecg-small; null where it cannot."""
    shape = (256, 6, 201, 64) if GPU else (2, 2, 16, 16)
    q, k, v = (
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    found: dict[str, Any] = {"shape": list(shape)}
    for name, kernel in KERNELS.items():

        def both(kernel: SDPBackend = kernel) -> None:
            with sdpa_kernel(kernel):
                F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

        try:
            found[name] = _rounded(1e3 * best(both))
        except RuntimeError:
            found[name] = None
    return found


def graph() -> dict[str, float] | None:
    """A step of a small network, replayed against launched; null without a GPU."""
    if not GPU:
        return None
    layers = [torch.nn.Linear(384, 384), torch.nn.GELU()] * 8
    network = torch.nn.Sequential(*layers).to(DEVICE)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True, capturable=True)
    x = torch.randn(256, 384, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        network(x).square().mean().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    pairs = [(best(step, 4), best(captured.replay, 4)) for _ in range(5)]
    launched, replayed = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    return {"launched_ms": _rounded(launched), "replayed_ms": _rounded(replayed)}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    device = torch.cuda.get_device_name() if GPU else "cpu"
    found: dict[str, Any] = {"device": device, "torch": torch.__version__}
    for name, part in {
        "products_tflops": products,
        "bandwidth_gbs": bandwidth,
        "attention_ms": attention,
        "graph": graph,
    }.items():
        found[name] = part()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
