"""Images into a store: nothing lost, nothing guessed, the same bytes however it is run."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import coloured, contents, digits, quarantine, write_classes
from PIL import Image

from conftest import Command
from latentcast.data.codecs import pixels
from latentcast.data.codecs.pixels import SMALL
from latentcast.data.folds import Folds
from latentcast.data.ingest import ingest
from latentcast.data.statistics import ChannelSums
from latentcast.data.store import Store
from latentcast.data.writer import ShardWriter
from latentcast.errors import LatentcastError
from latentcast.evaluation.leaks import check
from latentcast.images import decode as module
from latentcast.images import jpeg
from latentcast.images.decode import Canvas, Measured, decode
from latentcast.images.folder import ImageFolder
from latentcast.source import BadRecord, RecordRef


def test_the_store_holds_every_pixel_of_every_image(tmp_path: Path) -> None:
    written = write_classes(tmp_path / "in", 30)
    result = ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    store = result.store
    assert (result.records, result.quarantined, len(store)) == (30, 0, 30)
    assert store.record_ids.tolist() == sorted(written)
    assert store.classes == tuple(f"digit {i}" for i in range(10))
    for i, name in enumerate(store.record_ids.tolist()):
        assert np.array_equal(store.take([i])[0], written[name])
        assert store.classes[store.class_ids[i]] == name.split("/")[0]
    store.verify()


def test_encoded_images_keep_their_bytes_and_give_the_same_pixels(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 20, suffix=".jpg", side=24)
    options = {"size": 16, "quiet": True}
    pixels = ingest(tmp_path / "in", tmp_path / "pixels", **options).store
    encoded = ingest(tmp_path / "in", tmp_path / "bytes", encoding="encoded", **options).store
    rows = np.arange(20)[::-1]
    assert np.array_equal(pixels.take(rows), encoded.take(rows))
    for row, name in enumerate(encoded.record_ids.tolist()):
        assert encoded.encoded(row) == (tmp_path / "in" / name).read_bytes()
    assert pixels.manifest.statistics == encoded.manifest.statistics


def test_resizing_takes_the_middle_of_the_short_side(tmp_path: Path) -> None:
    """Equal to resizing the whole image and cropping it, at a ratio that gives whole pixels."""
    image = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "wide.png")
    Image.fromarray(image.transpose(1, 0, 2)).save(tmp_path / "in" / "tall.png")
    store = ingest(tmp_path / "in", tmp_path / "out", size=20, quiet=True).store
    resized = np.asarray(Image.fromarray(image).resize((50, 20), Image.Resampling.BICUBIC))
    tall, wide = store.take([0, 1])
    assert np.array_equal(wide, resized[:, 15:35])
    assert np.abs(tall.astype(int) - wide.transpose(1, 0, 2)).max() <= 1


def test_images_of_two_sizes_need_a_size_and_the_folder_stays_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "in", 4)
    write_classes(tmp_path / "in", 2, side=16, skip=4)
    with pytest.raises(LatentcastError, match=r"differ in size .* 8 × 8, .* 16 × 16.*--size 224"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert len(ingest(tmp_path / "in", tmp_path / "out", size=8, quiet=True).store) == 6
    ingest(tmp_path / "in", tmp_path / "large", size=12)
    assert "4 images are smaller than --size and were enlarged" in capsys.readouterr().err


def test_bad_files_go_to_quarantine_with_the_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    written = write_classes(folder, 12, suffix=".jpg", side=64)
    first = folder / next(iter(written))
    (folder / "digit 0" / "cut.jpg").write_bytes(first.read_bytes()[:-200])
    (folder / "digit 0" / "text.jpg").write_text("no image at all")
    (folder / "digit 0" / "empty.png").touch()
    (folder / "digit 0" / "notes.txt").write_text("of the photographer")
    (folder / "digit 0" / "deep.tif").write_bytes(b"")
    Image.fromarray(np.ones((64, 64), np.float32)).save(folder / "digit 0" / "deep.tif")
    (folder / "digit 1" / "zz twin.jpg").write_bytes(first.read_bytes())
    (folder / ".hidden.jpg").write_text("no image")
    result = ingest(folder, tmp_path / "out", quiet=True)
    expected = {
        "digit 0/cut.jpg": "is truncated or damaged",
        "digit 0/text.jpg": "is no image, or of a format",
        "digit 0/empty.png": "is no image, or of a format",
        "digit 0/notes.txt": "is no image file by its name",
        "digit 0/deep.tif": "32 bits",
        "digit 1/zz twin.jpg": f"duplicate record: same bytes as {next(iter(written))}",
    }
    reasons = quarantine(tmp_path / "out")
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
    assert (result.records, result.quarantined) == (12, 6)
    assert result.store.record_ids.tolist() == sorted(written)


def test_the_most_frequent_reason_of_the_quarantine_is_printed(
    tmp_path: Path, command: Command
) -> None:
    write_classes(tmp_path / "in", 4)
    for name in ("a.png", "b.png", "c.txt"):
        (tmp_path / "in" / "digit 0" / name).write_text(name)
    answer = command("ingest", tmp_path / "in", "--out", tmp_path / "out")
    assert "most often (2) 'is no image, or of a format" in answer.out
    assert str(tmp_path / "out" / "quarantine.csv") in answer.out


def test_a_png_of_which_a_checksum_is_another_is_in_the_store(tmp_path: Path) -> None:
    """Pillow compares only those before the pixels."""
    file = tmp_path / "a.png"
    Image.fromarray(digits()[0][0]).save(file)
    intact, canvas = file.read_bytes(), Canvas(8, 8, 1, resize=False)
    decode(intact + b"after the end", canvas)
    for chunk in (b"IDAT", b"IEND"):
        place = intact.index(chunk) + 4 + int.from_bytes(intact[intact.index(chunk) - 4 :][:4])
        damaged = intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :]
        with pytest.raises(BadRecord, match=f"is damaged .*{chunk.decode()}"):
            decode(damaged, canvas)


def test_nothing_but_bad_images_is_an_error_that_can_be_fixed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no image")
    with pytest.raises(LatentcastError, match=r"none of its 1 records .* a.png: is no image"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    write_classes(tmp_path / "in", 0)
    Image.fromarray(digits()[0][0]).save(tmp_path / "in" / "a.png")
    assert len(ingest(tmp_path / "in", tmp_path / "out", quiet=True).store) == 1


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("1", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)],
)
def test_every_kind_of_pixel_becomes_grey_or_red_green_and_blue(
    tmp_path: Path, mode: str, channels: int
) -> None:
    image = digits()[0][7]
    made = Image.fromarray(coloured(image) if channels == 3 else image)
    if mode == "I;16":
        made = Image.fromarray(image.astype(np.uint16) * 256 + 99)
    elif mode == "1":
        made = made.point(lambda v: 255 * (v > 99), "1")
    elif made.mode != mode:
        made = made.convert(mode)
    folder = tmp_path / "in"
    folder.mkdir()
    made.save(folder / ("a.tif" if mode == "CMYK" else "a.png"))
    store = ingest(folder, tmp_path / "out", quiet=True).store
    assert store.channels == channels
    expected = {
        "1": 255 * (image > 99),
        "P": np.asarray(made.convert("RGB")),
    }.get(mode, coloured(image) if channels == 3 else image)
    assert np.array_equal(store.take([0])[0], expected.reshape(8, 8, channels))


@pytest.mark.parametrize(
    ("scale", "bits", "expected"),
    [
        (
            16,
            None,
            "none of them above 4080, .* --bits 12",
        ),  # it was 16 grey levels
        (16, 12, 1),
        (16, 16, 1 / 16),
        (256, None, 1),  # the brightest pixel needs all 16 bits
        (256, 12, "has a pixel of 65280, which is more than 12 bits; raise"),
    ],
)
def test_deep_pixels_keep_their_grey_levels(
    tmp_path: Path, scale: int, bits: int | None, expected: float | str
) -> None:
    image = digits()[0][7].astype(np.uint16) * scale
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    if isinstance(expected, str):
        with pytest.raises(LatentcastError, match=expected):
            ingest(tmp_path / "in", tmp_path / "out", bits=bits, quiet=True)
        return
    store = ingest(tmp_path / "in", tmp_path / "out", bits=bits, quiet=True).store
    assert np.array_equal(store.take([0])[0, :, :, 0], (digits()[0][7] * expected).astype(int))
    assert store.manifest.bits == bits


def test_the_depth_in_the_header_of_a_tiff_is_used_and_its_further_pages_are_not_lost(
    tmp_path: Path,
) -> None:
    pages = [Image.fromarray(image.astype(np.uint16) * 16) for image in digits()[0][:3]]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "deep.tif", tiffinfo={281: 4095})
    pages[1].save(tmp_path / "in" / "pages.tif", save_all=True, append_images=pages)
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    assert np.array_equal(store.take([0])[0, :, :, 0], digits()[0][0])
    assert quarantine(store.path) == {"pages.tif": "holds 4 pages; save each as a file of its own"}


def test_one_coloured_image_makes_the_store_coloured(tmp_path: Path) -> None:
    grey = write_classes(tmp_path / "in", 12, grey=True)
    assert ingest(tmp_path / "in", tmp_path / "grey", quiet=True).store.channels == 1
    colour = write_classes(tmp_path / "in", 1, skip=12)  # neither first nor last
    store = ingest(tmp_path / "in", tmp_path / "colour", quiet=True).store
    assert store.channels == 3
    for i, name in enumerate(store.record_ids.tolist()):
        expected = colour[name] if name in colour else np.repeat(grey[name], 3, axis=2)
        assert np.array_equal(store.take([i])[0], expected)


def test_the_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(image).save(tmp_path / "in" / "a.png", exif=exif)
    store = ingest(tmp_path / "in", tmp_path / "out", quiet=True).store
    assert (store.height, store.width) == (6, 4)
    assert np.array_equal(store.take([0])[0, :, :, 0], np.rot90(image, -1))


def test_statistics_are_those_of_the_training_split_alone(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 60)
    store = ingest(tmp_path / "in", tmp_path / "out", shard_bytes=3000, quiet=True).store
    train = store.take(store.rows("train")).reshape(-1, 3).astype(np.float64) / 255
    statistics = store.manifest.statistics
    assert statistics.images == len(store.rows("train")) < 60
    np.testing.assert_allclose(statistics.mean, train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, train.std(axis=0), rtol=1e-12)
    assert not np.allclose(
        statistics.mean, store.take(np.arange(60)).mean(axis=(0, 1, 2)) / 255, rtol=1e-9
    )


@pytest.mark.parametrize("shape", [(3, 1, 1, 3), (5, 16, 16, 3), (2, 300, 300, 1), (1, 301, 9, 3)])
def test_sums_of_images_together_are_those_of_each(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(250, 256, shape).astype(np.uint8)
    alone = [ChannelSums.of(image.reshape(-1, shape[3]).T) for image in images]
    assert ChannelSums.of_images(list(images)) == alone


def test_a_constant_channel_has_no_scale(tmp_path: Path) -> None:
    image = np.zeros((3, 8, 8, 3), np.uint8)
    image[..., 0] = digits()[0][:3]
    np.savez(tmp_path / "a.npz", images=image)
    statistics = ingest(tmp_path / "a.npz", tmp_path / "out", quiet=True).store.manifest.statistics
    assert statistics.std[0] is not None and statistics.std[1:] == statistics.mean[1:] == (
        None,
        None,
    )


def test_splits_of_the_source_are_kept_and_a_missing_one_is_a_tenth_of_training(
    tmp_path: Path,
) -> None:
    write_classes(tmp_path / "in" / "Train", 400)
    write_classes(tmp_path / "in" / "test", 50, skip=400)
    store = ingest(tmp_path / "in", tmp_path / "two", quiet=True).store
    ids = store.record_ids
    assert [name.split("/")[0] for name in ids[store.rows("test")]] == ["test"] * 50
    assert {name.split("/")[0] for name in ids[store.rows("validation")]} == {"Train"}
    assert 20 <= len(store.rows("validation")) <= 60
    assert len(store.rows("train")) + len(store.rows("validation")) == 400
    write_classes(tmp_path / "in" / "val", 30, skip=450)
    store = ingest(tmp_path / "in", tmp_path / "three", quiet=True).store
    assert [len(store.rows(s)) for s in ("train", "validation", "test")] == [400, 30, 50]
    assert len(store.classes) == 10


def test_a_source_without_splits_is_divided_eight_to_one_to_one() -> None:
    refs = [RecordRef(f"image {i}", "") for i in range(10_000)]
    folds = np.array([Folds(refs).of(ref) for ref in refs])
    shares = np.bincount(folds, minlength=11)[1:] / 10_000
    assert np.abs(shares - 0.1).max() < 0.015
    assert [Folds(refs[:5]).of(ref) for ref in refs[:5]] == folds[:5].tolist()


@pytest.mark.parametrize("by", [r"patient(\d+)", "table"])
def test_no_patient_has_images_in_two_splits(tmp_path: Path, by: str, command: Command) -> None:
    """30 patients of 10 frames: 19 of 19 test patients were trained on."""
    written = []
    for number, image in enumerate(digits()[0][:300]):
        file = tmp_path / "in" / "ab"[number % 2] / f"patient{number // 10:02d}-{number % 10}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        written.append((f"{file.parent.name}/{file.name}", file.name[7:9]))
    if by == "table":
        by = str(tmp_path / "patients.csv")
        rows = [("image", "patient"), *written]
        Path(by).write_text("".join(f"{name},{patient}\n" for name, patient in rows))
    answer = command("ingest", tmp_path / "in", "--out", tmp_path / "out", "--patients", by)
    assert answer.status == 0, answer.err
    store = Store.open(tmp_path / "out")
    assert dict(zip(store.record_ids.tolist(), store.patient_ids.tolist(), strict=True)) == dict(
        written
    )
    people = [set(store.patient_ids[store.rows(split)]) for split in ("train", "test")]
    assert all(people) and not people[0] & people[1] and check(store) == []


def test_split_folders_with_a_patient_in_two_are_drawn_anew_and_keep_their_classes(
    tmp_path: Path, command: Command
) -> None:
    for number, image in enumerate(digits()[0][:300]):
        split, category = ("train", "test")[number % 2], "ab"[number % 3 % 2]
        file = tmp_path / "in" / split / category / f"patient{number // 10:02d}-{number % 10}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    ingest_them = (
        "ingest",
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--patients",
        r"patient(\d+)",
    )
    assert "has records in two splits" in (refused := command(*ingest_them)).err
    assert "--splits none" in refused.err
    answer = command(*ingest_them, "--splits", "none")
    assert answer.status == 0 and "the class of test/a/patient" in answer.err
    store = Store.open(tmp_path / "out")
    assert store.classes == ("a", "b") and check(store) == []
    people = [set(store.patient_ids[store.rows(split)]) for split in ("train", "test")]
    assert all(people) and not people[0] & people[1]


@pytest.mark.parametrize(
    ("patients", "words"),
    [
        (r"patient(\d", "is no regular expression"),
        (r"digit [0-4]", "gives . of 12 records no patient, such as 'digit"),
        (r"digit", "puts all 12 records into one group, 'digit'"),
        ("none.csv", "does not exist"),
        ("bad.csv", "has no column of patients .record from column .file..; call one patient_id"),
        ("two.csv", "has two rows that differ in column .patient."),
    ],
)
def test_patients_that_leave_an_image_without_a_patient_are_refused(
    tmp_path: Path, patients: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("file,person\na,1\n")
    Path("two.csv").write_text("image,patient\na,1\na,2\n")
    write_classes(tmp_path / "in", 12)
    with pytest.raises(LatentcastError, match=words):
        ingest("in", "out", patients=patients, quiet=True)


def test_of_two_equal_images_the_held_out_one_stays(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_classes(tmp_path / "in" / split, 10)
    write_classes(tmp_path / "in" / "train", 40, skip=10)
    result = ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert result.quarantined == 20
    assert {name.split("/")[0] for name in quarantine(tmp_path / "out")} == {"train", "val"}
    assert len(result.store.rows("test")) == 10


def test_the_same_ingest_again_does_nothing_and_another_source_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 10)
    write_classes(tmp_path / "other", 10, skip=10)
    out = tmp_path / "out"
    ingest(tmp_path / "in", out, quiet=True)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    ingest(tmp_path / "in", out, quiet=True)
    assert before == {file: file.stat().st_mtime_ns for file in out.iterdir()}
    with pytest.raises(LatentcastError, match="already holds another store .*'in' there, 'other'"):
        ingest(tmp_path / "other", out, quiet=True)
    with pytest.raises(LatentcastError, match="size not set there, 4 here"):
        ingest(tmp_path / "in", out, size=4, quiet=True)
    write_classes(tmp_path / "in", 1, skip=10)
    with pytest.raises(LatentcastError, match="has changed since"):
        ingest(tmp_path / "in", out, quiet=True)


def test_an_image_in_quarantine_that_was_fixed_at_its_length_is_not_passed_over(
    tmp_path: Path,
) -> None:
    written = write_classes(tmp_path / "in", 10)
    file = tmp_path / "in" / next(iter(written))
    intact = file.read_bytes()
    file.write_bytes(bytes(len(intact)))
    assert ingest(tmp_path / "in", tmp_path / "out", quiet=True).quarantined == 1
    assert ingest(tmp_path / "in", tmp_path / "out", quiet=True).quarantined == 1
    file.write_bytes(intact)
    with pytest.raises(LatentcastError, match="is in quarantine .*can be read now; remove"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)


TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({}, True),
        ({"progressive": True, "subsampling": 2}, True),
        ({"restart_marker_blocks": 2, "comment": b"\xff\xda", "dpi": (72, 72)}, True),
        ({"exif": TURNED}, False),
        ({"icc_profile": b"colours"}, False),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_decoded_without_pillows_parser_has_other_pixels_or_another_reason(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], plain: bool, mode: str
) -> None:
    """Whole, and damaged anywhere."""
    file, random = BytesIO(), np.random.default_rng(0)
    image = np.kron(coloured(digits()[0][3]), np.ones((2, 3, 1), np.uint8))
    Image.fromarray(image).convert(mode).save(file, "JPEG", **options)
    intact = file.getvalue()
    frame = jpeg.frame_of(intact)
    assert (frame is not None) == (plain and mode != "CMYK")
    for n in range(60):
        data = bytearray(intact)
        for place in random.integers(2, len(data), n % 4):
            data[place] = random.integers(256)
        data = data[: random.integers(2, len(data))] if n % 5 == 4 else data
        found = []
        for parse in (jpeg.frame_of, lambda _: None):
            monkeypatch.setattr(module, "frame_of", parse)
            try:
                placed = decode(bytes(data), Canvas(24, 24, 3, resize=True))
                found.append(placed.pixels.tobytes())
            except BadRecord as problem:
                found.append(str(problem))
        assert found[0] == found[1], n
        if (frame := jpeg.frame_of(bytes(data))) is not None:
            size = Measured(frame.height, frame.width, frame.mode == "L")
            assert size == module.measure(BytesIO(data))


@pytest.mark.parametrize("small", [0, SMALL])  # read by threads, by processes
def test_workers_and_the_order_of_the_disk_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(pixels, "SMALL", small)
    monkeypatch.setattr(ImageFolder, "batch", 4)
    write_classes(tmp_path / "in", 100)
    (tmp_path / "in" / "digit 3" / "bad.png").write_text("no image")
    options = {"shard_bytes": 5000, "quiet": True}
    ingest(tmp_path / "in", tmp_path / "one", workers=1, **options)
    for i in reversed(range(100)):  # another order of creation
        write_classes(tmp_path / "again" / "in", 1, skip=i)
    (tmp_path / "again" / "in" / "digit 3" / "bad.png").write_text("no image")
    ingest(tmp_path / "again" / "in", tmp_path / "many", workers=3, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize("encoding", ["pixels", "encoded"])
def test_interrupted_anywhere_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    write_classes(tmp_path / "in", 40)
    (tmp_path / "in" / "digit 4" / "bad.png").write_text("no image")
    options = {"encoding": encoding, "shard_bytes": 1500, "quiet": True}
    ingest(tmp_path / "in", tmp_path / "uninterrupted", **options)
    add = ShardWriter.add
    calls = 0

    def interrupted(self: ShardWriter, *args: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 9 == 0:
            raise KeyboardInterrupt
        add(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardWriter, "add", interrupted)
    stops = 0
    while True:
        try:
            ingest(tmp_path / "in", tmp_path / "out", **options)
            break
        except KeyboardInterrupt:
            stops += 1
            with pytest.raises(LatentcastError, match="was interrupted; run the same ingest again"):
                Store.open(tmp_path / "out")
    assert stops >= 3 and calls < 40 + 9 * stops
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")


def test_without_pillow_the_error_names_the_extra_and_arrays_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "in", 2)
    np.save(tmp_path / "a.npy", digits()[0][:5])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(LatentcastError, match=r"pillow: is not installed.*latentcast\[images\]"):
        ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    assert len(ingest(tmp_path / "a.npy", tmp_path / "arrays", quiet=True).store) == 5
    with pytest.raises(LatentcastError, match=r"pillow: is not installed"):
        ingest(tmp_path / "a.npy", tmp_path / "small", size=4, quiet=True)


def test_nothing_in_the_manifest_depends_on_the_day_or_the_place(tmp_path: Path) -> None:
    write_classes(tmp_path / "in", 3)
    ingest(tmp_path / "in", tmp_path / "out", quiet=True)
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["modality"] == "image"
    assert sorted(contents(tmp_path / "out")) == [
        "index.npz", "manifest.json", "quarantine.csv", "shard-00000.npy",
    ]  # fmt: skip
