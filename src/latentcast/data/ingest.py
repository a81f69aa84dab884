"""Files to store: parallel, resumable after a kill, and deterministic whatever the workers do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from latentcast.data.convert import Converted, Rejected, Target, convert_all, is_ours
from latentcast.data.folder import claim, clear, is_finished, lock, writing
from latentcast.data.manifest import library_version
from latentcast.data.progress import Progress
from latentcast.data.store import Store
from latentcast.data.writer import (
    ShardWriter,
    finish,
    read_quarantine,
    read_sidecars,
    refuse_all_bad,
)
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS, canonical_names, in_canonical_order
from latentcast.signals.leads import DERIVED_FROM_I_AND_II as DERIVED
from latentcast.signals.readers import open_source
from latentcast.signals.readers.source import RecordRef, Source

MOST_READ_AGAIN = 1000
"""Records in quarantine that are tried again when the store is finished: seconds at most."""
_DUPLICATE = "duplicate record"

_source: Source | None = None


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did: the open store, the records in it, those in quarantine, the seconds."""

    store: Store
    records: int
    quarantined: int
    seconds: float


def ingest(
    source: str | Path,
    out: str | Path,
    *,
    fs: float | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    layout: str | None = None,
    metadata: str | Path | None = None,
    missing_leads: Literal["quarantine", "mask"] = "quarantine",
    scale: float = 0.001,
    shortest: float = 1.0,
    verify_checksums: bool = True,
    workers: int | None = None,
    shard_bytes: int = 2**30,
    quiet: bool = False,
) -> IngestResult:
    """Read every record of ``source`` into a new store at ``out``.

    Killed at any moment, the same call goes on where the last whole shard ended and gives the same
    bytes. On a finished store of the same source and options it does nothing.

    Args:
        source: a WFDB or Challenge folder, a PTB-XL folder, an array file, or a packed folder.
        out: the folder of the store.
        fs: sampling rate of the store in Hz; records at another rate are resampled to it. Without
            it the first record decides and others are quarantined. For arrays: their rate.
        leads: for arrays, the name of each channel in file order; for other sources, the leads of
            the store (the twelve by default).
        unit: unit of arrays: V, mV, uV or nV.
        layout: axes of arrays: ``"records,leads,samples"`` or ``"records,samples,leads"``.
        metadata: a CSV with one row per record of an array.
        missing_leads: quarantine a record that lacks a lead, or keep it with that lead masked.
        scale: millivolts per stored count; a count spans int16.
        shortest: seconds; a record that lasts less is quarantined.
        verify_checksums: check files against ``SHA256SUMS.txt`` where the source has one.
        workers: reader processes; the usable processors by default, 1 reads in this process.
        shard_bytes: a shard is closed before it outgrows this.
        quiet: no progress.

    Raises:
        LatentcastError: no records, all records bad, an optional package that one of them needs is
            missing, ``out`` is not writable, is being written, or is taken by another source, by
            other options, or by this source before it changed.
    """
    if not scale > 0:
        raise LatentcastError(f"--scale {scale:g}: must be positive, millivolts per count")
    if not shortest >= 0:
        raise LatentcastError(f"--shortest {shortest:g}: must not be negative, in seconds")
    started = time.monotonic()
    opened = open_source(
        source,
        fs=fs,
        leads=leads,
        unit=unit,
        layout=layout,
        metadata=metadata,
        verify_checksums=verify_checksums,
    )
    refs = opened.refs()
    if not refs:
        raise LatentcastError(f"{source}: holds no records")
    target = Target(
        leads=_store_leads(opened, leads),
        sampling_rate=_store_rate(opened, refs, fs),
        scale=scale,
        mask_missing=missing_leads == "mask",
        resample=fs is not None,
        shortest=float(shortest),
    )
    provenance: dict[str, Any] = {
        "source": opened.name,
        "kind": opened.kind,
        "fingerprint": opened.fingerprint(),
        "listed": len(refs),
        "options": {
            "fs": fs,
            "leads": None if leads is None else list(leads),
            "unit": unit,
            "layout": layout,
            "missing_leads": missing_leads,
            "scale": scale,
            "shortest": float(shortest),
            "verify_checksums": verify_checksums,
            "shard_bytes": shard_bytes,
        },
        "latentcast": library_version(),
    }
    folder = Path(out)
    plan = {"target": asdict(target) | {"leads": list(target.leads)}, "provenance": provenance}
    with writing(folder, "choose another --out"):
        finished = is_finished(folder, plan)
    if not finished:
        again = "free space or repair the folder and run the same ingest again, it goes on"
        with lock(folder), writing(folder, again):
            # Another process may have finished it since.
            if not is_finished(folder, plan):
                claim(folder, plan)
                _write(folder, opened, refs, target, plan, workers, shard_bytes, quiet)
    else:
        _refuse_if_mended(folder, opened, refs, target)
    store = Store.open(folder)
    return IngestResult(store, len(store), len(refs) - len(store), time.monotonic() - started)


