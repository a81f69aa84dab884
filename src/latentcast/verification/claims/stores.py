"""What a store gives back: crops a sample at a time, sums, what is damaged in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from latentcast.data import statistics
from latentcast.data.codecs.counts import StoredCounts
from latentcast.data.index import check_columns, check_labels, check_places, check_runs
from latentcast.data.labels import Labels
from latentcast.data.loader import ahead, places, split
from latentcast.data.rows import whole_numbers
from latentcast.data.statistics import ChannelSums
from latentcast.signals.recording import INVALID
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, none, true
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 4: physical until the last moment"
QUIET = "our design, law 6: nothing fails quietly"
LENGTHS, SHARDS, LEADS = (7, 12, 1, 9, 30), (0, 0, 0, 1, 1), 3
RUNS = ((1, 0, 2, 5), (1, 2, 0, 12), (4, 1, 27, 30), (4, 1, 3, 4))
"""Record, lead, start and stop of what was measured and is not valid."""


def _stored(seed: int) -> tuple[StoredCounts, list[npt.NDArray[np.int16]]]:
    """Two shards of records of other lengths, and the records."""
    generator = np.random.default_rng(seed)
    records = [generator.integers(-900, 900, (n, LEADS)).astype(np.int16) for n in LENGTHS]
    records[3][4:6, 1] = INVALID
    offsets = (0, 7, 19, 0, 9)
    columns = {
        "shard": np.array(SHARDS), "offset": np.array(offsets), "length": np.array(LENGTHS),
        "invalid": np.array(RUNS),
    }  # fmt: skip
    shards = [np.concatenate(records[:3]), np.concatenate(records[3:])]
    manifest: Any = SimpleNamespace(leads=("a", "b", "c"), scale=0.002)
    return StoredCounts(manifest, columns, shards), records


def _cut(records: list[npt.NDArray[np.int16]], row: int, start: int, length: int) -> Any:
    """A crop a sample and a lead at a time."""
    out = np.full((length, LEADS), INVALID, np.int16)
    for n in range(length):
        for lead in range(LEADS):
            place = start + n
            runs = [(a, b) for record, of, a, b in RUNS if (record, of) == (row, lead)]
            if 0 <= place < LENGTHS[row] and not any(a <= place < b for a, b in runs):
                out[n, lead] = records[row][place, lead]
    return out


@claim("data.taken", "A crop is the counts of its record from its first sample on; what lies "
       "outside of the record or is not valid is marked as not measured, whatever was in the "
       "buffer; a recording is its counts times the scale.", source=OURS)  # fmt: skip
def taken(twin: Twin) -> Evidence:
    """A sample at a time: records of several lengths and shards, crops before, over and beyond."""
    stored, records = _stored(twin.seed)
    rows, wrong, first = np.array([4, 1, 0, 3, 2, 1]), 0, np.zeros(6, np.int64)
    for length in (1, 4, 12, 40):
        for begin in (-45, -6, -1, 0, 3, 8, 29, 30, 60):
            starts = begin + np.arange(6) % 2
            out = np.full((6, length, LEADS), 77, np.int16)
            crops = stored.take(rows, starts, length, out)
            wrong += crops is not out
            for crop, row, start in zip(crops, rows.tolist(), starts.tolist(), strict=True):
                wrong += int((crop != _cut(records, row, start, length)).sum())
    longest = stored.take(rows[1:], None, None, None)
    own = np.stack([_cut(records, row, 0, 12) for row in rows[1:].tolist()])
    gaps, flags, shares = [], 0, np.zeros(LEADS)
    for row, record in enumerate(records):
        signal, valid = stored.signal(row)
        measured = (record != INVALID).T
        expected = np.where(measured, record.T * 0.002, np.nan)
        gaps.append(float(np.nan_to_num(np.abs(signal - expected)).max()))
        flags += int((np.isnan(signal) != ~measured).sum())
        flags += int((valid != (_cut(records, row, 0, len(record)) != INVALID).T).sum())
        shares += (~valid).sum(1)
    return all_of(
        equal("samples that differ", wrong, 0),
        true("the longest of the chosen by default", bool(np.array_equal(longest, own))),
        equal("none chosen", str(stored.take(first[:0], None, None, None).shape), "(0, 0, 3)"),
        at_most("recording, largest difference", greatest(*gaps), 1e-6),
        equal("flags that differ", flags, 0),
        at_most("share that is not valid, difference",
                float(np.abs(stored.invalid_share() - shares / sum(LENGTHS)).max()), 1e-12),
    )  # fmt: skip


def _naive_sums(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Number, sum and sum of squares of each channel, in Python's integers."""
    chosen = [row[flags].tolist() for row, flags in zip(values, valid, strict=True)]
    return [
        [len(row) for row in chosen],
        [sum(row) for row in chosen],
        [sum(v * v for v in row) for row in chosen],
    ]


