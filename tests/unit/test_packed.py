"""The carried ECGs decode to the bit, and damage is noticed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from ecg_files import BUNDLED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.signals.quality import limb_lead_findings
from latentcast.signals.readers import packed
from latentcast.source import BadRecord

INDEX = json.loads((BUNDLED / "signals.json").read_text())


@settings(max_examples=40)
@given(arrays(np.int16, st.tuples(st.integers(1, 3), st.just(12), st.integers(1, 40))))
def test_any_int16_samples_are_restored_exactly(counts: np.ndarray) -> None:
    assert np.array_equal(packed.decode(packed.encode(counts), *counts.shape[::2]), counts)


@pytest.mark.parametrize("part", INDEX["parts"], ids=lambda part: part["file"])
def test_carried_parts_decode_to_the_recorded_checksum(part: dict) -> None:
    data = (BUNDLED / part["file"]).read_bytes()
    counts = packed.decode(data, part["records"], INDEX["samples"])
    assert hashlib.sha256(counts.tobytes()).hexdigest() == part["sha256"]


def test_carried_records_are_ecgs_with_their_own_row_of_the_table() -> None:
    source = open_source(BUNDLED)
    refs = source.refs()
    assert len(refs) == 2980 and len({ref.record_id for ref in refs}) == 2980
    for ref in (*refs[:298:50], *refs[-298::60]):
        recording, annotation = source.read(ref)
        assert recording.signal.shape == (12, 1000) and recording.valid.all()
        assert limb_lead_findings(recording) == ()
        assert annotation.metadata["filename_hr"].endswith(f"{ref.record_id}_hr")
        assert annotation.labels and annotation.patient_id and 1 <= annotation.fold <= 10


def test_the_carried_folder_stays_small_enough_to_clone() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 25e6


COUNTS = np.random.default_rng(0).integers(-900, 900, (4, 12, 50)).astype(np.int16)


def write_small(folder: Path) -> Path:
    """Four records in two parts."""
    target = folder / "small"
    target.mkdir()
    parts = []
    for number, counts in enumerate((COUNTS[:2], COUNTS[2:])):
        file = f"part-{number:02d}.xz"
        (target / file).write_bytes(packed.encode(counts))
        sha256 = hashlib.sha256(counts.tobytes()).hexdigest()
        parts.append({"file": file, "records": 2, "sha256": sha256})
    (target / "signals.json").write_text(json.dumps({**INDEX, "samples": 50, "parts": parts}))
    rows = (BUNDLED / "ptbxl_database.csv").read_text().splitlines(keepends=True)[:5]
    (target / "ptbxl_database.csv").write_text("".join(rows))
    return target


def test_each_record_has_its_own_samples(tmp_path: Path) -> None:
    source = open_source(write_small(tmp_path))
    for ref, counts in zip(source.refs(), COUNTS, strict=True):
        assert np.array_equal(source.read(ref)[0].signal, (counts / 1000).astype(np.float32))


def test_a_damaged_part_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    data = bytearray((folder / "part-00.xz").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "part-00.xz").write_bytes(data)
    store = ingest(folder, tmp_path / "out", shortest=0, quiet=True).store
    assert store.record_ids.tolist() == ["00003", "00004"]
    reasons = (tmp_path / "out" / "quarantine.csv").read_text()
    assert reasons.count("part-00.xz: is damaged") == 2


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    (folder / "part-01.xz").unlink()
    source = open_source(folder)
    with pytest.raises(BadRecord, match=r"part-01.xz. is missing"):
        source.read(source.refs()[2])


def test_a_part_that_decodes_to_other_samples_is_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    counts = COUNTS[:2].copy()
    counts[1, 5, 5] += 1
    (folder / "part-00.xz").write_bytes(packed.encode(counts))
    source = open_source(folder)
    with pytest.raises(BadRecord, match="decodes to other samples"):
        source.read(source.refs()[0])


def test_a_table_that_does_not_fit_the_parts_is_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    rows = (folder / "ptbxl_database.csv").read_text().splitlines(keepends=True)
    (folder / "ptbxl_database.csv").write_text("".join(rows[:-1]))
    with pytest.raises(LatentcastError, match="3 rows for 4 records"):
        open_source(folder)
