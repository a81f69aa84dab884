"""The JEPA objective against naive references; gradients where they belong and nowhere else."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.loop import accumulate
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Schedules
from latentcast.monitors.collapse import statistics
from latentcast.nn.hierarchy import Hierarchy
from latentcast.nn.initialise import initialise
from latentcast.nn.predictor import Predictor
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.base import Output
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.jepa.masks import Masks, mask_sampler
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.signals.synthetic import synthetic_recording

CONTEXT = Context(torch.device("cpu"), torch.float32)
SMALL = {
    "encoder.patch": 2, "input.height": 16, "input.width": 24, "encoder.width": 24,
    "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48, "train.precision": "fp32",
    "objective.predictor.width": 16, "objective.predictor.heads": 2,
    "objective.predictor.mlp_width": 32, "objective.regularizer": None,
    "encoder.positions": {"kind": "sincos"},
}  # fmt: skip
ONE = recipe("ijepa-image-tiny").updated(SMALL)


def levels(count: int, **changes: Any) -> Config:
    """H-JEPA with ``count`` levels above 8 × 12 patches, of different widths and weights."""
    sizes = {"width": 16, "heads": 2, "mlp_width": 32}
    small = recipe("hjepa-image-tiny").updated(
        SMALL | {f"objective.coarser.0.{name}": size for name, size in sizes.items()}
    )
    assert isinstance(small.objective, JepaConfig)
    (level,) = small.objective.coarser
    masks = level.masks.model_copy(update={"targets": 1})
    every = [
        level.model_copy(update={"weight": 0.5 * (n + 1), "masks": masks}).model_dump()
        for n in range(count)
    ]
    return small.updated({"objective.coarser": every, **changes})


THREE = levels(2)


def made(config: Config) -> Jepa:
    """In float64, with a teacher that has moved away and weights large enough to matter."""
    objective = Jepa.of(config)
    objective.initialise(0)
    with torch.no_grad():
        for n, parameter in enumerate(objective.parameters()):
            generator = torch.Generator().manual_seed(n)
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(4).add_(0.02 * noise)
    return objective.double()


def images(config: Config = ONE, batch: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.input.channels, *config.input.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def draw(step: int = 0, batch: int = 4) -> Draw:
    return Draw(0, step, torch.arange(batch))


def gradients(objective: Jepa) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def some_valid(config: Config = ONE) -> Tensor:
    """Patches ``(4, N)``: all; a random half; one corner; none."""
    rows, columns = config.grids[0]
    valid = torch.ones(4, rows, columns, dtype=torch.bool)
    valid[1] = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.5
    valid[2, 3:], valid[2, :, 4:] = False, False
    valid[3] = False
    return valid


def with_garbage(x: Tensor, valid: Tensor, garbage: float) -> Inputs:
    pixels = valid.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand_as(x)
    return Inputs(torch.where(pixels, x, garbage), pixels)


# The equation


def naive_loss(objective: Jepa, inputs: Inputs, masks: Masks) -> float:
    """Σ_ℓ share_ℓ · mean over counted targets of smooth-L1, one number at a time."""
    assert objective.teacher is not None
    config = objective.config
    weights = [config.weight, *(level.weight for level in config.coarser)]
    size = tuple(inputs.values.shape[2:])
    batch = len(inputs.values)
    valid = None if inputs.valid is None else inputs.valid[:, 0, ::2, ::2].flatten(1)
    teacher_tokens = objective.teacher(inputs.values, valid)
    context = objective.student.fused(objective.student(inputs.values, valid, masks.context), size)
    predictions = objective.predict(context, teacher_tokens, masks.targets, size)
    total = counted = 0.0
    for n, (predicted, target_ids) in enumerate(zip(predictions, masks.targets, strict=True)):
        blocks, _, cells = target_ids.shape
        for m in range(blocks):
            for b in range(batch):
                for t in range(cells):
                    cell = int(target_ids[m, b, t])
                    measured = teacher_tokens[n].valid
                    if measured is not None and not measured[b, cell]:
                        continue
                    token = teacher_tokens[n].values[b, cell].tolist()
                    mean = sum(token) / len(token)
                    deviation = math.sqrt(sum((v - mean) ** 2 for v in token) / len(token) + 1e-5)
                    error = 0.0
                    for v, p in zip(token, predicted[m, b, t].tolist(), strict=True):
                        gap = abs((v - mean) / deviation - p)
                        error += 0.5 * gap * gap if gap < 1 else gap - 0.5
                    each = weights[n] / sum(weights) / (blocks * cells)
                    total += each * error / len(token)
                    counted += each
    return total / counted


@pytest.mark.parametrize("config", [ONE, THREE, levels(2, **{"objective.top_down": True})],
                         ids=["one level", "three levels", "top-down"])  # fmt: skip
@pytest.mark.parametrize("padded", [False, True])
def test_loss_is_the_weighted_mean_over_the_targets(config: Config, padded: bool) -> None:
    objective = made(config)
    inputs = with_garbage(images(), some_valid(), 0.0) if padded else Inputs(images())
    flat = some_valid().flatten(1) if padded else None
    masks = objective.masks(draw(), flat)
    with torch.no_grad():
        output = objective(inputs, draw())
        assert float(output.loss) == pytest.approx(naive_loss(objective, inputs, masks), rel=1e-6)
    if not padded:
        assert float(output.weight) == pytest.approx(4)


def test_levels_count_by_their_weight_and_not_by_their_cells() -> None:
    objective = made(THREE)
    output = objective(Inputs(images()), draw())
    losses = [float(output.scalars[f"level{n}_loss"]) for n in range(3)]
    expected = (1.0 * losses[0] + 0.5 * losses[1] + 1.0 * losses[2]) / 2.5
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-9)
    assert max(losses) > 1.02 * min(losses)  # otherwise any weights would do


def test_targets_are_normed_over_channels_without_scale_or_offset() -> None:
    objective = made(THREE)
    assert objective.teacher is not None
    with torch.no_grad():
        for module in objective.teacher.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.mul_(3)
                module.bias.add_(1)
    targets, _ = objective.targets(images(), None)
    for target in targets:
        assert float(target.mean(-1).abs().max()) < 1e-9
        assert float((target.var(-1, unbiased=False) - 1).abs().max()) < 1e-3


def test_instance_norm_leaves_nothing_that_all_tokens_share() -> None:
    objective = made(THREE.updated({"objective.target_norm": "instance"}))
    valid = some_valid().flatten(1)
    targets, levels = objective.targets(with_garbage(images(), some_valid(), 0.0).values, valid)
    for target, level in zip(targets, levels, strict=True):
        assert level.valid is not None
        for sample in (0, 1):
            measured = target[sample, level.valid[sample]]
            assert float(measured.mean(0).abs().max()) < 1e-9
            variance = level.values[sample, level.valid[sample]].var(0, unbiased=False)
            expected = variance / (variance + 1e-5)
            torch.testing.assert_close(measured.var(0, unbiased=False), expected)


# One level is I-JEPA


class PlainIJepa(nn.Module):
    """I-JEPA (Assran et al. 2023), written down from its paper and code; no hierarchy."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert isinstance(config.objective, JepaConfig)
        self.encoder = PatchEncoder.of(config)
        self.predictor = Predictor(config.objective.predictor, config.encoder, config.encoder.width)
        initialise(self.encoder, config.train.seed)
        initialise(self.predictor, config.train.seed, "initialise predictor 0")
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.grid = config.grids[0]

    def forward(self, x: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        with torch.no_grad():
            h = self.target.transform(self.target.embed(x), size)
            h = F.layer_norm(h, h.shape[-1:])
            h = torch.stack([torch.stack([h[b, block[b]] for b in range(len(x))])
                             for block in targets])  # fmt: skip
        tokens = self.encoder.layers(self.encoder.embed(x), size, kept=context)[-1]
        loss: Tensor = F.smooth_l1_loss(self.predictor(tokens, context, targets, self.grid), h)
        return loss


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_one_level_is_i_jepa_bit_for_bit(positions: str) -> None:
    """Loss, every gradient, and all weights after three steps of optimizer and average."""
    kinds = {"sincos": {"kind": "sincos"}, "rotary": {"kind": "rotary", "rescale": None}}
    config = ONE.updated({"encoder.positions": kinds[positions], "optimizer.warmup_steps": 2})
    ours, plain = Jepa.of(config), PlainIJepa(config)
    ours.initialise(config.train.seed)
    schedules, optimizer = Schedules.of(config), build_optimizer(ours, config.optimizer)
    ema = Ema(ours.ema_pairs())
    named = [*plain.encoder.named_parameters(), *plain.predictor.named_parameters()]
    theirs = torch.optim.AdamW(
        [{"params": [p for _, p in named if (p.ndim > 1) == decayed], "decayed": decayed}
         for decayed in (True, False)], betas=config.optimizer.betas, fused=True,
    )  # fmt: skip
    assert isinstance(config.objective, JepaConfig)
    sampler = mask_sampler(config)
    for step in range(3):
        x = images(seed=step).float()
        masks = sampler(draw(step), None)
        loss = ours(Inputs(x), draw(step)).loss
        expected = plain(x, masks.context, masks.targets[0])
        loss.backward()
        expected.backward()
        assert torch.equal(loss, expected)
        for mine, other in (
            (ours.student.finest, plain.encoder), (ours.predictors[0], plain.predictor)
        ):  # fmt: skip
            for p, q in zip(mine.parameters(), other.parameters(), strict=True):
                assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)
        for each in (optimizer, theirs):
            schedules.apply(each, step)
            each.step()
            each.zero_grad()
        ema.update(schedules.momentum(step))
        with torch.no_grad():
            for p, q in zip(plain.target.parameters(), plain.encoder.parameters(), strict=True):
                p.lerp_(q, 1 - schedules.momentum(step))
    assert ours.teacher is not None
    for mine, other in ((ours.student.finest, plain.encoder), (ours.predictors[0], plain.predictor),
                        (ours.teacher.finest, plain.target)):  # fmt: skip
        assert all(
            torch.equal(p, q) for p, q in zip(mine.parameters(), other.parameters(), strict=True)
        )
    assert Ema(ours.ema_pairs()).distance() > 0


