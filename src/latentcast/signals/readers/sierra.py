"""Philips Sierra XML (``restingecgdata``, versions 1.03 to 1.04.01), XLI-compressed or not.

All leads are one Base64 text of little-endian int16, lead after lead, in units of ``resolution``
microvolts. Median beats (``repbeats``) are passed over. The recorder writes its calibration pulse
of 1 mV behind some recordings, as part of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from latentcast.errors import quoted
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import xli
from latentcast.signals.readers.file_format import FileFormat, ReadOptions, check_size, choose
from latentcast.signals.readers.patient import (
    age_metadata,
    described,
    moment,
    patient_of,
    sex_metadata,
)
from latentcast.signals.readers.xml import (
    attribute_at,
    count_of,
    decimal,
    from_base64,
    has_root,
    rate_of,
    read_xml,
    text_at,
)
from latentcast.signals.recording import INVALID, Recording, from_signal
from latentcast.source import Annotation, BadRecord

_TWELVE = ("STD-12", "10-WIRE")
"""Types of acquisition whose leads are the twelve in their order, where no labels are written."""
_SIDES = ("lhsstatement", "leftstatement", "rhsstatement", "rightstatement")


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """Raises BadRecord: with the reason."""
    root = read_xml(path)
    waves = root.find("waveforms/parsedwaveforms")
    if waves is None:
        raise BadRecord("has no waveforms (parsedwaveforms)")
    about = root.find("dataacquisition/signalcharacteristics")
    labels = _labels(waves, about)
    rate = rate_of(
        _characteristic(waves, about, "samplespersecond", "samplingrate"),
        "samplespersecond",
        options,
    )
    resolution = decimal(_characteristic(waves, about, "resolution"), "resolution")
    milliseconds = count_of(waves.get("durationperchannel", ""), "durationperchannel")
    samples = round(milliseconds * rate / 1000)
    if resolution <= 0:
        raise BadRecord(f"resolution is {resolution:g}")
    check_size(len(labels), samples)
    usual = {"bitspersample": "16", "signaloffset": "0", "signalsigned": "True"}
    for name, value in usual.items():
        if (text := _characteristic(waves, about, name)) not in ("", value):
            raise BadRecord(f"{name} is {quoted(text, 20)}; only {value} is read yet")
    if (encoding := waves.get("dataencoding")) != "Base64":
        raise BadRecord(f"dataencoding is {quoted(encoding or '', 20)}; only Base64 is read yet")
    data = from_base64(waves.text or "", "parsedwaveforms")
    method = waves.get("compressmethod") or waves.get("compression") or "Uncompressed"
    if method == "XLI":
        rows = xli.decompress(data, len(labels), samples)
        counts = xli.reconstruct(dict(zip(labels, rows, strict=True)))
    elif method == "Uncompressed":
        if len(data) != 2 * len(labels) * samples:
            raise BadRecord(f"has {len(data)} bytes for {len(labels)} leads of {samples} samples")
        rows = np.frombuffer(data, "<i2").astype(np.int64).reshape(len(labels), samples)
        counts = dict(zip(labels, rows, strict=True))
    else:
        raise BadRecord(f"compression is {quoted(method, 20)}; only XLI is read yet")
    chosen = choose([(label, "uV") for label in labels], options)
    stacked = np.stack([counts[labels[column]] for column in chosen.columns]).astype(np.float64)
    stacked[stacked == INVALID] = np.nan
    signal = (stacked * resolution * np.array(chosen.factors)[:, None]).astype(np.float32)
    patient, metadata = _about(root)
    recording = from_signal(signal, chosen.leads, rate, path.stem)
    return recording, Annotation(patient, metadata=chosen.metadata | metadata)


def _characteristic(waves: Element, about: Element | None, name: str, other: str = "") -> str:
    """A number beside the samples, else that of the acquisition; ``""`` where there is none."""
    return waves.get(name, "").strip() or text_at(about, other or name)


def _labels(waves: Element, about: Element | None) -> list[str]:
    count = count_of(
        waves.get("numberofleads", "") or text_at(about, "numberchannelsallocated"), "numberofleads"
    )
    labels = waves.get("leadlabels", "").split()
    kind = text_at(about, "acquisitiontype")
    if not labels and kind in _TWELVE:
        labels = list(CANONICAL_LEADS)
    if not 0 < count <= len(labels):
        raise BadRecord(f"names {len(labels)} of {count} leads (acquisition {quoted(kind, 20)})")
    labels = labels[:count]
    if len(set(labels)) != count:
        raise BadRecord("names a lead twice")
    return labels


def _about(root: Element) -> tuple[str | None, dict[str, Any]]:
    taken = root.find("dataacquisition")
    person = root.find("patient/generalpatientdata")
    date, time = (attribute_at(root, "dataacquisition", name) for name in ("date", "time"))
    recorded, born = moment(f"{date} {time}"), moment(text_at(person, "age/dateofbirth"))
    # The default age of an analysis program stands beside it, and is nobody's.
    metadata = age_metadata(text_at(person, "age/years"), "years", born, recorded)
    metadata |= sex_metadata(text_at(person, "sex"))
    metadata |= described(
        device=attribute_at(taken, "machine", "detaildescription") or text_at(taken, "machine"),
        site=text_at(taken, "acquirer/institutionname"),
        report="; ".join(_statements(root)),
    )
    if recorded is not None:
        metadata["recording_date"] = recorded.isoformat()
    patient = text_at(person, "patientid")
    return patient_of(patient), metadata


def _statements(root: Element) -> list[str]:
    """Those of the interpretation that nobody took out."""
    lines = []
    for statement in root.iterfind(".//statementcomponents/*"):
        if statement.get("deleted", "").lower() != "true":
            sides = [side for name in _SIDES for side in statement.iter(name)]
            lines.append(" ".join((side.text or "").strip() for side in sides).strip())
    return [line for line in lines if line]


FORMAT = FileFormat("sierra", has_root("restingecgdata"), read)
