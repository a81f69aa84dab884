"""Leads by number, as SCP-ECG (EN 1064, table 5.6.3) has them; ISO/IEEE 11073 (MDC, partition 2)
and so DICOM and HL7 took over the numbers."""

from __future__ import annotations

_LEADS = (
    "I II V1 V2 V3 V4 V5 V6 V7 V2R V3R V4R V5R V6R V7R X Y Z CC5 CM5 LA RA LL fI fE fC fA fM fF fH"
)
LEAD_OF_CODE: dict[int, str] = dict(enumerate(_LEADS.split(), start=1))
LEAD_OF_CODE |= dict(enumerate(["III", "aVR", "aVL", "aVF", "-aVR", "V8", "V9"], start=61))
"""Canonical names where a lead has one."""
