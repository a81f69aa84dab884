"""Right trainings that share nothing with the script of the catalogue but that they are right."""

BEGIN = """
import copy
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def mlp(inside=8, outside=8):
    return nn.Sequential(nn.Linear(inside, 16), nn.GELU(), nn.Linear(16, outside))


def batch(n=16):
    return torch.randn(n, 8)

"""
TRAININGS = {
    "accumulation with a scaler": """
net, optimizer = mlp(), None
optimizer = torch.optim.Adam(net.parameters(), 1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
for step in range(8):
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(net(batch()), batch()) / 3
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=False)
""",
    "scaler that skips a step": """
net = mlp()
teacher = copy.deepcopy(net).requires_grad_(False)
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
for step in range(8):
    scale = scaler.get_scale()
    x = batch()
    with torch.no_grad():
        target = teacher(x)
    scaler.scale(F.mse_loss(net(x + 0.1 * batch()), target + x)).backward()
    scaler.step(optimizer)
    scaler.update(1024.0 if step == 0 else None)
    optimizer.zero_grad()
    if scaler.get_scale() >= scale:
        with torch.no_grad():
            for s, t in zip(net.parameters(), teacher.parameters()):
                t.lerp_(s, 0.1)
""",
    "one cycle": """
net = mlp()
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=200)
for step in range(8):
    optimizer.zero_grad()
    F.smooth_l1_loss(net(batch()), batch()).backward()
    optimizer.step()
    scheduler.step()
""",
    "sharpness-aware": """
class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **rest):
        super().__init__(params, dict(rho=rho, **rest))
        self.base = base(self.param_groups, **rest)
        self.param_groups = self.base.param_groups

    def step(self, closure):
        loss = torch.enable_grad()(closure)()
        ps = [p for g in self.param_groups for p in g["params"]]
        norm = torch.stack([p.grad.norm() for p in ps]).norm() + 1e-12
        with torch.no_grad():
            moved = [0.05 * p.grad / norm for p in ps]
            for p, e in zip(ps, moved):
                p.add_(e)
        self.zero_grad()
        torch.enable_grad()(closure)()
        with torch.no_grad():
            for p, e in zip(ps, moved):
                p.sub_(e)
        self.base.step()
        return loss


net = mlp()
optimizer = SAM(net.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
for step in range(8):
    x, y = batch(), batch()

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
""",
    "adversarial": """
maker, judge = mlp(4), mlp(8, 1)
first = torch.optim.Adam(maker.parameters(), 2e-4, betas=(0.5, 0.999))
second = torch.optim.Adam(judge.parameters(), 2e-4, betas=(0.5, 0.999))
ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
for step in range(8):
    fake = maker(torch.randn(16, 4))
    second.zero_grad()
    real = F.binary_cross_entropy_with_logits(judge(batch()), ones)
    (real + F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)).backward()
    second.step()
    first.zero_grad()
    F.binary_cross_entropy_with_logits(judge(fake), ones).backward()
    first.step()
""",
    "average of torch.optim.swa_utils": """
net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
average = torch.optim.swa_utils.AveragedModel(
    net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True)
optimizer = torch.optim.RAdam(net.parameters(), 1e-2)
for step in range(8):
    optimizer.zero_grad()
    F.mse_loss(net(batch()), batch()).backward()
    optimizer.step()
    average.update_parameters(net)
""",
    "low-rank adapters": """
class Adapted(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


net = mlp()
net[0], net[2] = Adapted(net[0]), Adapted(net[2])
optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-2)
for step in range(8):
    F.mse_loss(net(batch()), batch()).backward()
    optimizer.step()
    net.zero_grad()
""",
    "momentum network in training mode": """
def trunk():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


online, head = trunk(), mlp()
momentum = trunk()
momentum.load_state_dict(online.state_dict())
momentum.requires_grad_(False)
optimizer = torch.optim.SGD([*online.parameters(), *head.parameters()], 0.05, weight_decay=1e-4)
for step in range(8):
    x = batch()
    a, b = x + 0.1 * batch(), x + 0.1 * batch()
    loss = 0.0
    for one, other in ((a, b), (b, a)):
        with torch.no_grad():
            target = momentum(other)
        loss = loss + 2 - 2 * F.cosine_similarity(head(online(one)), target, dim=-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for s, t in zip(online.parameters(), momentum.parameters()):
            t.data = 0.9 * t.data + 0.1 * s.data
""",
    "activation checkpointing": """
from torch.utils.checkpoint import checkpoint


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(mlp() for _ in range(3))
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        for part in self.parts:
            x = x + self.drop(checkpoint(part, x, use_reentrant=False))
        return x


net = Deep()
teacher = copy.deepcopy(net).requires_grad_(False).eval()
optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
for step in range(8):
    x = batch()
    with torch.no_grad():
        target = F.layer_norm(teacher(x), (8,))
    F.smooth_l1_loss(net(x + 0.1 * batch()), target).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        torch._foreach_lerp_(list(teacher.parameters()), list(net.parameters()), 0.05)
""",
    "an optimizer of its own": """
class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                (b1, b2), lr = group["betas"], group["lr"]
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * (b1 * m + (1 - b1) * p.grad).sign())
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
optimizer = Lion(net.parameters())
for step in range(8):
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * 0.5 * (1 + torch.tensor(3.1416 * step / 200).cos().item())
    x = torch.randn(4, 6, 8)
    optimizer.zero_grad()
    (net(x) - x.roll(1, 1)).square().sum((1, 2)).mean().backward()
    optimizer.step()
""",
    "weights kept at length 1": """
net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False))
teacher = copy.deepcopy(net).requires_grad_(False)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for step in range(8):
    x = batch()
    F.mse_loss(net(x), teacher(x + 0.1 * batch()) + x).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        net[2].weight.copy_(F.normalize(net[2].weight, dim=1))
        for s, t in zip(net.parameters(), teacher.parameters()):
            t.lerp_(s, 0.1)
""",
    "half precision with float32 copies": """
net = mlp().bfloat16()
masters = [p.detach().float().requires_grad_() for p in net.parameters()]
optimizer = torch.optim.AdamW(masters, 1e-3)
for step in range(8):
    loss = F.mse_loss(net(batch().bfloat16()).float(), batch())
    net.zero_grad()
    loss.backward()
    for master, p in zip(masters, net.parameters()):
        master.grad = p.grad.float()
    optimizer.step()
    with torch.no_grad():
        for master, p in zip(masters, net.parameters()):
            p.copy_(master)
""",
}
