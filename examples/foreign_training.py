"""Twenty lines of somebody's training code with a bug that no loss curve shows, and the check.

``python examples/foreign_training.py`` exits with 1 and says which promise broke: the teacher is
averaged before the optimizer's step, so it lags one step behind its own definition.
"""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import nn

from latentcast.verification.foreign import verify_ema

torch.manual_seed(0)
student = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
teacher = copy.deepcopy(student).requires_grad_(False)
predictor = nn.Linear(16, 16)
optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-2)
MOMENTUM = 0.99


def train_step() -> None:
    x = torch.randn(64, 16)
    context = x * (torch.rand_like(x) > 0.5)
    with torch.no_grad():
        target = F.layer_norm(teacher(x), (16,))
    loss = F.smooth_l1_loss(predictor(student(context)), target)
    optimizer.zero_grad()
    loss.backward()
    with torch.no_grad():
        for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
            t.lerp_(s, 1 - MOMENTUM)
    optimizer.step()


if __name__ == "__main__":
    found = verify_ema(train_step, student, teacher, MOMENTUM)
    print(found)
    sys.exit(0 if found.holds else 1)
