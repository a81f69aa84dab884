"""What errors of images say to type: of their sources, and of their size in a training."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fixes_of_ingest import recordings
from PIL import Image
from terminal import Terminal, fixes, train, write_images

from latentcast.artifacts.encoder import Encoder
from latentcast.data.arrays import write_store
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.images.arrays import one_or_many
from latentcast.recipes import recipe

RGB = "nepa-image-tiny"
"""Of 32 × 32 pixels and three channels."""


def ingesting(t: Terminal, source: Path, rest: str = "") -> str:
    return f"ingest {source} --out {t.new()} {rest} "


# Sources --------------------------------------------------------------------------------------


@fixes("images/folder.py", "{}: all images lie below")
def _(t: Terminal) -> None:
    write_images(t.new("photos") / "inner", [8] * 4)
    command = f"ingest --out {t.new()} "
    t.works(command + t.refused(command + str(t.new("photos"))).typed("name that folder, (.+)"))


@fixes("images/arrays.py", "{}: {} {} (for recordings")
def _(t: Terminal) -> None:
    bad = f"ingest {t.at.npy} --out {t.new()} --size 8"
    t.works(recordings(t) + t.refused(bad).typed("--kind ecg"))


@fixes("images/arrays.py", "holds {}, whose range")
def _(t: Terminal) -> None:
    x = np.random.default_rng(0).random((10, 8, 8))
    np.save(t.new("x.npy"), x)
    command = f"ingest {t.new('x.npy')} --kind image --out {t.new()}"
    code = t.refused(command).typed(r"\(x \* 255\)\S+'\)")
    np.save(t.new("x.npy"), eval(code, {"x": x}))
    t.works(command)


@fixes("images/arrays.py", "{}: has {} and no images")
def _(t: Terminal) -> None:
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez(t.new("a.npz"), x_train=images, y_test=np.arange(4))
    command = f"ingest {t.new('a.npz')} --out {t.new()}"
    assert t.refused(command).typed("give both the same ending")
    images += np.arange(4, dtype=np.uint8)[:, None, None]
    np.savez(t.new("a.npz"), x_train=images, y_train=np.arange(4))
    t.works(command)


# Patients -------------------------------------------------------------------------------------

NAMES = [f"{('ant', 'bee')[n % 2]}/{n}-patient{n // 2}.png" for n in range(12)]
TABLE = "image,patient\n" + "".join(f"{name},{n // 2}\n" for n, name in enumerate(NAMES))
PATTERN = r"patient(\d+)"


def frames(t: Terminal) -> Path:
    """Two images of each patient, one in each of two folders."""
    folder = write_images(t.new("frames"), [8] * 12)
    for name in NAMES:
        (folder / f"{name.split('-')[0]}.png").rename(folder / name)
    return folder


def grouped(start: str, bad: str | None, typed: str, good: str) -> None:
    """Register ``--patients``, a pattern or a table, that is refused, and what works instead."""

    @fixes("data/patients.py", f"--patients {{}}: {start}")
    def _(t: Terminal) -> None:
        def patients(by: str | None) -> str:
            if by is not None and "," not in by:
                return f"--patients '{by}'"
            if by is not None:
                t.new("g.csv").write_text(by)
            return f"--patients {t.new('g.csv')}"

        source = frames(t)
        found = t.refused(ingesting(t, source, patients(bad))).typed(typed)
        t.works(ingesting(t, source, patients(good or found)))


grouped("does not exist", None, "columns record_id and patient_id", TABLE)
grouped("gives {} of {} records", "ant/" + PATTERN, "such as '(.+?)'", PATTERN)
grouped("puts all", "patient", "name what tells patients apart", PATTERN)
grouped("is no regular", "([", "such as '(.+?)'", "")


@fixes("data/patients.py", "{}: has no column of {}s")
def _(t: Terminal) -> None:
    source = frames(t)
    t.new("g.csv").write_text(TABLE.replace("patient", "owner", 1))
    command = ingesting(t, source, f"--patients {t.new('g.csv')}")
    name = t.refused(command).typed("call one (.*)")
    t.new("g.csv").write_text(TABLE.replace("patient", name, 1))
    t.works(command)


@fixes("data/patients.py", "--patients {}: patient '{}' has records in two")
def _(t: Terminal) -> None:
    source = frames(t)
    one, other = (source / "ant").rename(source / "train"), (source / "bee").rename(source / "test")
    command = ingesting(t, source, f"--patients '{PATTERN}'")
    assert t.refused(command).typed("move all records of a patient into one")
    for file in other.iterdir():
        file.rename(one / file.name)
    t.works(command)


@fixes("evaluation/leaks.py", "images of the validation or test split nearly equal")
def _(t: Terminal) -> None:
    rng = np.random.default_rng(0)
    scenes = np.repeat(rng.integers(10, 240, (20, 8, 8)), 5, axis=0)
    for n, pixels in enumerate(scenes + rng.integers(-5, 6, scenes.shape)):
        file = t.new("frames") / ("ant", "bee")[n // 5 % 2] / f"patient{n // 5}-{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    t.works(f"ingest {t.new('frames')} --out {t.new('frame')}")
    flag = t.prints(f"probe {t.at.image_run} --data {t.new('frame')}").typed("--patients")
    t.works(ingesting(t, t.new("frames"), f"{flag} '{PATTERN}'"))
    assert "nearly equal" not in t.works(f"probe {t.at.image_run} --data {t.new()}")


# Splits and labels ----------------------------------------------------------------------------


@fixes("images/source.py", "{}: --splits named: none")
@fixes("images/source.py", "{}: {} {} named like splits")
def _(t: Terminal) -> None:
    source = write_images(t.new("i"), [8] * 12)
    if "none of" in t.messages[0].text:
        assert t.refused(ingesting(t, source, "--splits named")).typed("leave it out")
        t.works(ingesting(t, source))
        return
    (source / "ant").rename(source / "test")
    error = t.refused(ingesting(t, source))
    for flags in (error.typed("--splits named"), error.typed("--splits none")):
        t.works(ingesting(t, source, flags).replace("/new ", f"/{flags.split()[1]} "))


def parquet(t: Terminal, **columns: object) -> Path:
    """A file of eight images and some columns of one value a row."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = []
    for value in range(0, 240, 30):
        Image.new("L", (8, 8), value).save(buffer := io.BytesIO(), "png")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": rows, **columns}), t.new("a.parquet"))
    return t.new("a.parquet")


