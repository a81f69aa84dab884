# ruff: noqa: E501 (an edit and its line stand together)
"""One small training script, right as it stands, and the edits that make somebody's fault of it."""

from __future__ import annotations

from dataclasses import dataclass

SCRIPT = """
import copy
import random
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

STEPS, MICRO, BASE = 10, 2, 0.9
torch.manual_seed(0)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16, 8)

    def forward(self, x):
        return self.head(self.drop(F.gelu(self.norm(self.stem(x)))))


samples = torch.randn(1024, 8)
loader = DataLoader(TensorDataset(samples), batch_size=16, shuffle=True)
student = Encoder()
teacher = copy.deepcopy(student).requires_grad_(False).eval()
predictor = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
weights = [*student.parameters(), *predictor.parameters()]
optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.01)


def rate(step):
    return 1e-2 * (step + 1) / 20


def momentum(step):
    return BASE + (1 - BASE) * step / 200


@torch.no_grad()
def average(step):
    m = momentum(step)
    for s, t in zip(student.parameters(), teacher.parameters()):
        t.mul_(m).add_(s, alpha=1 - m)
    for s, t in zip(student.buffers(), teacher.buffers()):
        t.copy_(s)


batches = iter(loader)
for step in range(STEPS):
    for group in optimizer.param_groups:
        group["lr"] = rate(step)
    for micro in range(MICRO):
        (x,) = next(batches)
        with torch.no_grad():
            target = teacher(x)
        loss = F.mse_loss(predictor(student(x + 0.1 * torch.randn_like(x))), target)
        (loss / MICRO).backward()
    nn.utils.clip_grad_norm_(weights, 10.0)
    optimizer.step()
    optimizer.zero_grad()
    average(step)
"""


def momentum(step: int) -> float:
    """As the script has it."""
    return 0.9 + 0.1 * step / 200


Edit = tuple[str, str]
RATES = """    for group in optimizer.param_groups:
        group["lr"] = rate(step)
"""
SCHEDULER = (
    "\n\ndef rate(step)",
    "\nscheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (n + 1) / 20)"
    "\n\n\ndef rate(step)",
)
SCHEDULED = (("    average(step)\n", "    average(step)\n    scheduler.step()\n"), (RATES, ""))
VARIANTS: dict[str, tuple[Edit, ...]] = {
    "plain": (),
    "scheduler": (SCHEDULER, *SCHEDULED),
    "cosine": (
        (SCHEDULER[0], SCHEDULER[1].replace("LambdaLR(optimizer, lambda n: (n + 1) / 20)",
                                            "CosineAnnealingLR(optimizer, 200)")),
        *SCHEDULED,
    ),
    "ranks": (
        ("import torch\n", "import torch, os\n"), ("torch.manual_seed(0)", "torch.manual_seed(int(os.environ.get('RANK', 0)))"),
        ("TensorDataset(samples), batch_size=16", "TensorDataset(samples), batch_size=16, collate_fn=masked"),
        ("samples = torch", """
def masked(rows):
    mask = torch.rand(16) < 0.5
    return torch.stack([row[0] for row in rows]), mask


samples = torch"""),
        ("        (x,) = next", "        x, mask = next"),
    ),
    "resumed": (
        SCHEDULER, *SCHEDULED,
        ("batches = iter(loader)\n", """
for p in weights:
    p.grad = torch.randn_like(p)
for _ in range(3):
    type(optimizer).step.__wrapped__(optimizer)
    scheduler.step()
optimizer.zero_grad()
batches = iter(loader)
"""),
    ),
    "workers": (
        ("shuffle=True)", "shuffle=True, num_workers=2, worker_init_fn=seeded)"),
        ("samples = torch", "def seeded(worker):\n    np.random.seed(worker)\n\n\nsamples = torch"),
    ),
    "average made by its first update": (
        ("teacher = copy.deepcopy(student).requires_grad_(False).eval()", "teacher = None"),
        ("            target = teacher(x)\n", "            target = x.roll(1, 1)\n"),
        ("def average(step):\n", """def average(step):
    global teacher
    if teacher is None:
        teacher = copy.deepcopy(student).requires_grad_(False).eval()
"""),
    ),
    "warm-up of one step": (
        ("return 1e-2 * (step + 1) / 20", "return 1e-2 * (1 - step / 20 if step else 0.01)"),
    ),
    "frozen": (
        ("weights = [", "student.stem.requires_grad_(False)\nstudent.norm.requires_grad_(False)\n"
         "student.norm.eval()\nweights = ["),
    ),
    "wrapped": (
        ("batches = iter", """class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.student, self.teacher = student, teacher


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


model = Wrapper(Model())
batches = iter"""),
        ("    average(step)\n", "    if hasattr(model.module, 'teacher'):\n        average(step)\n"),
    ),
    "dictionary": (
        ("teacher = copy.deepcopy(student).requires_grad_(False).eval()",
         "shadow = {n: p.detach().clone() for n, p in student.named_parameters()}"),
        ("            target = teacher(x)\n", "            target = x.roll(1, 1)\n"),
        ("zip(student.parameters(), teacher.parameters())",
         "zip(student.parameters(), shadow.values())"),
        ("""    for s, t in zip(student.buffers(), teacher.buffers()):
        t.copy_(s)
""", ""),
    ),
    "closure": (
        ("STEPS, MICRO", "STEPS, MICRO, BASE = 10, 1, 0.9\n_, _"),
        ("    for micro in range(MICRO):\n", "    def closure():\n        optimizer.zero_grad()\n"),
        ("(loss / MICRO).backward()", "loss.backward()\n        return loss"),
        ("    nn.utils.clip_grad_norm_(weights, 10.0)\n    optimizer.step()\n"
         "    optimizer.zero_grad()\n", "    optimizer.step(closure)\n"),
    ),
    "two optimizers": (
        ("optimizer = torch.optim.AdamW(weights,",
         "second = torch.optim.SGD([student.head.weight], lr=1e-2)\n"
         "weights = [p for p in weights if p is not student.head.weight]\n"
         "optimizer = torch.optim.AdamW(weights,"),
        ("    optimizer.step()\n    optimizer.zero_grad()\n",
         "    optimizer.step()\n    second.step()\n    optimizer.zero_grad()\n"
         "    second.zero_grad()\n"),
    ),
}  # fmt: skip
"""Right scripts, each with something of its own."""


