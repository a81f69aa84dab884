"""HL7 annotated ECG (``AnnotatedECG``, FDA): the rhythm as recorded, values as text.

A sequence is ``origin + scale × digits``, each with its unit, over times ``head + increment × n``.
Representative beats (a derived series) are passed over. Source: HL7 aECG Implementation Guide,
21 March 2005.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, quoted
from latentcast.signals.channels import MILLIVOLTS
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
    attribute_at,
    decimal,
    has_root,
    numbers_in,
    rate_of,
    read_xml,
    text_at,
    unit_of,
)
from latentcast.signals.recording import (
    INVALID,
    Recording,
    from_signal,
    millivolts_per,
    select_leads,
)
from latentcast.source import Annotation, BadRecord

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_BEATS = "REPRESENTATIVE_BEAT"
_REPORTED_AGE = "21612-7"
"""LOINC."""


def read(path: Path, options: ReadOptions) -> tuple[Recording, Annotation]:
    """Raises BadRecord: with the reason."""
    root = read_xml(path)
    series = [
        s for s in root.findall("component/series") if attribute_at(s, "code", "code") != _BEATS
    ]
    if len(series) != 1:
        raise BadRecord(f"has {len(series)} series of recorded waveforms, not one")
    sets = series[0].findall("component/sequenceSet")
    rate = _rate(sets, options)
    sequences = [
        sequence for one in sets for sequence in one.findall("component/sequence")
        if not attribute_at(sequence, "code", "code").startswith("TIME_")
    ]  # fmt: skip
    # What is no lead may have any unit; those of the leads are read with their values.
    names = [attribute_at(sequence, "code", "code") for sequence in sequences]
    units = [MILLIVOLTS if options.channels is None else options.channels.unit] * len(names)
    chosen = choose(list(zip(names, units, strict=True)), options)
    values = [_values(sequences[column], options) for column in chosen.columns]
    if len({len(lead) for lead in values}) != 1:
        raise BadRecord("leads have different lengths")
    check_size(len(values), len(values[0]))
    signal = np.stack(values).astype(np.float32)
    recording = from_signal(signal, chosen.leads, rate, path.stem)
    if options.channels is None:
        recording = select_leads(recording, with_derived(recording.leads), mask_missing=False)
    patient, metadata = _about(root, series[0])
    return recording, Annotation(patient, metadata=chosen.metadata | metadata)


def _rate(sets: list[Element], options: ReadOptions) -> float:
    """Of sets of sequences that were recorded at the same time."""
    times = set()
    for one in sets:
        values = [
            sequence.find("value") for sequence in one.findall("component/sequence")
            if attribute_at(sequence, "code", "code").startswith("TIME_")
        ]  # fmt: skip
        if len(values) != 1 or values[0] is None:
            raise BadRecord(f"a set of sequences has {len(values)} of times, not one")
        kind = values[0].get("type", "")
        if not kind.startswith("GLIST_"):
            raise BadRecord(f"times are {quoted(kind, 20)}; only even steps (GLIST) are read yet")
        times.add(
            tuple(attribute_at(values[0], *place) for place in
                  (("head", "value"), ("increment", "value"), ("increment", "unit")))
        )  # fmt: skip
    if len(times) != 1:
        raise BadRecord(f"leads lie in {len(times)} stretches of time; only one is read yet")
    _, increment, unit = times.pop()
    if not increment:
        return rate_of("", "the increment of time", options)
    if unit not in _SECONDS:
        raise BadRecord(f"the increment of time has the unit {quoted(unit, 20)}, not s, ms or us")
    step = decimal(increment, "the increment of time") * _SECONDS[unit]
    if step <= 0:
        raise BadRecord(f"the increment of time is {step:g} s")
    # 1 / 0.002 and the like are whole numbers that a division may miss by its last bit.
    return round(1 / step, 6)


def _values(sequence: Element, options: ReadOptions) -> npt.NDArray[np.float64]:
    """Millivolts of one lead, or the unit of the channels that are read."""
    name, value = attribute_at(sequence, "code", "code"), sequence.find("value")
    kind = "" if value is None else value.get("type", "")
    if kind != "SLIST_PQ":
        raise BadRecord(f"{name} has values of type {quoted(kind, 20)}, not read yet")
    digits = numbers_in(text_at(value, "digits"), f"{name}: digits")
    if not len(digits):
        raise BadRecord(f"{name}: has no digits")
    origin, scale = (_quantity(value, part, name, options) for part in ("origin", "scale"))
    if scale == 0:
        raise BadRecord(f"{name}: scale is 0")
    return np.where(digits == INVALID, np.nan, origin + scale * digits)


def _quantity(value: Element | None, part: str, name: str, options: ReadOptions) -> float:
    amount = decimal(attribute_at(value, part, "value"), f"{name}: {part}")
    unit = unit_of(attribute_at(value, part, "unit"), f"the unit of {part}", options)
    try:
        factor = millivolts_per(unit) if options.channels is None else options.channels.factor(unit)
    except LatentcastError as error:
        raise BadRecord(f"{name}: {part}: {error}") from None
    return amount * factor


def _about(root: Element, series: Element) -> tuple[str | None, dict[str, Any]]:
    assignment = "componentOf/timepointEvent/componentOf/subjectAssignment"
    subject = root.find(f"{assignment}/subject/trialSubject")
    person = None if subject is None else subject.find("subjectDemographicPerson")
    recorded = _time(series) or _time(root)
    born = moment(attribute_at(person, "birthTime", "value"))
    age = {"value": "", "unit": ""}
    for observation in root.findall("controlVariable/relatedObservation"):
        if attribute_at(observation, "code", "code") == _REPORTED_AGE:
            age = {key: attribute_at(observation, "value", key) for key in age}
    device = "author/seriesAuthor"
    maker = text_at(series, f"{device}/manufacturerOrganization/name")
    model = text_at(series, f"{device}/manufacturedSeriesDevice/manufacturerModelName")
    metadata = age_metadata(age["value"], age["unit"], born, recorded)
    metadata |= sex_metadata(attribute_at(person, "administrativeGenderCode", "code"))
    sites = (
        "location/testingSite/location/name",
        f"{assignment}/componentOf/clinicalTrial/location/trialSite/location/name",
    )
    site = next((text for text in (text_at(root, path) for path in sites) if text), "")
    metadata |= described(device=f"{maker} {model}", site=site)
    if recorded is not None:
        metadata["recording_date"] = recorded.isoformat()
    # The root of an id is that of all subjects of a trial.
    patient = attribute_at(subject, "id", "extension")
    return patient_of(patient), metadata


def _time(element: Element) -> datetime | None:
    found = (
        moment(attribute_at(element, f"effectiveTime/{at}", "value")) for at in ("low", "center")
    )
    return next((time for time in found if time is not None), None)


FORMAT = FileFormat("aecg", has_root("AnnotatedECG"), read)