def _sums(found: ChannelSums) -> list[list[int]]:
    return [list(found.samples), list(found.total), list(found.squares)]


@claim(
    "data.sums",
    "The sums behind mean and deviation are exact whole numbers of the valid "
    "values, for one record or many at once, in whatever blocks they are added.",
    source="our design, data/statistics.py",
)
def sums(twin: Twin) -> Evidence:
    """In Python's integers; of full scale, which float32 could not add."""
    generator, wrong = np.random.default_rng(twin.seed), list[str]()
    counts = generator.integers(-32767, 32768, (3, 2, 100)).astype(np.int16)
    valid = generator.random((3, 2, 100)) < 0.7
    valid[1], valid[2, 0], valid[2, 1, 1:] = True, False, False
    every = np.ones((2, 100), bool)
    total, expected = ChannelSums.zero(2), np.zeros((3, 2), np.int64)
    for block in (16, 1 << 20):
        with mock.patch.object(statistics, "_BLOCK", block):
            for n, (record, flags) in enumerate(zip(counts, valid, strict=True)):
                one = ChannelSums.of(record, flags)
                if _sums(one) != _naive_sums(record, flags) or one.records != 1:
                    wrong.append(f"record {n} in blocks of {block}")
                total, expected = total + one, expected + np.array(_naive_sums(record, flags))
            for n, one in enumerate(ChannelSums.of_each(counts)):
                if _sums(one) != _naive_sums(counts[n], every) or one.records != 1:
                    wrong.append(f"record {n} of several, in blocks of {block}")
    if _sums(total) != expected.tolist() or total.records != 6:
        wrong.append("records together")
    if ChannelSums.from_json(asdict(total)) != total:
        wrong.append("written and read back")
    images = [generator.integers(0, 256, (130, 131, 3)).astype(np.uint8) for _ in range(3)]
    images[1][:] = 255
    for block in (1, 1 << 20):
        with mock.patch.object(statistics, "_BLOCK", block):
            every_image = [image.reshape(-1, 3).T.astype(np.int64) for image in images]
            naive = [_naive_sums(values, np.ones(values.shape, bool)) for values in every_image]
            for some in (images, images[:1], []):
                found_of = ChannelSums.of_images(some)
                if [_sums(one) for one in found_of] != naive[: len(some)]:
                    wrong.append(f"{len(some)} images, {block}")
                wrong += ["images counted"] * any(one.records != 1 for one in found_of)
    chosen = ChannelSums.of(counts[2], valid[2]) + ChannelSums.of(counts[2], ~valid[2] & False)
    leads, pixels = total.of_leads(0.25), total.of_pixels()
    few = chosen.of_leads(0.25)
    parts = []
    for name, found, unit in (("leads", leads, 0.25), ("pixels", pixels, 1 / 255)):
        rows = [np.concatenate([counts[n, c][valid[n, c]] for n in (0, 1, 2)]) for c in (0, 1)]
        gaps = [abs(m / (row.mean() * unit) - 1) for m, row in zip(found.mean, rows, strict=True)]
        gaps += [abs(s / (row.std() * unit) - 1) for s, row in zip(found.std, rows, strict=True)]
        parts.append(at_most(f"{name}: mean and deviation, relative", greatest(*gaps), 1e-9))
    return all_of(
        none("other sums", wrong),
        *parts,
        equal("of a channel without two values", str((few.mean, few.std)),
              str(((None, None), (None, None)))),
        equal("records, images, samples", f"{leads.records}, {pixels.images}, {leads.samples}",
              f"6, 6, {tuple(expected[0].tolist())}"),
    )  # fmt: skip


def _damaged(**changed: Any) -> Callable[[], None]:
    """The columns of an index of three records with one of them changed, checked."""
    columns = {
        "record_id": np.array(["a", "b", "c"]), "patient_id": np.array(["", "p", "p"]),
        "shard": np.array([0, 0, 1]), "offset": np.array([0, 5, 0]), "length": np.array([5, 4, 6]),
        "fold": np.array([1, 9, 10]), "metadata_offset": np.array([0, 2, 2, 9]),
        "label_codes": np.array(["x", "y"]), "label_indptr": np.array([0, 1, 1, 3]),
        "label_indices": np.array([0, 1, 0]), "label_values": np.array([1.0, 0.5, 0.0]),
        "invalid": np.array([[0, 1, 2, 5], [2, 0, 0, 1], [2, 0, 3, 6]]),
    } | changed  # fmt: skip
    shards = [np.zeros((9, 2), np.int16), np.zeros((6, 2), np.int16)]

    def check() -> None:
        check_columns(columns, 3)
        check_places(columns, shards, single=False)
        check_runs(columns["invalid"], columns["length"], 2)
        check_labels(Labels(("x", "y"), *(columns[f"label_{name}"] for name in
                                          ("indptr", "indices", "values"))))  # fmt: skip

    return check


