"""GE MUSE XML (``RestingECG``): eight leads in Base64, the other four follow from I and II.

The median beat in the same file is passed over. Each lead has its own unit and CRC-32 (as zlib
computes it, over the decoded bytes), which is compared. Counts are little-endian int16.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from latentcast.errors import quoted
from latentcast.signals.leads import with_derived
from latentcast.signals.readers.file_format import FileFormat, ReadOptions, check_size, choose
from latentcast.signals.readers.patient import (
    age_metadata,
    described,
    moment,
    patient_of,
    sex_metadata,
)
from latentcast.signals.readers.xml import (
    count_of,
    decimal,
    from_base64,
    has_root,
    rate_of,
    read_xml,
    text_at,
    unit_of,
)
from latentcast.signals.recording import INVALID, Recording, from_signal, select_leads
from latentcast.source import Annotation, BadRecord

_UNITS = {"MICROVOLTS": "uV", "MILLIVOLTS": "mV"}
_AT_ZERO = ("LeadTimeOffset", "LeadOffsetFirstSample", "FirstSampleBaseline")


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """Raises BadRecord: with the reason."""
    root = read_xml(path)
    waveforms = {text_at(w, "WaveformType"): w for w in root.iter("Waveform")}
    count = sum(text_at(w, "WaveformType") == "Rhythm" for w in root.iter("Waveform"))
    if count != 1:
        kinds = ", ".join(quoted(name, 20) for name in waveforms) or "none"
        raise BadRecord(f"has {count} rhythm waveforms, not one (the types are {kinds})")
    rhythm = waveforms["Rhythm"]
    exponent = decimal(text_at(rhythm, "SampleExponent") or "0", "SampleExponent")
    if abs(exponent) > 6:
        raise BadRecord(f"SampleExponent is {exponent:g}")
    rate = rate_of(text_at(rhythm, "SampleBase"), "SampleBase", options) * 10.0**exponent
    leads = rhythm.findall("LeadData")
    units = [(text_at(lead, "LeadID"), _unit(lead, options)) for lead in leads]
    chosen = choose(units, options)
    check_size(len(chosen.columns), _samples(leads[chosen.columns[0]]))
    columns = [_read_lead(leads[column]) for column in chosen.columns]
    if len({len(column) for column in columns}) != 1:
        raise BadRecord("leads have different lengths")
    factors = np.array(chosen.factors)[:, None]
    signal = (np.stack(columns) * factors).astype(np.float32)
    recording = from_signal(signal, chosen.leads, rate, path.stem)
    off = [
        name for name, column in zip(chosen.leads, chosen.columns, strict=True)
        if text_at(leads[column], "LeadOff").upper() == "TRUE"
    ]  # fmt: skip
    patient, metadata = _about(root)
    metadata |= chosen.metadata | ({"leads_off": off} if off else {})
    if options.channels is None:
        recording = select_leads(recording, with_derived(recording.leads), mask_missing=False)
    return recording, Annotation(patient, metadata=metadata)


def _unit(lead: Element, options: ReadOptions) -> str:
    unit = unit_of(text_at(lead, "LeadAmplitudeUnits"), "LeadAmplitudeUnits", options)
    return _UNITS.get(unit.upper(), unit)


def _samples(lead: Element) -> int:
    return count_of(text_at(lead, "LeadSampleCountTotal"), "LeadSampleCountTotal")


def _read_lead(lead: Element) -> npt.NDArray[np.float64]:
    """Values of one lead in its unit; NaN where nothing was measured."""
    what = f"lead {text_at(lead, 'LeadID')}"
    gain = decimal(text_at(lead, "LeadAmplitudeUnitsPerBit"), f"{what}: LeadAmplitudeUnitsPerBit")
    if gain <= 0:
        raise BadRecord(f"{what}: LeadAmplitudeUnitsPerBit is {gain:g}")
    for name in _AT_ZERO:
        if decimal(text_at(lead, name) or "0", f"{what}: {name}"):
            raise BadRecord(f"{what}: {name} is not 0; such files are not read yet")
    if (size := text_at(lead, "LeadSampleSize")) not in ("", "2"):
        raise BadRecord(f"{what}: has {quoted(size, 20)} bytes a sample, not 2")
    data = from_base64(text_at(lead, "WaveFormData"), what)
    if len(data) != 2 * _samples(lead):
        raise BadRecord(f"{what}: has {len(data)} bytes for {_samples(lead)} samples")
    checksum = text_at(lead, "LeadDataCRC32")
    if checksum and count_of(checksum, f"{what}: LeadDataCRC32") != zlib.crc32(data):
        raise BadRecord(f"{what}: contradicts its checksum")
    counts = np.frombuffer(data, "<i2").astype(np.float64)
    counts[counts == INVALID] = np.nan
    if text_at(lead, "LeadOff").upper() == "TRUE":
        counts[:] = np.nan
    return counts * gain


def _about(root: Element) -> tuple[str | None, dict[str, Any]]:
    person, test = root.find("PatientDemographics"), root.find("TestDemographics")
    time = f"{text_at(test, 'AcquisitionDate')} {text_at(test, 'AcquisitionTime')}"
    recorded, born = moment(time), moment(text_at(person, "DateofBirth"))
    lines = [text_at(s, "StmtText") for s in root.findall("Diagnosis/DiagnosisStatement")]
    metadata = age_metadata(
        text_at(person, "PatientAge"),
        text_at(person, "AgeUnits"),
        born,
        recorded,
    )
    metadata |= sex_metadata(text_at(person, "Gender"))
    metadata |= described(
        device=text_at(test, "AcquisitionDevice"),
        site=text_at(test, "SiteName"),
        report="; ".join(line for line in lines if line),
    )
    if recorded is not None:
        metadata["recording_date"] = recorded.isoformat()
    patient = text_at(person, "PatientID")
    return patient_of(patient), metadata


FORMAT = FileFormat("muse", has_root("RestingECG"), read)
