"""FHIR R4: an ECG as an ``Observation`` with ``SampledData``, and an answer as another.

A component is a lead, named by its MDC code (IEEE 11073-10101) or by text; ``value = data × factor
+ origin`` in the unit of ``origin``. The answer is marked as asserted by artificial intelligence
(``AIAST``), preliminary, and names the Observation it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.errors import LatentcastError, quoted
from latentcast.serving.answers import Answer, Label
from latentcast.signals.leads import canonical_name, canonical_names
from latentcast.signals.readers.file_format import check_size
from latentcast.signals.readers.lead_codes import LEAD_OF_CODE
from latentcast.signals.recording import Recording, from_signal, hertz, millivolts_per
from latentcast.source import BadRecord

MEDIA_TYPE = "application/fhir+json"
AI_ASSERTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
UNITS = "http://unitsofmeasure.org"
SUBJECT = "fhir"
"""In the metadata of a recording: what its answer takes over."""
_MDC = 131072
"""Codes of partition 2 of IEEE 11073-10101 are this and more; their last byte is the lead."""
_CHARACTERS = re.compile(r"[-+.0-9eEUL\s]*")


def recording_of(resource: Mapping[str, Any], unit: str | None = None) -> Recording:
    """The recording that an Observation holds.

    Args:
        resource: the parsed JSON.
        unit: of samples whose origin has none: V, mV, uV or nV.

    Raises:
        BadRecord: it is no Observation, or its data are no ECG.
    """
    kind = resource.get("resourceType")
    if kind != "Observation":
        raise BadRecord(f"resourceType is {quoted(str(kind), 40)}, and not 'Observation'")
    parts = [resource, *_list(resource, "component")]
    components = [part for part in parts if "valueSampledData" in part]
    if not components:
        raise BadRecord("has no component with valueSampledData")
    check_size(len(components), 1)
    names = canonical_names([_lead_of(_object(part, "code")) for part in components])
    samples = [_samples(_object(part, "valueSampledData"), unit) for part in components]
    if len({rate for rate, _ in samples}) > 1 or len({len(row) for _, row in samples}) > 1:
        raise BadRecord("its leads differ in period or number of samples")
    signal = np.stack([row for _, row in samples]).astype(np.float32)
    kinds = {"subject": dict, "effectiveDateTime": str, "id": str}
    taken = {name: resource[name] for name, of in kinds.items() if type(resource.get(name)) is of}
    name = str(taken.get("id", "observation"))[:200]
    about = {"format": "fhir", SUBJECT: taken}
    return from_signal(signal, names, samples[0][0], name, metadata=about)


def _samples(data: Mapping[str, Any], unit: str | None) -> tuple[float, npt.NDArray[np.float64]]:
    """Rate in Hz and millivolts of one SampledData."""
    if data.get("dimensions", 1) != 1:
        raise BadRecord("has SampledData of several dimensions; send a component for each lead")
    origin = _object(data, "origin")
    stated = origin.get("code") or origin.get("unit") or unit
    if not isinstance(stated, str):
        raise BadRecord("the origin of its SampledData has no unit; give one, such as ?unit=uV")
    factor = _number(data, "factor", 1.0), millivolts_per(stated)
    text = data.get("data", "")
    if not isinstance(text, str) or not _CHARACTERS.fullmatch(text):
        raise BadRecord("has SampledData.data that is no list of numbers, E, U and L")
    tokens = text.split()
    check_size(1, len(tokens))
    try:
        values = np.array([np.nan if token in ("E", "U", "L") else float(token)
                           for token in tokens])  # fmt: skip
    except ValueError as error:
        raise BadRecord(f"has SampledData.data that is no list of numbers ({error})") from None
    with np.errstate(over="ignore"):
        millivolts = (values * factor[0] + _number(origin, "value", 0.0)) * factor[1]
    period = _number(data, "period", 0.0)
    if not period > 0:
        raise BadRecord(f"has a period of {period:g} ms")
    return hertz(1000.0 / period, "the rate of its period"), millivolts


def _lead_of(code: Mapping[str, Any]) -> str:
    """By the first name that is one of a lead."""
    names = [str(c[key]) for c in _list(code, "coding") for key in ("code", "display") if key in c]
    names += [str(code["text"])] if "text" in code else []
    for name in names:
        number = int(name) - _MDC if re.fullmatch(r"\d{1,7}", name) else -1
        if number >= 0 and (lead := LEAD_OF_CODE.get(number % 256)) is not None:
            return lead
        try:
            return canonical_name(name.removeprefix("MDC_ECG_ELEC_POTL_"))
        except LatentcastError:
            continue
    listed = ", ".join(quoted(name, 30) for name in names) or "nothing"
    raise BadRecord(f"a component is named {listed}, which is no lead")


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(found := parent.get(name), dict):
        raise BadRecord(f"{name} is missing or no object")
    return found


def _list(parent: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = parent.get(name, [])
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise BadRecord(f"{name} is no list of objects")
    return found


def _number(parent: Mapping[str, Any], name: str, default: float) -> float:
    found = parent.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise BadRecord(f"{name} is {quoted(str(found), 20)}, and no number")
    try:
        return float(found)
    except OverflowError:
        raise BadRecord(f"{name} is no number of any measurement") from None


def observation_of(answer: Answer, recording: Recording) -> dict[str, Any]:
    """An answer as a preliminary Observation: a component for each label and for the embedding.

    The embedding is one sample of as many dimensions as it has numbers; its period is the length
    of the recording.
    """
    source = recording.metadata.get(SUBJECT, {})
    components = [] if answer.prediction is None else [
        _component(label, probability=answer.prediction.target != "regression")
        for label in answer.prediction.labels
    ]  # fmt: skip
    if (embedding := answer.embedding) is not None:
        sampled = {
            "origin": {"value": 0, "system": UNITS, "code": "1"},
            "period": round(1000 * recording.seconds, 3),
            "dimensions": len(embedding.vector),
            "data": " ".join(f"{number:.7f}" for number in embedding.vector),
        }
        title = f"embedding: {embedding.layer}, {embedding.pooling}"
        components.append({"code": {"text": title}, "valueSampledData": sampled})
    task = "ECG embedding" if answer.prediction is None else answer.prediction.task
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "meta": {"security": [AI_ASSERTED], "tag": [AI_ASSERTED]},
        "status": "preliminary",
        "code": {"text": f"latentcast: {task}"},
        "device": {"display": f"latentcast, {answer.model}"},
        "note": [{"text": text} for text in (answer.notice, *answer.remarks)],
        "component": components,
    }
    found |= {name: source[name] for name in ("subject", "effectiveDateTime") if name in source}
    if "id" in source:
        found["derivedFrom"] = [{"reference": f"Observation/{source['id']}"}]
    return found


def _component(label: Label, probability: bool) -> dict[str, Any]:
    quantity = {"value": round(label.value, 6), "system": UNITS, "code": "1"}
    unit = {"unit": "probability"} if probability else {}
    found: dict[str, Any] = {"code": {"text": label.name}, "valueQuantity": quantity | unit}
    if label.threshold is not None:
        limit = {"value": round(label.threshold, 6), "system": UNITS, "code": "1"}
        text = "called from this probability on, as chosen on validation data"
        found["referenceRange"] = [{"high": limit, "text": text}]
    return found
