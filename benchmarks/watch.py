"""What ``latentcast watch`` costs: seconds and memory beside the same script alone; prints JSON.

    python benchmarks/watch.py [--millions 25] [--steps 8] [--threads 2]

The script trains a student of so many million weights with an averaged teacher: AdamW, gradients
in two micro-batches. It runs alone and watched, in processes of their own and in turn; of each the
whole run from the start of the interpreter is timed, and the largest resident memory is read from
the system.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCRIPT = """
import copy
import sys
import torch
import torch.nn.functional as F
from torch import nn

depth, steps = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


student = nn.Sequential(*(Block(512) for _ in range(depth)))
teacher = copy.deepcopy(student).requires_grad_(False).eval()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
for step in range(steps):
    for micro in range(2):
        x = torch.randn(16, 512)
        with torch.no_grad():
            target = teacher(x)
        (F.mse_loss(student(x * (torch.rand_like(x) > 0.5)), target) / 2).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 0.004)
print(sum(p.double().sum() for p in student.parameters()).item())
"""  # noqa: E501
BLOCK = 2_101_760
"""Weights of one block of width 512."""


def measured(command: list[str], threads: int) -> dict[str, Any]:
    """Seconds of the wall clock and of processors, and the peak of memory, of a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = subprocess.Popen(command, stdout=out, stderr=error, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        printed, report = out.read().decode(), error.read().decode()
    if process.returncode:
        raise SystemExit(report)
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": usage.ru_maxrss // 1024,
        "printed": printed.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=float, default=25.0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    depth = max(1, round(options.millions * 1e6 / BLOCK))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT)
        arguments = [str(script), str(depth), str(options.steps)]
        alone = measured([sys.executable, *arguments], options.threads)
        watched = measured([sys.executable, "-m", "latentcast", "watch", *arguments],
                           options.threads)  # fmt: skip
    print(
        json.dumps(
            {
                "weights": depth * BLOCK,
                "steps": options.steps,
                "alone": alone,
                "watched": watched,
                "memory_ratio": round(watched["peak_mib"] / alone["peak_mib"], 3),
                "same_result": alone["printed"] == watched["printed"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
