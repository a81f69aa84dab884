"""Files to store: parallel, resumable after a kill, and deterministic whatever the workers do."""

from __future__ import annotations

import json
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
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from latentcast.data.convert import Converted, Rejected, Target, convert_all
from latentcast.data.manifest import MANIFEST, QUARANTINE
from latentcast.data.progress import Progress
from latentcast.data.store import Store
from latentcast.data.writer import (
    ShardWriter,
    finish,
    read_sidecars,
    write_quarantine,
    write_whole,
)
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS, canonical_names, in_canonical_order
from latentcast.signals.leads import DERIVED_FROM_I_AND_II as DERIVED
from latentcast.signals.readers import open_source
from latentcast.signals.readers.source import RecordRef, Source

PLAN = "ingest.json"

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
        verify_checksums: check files against ``SHA256SUMS.txt`` where the source has one.
        workers: reader processes; the usable processors by default, 1 reads in this process.
        shard_bytes: a shard is closed before it outgrows this.
        quiet: no progress.

    Raises:
        LatentcastError: no records, all records bad, ``out`` not writable or taken by another
            source or other options.
    """
    if not scale > 0:
        raise LatentcastError(f"--scale {scale}: must be positive, millivolts per count")
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
            "verify_checksums": verify_checksums,
            "shard_bytes": shard_bytes,
        },
        "latentcast": _version(),
    }
    folder = Path(out)
    plan = {"target": asdict(target) | {"leads": list(target.leads)}, "provenance": provenance}
    if _claim(folder, plan):
        store = Store.open(folder)
        return IngestResult(store, len(store), len(refs) - len(store), time.monotonic() - started)

    writer = ShardWriter(folder, target, shard_bytes)
    names: dict[str, str] = {}
    digests: dict[str, str] = {}
    begin = records = 0
    for sidecar in read_sidecars(folder):
        begin, writer.number = sidecar.next_ref, writer.number + 1
        records += len(sidecar.records)
        for record in sidecar.records:
            names[record["record_id"]] = digests[record["digest"]] = record["record_id"]
    with Progress("ingest", len(refs), begin, quiet=quiet) as progress:
        try:
            results = _convert_in_order(opened, refs[begin:], target, workers)
            for position, result in enumerate(results, start=begin):
                if isinstance(result, Converted):
                    result = _unless_duplicate(result, names, digests)
                if isinstance(result, Converted):
                    writer.add(result, position)
                    records += 1
                else:
                    writer.reject(result)
                progress.advance(bad=isinstance(result, Rejected))
            writer.close(next_ref=len(refs))
        except OSError as error:
            raise LatentcastError(
                f"{folder}: cannot be written ({error}); free space or repair the folder and run "
                "the same ingest again, it goes on"
            ) from error
        finally:
            writer.abandon()
    if records == 0:
        _all_bad(folder, str(source))
    finish(folder, target, provenance)
    _clear(folder)
    return IngestResult(
        Store.open(folder), records, len(refs) - records, time.monotonic() - started
    )


def _version() -> str:
    try:
        return version("latentcast")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"


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
            except Exception:
                continue  # it gets its quarantine row when its turn comes
    # Nothing can be read: any rate does, the run ends with the reasons.
    return 1.0


def _claim(folder: Path, plan: dict[str, Any]) -> bool:
    """Make the folder ours; True when it already holds the finished store of this very plan.

    Raises:
        LatentcastError: it cannot be written, or holds something else.
    """
    text = json.dumps(plan, indent=1, ensure_ascii=False, sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft in folder.glob(f".{PLAN}.*"):
            draft.unlink()
        if (folder / MANIFEST).is_file():
            manifest = Store.open(folder).manifest
            mine = json.loads(text)
            theirs = json.loads(json.dumps(manifest.provenance))
            # Another version that reads this format has nothing to redo.
            theirs["latentcast"] = mine["provenance"]["latentcast"]
            if (
                theirs == mine["provenance"]
                and manifest.sampling_rate == (mine["target"]["sampling_rate"])
            ):
                _clear(folder)  # a kill between manifest and tidying leaves sidecars
                return True
            raise _taken(folder, theirs, mine["provenance"])
        if (folder / PLAN).is_file():
            theirs = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            if theirs != json.loads(text):
                raise _taken(folder, theirs["provenance"], plan["provenance"])
        elif any(path.name != QUARANTINE for path in folder.iterdir()):
            raise LatentcastError(
                f"{folder}: is not empty and holds no store; choose an empty or new --out"
            )
        # What a killed run was writing: its open shard, and drafts of other files.
        for partial in (*folder.glob("*.partial"), *folder.glob(".*.*.*")):
            partial.unlink()
        write_whole(folder / PLAN, text.encode("utf-8"))
    except OSError as error:
        raise LatentcastError(
            f"{folder}: cannot be written ({error}); choose another --out"
        ) from error
    return False


def _taken(folder: Path, theirs: dict[str, Any], mine: dict[str, Any]) -> LatentcastError:
    flat = [{**p, **p.get("options", {}), "options": None} for p in (theirs, mine)]
    keys = sorted(set(flat[0]) | set(flat[1]))
    differing = [
        f"{key} {flat[0].get(key)!r} there, {flat[1].get(key)!r} here"
        for key in keys
        if flat[0].get(key) != flat[1].get(key)
    ]
    return LatentcastError(
        f"{folder}: already holds another store ({'; '.join(differing[:3])}); choose another --out "
        "or remove that folder"
    )


def _clear(folder: Path) -> None:
    """Remove what only an unfinished ingest needs."""
    # Last first: a kill in between leaves a beginning, which is what a resumed ingest can read.
    for sidecar in sorted(folder.glob("shard-*.json"), reverse=True):
        sidecar.unlink()
    (folder / PLAN).unlink(missing_ok=True)


def _all_bad(folder: Path, source: str) -> None:
    rejected = [row for sidecar in read_sidecars(folder) for row in sidecar.rejected]
    write_quarantine(folder, rejected)
    # The next run starts over: a mended source must not find the old verdicts.
    _clear(folder)
    first = rejected[0]
    raise LatentcastError(
        f"{source}: none of its {len(rejected)} records can be used; the first, "
        f"{first['file']}: {first['reason']} (all reasons in {folder / QUARANTINE})"
    )


def _unless_duplicate(
    record: Converted, names: dict[str, str], digests: dict[str, str]
) -> Converted | Rejected:
    key, file = record.ref.record_id, record.ref.file
    if key in names:
        return Rejected(key, file, f"duplicate record: the id {key} occurred before")
    if record.digest in digests:
        return Rejected(key, file, f"duplicate record: same samples as {digests[record.digest]}")
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
