"""Advice for a data size and a number of epochs, and an EMA whose horizon outlives its batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentcast import config as configuration
from latentcast.config import EmaConfig
from latentcast.config.advice import LEAST_BATCH, LEAST_STEPS, advise, advised
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.recipes import RECIPES, recipe

IMAGENET = 1_281_167

names = st.sampled_from(sorted(RECIPES))
data_sizes = st.integers(LEAST_BATCH, 3_000_000)
epochs = st.floats(0.5, 2000)
batches = st.sampled_from([1, 8, 16, 100, 256, 1000, 4096])


def left_of_the_first_weights(config: configuration.Config, samples: float) -> float:
    """The share of an average that a weight keeps over some samples, step by step in logarithms."""
    return math.exp(math.log(Schedules.of(config).momentum(0)) * samples / config.train.batch_size)


@given(
    half_life=st.floats(1e3, 1e8),
    share=st.floats(1e-3, 10),
    one=st.integers(1, 8192),
    other=st.integers(1, 8192),
)
def test_horizon_in_samples_survives_another_batch_size(
    half_life: float, share: float, one: int, other: int
) -> None:
    """A momentum that is kept for another batch size averages over another stretch of data."""
    base = recipe("nepa-ecg-tiny").updated(
        {"ema.base": None, "ema.final": None, "ema.half_life": half_life}
    )
    kept = [
        left_of_the_first_weights(base.updated({"train.batch_size": size}), share * half_life)
        for size in (one, other)
    ]
    assert kept == pytest.approx([0.5**share] * 2, rel=1e-6)


def test_momentum_by_half_life_moves_to_its_end_as_another_does() -> None:
    """I-JEPA's first 0.996 as a horizon: the schedule is the published one over the whole run."""
    published = recipe("ijepa-image-huge")
    own = published.ema
    assert own is not None
    ours = published.updated({"ema.base": None, "ema.half_life": own.horizon(2048)})
    steps = range(0, published.train.steps + 1, 7001)
    expected = [Schedules.of(published).momentum(n) for n in steps]
    assert [Schedules.of(ours).momentum(n) for n in steps] == pytest.approx(expected, abs=1e-12)
    assert Schedules.of(ours).momentum(published.train.steps) == 1.0
    # And an average without an end of its own stays where it is.
    constant = EmaConfig(half_life=1e6).momenta(256)
    assert constant[0] == constant[1] < 1


@pytest.mark.parametrize(
    ("base", "batch", "samples"),
    [(0.9999, 4096, 28.4e6), (0.9999, 256, 1.77e6), (0.996, 2048, 354e3), (0.998, 2048, 709e3)],
)
def test_published_horizons_are_those_of_the_table(base: float, batch: int, samples: float) -> None:
    assert EmaConfig(base=base).horizon(batch) == pytest.approx(samples, rel=3e-3)
    assert base ** (samples / batch) == pytest.approx(0.5, rel=3e-3)


@given(name=names, samples=data_sizes, times=epochs, batch=st.none() | batches)
def test_advice_is_a_valid_run_that_covers_its_epochs(
    name: str, samples: int, times: float, batch: int | None
) -> None:
    if batch is not None and batch > samples:
        batch = LEAST_BATCH
    before = recipe(name)
    advice = advise(before, samples, times, batch)
    after = before.updated(advice.changes)
    size, steps = after.train.batch_size, after.train.steps
    assert steps * size >= samples * times > (steps - 1) * size
    assert 1 <= size <= samples and (batch is None or size == batch)
    assert 0 <= after.optimizer.warmup_steps <= 0.2 * steps
    assert after.ema is not None and before.ema is not None
    horizon, own = after.ema.horizon(size), before.ema.horizon(before.train.batch_size)
    assert horizon == pytest.approx(min(own, 0.1 * steps * size))
    assert len(advice.reasons) >= 5 and all("\n" not in reason for reason in advice.reasons)


