"""Archives and shards as sources: what the unpacked folder gives, and nothing an archive may do."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import contents, quarantine, write_classes

from conftest import WFDB
from latentcast import archives
from latentcast.data import ingest as module
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError

PNG = b"of no image; the name is what counts here"


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    return room


def pack(folder: Path, archive: Path) -> Path:
    """The folder itself lies in the archive, as most tools have it."""
    kind = {".zip": "zip", ".tar": "tar"}.get(archive.suffix, "gztar")
    made = shutil.make_archive(str(archive) + ".made", kind, folder.parent, folder.name)
    Path(made).rename(archive)
    return archive


def add(archive: Path, name: str, data: bytes = PNG, **about: object) -> None:
    """One more member at the end of a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in about.items():
        setattr(info, key, value)
    with tarfile.open(archive, "a") as tar:
        tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("modality", ["images", "recordings", "array"])
def test_an_archive_gives_another_store_than_the_folder_in_it(
    tmp_path: Path, room: Path, modality: str, suffix: str
) -> None:
    folder, options = tmp_path / "in", {}
    if modality == "recordings":
        shutil.copytree(WFDB, folder)  # with PTB-XL's table and its checksums
        options = {"fs": 100}
    elif modality == "images":
        for split in ("train", "test"):
            write_classes(folder / split, 12)
        (folder / "train" / "digit 0" / "no image.txt").write_text("")
    else:
        folder.mkdir()
        np.save(folder / "ecgs.npy", np.random.default_rng(0).normal(size=(6, 2, 500)))
        options = {"sampling_rate": 100, "leads": ["I", "II"], "unit": "mV"}
        options |= {"layout": "records,leads,samples"}
    source = folder / "ecgs.npy" if modality == "array" else folder
    first = ingest(source, tmp_path / "of folder", quiet=True, workers=1, **options).store
    archive = pack(folder, tmp_path / f"x{suffix}")
    packed = ingest(archive, tmp_path / "of archive", quiet=True, workers=2, **options).store
    theirs, mine = contents(packed.path), contents(first.path)
    assert {name for name in mine if theirs.get(name) != mine[name]} == {"manifest.json"}
    assert packed.manifest.provenance["source"] == archive.name
    assert packed.manifest.provenance["archive_sha256"] == archives.sha256(archive)
    assert not list(room.iterdir()), "what was unpacked stays"
    ingest(archive, tmp_path / "of archive", quiet=True, **options)
    assert contents(packed.path) == theirs


def test_a_readme_beside_the_one_folder_of_an_archive_is_no_refusal(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / "in" / split, 4)
    archive = pack(tmp_path / "in", tmp_path / "x.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("README.txt", "about")
    store = ingest(archive, tmp_path / "out", quiet=True).store
    assert len(store) == 4 and store.classes[0] == "digit 0"


def test_a_killed_ingest_of_an_archive_goes_on_with_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "in", 40)
    (tmp_path / "in" / "digit 0" / "cut.png").write_bytes(b"\x89PNG")
    archive, out = pack(tmp_path / "in", tmp_path / "x.zip"), tmp_path / "out"
    options = {"shard_bytes": 1000, "workers": 1, "quiet": True}
    close, closed = module.ShardWriter.close, []

    def stop(self: module.ShardWriter, next_ref: int) -> None:
        close(self, next_ref)
        closed.append(next_ref)
        if len(closed) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.ShardWriter, "close", stop)
        ingest(archive, out, **options)
    ingest(archive, out, **options)
    assert contents(out) == contents(ingest(archive, tmp_path / "at once", **options).store.path)


def outside(archive: Path) -> None:
    for name in ("../out.png", "/abs.png", "a/../../b.png"):
        add(archive, name)


def links(archive: Path) -> None:
    add(archive, "in/digit 0/link", b"", type=tarfile.SYMTYPE, linkname="../../..")
    add(archive, "in/digit 0/link/through.png")
    add(archive, "in/digit 0/hard.png", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")
    add(archive, "in/digit 0/pipe.png", b"", type=tarfile.FIFOTYPE)
    add(archive, "in/digit 0/null.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)


def twice(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        name = next(member.name for member in tar if member.isfile())
    add(archive, name)


def odd(archive: Path) -> None:
    add(archive, "in/digit 0/" + "long" * 99 + ".png")
    add(archive, "in/digit 0/0000.png/below.png")
    for name in ("__MACOSX/in/._a.png", "in/.DS_Store", "in/digit 0/._0000.png"):
        add(archive, name)


def cut(archive: Path) -> None:
    add(archive, "in/digit 0/cut.png", bytes(2000))
    data = archive.read_bytes()
    archive.write_bytes(data[: data.rindex(b"in/digit 0/cut.png") + 1000])


def damaged(archive: Path) -> None:
    for number in range(2):
        add(archive, f"in/digit 0/{number}.png")
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"in/digit 0/1.png")] ^= 1
    archive.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (outside, {"../out.png": "leads out", "/abs.png": "leads out", "a/../../b.png": "leads"}),
        (
            links,
            {
                "in/digit 0/link": "is a link",
                "digit 0/link/through.png": "is no image",
                "in/digit 0/hard.png": "is a link",
                "in/digit 0/pipe.png": "is no file",
                "in/digit 0/null.png": "is no file",
            },
        ),
        (twice, {"in/digit 0/0000.png": "second file"}),
        (
            odd,
            {
                "in/digit 0/" + "long" * 99 + ".png": "File name too long",
                "in/digit 0/0000.png/below.png": "Not a directory|File exists",
            },
        ),
        (cut, {"x.tar": "cut off after 10 files"}),
        (damaged, {"x.tar": "cut off after 11 files", "digit 0/0.png": "is no image"}),
    ],
    ids=["outside", "links", "twice", "odd", "cut", "damaged"],
)
def test_a_member_of_a_tar_leaves_its_folder_or_stops_the_others(
    tmp_path: Path, change: Callable[[Path], None], reasons: dict[str, str]
) -> None:
    write_classes(tmp_path / "in", 10)
    archive = pack(tmp_path / "in", tmp_path / "x.tar")
    change(archive)
    before = sorted(tmp_path.rglob("*"))
    result = ingest(archive, tmp_path / "out", quiet=True)
    assert len(result.store) == 10 and result.store.verify() is None
    found = quarantine(tmp_path / "out")
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, found[name]), found[name]
    left = [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "out" not in path.parents]
    assert left == sorted([*before, tmp_path / "out"])


