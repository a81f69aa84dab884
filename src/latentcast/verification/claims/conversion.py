"""From a recording or an image to what lies in a shard: one at a time, many at once, as files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.data.codecs.counts import CountsTarget
from latentcast.data.codecs.pixels import PixelsTarget
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.images.decode import Canvas
from latentcast.signals.recording import Recording
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, equal, none
from latentcast.verification.observe.recordings import TWELVE, wave
from latentcast.verification.observe.refusals import refusals
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 4: physical until the last moment"
RATE = 100.0


@claim("data.together", "Recordings that are converted together are what each gives alone: counts, "
       "sums, runs and metadata; and one that cannot be used is refused with its reason and stops "
       "none.", source=OURS)  # fmt: skip
def together(twin: Twin) -> Evidence:
    """Ordinary ones, and each kind that is not: gaps, flat leads, other leads, rates, lengths."""
    target = CountsTarget(TWELVE, RATE, 0.005, False, False, 2.0)
    signals = [wave(RATE, n, 40 + row).astype(np.float32) for row, n in
               enumerate((250, 250, 300, 250, 250, 199, 200, 250, 250, 250, 250))]  # fmt: skip
    signals[3][4, 30:40] = np.nan
    signals[4][8, 60:] = 0.3
    signals[7] *= np.float32(1e-4)
    signals[8] *= np.float32(200)
    rates = {9: 50.0, 10: 10.0}
    samples = [
        Recording(x, TWELVE, rates.get(n, RATE), np.isfinite(x), f"r{n}", metadata={"age": n})
        for n, x in enumerate(signals)
    ]
    training = [n % 3 != 1 for n in range(len(samples))]
    found = target.convert_together(samples, training)
    wrong, naive, reasons = list[int](), 0, list[str]()
    for n, (one, sample) in enumerate(zip(found, samples, strict=True)):
        try:
            alone: Any = target.convert(sample, training[n])
        except Exception as problem:
            reasons.append(f"{n} {problem}")
            wrong += [n] * (str(problem) != str(one))
            continue
        same = not isinstance(one, Exception) and one == alone
        wrong += [n] * (not same or (alone.sums is None) == training[n])
        counts = np.frombuffer(alone.data, "<i2").reshape(-1, 12).T
        expected = np.where(np.isfinite(sample.signal), np.rint(sample.signal / 0.005), -32768)
        naive += int((np.abs(counts - expected) > 1e-3).sum())
        naive += alone.extent != sample.samples or alone.metadata["age"] != n
    words = {5: "lasts 1.99 s, shorter than 2 s", 7: "no lead spans", 8: "amplitude",
             9: "sampling rate is 50 Hz, the store has 100", 10: "10 Hz"}  # fmt: skip
    lost = [n for n, text in words.items()
            if not any(r.startswith(f"{n} ") and text in r for r in reasons)]  # fmt: skip
    runs = [(n, one.runs) for n, one in enumerate(found) if not isinstance(one, Exception)]
    flat = {n: own for n, own in runs if own}
    return all_of(
        none("unlike what it is alone", wrong),
        equal("counts that are not the nearest", naive, 0),
        none("refused otherwise", lost),
        equal("refused", len(reasons), len(words)),
        equal("runs that are not valid", str(flat), "{4: [(8, 60, 250)]}"),
    )


@claim("image.encoded", "Image files that are kept as they are come back byte by byte and decoded "
       "to their pixels; one that was damaged since is named; grey images make a grey store, "
       "one of another size is refused where no size is given.", source=OURS)  # fmt: skip
def encoded(twin: Twin) -> Evidence:
    generator, folder = np.random.default_rng(twin.seed), twin.folder / "arrays" / "encoded"
    images = generator.integers(0, 256, (6, 8, 9, 1)).astype(np.uint8)

    def files(name: str, pictures: list[npt.NDArray[np.uint8]]) -> Path:
        (folder / name).mkdir(parents=True)
        for n, image in enumerate(pictures):
            kind = "P6" if image.shape[2] == 3 else "P5"
            head = f"{kind}\n{image.shape[1]} {image.shape[0]}\n255\n".encode()
            (folder / name / f"{n}.{'ppm' if kind == 'P6' else 'pgm'}").write_bytes(
                head + image.tobytes()
            )
        return folder / name

    def store_of(source: Path, name: str, **options: Any) -> Store:
        return ingest(source, folder / name, workers=1, quiet=True, **options).store

    source = files("grey", list(images))
    store, plain = store_of(source, "kept", encoding="encoded"), store_of(source, "pixels")
    mixed = files("mixed", [images[0], np.repeat(images[1], 3, 2), images[2]])
    colour = store_of(mixed, "colour", size=4)
    raw = [store.encoded(n) == (source / f"{n}.pgm").read_bytes() for n in range(6)]
    target = PixelsTarget(Canvas(8, 9, 1, resize=False), "pixels")
    alone = target.convert_together(list(images), [True, False] * 3)
    sums = [None if isinstance(one, Exception) or one.sums is None else one.sums.total[0]
            for one in alone]  # fmt: skip
    own = [int(image.sum()) if n % 2 == 0 else None for n, image in enumerate(images)]
    bad = target.convert_together([images[0], images[1][:7]], [True, True])
    shard = Path(shutil.copytree(store.path, folder / "damaged")) / store.manifest.shards[0].file
    content = bytearray(shard.read_bytes())
    place = content.index(b"P5", content.index(b"P5") + 1)
    content[place : place + 2] = b"XX"
    shard.write_bytes(content)
    broken = Store.open(folder / "damaged")
    large = files("sizes", [images[0], images[1][:7]])
    return all_of(
        equal("files byte by byte", sum(raw), 6),
        equal("pixels of files that differ", int((store.take(range(6)) != images).sum()), 0),
        equal("of three of them", int((store.take([5, 0, 3]) != images[[5, 0, 3]]).sum()), 0),
        equal("of the store of pixels", int((plain.take(range(6)) != images).sum()), 0),
        equal("channels", f"{plain.channels} and {colour.channels}", "1 and 3"),
        equal("canvas", f"{colour.height} × {colour.width}", "4 × 4"),
        equal("sums", str(sums), str(own)),
        equal("beside one of another size", str([isinstance(one, Exception) for one in bad]),
              "[False, True]"),
        refusals(
            {"a damaged file": (lambda: broken.take(range(6)), "could be decoded when"),
             "its id": (lambda: broken.take([1]), broken.record_ids[1]),
             "two sizes": (lambda: store_of(large, "large"), "--size 224 brings all to")},
            {"the others": lambda: broken.take([0, 2, 3, 4, 5])},
        ),
    )  # fmt: skip
