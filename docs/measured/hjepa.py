"""The claims of the review of H-JEPA's average, measured: ``python hjepa.py H-JEPA``.

The folder is a checkout of jonwiggins/H-JEPA at eb995a0. Its own trainer takes the steps.
"""

import ast
import sys
import tempfile
from pathlib import Path

import timm_stand_in  # noqa: F401
import torch

from latentcast.verification.foreign import verify_ema

repository = Path(sys.argv[1])
sys.path.insert(0, str(repository))
from src.losses.hjepa_loss import HJEPALoss  # noqa: E402
from src.masks.hierarchical import HierarchicalMaskGenerator  # noqa: E402
from src.models.hjepa import create_hjepa  # noqa: E402
from src.trainers.trainer import HJEPATrainer  # noqa: E402
from src.utils.scheduler import EMAScheduler, create_ema_scheduler  # noqa: E402


def trainer(batches, accumulate=1, warm_up=0, epochs=10, lr=1e-2, drop_path=0.0, wrap=None,
            warm_up_epochs=0):  # fmt: skip
    """H-JEPA's trainer on a network of two blocks and random images."""
    torch.manual_seed(0)
    model = create_hjepa("vit_tiny_patch16_112", 112, 192, predictor_depth=1, predictor_num_heads=3,
                         num_hierarchies=2, drop_path_rate=drop_path)  # fmt: skip
    model = wrap(model) if wrap else model
    masks = HierarchicalMaskGenerator(112, 16, num_hierarchies=2)
    average = {"start": 0.9, "end": 1.0, "warmup_steps": warm_up}
    training = {
        "epochs": epochs, "optimizer": "sgd", "lr": lr, "accumulation_steps": accumulate,
        "warmup_epochs": warm_up_epochs, "ema_momentum_schedule": average,
    }  # fmt: skip
    return HJEPATrainer(
        model, [torch.randn(4, 3, 112, 112) for _ in range(batches)], None,
        torch.optim.SGD(model.parameters(), lr), HJEPALoss("mse", num_hierarchies=2,
        normalize_embeddings=False), masks, {"training": training, "logging": {"log_dir": folder,
        "use_tensorboard": False}, "checkpoint": {"checkpoint_dir": folder}}, "cpu",
    )  # fmt: skip


def repaired(own):
    """As B8 says: the update behind the optimizer's step, inside the accumulation branch."""
    update, step = own._update_target_encoder, own.optimizer.step

    def stepped(*rest, **more):
        step(*rest, **more)
        update(own.ema_scheduler(own.global_step))

    own.optimizer.step, own._update_target_encoder = stepped, lambda momentum: None
    return own


def show(title, own, epochs=4, momentum=None):
    model = getattr(own.model, "module", own.model)
    print(f"\n{title}")
    print(
        verify_ema(
            lambda: own._train_epoch(0),
            model.context_encoder,
            model.target_encoder,
            momentum,
            epochs,
        )
    )


folder = tempfile.mkdtemp()
show("B1  one batch a step", trainer(1))
show("B1  two micro-batches a step", trainer(2, accumulate=2))
show("B4  training.drop_path_rate 0.1", trainer(1, drop_path=0.1))
show("B8  repaired as told, two micro-batches a step", repaired(trainer(2, accumulate=2)))

print("\nB8  the learning rate, warm-up of two epochs of three batches")
own, rates = trainer(3, warm_up_epochs=2), []
hook = own.optimizer.register_step_pre_hook(
    lambda optimizer, *rest: rates.append(optimizer.param_groups[0]["lr"])
)
own._train_epoch(0)
hook.remove()
print("  used:", rates, "of the schedule:", [own.lr_scheduler(n) for n in range(3)])

