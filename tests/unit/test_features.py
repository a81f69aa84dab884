"""Pooling and extraction: valid tokens only, every window, and the encoder left alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from evaluation_stores import ImagePatches, Images, PatchSource, write_store

from latentcast.errors import LatentcastError
from latentcast.evaluation.baselines import RandomConvolutions
from latentcast.evaluation.features import extract, pooling_of, readable
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import POOLINGS, Pooling, check_pooling, pool
from latentcast.signals.recording import INVALID


def records(*lengths: int) -> list[npt.NDArray[np.int16]]:
    rng = np.random.default_rng(0)
    return [rng.integers(-900, 900, (length, 2)).astype(np.int16) for length in lengths]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_reads_valid_tokens_only_even_beside_nan(pooling: Pooling) -> None:
    tokens = torch.randn(3, 7, 5)
    valid = torch.rand(3, 7) < 0.6
    valid[:, 2] = True
    dirty = torch.where(valid[..., None], tokens, torch.nan)
    for row in range(3):
        signals = tokens[row][valid[row]]
        expected = {
            "mean": signals.mean(dim=0), "std": signals.std(dim=0, correction=0),
            "max": signals.max(dim=0).values, "last": signals[-1],
        }  # fmt: skip
        parts = torch.cat([expected[name] for name in pooling.split("+")])
        torch.testing.assert_close(pool(dirty, valid, pooling)[row], parts)


def test_a_cls_feature_is_refused_with_the_reason() -> None:
    """NEPA defect 9: token 0 under a causal mask gave every ECG the same logits."""
    with pytest.raises(LatentcastError, match=r"token 0 sees only itself.*use mean"):
        check_pooling("cls", causal=True)
    with pytest.raises(LatentcastError, match="cls"):
        check_pooling("cls", causal=False)
    with pytest.raises(LatentcastError, match=r"did you mean 'mean'"):
        check_pooling("meen", causal=True)


def test_extraction_refuses_the_cls_of_a_causal_encoder(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", records(40), folds=[1])
    with pytest.raises(LatentcastError, match="sees only itself"):
        extract(PatchSource(), store, store.rows("train"), pooling=cast(Pooling, "cls"))


def test_features_are_those_of_each_row_in_the_order_asked_for(tmp_path: Path) -> None:
    signals = records(*[40] * 150)  # more than two batches
    store = write_store(tmp_path / "s", signals, folds=[1] * 150)
    rows = np.array([140, 3, 77, 3])
    features = extract(PatchSource(), store, rows, pooling="mean")
    assert list(features) == ["embedding", "block 1", "joined"]
    both = np.concatenate([features["embedding"], features["block 1"]], axis=1)
    np.testing.assert_array_equal(features["joined"], both)
    assert features["block 1"].dtype == np.float32
    assert features["block 1"].shape == (4, 6)
    for i, row in enumerate(rows):
        patches = signals[row].astype(np.float32).reshape(4, 20) * 0.001
        np.testing.assert_allclose(features["embedding"][i], patches.mean(axis=0), rtol=1e-4)
    every = extract(PatchSource(), store, np.arange(150), pooling="mean")
    np.testing.assert_allclose(every["block 1"][rows], features["block 1"], rtol=1e-5)


def test_longer_records_are_read_to_their_end_and_averaged(tmp_path: Path) -> None:
    signals = records(95)
    store = write_store(tmp_path / "s", signals, folds=[1])
    rows = np.array([0])

    def window(start: int) -> npt.NDArray[np.float32]:
        part = signals[0][start : start + 40].astype(np.float32).reshape(4, 20) * 0.001
        return cast(npt.NDArray[np.float32], part.mean(axis=0))

    strided = extract(PatchSource(), store, rows, pooling="mean")["embedding"][0]
    expected = np.mean([window(start) for start in (0, 20, 40, 55)], axis=0)
    np.testing.assert_allclose(strided, expected, rtol=1e-4, atol=1e-6)
    centre = extract(PatchSource(), store, rows, pooling="mean", windows="centre")["embedding"][0]
    np.testing.assert_allclose(centre, window(27), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_of_a_shorter_record_changes_nothing(tmp_path: Path, pooling: Pooling) -> None:
    """NEPA defect 9: shorter inputs were pooled by the configured length, with CLS among them."""
    signals = records(20)
    store = write_store(tmp_path / "s", signals, folds=[1])
    padded = extract(PatchSource(length=40), store, np.array([0]), pooling=pooling)
    exact = extract(PatchSource(length=20), store, np.array([0]), pooling=pooling)
    for layer, features in exact.items():
        np.testing.assert_allclose(padded[layer], features, rtol=1e-5)


def test_a_record_without_a_valid_token_has_no_features_and_blocks_no_other(tmp_path: Path) -> None:
    first, second = records(40, 40)
    empty = np.full((40, 2), INVALID, dtype=np.int16)
    store = write_store(tmp_path / "s", [first, empty, second], folds=[1, 1, 1])
    found = extract(PatchSource(), store, np.array([0, 1, 2]))
    assert readable(found).tolist() == [True, False, True]
    without = extract(PatchSource(), store, np.array([0, 2]))
    for layer, features in found.items():
        assert np.isnan(features[1]).all()
        np.testing.assert_array_equal(features[[0, 2]], without[layer])


def test_a_source_that_pools_itself_is_read_as_it_is(tmp_path: Path) -> None:
    signals = records(40, 40)
    store = write_store(tmp_path / "s", signals, folds=[1, 1])
    source = RandomConvolutions.from_store(store, kernels=7)
    tokens = source.token_layers(np.stack(signals))[0][0][:, 0].numpy()
    for pooling in POOLINGS:  # mean+std would add a column of zeros to each
        np.testing.assert_array_equal(
            extract(source, store, np.array([0, 1]), pooling=pooling)["kernels"], tokens
        )
    assert pooling_of(source, "mean+std") == "max, share > 0"
    assert pooling_of(PatchSource(), "mean+std") == "mean+std"


def test_an_encoder_that_has_diverged_is_an_error_not_a_record_left_out(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", records(40), folds=[1])
    source = PatchSource("run 7")
    source.weight[0, 0] = torch.nan
    with pytest.raises(LatentcastError, match=r"run 7, layer block 1: .* not finite"):
        extract(source, store, np.array([0]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PatchSource(sampling_rate=500.0), "sampling_rate is 100.*reads 500.*--fs 500"),
        (PatchSource(leads=("II", "I")), "leads are I II.*reads II I; name a store of these"),
    ],
)
def test_another_rate_or_lead_order_is_refused(
    tmp_path: Path, source: PatchSource, message: str
) -> None:
    store = write_store(tmp_path / "s", records(40), folds=[1])
    with pytest.raises(LatentcastError, match=message):
        extract(source, store, np.array([0]))


class ModuleSource(torch.nn.Module):
    """A source that is a torch module with dropout and a frozen submodule left in eval mode."""

    name, layer_names, causal = "module", ("dropout",), True
    leads, sampling_rate, scale, length = ("I", "II"), 100.0, 0.001, 40

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(20, 8)
        self.dropout = torch.nn.Dropout(0.5)
        self.frozen = torch.nn.BatchNorm1d(8).eval()

    def token_layers(
        self, samples: npt.NDArray[np.int16]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        patches = torch.from_numpy(samples).float().reshape(len(samples), 4, 20)
        tokens = self.dropout(self.linear(patches))
        return [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool)


def test_the_encoder_is_left_exactly_as_it_was(tmp_path: Path) -> None:
    """NEPA defect 21: evaluation ran in another mode than the one that was trained in."""
    store = write_store(tmp_path / "s", records(40, 40), folds=[1, 1])
    source = ModuleSource()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    first = extract(source, store, np.array([0, 1]))["dropout"]
    second = extract(source, store, np.array([0, 1]))["dropout"]
    np.testing.assert_array_equal(first, second)  # no dropout while reading
    modes = {name: module.training for name, module in source.named_modules()}
    assert modes == {"": True, "linear": True, "dropout": True, "frozen": False}
    assert all(parameter.grad is None for parameter in source.parameters())
    for name, value in source.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_features_are_those_of_each_image_without_dropout_in_the_order_asked_for() -> None:
    store, model = Images(n=300), ImagePatches("a")
    rows = np.array([250, 3, 77, 3, *range(200)])  # several batches
    layers = extract(model, store, rows, pooling="mean")
    assert tuple(layers) == (*model.layer_names, "joined") and model.training
    model.eval()
    for i, row in enumerate(rows[:20]):
        tokens, _ = model.token_layers(store.take(np.array([row])))
        expected = tokens[2][0].mean(dim=0).detach().numpy()
        np.testing.assert_allclose(layers["norm"][i], expected, atol=1e-6)
    model.layer_names = ("norm",)
    with pytest.raises(LatentcastError, match="names 1 layers and returns 3"):
        extract(model, store, rows)


def test_a_source_that_does_not_say_which_recordings_it_reads_reads_none(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", records(40), folds=[1])
    with pytest.raises(LatentcastError, match="give it leads, sampling_rate, scale and length"):
        extract(ImagePatches("a"), store, np.array([0]))


def test_modes_come_back_after_an_error() -> None:
    source = ModuleSource()
    with pytest.raises(RuntimeError), evaluating(source):
        assert not source.training
        raise RuntimeError
    assert source.training and not source.frozen.training
