"""From images to scores: a run, its encoder, its scores, and what is refused on the way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from latentcast import Encoder
from latentcast.config import Config, resolve
from latentcast.data.fit import fitted
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.monitors.journal import TIMINGS, read_metrics
from latentcast.recipes import recipe
from latentcast.report.token_maps import token_maps
from latentcast.workflows.probe import probe
from latentcast.workflows.train import train


@pytest.fixture(scope="module")
def config() -> Config:
    return recipe("hjepa-image-digits").updated(
        {
            "encoder.width": 16,
            "encoder.depth": 1,
            "objective.coarser.0.width": 16,
            "objective.coarser.0.depth": 1,
            "input.flip": True,
            "input.crop_scale": (0.5, 1.0),
            "train.steps": 8,
            "train.batch_size": 16,
            "train.checkpoint_every": 4,
            "train.log_every": 1,
            "optimizer.warmup_steps": 2,
        }
    )


@pytest.fixture(scope="module")
def run(config: Config, digits_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(config, digits_store, folder)
    return folder


def test_the_statistics_of_the_training_split_travel_with_the_weights(
    config: Config, digits_store: Path, run: Path
) -> None:
    store = Store.open(digits_store)
    normalisation = Encoder.from_pretrained(run).config.input.normalisation
    train = store.take(store.rows("train")) / 255
    assert normalisation is not None
    assert normalisation.mean == pytest.approx((float(train.mean()),), rel=1e-5)
    assert normalisation.std == pytest.approx((float(train.std()),), rel=1e-4)
    assert fitted(config, store).input.normalisation == normalisation


def test_an_encoder_of_images_reads_what_the_probe_reads(run: Path, digits_store: Path) -> None:
    encoder, store = Encoder.from_pretrained(run), Store.open(digits_store)
    images = store.take(np.arange(70))  # more than one batch
    assert encoder.layer_names == ("embedding", "block 1", "norm", "level 1", "fused")
    layers, valid = encoder.token_layers(images)
    assert valid.all() and {layer.shape for layer in layers} == {(70, 64, 16)}
    for name, layer in zip(encoder.layer_names, layers, strict=True):
        # A batch of another size may be summed in another order.
        assert np.allclose(encoder.embed(images, name), layer.mean(1).numpy(), atol=1e-5)
    coarse = layers[3].view(70, 8, 8, 16)
    assert torch.equal(coarse[:, ::2, ::2], coarse[:, 1::2, 1::2])  # every patch its cell's vector
    errors = encoder.patch_errors(images)
    assert errors.shape == (70, 64) and np.isfinite(errors).all() and (errors >= -1e-6).all()


def test_images_of_another_size_are_resized_and_of_other_channels_refused(run: Path) -> None:
    encoder = Encoder.from_pretrained(run)
    flat = np.full((2, 24, 16, 1), 77, np.uint8)
    assert np.allclose(encoder.embed(flat), encoder.embed(flat[:, :8, :8]), atol=1e-5)
    with pytest.raises(LatentcastError, match="have 3 channels, the encoder reads 1"):
        encoder.embed(np.zeros((2, 8, 8, 3), np.uint8))
    smaller = "2 of 2 images are smaller than 8 × 8 .* were enlarged"
    with pytest.warns(UserWarning, match=smaller) as warned:
        encoder.embed(flat[:, :4])
    assert warned[0].filename == __file__  # the caller's line, not one of ours


@pytest.mark.parametrize("shape", [(4, 4), (16, 8), (30, 20)])
def test_a_store_of_another_size_than_the_recipes_is_not_squashed(
    config: Config, shape: tuple[int, int], tmp_path: Path
) -> None:
    """Every way out that the refusal prints is taken as printed."""
    images = np.random.default_rng(0).integers(0, 256, (30, *shape), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    store = ingest(tmp_path / "a.npz", tmp_path / "store", quiet=True).store
    with pytest.raises(LatentcastError, match="the recipe sees 8 × 8; re-ingest with") as refusal:
        train(config, store.path, tmp_path / "run")
    assert ("enlarges" if min(shape) < 8 else "resizes") in str(refusal.value)
    ingest(tmp_path / "a.npz", tmp_path / "fit", quiet=True, size=8)
    assert fitted(config, Store.open(tmp_path / "fit")).input.canvas is None
    setting = r"input\.\w+=(?:\[\d+,\d+\]|\d+)"
    printed = re.findall(f"--set ({setting}(?: {setting})*)", str(refusal.value))
    assert printed
    for settings in printed:
        assert fitted(resolve(config, flags=settings.split()), store)


def test_the_images_of_a_token_map_are_not_all_of_the_first_class(
    run: Path, digits_store: Path
) -> None:
    pytest.importorskip("matplotlib")
    store = Store.open(digits_store)
    rows = store.rows("test")
    (picture,) = token_maps(Encoder.from_pretrained(run), store, rows)
    shown = [axes.get_images()[0].get_array() for axes in picture.figure.axes[:4]]
    for image, place in zip(shown, np.arange(4) * len(rows) // 4, strict=True):
        np.testing.assert_array_equal(image, store.take(rows[place : place + 1])[0, ..., 0])
    titles = [axes.get_title(loc="left") for axes in picture.figure.axes[4::4]]
    assert titles[0] == "Tokens by principal components" and "up to" in titles[1]


def test_the_probe_of_images_scores_next_to_its_floors_and_changes_nothing(
    run: Path, digits_store: Path
) -> None:
    report = probe(run, command="by hand")  # on the run's own store
    assert report.task == "classes" and report.data["store"] == str(digits_store.resolve())
    assert {row.name for row in report.rows} == {"pretrained", "random-initialised", "pixels"}
    assert {row.head for row in report.rows} == {"kNN", "linear"}
    assert report.provenance["weights"] == "hjepa-image-digits, teacher, step 8"
    for row in report.rows:
        assert row.score.others.keys() == {"balanced accuracy", "macro F1", "macro AUROC"}
        assert row.score.main.low <= row.score.main.value <= row.score.main.high
    again = probe(str(run), str(digits_store), layer="fused")
    assert {row.layer for row in again.rows if row.name == "pretrained"} == {"fused"}


def test_an_interrupted_run_of_images_ends_with_the_same_bits(
    config: Config, run: Path, digits_store: Path, tmp_path: Path
) -> None:
    from latentcast.engine import loop

    saves = loop.checkpoint.save
    with pytest.MonkeyPatch.context() as patch:

        def dies(folder: Path, state: loop.State, *rest: object) -> None:
            saves(folder, state, *rest)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        patch.setattr(loop.checkpoint, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            train(config, digits_store, tmp_path / "cut")
    train(config, digits_store, tmp_path / "cut")
    one, other = (
        Encoder.from_pretrained(folder).objective.state_dict() for folder in (run, tmp_path / "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(folder)]
        for folder in (run, tmp_path / "cut")
    ]
    assert logs[0] == logs[1]


def test_recordings_and_images_do_not_mix(
    run: Path, digits_store: Path, small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(LatentcastError, match="recipe for recordings .* with -image- in"):
        train(small_config, digits_store, tmp_path / "a")
    with pytest.raises(LatentcastError, match="image recipe .* with -ecg- in"):
        train(recipe("ijepa-image-digits"), small_store, tmp_path / "b")
    with pytest.raises(LatentcastError, match="holds recordings.*was trained on image data"):
        probe(run, small_store)
    with pytest.raises(LatentcastError, match="trained on images, which have no leads"):
        _ = Encoder.from_pretrained(run).leads
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_colours_the_recipe_does_not_expect_are_refused_with_the_mend(
    digits_store: Path, tmp_path: Path
) -> None:
    with pytest.raises(LatentcastError, match=r"channels is 1 and .* 8 × 8 .*canvas=\[8,8\]$"):
        train(recipe("ijepa-image-tiny"), digits_store, tmp_path / "run")


def test_a_store_without_labels_is_trained_on_but_not_probed(
    config: Config, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "plain.npz", images=images)
    ingest(tmp_path / "plain.npz", tmp_path / "store", quiet=True)
    short = config.updated({"train.steps": 1, "optimizer.warmup_steps": 1})
    train(short, tmp_path / "store", tmp_path / "run")
    with pytest.raises(LatentcastError, match="no labels"):
        probe(tmp_path / "run", tmp_path / "store")
