"""One ECG in two files: at two rates, with another gain or offset, or cropped.

Compared is how the mean of 50 ms changes from one 50 ms to the next, every 10 ms and in all leads:
it depends on neither gain nor offset nor rate. Stretches of two seconds around single beats are the
fingerprints, so that a recording need not begin where its copy does. Stretches of different ECGs
may be alike; what two recordings have in common beyond them is not. Over all of it the files of
PTB-XL at 100 and at 500 Hz come to 0.93 and more, different ECGs of it to 0.8 at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.store import Store
from latentcast.signals.leads import DERIVED_FROM_I_AND_II
from latentcast.signals.recording import INVALID

RATE = 100
"""Changes a second; a stretch has every fifth."""
BOX, BEFORE, STRETCH = 5, 30, 200
"""A mean, what of a stretch comes before its beat, and a stretch; in changes."""
APART = 30
"""Changes from one beat to the next at the least, and half of that is looked around."""
LONGEST = 60
"""Seconds of a piece: longer recordings are compared piece by piece."""
SHORTEST_OVERLAP = 3 * RATE
SAME = 0.95
CANDIDATES = 8
"""Pieces whose stretches are most alike; these are compared over all that they share."""
BATCH = 64

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """Two recordings that are one; ``shift`` is where the second begins in the first, in seconds.

    ``correlation`` is that of their changes over all that they share.
    """

    record_id: str
    other_id: str
    correlation: float
    shift: float


@dataclass(frozen=True)
class _Pieces:
    """Recordings of a store in pieces of :data:`LONGEST` seconds at the most: row and first sample
    of each, and the columns that are compared."""

    store: Store
    rows: Ints
    starts: Ints
    columns: list[int]

    @classmethod
    def of(cls, store: Store, rows: Ints, leads: Sequence[str], most: int | None) -> _Pieces:
        """``most`` pieces at the most, evenly over the recordings."""
        length = int(LONGEST * store.sampling_rate)
        counts = np.maximum(-(-store.lengths[rows].astype(np.int64) // length), 1)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = np.arange(len(number))
        if most is not None and len(number):
            kept = np.linspace(0, len(number) - 1, min(most, len(number))).astype(np.int64)
        columns = [store.leads.index(lead) for lead in leads]
        return cls(store, np.repeat(rows, counts)[kept], number[kept] * length, columns)

    def __len__(self) -> int:
        return len(self.rows)

    def changes(self, pieces: Ints) -> Floats:
        """Float32 ``(pieces, changes, leads)``; 0 where a mean has fewer than half its samples."""
        rows, rate = self.rows[pieces], self.store.sampling_rate
        steps = int(min((self.store.lengths[rows] - self.starts[pieces]).max(), LONGEST * rate))
        edges = np.round(np.arange(int(steps * RATE / rate)) * rate / RATE).astype(np.int64)
        if len(edges) < 2 * BOX:
            return np.zeros((len(pieces), 0, len(self.columns)), np.float32)
        counts = self.store.take(rows, self.starts[pieces], steps)[:, :, self.columns]
        measured = counts != INVALID
        sums = np.add.reduceat(np.where(measured, counts, 0), edges, 1, dtype=np.float32)
        number = np.add.reduceat(measured, edges, 1, dtype=np.float32)
        sums, number = _boxes(sums), _boxes(number)
        filled = number * 2 >= BOX * max(rate / RATE, 1)
        means = np.divide(sums, number, out=np.zeros_like(sums), where=filled)
        change = means[:, BOX:] - means[:, :-BOX]
        return change * (filled[:, BOX:] & filled[:, :-BOX])

    def each(self, pieces: Ints) -> Iterator[tuple[int, Floats]]:
        """Some pieces, and the changes ``(changes, leads)`` of each."""
        for begin in range(0, len(pieces), BATCH):
            part = pieces[begin : begin + BATCH]
            yield from zip(part.tolist(), self.changes(part), strict=True)


def same_recordings(
    store: Store, rows: Ints, others: Store, trained: Ints, most: tuple[int, int] | None = None
) -> list[Match]:
    """The ``rows`` that a ``trained`` recording of a store, the same or another, equals but for
    gain, offset, sampling rate, cropping and noise; in the leads that both have.

    ``most`` pieces of each are compared, evenly over them. Of recordings below three seconds, and
    of what two of them share below that, nothing is found.
    """
    leads = [lead for lead in store.leads if lead in others.leads]
    if {"I", "II"} <= set(leads):  # what follows from these adds nothing
        leads = [lead for lead in leads if lead not in DERIVED_FROM_I_AND_II]
    if not leads:
        return []
    few, many = most or (None, None)
    tested, pieces = _Pieces.of(store, rows, leads, few), _Pieces.of(others, trained, leads, many)
    found = dict[tuple[int, int], Match]()
    for begin in range(0, len(tested), 16 * BATCH):
        part = np.arange(begin, min(begin + 16 * BATCH, len(tested)))
        for one, candidates in _candidates(tested, part, pieces):
            (first,) = tested.changes(np.array([one]))
            for other in candidates:
                pair = (int(tested.rows[one]), int(pieces.rows[other]))
                if pair in found:
                    continue
                (second,) = pieces.changes(np.array([other]))
                correlation, lag = _agreement(first, second)
                if correlation > SAME:
                    # Of the recordings, from that of the pieces.
                    shift = lag / RATE + tested.starts[one] / store.sampling_rate
                    shift -= pieces.starts[other] / others.sampling_rate
                    ids = str(store.record_ids[pair[0]]), str(others.record_ids[pair[1]])
                    found[pair] = Match(*ids, correlation, round(float(shift), 2))
    return list(found.values())


def _candidates(tested: _Pieces, part: Ints, pieces: _Pieces) -> Iterator[tuple[int, list[int]]]:
    """For each of some pieces, those whose stretches are most alike."""
    vectors, owners = _vectors(tested.each(part), sparse=True)
    if not len(vectors):
        return
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    likeness = np.full((len(firsts), CANDIDATES), -1.0, np.float32)
    best = np.zeros((len(firsts), CANDIDATES), np.int64)
    for begin in range(0, len(pieces), BATCH):
        block = np.arange(begin, min(begin + BATCH, len(pieces)))
        theirs, of = _vectors(pieces.each(block))
        if not len(theirs):
            continue
        starts = np.flatnonzero(np.diff(of, prepend=-1))
        alike = np.maximum.reduceat(vectors @ theirs.T, starts, axis=1)
        alike = np.hstack([likeness, np.maximum.reduceat(alike, firsts, axis=0)])
        names = np.hstack([best, np.tile(of[starts], (len(firsts), 1))])
        order = np.argpartition(-alike, CANDIDATES - 1, axis=1)[:, :CANDIDATES]
        likeness, best = (np.take_along_axis(a, order, axis=1) for a in (alike, names))
    for owner, row, others in zip(owners[firsts].tolist(), likeness, best.tolist(), strict=True):
        candidates = [o for o, like in zip(others, row, strict=True) if like > SAME / 2]
        if candidates:
            yield owner, candidates


def _vectors(changes: Iterator[tuple[int, Floats]], sparse: bool = False) -> tuple[Floats, Ints]:
    """The stretches of some pieces as unit vectors, and whose each is; with ``sparse`` only so many
    that any three seconds have one."""
    vectors, owners = list[Floats](), list[int]()
    for owner, change in changes:
        places, stretches = _stretches(change)
        last = -STRETCH
        for place, stretch in zip(places.tolist(), stretches, strict=True):
            if not sparse or place - last >= RATE:
                vectors.append(stretch)
                owners.append(owner)
                last = place
    return np.array(vectors, np.float32), np.array(owners, np.int64)


def _boxes(values: Floats) -> Floats:
    """Sums of :data:`BOX` neighbours along the second axis."""
    count = values.shape[1] - BOX + 1
    total = values[:, :count].copy()
    for shift in range(1, BOX):
        total += values[:, shift : shift + count]
    return total


def _stretches(change: Floats) -> tuple[Ints, Floats]:
    """Where beats are in ``(changes, leads)``, and the stretch around each as a unit vector."""
    energy = np.abs(change).sum(axis=1)
    padded = np.pad(energy, APART)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * APART + 1).max(axis=1)
    peaks = (energy == highest) & (energy > np.median(highest) / 2)
    places = np.flatnonzero(peaks)
    places = places[(places >= BEFORE) & (places + STRETCH - BEFORE <= len(change))]
    cells = places[:, None] + np.arange(-BEFORE, STRETCH - BEFORE, BOX)
    flat = change[cells].reshape(len(places), STRETCH // BOX * change.shape[1])
    length = np.linalg.norm(flat, axis=1)
    return places[length > 0], flat[length > 0] / length[length > 0, None]


def _agreement(one: Floats, other: Floats) -> tuple[float, int]:
    """The highest correlation of two pieces, over what both measured, of all ways to shift one; and
    where the second begins in the first."""
    size = 2 ** (len(one) + len(other) - 1).bit_length()

    def products(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Sums of the products of what lies together, for each shift."""
        spectrum = np.fft.rfft(first, size, axis=0) * np.fft.rfft(second, size, axis=0).conj()
        return np.asarray(np.fft.irfft(spectrum.sum(axis=1), size))

    mask, other_mask = one != 0, other != 0
    overlap = products(mask.any(axis=1, keepdims=True), other_mask.any(axis=1, keepdims=True))
    norms = products(one**2, other_mask) * products(mask, other**2)
    enough = (overlap >= SHORTEST_OVERLAP - 2 * BOX) & (norms > 0)
    correlations = np.zeros(size)
    np.divide(products(one, other), np.sqrt(np.abs(norms)), out=correlations, where=enough)
    best = int(correlations.argmax())
    return float(correlations[best]), best if best < len(one) else best - size
