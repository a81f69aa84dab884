"""Which part of a recording is read: every sample encodes its time and its lead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from latentcast.data.loader import Loader
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, true
from latentcast.verification.observe.recordings import (
    Floats,
    config_for,
    has_twelve_leads,
    recordings,
)
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 1: data order and crops are functions of (seed, step, sample)"
BATCH, ATTEMPTS = 32, 8
MANY = 20_000
"""Crops whose starts are computed and not read, since few come near the end."""

NEEDS = has_twelve_leads


def _loader(twin: Twin, drawn: bool = True) -> Loader:
    clock = recordings(twin).clock
    changes = {"train.batch_size": BATCH, "train.random_crop": drawn}
    return Loader(clock, clock.rows("train"), config_for(twin, clock, **changes))


def _instants(twin: Twin, drawn: bool = True) -> Floats:
    """When each sample of the first crops was taken: ``(crops, length, leads)``."""
    loader = _loader(twin, drawn)
    counts = [loader.batch(attempt).samples.numpy() for attempt in range(ATTEMPTS)]
    return recordings(twin).instants(np.concatenate(counts))


def _requested(twin: Twin) -> tuple[npt.NDArray[np.int64], int]:
    """Where many crops begin, and where the last one may."""
    _, starts, length = _loader(twin).request(np.arange(MANY))
    return starts, int(recordings(twin).clock.lengths[0]) - length


def _draws(twin: Twin) -> bool:
    return twin.config.train.random_crop


@claim("crop.inside", "A crop lies inside its record, sample after sample, all leads of the same "
       "instant.", source=OURS)  # fmt: skip
def inside(twin: Twin) -> Evidence:
    instants = _instants(twin, twin.config.train.random_crop)
    starts, last = _requested(twin)
    apart = np.nan_to_num(instants.max(-1) - instants.min(-1), nan=np.inf)
    return all_of(
        equal("samples outside the record", int(np.isnan(instants).sum()), 0),
        equal("steps that are not to the next sample", int((np.diff(instants, axis=1) != 1).sum()),
              0),
        at_most("last sample", float(np.nanmax(instants)),
                int(recordings(twin).clock.lengths[0]) - 1),
        at_most("leads apart by, samples", float(apart.max()), 0),
        equal(f"of {MANY} crops, beyond the record", int(((starts < 0) | (starts > last)).sum()),
              0),
        crops=len(instants),
    )  # fmt: skip


@claim("crop.per-sample", "Crops are drawn for each sample, evenly over all of the record.",
       source=OURS, about=_draws)  # fmt: skip
def per_sample(twin: Twin) -> Evidence:
    starts, (requested, last) = _instants(twin)[:, 0, 0], _requested(twin)
    fewest = min(len(set(batch)) for batch in starts.reshape(ATTEMPTS, BATCH).tolist())
    return all_of(
        above("different starts in a batch", fewest, BATCH // 2),
        at_most("mean start of the room, from a half", abs(float(starts.mean()) / last - 0.5),
                6 / np.sqrt(12 * len(starts))),
        equal(f"first of {MANY}", int(requested.min()), 0),
        equal(f"last of {MANY}", int(requested.max()), last),
        read=f"{starts.min():.0f} to {starts.max():.0f}",
    )  # fmt: skip


@claim("crop.per-visit", "A record is cropped elsewhere when it is met again.",
       source=OURS, about=_draws)  # fmt: skip
def per_visit(twin: Twin) -> Evidence:
    rows, starts, _ = _loader(twin).request(np.arange(ATTEMPTS * BATCH))
    alike, read = list[bool](), _instants(twin)[:, 0, 0]
    for row in set(rows.tolist()):
        own = read[rows == row]
        alike += (own[1:] == own[:-1]).tolist()
    return all_of(
        at_most("share with the same crop", sum(alike) / max(1, len(alike)), 0.2),
        equal("read elsewhere than requested", int((read != starts).sum()), 0),
        records_met_again=len(alike),
    )


@claim("crop.by-seed", "Where a crop begins is a function of seed and visit, of no global "
       "generator.", source=OURS, about=_draws)  # fmt: skip
def by_seed(twin: Twin) -> Evidence:
    """Read in order and alone, after others drew from every global generator."""
    loader = _loader(twin)
    in_order = [loader.batch(attempt) for attempt in range(4)][3]
    np.random.seed(7)
    torch.manual_seed(7)
    alone = _loader(twin).batch(3)
    same = torch.equal(in_order.samples, alone.samples)
    return all_of(true("attempt 3 is the same in order and alone", same))


@claim("crop.middle", "Where none is drawn, a crop is the middle of its record.",
       source=OURS)  # fmt: skip
def middle(twin: Twin) -> Evidence:
    instants = _instants(twin, drawn=False)
    begin = (int(recordings(twin).clock.lengths[0]) - instants.shape[1]) // 2
    starts = instants[:, 0, 0]
    return all_of(
        equal("crops that are not the middle", int((starts != begin).sum()), 0),
        crops=len(starts), first=f"{starts.min():.0f} to {starts.max():.0f}", of_the_middle=begin,
    )  # fmt: skip
