"""I-JEPA's reference trajectory, the faults it would show, and the public key layouts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentcast.artifacts.public import read_public
from latentcast.artifacts.public_ijepa import (
    encoder_from_public,
    encoder_to_public,
    from_transformers,
    load_public,
    predictor_from_public,
    predictor_to_public,
    to_transformers,
)
from latentcast.engine.ema import Ema
from latentcast.engine.schedules import Cosine, EmaSchedule, WarmupCosine
from latentcast.errors import LatentcastError
from latentcast.nn.predictor import Predictor
from latentcast.objectives.jepa import Jepa
from latentcast.verification.parity import ijepa as parity_ijepa
from latentcast.verification.parity.agreement import under
from latentcast.verification.parity.compare import compare

TRAJECTORY = Path(__file__).parent / "ijepa_trajectory.safetensors"
GRID = (8, 8)


def differing() -> set[str]:
    return {a.quantity for a in compare(TRAJECTORY) if not a.holds}


def weights(part: str) -> dict[str, Tensor]:
    return under(load_file(TRAJECTORY), f"weights.{part}.")


def test_the_references_steps_are_reproduced() -> None:
    agreements = compare(TRAJECTORY)
    assert len(agreements) > 80
    assert [a for a in agreements if not a.holds] == []
    for part in ("encoder", "predictor", "target_encoder"):
        assert any(a.quantity.startswith(f"final {part}.") for a in agreements)


# Faults that the trajectory has to show


class _BeforeTheStep(Ema):
    """Averages the weights that the optimizer step started from."""

    def __init__(self, pairs: Any) -> None:
        super().__init__(pairs)
        self._before = [p.clone() for p in self._students]

    def update(self, momentum: float, refused: Tensor | None = None) -> None:
        stale, self._before = self._before, [p.clone() for p in self._students]
        torch._foreach_lerp_(self._teachers, stale, 1.0 - momentum)


def test_an_average_taken_before_the_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The critical defect of the public H-JEPA."""
    monkeypatch.setattr(parity_ijepa, "Ema", _BeforeTheStep)
    names = differing()
    assert any(name.startswith("final target_encoder.") for name in names)


@pytest.mark.parametrize(
    ("schedule", "quantity"),
    [
        (WarmupCosine, "learning rate of each step"),
        (Cosine, "weight decay of each step"),
        (EmaSchedule, "momentum of each step"),
    ],
)
@pytest.mark.parametrize("offset", [-1, 1])
def test_a_schedule_one_step_off_is_seen(
    monkeypatch: pytest.MonkeyPatch, schedule: Any, quantity: str, offset: int
) -> None:
    value = schedule.__call__
    monkeypatch.setattr(schedule, "__call__", lambda self, n: value(self, max(0, n + offset)))
    names = differing()
    assert quantity in names and any(name.startswith("final ") for name in names)


def test_blocks_predicted_in_one_row_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """jepa.md D15: there the queries of all blocks attend to each other."""
    of_blocks = Predictor.forward

    def merged(self: Predictor, context: Tensor, places: Tensor, targets: Tensor, *rest: Any,
               **more: Any) -> Tensor:  # fmt: skip
        blocks, batch, cells = targets.shape
        row = targets.transpose(0, 1).reshape(1, batch, blocks * cells)
        together = of_blocks(self, context, places, row, *rest, **more)
        return together.view(batch, blocks, cells, -1).transpose(0, 1)

    monkeypatch.setattr(Predictor, "forward", merged)
    assert {"first predictions", "loss of each step"} <= differing()


def test_targets_without_their_norm_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    normed = Jepa.targets

    def raw(self: Jepa, values: Tensor, valid: Tensor | None) -> Any:
        _, teacher_tokens = normed(self, values, valid)
        return [level.values for level in teacher_tokens], teacher_tokens

    monkeypatch.setattr(Jepa, "targets", raw)
    assert {"first targets", "loss of each step"} <= differing()


def test_the_papers_square_instead_of_the_codes_smooth_l1_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    square = nn.functional.mse_loss
    monkeypatch.setattr(nn.functional, "smooth_l1_loss", square)
    names = differing()
    assert "loss of each step" in names and "first predictions" not in names


def test_an_undecayed_mask_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Jepa.undecayed

    def spared(self: Jepa, name: str, parameter: nn.Parameter) -> bool:
        return name.endswith("mask_token") or usual(self, name, parameter)

    monkeypatch.setattr(Jepa, "undecayed", spared)
    assert "final predictor.mask_token" in differing()


def test_a_context_without_positions_in_the_predictor_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed = Predictor.forward

    def unplaced(self: Predictor, context: Tensor, places: Tensor, *rest: Any, **more: Any) -> Any:
        return placed(self, context, torch.zeros_like(places), *rest, **more)

    monkeypatch.setattr(Predictor, "forward", unplaced)
    assert "first predictions" in differing()


