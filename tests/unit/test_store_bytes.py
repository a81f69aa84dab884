"""A store made by an earlier version still opens, and the same ingest gives its very bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED, DATA
from image_files import DIGITS

from latentcast.data.ingest import ingest
from latentcast.data.store import Store

# sha256 by file, recorded when recordings and images still had a store each, in version 0.1.0.
RECORDED = {
    "carried ECGs": (
        BUNDLED,
        {},
        {
            "manifest.json": "9129895008ac615641d3dba9535f0d3e1b6792d0d68e3d70010e0176174f2047",
            "shard-00000.npy": "bebe54daca577021e6f22c02a4cd8c7e5af2616e1617e1884ba99fa39f7e7462",
            "index.npz": "67ec818c5a38d7ba4fd79ffa8f1f92f191c32c909d6b47bc223467b1cf1993c4",
            "metadata.jsonl": "c855cbc5abec85a728b46ce34ae86b643efcbc0dcee710cbeb0f8d95e0d61379",
            "quarantine.csv": "80a5f742aa0360f7e718e2981f04b2bcbaa2d4df13561dae442bffabaea9db76",
        },
    ),
    "PTB-XL files": (
        DATA,
        {"fs": 500},
        {
            "manifest.json": "b9e88b257dfa470bbe9b8dc9ce0143583f4349c944970c427cc1727871b4e357",
            "shard-00000.npy": "dbaa5948a51ac429168d4a11489a8e198d94bcc0656ba89042240976e191988c",
            "index.npz": "c4f1bcdda1e2bcf772e2022b9cd01e9c479f9da5e3c113a13230850e1bd29cca",
            "metadata.jsonl": "c5267760eeb433b361600117a16f436292fc751a9baba0bf0c7b6297efae6005",
            "quarantine.csv": "8539022356388296715a89f98d453d5480d775b0e6042af7174a6e87b8f22621",
        },
    ),
    "digits": (
        DIGITS,
        {},
        {
            "manifest.json": "b356f19774de98f04d413d39baf609c13da90edd3758e342965abd618b9c719f",
            "shard-00000.npy": "12fce391191d81182046255ad6a516afb95e3c862d2b9fa977af169ef4f36cbe",
            "index.npz": "9d7b6216a77b0d209eb45a8b88ea689b4a27c8f1bac9cd8f147c81dc6cc46a02",
            "quarantine.csv": "80a5f742aa0360f7e718e2981f04b2bcbaa2d4df13561dae442bffabaea9db76",
        },
    ),
}


def of_version_1(manifest: str) -> str:
    """As it was before it had a digest of itself."""
    before, digest, _ = manifest.partition(',\n "digest": ')
    assert digest
    return before.replace('"format_version": 2', '"format_version": 1') + "\n}\n"


@pytest.mark.parametrize("name", RECORDED)
def test_the_same_ingest_gives_other_bytes_than_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentcast.data.ingest.library_version", lambda: "0.1.0")
    source, options, recorded = RECORDED[name]
    ingest(source, tmp_path, quiet=True, **options)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(of_version_1(manifest.read_text()))
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
    }
    assert files == recorded
    Store.open(tmp_path).verify()  # such a manifest has no digest of itself


def test_a_store_of_one_file_opens_field_by_field(tmp_path: Path) -> None:
    store = ingest(DIGITS, tmp_path / "out", quiet=True).store
    opened = Store.open(tmp_path / "out")
    assert len(opened) == 1797 == len(store)
    assert np.array_equal(opened.labels.ids(), opened.class_ids)
    assert opened.labels.counts()["3"] == int((opened.class_ids == 3).sum())
    assert opened.metadata(5) == {} and list(opened.all_metadata())[:2] == [{}, {}]
    assert opened.patients == 1797 and set(opened.patient_ids.tolist()) == {""}
    assert repr(opened).endswith(
        "out': 1,797 images, 8 × 8 × 1, 10 classes, train 1,429, validation 180, test 188)"
    )