@claim("data.index", "An index that does not fit its records and shards is refused, whatever is "
       "wrong with it: types, lengths, places beyond a shard, runs beyond a record, labels that "
       "are none.", source=QUIET)  # fmt: skip
def index(twin: Twin) -> Evidence:
    """One thing changed at a time; and a step to each limit that is no damage."""
    none_of, beyond, row = "is none of the 2", "beyond the end", np.array
    outside, whose = "outside its record", "is of no record"
    shape, order = "and there are 3 records", "does not ascend from 0"
    cases: dict[str, Case] = {
        "text for a number": (_damaged(fold=row(["1", "9", "x"])), "holds <U1"),
        "a number for text": (_damaged(patient_id=row([1, 2, 3])), "patient_id holds"),
        "whole likelihoods": (_damaged(label_values=row([1, 0, 0])), "label_values holds"),
        "floats for places": (_damaged(offset=row([0.0, 5, 0])), "offset holds float64"),
        "too few folds": (_damaged(fold=row([1, 9])), shape),
        "folds in two axes": (_damaged(fold=row([[1], [9], [2]])), shape),
        "values in two axes": (_damaged(label_values=np.ones((3, 1))), shape),
        "three numbers a run": (_damaged(invalid=np.zeros((1, 3), int)), shape),
        "runs in one axis": (_damaged(invalid=np.zeros(4, int)), shape),
        "boundaries, one less": (_damaged(metadata_offset=row([0, 2, 2])), shape),
        "boundaries, one alone": (_damaged(metadata_offset=row([0])), shape),
        "boundaries that fall": (_damaged(metadata_offset=row([0, 2, 1, 9])), order),
        "boundaries from 1": (_damaged(label_indptr=row([1, 1, 1, 3])), order),
        "a third shard": (_damaged(shard=row([0, 0, 2])), f"shard that {none_of}"),
        "a shard before": (_damaged(shard=row([-1, 0, 1])), f"shard that {none_of}"),
        "a record too long": (
            _damaged(length=row([5, 5, 6]), invalid=np.zeros((0, 4), int)),
            beyond,
        ),
        "an offset too far": (_damaged(offset=row([5, 5, 0])), beyond),
        "an offset before": (_damaged(offset=row([-1, 5, 0])), beyond),
        "a length below 0": (_damaged(length=row([5, -1, 6])), beyond),
        "a run of record 3": (_damaged(invalid=row([[3, 0, 0, 1]])), whose),
        "a run of record -1": (_damaged(invalid=row([[-1, 0, 0, 1]])), whose),
        "runs out of order": (_damaged(invalid=row([[2, 0, 0, 1], [0, 0, 0, 1]])), whose),
        "a run of lead 2": (_damaged(invalid=row([[0, 2, 0, 1]])), outside),
        "a run of lead -1": (_damaged(invalid=row([[0, -1, 0, 1]])), outside),
        "a run from -1": (_damaged(invalid=row([[0, 0, -1, 1]])), outside),
        "a run backwards": (_damaged(invalid=row([[0, 0, 3, 2]])), outside),
        "a run to 6 of 5": (_damaged(invalid=row([[0, 0, 0, 6]])), outside),
        "a label of code 2": (_damaged(label_indices=row([0, 2, 0])), f"label {none_of}"),
        "a label of code -1": (_damaged(label_indices=row([0, -1, 0])), f"label {none_of}"),
        "a value less": (_damaged(label_values=row([1.0, 0.5])), "3 labels, and 2 values"),
        "labels of no record": (_damaged(label_indptr=row([0, 1, 1, 2])), "3 labels"),
    }
    images = {"shard": row([0]), "offset": row([1]), "length": row([900])}
    pixels = [np.zeros((2, 8, 8, 3), np.uint8)]
    beyond_pixels = {**images, "offset": row([2])}
    cases["an image beyond"] = (lambda: check_places(beyond_pixels, pixels, single=True), beyond)
    return refusals(
        cases,
        {
            "as it was written": _damaged(),
            "ids as bytes": _damaged(record_id=row([b"a", b"b", b"c"])),
            "no metadata": _damaged(metadata_offset=np.zeros(0, int)),
            "an empty record and run": _damaged(length=row([5, 0, 6]), invalid=row([[1, 0, 0, 0]])),
            "an image at the end": lambda: check_places(images, pixels, single=True),
        },
    )


@claim("data.rows", "Rows, starts and lengths that are no whole numbers of the store are refused: "
       "a mask of truth values is no list of rows.", source=QUIET)  # fmt: skip
