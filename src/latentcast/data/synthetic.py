"""A synthetic source, and the store of it, in the shape that a configuration reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentcast import randomness
from latentcast.config import Config, EcgInput
from latentcast.data.ingest import IngestResult, ingest
from latentcast.errors import LatentcastError
from latentcast.signals.synthetic import synthetic_recording

SOURCE_BYTES, MOST_RECORDS = 2**25, 256
"""As many records as the first holds, within 16 and the second."""


def write_source(config: Config, folder: Path, most: int = MOST_RECORDS) -> Path:
    """An array file of synthetic recordings or of noise, shaped as the configuration reads them.

    Args:
        config: a recipe.
        folder: where to write it.
        most: recordings or images; of long ones fewer.
    """
    shape, channels = config.input.size, config.input.channels
    width = 4 if isinstance(config.input, EcgInput) else 1
    count = SOURCE_BYTES // (width * channels * int(np.prod(shape)))
    count = min(most, max(16, count))
    if isinstance(config.input, EcgInput):
        np.save(file := folder / "source.npy", _recordings(config.input, count))
        return file
    size = count * int(np.prod(shape)) * channels
    noise = randomness.bits(randomness.key("bench"), np.arange(-(-size // 8))).view(np.uint8)
    np.savez(file := folder / "source.npz", images=noise[:size].reshape(count, *shape, channels))
    return file


def _recordings(shape: EcgInput, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Millivolts ``(count, samples, leads)``; other channels have the waves of ECG leads."""
    signals = np.empty((count, shape.length, shape.channels), np.float32)
    seconds = shape.length / shape.sampling_rate
    for number in range(count):
        made = synthetic_recording(55 + number % 50, shape.sampling_rate, seconds, number)
        rows = np.arange(shape.channels) % len(made.leads)
        if shape.signal == "ecg":
            rows = np.array([made.leads.index(lead) for lead in shape.leads])
        signals[number] = made.signal[rows].T
    return signals


def read_source(config: Config, source: Path, out: Path) -> IngestResult:
    """What :func:`write_source` wrote, ingested as a user's would be."""
    recipe = config.input
    if not isinstance(recipe, EcgInput):
        return ingest(source, out, kind="image", quiet=True)
    done = ingest(
        source, out, sampling_rate=recipe.sampling_rate, leads=recipe.leads, unit="mV",
        layout="records,samples,leads", scale=recipe.scale, shortest=0.0, signal=recipe.signal,
        quiet=True,
    )  # fmt: skip
    if done.store.leads != recipe.leads:  # an array from which twelve can be derived gets them
        raise LatentcastError(
            f"input.leads {' '.join(recipe.leads)}: no array makes a store of these; name a store "
            "that has them with --data"
        )
    return done
