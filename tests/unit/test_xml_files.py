"""XML of recorders: what is in it, who wrote it, and what it may not do to the reader."""

from __future__ import annotations

import lzma
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dev.fuzz.xml_files import EIGHT, WRITERS, counts, sample, write_aecg, write_muse, write_sierra
from latentcast.data.ingest import ingest
from latentcast.signals.readers import read_recording, xli
from latentcast.signals.readers.patient import age_metadata, is_missing, moment
from latentcast.signals.recording import Recording
from latentcast.source import BadRecord

DEVICES = Path(__file__).parents[1] / "data" / "devices"
DICOM = DEVICES.with_name("formats") / "guangxi_teaching_sinus_rhythm.dcm"


def real(folder: Path, name: str) -> Recording:
    (folder / f"{name}.xml").write_bytes(lzma.decompress((DEVICES / f"{name}.xml.xz").read_bytes()))
    return read_recording(folder / f"{name}.xml")


def changed(path: Path, old: str, new: str, encoding: str = "utf-8") -> Path:
    text = path.read_text(encoding)
    assert old in text
    path.write_text(text.replace(old, new), encoding)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_every_count_and_who_it_is_of_come_back(kind: str, tmp_path: Path) -> None:
    write, microvolts = WRITERS[kind]
    # No suffix: the content says what it is.
    read = read_recording(write(tmp_path / "ecg", sample()))
    assert read.leads == sample().leads and read.sampling_rate == 100
    assert read.metadata["format"] == kind and read.patient_id == "p7"
    for lead in EIGHT:
        there = read.signal[read.leads.index(lead)] * 1000 / microvolts
        assert np.abs(there - counts(sample(), lead, microvolts)).max() < 1e-3
    age = {"muse": 1.5, "aecg": 49.0, "sierra": 31.0}[kind]
    assert (read.metadata["age"], read.metadata["sex"]) == (age, "female")
    derived = ["III", "aVR", "aVL", "aVF"] if kind == "muse" else None
    assert read.metadata.get("derived_leads") == derived


def test_sierra_and_the_aecg_made_of_it_agree(tmp_path: Path) -> None:
    """Within 4 counts: the maker filtered the mains out of the aECG. The same in the limb leads,
    whose halves are rounded towards zero: with any other rounding, one of them is off by a tenth
    of a count in the mean."""
    sierra, aecg = (real(tmp_path, name) for name in ("sierra", "sierra-as-aecg"))
    assert sierra.leads == aecg.leads and sierra.signal.shape == aecg.signal.shape == (12, 5500)
    difference = (sierra.signal - aecg.signal) / 0.005
    assert np.abs(difference).max() < 4.01 and difference.std(axis=1).max() < 1
    assert np.abs(difference[3:6].mean(axis=1)).max() < 0.05


def test_muse_and_the_dicom_made_of_it_agree(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    if not DICOM.exists():
        pytest.skip("no DICOM file")
    muse, dicom = real(tmp_path, "muse"), read_recording(DICOM)
    assert muse.leads == dicom.leads and muse.sampling_rate == dicom.sampling_rate
    assert np.abs(muse.signal - dicom.signal).max() < 0.005
    assert muse.metadata["derived_leads"] == ["III", "aVR", "aVL", "aVF"]


BOMB = '<!DOCTYPE RestingECG [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
FILE = '<!DOCTYPE RestingECG [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
DEFAULTS = '<!DOCTYPE RestingECG [<!ATTLIST LeadID x CDATA "aaaa">]>'
DOCTYPE = '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (DOCTYPE, BOMB, "declares entities"),
        (DOCTYPE, FILE, "declares entities"),
        (DOCTYPE, DEFAULTS, "declares entities"),
        ("FEMALE", "&who;", "an entity that it does not define"),
        ("<Gender>", "<Gender>" + "<a>" * 101, "in each other"),
        ("<Gender>", "<Gender>" + "<a/>" * 200_000, "more than 200,000 elements"),
        ("</RestingECG>", "", "no well-formed XML"),
        ("<WaveformType>Rhythm", "<WaveformType>Median", "0 rhythm waveforms"),
        ("<WaveformType>Median", "<WaveformType>Rhythm", "2 rhythm waveforms"),
        ("<SampleBase>100</SampleBase>", "", "SampleBase is missing; give --sampling-rate"),
        ("<SampleExponent>0", "<SampleExponent>400", "SampleExponent is 400"),
        (">4.88<", "><", "LeadAmplitudeUnitsPerBit is missing"),
        ("MICROVOLTS", "", "LeadAmplitudeUnits is missing; give --unit"),
        ("MICROVOLTS", "FURLONGS", "lead I: unit 'FURLONGS'"),
        ("<LeadSampleCountTotal>100", "<LeadSampleCountTotal>99", "200 bytes for 99 samples"),
        ("<LeadOffsetFirstSample>0", "<LeadOffsetFirstSample>5", "is not 0"),
        ("<WaveFormData>", "<WaveFormData>?", "no Base64"),
        ("<LeadDataCRC32>", "<LeadDataCRC32>1", "contradicts its checksum"),
    ],
)  # fmt: skip
def test_a_muse_file_that_is_hostile_or_incomplete_is_refused(
    old: str, new: str, reason: str, tmp_path: Path
) -> None:
    path = changed(write_muse(tmp_path / "a.xml", sample()), old, new)
    with pytest.raises(BadRecord, match=re.escape(reason)):
        read_recording(path)


