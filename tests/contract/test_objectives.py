"""What every objective promises, for every modality it trains on."""

from __future__ import annotations

import math

import pytest
import torch

from latentcast.batch import Batch, Inputs
from latentcast.config import Config
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.loop import accumulate
from latentcast.errors import LatentcastError
from latentcast.objectives.base import Objective
from latentcast.objectives.build import build
from latentcast.randomness import Draw
from latentcast.recipes import recipe

CONTEXT = Context(torch.device("cpu"), torch.float32)
SMALL = {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48,
         "encoder.drop_path": 0.3}  # fmt: skip
SMALL_LEVELS = {"objective.coarser.0.width": 16, "objective.coarser.0.heads": 2,
                "objective.coarser.0.mlp_width": 32, "objective.predictor.width": 24}  # fmt: skip
SMALL_IMAGE = {**SMALL, "encoder.patch": 2, "input.height": 16, "input.width": 24,
               "input.normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3}}  # fmt: skip
CASES = {
    "nepa × ecg": recipe("nepa-ecg-tiny").updated({**SMALL, "input.length": 200}),
    "nepa × ecg, fixed patches": recipe("nepa-ecg-tiny").updated(
        {**SMALL, "input.length": 200, "objective.patch_embedding": "fixed"}
    ),
    "i-jepa × ecg": recipe("ijepa-ecg-tiny").updated({**SMALL, "input.length": 400}),
    "i-jepa × ecg, rotary": recipe("ijepa-ecg-tiny").updated(
        {**SMALL, "input.length": 400, "encoder.positions": {"kind": "rotary"}}
    ),
    "h-jepa × ecg": recipe("hjepa-ecg-tiny").updated(
        {**SMALL, **SMALL_LEVELS, "input.length": 800, "objective.top_down": True}
    ),
    "jepa without a teacher × ecg": recipe("ijepa-ecg-tiny").updated(
        {
            **SMALL,
            "input.length": 400,
            "ema": None,
            "objective.target": "student",
            "objective.regularizer": {"kind": "sigreg"},
        }
    ),
    "i-jepa × image": recipe("ijepa-image-tiny").updated(SMALL_IMAGE),
    "h-jepa × image": recipe("hjepa-image-tiny").updated({**SMALL_IMAGE, **SMALL_LEVELS}),
    "nepa × image": recipe("nepa-image-tiny").updated(
        {**SMALL, "input.height": 16, "input.width": 12}
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def config(request: pytest.FixtureRequest) -> Config:
    case: Config = request.param
    return case


@pytest.fixture
def objective(config: Config) -> Objective:
    return build(config)


def inputs(config: Config, batch: int = 4) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, config.input.channels, *config.input.size)
    return Inputs(torch.randn(shape, generator=generator))


def draw(batch: int = 4, step: int = 0) -> Draw:
    return Draw(0, step, torch.arange(batch))


def test_loss_is_a_finite_scalar_with_a_weight(objective: Objective, config: Config) -> None:
    output = objective(inputs(config), draw())
    assert output.loss.shape == () and torch.isfinite(output.loss)
    assert output.weight.shape == () and float(output.weight) > 0
    assert all(value.shape == () and not value.requires_grad for value in output.scalars.values())
    assert output.views and not any(view.tokens.requires_grad for view in output.views)


def test_same_draw_same_loss_other_step_other_loss(objective: Objective, config: Config) -> None:
    a, b, c = (objective(inputs(config), draw(step=s)).loss for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_global_random_state_is_neither_used_nor_moved(
    objective: Objective, config: Config
) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = objective(inputs(config), draw()).loss
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(objective(inputs(config), draw()).loss, first)


def test_evaluation_is_deterministic_in_train_mode_too(
    objective: Objective, config: Config
) -> None:
    objective.train()
    a, b = (objective(inputs(config), None).loss for _ in range(2))
    assert torch.equal(a, b)


def test_every_trainable_parameter_gets_a_gradient_and_no_other(
    objective: Objective, config: Config
) -> None:
    objective(inputs(config), None).loss.backward()
    trained = {name for name, p in objective.named_parameters() if p.grad is not None}
    assert trained == set(objective.trainable())


def test_teachers_equal_students_at_the_start_and_are_frozen(objective: Objective) -> None:
    for student, teacher in objective.ema_pairs():
        ours, theirs = student.state_dict(), teacher.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert not any(p.requires_grad for p in teacher.parameters())


def test_initialisation_is_a_function_of_the_seed(config: Config) -> None:
    a, b, c = (build(config.updated({"train.seed": s})).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_pieces_of_a_batch_give_the_gradient_of_the_whole(config: Config) -> None:
    if getattr(config.objective, "regularizer", None) is not None:
        with pytest.raises(LatentcastError, match="statistics of the whole batch"):
            config.updated({"train.batch_size": 4, "train.micro_batches": 2})
        return
    values = inputs(config).values.double()
    gradients = []
    for size in (4, 2, 3):  # 3 leaves a short last piece
        objective = build(config).double()
        ids = torch.arange(4).split(size)
        pieces = [Batch(v, i) for v, i in zip(values.split(size), ids, strict=True)]
        accumulate(objective, lambda samples, draw: Inputs(samples), pieces, 0, State(), CONTEXT)
        gradients.append([p.grad for p in objective.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for one, same in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, same, rtol=1e-8, atol=1e-12)


def test_weights_round_trip_through_a_state_dict(objective: Objective, config: Config) -> None:
    with torch.no_grad():
        for p in objective.parameters():
            p.add_(0.01)
    copy = build(config)
    copy.load_state_dict(objective.state_dict())
    assert torch.equal(copy(inputs(config), None).loss, objective(inputs(config), None).loss)


def test_average_moves_towards_the_student(objective: Objective) -> None:
    if not objective.ema_pairs():
        return
    ema = Ema(objective.ema_pairs())
    with torch.no_grad():
        for p in objective.trainable().values():
            p.add_(1)
    far = ema.distance()
    ema.update(0.5)
    assert 0 < ema.distance() < far


def test_encoder_reads_inputs_of_the_run(objective: Objective, config: Config) -> None:
    for role in ("student", "teacher"):
        encoder = objective.encoder(role)  # type: ignore[arg-type]
        layers = encoder.read(inputs(config).values)
        assert len(layers) == len(encoder.layer_names)
        assert {layer.shape[:2] for layer in layers} == {(4, math.prod(config.grids[0]))}
    assert objective.step_flops(config.input.size) > 0
    errors = objective.patch_errors(inputs(config))
    assert errors.shape == (4, math.prod(config.grids[0])) and torch.isfinite(errors).all()