def _write(
    folder: Path,
    source: Source,
    refs: Sequence[RecordRef],
    target: Target,
    plan: dict[str, Any],
    workers: int | None,
    shard_bytes: int,
    quiet: bool,
) -> None:
    """All shards that are not there yet, and the files that finish the store."""
    writer = ShardWriter(folder, target, shard_bytes)
    names: dict[str, str] = {}
    digests: dict[str, str] = {}
    begin = 0
    for sidecar in read_sidecars(folder):
        begin, writer.number = sidecar.next_ref, writer.number + 1
        for record in sidecar.records:
            names[record["record_id"]] = digests[record["digest"]] = record["record_id"]
    with Progress("ingest", len(refs), begin, quiet=quiet) as progress:
        try:
            results = _convert_in_order(source, refs[begin:], target, workers)
            for position, result in enumerate(results, start=begin):
                if isinstance(result, Converted):
                    result = _unless_duplicate(result, names, digests)
                if isinstance(result, Converted):
                    writer.add(result, position)
                else:
                    writer.reject(result)
                progress.advance(bad=isinstance(result, Rejected))
            writer.close(next_ref=len(refs))
        finally:
            writer.abandon()
    if not names:
        refuse_all_bad(folder, source.name)
    finish(folder, target, plan["provenance"])
    clear(folder)


def _store_leads(source: Source, leads: Sequence[str] | None) -> tuple[str, ...]:
    named = source.native_leads or canonical_names(list(leads or CANONICAL_LEADS))
    derivable = set(named) | (set(DERIVED) if {"I", "II"} <= set(named) else set())
    if source.native_leads is not None and set(CANONICAL_LEADS) <= derivable:
        return CANONICAL_LEADS
    return in_canonical_order(named)


def _store_rate(source: Source, refs: Sequence[RecordRef], fs: float | None) -> float:
    if fs is not None:
        if not fs > 0:
            raise LatentcastError(f"--fs {fs}: is no sampling rate")
        return float(fs)
    if source.sampling_rate is not None:
        return source.sampling_rate
    for ref in refs:
        if ref.problem is None:
            try:
                return source.read(ref)[0].sampling_rate
            except Exception as error:
                if is_ours(error):
                    raise
                continue  # it gets its quarantine row when its turn comes
    # Nothing can be read: any rate does, the run ends with the reasons.
    return 1.0


def _refuse_if_mended(
    folder: Path, source: Source, refs: Sequence[RecordRef], target: Target
) -> None:
    """Say so when a record in quarantine was put right; its file may have kept its length.

    Raises:
        LatentcastError: names the record.
    """
    reasons = read_quarantine(folder)
    bad = [
        ref
        for ref in refs
        if not reasons.get((ref.record_id, ref.file), _DUPLICATE).startswith(_DUPLICATE)
    ]
    for ref in bad[:MOST_READ_AGAIN]:
        (result,) = convert_all(source, [ref], target)
        if isinstance(result, Converted):
            raise LatentcastError(
                f"{folder}: record {ref.record_id} is in quarantine "
                f"({reasons[ref.record_id, ref.file]}) and can be read now; remove {folder} to "
                "ingest the mended source anew, or choose another --out"
            )


def _unless_duplicate(
    record: Converted, names: dict[str, str], digests: dict[str, str]
) -> Converted | Rejected:
    key, file = record.ref.record_id, record.ref.file
    if key in names:
        return Rejected(key, file, f"{_DUPLICATE}: the id {key} occurred before")
    if record.digest in digests:
        return Rejected(key, file, f"{_DUPLICATE}: same samples as {digests[record.digest]}")
    names[key] = digests[record.digest] = key
    return record


def _convert_in_order(
    source: Source, refs: Sequence[RecordRef], target: Target, workers: int | None
) -> Iterator[Converted | Rejected]:
    """Results in the order of ``refs``; at most a few batches are in memory."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (
            os.cpu_count() or 1
        )  # fmt: skip
    size = source.batch
    batches = (refs[i : i + size] for i in range(0, len(refs), size))
    if workers <= 1 or len(refs) <= size:
        for batch in batches:
            yield from convert_all(source, batch, target)
        return
    # Forked workers start in milliseconds and share what the source has loaded.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (source,)) as pool:
        pending: deque[Future[list[Converted | Rejected]]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(_convert_batch, batch, target))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise LatentcastError(
                f"{source.name}: a reader process died; run again with --workers 1 to see where, "
                "finished shards are kept"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _start_worker(source: Source) -> None:
    global _source
    _source = source
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed ingest must not leave its readers behind, waiting for work that never comes.
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _convert_batch(refs: Sequence[RecordRef], target: Target) -> list[Converted | Rejected]:
    assert _source is not None
    return convert_all(_source, refs, target)
