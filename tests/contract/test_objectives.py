"""What every objective promises, for every modality it trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import torch
from rich.console import Console
from torch import nn

from latentcast.batch import Batch, Inputs
from latentcast.config import OBJECTIVES, Config, ObjectiveConfig
from latentcast.config.settings import Share
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.loop import accumulate
from latentcast.errors import LatentcastError
from latentcast.monitors.journal import read_metrics
from latentcast.nn.backbones import build_encoder
from latentcast.nn.base import Encoder, mask_patches
from latentcast.nn.initialise import initialise
from latentcast.nn.tokens import Tokenizer
from latentcast.objectives.base import Objective, Output, Role
from latentcast.objectives.build import build
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.report.run import report_run
from latentcast.runs import list_runs, print_runs
from latentcast.workflows.train import train

CONTEXT = Context(torch.device("cpu"), torch.float32)
SMALL = {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48,
         "encoder.drop_path": 0.3}  # fmt: skip
SMALL_LEVELS = {"objective.coarser.0.width": 16, "objective.coarser.0.heads": 2,
                "objective.coarser.0.mlp_width": 32, "objective.predictor.width": 24}  # fmt: skip
SMALL_CONV = {"encoder.width": 24, "encoder.stem_width": 6, "objective.views": None}
SMALL_S4D = {"kind": "s4d", "width": 24, "depth": 2, "state": 4, "stem_width": 6}
IMAGE_INPUT = {"kind": "image", "normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3}}
SMALL_VIEWS = {"projector": [16, 8], "augmentation": {"kind": "ecg", "warp": 0.1}}
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
    "h-jepa × leads × ecg": recipe("hjepa-ecg-leads-tiny").updated(
        {**SMALL, **SMALL_LEVELS, "input.drop_leads": 0.4, "objective.top_down": True}
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
    "masked × ecg": recipe("conv-ecg-tiny").updated(SMALL_CONV | {"input.length": 160}),
    "masked × ecg, transformer": recipe("ijepa-ecg-tiny").updated(
        {**SMALL, "input.length": 400, "objective": {"kind": "masked", "mask_span": 3}}
    ),
    "masked × image": recipe("ijepa-image-tiny").updated(
        SMALL_CONV
        | {
            "encoder": {"kind": "resnet", "patch": 4, "norm": "group"},
            "encoder.kernels": (3,),
            "input.height": 16,
            "input.width": 24,
            "input.normalisation": {"mean": [0.0] * 3, "std": [1.0] * 3},
            "objective": {"kind": "masked", "mask_span": 2},
        }
    ),
    "masked and two views × ecg": recipe("conv-ecg-tiny").updated(
        SMALL_CONV | {"input.length": 320} | {"objective.views": SMALL_VIEWS}
    ),
    "nepa and two views × ecg": recipe("nepa-ecg-tiny").updated(
        {**SMALL, "input.length": 200, "objective.views": SMALL_VIEWS}
    ),
    "h-jepa and two views × image": recipe("hjepa-image-tiny").updated(
        {**SMALL_IMAGE, **SMALL_LEVELS, "objective.views.augmentation.kind": "image"}
        | {"objective.views.comparison.kind": "sigreg", "objective.views.projector": [16]}
    ),
    "two views alone × ecg": recipe("nepa-ecg-tiny").updated(
        {**SMALL, "input.length": 200, "objective.kind": "two_views", "encoder.causal": False}
        | {"objective.views": SMALL_VIEWS | {"comparison": {"kind": "ntxent"}}}
    ),
    "cpc × ecg": recipe("nepa-ecg-tiny").updated(
        {**SMALL, "input.length": 200, "objective.kind": "cpc", "objective.temperature": None}
    ),
    "cpc of the batch × ecg": recipe("nepa-ecg-tiny").updated(
        {**SMALL, "input.length": 200, "objective.kind": "cpc", "objective.negatives": "batch"}
    ),
    "nepa and two views × ecg, s4d": recipe("nepa-ecg-tiny").updated(
        {"encoder": SMALL_S4D, "input.length": 400, "objective.views": SMALL_VIEWS}
    ),
    "masked × image, s4d in both directions": recipe("conv-ecg-tiny").updated(
        {"encoder": SMALL_S4D | {"patch": 4, "causal": False, "cls": False}}
        | {"input": {**IMAGE_INPUT, "height": 16, "width": 24}}
        | {"objective.mask_span": 2, "objective.views": None}
    ),
    "i-jepa × ecg, overlapping convolutions": recipe("ijepa-ecg-tiny").updated(
        {**SMALL, "input.length": 400, "encoder.kind": "conv_transformer"}
        | {"encoder.stem_width": 6, "encoder.stem_overlap": True}
    ),
    "i-jepa × image": recipe("ijepa-image-tiny").updated(SMALL_IMAGE),
    "h-jepa × image": recipe("hjepa-image-tiny").updated({**SMALL_IMAGE, **SMALL_LEVELS}),
    "nepa × image": recipe("nepa-image-tiny").updated(
        {**SMALL, "input.height": 16, "input.width": 12}
    ),
}


class MaskedMeanConfig(ObjectiveConfig):
    """Settings of a third objective, as somebody else would write one."""

    kind: str = "masked_mean"
    hidden: Share = 0.5

    def check(self, config: Config) -> None:
        if config.encoder.causal:
            raise ValueError(
                "encoder.causal is true: masked_mean reads both sides; set it to false"
            )
        if config.ema is not None:
            raise ValueError("ema: masked_mean has no teacher; set ema=null")


class MaskedMean(Objective):
    """The mean of each channel in the patches that are hidden. No teacher, no views."""

    settings = MaskedMeanConfig

    def __init__(self, student: Encoder, channels: int, hidden: float) -> None:
        super().__init__()
        self.student, self.head, self.hidden = student, nn.Linear(student.width, channels), hidden

    @classmethod
    def of(cls, config: Config) -> Self:
        assert isinstance(config.objective, MaskedMeanConfig)
        return cls(build_encoder(config), config.input.channels, config.objective.hidden)

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        values, size = inputs.values, tuple(inputs.values.shape[2:])
        grid = self.student.grid(size)
        patches = math.prod(grid)
        fixed = Draw(0, 0, torch.arange(len(values)))
        order = (draw or fixed).for_cells("masked mean", patches).argsort(dim=1)
        kept, hidden = order.tensor_split([round(patches * (1 - self.hidden))], dim=1)
        tokens = self.student.embed(mask_patches(values, kept, grid))
        predicted = self.head(self.student.transform(tokens, size, draw)[:, self.student.prefix :])
        assert isinstance(self.student.tokenizer, Tokenizer)
        means = self.student.tokenizer.unfold(values).unflatten(2, (values.shape[1], -1)).mean(-1)
        errors = (predicted - means).square().mean(-1).gather(1, hidden)
        counted = torch.ones_like(errors, dtype=torch.bool)
        if inputs.valid is not None:
            counted = self.student.valid(inputs.valid).gather(1, hidden)
        loss = torch.where(counted, errors, 0).sum() / counted.sum().clamp(min=1)
        return Output(loss, counted.sum().to(loss.dtype), {"error": loss.detach()})

    def initialise(self, seed: int) -> None:
        self.student.initialise(seed)
        initialise(self.head, seed, "initialise head")

    def encoder(self, role: Role) -> Encoder:
        return self.student

    def step_flops(self, size: tuple[int, ...]) -> int:
        head = 2 * math.prod(self.student.grid(size)) * self.head.weight.numel()
        return 3 * (self.student.flops(size) + head)


MASKED_MEAN = {"objective.kind": "masked_mean", "objective.hidden": 0.3, "ema": None}


@pytest.fixture(autouse=True, scope="module")
def third_objective() -> Iterator[None]:
    """Registered while this file is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OBJECTIVES, "_settings", OBJECTIVES.kinds)
        patch.setattr(OBJECTIVES, "_builders", dict(OBJECTIVES._builders))
        OBJECTIVES.register(MaskedMean)
        yield


