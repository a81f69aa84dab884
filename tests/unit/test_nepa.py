"""The objective against a naive float64 loop, and the ways it goes wrong elsewhere."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from latentcast.batch import Inputs
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.objectives import averaged
from latentcast.objectives.nepa import Nepa, cosine
from latentcast.randomness import Draw
from latentcast.recipes import recipe


@pytest.fixture
def config() -> Config:
    return recipe("nepa-ecg-tiny").updated(
        {"encoder.width": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.mlp_width": 48,
         "input.length": 200}
    )  # fmt: skip


@pytest.fixture
def nepa(config: Config) -> Nepa:
    made = Nepa.of(config)
    made.initialise(0)
    return made.double()


def signal(batch: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 12, 200, generator=generator, dtype=torch.float64)


def test_loss_is_the_naive_double_loop(nepa: Nepa) -> None:
    x = signal()
    z = nepa.student.embed(x)
    h = nepa.student.transform(z, (200,))
    terms = []
    for b in range(3):
        for n in range(10):  # token n (0 is CLS) predicts the embedding of patch n + 1
            a, t = h[b, n].tolist(), z[b, n + 1].tolist()
            dot = sum(p * q for p, q in zip(a, t, strict=True))
            terms.append(dot / math.hypot(*a) / math.hypot(*t))
    loss = nepa(Inputs(x), None).loss.detach()
    assert float(loss) == pytest.approx(-sum(terms) / 30, abs=1e-12)


def test_target_gets_no_gradient(nepa: Nepa) -> None:
    """Gradient of the patch weights equals that with the target frozen at its value."""
    x = signal()
    nepa(Inputs(x), None).loss.backward()
    ours = nepa.student.patches.weight.grad
    assert ours is not None
    target = nepa.student.embed(x)[:, 1:].detach()
    epsilon, direction = 1e-6, torch.randn_like(ours)

    def loss_with_fixed_target(amount: float) -> float:
        with torch.no_grad():
            nepa.student.patches.weight.add_(direction, alpha=amount)
            h = nepa.student.transform(nepa.student.embed(x), (200,))[:, :-1]
            nepa.student.patches.weight.sub_(direction, alpha=amount)
            return -float(torch.cosine_similarity(h, target, dim=-1).mean())

    slope = (loss_with_fixed_target(epsilon) - loss_with_fixed_target(-epsilon)) / (2 * epsilon)
    assert float((ours * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_padding_is_neither_target_nor_term(nepa: Nepa) -> None:
    """NEPA defect 14: an all-zero patch has the conv bias as target and dominates short records."""
    short, padded = signal()[..., :100], torch.zeros(3, 12, 200, dtype=torch.float64)
    padded[..., :100] = short
    valid = torch.zeros(3, 12, 200, dtype=torch.bool)
    valid[..., :100] = True
    positions = nepa.student.config.positions
    assert positions.coordinates == "seconds" or positions.rescale is None
    with_padding = nepa(Inputs(padded, valid), None)
    assert float(with_padding.weight) == 15
    padded[..., 100:] = 1e3  # whatever lies in the padding
    again = nepa(Inputs(padded, valid), None)
    assert torch.equal(with_padding.loss, again.loss)
    gradients = []
    for output in (with_padding, again):
        nepa.zero_grad()
        output.loss.backward()
        gradients.append([p.grad.clone() for p in nepa.student.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_batch_of_padding_gives_zero_and_not_nan(nepa: Nepa) -> None:
    x = torch.zeros(2, 12, 200, dtype=torch.float64)
    output = nepa(Inputs(x, torch.zeros_like(x, dtype=torch.bool)), None)
    output.loss.backward()
    assert float(output.loss) == 0 and float(output.weight) == 0
    assert all(
        torch.isfinite(p.grad).all() for p in nepa.student.parameters() if p.grad is not None
    )


def test_copy_last_is_the_score_of_repeating_the_patch(nepa: Nepa) -> None:
    x = signal()
    x[..., 20:] = x[..., :20].repeat(1, 1, 9)  # every patch is the first one
    copied = nepa(Inputs(x), None).scalars["copy_last_loss"]
    assert float(copied) == pytest.approx(-1, abs=1e-9)  # and CLS, which is no patch, is left out
    x[..., 20:40] = signal(seed=1)[..., 20:40]
    other = nepa.student.embed(x)
    pairs = torch.cosine_similarity(other[:, 1:-1], other[:, 2:], dim=-1)
    assert float(nepa(Inputs(x), None).scalars["copy_last_loss"]) == pytest.approx(
        -float(pairs.mean().detach()), abs=1e-9
    )


def test_a_bidirectional_encoder_is_refused_in_pretraining(config: Config) -> None:
    """NEPA defect 20: causality must not be a silent default that scripts flip."""
    with pytest.raises(LatentcastError, match="would see the patch it predicts"):
        config.updated({"encoder.causal": False})


def test_teacher_starts_as_the_student_and_is_no_parameter_to_train(nepa: Nepa) -> None:
    assert nepa.teacher is not None
    student, teacher = nepa.student.state_dict(), nepa.teacher.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    assert all(name.startswith("student.") for name in nepa.trainable())
    nepa(Inputs(signal()), Draw(0, 0, torch.arange(3))).loss.backward()
    assert all(p.grad is None for p in nepa.teacher.parameters())


def test_evaluation_reads_the_average_and_without_one_the_student(config: Config) -> None:
    """NEPA defect 18: the original evaluates the averaged weights, the ECG port dropped them."""
    nepa = Nepa.of(config)
    assert nepa.encoder("teacher") is nepa.teacher and nepa.encoder("student") is nepa.student
    alone = Nepa.of(config.model_copy(update={"ema": None}))
    assert alone.teacher is None and alone.encoder("teacher") is alone.student
    assert alone.ema_pairs() == []


def test_cls_biases_norms_and_gains_are_not_decayed(nepa: Nepa) -> None:
    """NEPA defect 18: weight decay on CLS, biases and LayerScale."""
    decayed = {n for n, p in nepa.trainable().items() if not nepa.undecayed(n, p)}
    assert decayed == {n for n in nepa.trainable() if n.endswith("weight") and "norm" not in n}


def test_a_fixed_patch_embedding_is_neither_trained_nor_moved(config: Config) -> None:
    nepa = Nepa.of(config.updated({"objective.patch_embedding": "fixed"}))
    nepa.initialise(0)
    assert not any("patches" in name for name in nepa.trainable())
    assert "student.cls" in nepa.trainable()
    nepa(Inputs(signal().float()), None).loss.backward()
    assert nepa.student.patches.weight.grad is None
    assert nepa.student.blocks[0].norm1.weight.grad is not None  # type: ignore[union-attr]


def test_patch_errors_are_one_minus_cosine_and_nan_where_invalid(nepa: Nepa) -> None:
    x = signal()
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[0, :, 100:] = False
    errors = nepa.patch_errors(Inputs(x, valid))
    assert errors.shape == (3, 10)
    assert errors[0, 5:].isnan().all() and not errors[1:].isnan().any()
    loss = nepa(Inputs(x), None).loss.detach()
    assert float(nepa.patch_errors(Inputs(x)).mean()) == pytest.approx(1 + float(loss))


def test_loss_stays_in_float32_under_bf16(config: Config) -> None:
    nepa = Nepa.of(config)
    nepa.initialise(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nepa(Inputs(signal().float()), None).loss.dtype == torch.float32


def test_cosine_does_not_shrink_small_vectors() -> None:
    """NEPA defect 17: an eps of 1e-8 was called identical to the original's 1e-12."""
    small = torch.full((1, 4), 1e-9, dtype=torch.float64)
    assert float(cosine(small, small)) == pytest.approx(1.0)


def test_a_training_step_never_waits_for_the_device(
    nepa: Nepa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NEPA defect 19: .item() and isnan().any() in every forward stall the GPU."""

    def refuse(*_: object) -> None:
        raise AssertionError("a host sync inside the step")

    x = signal()
    valid = torch.ones_like(x, dtype=torch.bool)
    on_device = torch.ones(3, 2, dtype=torch.bool, device="meta")  # its truth cannot be looked up
    encoder: Any = SimpleNamespace(valid=lambda flags: on_device)
    assert averaged.measured_patches(encoder, Inputs(x, valid)) is on_device
    # On a CPU alone it is looked up whether all patches are valid, where that waits for nothing.
    monkeypatch.setattr(
        averaged, "measured_patches", lambda encoder, inputs: encoder.valid(inputs.valid)
    )
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    nepa(Inputs(x, valid), Draw(0, 0, torch.arange(3))).loss.backward()
