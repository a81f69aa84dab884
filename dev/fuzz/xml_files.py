"""Small ECGs in the XML of recorders, written as their makers do; also for the tests."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def sample(seconds: float = 1.0) -> Recording:
    return synthetic_recording(70, 100.0, seconds, seed=3)


def counts(recording: Recording, lead: str, microvolts: float) -> np.ndarray[Any, Any]:
    values = recording.signal[recording.leads.index(lead)].astype(np.float64)
    return np.rint(values * 1000 / microvolts).astype("<i2")


def base64_of(data: bytes) -> str:
    return base64.encodebytes(data).decode()


def write_muse(path: Path, recording: Recording) -> Path:
    def lead(name: str, values: np.ndarray[Any, Any]) -> str:
        data = values.tobytes()
        return (
            f"<LeadData><LeadSampleCountTotal>{len(values)}</LeadSampleCountTotal>"
            "<LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit>"
            "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>"
            f"<LeadID>{name}</LeadID><LeadOffsetFirstSample>0</LeadOffsetFirstSample>"
            f"<LeadSampleSize>2</LeadSampleSize><LeadOff>FALSE</LeadOff>"
            f"<LeadDataCRC32>{zlib.crc32(data)}</LeadDataCRC32>"
            f"<WaveFormData>{base64_of(data)}</WaveFormData></LeadData>"
        )

    def wave(kind: str, length: int) -> str:
        leads = "\n".join(lead(name, counts(recording, name, 4.88)[:length]) for name in EIGHT)
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>100</SampleBase>"
            f"<SampleExponent>0</SampleExponent>\n{leads}\n</Waveform>"
        )

    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n'
        "<RestingECG><PatientDemographics><PatientID>p7</PatientID><PatientAge>18</PatientAge>"
        "<AgeUnits>MONTHS</AgeUnits><Gender>FEMALE</Gender></PatientDemographics>\n"
        "<TestDemographics><AcquisitionTime>10:35:17</AcquisitionTime>"
        "<AcquisitionDate>02-13-2024</AcquisitionDate></TestDemographics>\n"
        f"{wave('Median', 30)}\n{wave('Rhythm', recording.samples)}\n</RestingECG>\n"
    )
    path.write_text(text, encoding="utf-8")
    return path


def write_aecg(path: Path, recording: Recording) -> Path:
    sequences = "\n".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}"/>'
        '<value xsi:type="SLIST_PQ">'
        '<origin value="0" unit="uV"/><scale value="2.5" unit="uV"/>'
        f"<digits>{' '.join(map(str, counts(recording, name, 2.5)))}</digits></value></sequence>"
        "</component>"
        for name in recording.leads
    )
    text = (
        '<?xml version="1.0"?>\n<AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>"
        '<id root="2.16.1" extension="p7"/><subjectDemographicPerson>'
        '<administrativeGenderCode code="F"/><birthTime value="19530508"/>'
        "</subjectDemographicPerson></trialSubject></subject></subjectAssignment></componentOf>"
        "</timepointEvent></componentOf>\n<component><series>"
        '<code code="RHYTHM"/><effectiveTime><low value="20021122091000.000-0500"/>'
        "</effectiveTime>\n"
        "<component><sequenceSet>"
        '<component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS">'
        '<head value="20021122091000"/><increment value="10" unit="ms"/></value></sequence>'
        f"</component>\n{sequences}\n</sequenceSet></component>\n</series></component>\n"
        "</AnnotatedECG>\n"
    )
    path.write_text(text, encoding="utf-8")
    return path


def lzw(data: bytes) -> bytes:
    """Codes of 10 bits, 1023 for the end, from the most significant bit on."""
    table = {bytes([byte]): byte for byte in range(256)}
    codes, current = [], b""
    for byte in data:
        longer = current + bytes([byte])
        if longer not in table:
            codes.append(table[current])
            if len(table) < 1023:
                table[longer] = len(table)
            longer = longer[-1:]
        current = longer
    bits = "".join(f"{code:010b}" for code in [*codes, table[current], 1023])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def xli(values: np.ndarray[Any, Any]) -> bytes:
    """One lead: its first two samples, then second differences with 64 added."""
    x = values.astype(np.int64)
    second = 2 * x[1:-1] - x[:-2] - x[2:]
    words = np.concatenate([x[:2], second[1:] + 64, [0]]).astype("<i2").view("<u2")
    packed = lzw(np.concatenate([words >> 8, words & 255]).astype(np.uint8).tobytes())
    head = (
        len(packed).to_bytes(4, "little")
        + b"\1\0"
        + int(second[0]).to_bytes(2, "little", signed=True)
    )
    return head + packed


def write_sierra(path: Path, recording: Recording) -> Path:
    stored = {name: counts(recording, name, 5.0).astype(np.int64) for name in recording.leads}
    one, two, third = (stored[name].copy() for name in ("I", "II", "III"))
    stored["III"] = two - one - third
    stored["aVR"] = -np.trunc((one + two) / 2).astype(np.int64) - stored["aVR"]
    stored["aVL"] = np.trunc((one - third) / 2).astype(np.int64) - stored["aVL"]
    stored["aVF"] = np.trunc((two + third) / 2).astype(np.int64) - stored["aVF"]
    data = b"".join(xli(stored[name]) for name in recording.leads)
    text = (
        '<?xml version="1.0" encoding="utf-16"?>\n'
        '<restingecgdata xmlns="http://www3.medical.philips.com">\n'
        '<dataacquisition date="2008-12-23" time="19:44:46"/>\n<patient><generalpatientdata>'
        "<patientid>p7</patientid><age><dateofbirth>1976-12-24</dateofbirth></age>"
        "<sex>Female</sex></generalpatientdata></patient>\n<waveforms>"
        '<parsedwaveforms dataencoding="Base64" compression="XLI" numberofleads="12" '
        f'leadlabels="{" ".join(recording.leads)}" '
        f'durationperchannel="{round(1000 * recording.seconds)}" samplespersecond="100" '
        'resolution="5" signaloffset="0" signalsigned="True" bitspersample="16">\n'
        f"{base64_of(data)}</parsedwaveforms></waveforms>\n</restingecgdata>\n"
    )
    path.write_text(text, encoding="utf-16")
    return path


WRITERS = {"muse": (write_muse, 4.88), "aecg": (write_aecg, 2.5), "sierra": (write_sierra, 5.0)}
"""By the kind of the format: what writes a file, and microvolts of a count."""
