"""What a data manager signs of a store of recordings: counts, durations, leads, amplitudes, faults.

Amplitudes are exact: every valid sample is counted, in memory that does not grow with the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latentcast.data.inspect import Description, Kind, describe
from latentcast.data.store import Store
from latentcast.signals.recording import INVALID

Ints = npt.NDArray[np.int64]

PERCENTILES = (0, 0.1, 1, 5, 50, 95, 99, 99.9, 100)
"""Of the amplitudes of a lead; 0 and 100 are the extremes."""
_LENGTHS = (0, 1, 25, 50, 75, 99, 100)
_MOST_SAMPLES = 2**21
"""Samples of one lead that are looked at together."""
_VALUES = 2**16
_NOTED = {
    "kind": "read as", "fingerprint": "fingerprint of the source",
    "archive_sha256": "sha256 of the archive", "listed": "records listed",
    "latentcast": "version of latentcast",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One table, whose first column names the rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Summary:
    """All tables of a store."""

    path: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Counted:
    """Every sample of a store, counted.

    Attributes:
        valid: int64 ``(N, leads)``, valid samples of each record.
        histogram: int64 ``(leads, 65536)``, valid samples of each count from -32768 on.
    """

    valid: Ints
    histogram: Ints

    @classmethod
    def of(cls, store: Store) -> Counted:
        """Reads all of it, a few million samples at a time."""
        leads = len(store.leads)
        valid = np.zeros((len(store), leads), dtype=np.int64)
        histogram = np.zeros((leads, _VALUES), dtype=np.int64)
        for rows in _together(store.lengths):
            crops = store.take(rows)
            valid[rows] = (crops != INVALID).sum(axis=1)
            for lead in range(leads):
                unsigned = np.ascontiguousarray(crops[..., lead]).view(np.uint16).ravel()
                histogram[lead] += np.bincount(unsigned, minlength=_VALUES)
        histogram = np.roll(histogram, _VALUES // 2, axis=1)
        histogram[:, INVALID + _VALUES // 2] = 0
        return cls(valid, histogram)

    def percentiles(self, lead: int, shares: Sequence[float]) -> list[int] | None:
        """Counts below or at which these percents of the lead's valid samples lie."""
        below = self.histogram[lead].cumsum()
        if not below[-1]:
            return None
        ranks = np.maximum(np.ceil(np.array(shares) / 100 * below[-1]), 1)
        return [int(place) - _VALUES // 2 for place in np.searchsorted(below, ranks)]


def _together(lengths: Ints) -> Iterator[Ints]:
    """Rows in their order, as many as make a block."""
    begin = 0
    while begin < len(lengths):
        longest, end = 0, begin
        while end < len(lengths):
            longest = max(longest, int(lengths[end]))
            if end > begin and longest * (end + 1 - begin) > _MOST_SAMPLES:
                break
            end += 1
        yield np.arange(begin, end)
        begin = end


def summarise(store: Store, description: Description | None = None) -> Summary:
    """The tables of a store of recordings; reads every sample.

    Args:
        description: of the store, where it was made before.

    Raises:
        LatentcastError: it holds images.
    """
    store.require("ecg")
    description, counted = description or describe(store), Counted.of(store)
    quarantined = sum(kind.count for kind in description.quarantine.values())
    provenance = store.manifest.provenance
    options = provenance.get("options") or {}
    contents = {
        **description.contents,
        **{text: str(provenance[name]) for name, text in _NOTED.items() if name in provenance},
        "options": ", ".join(f"{name}={value}" for name, value in options.items()),
        "sha256 of the manifest": store.manifest.digest,
        "records without a patient": f"{int((store.patient_ids == '').sum()):,}",
        "in quarantine": f"{quarantined:,}",
        "unit": f"{store.manifest.unit}, {store.scale:g} a count",
    }
    duplicates = {name: kind for name, kind in description.quarantine.items()
                  if name.startswith("duplicate record")}  # fmt: skip
    return Summary(
        str(store.path),
        (
            Section("Contents", ("what", "value"), tuple(contents.items())),
            _splits(store),
            _durations(store),
            _rates(store),
            _leads(store, counted),
            _amplitudes(store, counted),
            _kinds("Quality findings", description.findings),
            _kinds("Duplicates, left out", duplicates),
            _kinds("Quarantine, by reason", description.quarantine),
        ),
    )


def _splits(store: Store) -> Section:
    rows = []
    for split in store.manifest.splits:
        chosen = store.rows(split)
        named = store.patient_ids[chosen]
        hours = store.lengths[chosen].sum() / store.sampling_rate / 3600
        patients = f"{len(set(named[named != ''].tolist())):,}"
        rows.append((split, f"{len(chosen):,}", patients, f"{hours:,.2f}"))
    return Section("Splits", ("split", "records", "patients with a name", "hours"), tuple(rows))


def _durations(store: Store) -> Section:
    seconds = np.percentile(store.lengths / store.sampling_rate, _LENGTHS, method="inverted_cdf")
    rows = zip(map(_percent, _LENGTHS), (f"{value:g}" for value in seconds), strict=True)
    return Section("Durations", ("percent of the records", "last at most (s)"), tuple(rows))


def _rates(store: Store) -> Section:
    rates = Counter(
        float(metadata.get("source_sampling_rate", store.sampling_rate))
        for metadata in store.all_metadata()
    )
    rows = ((f"{rate:g}", f"{times:,}") for rate, times in rates.most_common())
    title = f"Sampling rates of the files (the store has {store.sampling_rate:g} Hz)"
    return Section(title, ("Hz", "records"), tuple(rows))


def _leads(store: Store, counted: Counted) -> Section:
    """Of each lead in how many records it is missing, and the time that is not valid."""
    lost = (store.lengths[:, None] - counted.valid) / store.sampling_rate
    stretches = {kind: np.zeros(len(store.leads)) for kind in ("flat", "saturated")}
    for row, metadata in enumerate(store.all_metadata()):
        for finding in metadata.get("quality_findings", []):
            if finding["kind"] in stretches:
                for name in set(finding["leads"]) & set(store.leads):
                    lead = store.leads.index(name)
                    stretches[finding["kind"]][lead] += lost[row, lead]
    rows = [
        (
            name,
            f"{int((counted.valid[:, lead] == 0).sum()):,}",
            f"{lost[:, lead].sum():,.2f}",
            f"{100 * lost[:, lead].sum() * store.sampling_rate / store.lengths.sum():.3f} %",
            *(f"{seconds[lead]:,.2f}" for seconds in stretches.values()),
        )
        for lead, name in enumerate(store.leads)
    ]
    head = (
        "lead", "records without it", "not valid (s)", "of all", "of it in flat leads (s)",
        "in saturated leads (s)",
    )  # fmt: skip
    return Section("Leads", head, tuple(rows))


def _amplitudes(store: Store, counted: Counted) -> Section:
    rows = []
    for lead, name in enumerate(store.leads):
        found = counted.percentiles(lead, PERCENTILES)
        values = ["none"] * len(PERCENTILES)
        if found is not None:
            values = [f"{value * store.scale:.3f}" for value in found]
        rows.append((name, *values))
    title = f"Amplitudes of valid samples ({store.manifest.unit}), by percent at or below"
    return Section(title, ("lead", *map(_percent, PERCENTILES)), tuple(rows))


def _percent(share: float) -> str:
    named: dict[float, str] = {0: "lowest", 50: "median", 100: "highest"}
    return named.get(share, f"{share:g} %")


def _kinds(title: str, kinds: dict[str, Kind]) -> Section:
    rows = ((name, f"{kind.count:,}", "; ".join(kind.examples)) for name, kind in kinds.items())
    return Section(title, ("kind", "records", "examples"), tuple(rows) or (("none", "0", ""),))
