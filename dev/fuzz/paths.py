"""The ways into the library: of each a small valid sample, and how a user has it read.

These load no torch, which makes a process of their own for each change cheap.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from dev.fuzz import ecg_files, xml_files
from latentcast.data.ingest import ingest
from latentcast.data.manifest import SPLITS
from latentcast.data.store import Store
from latentcast.data.writer import read_quarantine
from latentcast.signals.readers import packed, ptbxl
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording

Content = dict[str, str]
"""A digest of each part of what was read: of a record by its id, of a run by its file."""
FOREIGN = "foreign exception"
"""A part under this name was refused by an exception that is no sentence of ours."""
REFUSED = "refused"
"""A part under a name that begins so is the reason why a record was left out."""


@dataclass(frozen=True)
class InputPath:
    """One kind of file that the library reads.

    Attributes:
        name: for the table and for ``PATHS=``.
        make: writes a sample into an empty folder.
        read: reads it as a user does; raises LatentcastError where it cannot be used.
        damaged: patterns of the files that are changed.
        covered: patterns of those whose every byte that matters is under a checksum: a change that
            is read must not be noticed by other content.
        listed: whether those are listed as well, so that one that is gone is noticed too.
        package: what has to be installed.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Content]
    damaged: tuple[str, ...]
    covered: tuple[str, ...] = ()
    listed: bool = True
    package: str | None = None

    @property
    def available(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


def digest(*parts: object) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()[:16]


def store_content(store: Store) -> Content:
    """All that a store holds, by record."""
    return {
        str(store.record_ids[row]): digest(
            store.take([row]), str(store.patient_ids[row]), int(store.folds[row]),
            sorted(store.labels.of(row).items()), sorted(store.metadata(row).items()),
        )
        for row in range(len(store))
    }  # fmt: skip


def ingested(source: Path, **options: Any) -> Content:
    """What an ingest makes of a source, and the records that it leaves out."""
    out = source.parent / "store"
    result = ingest(source, out, workers=1, quiet=True, **options)
    content = store_content(result.store)
    for row in read_quarantine(out):
        kind = row["reason"].split(": ")[0]
        foreign = kind.isidentifier() and kind.endswith(("Error", "Exception", "Exit", "Warning"))
        content[f"{FOREIGN if foreign else REFUSED} {row['record']}"] = row["reason"]
    return content


def recordings(count: int = 3, rate: float = 100.0, seconds: float = 2.0) -> list[Recording]:
    return [synthetic_recording(50 + n, rate, seconds, seed=n) for n in range(count)]


def counts_of(recording: Recording) -> np.ndarray[Any, Any]:
    """Whole microvolts ``(samples, leads)``."""
    return np.rint(recording.signal.astype(np.float64).T * 1000).astype("<i2")


def write_record(
    folder: Path, name: str, recording: Recording, suffix: str = ".dat", envelope: bytes = b""
) -> None:
    """A WFDB record of format 16 with Challenge comments."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = counts_of(recording)
    shape = "16+24" if envelope else "16"
    lines = [f"{name} {len(recording.leads)} {recording.sampling_rate:g} {len(counts)}"]
    for lead, column in zip(recording.leads, counts.T, strict=True):
        total = int(column.astype(np.int64).sum()) % 65536
        lines.append(f"{name}{suffix} {shape} 1000.0(0)/mV 16 0 {column[0]} {total} 0 {lead}")
    lines += ["#Age: 51", "#Sex: Female", "#Dx: 426783006,164934002"]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}{suffix}").write_bytes(envelope + counts.tobytes())


def make_wfdb(folder: Path) -> None:
    for n, recording in enumerate(recordings()):
        write_record(folder / "source", f"r{n}", recording)


def make_wfdb_with_sums(folder: Path) -> None:
    make_wfdb(folder)
    files = sorted((folder / "source").iterdir())
    sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.name}\n" for file in files)
    (folder / "source" / "SHA256SUMS.txt").write_text("".join(sums))


def make_wfdb_of_24_bits(folder: Path) -> None:
    """What the wfdb package unpacks."""
    make_wfdb(folder)
    for file in (folder / "source").glob("*.dat"):
        counts = np.fromfile(file, "<i2").astype("<i4")
        file.write_bytes(counts.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
        header = file.with_suffix(".hea")
        header.write_text(header.read_text().replace(".dat 16 ", ".dat 24 "))


FILE_TABLE = "file,subject_id,split,labels,age\n"


def make_file_table(folder: Path) -> None:
    make_wfdb(folder)
    names = [file.stem for file in sorted((folder / "source").glob("*.hea"))]
    splits = ("train", "validation", "test")
    rows = [f"{name}.hea,p{n},{splits[n % 3]},AF;SR,{40 + n}\n" for n, name in enumerate(names)]
    (folder / "source" / "files.csv").write_text(FILE_TABLE + "".join(rows))


def make_mimic(folder: Path) -> None:
    make_wfdb(folder)
    names = [file.stem for file in sorted((folder / "source").glob("*.hea"))]
    listed = [f"{n % 2},{n},{name},2180-07-23 08:44:00,{name}\n" for n, name in enumerate(names)]
    measured = [f"{n % 2},{n},Sinus rhythm,29999,800\n" for n, _ in enumerate(names)]
    source = folder / "source"
    (source / "record_list.csv").write_text(
        "subject_id,study_id,file_name,ecg_time,path\n" + "".join(listed)
    )
    (source / "machine_measurements.csv").write_text(
        "subject_id,study_id,report_0,p_onset,rr_interval\n" + "".join(measured)
    )


def make_challenge(folder: Path) -> None:
    for n, recording in enumerate(recordings()):
        samples = recording.signal.shape[1]
        head = np.array([30, len(recording.leads), samples, 0, 4], "<i4").tobytes() + b"val\0"
        write_record(folder / "source", f"r{n}", recording, ".mat", head)


TABLE_COLUMNS = "ecg_id,patient_id,age,sex,height,report,scp_codes,strat_fold,filename_lr\n"


def write_table(folder: Path, count: int) -> None:
    rows = (
        f"{n + 1},{n + 100}.0,{50 + n}.0,0,170.0,sinus rhythm,\"{{'NORM': 100.0}}\",{n % 10 + 1},"
        f"records100/00000/{n + 1:05d}_lr\n"
        for n in range(count)
    )
    (folder / ptbxl.TABLE).write_text(TABLE_COLUMNS + "".join(rows))


def make_ptbxl(folder: Path, count: int = 3) -> None:
    for n, recording in enumerate(recordings(count)):
        write_record(folder / "source/records100/00000", f"{n + 1:05d}_lr", recording)
    write_table(folder / "source", count)


def make_packed(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    counts = np.stack([counts_of(recording).T for recording in recordings(6)])
    parts = []
    for n, part in enumerate((counts[:3], counts[3:])):
        (source / f"part-{n:02d}.xz").write_bytes(packed.encode(part))
        sha256 = hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
        parts.append({"file": f"part-{n:02d}.xz", "records": 3, "sha256": sha256})
    leads = list(recordings(1)[0].leads)
    index = {"format": packed.FORMAT, "leads": leads, "sampling_rate": 100,
             "samples": counts.shape[2], "parts": parts}  # fmt: skip
    (source / packed.INDEX).write_text(json.dumps(index, indent=1))
    write_table(source, 6)


def make_array(folder: Path, name: str, table: bool = False) -> None:
    signals = np.stack([recording.signal for recording in recordings()])
    if name.endswith(".npz"):
        np.savez_compressed(folder / name, signals=signals)
    else:
        np.save(folder / name, signals)
    if table:
        rows = (f"r{n},p{n},{n + 1},AFIB;NORM,{50 + n},note\n" for n in range(3))
        text = "record_id,patient_id,fold,labels,age,remark\n" + "".join(rows)
        (folder / name).with_suffix(".csv").write_text(text)


def read_array(folder: Path, name: str) -> Content:
    leads = recordings(1)[0].leads
    layout = "records,leads,samples"
    return ingested(folder / name, sampling_rate=100, leads=leads, unit="mV", layout=layout)


def make_ecg_file(folder: Path, write: Callable[[Path, Recording], None]) -> None:
    write(folder / "a.ecg", recordings(1)[0])


def read_scp_anew(folder: Path) -> Content:
    """Behind its checksums."""
    if (file := folder / "a.ecg").is_file():
        ecg_files.renew_scp_sums(file)
    return ingested(file)


def make_hdf5(folder: Path) -> None:
    ecg_files.write_hdf5(folder / "a.hdf5", recordings())


def read_hdf5(folder: Path) -> Content:
    leads, layout = recordings(1)[0].leads, "records,samples,leads"
    return ingested(folder / "a.hdf5", sampling_rate=100, leads=leads, unit="mV", layout=layout)


def pictures(count: int = 6, side: int = 12) -> np.ndarray[Any, Any]:
    """uint8 ``(count, side, side, 3)``, smooth enough for a lossy format."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack(
        [
            np.stack([rows * 20, columns * 20, (rows + columns + 9 * n) * 5], axis=2)
            for n in range(count)
        ]
    ).astype(np.uint8)