@given(name=names, batch=batches)
def test_the_whole_rate_follows_the_root_of_the_batch(name: str, batch: int) -> None:
    """A start or an end of the rate that stays would bend the schedule."""
    before = recipe(name)
    after = before.updated(advise(before, 100_000, 50, batch).changes)
    factor = math.sqrt(batch / before.train.batch_size)
    for rate in ("lr", "start_lr", "final_lr"):
        expected = getattr(before.optimizer, rate) * factor
        assert getattr(after.optimizer, rate) == pytest.approx(expected)
    if before.optimizer.muon is not None:
        assert after.optimizer.muon is not None
        assert after.optimizer.muon.lr == pytest.approx(before.optimizer.muon.lr * factor)
    kept = {"betas", "eps", "weight_decay", "final_weight_decay", "clip_grad_norm"}
    assert all(getattr(after.optimizer, k) == getattr(before.optimizer, k) for k in kept)


@given(name=names, samples=data_sizes, times=epochs)
def test_batch_shrinks_only_for_updates_and_never_grows(
    name: str, samples: int, times: float
) -> None:
    before = recipe(name)
    size = advise(before, samples, times).changes["train.batch_size"]
    assert size <= before.train.batch_size
    if size < before.train.batch_size:  # twice as much would have been too much
        least = min(LEAST_STEPS, before.train.steps)
        assert 2 * size > samples or samples * times < least * 2 * size
        assert size >= LEAST_BATCH


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_on_its_own_length_is_left_as_it_is(name: str) -> None:
    config = recipe(name)
    changed = config.updated(advise(config, config.train.batch_size, config.train.steps).changes)
    assert changed.train == config.train and changed.optimizer == config.optimizer
    assert changed.ema is not None and config.ema is not None
    size = config.train.batch_size
    assert changed.ema.momenta(size) == pytest.approx(config.ema.momenta(size), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "samples", "times", "steps", "warmup", "lr"),
    [
        # Published: whole batches only, so 625 steps an epoch and 40 epochs of warm-up.
        ("ijepa-image-huge", IMAGENET, 300, 187_500, 25_000, 1e-3),
        ("nepa-image-base", IMAGENET, 1600, 500_456, 12_511, 4.8e-3),
        ("nepa-ecg-small", 800_000, 32, 100_000, 10_000, 1e-3),
    ],
)
def test_published_settings_come_out_within_a_thousandth(
    name: str, samples: int, times: float, steps: int, warmup: int, lr: float
) -> None:
    changes = advise(recipe(name), samples, times).changes
    assert changes["train.steps"] == pytest.approx(steps, rel=1e-3)
    assert changes["optimizer.warmup_steps"] == pytest.approx(warmup, rel=1e-3)
    assert changes["optimizer.lr"] == pytest.approx(lr)


def test_a_batch_that_fits_keeps_the_pieces_that_fit() -> None:
    """128 at a time was the published piece; 16 pieces of a batch of 256 would be 16 each."""
    changes = advise(recipe("ijepa-image-huge"), IMAGENET, 300, 256).changes
    assert (changes["train.batch_size"], changes["train.micro_batches"]) == (256, 2)
    assert "train.micro_batches" not in advise(recipe("nepa-ecg-small"), 99_999, 9, 512).changes


def test_a_short_run_does_not_end_on_its_initial_weights() -> None:
    """0.9999 at batch 256 has a half-life of 1.77 million samples, more than many a run."""
    config = recipe("nepa-ecg-small")
    short = config.updated(advise(config, 2000, 100).changes)
    assert left_of_the_first_weights(config, 2000 * 100) > 0.9
    assert left_of_the_first_weights(short, 2000 * 100) < 1.1e-3


def test_few_steps_keep_the_warmup_that_adam_needs() -> None:
    changes = advise(recipe("ijepa-ecg-small"), 32_000, 100).changes
    assert changes["train.steps"] == 12_500 and changes["optimizer.warmup_steps"] == 2000
    shorter = advise(recipe("ijepa-ecg-small"), 5120, 100).changes
    assert shorter["train.steps"] == 2000 and shorter["optimizer.warmup_steps"] == 400