def test_a_member_of_a_zip_is_a_bomb_and_the_others_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 2**20)
    write_classes(tmp_path / "in", 10)
    archive = pack(tmp_path / "in", tmp_path / "x.zip")
    link = zipfile.ZipInfo("in/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("in/bomb.png", bytes(2**20))
        file.writestr(link, "../../..")
        file.writestr("in/secret.png", PNG)
        file.writestr("in/rotten.png", PNG)
        file.writestr(r"in\digit 0\windows.txt", PNG)
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"in/secret.png") - 38] |= 1  # the flags in the directory at the end
    data[data.index(b"in/rotten.png") + 20] ^= 1
    archive.write_bytes(data)
    assert len(ingest(archive, tmp_path / "out", quiet=True).store) == 10
    found = quarantine(tmp_path / "out")
    assert re.fullmatch(r"would unpack \d+ bytes to 1048576", found.pop("in/bomb.png"))
    assert found.pop("in/link.png") == "is a link"
    assert found.pop("in/secret.png") == "is encrypted"
    assert "cannot be unpacked" in found.pop("in/rotten.png")
    assert found.keys() == {"digit 0/windows.txt"}


def not_zip(folder: Path) -> Path:
    whole = pack(folder, folder.parent / "x.zip")
    whole.write_bytes(whole.read_bytes()[:-30])
    return whole


def flipped(folder: Path) -> Path:
    """One bit of what is packed, which a tar alone would not notice."""
    archive = folder.parent / "x.tgz"
    pack(folder, archive)
    data = bytearray(archive.read_bytes())
    data[-6] ^= 1
    archive.write_bytes(data)
    return archive


def bomb(folder: Path) -> Path:
    (folder / "bomb.png").write_bytes(bytes(2**22))
    return pack(folder, folder.parent / "x.tar.gz")