def test_four_parameter_groups_are_the_originals() -> None:
    """{encoder, predictor} × {decayed, not}; vectors are not decayed, a mask token is."""
    optimizer = build_optimizer(made(ONE), ONE.optimizer)
    groups = {(g["part"], g["decayed"]): g["names"] for g in optimizer.param_groups}
    assert set(groups) == {(p, d) for p in ("student", "predictors") for d in (True, False)}
    shapes = {n: p.ndim for n, p in made(ONE).named_parameters()}
    for (part, decayed), names in groups.items():
        for name in names:
            assert name.startswith(part)
            assert decayed == (not name.endswith("bias") and shapes[name] > 1)
    assert "predictors.0.mask_token" in groups["predictors", True]


# Gradients


@pytest.mark.parametrize("config", [ONE, THREE], ids=["one level", "three levels"])
def test_no_gradient_runs_through_the_targets(config: Config) -> None:
    """Also were the teacher's weights trainable; and detaching the targets changes nothing."""
    objective = made(config)
    assert objective.teacher is not None
    objective(Inputs(images()), draw()).loss.backward()
    expected = gradients(objective)
    assert {n.split(".")[0] for n in expected} == {"student", "predictors"}
    assert set(expected) == set(objective.trainable())
    objective.zero_grad()
    objective.teacher.requires_grad_(True)
    objective(Inputs(images()), draw()).loss.backward()
    found = gradients(objective)
    assert not any(name.startswith("teacher") for name in found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_student_target_does_get_a_gradient() -> None:
    changes = {"ema": None, "objective.target": "student", "objective.regularizer.kind": "vicreg"}
    objective = made(ONE.updated(changes))
    (target,), _ = objective.targets(images(), None)
    assert objective.teacher is None and target.requires_grad


def test_the_teacher_is_the_student_at_step_0_and_does_not_drop() -> None:
    config = THREE.updated({"encoder.drop_path": 0.5})
    objective = Jepa.of(config)
    objective.initialise(0)
    objective.double().train()
    assert objective.teacher is not None
    student_tokens = objective.student(images())
    for step in (0, 1):
        targets, teacher_tokens = objective.targets(images(), None)
        for level, own, target in zip(teacher_tokens, student_tokens, targets, strict=True):
            assert torch.equal(level.values, own.values)  # and so the same at both steps
            assert not target.requires_grad
        moved = objective.student(images(), draw=draw(step))
        assert not torch.equal(moved[0].values, student_tokens[0].values)
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    assert not any(name.startswith("teacher") for name in objective.trainable())


def test_fusion_and_hints_leave_the_targets_alone() -> None:
    plain = made(THREE.updated({"objective.fusion": False}))
    for changes in ({"objective.fusion": True}, {"objective.top_down": True},
                    {"objective.fusion": True, "objective.top_down": True}):  # fmt: skip
        other = made(THREE.updated({"objective.fusion": False, **changes}))
        own = dict(other.named_parameters())
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                own[name].copy_(parameter)
        ours, theirs = (o.targets(images(), None)[0] for o in (plain, other))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        other(Inputs(images()), draw()).loss.backward()
        added = [n for n in gradients(other) if "fusion" in n or "hint" in n]
        assert added and all(bool(own[n].grad.any()) for n in added)  # type: ignore[union-attr]
        if other.student.fusion is not None:
            with torch.no_grad():
                for parameter in other.student.fusion.parameters():
                    parameter.add_(1)
            again = other.targets(images(), None)[0]
            assert all(torch.equal(a, b) for a, b in zip(theirs, again, strict=True))


def test_coarse_predictions_reach_the_finer_queries_only_top_down() -> None:
    for top_down in (False, True):
        objective = made(THREE.updated({"objective.top_down": top_down}))
        first = objective(Inputs(images()), draw()).scalars["level0_loss"]
        with torch.no_grad():
            objective.predictors[2].proj.bias.add_(1)  # type: ignore[union-attr, operator]
        second = objective(Inputs(images()), draw()).scalars["level0_loss"]
        assert torch.equal(first, second) != top_down


def test_patch_errors_are_those_of_the_predictor_that_was_trained() -> None:
    """A predictor trained with a coarser level's hint must not be asked without one."""
    objective, x = made(THREE.updated({"objective.top_down": True})).float(), images().float()
    first = objective.patch_errors(Inputs(x))
    with torch.no_grad():
        objective.predictors[1].proj.bias.add_(1)  # type: ignore[union-attr, operator]
    assert not torch.equal(first, objective.patch_errors(Inputs(x)))


# Validity


@pytest.mark.parametrize("config", [ONE, THREE, levels(2, **{"objective.top_down": True})],
                         ids=["one level", "three levels", "top-down"])  # fmt: skip
@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_unmeasured_patches_change_neither_loss_nor_gradient(config: Config, norm: str) -> None:
    """jepa.md D11: there they are a fifth of all targets. Here not one bit depends on them."""
    objective, found = made(config.updated({"objective.target_norm": norm})), []
    for garbage in (0.0, 1e3):
        objective.zero_grad()
        output = objective(with_garbage(images(), some_valid(), garbage), draw())
        output.loss.backward()
        found.append((output, gradients(objective)))
    (one, its), (other, others) = found
    assert torch.equal(one.loss, other.loss) and torch.equal(one.weight, other.weight)
    assert all(torch.equal(its[name], others[name]) for name in its)
    assert all(torch.equal(one.scalars[name], other.scalars[name]) for name in one.scalars)
    assert 0 < float(one.weight) < 4


def test_targets_that_were_not_measured_weigh_nothing() -> None:
    objective, valid = made(ONE), some_valid()
    output = objective(with_garbage(images(), valid, 0.0), draw())
    masks = objective.masks(draw(), valid.flatten(1))
    counted = [float(valid.flatten(1)[b][masks.targets[0][:, b]].double().mean()) for b in range(4)]
    assert float(output.weight) == pytest.approx(sum(counted), rel=1e-6)
    assert counted[0] == 1 and counted[3] == 0


@pytest.mark.parametrize("config", [ONE, THREE], ids=["one level", "three levels"])
def test_a_batch_of_nothing_weighs_nothing_and_is_finite(config: Config) -> None:
    objective = made(config)
    valid = torch.zeros_like(some_valid())
    output = objective(with_garbage(images(), valid, 0.0), draw())
    (output.loss * output.weight).backward()
    assert float(output.weight) == 0 and float(output.loss.detach()) == 0
    assert all(bool((g == 0).all()) for g in gradients(objective).values())
    assert all(math.isfinite(float(v)) for v in output.scalars.values())


def test_pieces_of_a_partly_measured_batch_give_the_gradient_of_the_whole() -> None:
    found = []
    for size in (4, 2, 3):
        objective = made(THREE)
        inputs = with_garbage(images(), some_valid(), 0.0)
        assert inputs.valid is not None
        pieces = [Batch(i, i) for i in torch.arange(4).split(size)]
        values, valid = inputs.values, inputs.valid

        def cut(rows: Tensor, draw: Draw | None, v: Tensor = values, m: Tensor = valid) -> Inputs:
            return Inputs(v[rows], m[rows])

        output = accumulate(objective, cut, pieces, 0, State(), CONTEXT)
        found.append((output.loss, gradients(objective)))
    for loss, grads in found[1:]:
        assert float(loss) == pytest.approx(float(found[0][0]), rel=1e-6)
        for name, expected in found[0][1].items():
            torch.testing.assert_close(grads[name], expected, rtol=1e-5, atol=1e-9)


# Collapse


def trained(parameters: Any, loss_of: Any, steps: int, lr: float = 3e-3) -> float:
    """The mean loss of the last tenth of the steps."""
    optimizer, losses = torch.optim.Adam(parameters, lr=lr), []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-steps // 10 :]) / (steps // 10)


def test_heads_trained_alone_cannot_make_unrelated_inputs_agree() -> None:
    """jepa.md D9: a trainable projection on both sides takes the loss of unrelated inputs to 0.

    Context and targets come from unrelated noise through a frozen stack. With our structure
    nothing that is trained touches the targets; the shared head is the defect, for contrast.
    """
    objective = Jepa.of(ONE)
    objective.initialise(0)
    with torch.no_grad():
        assert objective.teacher is not None
        for network in (objective.student, objective.teacher):
            network.finest.tokenizer.weight.mul_(
                50
            )  # so that content outweighs the fixed positions
    objective.student.requires_grad_(False)
    head = nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24))
    initialise(head, 1)

    def sides(step: int) -> tuple[Tensor, Tensor]:
        values, unrelated = images(seed=2 * step).float(), images(seed=2 * step + 1).float()
        masks = objective.masks(draw(step), None)
        (target,), teacher_tokens = objective.targets(unrelated, None)
        context = objective.student(values, None, masks.context)
        (predicted,) = objective.predict(context, teacher_tokens, masks.targets, (16, 24))
        target_ids = masks.targets[0].unsqueeze(-1).expand(*predicted.shape)
        return predicted, target.expand(len(target_ids), -1, -1, -1).gather(2, target_ids)

    def ours(step: int) -> Tensor:
        return F.smooth_l1_loss(*sides(step))

    def shared(step: int) -> Tensor:
        predicted, target = sides(step)
        return F.smooth_l1_loss(head(predicted.detach()), head(target))

    with torch.no_grad():
        noise = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
        floor = F.smooth_l1_loss(torch.zeros_like(noise), noise).item()
    assert trained(objective.predictors.parameters(), ours, 100) > 0.85 * floor
    assert trained(head.parameters(), shared, 100, lr=1e-2) < 0.05 * floor