def make_images(folder: Path, suffix: str) -> None:
    from PIL import Image

    for n, pixels in enumerate(pictures()):
        file = folder / "source" / ("cat", "dog")[n % 2] / f"{n}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def make_image_array(folder: Path, name: str) -> None:
    if name.endswith(".npy"):
        np.save(folder / name, pictures())
        return
    np.savez_compressed(
        folder / name, images=pictures(), labels=np.array([0, 1, -1, 0, 1, 1]),
        classes=np.array(["cat", "dog"]),
    )  # fmt: skip


def make_dataset(folder: Path, kind: str) -> None:
    """A Hugging Face dataset: ``parquet``, or the ``arrow`` folder that save_to_disk writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    cells = []
    for n, pixels in enumerate(pictures()):
        Image.fromarray(pixels).save(file := io.BytesIO(), "png")
        cells.append({"bytes": file.getvalue(), "path": f"{n}.png"})
    label = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    features = {"image": {"_type": "Image"}, "label": label}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": cells, "label": pa.array([0, 1] * 3, pa.int64())})
    table = table.replace_schema_metadata(described)
    source = folder / "source"
    if kind == "parquet":
        source.mkdir()
        pq.write_table(table, source / "train-00000-of-00001.parquet")
        return
    split, name = source / "train", "data-00000-of-00001.arrow"
    split.mkdir(parents=True)
    with pa.OSFile(str(split / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=4)
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (split / "dataset_info.json").write_text(json.dumps({"features": features}))
    (source / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))


SMALL_SHARD = 10_000
"""Bytes: two records fit."""


def make_store(folder: Path) -> None:
    make_wfdb(folder)
    ingest(folder / "source", folder / "store", workers=1, quiet=True, shard_bytes=SMALL_SHARD)
    shutil.rmtree(folder / "source")


def make_image_store(folder: Path) -> None:
    make_image_array(folder, "a.npz")
    ingest(folder / "a.npz", folder / "store", workers=1, quiet=True)
    (folder / "a.npz").unlink()


def make_encoded_store(folder: Path) -> None:
    make_images(folder, ".png")
    ingest(folder / "source", folder / "store", workers=1, quiet=True, encoding="encoded")
    shutil.rmtree(folder / "source")


def read_store(folder: Path) -> Content:
    store = Store.open(folder / "store")
    store.verify()
    splits = {f"split {name}": digest(store.rows(name)) for name in SPLITS}
    return store_content(store) | splits | {"repr": digest(repr(store).split(":", 1)[1])}


def make_unfinished(folder: Path) -> None:
    """An ingest that was killed before its last shard."""
    make_wfdb(folder)
    killed = mock.patch("latentcast.data.ingest.finish", side_effect=KeyboardInterrupt)
    with killed, contextlib.suppress(KeyboardInterrupt):
        ingest(folder / "source", folder / "store", workers=1, quiet=True, shard_bytes=SMALL_SHARD)


def make_archive(folder: Path, kind: str) -> None:
    make_images(folder, ".png")
    shutil.make_archive(str(folder / "source"), kind, folder / "source")
    shutil.rmtree(folder / "source")


def make_shards(folder: Path) -> None:
    """WebDataset shards: classes as files of text, and as JSON."""
    from PIL import Image

    (folder / "source").mkdir()
    for shard, beside in (("train-000000.tar", "cls"), ("test-000000.tar", "json")):
        with tarfile.open(folder / "source" / shard, "w") as tar:
            for n, pixels in enumerate(pictures()):
                pixels = pixels if beside == "cls" else 255 - pixels
                Image.fromarray(pixels).save(file := io.BytesIO(), "png")
                about = str(n % 2) if beside == "cls" else json.dumps({"label": n % 2, "age": n})
                for kind, data in (("png", file.getvalue()), (beside, about.encode())):
                    member = tarfile.TarInfo(f"{shard[:4]}{n}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def make_xml(folder: Path, kind: str) -> None:
    write, _ = xml_files.WRITERS[kind]
    (folder / "source").mkdir()
    write(folder / "source" / "a.xml", xml_files.sample())
    write_record(folder / "source", "r0", recordings(1)[0])


def _read_source(folder: Path) -> Content:
    return ingested(folder / "source")


def _read_file(folder: Path, name: str, **options: Any) -> Content:
    return ingested(folder / name, **options)


def read_unfinished(folder: Path) -> Content:
    return ingested(folder / "source", shard_bytes=SMALL_SHARD)


def _files() -> Iterable[InputPath]:
    part = functools.partial
    yield InputPath("wfdb-header", make_wfdb, _read_source, ("source/*.hea",))
    yield InputPath("wfdb-samples", make_wfdb, _read_source, ("source/*.dat",))
    sums = ("source/*.hea", "source/*.dat")
    yield InputPath("wfdb-checksums", make_wfdb_with_sums, _read_source, ("source/*",), sums)
    wide = ("source/*.dat",)
    yield InputPath("wfdb-24", make_wfdb_of_24_bits, _read_source, wide)
    yield InputPath("file-table", make_file_table, part(_read_file, name="source/files.csv"),
                    ("source/files.csv",))  # fmt: skip
    yield InputPath("mimic-table", make_mimic, _read_source, ("source/*.csv",))
    yield InputPath("challenge", make_challenge, _read_source, ("source/*",))
    for kind in xml_files.WRITERS:
        make = part(make_xml, kind=kind)
        yield InputPath(f"xml-{kind}", make, _read_source, ("source/*.xml",))
    yield InputPath("ptbxl-table", make_ptbxl, _read_source, ("source/*.csv",))
    yield InputPath("packed-index", make_packed, _read_source, ("source/*.json", "source/*.csv"))
    yield InputPath("packed-part", make_packed, _read_source, ("source/*.xz",), ("source/*.xz",))
    for suffix in (".npy", ".npz"):
        name = f"a{suffix}"
        yield InputPath(f"array{suffix}", part(make_array, name=name),
                        part(read_array, name=name), (name,))  # fmt: skip
        yield InputPath(f"images{suffix}", part(make_image_array, name=name),
                        part(_read_file, name=name), (name,))  # fmt: skip
    yield InputPath("array-table", part(make_array, name="a.npy", table=True),
                    part(read_array, name="a.npy"), ("a.csv",))  # fmt: skip
    for suffix in (".png", ".jpg", ".tif", ".gif", ".webp", ".bmp"):
        covered = ("source/*/*",) if suffix == ".png" else ()
        yield InputPath(f"images{suffix}", part(make_images, suffix=suffix), _read_source,
                        ("source/*/*",), covered, listed=False)  # fmt: skip
    for kind, end in (("zip", ".zip"), ("tar", ".tar"), ("gztar", ".tar.gz")):
        yield InputPath(f"images{end}", part(make_archive, kind=kind),
                        part(_read_file, name=f"source{end}"), (f"source{end}",))  # fmt: skip
    yield InputPath("webdataset", make_shards, _read_source, ("source/*.tar",))
    for kind in ("parquet", "arrow"):
        yield InputPath(kind, part(make_dataset, kind=kind), _read_source,
                        (f"source/**/*.{kind}",), package="pyarrow")  # fmt: skip
    yield InputPath("arrow-json", part(make_dataset, kind="arrow"), _read_source,
                    ("source/**/*.json",), package="pyarrow")  # fmt: skip


def _ecg_files() -> Iterable[InputPath]:
    part = functools.partial
    bdf = part(ecg_files.write_edf, wide=True)
    gaps = part(ecg_files.write_edf, starts=(0, 1.5))
    for name, write, package in (
        ("scp", ecg_files.write_scp, None), ("ishne", ecg_files.write_ishne, None),
        ("edf", ecg_files.write_edf, None), ("bdf", bdf, None), ("edf-gaps", gaps, None),
        ("dicom", ecg_files.write_dicom, "pydicom"),
        ("lead-parquet", ecg_files.write_lead_parquet, "pyarrow"),
    ):  # fmt: skip
        covered = ("a.ecg",) if name == "scp" else ()
        yield InputPath(name, part(make_ecg_file, write=write), part(_read_file, name="a.ecg"),
                        ("a.ecg",), covered, listed=False, package=package)  # fmt: skip
    yield InputPath("scp-sums", part(make_ecg_file, write=ecg_files.write_scp), read_scp_anew,
                    ("a.ecg",))  # fmt: skip
    yield InputPath("lead-table", part(make_ecg_file, write=ecg_files.write_lead_table),
                    part(_read_file, name="a.ecg", sampling_rate=100), ("a.ecg",))  # fmt: skip
    yield InputPath("hdf5", make_hdf5, read_hdf5, ("a.hdf5",), package="h5py")


def _stores() -> Iterable[InputPath]:
    for name, make in (("store", make_store), ("image-store", make_image_store)):
        shards = ("store/*.npy", "store/index.npz", "store/metadata.jsonl")
        yield InputPath(f"{name}-manifest", make, read_store, ("store/manifest.json",))
        yield InputPath(f"{name}-files", make, read_store, shards, shards)
    yield InputPath("encoded-store", make_encoded_store, read_store, ("store/*.npy",),
                    ("store/*.npy",))  # fmt: skip
    yield InputPath("unfinished-ingest", make_unfinished, read_unfinished, ("store/*.json",))


PATHS: tuple[InputPath, ...] = (*_files(), *_ecg_files(), *_stores())