@pytest.mark.parametrize(
    ("samples", "times", "batch", "words"),
    [
        (1000, 0, None, "--auto 0: is no number of epochs"),
        (1000, -3.0, None, "--auto -3: is no number of epochs"),
        (1000, math.nan, None, "is no number of epochs"),
        (1000, math.inf, None, "is no number of epochs"),
        (100, 10, 128, "holds 100 samples, fewer than a batch of 128; use --batch-size 100"),
        (10, 10, None, "fewer than a batch of 16"),
        (0, 10, None, "a store with a training split"),
        (100, 10, 0, "--batch-size 0: is no batch"),
    ],
)
def test_nonsense_is_refused_with_the_mend(
    samples: int, times: float, batch: int | None, words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        advise(recipe("nepa-ecg-small"), samples, times, batch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ema.half_life": 1e6}, "ema: base 0.9999 and half_life 1e.06 both say"),
        ({"ema.base": None}, "ema: neither base nor half_life is given"),
        ({"ema.base": None, "ema.half_life": 0.0}, "ema.half_life: .* greater than 0"),
        ({"ema.base": None, "ema.half_life": math.inf}, "ema.half_life: .* finite"),
    ],
)
def test_two_horizons_or_none_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LatentcastError, match=words):
        recipe("nepa-ecg-small").updated(changes)


def test_flag_comes_before_file_before_advice_before_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer: {lr: 0.5, warmup_steps: 7}\ntrain: {seed: 3}\n")
    config, reasons = advised(
        recipe("nepa-ecg-small"), file, ["optimizer.lr=0.25"], 20_000, 100, batch_size=64
    )
    assert config.optimizer.lr == 0.25 and config.optimizer.warmup_steps == 7
    assert config.train.seed == 3 and config.train.batch_size == 64
    assert config.train.steps == math.ceil(20_000 * 100 / 64)
    # What was not used is not given as a reason.
    assert [reason.split()[0] for reason in reasons] == [
        "train.batch_size", "train.steps", "ema.half_life",
    ]  # fmt: skip


def test_a_batch_size_by_flag_is_what_the_rest_is_for() -> None:
    """Steps and lr for the recipe's batch beside a batch of 64 would be a quarter of the epochs."""
    flags = ["train.batch_size=64"]
    config, _ = advised(recipe("nepa-ecg-small"), None, flags, 20_000, 100)
    assert (config.train.batch_size, config.train.steps) == (64, 31_250)
    assert config.optimizer.lr == pytest.approx(0.5e-3)


def test_a_batch_size_beside_that_of_the_file_is_ignored(tmp_path: Path) -> None:
    file, nepa = tmp_path / "mine.yaml", recipe("nepa-ecg-small")
    file.write_text("train: {batch_size: 100}\n")
    config, reasons = advised(nepa, file, [], 20_000, 100, batch_size=64)
    assert (config.train.batch_size, config.train.steps) == (64, 31_250)
    assert reasons[0].startswith("train.batch_size 64")
    with pytest.raises(LatentcastError, match="--batch-size 0: is no batch"):
        advised(nepa, file, [], 20_000, 100, batch_size=0)
    with pytest.raises(LatentcastError, match="--batch-size 64: .* leave one of the two out"):
        advised(nepa, None, ["train.batch_size=100"], 20_000, 100, batch_size=64)


@pytest.mark.parametrize("flag", ["ema.base=0.99", "ema=null"])
def test_an_ema_by_flag_is_not_argued_with(flag: str) -> None:
    config, reasons = advised(recipe("nepa-ecg-small"), None, [flag], 20_000, 100)
    assert config.ema is None or (config.ema.base, config.ema.half_life) == (0.99, None)
    assert not any("ema" in reason for reason in reasons)


def test_what_was_resolved_needs_no_advice_to_be_repeated(tmp_path: Path) -> None:
    config, _ = advised(recipe("ijepa-image-huge"), None, [], 123_457, 33.3, batch_size=100)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert configuration.load(tmp_path / "config.yaml") == config