def test_a_regularizer_beside_a_teacher_reaches_the_student() -> None:
    found = []
    for weight in (0.0, 0.5):
        changes = {"objective.regularizer": {"kind": "vicreg", "weight": weight}}
        objective = made(ONE.updated(changes))
        objective(Inputs(images()), draw()).loss.backward()
        found.append(gradients(objective))
    student = [name for name in found[0] if name.startswith("student")]
    assert any(
        float(F.cosine_similarity(found[0][n].flatten(), found[1][n].flatten(), dim=0)) < 0.99
        for n in student
    )
    for name in found[0].keys() - set(student):  # predictors only weigh less
        torch.testing.assert_close(found[1][name], 0.5 * found[0][name])


def test_150_steps_on_synthetic_recordings_stay_alive() -> None:
    """Targets keep their rank, the loss falls, and nothing is NaN."""
    config = recipe("hjepa-ecg-tiny").updated(
        {"encoder.width": 32, "encoder.depth": 1, "encoder.heads": 2, "encoder.mlp_width": 64,
         "objective.predictor.depth": 1, "objective.coarser.0.predictor.depth": 1,
         "objective.coarser.0.width": 32, "objective.coarser.0.heads": 2,
         "objective.coarser.0.mlp_width": 64, "train.steps": 150, "train.batch_size": 8,
         "optimizer.warmup_steps": 15, "optimizer.lr": 2e-3, "ema.base": 0.98,
         "train.precision": "fp32", "objective.regularizer": None}
    )  # fmt: skip
    recordings = torch.stack([
        torch.from_numpy(synthetic_recording(40 + 2 * n, 100, 10, seed=n).signal)
        for n in range(32)
    ])  # fmt: skip
    recordings = recordings / recordings.std(dim=(0, 2), keepdim=True)
    objective = Jepa.of(config)
    objective.initialise(0)
    optimizer, schedules = build_optimizer(objective, config.optimizer), Schedules.of(config)
    ema, outputs = Ema(objective.ema_pairs()), list[Output]()
    for step in range(config.train.steps):
        ids = (torch.arange(8) + 8 * step) % 32
        schedules.apply(optimizer, step)
        outputs.append(objective(Inputs(recordings[ids]), Draw(0, step, ids + 32 * step)))
        outputs[-1].loss.backward()
        assert math.isfinite(float(nn.utils.clip_grad_norm_(objective.parameters(), math.inf)))
        optimizer.step()
        optimizer.zero_grad()
        ema.update(schedules.momentum(step))
    losses = [float(output.loss.detach()) for output in outputs]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    views = objective(Inputs(recordings), Draw(0, 0, torch.arange(32))).views
    targets = [view for view in views if view.role == "target"]
    assert [target.level for target in targets] == [0, 1]
    for target in targets:
        assert statistics(target.tokens, target.valid).rank > 2
    assert ema.distance() > 0


def test_the_hierarchy_is_averaged_as_a_whole() -> None:
    objective = made(THREE)
    ((student, teacher),) = objective.ema_pairs()
    assert isinstance(student, Hierarchy) and isinstance(teacher, Hierarchy)
    assert {n.split(".")[0] for n, _ in teacher.named_parameters()} == {
        "finest", "coarser", "fusion"
    }  # fmt: skip
