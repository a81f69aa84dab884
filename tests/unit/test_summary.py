"""The summary of a store says what is in it: every number is counted again here, in float64."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecg_files import write_some, write_wfdb

from conftest import Command
from latentcast.data import summary as module
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.data.summary import PERCENTILES, summarise
from latentcast.signals.synthetic import synthetic_recording


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Records of two rates and lengths, one with a flat V2, one without V5, one twice."""
    folder = tmp_path_factory.mktemp("summary")
    write_some(folder / "in", 3, 2.0)
    shutil.copy(folder / "in" / "r000.dat", folder / "in" / "again.dat")
    header = (folder / "in" / "r000.hea").read_text().replace("r000", "again")
    (folder / "in" / "again.hea").write_text(header)
    recording = synthetic_recording(70, 250, 5.0, seed=7)
    recording.signal[7, 250:750] = 0.25
    write_wfdb(folder / "in", recording, "flat")
    names = [name for name in recording.leads if name != "V5"]
    rows = [recording.leads.index(name) for name in names]
    few = replace(recording, signal=recording.signal[rows] * 1.1,
                  valid=recording.valid[rows], leads=tuple(names))  # fmt: skip
    write_wfdb(folder / "in", few, "few")
    options = {"fs": 500, "missing_leads": "mask", "workers": 1, "quiet": True}
    return ingest(folder / "in", folder / "out", **options).store


def test_a_number_of_the_summary_is_not_that_of_the_samples(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_SAMPLES", 3000)  # several blocks, some of several records
    found = {part.title.partition(" ")[0]: part.rows for part in summarise(store).sections}
    recordings = [store.recording(row) for row in range(len(store))]
    for lead, name in enumerate(store.leads):
        signals = [r.signal[lead][r.valid[lead]].astype(np.float64) for r in recordings]
        expected = np.percentile(np.concatenate(signals), PERCENTILES, method="inverted_cdf")
        assert found["Amplitudes"][lead] == (name, *(f"{value:.3f}" for value in expected))
        lost = sum(float((~r.valid[lead]).sum()) / 500 for r in recordings)
        missing = sum(not r.valid[lead].any() for r in recordings)
        assert found["Leads"][lead][:3] == (name, f"{missing}", f"{lost:,.2f}")
    assert found["Leads"][10][1] == "1" and float(found["Leads"][7][4]) == pytest.approx(4, abs=0.1)
    assert dict(found["Sampling"]) == {"500": "3", "250": "2"}
    assert [row[1] for row in found["Durations"]] == ["2", "2", "2", "2", "5", "5", "5"]
    (duplicates,) = found["Duplicates,"]
    assert duplicates[1] == "1" and "again" in duplicates[2] + store.record_ids[0]
    assert sum(int(row[1]) for row in found["Splits"]) == len(store) == 5


@pytest.mark.parametrize("name", ["s.md", "s.html"])
def test_the_summary_is_written_and_nothing_of_it_lost(
    store: Store, tmp_path: Path, command: Command, name: str
) -> None:
    assert command("inspect", store.path, "--summary", tmp_path / name).status == 0
    text = (tmp_path / name).read_text()
    for part in summarise(store).sections:
        assert part.title in text
        assert all(cell in text for row in part.rows for cell in row if cell.isalnum())
    assert "Checked by: ____" in text
