"""WFDB in any format and of any segments: the promises of headers and checksums are held, or the
record is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ecg_files import to_counts, write_wfdb

from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.data.writer import read_quarantine
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS, name_pairs
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording
from latentcast.source import BadRecord

RECORDING = synthetic_recording(70, 250, 4)


def part(start: int, stop: int, leads: tuple[str, ...] = CANONICAL_LEADS) -> Recording:
    rows = [CANONICAL_LEADS.index(lead) for lead in leads]
    signal = RECORDING.signal[rows, start:stop]
    return replace(RECORDING, signal=signal, valid=~np.isnan(signal), leads=leads)


def long(folder: Path) -> Path:
    """A second and a half, a gap of half a second, and two seconds."""
    write_wfdb(folder, part(0, 375), "s1")
    write_wfdb(folder, part(500, 1000), "s2")
    (folder / "m.hea").write_text("m/3 12 250 1000\ns1 375\n~ 125\ns2 500\n")
    return folder / "m.hea"


def format_32(folder: Path) -> Path:
    header = write_wfdb(folder, RECORDING, "a", format="32")
    (folder / "a.dat").write_bytes(to_counts(RECORDING).astype("<i4").tobytes())
    return header


def edit(file: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return change


def flip(file: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[2000] ^= 4
        (folder / file).write_bytes(data)

    return change


def other_sum(folder: Path) -> None:
    (folder / "SHA256SUMS.txt").write_text(f"{'0' * 64}  ./{min(folder.glob('*.dat')).name}\n")


@pytest.mark.parametrize(
    ("make", "damage", "reason"),
    [
        (format_32, flip("a.dat"), "a.dat: signal .* contradicts its checksum in the header"),
        (format_32, edit("a.hea", "a.dat 32 ", "a.dat 999 "), "is of format 999, which is none"),
        (format_32, edit("a.hea", "(0)/mV", "(99999999999)/mV"), "a baseline beyond 32 bits"),
        (format_32, other_sum, "a.dat: contradicts its checksum in SHA256SUMS.txt"),
        (format_32, edit("a.hea", "a 12 250 1000", "a 12 250 1001"), "a.dat: is truncated, 48000 "),
        (long, flip("s2.dat"), "segment s2: s2.dat: signal .* contradicts its checksum"),
        (long, other_sum, "segment s1: s1.dat: contradicts its checksum in SHA256SUMS.txt"),
        (long, edit("s2.hea", "1000.0(0)/mV", "0"), "segment s2: lead I is not calibrated"),
        (long, edit("s2.hea", " 250 ", " 500 "), "segment s2: has 500 Hz, the record 250"),
        (long, edit("m.hea", "s2 500", "s2 499"), "s2: has 500 samples, the record gives it 499"),
        (long, edit("m.hea", "250 1000", "250 999"), "announces 999 samples, its segments .* 1000"),
        (long, edit("s2.hea", " V6", " V7"), "segment s2: has other signals"),
        (long, edit("m.hea", "s2 500", "m 500"), "segment m: is made of segments itself"),
        (long, edit("m.hea", "m/3", "m/4"), "announces 4 segments and names 3"),
        (long, lambda folder: (folder / "s2.hea").unlink(), "segment s2: .*'s2.hea' is missing"),
    ],
)
def test_a_contradiction_in_another_format_or_a_segment_is_read(
    tmp_path: Path,
    make: Callable[[Path], Path],
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    pytest.importorskip("wfdb")
    header = make(tmp_path)
    read_recording(header)
    damage(tmp_path)
    with pytest.raises(BadRecord, match=reason):
        read_recording(header)


@pytest.mark.parametrize("gain", ["1000.0(0)/mV", "1(0)/uV"])
def test_a_gap_between_segments_is_measured(tmp_path: Path, gain: str) -> None:
    header = long(tmp_path)
    write_wfdb(tmp_path, part(500, 1000), "s2", gain=gain)
    read, expected = read_recording(header), to_counts(RECORDING).T / 1000.0
    expected[:, 375:500] = np.nan
    np.testing.assert_allclose(read.signal, expected, rtol=1e-6)
    assert np.array_equal(read.valid, ~np.isnan(expected))


def test_a_lead_that_a_segment_lacks_is_taken_from_another_lead(tmp_path: Path) -> None:
    """A variable layout, as of intensive care; its leads come and go."""
    write_wfdb(tmp_path, part(0, 500, ("V1", "II")), "s1")
    write_wfdb(tmp_path, part(500, 1000, ("II",)), "s2")
    signals = "".join(f"~ 0 200/mV 16 0 0 0 0 {lead}\n" for lead in ("II", "V1"))
    (tmp_path / "layout.hea").write_text("layout 2 250 0\n" + signals)
    (tmp_path / "m.hea").write_text("m/3 2 250 1000\nlayout 0\ns1 500\ns2 500\n")
    read = read_recording(tmp_path / "m.hea")
    assert read.leads == ("II", "V1") and np.isnan(read.signal[1, 500:]).all()
    expected = to_counts(part(0, 1000, ("II", "V1"))).T / 1000.0
    assert np.array_equal(read.signal[read.valid], expected.astype(np.float32)[read.valid])
    assert read.valid.sum() == 1500


@pytest.mark.parametrize("fillers", ["16 0 0 0 0 ", "16 0 0 0 ", "16 0 ", ""])
def test_zeros_before_the_name_of_a_signal_are_taken_for_its_sum(
    tmp_path: Path, fillers: str
) -> None:
    header = write_wfdb(tmp_path, RECORDING, "a")
    first, *signals = header.read_text().splitlines()
    lines = [f"a.dat 16 1000/mV {fillers}{line.split()[-1]}" for line in signals]
    header.write_text("\n".join([first, *lines]))
    assert np.allclose(read_recording(header).signal, to_counts(RECORDING).T / 1000.0)


@pytest.mark.parametrize("odd", ["Resp", "MLII", "II", "", "X"])
def test_one_odd_channel_costs_the_record(tmp_path: Path, odd: str) -> None:
    thirteen = replace(
        RECORDING,
        signal=np.vstack([RECORDING.signal, -RECORDING.signal[:1]]),
        valid=np.vstack([RECORDING.valid, RECORDING.valid[:1]]),
        leads=(*CANONICAL_LEADS, odd),
    )
    header = write_wfdb(tmp_path, thirteen, "a")
    first, *signals = header.read_text().splitlines()
    signals[-1] = signals[-1].replace("/mV", "/g")
    header.write_text("\n".join([first, *signals]))
    read = read_recording(header)
    assert read.leads == CANONICAL_LEADS
    assert read.metadata["channels_left_out"] == [odd or "signal 12"]
    signals[-1] = signals[-1].replace("/g", "/mV")
    header.write_text("\n".join([first, *signals]))
    renamed = read_recording(header, rename={odd or "signal 12": "II"})
    if odd != "II":  # then both are, and the first is taken
        assert np.array_equal(renamed.signal[renamed.leads.index("II")], -read.signal[0])


def test_a_name_that_is_nearly_that_of_a_lead_is_not_hinted_at(tmp_path: Path) -> None:
    leads = [*CANONICAL_LEADS[:11], "V66"]
    write_wfdb(tmp_path / "in", RECORDING, "a", leads=leads)
    with pytest.raises(LatentcastError, match="lacks lead V6; if 'V66' is V6, .*--rename V66=V6"):
        ingest(tmp_path / "in", tmp_path / "out", workers=1, quiet=True)
    done = ingest(tmp_path / "in", tmp_path / "out", rename={"V66": "V6"}, workers=1, quiet=True)
    assert done.records == 1
    assert name_pairs("sig 0, fmt 8=II,b=V1") == {"sig 0, fmt 8": "II", "b": "V1"}


def test_the_wrong_rate_of_the_first_record_ends_the_ingest_of_all(tmp_path: Path) -> None:
    for n, rate in enumerate((0.01, 250, 250)):
        recording = synthetic_recording(60 + n, 250, 4, seed=n)
        header = write_wfdb(tmp_path / "in", recording, f"r{n}")
        header.write_text(header.read_text().replace(" 250 ", f" {rate} "))
    done = ingest(tmp_path / "in", tmp_path / "out", workers=1, quiet=True)
    assert done.records == 2 and done.store.sampling_rate == 250
    assert "0.01 Hz, which no ECG has" in (tmp_path / "out" / "quarantine.csv").read_text()


def test_checksums_of_segments_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    long(tmp_path / "r")
    sums = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  r/{file.name}\n"
        for file in sorted((tmp_path / "r").iterdir())
    )
    (tmp_path / "SHA256SUMS.txt").write_text(sums)
    source = open_source(tmp_path)
    source.read(source.refs()[0])
    (tmp_path / "r" / "s1.hea").write_text((tmp_path / "r" / "s1.hea").read_text() + "# changed\n")
    with pytest.raises(BadRecord, match="segment s1: s1.hea: contradicts its checksum in SHA256"):
        source.read(source.refs()[0])


@pytest.mark.parametrize("rate", ["0.01", "1e9"])
def test_a_rate_that_no_ecg_has_is_taken_for_a_short_record(tmp_path: Path, rate: str) -> None:
    for name in ("good", "odd"):
        write_wfdb(tmp_path / "in", RECORDING, name)
    edit("odd.hea", " 250 ", f" {rate} ")(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "out", workers=1, quiet=True)
    [row] = read_quarantine(tmp_path / "out")
    assert "which no ECG has" in row["reason"]