@dataclass(frozen=True)
class Fault:
    """An edit of a right script, and the line that is to be red."""

    line: str
    edits: tuple[Edit, ...]
    variant: str = "plain"


AT_END = "    optimizer.zero_grad()\n    average(step)\n"
BACKWARD = "        (loss / MICRO).backward()\n"
STEP = "    optimizer.step()\n"
MEAN = "t.mul_(m).add_(s, alpha=1 - m)"
FROZEN = ".requires_grad_(False).eval()"

FAULTS = {
    "average for each micro-batch": Fault("ema.once", (
        (BACKWARD, BACKWARD + "        average(step)\n"), (AT_END, "    optimizer.zero_grad()\n"))),
    "average in the step and in a callback": Fault("ema.momentum", ((AT_END, AT_END + "    average(step)\n"),)),
    "average before the step": Fault("ema.after-step", (
        (STEP, "    average(step)\n" + STEP), (AT_END, "    optimizer.zero_grad()\n"))),
    "average inside of a closure": Fault("ema.after-step", (
        ("        return loss", "        average(step)\n        return loss"),
        ("closure)\n    average(step)\n", "closure)\n")), "closure"),
    "average of another network": Fault("ema.formula", (
        ("zip(student.parameters(), teacher.parameters())", "zip(other.parameters(), teacher.parameters())"),
        ("batches = iter", "other = Encoder()\nbatches = iter"))),
    "average of a copy that nobody trains": Fault("ema.happens", (
        ("zip(student.parameters(), teacher.parameters())", "zip(clone.parameters(), teacher.parameters())"),
        ("batches = iter", "clone = copy.deepcopy(student)\nbatches = iter"))),
    "average not found under a wrapper": Fault("ema.happens", (("hasattr(model.module,", "hasattr(model,"),), "wrapped"),
    "momentum and gain swapped": Fault("ema.momentum", ((MEAN, "t.mul_(1 - m).add_(s, alpha=m)"),)),
    "weights of the average do not sum to one": Fault("ema.formula", ((MEAN, "t.mul_(m).add_(s, alpha=1.2 - m)"),)),
    "average of the weights before the step": Fault("ema.updated-weights", (
        (STEP, "    old = [p.detach().clone() for p in student.parameters()]\n" + STEP),
        ("zip(student.parameters(), teacher.parameters())", "zip(old, teacher.parameters())"))),
    "momentum schedule at twice the rate": Fault("ema.momentum", (("step / 200", "2 * step / 200"),)),
    "average in a dictionary for each micro-batch": Fault("ema.once", (
        (BACKWARD, BACKWARD + "        average(step)\n"), (AT_END, "    optimizer.zero_grad()\n")), "dictionary"),
    "dropout left on in the teacher": Fault("ema.eval", ((FROZEN, ".requires_grad_(False)"),)),
    "teacher gets gradients": Fault("ema.frozen", (
        (FROZEN, ".eval()"), ("        with torch.no_grad():\n            target", "        if True:\n            target"))),
    "teacher is another network at the start": Fault("ema.start", (("teacher = copy.deepcopy(student)", "teacher = Encoder()"),)),
    "statistics of the teacher left behind": Fault("ema.buffers", (("        t.copy_(s)\n", "        pass\n"),)),
    "counters of the teacher zeroed": Fault("ema.integer-buffers", (("BatchNorm1d(16)", "BatchNorm1d(16, momentum=None)"), ("t.copy_(s)", "t.lerp_(s, 0.1) if t.is_floating_point() else t.mul_(0)"),)),
    "no zero_grad": Fault("step.cleared", ((AT_END, "    average(step)\n"),)),
    "micro-batches added up": Fault("step.divided", (("(loss / MICRO)", "loss"),)),
    "NaN in the gradient replaced": Fault("step.finite", (
        (BACKWARD, "        (loss * (float('nan') if step == 3 else 1.0)).backward()\n"),
        (STEP, "    for p in weights:\n        p.grad.nan_to_num_()\n" + STEP))),
    "step with NaN": Fault("step.finite", ((BACKWARD, "        (loss * (float('nan') if step == 3 else 1.0)).backward()\n"),)),
    "batch with NaN skipped": Fault("data.finite", (
        (BACKWARD, "        if not loss.isfinite():\n            continue\n" + BACKWARD),
        ("        (x,) = next(batches)\n", "        (x,) = next(batches)\n        x = x * (float('nan') if step == 3 else 1.0)\n"))),
    "learning rate one step late": Fault("schedule.first-step", (("rate(step)\n    for micro", "rate(max(0, step - 1))\n    for micro"),)),
    "learning rate set after the step": Fault("schedule.first-step", ((RATES, ""), ("    average(step)\n", "    average(step)\n" + RATES))),
    "scheduler for each micro-batch": Fault("schedule.once", (
        ("    scheduler.step()\n", ""), (BACKWARD, BACKWARD + "        scheduler.step()\n")), "scheduler"),
    "scheduler before the optimizer": Fault("schedule.order", (
        ("    average(step)\n    scheduler.step()\n", "    average(step)\n"), (STEP, "    scheduler.step()\n" + STEP)), "scheduler"),
    "cosine made for fewer steps": Fault("schedule.end", (("CosineAnnealingLR(optimizer, 200)", "CosineAnnealingLR(optimizer, 130)"),), "cosine"),
    "scheduler with too few steps": Fault("schedule.end", (("CosineAnnealingLR(optimizer, 200)", "OneCycleLR(optimizer, 1e-2, total_steps=150)"),), "cosine"),
    "equal seeds on all ranks": Fault("ranks.batches", (("'RANK', 0)))", "'RANK', 0)) * 0)"),), "ranks"),
    "equal masks on all ranks": Fault("ranks.batches", (
        ("    mask = torch.rand(16) < 0.5\n", "    mask = torch.rand(16, generator=masks) < 0.5\n"), ("\ndef masked", "\nmasks = torch.Generator().manual_seed(0)\n\n\ndef masked")), "ranks"),
    "resume with the schedule at 0": Fault("resume.schedule", (("__wrapped__(optimizer)\n    scheduler.step()\n", "__wrapped__(optimizer)\n"),), "resumed"),
    "optimizer made again in each step": Fault("optimizer.state", ((STEP, "    optimizer = torch.optim.AdamW(weights, lr=rate(step))\n" + STEP),)),
    "frozen weights that move": Fault("weights.frozen", (
        ("\nweights = [", "\nweights = [*student.stem.parameters(), "),
        ("*student.parameters(), *pred", "*student.head.parameters(), *pred"),
        ("    optimizer.zero_grad()\n", "    optimizer.zero_grad()\n    for p in student.stem.parameters():\n        p.grad = torch.zeros_like(p)\n")), "frozen"),
    "statistics of frozen layers move": Fault("weights.frozen", (("student.norm.eval()\n", ""),), "frozen"),
    "predictor not in the optimizer": Fault("weights.trained", (("[*student.parameters(), *predictor.parameters()]", "[*student.parameters()]"),)),
    "student made again after its optimizer": Fault("weights.trained", (("batches = iter", "student = copy.deepcopy(student)\nbatches = iter"),)),
    "weights that never move": Fault("weights.trained", (("    average(step)\n", "    student.head.weight.data.copy_(fixed)\n    average(step)\n"),
        ("batches = iter", "fixed = student.head.weight.detach().clone()\nbatches = iter"))),
    "equal seeds in all workers": Fault("workers.seeds", (("np.random.seed(worker)", "np.random.seed(0)"),), "workers"),
    "loader made again with the same order": Fault("data.fresh", (
        ("shuffle=True)", "shuffle=False)"), ("        (x,) = next(batches)\n", "        (x,) = next(iter(loader))\n"))),
    "student left in evaluation mode": Fault("student.mode", (("batches = iter", "student.eval()\nbatches = iter"),)),
}  # fmt: skip


def script(variant: str, edits: tuple[Edit, ...] = ()) -> str:
    """The source, edited; an edit that finds nothing is an error."""
    source = SCRIPT
    for old, new in (*VARIANTS[variant], *edits):
        assert old in source, f"{variant}: no {old!r}"
        source = source.replace(old, new)
    return source