def rows(twin: Twin) -> Evidence:
    stored, two = _stored(0)[0], np.array([0, 1])
    small = np.zeros((2, 3, LEADS), np.int16)
    cases: dict[str, Case] = {
        "a mask": (lambda: whole_numbers([True, False], "rows"), "rows: is of the type bool"),
        "parts of rows": (lambda: whole_numbers([3.7], "rows"), "rows: is of the type float64"),
        "one number": (lambda: whole_numbers(3, "rows"), "rows: is of the type int"),
        "none": (lambda: whole_numbers(None, "rows"), "rows: is None"),  # type: ignore[arg-type]
        "starts of other rows": (lambda: stored.take(two, [0], 3, None), "starts has shape (1,)"),
        "half a sample": (lambda: stored.take(two, None, 2.5, None), "length: is 2.5"),  # type: ignore[arg-type]
        "another buffer": (lambda: stored.take(two, None, 4, small), "needed is int16"),
        "a buffer of floats": (lambda: stored.take(two, None, 3, small.astype(float)), "needed is"),
        "a list to fill": (lambda: stored.take(two, None, 3, []), "out: is a list"),  # type: ignore[arg-type]
    }
    empty = whole_numbers([], "rows")
    return all_of(
        refusals(cases, {"small numbers": lambda: whole_numbers(np.zeros(2, np.uint8), "rows")}),
        equal("type of no rows", str(empty.dtype), "int64"),
    )


@claim("data.pieces", "Each rank reads consecutive parts of each micro-batch, which differ in "
       "length by one at most; together they read each place once; a batch that has no sample "
       "for each is refused.", source="our design, law 1: the state is the step")  # fmt: skip
def pieces(twin: Twin) -> Evidence:
    """Counted out one place at a time, for batches that do not divide; and joined again."""
    wrong, batch = list[str](), twin.batch()
    for size, parts, ranks in ((6, 1, 1), (7, 2, 3), (16, 3, 4), (9, 9, 1), (8, 2, 4)):
        config = twin.config.model_copy(
            update={"train": twin.config.train.model_copy(
                update={"batch_size": size, "micro_batches": parts})}
        )  # fmt: skip
        own: list[list[int]] = [[] for _ in range(ranks)]
        begin = 0
        for part in range(parts):
            length = size // parts + (part < size % parts)
            for rank in range(ranks):
                share = length // ranks + (rank < length % ranks)
                own[rank] += range(begin, begin + share)
                begin += share
        found = [places(config, rank, ranks).tolist() for rank in range(ranks)]
        wrong += [f"{size} in {parts} on {ranks}"] * (found != own)
    cut = split(batch, 4)
    lengths = [len(piece) for piece in cut]
    joined = np.concatenate([piece.ids.numpy() for piece in cut]).tolist()
    same = all(np.array_equal(p.samples, batch.samples[a : a + len(p)]) for p, a in zip(
        cut, np.cumsum([0, *lengths[:-1]]), strict=True))  # fmt: skip
    most = twin.config.train.batch_size
    return all_of(
        none("other places", wrong),
        equal("lengths of four micro-batches", str(lengths), str([2, 2, 1, 1])),
        true("each with its own samples", same and joined == batch.ids.tolist()),
        refusals(
            {"more ranks than samples": (lambda: places(twin.config.updated(
                {"train.micro_batches": 1}), 0, most + 1), f"set it to {most + 1} or more")},
            {"as many": lambda: places(twin.config.updated({"train.micro_batches": 1}), 0, most)},
        ),
    )  # fmt: skip


@claim("data.ahead", "What is read ahead comes in its order, as far ahead as configured and no "
       "further, and an error comes in the place of the item it befell.", source=QUIET)  # fmt: skip
def read_ahead(twin: Twin) -> Evidence:
    made, closed = list[int](), list[bool]()

    def items(broken: int) -> Any:
        try:
            for n in range(40):
                if n == broken:
                    raise ValueError("broken")
                made.append(n)
                yield n
        finally:
            closed.append(True)

    in_order = list(ahead(items(50)))
    made.clear()
    stream, got, problem = ahead(items(7)), list[int](), ""
    try:
        got.extend(stream)
    except ValueError as error:
        problem = str(error)
    made.clear()
    stream = ahead(items(50), depth=2)
    first = next(stream)
    stream.close()
    return all_of(
        equal("items", str(in_order), str(list(range(40)))),
        equal("before the error", str(got), str(list(range(7)))),
        equal("the error", problem, "broken"),
        equal("first of a stream that is left", first, 0),
        # One is read, two wait, one stands at the door.
        at_most("made of it", len(made), 5),
        equal("sources closed", len(closed), 3),
        finite=math.isfinite(len(made)),
    )
