"""Small real stores and encoders for the evaluation tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch

from latentcast.data.labels import Labels
from latentcast.data.store import Store
from latentcast.signals.recording import INVALID

SPLITS = {"train": list(range(1, 9)), "validation": [9], "test": [10]}


def write_store(
    path: Path,
    records: Sequence[npt.NDArray[np.int16]],
    *,
    folds: Sequence[int],
    labels: Sequence[Mapping[str, float]] | None = None,
    record_ids: Sequence[str] | None = None,
    patient_ids: Sequence[str] | None = None,
    leads: Sequence[str] = ("I", "II"),
    sampling_rate: float = 100.0,
    source: str = "test",
    metadata: Sequence[Mapping[str, object]] | None = None,
) -> Store:
    """A store of time-major int16 records (samples, leads), written as the format says."""
    n = len(records)
    labels = labels if labels is not None else [{} for _ in records]
    lines = [json.dumps(record) + "\n" for record in metadata or [{} for _ in records]]
    path.mkdir(parents=True, exist_ok=True)
    samples = np.concatenate(records)
    np.save(path / "shard-00000.npy", samples)
    lengths = np.array([len(record) for record in records], dtype=np.int64)
    codes = sorted({code for record in labels for code in record})
    indices = [codes.index(code) for record in labels for code in record]
    np.savez(
        path / "index.npz",
        shard=np.zeros(n, dtype=np.int32),
        offset=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        length=lengths,
        record_id=np.array(record_ids or [f"r{i}" for i in range(n)]),
        patient_id=np.array(patient_ids or [f"p{i}" for i in range(n)]),
        fold=np.array(folds, dtype=np.int16),
        label_codes=np.array(codes, dtype=np.str_),
        label_indptr=np.cumsum([0, *(len(record) for record in labels)]),
        label_indices=np.array(indices, dtype=np.int32),
        label_values=np.array([v for record in labels for v in record.values()], dtype=np.float32),
        invalid=np.zeros((0, 4), dtype=np.int64),
        metadata_offset=np.cumsum([0, *map(len, lines)]),
    )
    (path / "metadata.jsonl").write_text("".join(lines))

    def digest(file: str) -> str:
        return hashlib.sha256((path / file).read_bytes()).hexdigest()

    train = [r for r, fold in zip(records, folds, strict=True) if fold <= 8] or list(records)
    counts = np.concatenate(train).astype(np.float64)
    counts[counts == INVALID] = np.nan
    manifest = {
        "format_version": 1,
        "modality": "ecg",
        "sampling_rate": sampling_rate,
        "leads": list(leads),
        "scale": 0.001,
        "records": n,
        "shards": [
            {
                "file": "shard-00000.npy",
                "samples": len(samples),
                "sha256": digest("shard-00000.npy"),
            }
        ],
        "index_sha256": digest("index.npz"),
        "metadata_sha256": digest("metadata.jsonl"),
        "splits": SPLITS,
        "statistics": {
            "mean": (np.nanmean(counts, axis=0) / 1000).tolist(),
            "std": (np.nanstd(counts, axis=0) / 1000).tolist(),
            "records": len(train),
            "samples": np.isfinite(counts).sum(axis=0).tolist(),
        },
        "provenance": {"source": source, "kind": "array"},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return Store.open(path)


class PatchSource:
    """A fake encoder of two layers: raw patches, and a fixed random projection of them."""

    def __init__(
        self,
        name: str = "encoder",
        *,
        length: int = 40,
        patch: int = 10,
        leads: tuple[str, ...] = ("I", "II"),
        sampling_rate: float = 100.0,
        causal: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.length, self.patch = name, length, patch
        self.leads, self.sampling_rate, self.causal = leads, sampling_rate, causal
        self.scale = 0.001
        self.layer_names: tuple[str, ...] = ("embedding", "block 1")
        width = patch * len(leads)
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(width, 6, generator=generator) / width**0.5

    def token_layers(
        self, samples: npt.NDArray[np.int16]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        batch, time, leads = samples.shape
        recorded = torch.from_numpy(samples != INVALID)
        signal = torch.where(recorded, torch.from_numpy(samples).float() * self.scale, 0.0)
        patches = signal.reshape(batch, time // self.patch, self.patch * leads)
        valid = recorded.reshape(batch, time // self.patch, -1).any(dim=-1)
        return [patches, (patches @ self.weight).tanh()], valid


def labels_of(classes: tuple[str, ...], class_ids: npt.NDArray[np.int64]) -> Labels:
    """The labels of records of one class each, -1 for none."""
    labelled = class_ids >= 0
    ends = np.concatenate([[0], np.cumsum(labelled)]).astype(np.int64)
    ids = class_ids[labelled].astype(np.int32)
    return Labels(classes, ends, ids, np.ones(len(ids), np.float32))


class Images:
    """A store of images in memory: noise with a class in the brightness of one quarter.

    60 % are training images, 20 % each those of validation and test.
    """

    modality, path = "image", Path("images")
    manifest = SimpleNamespace(
        splits={"train": [1, 2, 3], "validation": [4], "test": [5]}, provenance={}
    )

    def __init__(self, n: int = 600, seed: int = 0, classes: int = 3, name: str = "images") -> None:
        rng = np.random.default_rng(seed)
        self.class_ids = rng.integers(0, classes, n)
        pixels = rng.normal(100, 40, (n, 6, 6, 1))
        for i, c in enumerate(self.class_ids):
            pixels[i, 3 * (c // 2) : 3 * (c // 2) + 3, 3 * (c % 2) : 3 * (c % 2) + 3] += 25
        self.pixels = pixels.clip(0, 255).astype(np.uint8)
        self.classes = ("ant", "bee", "cat", "dog")[:classes]
        self.folds = np.arange(n) % 5 + 1
        self.height, self.width, self.channels = self.pixels.shape[1:]
        self.record_ids = np.array([f"{name}-{i}" for i in range(n)])
        self.patient_ids = np.full(n, "", dtype="<U9")
        self.checksums = {"shard-00000.npy": f"{name} {pixels.sum()}"}

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labels(self) -> Labels:
        return labels_of(self.classes, self.class_ids)

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(np.isin(self.folds, self.manifest.splits[split]))

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.asarray(self.pixels[rows])


class ImagePatches(torch.nn.Module):
    """A fake encoder of images: noise, raw 3 × 3 patches, and their projection."""

    def __init__(self, name: str = "encoder", *, seed: int = 0, causal: bool = False) -> None:
        super().__init__()
        self.name, self.causal = name, causal
        self.layer_names: tuple[str, ...] = ("embedding", "block 1", "norm")
        self.project = torch.nn.Linear(9, 5, bias=False)
        self.dropout = torch.nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.project.weight.copy_(torch.randn(5, 9, generator=generator))

    def token_layers(
        self, samples: npt.NDArray[np.uint8]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        assert samples.dtype == np.uint8
        x = torch.from_numpy(samples).float() / 255
        b, h, w, _ = x.shape
        x = x.reshape(b, h // 3, 3, w // 3, 3).permute(0, 1, 3, 2, 4).reshape(b, -1, 9)
        weight = torch.arange(1.0, 1 + x.shape[1])[:, None]  # the mean must tell places apart
        noise = (x * 1e4).sin()
        layers = [noise, weight * self.dropout(x), self.project(weight * self.dropout(x)).tanh()]
        return layers, torch.ones(x.shape[:2], dtype=torch.bool)
