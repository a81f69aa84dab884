"""Channels that are no ECG leads: taken by name and unit, with nothing of an ECG done to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ecg_files import header_lines, write_wfdb
from image_files import quarantine

from latentcast import cli
from latentcast.config import EcgInput
from latentcast.data.arrays import write_store
from latentcast.data.fit import fitted, reading
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.signals.channels import Channels
from latentcast.signals.counts import to_counts
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import INVALID, select_leads
from latentcast.signals.synthetic import synthetic_recording

RNG = np.random.default_rng(0)
EEG = np.cumsum(RNG.normal(size=(4, 3, 600)), axis=2)
ARRAY = {"sampling_rate": 200, "layout": "records,leads,samples", "signal": "other", "quiet": True}


def test_any_names_are_taken_in_the_order_given_and_the_unit_counts(tmp_path: Path) -> None:
    np.save(tmp_path / "eeg.npy", EEG)
    names = ["Fp2", "V1", "aVF"]  # not in the order of ECG leads, which two of them could be
    store = ingest(tmp_path / "eeg.npy", tmp_path / "uV", leads=names, unit="uV", scale=1e-5,
                   **ARRAY).store  # fmt: skip
    assert store.leads == tuple(names) and store.signal == "other"
    for row in range(4):
        assert np.abs(store.recording(row).signal - EEG[row] / 1000).max() < 6e-6
    store = ingest(tmp_path / "eeg.npy", tmp_path / "au", leads=names, unit="a.u.", scale=0.01,
                   **ARRAY).store  # fmt: skip
    assert store.manifest.unit == "a.u."
    assert np.abs(store.recording(2).signal - EEG[2]).max() < 6e-3


def test_nothing_is_derived_found_out_or_masked_as_in_an_ecg(tmp_path: Path) -> None:
    signal = synthetic_recording(sampling_rate=200, seconds=5).signal.copy()
    signal[[4, 5]] = signal[[5, 4]]  # aVL and aVF
    signal[9, 400:480] = 9.0  # what saturates an ECG
    names = synthetic_recording().leads
    ecg = write_store(tmp_path / "ecg", signals=[signal], sampling_rate=200, leads=names,
                      quiet=True).store  # fmt: skip
    kinds = {finding["kind"] for finding in ecg.metadata(0)["quality_findings"]}
    assert kinds == {"swapped", "saturated"}
    signal[0, :300] = 0.5  # flat, which is no signal of any kind
    other = write_store(tmp_path / "other", signals=[signal], signal="other", sampling_rate=200,
                        leads=names, quiet=True).store  # fmt: skip
    assert [f["kind"] for f in other.metadata(0)["quality_findings"]] == ["flat"]
    counts = other.take([0])[0]
    two = select_leads(synthetic_recording(), ("I", "II"), mask_missing=False)
    write_wfdb(tmp_path / "in", two, "a")
    three = ["I", "II", "III"]
    with pytest.raises(LatentcastError, match="lacks lead III"):
        ingest(tmp_path / "in", tmp_path / "III", signal="other", leads=three, quiet=True)
    assert (counts[:300, 0] == INVALID).all() and (counts[400:480, 9] == 9000).all()
    same = to_counts(other.recording(0), other.leads, other.scale, signal="other")
    assert np.array_equal(same, counts)


def write_vitals(folder: Path, name: str, pleth_unit: str = "NU") -> np.ndarray:
    """A WFDB record of a pressure, a pulse and two EEG channels; returns its counts."""
    folder.mkdir(exist_ok=True)
    seed = np.random.default_rng(len(name))
    counts = np.cumsum(seed.integers(-50, 51, (800, 4)), axis=0).astype("<i2")
    text = header_lines(name, f"{name}.dat", counts, ["ABP", "PLETH", "C3", "C4"], rate=125)
    gains = iter(["10/mmHg", f"50(7)/{pleth_unit}", "2/uV", "2000/mV"])
    lines = text.splitlines()
    lines[1:] = [line.replace("1000.0(0)/mV", next(gains)) for line in lines[1:]]
    (folder / f"{name}.dat").write_bytes(counts.tobytes())
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return counts.astype(np.float64)


def test_channels_of_wfdb_files_are_chosen_by_name_whatever_else_is_in_them(tmp_path: Path) -> None:
    counts = write_vitals(tmp_path / "in", "a")
    options = {"signal": "other", "quiet": True}
    store = ingest(tmp_path / "in", tmp_path / "eeg", leads=["C4", "C3"], scale=1e-4,
                   **options).store  # fmt: skip
    expected = np.stack([counts[:, 3] / 2000, counts[:, 2] / 2 / 1000])
    assert np.abs(store.recording(0).signal - expected).max() < 6e-5
    assert store.manifest.unit == "mV"
    pleth = ingest(tmp_path / "in", tmp_path / "pleth", leads=["PLETH"], unit="NU", scale=0.01,
                   **options).store  # fmt: skip
    assert np.abs(pleth.recording(0).signal - (counts[:, 1] - 7) / 50).max() < 6e-3
    channels = Channels.of(["PLETH"], "NU")
    same = to_counts(read_recording(tmp_path / "in/a.hea", channels), ("PLETH",), 0.01,
                     signal="other")  # fmt: skip
    assert np.array_equal(same, pleth.take([0])[0])


def test_another_unit_or_a_missing_channel_goes_to_quarantine(tmp_path: Path) -> None:
    write_vitals(tmp_path / "in", "a")
    write_vitals(tmp_path / "in", "bb", pleth_unit="mV")
    store = ingest(tmp_path / "in", tmp_path / "out", leads=["PLETH"], unit="NU", scale=0.01,
                   signal="other", quiet=True).store  # fmt: skip
    assert store.record_ids.tolist() == ["a"]
    assert "unit 'mV': is not 'NU'" in quarantine(tmp_path / "out")["bb"]
    with pytest.raises(LatentcastError, match="no channel is of Fz; the file has"):
        ingest(tmp_path / "in", tmp_path / "fz", leads=["Fz"], signal="other", quiet=True)
    with pytest.raises(LatentcastError, match="lacks lead Fz"):
        ingest(tmp_path / "in", tmp_path / "c3", leads=["C3", "Fz"], signal="other", quiet=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--signal other: takes channels by their names"),
        ({"leads": ["a", ""]}, "a name is empty"),
        ({"leads": ["a", "b", "a"]}, "'a' occurs twice"),
        ({"leads": ["a"], "unit": " "}, "--unit: is empty"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, options: dict[str, object], words: str
) -> None:
    write_vitals(tmp_path / "in", "a")
    with pytest.raises(LatentcastError, match=words):
        ingest(tmp_path / "in", tmp_path / "out", signal="other", quiet=True, **options)
    with pytest.raises(LatentcastError, match="Fp1.* is no known lead name.*--signal other"):
        ingest(tmp_path / "in", tmp_path / "out", leads=["Fp1"], quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_manifest_of_an_ecg_names_no_kind_of_signal(tmp_path: Path) -> None:
    signals = [synthetic_recording(seconds=2).signal]
    leads = synthetic_recording().leads
    for kind in ("ecg", "other"):
        write_store(tmp_path / kind, signals=signals, sampling_rate=500, leads=leads, signal=kind,
                    quiet=True)  # fmt: skip
    ecg, other = (
        json.loads((tmp_path / kind / "manifest.json").read_text()) for kind in ("ecg", "other")
    )
    assert other.keys() - ecg.keys() == {"signal", "unit"}
    assert other["provenance"]["options"].keys() - ecg["provenance"]["options"].keys() == {"signal"}


def test_a_recipe_names_the_kind_of_signal_it_reads(tmp_path: Path) -> None:
    signals = [EEG[0] / 100 + i * RNG.normal(size=(3, 600)) for i in range(20)]
    names = ("Fp1", "Fp2", "O1")
    store = write_store(tmp_path, signals=signals, sampling_rate=100, leads=names, signal="other",
                        folds=[1 + i % 10 for i in range(20)], quiet=True).store  # fmt: skip
    tiny = recipe("nepa-ecg-tiny")
    with pytest.raises(LatentcastError, match=r"signal is other.*signal=other input.leads=\[F"):
        fitted(tiny, store)
    with pytest.raises(LatentcastError, match="lead 'Fp1': is no known lead name"):
        EcgInput(leads=names)
    with pytest.raises(LatentcastError, match="'O1' occurs twice"):
        EcgInput(leads=("O1", "O1"), signal="other")
    other = {"input.signal": "other", "input.length": 400}
    with pytest.raises(LatentcastError) as renamed:  # --leads would give its channels other names
        fitted(tiny.updated(other | {"input.leads": names[::-1]}), store)
    assert "re-ingest" not in str(renamed.value) and "--set input.leads=[F" in str(renamed.value)
    config = fitted(tiny.updated(other | {"input.leads": names}), store)
    loader, preprocess = reading(store, config)
    values = preprocess(loader.batch(0).samples).values
    assert values.shape[1:] == (3, 400) and 0.3 < float(values.std()) < 3


def test_ingest_and_inspect_print_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vitals(tmp_path / "in", "a")
    cli.ingest(tmp_path / "in", tmp_path / "out", signal="other", leads="C3,C4", workers=1)
    cli.inspect(tmp_path / "out")
    printed = capsys.readouterr()
    assert "ingest: channels are no ECG leads" in printed.err
    assert "channels are no ECG leads" in " ".join(printed.out.replace("│", " ").split())