LETTERS = ["a", "b"] * 4


@fixes("images/huggingface.py", "{}: has no column {}")
@fixes("images/huggingface.py", "{}: {} columns could hold")
def _(t: Terminal) -> None:
    absent = "no column" in t.messages[0].text
    source = parquet(t, target=LETTERS, y=LETTERS)
    error = t.refused(ingesting(t, source, "--label-column targe" * absent))
    label = error.typed("mean '(.+)'" if absent else "--label-column (target)")
    t.works(ingesting(t, source, f"--label-column {label}"))


@fixes("images/huggingface.py", "none of the columns {}")
def _(t: Terminal) -> None:
    source = parquet(t, species=LETTERS)
    flags = t.prints(ingesting(t, source)).typed("--label-column species")
    t.works(f"ingest {source} --out {t.new('labelled')} {flags}")


@fixes("images/huggingface.py", "{}: {} is neither whole")
def _(t: Terminal) -> None:
    source = parquet(t, target=[0.5, 1.5] * 4, species=LETTERS)
    flag = t.refused(ingesting(t, source)).typed("another column with (--label-column)")
    t.works(ingesting(t, source, f"{flag} species"))


@fixes("images/huggingface.py", "{}: {} holds whole numbers and text")
def _(t: Terminal) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = parquet(t, target=LETTERS, species=LETTERS).parent
    table = pq.read_table(folder / "a.parquet")
    pq.write_table(table.set_column(1, "target", pa.array([1, 2] * 4)), folder / "b.parquet")
    (folder / "in").mkdir()
    for name in ("a.parquet", "b.parquet"):
        (folder / name).rename(folder / "in" / name)
    flag = t.refused(ingesting(t, folder / "in", "--label-column target")).typed(
        "column with (--label-column)"
    )
    t.works(ingesting(t, folder / "in", f"{flag} species"))


@fixes("images/webdataset.py", "{}: holds folders of images")
def _(t: Terminal) -> None:
    t.new("in").mkdir()
    with tarfile.open(t.new("in") / "a.tar", "w") as tar:
        tar.add(write_images(t.new("i"), [8] * 12), "")
    t.works(ingesting(t, Path(t.refused(ingesting(t, t.new("in"))).typed("ingest it alone, (.+)"))))


