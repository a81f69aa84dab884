"""Somebody's training in thirty lines, to be watched: ``latentcast watch examples/training.py``.

It knows nothing of latentcast. ``--early`` averages the teacher before the optimizer's step, which
no loss curve shows and ``watch`` does.
"""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
student = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
teacher = copy.deepcopy(student).requires_grad_(False)
predictor = nn.Linear(16, 16)
optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-2)


@torch.no_grad()
def average() -> None:
    for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
        t.lerp_(s, 0.01)


for _ in range(20):
    x = torch.randn(64, 16)
    with torch.no_grad():
        target = F.layer_norm(teacher(x), (16,))
    loss = F.smooth_l1_loss(predictor(student(x * (torch.rand_like(x) > 0.5))), target)
    optimizer.zero_grad()
    loss.backward()
    if "--early" in sys.argv:
        average()
    optimizer.step()
    if "--early" not in sys.argv:
        average()
print(f"loss {loss.item():.4f}")
