"""The attentive head: its equation, the tokens it reads, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_stores import ImagePatches, Images, PatchSource, write_store

from latentcast.errors import LatentcastError
from latentcast.evaluation import tokens
from latentcast.evaluation.heads import HEADS
from latentcast.evaluation.heads.attentive import Attentive
from latentcast.evaluation.protocol import probe
from latentcast.evaluation.tasks.classes import Classes
from latentcast.evaluation.tokens import TokenFeatures, TokenLayers
from latentcast.nn.heads import AttentiveHead
from latentcast.nn.initialise import initialise
from latentcast.signals.recording import INVALID


def test_the_forward_pass_is_that_of_keys_values_and_one_query() -> None:
    network, rng = AttentiveHead(128, 3), np.random.default_rng(0)
    initialise(network, 0, "head")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.from_numpy(rng.normal(size=parameter.shape)) * 0.3)
    x, valid = rng.normal(size=(4, 9, 128)), rng.random((4, 9)) < 0.7
    valid[:, 0] = True
    w = {name: p.detach().double().numpy() for name, p in network.named_parameters()}
    expected = []
    for tokens_, kept in zip(x, valid, strict=True):
        z = tokens_[kept]
        z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + network.norm.eps)
        z = z * w["norm.weight"] + w["norm.bias"]
        both = z @ w["keys_values.weight"].T + w["keys_values.bias"]
        parts = []
        for head in range(2):
            part = slice(64 * head, 64 * head + 64)
            share = np.exp(both[:, :128][:, part] @ w["query"][part] / 8)
            parts.append(share / share.sum() @ both[:, 128:][:, part])
        expected.append(np.concatenate(parts) @ w["linear.weight"].T + w["linear.bias"])
    found = network.double()(torch.from_numpy(x), torch.from_numpy(valid))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)


def needle(kind: str, n: int = 240) -> tuple[TokenFeatures, Any]:
    """One token of twelve says what the record is, the others are noise of the other sign."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 12, 8)).astype(np.float32)
    place = rng.integers(0, 12, n)
    x[np.arange(n), place, 0] = 6
    x[np.arange(n), place, 1] = np.where(y == 1, 3, -3)
    valid = np.ones((n, 12), np.bool_)
    features = TokenFeatures(x, valid, np.arange(n + 1), np.arange(n))
    targets = {"multi-label": y[:, None] == [0, 1], "multi-class": y, "regression": 50.0 + 9 * y}
    return features, targets[kind]


@pytest.mark.parametrize("kind", ["multi-label", "multi-class", "regression"])
def test_a_token_among_many_is_found_and_the_same_seed_gives_the_same_head(kind: Any) -> None:
    x, y = needle(kind)
    train, validation = np.arange(160), np.arange(160, 240)
    heads = [
        HEADS["attentive"][kind](x[train], y[train], x[validation], y[validation]) for _ in range(2)
    ]
    assert heads[0].validation > 0.9 and heads[0].validation == heads[1].validation
    np.testing.assert_array_equal(*(head.predict(x[validation]) for head in heads))
    head = heads[0]
    assert isinstance(head, Attentive)
    if kind == "multi-class":
        shares = head.class_shares(x[validation], 3)
        assert shares.shape == (80, 3) and np.allclose(shares.sum(axis=1), 1)
        np.testing.assert_array_equal(shares.argmax(axis=1), head.predict(x[validation]))


def test_tokens_are_those_of_all_crops_of_a_record_whatever_fits_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(n, 2)).astype(np.int16) * 100 for n in (40, 100, 20, 40)]
    signals[3][20:30] = INVALID
    store = write_store(tmp_path / "s", signals, folds=[1] * 4)
    source, rows = PatchSource(), np.array([3, 1, 2])
    layers = TokenLayers(source, store, rows)
    values, valid = layers["block 1"][np.array([1, 0])].batch(np.array([0, 1]))
    # A record of 100 samples is read through windows of 40 from 0, 20, 40 and 60.
    assert values.shape == (2, 16, 6) and valid.sum(dim=1).tolist() == [16, 3]
    for crop, start in enumerate((0, 20, 40, 60)):
        (_, own), _ = source.token_layers(signals[1][None, start : start + 40])
        torch.testing.assert_close(values[0, 4 * crop : 4 * crop + 4], own[0])
    monkeypatch.setattr(tokens, "BUDGET", 1)
    singly = TokenLayers(source, store, rows)
    for name in source.layer_names:
        assert isinstance(singly[name].values, np.memmap) and list(singly._in_memory) == [name]
        np.testing.assert_array_equal(singly[name].values, layers[name].values)


def test_a_layer_on_a_finer_grid_than_the_patches_has_the_validity_of_its_patch(
    tmp_path: Path,
) -> None:
    class Finer(PatchSource):
        def token_layers(self, samples: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
            (patches, block), valid = super().token_layers(samples)
            return [patches.reshape(len(patches), -1, patches.shape[2] // 2), block], valid

    record = np.arange(80, dtype=np.int16).reshape(40, 2) + 1
    record[10:20] = INVALID
    store = write_store(tmp_path / "s", [record], folds=[1])
    layers = TokenLayers(Finer(), store, np.array([0]))
    values, valid = layers["embedding"].batch(np.array([0]))
    assert valid.tolist() == [[True] * 2 + [False] * 2 + [True] * 4]
    assert torch.equal(values.any(dim=2), valid)
    assert layers["block 1"].valid.tolist() == [[True, False, True, True]]


def test_an_attentive_probe_leaves_the_encoder_to_the_bit_and_joins_no_layers() -> None:
    source = ImagePatches("a")
    before = {name: value.clone() for name, value in source.state_dict().items()}
    report = probe([source], Images(), Classes("classes"), heads=["attentive"], resamples=9)
    assert report.rows[0].pooling == "attention" and report.rows[0].layer in source.layer_names
    assert np.isfinite(report.rows[0].score.main.value) and source.training
    for name, value in source.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in source.parameters())
    with pytest.raises(LatentcastError, match="attentive reads the tokens of one layer"):
        probe([source], Images(), Classes("classes"), heads=["attentive"], layer="joined")