# Pixels ---------------------------------------------------------------------------------------


def deep(t: Terminal, highest: int) -> Path:
    """Eight grey PNGs of 16 bits a pixel, up to a value."""
    t.new("deep").mkdir()
    for n in range(8):
        values = np.random.default_rng(n).integers(0, highest, (8, 8), np.uint16)
        values[0, 0] = highest
        Image.fromarray(values).save(t.new("deep") / f"{n}.png")
    return t.new("deep")


@fixes("data/codecs/pixels.py", "--bits {}")
@fixes("images/decode.py", "has a pixel of {}")
@fixes("images/decode.py", "has 16 bits a pixel")
def _(t: Terminal) -> None:
    source, text = deep(t, 4000), t.messages[0].text
    bad = {"has 16": "", "has a ": "--bits 10"}.get(text[:6], "--bits 8")
    error = t.refused(ingesting(t, source, bad))
    if "raise" in text:
        t.works(ingesting(t, source, f"{error.typed('raise (--bits)')} 12"))
    else:
        t.works(ingesting(t, source, f"--bits {error.typed(r'(?:such as|--bits) (12)')}"))


@fixes("images/decode.py", "has colours of 16 bits")
def _(t: Terminal) -> None:
    """Pillow reads such files and writes none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    source, pixels = t.new("deep"), np.random.default_rng(0).integers(0, 4096, (8, 8, 8, 3))
    source.mkdir()
    for n, rows in enumerate(pixels.astype(">u2")):
        content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
        (source / f"{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    assert t.refused(ingesting(t, source, "--bits 12")).typed("save it with 8 bits a colour")
    for n, rows in enumerate(pixels):
        Image.fromarray((rows >> 4).astype(np.uint8)).save(source / f"{n}.png")
    t.works(ingesting(t, source, "--bits 12"))


@fixes("images/arrays.py", "np.asarray(images")
def _(t: Terminal) -> None:
    images = np.random.default_rng(0).integers(0, 255, (9, 8, 8)).astype(object)

    def write(images: np.ndarray) -> None:
        write_store(t.new(), images=images, quiet=True)

    code = t.refused(lambda: write(images)).typed(r"np\.asarray\(.+\)")
    t.works(lambda: write(eval(code, {"np": np, "images": images})))


@fixes("data/arrays.py", "{}: is of signals")
def _(t: Terminal) -> None:
    images = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 1), np.uint8)
    call = {"images": images, "quiet": True}
    assert t.refused(lambda: write_store(t.new(), unit="mV", **call)).typed(
        "leave it out of images"
    )
    t.works(lambda: write_store(t.new(), **call))


# Size -----------------------------------------------------------------------------------------


@fixes("data/codecs/pixels.py", "--size {}")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.images} --out {t.new()} "
    t.works(command + t.refused(command + "--size 0").typed("(--size) 0: must be pos") + " 8")


@fixes("data/codecs/pixels.py", "--encoding encoded")
def _(t: Terminal) -> None:
    np.save(t.new("x.npy"), np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8))
    command = f"ingest {t.new('x.npy')} --out {t.new()} "
    assert t.refused(command + "--encoding encoded").typed("leave it out")
    t.works(command)


@fixes("data/codecs/pixels.py", "{}: images differ in size")
def _(t: Terminal) -> None:
    command = f"ingest {write_images(t.new('i'), [8, 9, 10, 8])} --out {t.new()} "
    t.works(command + t.refused(command).typed(r"--size \d+"))


@fixes("data/ingest.py", "are smaller than --size")
def _(t: Terminal) -> None:
    source = write_images(t.new("i"), [8] * 12)
    flag = t.prints(ingesting(t, source, "--size 16")).typed("a smaller (--size)")
    assert "enlarged" not in t.works(f"ingest {source} --out {t.new('other')} {flag} 8")


@fixes("data/fit.py", "re-ingest with --size {}", "train at their size",
       "train with --set input.ca", "input.canvas is")  # fmt: skip
def _(t: Terminal) -> None:
    source = write_images(t.new("i"), [24] * 12)
    t.works(ingesting(t, source))
    error = t.refused(train(t, RGB, t.new()))
    t.works(train(t, RGB, t.new(), error.typed(r"--set input\.height=\d+ \S+\d"), "own"))
    t.works(train(t, RGB, t.new(), error.typed(r"--set input\.canvas=\S+\]"), "canvas"))
    t.works(f"ingest {source} --out {t.new('large')} {error.typed(r'--size [0-9]+')}")
    t.works(train(t, RGB, t.new("large"), out="large-run"))
    error = t.refused(train(t, RGB, t.new(), "--set input.canvas=[20,20]"))
    t.works(train(t, RGB, t.new(), error.typed(r"--set input\.canvas=\S+\]"), "again"))


@fixes("data/image_preprocess.py", "ingest them with --size {}, or", "images of {} × {} pixels")
@fixes("data/image_preprocess.py", "input.channels: is", "give images of those channels")
def _(t: Terminal) -> None:
    channels = "channels" in t.messages[0].text
    mean, std = [0.5] * 3, [0.2] * 3
    config = recipe(RGB).updated({"input.normalisation": {"mean": mean, "std": std}})
    shape = (1, 32, 32, 1) if channels else (1, 40, 40, 3)
    error = t.refused(lambda: ImagePreprocess(config.input)(torch.zeros(shape, dtype=torch.uint8)))
    if channels:
        t.works(train(t, RGB, t.at.grey, error.typed("--set .*")))
        return
    source = write_images(t.new("i"), [40] * 12)
    t.works(ingesting(t, source, error.typed(r"--size \d+")))
    t.works(train(t, RGB, t.new()))
    assert error.typed(r"Encoder\.embed")
    t.works(lambda: Encoder.from_pretrained(t.new("run")).embed(np.zeros((1, 40, 40, 3), np.uint8)))


@fixes("artifacts/images.py", "size {}: is of images")
@fixes("artifacts/images.py", "bytes: are nothing")
@fixes("artifacts/images.py", "{}: its images have {} channels")
def _(t: Terminal) -> None:
    text = t.messages[0].text
    run, record = (t.at.run, t.at.bare) if "size" in text else (t.at.image_run, None)
    encoder, x = Encoder.from_pretrained(run), np.zeros((2, 8, 8, 3), np.uint8)
    if "size" in text:
        assert t.refused(lambda: encoder.embed(record, size=8)).typed("leave it out")
        t.works(lambda: encoder.embed(record))
    elif "bytes" in text:
        file = min(write_images(t.new("i"), [8]).rglob("*.png"))
        Image.open(file).convert("L").save(file)
        assert t.refused(lambda: encoder.embed(file.read_bytes())).typed("the path of an image")
        t.works(lambda: encoder.embed(file))
    else:
        count = int(t.refused(lambda: encoder.embed(x)).typed(r"give images of (\d)"))
        t.works(lambda: encoder.embed(x[..., :count]))


@fixes("images/arrays.py", "{}: could be")
def _(t: Terminal) -> None:
    for shape in [(8, 9, 4), (8, 9, 2), (3, 8, 9)]:
        x = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        error = t.refused(lambda x=x: list(one_or_many(x, 3)))
        np.save(t.new("x.npy"), x)
        command = f"ingest {t.new('x.npy')} --out {t.new()}"
        one, several = error.typed(r"give (x\[.+?\])"), error.typed(r", (x\[\.+, None\]) for")
        assert t.refused(command).typed(r"give (x\[.+?\])") == one
        for number, code in enumerate((one, several)):
            t.works(lambda x=x, code=code: list(one_or_many(eval(code, {"x": x}), 3)))
            np.save(t.new("y.npy"), eval(code, {"x": x}))
            t.works(f"ingest {t.new('y.npy')} --out {t.new(f'{shape[2]}{number}')}")


@fixes("images/arrays.py", "{}: --splits {}")
def _(t: Terminal) -> None:
    np.save(t.new("x.npy"), np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8))
    command = f"ingest {t.new('x.npy')} --out {t.new()}"
    assert t.refused(f"{command} --splits none").typed("leave it out")
    t.works(command)


@fixes("images/arrays.py", "{}: {} has shape {}, {} holds {} images")
def _(t: Terminal) -> None:
    images = np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8)
    command = f"ingest {t.new('x.npz')} --out {t.new()}"
    np.savez(t.new("x.npz"), images=images, labels=np.arange(3))
    assert t.refused(command).typed("give one label an image")
    np.savez(t.new("x.npz"), images=images, labels=np.arange(9))
    t.works(command)
