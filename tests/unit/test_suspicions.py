"""Noise, electrodes that are off or reversed and impossible rates are named; real ECGs rarely."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED

from conftest import Command
from latentcast.config import Config
from latentcast.data import flags
from latentcast.data.arrays import write_store
from latentcast.data.fit import fitted, reading
from latentcast.data.flags import keep
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.quality import Finding, assess
from latentcast.signals.readers.packed import PackedSource
from latentcast.signals.recording import Recording, from_signal
from latentcast.signals.suspicions import suspect
from latentcast.signals.synthetic import synthetic_recording

SOURCE = PackedSource(BUNDLED)
REAL = [SOURCE.read(ref)[0] for ref in SOURCE.refs()[::15]]


def all_findings(recording: Recording) -> tuple[Finding, ...]:
    """What is no signal, and what looks wrong."""
    assessed, findings = assess(recording)
    return (*findings, *suspect(assessed).findings)


def kinds(recording: Recording) -> list[tuple[str, tuple[str, ...]]]:
    return [(f.kind, f.leads) for f in all_findings(recording)]


def test_few_real_recordings_are_suspected() -> None:
    """Of all 2,980: noise 20 (13 of them annotated as noisy), reversed 18, no rate, no lead off."""
    found = Counter(kind for recording in REAL for kind, _ in kinds(recording))
    assert len(REAL) > 190
    assert found["noise"] <= 3 and found["reversed"] <= 3
    assert found["lead-off"] == found["heart-rate"] == 0


SWAPS = {
    "arms": ("I", [(0, -1), (2, 1), (1, 1), (4, 1), (3, 1), (5, 1)]),
    "right arm and left leg": ("II", [(2, -1), (1, -1), (0, -1), (5, 1), (4, 1), (3, 1)]),
}


@pytest.mark.parametrize("electrodes", SWAPS)
def test_exchanged_electrodes_are_found_in_most_hearts(electrodes: str) -> None:
    lead, limb = SWAPS[electrodes]
    found = 0
    for recording in REAL:
        signal = recording.signal.copy()
        signal[:6] = [sign * recording.signal[row] for row, sign in limb]
        findings = all_findings(replace(recording, signal=signal))
        assert not any(f.kind in ("swapped", "inverted", "scaled") for f in findings)
        mine = [f for f in findings if f.kind == "reversed"]
        found += [f.leads for f in mine] == [(lead,)] and electrodes in mine[0].message
    assert found > 0.85 * len(REAL)


@pytest.mark.parametrize("rate", [100.0, 250.0, 500.0])
def test_a_noisy_lead_and_one_without_beats_are_named_at_any_rate(rate: float) -> None:
    recording = synthetic_recording(70, rate)
    random = np.random.default_rng(0)
    signal = recording.signal.copy()
    signal[7] += 0.3 * np.sin(2 * np.pi * 23 * np.arange(signal.shape[1]) / rate)
    signal[10] = 0.3 + 0.003 * random.standard_normal(signal.shape[1])
    assert kinds(replace(recording, signal=signal)) == [("noise", ("V2",)), ("lead-off", ("V5",))]
    assert kinds(recording) == []


@pytest.mark.parametrize("heart_rate", [35, 60, 95, 150, 200])
def test_the_heart_rate_is_that_of_the_beats(heart_rate: float) -> None:
    found = suspect(synthetic_recording(heart_rate, 250.0, noise=0.02)).heart_rate
    assert found == pytest.approx(heart_rate, rel=0.02)


def test_a_wrong_sampling_rate_and_no_beats_are_heart_rates_to_doubt() -> None:
    recording = synthetic_recording(70, 100.0, seconds=50)
    assert ("heart-rate", ()) in kinds(replace(recording, sampling_rate=500.0))
    random = np.random.default_rng(0).standard_normal((12, 5000)).astype(np.float32)
    silent = from_signal(0.002 * random, recording.leads, 500.0, "silent")
    assert "lead-off" in dict(kinds(silent))


@pytest.fixture
def faulty(tmp_path: Path) -> Store:
    """Twenty hearts, every fifth at five times its rate, every seventh noisy in V4."""
    signals = np.stack([synthetic_recording(50 + n, 100.0, seed=n).signal for n in range(20)])
    for n in range(0, 20, 5):
        signals[n] = synthetic_recording(70, 20.0, seconds=50, seed=n).signal
    hum = np.sin(2 * np.pi * 23 * np.arange(1000) / 100)
    signals[::7, 9] += (0.3 * hum).astype(np.float32)
    splits = ["validation", "test", *["train"] * 18]
    return write_store(
        tmp_path / "faulty", signals=signals, sampling_rate=100, leads=CANONICAL_LEADS, unit="mV",
        splits=splits, quiet=True,
    ).store  # fmt: skip


def test_a_training_that_starts_again_reads_every_record_again(
    faulty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> str:
        flags._keep.cache_clear()  # as in another process
        return keep(faulty, faulty.rows("train"), ("noise",)).summary

    once = asked()
    with monkeypatch.context() as patch:
        patch.setattr(flags, "suspect", None)
        assert asked() == once
    for damage in ("{}", (faulty.path / flags.FILE).read_text().replace("0", "1")):
        (faulty.path / flags.FILE).write_text(damage)
        assert asked() == once


def test_records_with_a_finding_are_not_trained_on_and_are_counted(
    small_config: Config, faulty: Store, tmp_path: Path, command: Command
) -> None:
    kinds = ("heart-rate", "noise")
    config = fitted(small_config.updated({"train.leave_out": kinds}), faulty)
    loader, _ = reading(faulty, config)
    read = np.unique(np.concatenate([loader.request(loader.ids(n))[0] for n in range(10)]))
    expected = [n for n in range(2, 20) if n % 5 and n % 7]
    assert read.tolist() == expected
    said = "5 of 18 training records left out (heart-rate 3, noise 5)"
    assert keep(faulty, faulty.rows("train"), kinds).summary == said
    setting = ("--data", faulty.path, "--out", tmp_path / "run", "--set", "train.steps=4",
               "optimizer.warmup_steps=1", "train.leave_out=[heart-rate,noise]")  # fmt: skip
    done = command("train", "nepa-ecg-tiny", *setting)
    assert done.status == 0 and said in done.out
    out = tmp_path / "flags.csv"
    assert command("inspect", faulty.path, "--flags", out).status == 0
    rows = [*csv.DictReader(out.open())]
    assert [bool(row["heart-rate"] or row["noise"]) for row in rows] == [
        n % 5 == 0 or n % 7 == 0 for n in range(20)
    ]
    assert rows[7]["noise"] == "V4" and rows[1]["noise"] == ""


def test_a_filter_that_leaves_nothing_or_is_for_images_is_refused(faulty: Store) -> None:
    rows = np.array([0, 5, 10])
    with pytest.raises(LatentcastError, match="3 of 3 training records left out .* none remains"):
        keep(faulty, rows, ("heart-rate",))
    with pytest.raises(LatentcastError, match=r"train.leave_out: .* images have none"):
        recipe("ijepa-image-tiny").updated({"train.leave_out": ["noise"]})
