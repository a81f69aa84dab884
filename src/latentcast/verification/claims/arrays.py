"""Arrays in memory and what comes back of them: samples, ids, patients, folds, labels, metadata."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentcast.data.arrays import write_store
from latentcast.data.store import Store, open_store
from latentcast.images.stored import StoredImage
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, none, true
from latentcast.verification.observe.recordings import HALF_A_COUNT, TWELVE, Floats, wave
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 4: physical until the last moment"
QUIET = "our design, law 6: nothing fails quietly"
RATE, NAMES = 100.0, ("V5", "II", "V1")
LENGTHS = (250, 250, 300, 250, 310, 250)
SPLITS = ("train", "validation", "test")


def _signals() -> list[Floats]:
    """Three leads of six recordings, one of them with a gap and one with a flat end."""
    rows = [TWELVE.index(lead) for lead in NAMES]
    signals = [wave(RATE, n, 70 + row)[rows] for row, n in enumerate(LENGTHS)]
    signals[1][2, 40:52] = np.nan
    signals[2][0, 100:] = 0.7
    return signals


def _written(twin: Twin, name: str, **options: Any) -> Store:
    folder = twin.folder / "arrays" / name
    shutil.rmtree(folder, ignore_errors=True)
    about: dict[str, Any] = {
        "signals": _signals(), "sampling_rate": RATE, "leads": NAMES, "workers": 1, "quiet": True,
    }  # fmt: skip
    return write_store(folder, **(about | options)).store


def _full(twin: Twin) -> Store:
    """With everything that is said beside the samples."""
    return twin.once("arrays", lambda: _written(
        twin, "full", record_ids=["b", "a", "é", "d", 7, "f"], folds=[1, 2, 9, 10, 8, 10],
        patient_ids=["p", None, "q", "q", 3, "p"], metadata=[{"age": n} for n in range(6)],
        labels=["x", ["x", "y"], [], {"z": 0.0}, {"y": 0.5, "x": 1.0}, ""],
        shard_bytes=4000,
    ))  # fmt: skip


@claim("data.in-memory", "Arrays in memory come back as they were given: samples within half a "
       "count, lead by lead, in whatever unit; ids, patients, folds, metadata and codes with their "
       "likelihoods, each with its record; and so from another process.", source=OURS)  # fmt: skip
def in_memory(twin: Twin) -> Evidence:
    """Record by record; and through a pickle, by a row of a table, under other folds."""
    store, signals, parts = _full(twin), _signals(), list[Evidence]()
    order = [NAMES.index(lead) for lead in store.leads]
    gaps, wrong = list[float](), list[str]()
    ids, folds = ("b", "a", "é", "d", "7", "f"), (1, 2, 9, 10, 8, 10)
    patients = ("p", None, "q", "q", "3", "p")
    codes: tuple[dict[str, float], ...] = (
        {"x": 1.0},
        {"x": 1.0, "y": 1.0},
        {},
        {"z": 0.0},
        {"x": 1.0, "y": 0.5},
        {},
    )
    for row, (record_id, patient) in enumerate(zip(ids, patients, strict=True)):
        found = store.recording(store.row_of(record_id))
        own = signals[row][order]
        gaps.append(float(np.nan_to_num(np.abs(found.signal - own)).max()) / store.scale)
        said = (found.patient_id, found.metadata["age"], found.metadata["fold"], found.leads,
                found.sampling_rate, found.metadata["labels"])  # fmt: skip
        given = (patient, row, folds[row], ("II", "V1", "V5"), RATE, codes[row])
        gaps_differ = bool((np.isnan(found.signal) != np.isnan(own)).any())
        wrong += [record_id] * (said != given or gaps_differ)
        wrong += [f"flags of {record_id}"] * (bool(found.valid.all()) != (row not in (1, 2)))
        wrong += [f"metadata of {record_id}"] * (store.metadata(row)["age"] != row)
    every = [metadata["age"] for metadata in store.all_metadata()]
    by_split = [store.rows(split).tolist() for split in SPLITS]
    microvolts = _written(twin, "uv", unit="uV", signals=[1e3 * x for x in signals])
    sent, other = pickle.loads(pickle.dumps(store)), np.array([9, 9, 1, 1, 10, 0], np.int16)
    divided = pickle.loads(pickle.dumps(store.divided(other, np.array(list("uvwxyz")))))
    kept = store.divided(None)
    for name, one in (("in uV", microvolts), ("sent to a process", sent), ("kept", kept)):
        same = all(np.array_equal(one.take([n]), store.take([n])) for n in range(len(store)))
        parts.append(true(f"{name}: the same counts", same))
    return all_of(
        at_most("largest difference, counts", greatest(*gaps), HALF_A_COUNT),
        none("records with something else", wrong),
        equal("metadata in order", str(every), "[0, 1, 2, 3, 4, 5]"),
        equal("rows of the splits", str(by_split), "[[0, 1, 4], [2], [3, 5]]"),
        equal("lengths", str(store.lengths.tolist()), str(list(LENGTHS))),
        equal("patients, one unnamed", store.patients, 4),
        equal("the last one", store[-1].record_id + store[-6].record_id, "fb"),
        equal("class ids", str(store.class_ids.tolist()), "[0, -1, -1, 2, -1, -1]"),
        equal("codes", " ".join(store.classes), "x y z"),
        equal("rows under other folds", str([divided.rows(s).tolist() for s in SPLITS]),
              "[[2, 3], [0, 1], [4]]"),
        equal("other patients", "".join(divided.patient_ids.tolist()), "uvwxyz"),
        equal("its own again", str(kept.patient_ids.tolist()), str(store.patient_ids.tolist())),
        *parts,
    )  # fmt: skip


@claim("data.in-memory-labels", "Labels of arrays in memory are codes, class numbers (-1 for none, "
       "with or without names) or a matrix of 0 and 1; splits by name and patients who are in one "
       "split; without ids records are numbered.", source=OURS)  # fmt: skip
def labels_in_memory(twin: Twin) -> Evidence:
    """The same labels in each form, of recordings and of images."""
    parts = list[Evidence]()
    forms: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
        "numbers": ({"labels": np.array([0, 1, -1, 1, 3, 0])},
                    [["0"], ["1"], [], ["1"], ["3"], ["0"]]),
        "named numbers": ({"labels": [0, 1, -1, 1, 0, 0], "label_names": ("u", "v")},
                          [["u"], ["v"], [], ["v"], ["u"], ["u"]]),
        "a matrix": ({"labels": np.array([[1, 0], [1, 1], [0, 0], [0, 1], [0, 0], [1, 0]]),
                      "label_names": ("u", "v")}, [["u"], ["u", "v"], [], ["v"], [], ["u"]]),
        "texts": ({"labels": ["u", "v", "", "v", "u", "w"]},
                  [["u"], ["v"], [], ["v"], ["u"], ["w"]]),
    }  # fmt: skip
    images = np.random.default_rng(3).integers(0, 256, (6, 8, 9, 3)).astype(np.uint8)
    given = ("train", "dev", "test", "training", "val", "test")
    for name, (options, expected) in forms.items():
        stores = {"recordings": _written(twin, "labels", splits=given, **options)}
        if name != "a matrix":
            stores["images"] = write_store(
                twin.folder / "arrays" / f"images {name}",
                images=images,
                splits=given,
                quiet=True,
                workers=1,
                **options,
            ).store
        for kind, store in stores.items():
            found = [sorted(store.labels.of(row)) for row in range(6)]
            parts.append(equal(f"{name} of {kind}", str(found), str(expected)))
            rows = [store.rows(split).tolist() for split in SPLITS]
            parts.append(equal(f"{name} of {kind}: splits", str(rows), "[[0, 3], [1, 4], [2, 5]]"))
    pixels = write_store(twin.folder / "arrays" / "first", images=images.transpose(0, 3, 1, 2),
                         labels=[0, 1, -1, 1, 0, 0], label_names=("u", "v"), quiet=True,
                         patient_ids=list("aabbcc"), workers=1).store  # fmt: skip
    homes = {p: {s for s in SPLITS for row in pixels.rows(s).tolist()
                 if pixels.patient_ids[row] == p} for p in "abc"}  # fmt: skip
    return all_of(
        *parts,
        equal("pixels that differ", int((pixels.take(range(6)) != images).sum()), 0),
        equal("class ids", str(pixels.class_ids.tolist()), "[0, 1, -1, 1, 0, 0]"),
        equal("ids", pixels[5].record_id, "record-000005"),
        equal("most splits of a patient", max(map(len, homes.values())), 1),
    )


@claim("data.in-memory-refused", "Arrays that contradict what is said of them are refused by the "
       "sentence that names the fix: other shapes, other lengths, unknown splits, unnamed "
       "classes, ids that are held twice.", source=QUIET)  # fmt: skip
def refused_in_memory(twin: Twin) -> Evidence:
    signals, write = _signals(), partial(_written, twin, "refused")
    images = np.zeros((6, 8, 9, 3), np.uint8)

    def of_images(**options: Any) -> Callable[[], object]:
        return lambda: write_store(twin.folder / "refused", images=images, quiet=True, **options)

    def wrong(**options: Any) -> Callable[[], object]:
        return lambda: write(**options)

    cases: dict[str, Case] = {
        "neither": (lambda: write_store(twin.folder / "refused"), "give one of the two"),
        "both": (wrong(images=images), "give one of the two"),
        "no rate": (wrong(sampling_rate=None), "signals: need their sampling_rate"),
        "no leads": (wrong(leads=None), "signals: need their sampling_rate"),
        "a rate of 0": (wrong(sampling_rate=0.0), "sampling_rate 0.0: is no sampling rate"),
        "a unit": (wrong(unit="furlong"), "unit 'furlong': is no voltage"),
        "more leads": (wrong(leads=("I", "II", "V1", "V2")), "signals[0]: has shape (3, 250)"),
        "one axis": (wrong(signals=[*signals[:5], signals[5][0]]), "signals[5]: has shape (250,)"),
        "three axes": (wrong(signals=[x[None] for x in signals]), "signals[0]: has shape (1, 3"),
        "truth values": (wrong(signals=[x > 0 for x in signals]), "signals[0]: holds bool"),
        "five ids": (wrong(record_ids=list("abcde")), "record_ids: has 5 entries for 6"),
        "one id twice": (wrong(record_ids=list("abcdea")), "record_ids: hold one twice"),
        "an id as number and text": (wrong(record_ids=[*"abcd", 1, "1"]), "hold one twice"),
        "seven patients": (wrong(patient_ids=list("abcdefg")), "patient_ids: has 7 entries"),
        "folds and splits": (wrong(folds=[1] * 6, splits=["train"] * 6), "folds: name the splits"),
        "five folds": (wrong(folds=[1] * 5), "folds: has 5 entries"),
        "a split": (wrong(splits=["train"] * 5 + ["tests"]), "splits: 'tests' is none"),
        "metadata": (wrong(metadata=[{}] * 7), "metadata: has 7 entries"),
        "five labels": (wrong(labels=list("abcde")), "labels: has 5 entries"),
        "a class without name": (
            wrong(labels=[0, 1, 2, 0, 0, 0], label_names=("u", "v")),
            "hold 2",
        ),
        "a matrix of 2": (
            wrong(labels=np.full((6, 2), 2), label_names=("u", "v")),
            "a matrix holds 0",
        ),
        "a matrix with a 2": (
            wrong(labels=np.arange(12).reshape(6, 2) % 3, label_names=("u", "v")),
            "a matrix holds 0 and 1",
        ),
        "columns without names": (wrong(labels=np.eye(6, dtype=int)), "labels: have shape (6, 6)"),
        "no codes": (wrong(labels=np.array([0.5] * 6)), "is no code; give text"),
        "images of a rate": (of_images(sampling_rate=5.0), "sampling_rate: is of signals"),
        "images of leads": (of_images(leads=("I",)), "leads: is of signals"),
        "images in mV": (of_images(unit="mV"), "unit: is of signals"),
        "images of a signal": (of_images(signal="ecg"), "signal: is of signals"),
        "images of floats": (
            lambda: write_store(twin.folder / "refused", images=images.astype(float)),
            "images: ",
        ),
        "a scale of 0": (wrong(scale=0.0), "--scale 0: must be positive"),
        "a time below 0": (wrong(shortest=-0.5), "--shortest -0.5: must not be negative"),
        "a rate of the store": (wrong(fs=0.0), "--fs 0.0: is no sampling rate"),
        "a rate of no ECG": (wrong(sampling_rate=19.0), "19 Hz: is too low for an ECG"),
        "no pixels": (of_images(size=0), "--size 0: must be positive"),
        "17 bits": (of_images(bits=17), "--bits 17: is about 16-bit"),
        "files of arrays": (of_images(encoding="encoded"), "keeps the bytes of image files"),
    }
    return refusals(
        cases,
        {
            "folds and no splits": lambda: write(folds=[1, 2, 3, 9, 10, None]),
            "one pixel": of_images(size=1),
            "channels of one's own": lambda: write(
                signal="other", leads=("x", "y", "z"), unit="kPa", sampling_rate=5.0
            ),
        },
    )


@claim(
    "data.described",
    "A store refuses what it does not have by name: a row, an id, a split, "
    "properties of the other kind of store; what it says of itself are its own numbers, and a "
    "file that is damaged is named.",
    source=QUIET,
)
def described(twin: Twin) -> Evidence:
    store, folder = _full(twin), twin.folder / "arrays"
    images = np.random.default_rng(4).integers(0, 256, (7, 8, 9, 1)).astype(np.uint8)
    pictures = write_store(folder / "pictures", images=images, labels=[0, 1, 0, 1, 0, 1, -1],
                           folds=[1, 1, 2, 3, 4, 9, 10], quiet=True, workers=1).store  # fmt: skip
    few = np.zeros(2, np.int64)

    def damaged(name: str, change: Callable[[Path], object], use: Callable[[Store], object]) -> Any:
        def call() -> object:
            shutil.rmtree(folder / "damaged", ignore_errors=True)
            change(Path(shutil.copytree(store.path, folder / "damaged")) / name)
            return use(Store.open(folder / "damaged"))

        return call

    def short(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:20])

    def turned(file: Path) -> None:
        raw = bytearray(file.read_bytes())
        raw[-9] ^= 1
        file.write_bytes(raw)

    def narrower(file: Path) -> None:
        np.save(file, np.zeros((len(np.load(file)), 2), np.int16))

    def floats(file: Path) -> None:
        np.save(file, np.load(file).astype(np.int32))

    shard = store.manifest.shards[0].file
    page, looks, picture = store._repr_html_(), repr(store), repr(pictures)
    inside = ("3 leads at 100 Hz", "train 3, validation 1, test 2", "6 ")
    digests = {name: hashlib.sha256((store.path / name).read_bytes()).hexdigest()
               for name in store.files}  # fmt: skip
    last = pictures[-1]
    assert isinstance(last, StoredImage)
    cases: dict[str, Case] = {
        "row 6": (lambda: store.take([0, 6]), "has no row 6; it has 6, give one from 0 to 5"),
        "row -1": (lambda: store.take([-1]), "has no row -1;"),
        "the first of two": (lambda: store.take([0, -1, 9]), "has no row -1;"),
        "recording 6": (lambda: store.recording(6), "has no row 6"),
        "recording -1": (lambda: store.recording(-1), "has no row -1"),
        "row -7": (lambda: store[-7], "has no row -1"),
        "half a row": (lambda: store[1.5], "1.5: is no row of a store"),  # type: ignore[index]
        "an id": (lambda: store.row_of("c"), "holds no record 'c'; its ids look like 'b'"),
        "a split": (lambda: store.rows("tests"), "split 'tests': does not exist"),
        "pixels of recordings": (lambda: store.height, "is a store of recordings; name one of"),
        "files of recordings": (lambda: store.encoded(0), "is a store of recordings"),
        "leads of images": (lambda: pictures.leads, "is a store of images; name one of"),
        "lengths of images": (lambda: pictures.lengths, "is a store of images"),
        "files of pixels": (lambda: pictures.encoded(0), "holds pixels, no files"),
        "image 7": (lambda: pictures.take([7]), "has no row 7"),
        "a crop of images": (lambda: pictures.take([0, 1], few), "no starts and no length"),
        "a length of images": (lambda: pictures.take([0, 1], None, 4), "no starts and no length"),
        "no store": (lambda: open_store(folder / "nothing"), str(folder / "nothing")),
        "a short shard": (damaged(shard, short, len), "cannot be read"),
        "no shard": (damaged(shard, Path.unlink, len), shard),
        "a shard of two leads": (damaged(shard, narrower, len), "the manifest has int16"),
        "a shard of int32": (damaged(shard, floats, len), "holds int32"),
        "a short index": (damaged("index.npz", short, len), "index.npz: cannot be read"),
        "a bit of a shard": (damaged(shard, turned, Store.verify), f"{shard}"),
        "a bit of the index": (damaged("index.npz", turned, Store.verify_once), "index.npz"),
        "short metadata": (damaged("metadata.jsonl", short, lambda s: s.metadata(5)),
                           "ends before the record"),
    }  # fmt: skip
    return all_of(
        refusals(cases, {"whole": store.verify, "again": store.verify_once}),
        none("not in its text", [text for text in inside if text not in looks]),
        none("not on its page", [text for text in (*inside, "x 3, y 2, z 1", "<td") if
                                 text not in page and text != "<td"]),
        true("an image store in words", "8 × 9 × 1, 2 classes" in picture),
        equal("digests", str(store.files), str(digests)),
        equal("shards", str(sorted(store.checksums)),
              str(sorted(name for name in digests if name.startswith("shard")))),
        equal("pixels that differ", int((pictures.take(range(7)) != images).sum()), 0),
        equal("an image", str((last.pixels == images[6]).all()), "True"),
        equal("patients", pictures.patients, 7),
        equal("metadata of an image", str(pictures.metadata(0)), "{}"),
        equal("of all", str(list(pictures.all_metadata())), str([{}] * 7)),
    )  # fmt: skip