print("\nB2")
for warm_up in (0, 30):
    schedule = EMAScheduler(0.996, 1.0, epochs=100, steps_per_epoch=10, warmup_epochs=warm_up)
    steps = (0, 150, 299, 300, 500, 650, 1000, 2000)
    linear = [
        0.996 + 0.004 * min(1, max(0, s - 10 * warm_up) / (1000 - 10 * warm_up)) for s in steps
    ]
    gap = max(abs(schedule(s) - m) for s, m in zip(steps, linear, strict=True))
    print(
        f"  warm-up {warm_up} epochs: largest difference from the line {gap:.1e}, "
        f"at 0 {schedule(0)}, at the end {schedule(1000)}"
    )
try:
    create_ema_scheduler(0.996, 1.0, 10, 10, 10)(100)
except ZeroDivisionError as problem:
    print(f"  warm-up as long as training, at its end: ZeroDivisionError, {problem}")
for batches in (1001, 999, 500):
    own = trainer(1, warm_up=1000, epochs=100)
    own.train_loader = range(batches)
    own = HJEPATrainer(
        own.model,
        own.train_loader,
        None,
        own.optimizer,
        own.loss_fn,
        own.masking_fn,
        {**own.config, "training": {**own.config["training"], "ema_momentum_schedule": {}}},
        "cpu",
    )
    print(
        f"  warmup_steps 1000 (default), {batches} batches an epoch: "
        f"{own.ema_scheduler.warmup_steps} steps of warm-up"
    )
target = trainer(1).model.target_encoder
print(
    "  TargetEncoder's own schedule, steps 0, 500, 1000, 50000:",
    [
        round(target.update_from_context_encoder(trainer(1).model.context_encoder, s), 4)
        for s in (0, 500, 1000, 50000)
    ],
)

print("\nB3, B6")
own = trainer(1)
model = own.model
with torch.no_grad():
    for p in model.context_encoder.parameters():
        p.add_(torch.randn_like(p))
before = [p.double().clone() for p in model.target_encoder.parameters()]
own._update_target_encoder(0.7)
gaps = [
    float((t - (0.7 * b + 0.3 * c.double())).abs().max())
    for t, b, c in zip(
        model.target_encoder.parameters(), before, model.context_encoder.parameters(), strict=True
    )
]
print(f"  largest difference from 0.7 θ_t + 0.3 θ_c in float64: {max(gaps):.1e}")
own.model = torch.nn.Linear(2, 2)
print("  a model without encoders:", own._update_target_encoder(0.7))


class Wrapped(torch.nn.Module):  # as DistributedDataParallel: the model is .module
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


show("B6  under a wrapper with DistributedDataParallel's attributes", trainer(1, wrap=Wrapped))

print("\nB4, B5")
model = trainer(1).model.train()
mask = torch.zeros(2, 49)
mask[:, :10] = 1
out = model(torch.randn(2, 3, 112, 112), mask)
sum(
    p.square().sum() + t.square().sum()
    for p, t in zip(out["predictions"], out["targets"], strict=True)
).backward()
print(
    "  parameters of the target encoder that require a gradient:",
    sum(p.requires_grad for p in model.target_encoder.parameters()),
    "with one:",
    sum(p.grad is not None for p in model.target_encoder.parameters()),
)
print(
    "  targets that require a gradient:",
    [t.requires_grad for t in out["targets"]],
    "target_features:",
    out["target_features"].requires_grad,
)
model.zero_grad()
out = model(torch.randn(2, 3, 112, 112), mask)
sum(t.square().sum() for t in out["targets"]).backward()
print(
    "  of the targets alone, parameters that get a gradient:",
    sorted(
        {
            n.partition(".")[0]
            for n, p in model.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
    ),
)
print(
    "  in the optimizer:",
    len({id(p) for g in trainer(1).optimizer.param_groups for p in g["params"]})
    and "see B1, ema.frozen",
)

print("\nB7")
methods = set(dir(EMAScheduler)) | set(vars(EMAScheduler(0.9, 1, 2, 2)))
calls = []
for file in sorted((repository / "tests").glob("*.py")):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name):
            name = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
            if "ema_sched" in name and node.attr not in methods:
                calls.append(f"{file.name}:{node.lineno} {node.attr}")
print("  attributes of an ema_scheduler that it does not have, in tests/:", calls)