# Key layouts


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    ("part", "read", "write"),
    [
        ("encoder", encoder_from_public, encoder_to_public),
        ("target_encoder", encoder_from_public, encoder_to_public),
        ("predictor", predictor_from_public, predictor_to_public),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_originals_keys_survive_the_round_trip(
    part: str, read: Callable[..., Any], write: Callable[..., Any], prefix: str
) -> None:
    original = weights(part)
    back = write(read({prefix + name: tensor for name, tensor in original.items()}), GRID)
    positions = [name for name in original if name.endswith("pos_embed")]
    assert len(positions) == 1
    torch.testing.assert_close(back.pop(positions[0]), original.pop(positions[0]))
    assert same(back, original)


def test_transformers_keys_survive_the_round_trip() -> None:
    original = weights("encoder")
    theirs = to_transformers(original)
    assert "encoder.layer.0.attention.attention.query.weight" in theirs
    assert theirs["embeddings.position_embeddings"].shape == (1, 64, 48)
    assert len(theirs) == len(original) + 4 * 2  # q, k, v of two blocks: two more of each kind
    assert same(from_transformers(theirs), original)
    assert same(from_transformers({f"ijepa.{n}": t for n, t in theirs.items()}), original)


def test_both_layouts_load_to_the_same_encoder(tmp_path: Path) -> None:
    original = {name: tensor.contiguous() for name, tensor in weights("encoder").items()}
    theirs = {name: tensor.contiguous() for name, tensor in to_transformers(original).items()}
    save_file(original, tmp_path / "original.safetensors")
    save_file(theirs, tmp_path / "theirs.safetensors")
    images = load_file(TRAJECTORY)["batch.0.images"]
    expected = load_file(TRAJECTORY)["output.encoder_full"]
    for name in ("original", "theirs"):
        loaded = load_public(tmp_path / f"{name}.safetensors", heads=4)
        out = loaded.transform(loaded.embed(images), (48, 48))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)


def test_an_original_file_is_unpickled_or_read_with_other_heads(tmp_path: Path) -> None:
    file, tensors = tmp_path / "jepa-latest.pth.tar", weights("encoder")
    parts = {"target_encoder": {f"module.{n}": t for n, t in tensors.items()}, "epoch": 300}
    torch.save(parts, file)
    images = load_file(TRAJECTORY)["batch.0.images"]
    loaded = load_public(file, heads=4)
    out = loaded.transform(loaded.embed(images), (48, 48))
    expected = load_file(TRAJECTORY)["output.encoder_full"]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)
    full = read_public(file, heads=4)
    assert full.config.input.size == (48, 48)
    assert same({n.removeprefix("finest."): t for n, t in full.tensors.items()},
                loaded.state_dict())  # fmt: skip
    with pytest.raises(LatentcastError, match="its parts are: target_encoder, epoch"):
        load_public(file, heads=4, part="encoder")
    with pytest.raises(LatentcastError, match="give heads=N"):
        load_public(file)
    torch.save({"target_encoder": Path("code")}, file)
    with pytest.raises(LatentcastError, match="without running code of it"):
        load_public(file, heads=4)
    base = {"patch_embed.proj.weight": (768, 3, 16, 16), "blocks.0.mlp.fc1.weight": (1, 768)}
    zeros = {name: torch.zeros(shape) for name, shape in base.items()}
    save_file(zeros, tmp_path / "b.safetensors")
    with pytest.raises(LatentcastError, match="heads 16 of width 768.*give heads=12"):
        load_public(tmp_path / "b.safetensors", heads=16)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.flip(1),
        lambda table: table[:, :-1],
        lambda table: table[:, :-4],  # 60 is no square
        lambda table: table.roll(table.shape[2] // 2, 2),  # row before column
        lambda table: table + 0.01,
    ],
)
@pytest.mark.parametrize(
    ("part", "read"), [("encoder", encoder_from_public), ("predictor", predictor_from_public)]
)
def test_other_positions_are_refused(
    part: str, read: Callable[..., Any], spoil: Callable[[Tensor], Tensor]
) -> None:
    tensors = weights(part)
    name = next(n for n in tensors if n.endswith("pos_embed"))
    tensors[name] = spoil(tensors[name])
    with pytest.raises(LatentcastError, match="pos_embed: is not I-JEPA's fixed"):
        read(tensors)


def test_foreign_and_missing_weights_are_refused(tmp_path: Path) -> None:
    tensors = weights("encoder")
    with pytest.raises(LatentcastError, match="cls_token: is not an I-JEPA weight"):
        encoder_from_public({**tensors, "cls_token": torch.zeros(1)})
    with pytest.raises(LatentcastError, match="predictor_.*: is not an I-JEPA weight"):
        encoder_from_public(weights("predictor"))
    with pytest.raises(LatentcastError, match="is not an I-JEPA weight"):
        from_transformers({"encoder.layer.0.crossattention.key.weight": torch.zeros(1)})
    del tensors["norm.bias"]
    save_file(tensors, tmp_path / "e.safetensors")
    with pytest.raises(LatentcastError, match="is an incomplete I-JEPA encoder"):
        load_public(tmp_path / "e.safetensors", heads=4)
    save_file({"mask_token": torch.zeros(1, 1, 4)}, tmp_path / "e.safetensors")
    with pytest.raises(LatentcastError, match="is no I-JEPA encoder"):
        load_public(tmp_path / "e.safetensors", heads=4)
    with pytest.raises(LatentcastError, match=r"nowhere\.safetensors: cannot be read"):
        load_public(tmp_path / "nowhere.safetensors", heads=4)


def test_a_file_with_half_an_attention_names_what_is_missing() -> None:
    theirs = to_transformers(weights("encoder"))
    del theirs["encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(LatentcastError, match=r"layer\.0\.attention\.attention\.key\.weight"):
        from_transformers(theirs)


def test_every_fixed_part_of_the_file_is_used() -> None:
    """No tensor of the trajectory is left uncompared."""
    tensors = load_file(TRAJECTORY)
    compared = {a.quantity for a in compare(TRAJECTORY)}
    finals = [n for n in tensors if n.startswith("final.") and not n.endswith("pos_embed")]
    assert {"final " + n.removeprefix("final.") for n in finals} <= compared
    steps = {n.split(".")[1] for n in tensors if n.startswith("batch.")}
    assert steps == set(map(str, range(10)))
    kinds = itertools.groupby(sorted(n.split(".")[0] for n in tensors))
    assert {kind for kind, _ in kinds} == {"batch", "final", "output", "weights"}