LATER = (
    '<sequenceSet><component><sequence><code code="TIME_ABSOLUTE"/><value type="GLIST_TS">'
    '<head value="2003"/><increment value="10" unit="ms"/></value></sequence></component>'
    "</sequenceSet>"
)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<digits>", "<digits>1-2 ", "are no numbers"),
        ("<digits>", "<digits>nan ", "are no numbers"),
        ("<digits>", "<digits>7 ", None),  # in all leads: one sample more
        ("LEAD_V1", "LEAD_FOO", None),  # costs the channel
        ('scale value="2.5" unit="uV"', 'scale value="2.5"', "the unit of scale is missing; give"),
        ('origin value="0"', 'origin value="x"', "MDC_ECG_LEAD_I: origin is no number"),
        ("SLIST_PQ", "SLIST_INT", "only SLIST_PQ is read yet"),
        ("GLIST_TS", "SLIST_TS", "only even steps (GLIST) are read yet"),
        ('increment value="10" unit="ms"', 'increment value="10"', "has the unit"),
        ('increment value="10"', 'increment value="-10"', "increment of time is -0.01 s"),
        ('code="RHYTHM"', 'code="REPRESENTATIVE_BEAT"', "0 series of recorded waveforms"),
("</sequenceSet>", "</sequenceSet>" + LATER, "lie in 2 stretches of time"),
    ],
)  # fmt: skip
def test_an_aecg_is_read_right_or_refused(
    old: str, new: str, reason: str | None, tmp_path: Path
) -> None:
    path = changed(write_aecg(tmp_path / "a.xml", sample()), old, new)
    if reason is not None:
        with pytest.raises(BadRecord, match=re.escape(reason)):
            read_recording(path)
        return
    read = read_recording(path)
    assert ("V1" in read.leads) == (new != "LEAD_FOO")
    assert read.samples == 100 + (old == "<digits>")


def test_units_and_origin_of_an_aecg_are_those_of_each_lead(tmp_path: Path) -> None:
    path = write_aecg(tmp_path / "a.xml", sample())
    before = read_recording(path).signal
    changed(path, 'origin value="0" unit="uV"', 'origin value="0.25" unit="mV"')
    assert np.abs(read_recording(path).signal - before - 0.25).max() < 1e-6


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('bitspersample="16"', 'bitspersample="12"', "only 16 is read yet"),
        ('resolution="5" ', "", "resolution is missing"),
        ('durationperchannel="1000"', 'durationperchannel="2000"', "bytes for 200 samples"),
        ('durationperchannel="1000"', 'durationperchannel="9999999999"', "that one recording may"),
        ('numberofleads="12"', 'numberofleads="13"', "names 12 of 13 leads"),
        ('compression="XLI"', 'compression="ZIP"', "only XLI is read yet"),
    ],
)  # fmt: skip
def test_a_sierra_file_that_is_incomplete_is_refused(
    old: str, new: str, reason: str, tmp_path: Path
) -> None:
    path = changed(write_sierra(tmp_path / "a.xml", sample()), old, new, "utf-16")
    with pytest.raises(BadRecord, match=re.escape(reason)):
        read_recording(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends after 0 of 1 leads"),
        ((9).to_bytes(4, "little") + b"\1\0\0\0a", "has 9 bytes, 1 are left"),
        (b"\2\0\0\0\1\0\0\0\xff\x80", "code 1022 is in no table"),
        (b"\2\0\0\0\1\0\0\0\0\0", "has no end"),
    ],
)
def test_xli_that_is_cut_or_damaged_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        xli.decompress(data, 1, 4)


@pytest.mark.parametrize(
    ("text", "maker"),
    [
        ('<ECG ACQUISITION_TIME="1"><SOURCE MANUFACTURER="Mortara Instrument"/></ECG>', "Mortara"),
        ("<?xml version='1.0'?><Data><Maker>MINDRAY</Maker><Ecg/></Data>", "Mindray"),
        ("<CardiologyXML/>", "GE CardioSoft"),
    ],
)
def test_xml_of_another_maker_is_named(text: str, maker: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.xml").write_text(text)
    with pytest.raises(BadRecord, match=f"this is a {maker} XML; not read yet"):
        read_recording(path)


def test_a_folder_of_several_makers_is_one_store(tmp_path: Path) -> None:
    for kind, (write, _) in WRITERS.items():
        write(tmp_path / f"{kind}.xml", sample(2))
    (tmp_path / "preview.png").write_bytes(b"no ECG")
    (tmp_path / "page.xml").write_text("<html/>")
    changed(write_muse(tmp_path / "bad.xml", sample(2)), "MICROVOLTS", "")
    result = ingest(tmp_path, tmp_path.with_name("store"), workers=1, quiet=True)
    assert sorted(result.store.record_ids) == ["aecg", "muse", "sierra"]
    assert result.quarantined == 1


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: moment("12-23-2008 19:44:46").isoformat(), "2008-12-23T19:44:46"),  # type: ignore[union-attr]
        (lambda: moment("13-13-2008"), None),
        (lambda: age_metadata("6", "WEEKS", None, None), {"age": 0.11}),
        (lambda: age_metadata("6", "fortnights", None, None), {"age_text": "6 fortnights"}),
        (lambda: [is_missing(text) for text in ("00000000", "---", "0042")], [True, True, False]),
    ],
)
def test_what_recorders_write_of_people_and_times(
    call: Callable[[], object], value: object
) -> None:
    assert call() == value