@pytest.fixture(params=[*CASES, "a third × ecg", "a third × image"])
def config(request: pytest.FixtureRequest) -> Config:
    match request.param:
        case "a third × ecg":
            return CASES["i-jepa × ecg"].updated(MASKED_MEAN)
        case "a third × image":
            return CASES["i-jepa × image"].updated(MASKED_MEAN)
        case name:
            return CASES[name]


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
    assert not any(view.tokens.requires_grad for view in output.views)
    assert len({(view.role, view.level) for view in output.views}) == len(output.views)
    assert bool(output.views) != isinstance(objective, MaskedMean)


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
    if config.whole_batch:
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
        patches = math.prod(config.grids[0])
        assert layers[-1].shape[:2] == (4, patches)
        assert all(len(layer) == 4 and layer.shape[1] % patches == 0 for layer in layers)
    assert objective.step_flops(config.input.size) > 0
    if objective.predicted_from is None:
        with pytest.raises(LatentcastError, match="predicts no single patches, .* read its feat"):
            objective.patch_errors(inputs(config))
        return
    errors = objective.patch_errors(inputs(config))
    assert errors.shape == (4, math.prod(config.grids[0])) and torch.isfinite(errors).all()


# A third objective, beyond the contract


def test_a_third_objective_is_checked_by_its_own_settings_alone() -> None:
    jepa = CASES["i-jepa × ecg"]
    with pytest.raises(LatentcastError, match=r"masked_mean has no teacher; set ema=null"):
        jepa.updated(MASKED_MEAN | {"ema": {"base": 0.99}})
    # Neither family's rules: a JEPA takes no CLS, NEPA no sine-cosine positions.
    jepa.updated(MASKED_MEAN | {"encoder.cls": True, "encoder.positions": {"kind": "sincos"}})
    with pytest.raises(LatentcastError, match=r"objective\.hiden: .*did you mean 'hidden'"):
        jepa.updated(MASKED_MEAN | {"objective.hiden": 0.2})


def test_a_third_objective_is_trained_logged_listed_and_reported(
    small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It logged ``rank nan``, and the report died of a KeyError."""
    pytest.importorskip("matplotlib")
    few = {"train.steps": 3, "train.log_every": 1, "train.batch_size": 4,
           "optimizer.warmup_steps": 1, "train.precision": "fp32"}  # fmt: skip
    run = tmp_path / "run"
    config = CASES["i-jepa × ecg"].updated(MASKED_MEAN | few)
    assert train(config, small_store, run).step == 3
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 3 and not any("nan" in line or "rank" in line for line in lines)
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["error"] == row["loss"] > 0 and row["alarms"] == [] for row in rows)
    (listed,) = list_runs([tmp_path])
    assert (listed.objective, listed.state, listed.ranks) == ("masked_mean", "done", ())
    print_runs([listed], Console(width=200))
    assert "masked_mean" in capsys.readouterr().out
    page = report_run(run).read_text("utf-8")
    assert "3 training curves" in page and "masked_mean" in page
    assert train(config, small_store, run).step == 3  # its own configuration is known again