def name_of_a_gigabyte(folder: Path) -> Path:
    archive = pack(folder, folder.parent / "x.tar")
    add(archive, "long", b"", type=tarfile.GNUTYPE_LONGNAME)
    data = bytearray(archive.read_bytes())
    place = data.rindex(b"long\0")
    data[place + 124 : place + 136] = b"10000000000\0"
    data[place + 148 : place + 156] = b" " * 8
    total = sum(data[place : place + 512])
    data[place + 148 : place + 156] = f"{total:06o}\0 ".encode()
    archive.write_bytes(data[place : place + 1024] + data[:place])
    return archive


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (not_zip, "is damaged or no archive.*not a zip file.*download it again"),
        (flipped, "is damaged or no archive.*CRC"),
        (bomb, "unpacks its .* bytes to more than .* unpack it and name the folder"),
        (name_of_a_gigabyte, "is damaged or no archive .a header of 1073741824 bytes"),
    ],
)
def test_a_bad_archive_is_no_sentence(
    tmp_path: Path,
    room: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    problem: str,
) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 2**20)
    write_classes(tmp_path / "in", 10)
    archive = make(tmp_path / "in")
    with pytest.raises(LatentcastError, match=f"^{archive}: {problem}"):
        ingest(archive, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists() and not list(room.iterdir())


def test_a_disk_fills_up_or_the_folder_of_a_killed_ingest_stays(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "in", 10)
    archive = pack(tmp_path / "in", tmp_path / "x.zip")
    left, young = room / "latentcast-unpacked-left", room / "latentcast-unpacked-young"
    for folder in (left, young):
        (folder / "x.zip").mkdir(parents=True)
    os.utime(left, (0, 0))
    monkeypatch.setattr(archives, "RESERVE", 2**60)
    with pytest.raises(LatentcastError, match=f"{archive}: does not fit .*{room}.* set TMPDIR"):
        ingest(archive, tmp_path / "out", quiet=True)
    assert list(room.iterdir()) == [young]


def test_the_advice_names_a_folder_that_is_gone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        np.save(tmp_path / "in" / name / "x.npy", np.zeros((4, 8, 8), np.uint8))
    shutil.copy(tmp_path / "in" / "a" / "x.npy", tmp_path / "in" / "a" / "y.npy")
    archive = pack(tmp_path / "in", tmp_path / "x.zip")
    with pytest.raises(LatentcastError, match=f"^{archive}/in/a: .* name one file, {archive}/in/a"):
        ingest(archive / "in" / "a", tmp_path / "out", quiet=True)
    store = ingest(archive / "in" / "a" / "x.npy", tmp_path / "out", quiet=True).store
    assert store.record_ids.tolist() == ["x-000000"]  # the others are equal to it


# --- WebDataset -----------------------------------------------------------------------------------


def shards(folder: Path, images: dict[str, bytes], patient: str = "patient_id") -> list[Path]:
    """Of two samples each, with the label in ``.cls`` or, of every other one, in JSON."""
    folder.mkdir()
    made = []
    for number, (name, data) in enumerate(images.items()):
        made += [folder / f"train-{number // 2:06d}.tar"] * (number % 2 == 0)
        key, label = f"{number:08d}", name.split("/")[0]
        beside = {"json": json.dumps({"label": label, "age": number, patient: number // 2})}
        if number % 2:
            beside = {"cls": label, "txt": f"a {label}", "json": json.dumps({"label": "other"})}
        with tarfile.open(made[-1], "a") as tar:
            for kind, text in {"PNG": data, **beside}.items():
                data = text.encode() if isinstance(text, str) else text
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return made


@pytest.mark.parametrize("patient", ["patient_id", "patient", "subject_id"])
def test_shards_give_other_samples_than_the_files_they_were_made_of(
    tmp_path: Path, patient: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "in", 12)
    files = sorted((tmp_path / "in").rglob("*.png"))
    images = {f.relative_to(tmp_path / "in").as_posix(): f.read_bytes() for f in files}
    first, *_ = shards(tmp_path / "shards", images, patient)
    store = ingest(tmp_path / "shards", tmp_path / "out").store
    assert f"patient is {patient}, the class label, metadata are age" in capsys.readouterr().err
    plain = ingest(tmp_path / "in", tmp_path / "plain", quiet=True).store
    assert store.record_ids.tolist() == [f"{n:08d}" for n in range(12)]
    assert np.array_equal(store.take(np.arange(12)), plain.take(np.arange(12)))
    assert [store.classes[i] for i in store.class_ids] == [name.split("/")[0] for name in images]
    assert store.patient_ids.tolist()[::2] == [str(n // 2) for n in range(0, 12, 2)]
    assert store.metadata(2) == {"age": 2}
    assert store.metadata(3) == {"label": "other", "text": "a digit 1"}
    assert ingest(first, tmp_path / "one", quiet=True).records == 2
    shutil.copy(first, tmp_path / "shards" / "validation-000000.tar")
    again = ingest(tmp_path / "shards", tmp_path / "both", quiet=True)
    assert again.store.record_ids.tolist()[:2] == [f"validation-000000/{n:08d}" for n in (0, 1)]
    assert again.quarantined == 2, "the copies"


def test_a_damaged_shard_loses_the_others_or_passes_unseen(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 12)
    images = {
        f"digit {n}/{n}": f.read_bytes() for n, f in enumerate((tmp_path / "in").rglob("*.png"))
    }
    made = shards(tmp_path / "shards", images)
    made[0].write_bytes(made[0].read_bytes()[:3000])
    (tmp_path / "shards" / "train-gone.tar").symlink_to("nowhere")
    add(made[1], "../out.png")
    add(made[1], "two.png")
    add(made[1], "two.jpg")
    add(made[1], "bad.png")
    add(made[1], "bad.json", b"[" * 100_000)
    add(made[1], "only.txt")
    assert ingest(tmp_path / "shards", tmp_path / "out", quiet=True).records == 11
    found = quarantine(tmp_path / "out")
    assert re.search("cut off after 2 samples", found["train-000000.tar"])
    assert "last of a shard" in found["00000001"]
    assert "'train-gone.tar' is missing" in found["train-gone.tar"]
    assert "leads out" in found["../out"]
    assert found["two"] == "holds 2 images (png, jpg)"
    assert "json cannot be read" in found["bad"] and "holds no images" in found["only"]


def test_a_shard_without_a_split_or_a_class_is_taken_for_one(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 4)
    (tmp_path / "shards").mkdir()
    archive = pack(tmp_path / "in", tmp_path / "shards" / "photos.tar")
    with pytest.raises(LatentcastError, match="holds folders of images .* ingest it alone, .*tar"):
        ingest(tmp_path / "shards", tmp_path / "out", quiet=True)
    assert len(ingest(archive, tmp_path / "out", quiet=True).store.classes) == 4
    shutil.copy(archive, tmp_path / "shards" / "train-0.tar")
    with pytest.raises(LatentcastError, match=r"photos.tar is not; --splits named"):
        ingest(tmp_path / "shards", tmp_path / "out", quiet=True)
