"""Recordings and images as they are cut, changed and filtered: each number from its draw, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.config import EcgAugmentation, EcgInput, ImageAugmentation, ImageInput
from latentcast.config.filters import Baseline, HighPass
from latentcast.config.inputs import Normalisation
from latentcast.data.ecg_augment import EcgAugment, kept_leads
from latentcast.data.ecg_filters import baseline, filtered
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_augment import ImageAugment
from latentcast.data.image_preprocess import ImagePreprocess, crops, resized, sample_boxes
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, true
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.recordings import TWELVE, Floats, is_ecg
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

OURS = "our design, law 1: the state is the step"
COUNT, SAMPLES, RATE, LENGTH = 12, 90, 150.0, 50
FLOAT = 2e-5
"""Of sums of float32 of the order of 1 to 10, and of angles of some hundred radians."""


def _recording(**changed: Any) -> EcgInput:
    mean, std = np.linspace(-0.2, 0.3, 12), np.linspace(0.2, 0.5, 12)
    own: dict[str, Any] = {
        "leads": TWELVE, "sampling_rate": RATE, "length": SAMPLES, "clip": 4.0, "scale": 0.005,
        "normalisation": Normalisation(mean=tuple(mean), std=tuple(std)),
    }  # fmt: skip
    return EcgInput(**(own | changed))


def _draw(twin: Twin) -> Draw:
    return Draw(twin.seed, 11, torch.arange(COUNT) * 3 + 7)


def _noise(twin: Twin, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(twin.seed))


def _kept(draw: Draw, stream: str, share: float) -> npt.NDArray[np.bool_]:
    """Lead by lead: half of the samples lose those whose number is below twice the share's."""
    own, loses, rank = (draw.uniform(f"{stream} {name}", n).double().numpy() for name, n in
                        (("lost share", 1), ("loses", 1), ("leads", 12)))  # fmt: skip
    kept = np.ones((COUNT, 12), bool)
    for sample in range(COUNT):
        limit = 2 * share * own[sample, 0] if loses[sample, 0] < 0.5 else 0.0
        for lead in range(12):
            kept[sample, lead] = rank[sample, lead] >= limit
        kept[sample, int(rank[sample].argmax())] = True
    return kept


def _electrodes() -> Floats:
    """Twelve leads of RA, LA, LL and six on the chest (Einthoven, Goldberger, Wilson)."""
    right, left, foot, *chest = np.eye(9)
    return np.stack([
        left - right, foot - right, foot - left, right - (left + foot) / 2,
        left - (right + foot) / 2, foot - (right + left) / 2,
        *(one - (right + left + foot) / 3 for one in chest),
    ])  # fmt: skip


def _changed(
    values: Floats, draw: Draw, settings: EcgAugmentation, shape: EcgInput, electrodes: Floats
) -> Floats:
    """A sample at a time in float64, in millivolts, at the electrodes."""
    assert shape.normalisation is not None and shape.clip is not None
    mean, std = (np.array(x)[:, None] for x in (shape.normalisation.mean, shape.normalisation.std))
    amplifier = [0] * 6 + [*range(1, 7)] if settings.consistent else [*range(12)]
    many, seconds = electrodes.shape[1], np.arange(values.shape[2]) / shape.sampling_rate

    def drawn(kind: str, stream: str, n: int) -> Floats:
        return np.asarray(getattr(draw, kind)(stream, n).double().numpy())

    common, own = (
        drawn("normal", "view gain", 1),
        drawn("normal", "view lead gain", max(amplifier) + 1),
    )
    rate = 0.05 + 0.45 * drawn("uniform", "view wander rate", 1)
    white = drawn("normal", "view noise", many * values.shape[2]).reshape(len(values), many, -1)
    loud = drawn("uniform", "view noise size", 1)
    waves = []
    for name, hertz, strength in (("wander", rate, settings.wander),
                                  ("mains", 0 * rate + settings.mains, settings.powerline)):  # fmt: skip
        size, phase = (drawn(kind, f"view {name} {word}", many)[:, :, None] for kind, word in
                       (("normal", "size"), ("uniform", "phase")))  # fmt: skip
        angle = 2 * math.pi * (hertz[:, :, None] * seconds + phase)
        waves.append(strength * size * np.sin(angle))
    added = waves[0] + waves[1] + settings.noise * loud[:, :, None] * white
    gains = np.exp(settings.gain * common + settings.lead_gain * own[:, amplifier])[:, :, None]
    millivolts = (values * std + mean) * gains + electrodes @ added
    kept = _kept(draw, "view", settings.drop_leads)[:, :, None]
    return np.where(kept, np.clip((millivolts - mean) / std, -shape.clip, shape.clip), 0.0)


@claim("views.recordings", "A view of a recording is a crop at the place that was drawn, with the "
       "gains, wander, hum and noise of its draw, in millivolts and at the electrodes, clipped and "
       "with leads lost; what was not measured is 0.", source=OURS, about=is_ecg)  # fmt: skip
def recordings(twin: Twin) -> Evidence:
    """A sample at a time in float64; with and without each strength, faster and slower."""
    strengths: dict[str, Any] = {"gain": 0.3, "lead_gain": 0.2, "wander": 0.3, "noise": 0.2,
                                 "powerline": 0.2, "mains": 60, "drop_leads": 0.4}  # fmt: skip
    none_of = dict.fromkeys(("gain", "lead_gain", "wander", "noise", "powerline"), 0.0)
    draw, shape, parts = _draw(twin), _recording(), list[Evidence]()
    raw, flags = 2 * _noise(twin, COUNT, 12, SAMPLES), _noise(twin, COUNT, 12, SAMPLES) > -1.2
    place = draw.for_samples("view place").double().numpy()
    ways: dict[str, dict[str, Any]] = {
        "at electrodes": strengths, "lead by lead": strengths | {"consistent": False},
        "nothing but gains": none_of | {"gain": 0.3, "drop_leads": 0.0},
        "warped": none_of | {"warp": 0.3, "drop_leads": 0.5}, "leads": strengths,
    }  # fmt: skip
    for name, own in ways.items():
        settings = EcgAugmentation(**own)
        tokens = name == "leads"
        augment = EcgAugment(
            settings, _recording(**({"tokens": "per_lead"} if tokens else {})), LENGTH
        )
        given = Inputs(torch.where(flags, raw, 0.0), flags)
        found = augment(given, draw)
        whole = augment(Inputs(raw), draw)
        clean, valid = np.zeros((COUNT, 12, LENGTH)), np.ones((COUNT, 12, LENGTH), bool)
        full = np.zeros((COUNT, 12, LENGTH))
        speed = np.exp(settings.warp * (2 * draw.for_samples("view warp").double().numpy() - 1))
        x, unmasked, measured = (one.double().numpy() for one in (given.values, raw, flags))
        for n in range(COUNT):
            extent = min(LENGTH * speed[n], SAMPLES)
            first = place[n] * (SAMPLES - extent)
            begin = int(place[n] * (SAMPLES - LENGTH + 1))
            for k in range(LENGTH):
                if settings.warp == 0:
                    low, share = begin + k, 0.0
                else:
                    at = first + (k + 0.5) * extent / LENGTH - 0.5
                    at = min(max(at, 0.0), SAMPLES - 1)
                    low, share = int(at), at - int(at)
                high = min(low + 1, SAMPLES - 1) if settings.warp else low
                valid[n, :, k] = (measured[n, :, low] > 0) & (measured[n, :, high] > 0)
                clean[n, :, k] = (1 - share) * x[n, :, low] + share * x[n, :, high]
                full[n, :, k] = (1 - share) * unmasked[n, :, low] + share * unmasked[n, :, high]
        clean = np.where(valid, clean, 0.0)
        spread = _electrodes() if settings.consistent else np.eye(12)
        expected = np.where(valid, _changed(clean, draw, settings, shape, spread), 0.0)
        without = _changed(full, draw, settings, shape, spread)
        kept = _kept(draw, "view", settings.drop_leads)[:, :, None] if tokens else True
        assert found.valid is not None and found.clean is not None
        bound = 1e-3 if settings.warp else FLOAT  # a place in float32, among some ten samples
        gaps = [float(np.abs(a.double().numpy() - b).max()) for a, b in
                ((found.values, expected), (found.clean, clean), (whole.values, without))]  # fmt: skip
        parts += [
            at_most(f"{name}: largest difference", max(gaps), bound),
            equal(f"{name}: flags that differ",
                  int((found.valid.numpy() != (valid & kept)).sum()), 0),
            equal(f"{name}: flags of what was all measured", str(whole.valid is None),
                  str(not tokens)),
        ]  # fmt: skip
    bare = EcgAugment(EcgAugmentation(), _recording(normalisation=None), LENGTH)
    numbers = [float(bare.mean.abs().max()), float((bare.std - 1).abs().max())]
    return all_of(*parts, at_most("unlike 0 and 1 where nothing is normalised", max(numbers), 0.0))


@claim("data.lost-leads", "Half of the samples lose leads, each by its own number below twice a "
       "share that is drawn evenly, and never all of them; training alone does.", source=OURS,
       about=is_ecg)  # fmt: skip
def lost_leads(twin: Twin) -> Evidence:
    draw, wrong = _draw(twin), 0
    for share in (0.0, 0.3, 1.0):
        wrong += int(
            (kept_leads(draw, "input", 12, share).numpy() != _kept(draw, "input", share)).sum()
        )
    shape = _recording(tokens="per_lead", drop_leads=0.4, filters=(HighPass(hertz=2.0),))
    assert shape.normalisation is not None and shape.clip is not None
    counts = (300 * _noise(twin, COUNT, SAMPLES, 12)).to(torch.int16)
    counts[1, 3:9, 2] = -32768
    preprocess = EcgPreprocess(shape)
    flags = (counts != -32768).transpose(1, 2)
    millivolts = filtered(counts.transpose(1, 2).double() * 0.005, flags, shape.filters, RATE)
    mean, std = (np.array(x)[:, None] for x in (shape.normalisation.mean, shape.normalisation.std))
    normal = np.clip((millivolts.numpy() - mean) / std, -shape.clip, shape.clip)
    worst = 0.0
    for read, kept in ((preprocess(counts, draw), _kept(draw, "input", 0.4)[:, :, None]),
                       (preprocess(counts), np.ones((COUNT, 12, 1), bool))):  # fmt: skip
        assert read.valid is not None
        own = flags.numpy() & kept
        worst = max(worst, float(np.abs(np.where(own, normal, 0) - read.values.numpy()).max()))
        wrong += int((read.valid.numpy() != own).sum())
    cases: dict[str, Case] = {
        "no statistics": (lambda: EcgPreprocess(_recording(normalisation=None)),
                          "input.normalisation: is not set"),
        "of three leads": (lambda: EcgPreprocess(_recording().model_copy(update={
            "normalisation": Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)})), "has 3 leads"),
    }  # fmt: skip
    return all_of(
        equal("flags that differ", wrong, 0),
        at_most("values, largest difference", worst, 1e-3),
        refusals(cases, {"of twelve": lambda: EcgPreprocess(shape)}),
    )


@claim("data.baseline", "The baseline is the median over 0.2 s and then over 0.6 s, of means over "
       "0.04 s, its ends repeated, joined by lines; it is taken off in its turn among the "
       "filters.", source="de Chazal, O'Dwyer & Reilly 2004", about=is_ecg)  # fmt: skip
def baselines(twin: Twin) -> Evidence:
    """A window at a time, at rates at which windows come out odd and records do not divide."""
    worst, drift = 0.0, 0.0
    for rate, samples in ((100.0, 203), (257.0, 400), (30.0, 90), (500.0, 1500)):
        signal = torch.cumsum(_noise(twin, 2, 3, samples).double(), -1)
        block = max(1, round(0.04 * rate))
        for row, found in zip(signal.flatten(0, 1).numpy(), baseline(signal, rate).flatten(0, 1).numpy(),
                              strict=True):  # fmt: skip
            padded = np.concatenate([row, np.repeat(row[-1], -samples % block)])
            slow = [float(np.mean(padded[n : n + block])) for n in range(0, len(padded), block)]
            for seconds in (0.2, 0.6):
                half = max(1, round(seconds * rate / block / 2))
                near = [slow[min(max(k, 0), len(slow) - 1)] for k in range(-half, len(slow) + half)]
                slow = [sorted(near[n : n + 2 * half + 1])[half] for n in range(len(slow))]
            line = np.interp((np.arange(samples) + 0.5) / block - 0.5, np.arange(len(slow)), slow)
            worst, drift = max(worst, float(np.abs(line - found).max())), max(drift, np.ptp(line))
    signal, flags = _noise(twin, 1, 2, 400).double(), torch.ones(1, 2, 400, dtype=torch.bool)
    both = filtered(signal, flags, [HighPass(hertz=1.0), Baseline()], 100.0)
    one = filtered(signal, flags, [HighPass(hertz=1.0)], 100.0)
    flags[0, 0, 50:90] = False
    noisy = [
        filtered(torch.where(flags, signal, x), flags, [Baseline()], 100.0) for x in (0.0, 9.0)
    ]
    return all_of(
        at_most("largest difference", worst, 1e-9),
        above("range of the lines", drift, 1.0),
        at_most("after another filter", float((both - one + baseline(one, 100.0)).abs().max()), 1e-12),
        at_most("by what was not measured", float((noisy[0] - noisy[1]).abs()[0, 1].max()
                + (noisy[0] - noisy[1]).abs()[0, 0][flags[0, 0]].max()), 1e-12),
    )  # fmt: skip


# Images


def _image(channels: int = 3, **changed: Any) -> ImageInput:
    own: dict[str, Any] = {
        "height": 12, "width": 10, "channels": channels,
        "normalisation": Normalisation(mean=(0.3, 0.4, 0.5)[:channels],
                                       std=(0.2, 0.25, 0.3)[:channels]),
    }  # fmt: skip
    return ImageInput(**(own | changed))


def _boxes(
    draw: Draw, height: int, width: int, scale: tuple[float, float], aspect: tuple[float, float]
) -> Floats:
    """Of each sample from its four numbers: area, aspect, row and column."""
    names = ("crop area", "crop aspect", "crop row", "crop column")
    rows, image = [], width / height
    for area, turn, down, right in zip(*(draw.for_samples(n).double().tolist() for n in names),
                                       strict=True):  # fmt: skip
        most = min(1.0, aspect[1] / image, image / aspect[0])
        low, high = min(scale[0], most), min(scale[1], most)
        share = low + (high - low) * area
        narrow = math.log(max(share * image, aspect[0]))
        broad = math.log(min(image / share, aspect[1]))
        ratio = math.exp(narrow + (broad - narrow) * turn)
        tall = min(math.sqrt(share * height * width / ratio), height)
        wide = min(math.sqrt(share * height * width * ratio), width)
        rows.append((down * (height - tall), right * (width - wide), tall, wide))
    return np.array(rows)


def _sampled(images: Floats, boxes: Floats, mirrored: Any, height: int, width: int) -> Floats:
    """A pixel at a time between its four neighbours, the border repeated."""
    out = np.zeros((len(images), height, width, images.shape[3]))
    for n, (top, left, tall, wide) in enumerate(boxes.tolist()):
        for i in range(height):
            for j in range(width):
                across = width - 1 - j if mirrored[n] else j
                y = min(max(top + (i + 0.5) * tall / height - 0.5, 0.0), images.shape[1] - 1)
                x = min(max(left + (across + 0.5) * wide / width - 0.5, 0.0), images.shape[2] - 1)
                a, b = int(y), int(x)
                c, d = min(a + 1, images.shape[1] - 1), min(b + 1, images.shape[2] - 1)
                v, u, im = y - a, x - b, images[n]
                out[n, i, j] = (1 - v) * ((1 - u) * im[a, b] + u * im[a, d]) + v * (
                    (1 - u) * im[c, b] + u * im[c, d]
                )
    return out


def _resized(image: Floats, height: int, width: int) -> Floats:
    """The largest middle of a shape, by the cubic kernel of Keys (a = -0.5), widened to shrink."""
    tall, wide = image.shape[:2]
    if wide * height > tall * width:
        keep = tall * width / height
        image = image[:, round((wide - keep) / 2) : round((wide - keep) / 2 + keep)]
    else:
        keep = wide * height / width
        image = image[round((tall - keep) / 2) : round((tall - keep) / 2 + keep)]

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    for axis, size in ((0, height), (1, width)):
        step = image.shape[axis] / size
        matrix = np.array([
            [kernel((k + 0.5 - (n + 0.5) * step) / max(step, 1.0)) for k in range(image.shape[axis])]
            for n in range(size)
        ])  # fmt: skip
        matrix /= matrix.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    return np.clip(image, 0, 255)


@claim("image.boxes", "What a network reads of an image is the box that was drawn, bilinear and "
       "mirrored by its draw, or the middle of the image resized as ingest does it; then value / "
       "255 less the mean over the deviation; other images are refused by their fix.",
       source=OURS, about=is_image)  # fmt: skip
def boxes(twin: Twin) -> Evidence:
    """Image by image and pixel by pixel in float64, for wide, high and square images."""
    draw, parts = _draw(twin), list[Evidence]()
    generator = np.random.default_rng(twin.seed)
    off = 0.0
    for height, width in ((12, 10), (5, 40), (33, 7), (16, 16)):
        for scale in ((0.3, 1.0), (0.05, 0.1), (1.0, 1.0)):
            found = crops(draw, height, width, scale, (0.75, 4 / 3)).double().numpy()
            own = _boxes(draw, height, width, scale, (0.75, 4 / 3))
            off = max(off, float(np.abs(found - own).max()))
    images = generator.integers(0, 256, (COUNT, 12, 10, 3)).astype(np.uint8)
    mirrored = draw.for_samples("flip").numpy() < 0.5
    never = np.zeros(COUNT, bool)
    whole = np.tile([0.0, 0.0, 12.0, 10.0], (COUNT, 1))
    drawn = _boxes(draw, 12, 10, (0.3, 1.0), (0.75, 4 / 3))
    ways: dict[str, tuple[dict[str, Any], Draw | None, Floats, npt.NDArray[np.bool_]]] = {
        "cropped and mirrored": ({"crop_scale": (0.3, 1.0), "flip": True}, draw, drawn, mirrored),
        "cropped": ({"crop_scale": (0.3, 1.0), "flip": False}, draw, drawn, never),
        "mirrored": ({"crop_scale": None, "flip": True}, draw, whole, mirrored),
        "as it is": ({"crop_scale": None, "flip": False}, draw, whole, never),
        "in evaluation": ({"crop_scale": (0.3, 1.0), "flip": True}, None, whole, never),
    }  # fmt: skip
    for name, (own, chosen, box, flipped) in ways.items():
        shape = _image(**own)
        assert shape.normalisation is not None
        read = ImagePreprocess(shape)(torch.from_numpy(images.copy()), chosen).values
        sampled = _sampled(images.astype(np.float64), box, flipped, 12, 10) / 255
        normal = (sampled - shape.normalisation.mean) / shape.normalisation.std
        gap = np.abs(read.permute(0, 2, 3, 1).double().numpy() - normal).max()
        parts.append(at_most(f"{name}: largest difference", float(gap), 1e-4))
    smaller = sample_boxes(torch.from_numpy(images), torch.tensor(drawn).float(),
                           torch.tensor(mirrored), 5, 7)  # fmt: skip
    gap = np.abs(
        smaller.double().numpy() - _sampled(images.astype(np.float64), drawn, mirrored, 5, 7)
    )
    middles = 0.0
    for height, width, to in (
        (20, 31, (12, 10)),
        (31, 20, (12, 10)),
        (6, 5, (12, 10)),
        (24, 40, (8, 8)),
    ):
        photo = generator.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        scaled = resized(torch.from_numpy(photo), *to).double().numpy()
        own = np.stack([_resized(one.astype(np.float64), *to) for one in photo])
        middles = max(middles, float(np.abs(scaled - own).max()))
    cropped = ImagePreprocess(_image(crop_scale=(0.3, 1.0)))
    read_whole = ImagePreprocess(_image(crop_scale=None))
    bytes_of = torch.from_numpy(images)
    cases: dict[str, Case] = {
        "no statistics": (lambda: ImagePreprocess(_image(normalisation=None)), "is not set"),
        "floats": (lambda: read_whole(bytes_of.float()), "are not uint8"),
        "one image": (lambda: read_whole(bytes_of[0]), "are not uint8"),
        "channels first": (lambda: read_whole(bytes_of.permute(0, 3, 1, 2)), "the channels lie first"),
        "grey": (lambda: read_whole(bytes_of[..., :1]), "input.channels=1"),
        "a row less": (lambda: read_whole(bytes_of[:, 1:]), "images of 11 × 10 pixels: the encoder"),
        "a column less": (lambda: read_whole(bytes_of[:, :, 1:]), "images of 12 × 9 pixels"),
    }  # fmt: skip
    return all_of(
        at_most("boxes, pixels apart", off, 1e-4),
        *parts,
        at_most("to another size, of 255", float(gap.max()), 1e-2),
        at_most("resized, of 255", middles, 1e-2),
        refusals(
            cases, {"whole": lambda: read_whole(bytes_of), "cropped": lambda: cropped(bytes_of)}
        ),
    )


@claim("views.pictures", "A view of an image is the box and the mirror of its draw; the clean crop "
       "beside it is the same without other colours.", source=OURS, about=is_image)  # fmt: skip
def view_of_images(twin: Twin) -> Evidence:
    """Pixel by pixel, of one and of three channels, mirrored and not."""
    draw, parts = _draw(twin), list[Evidence]()
    for channels, flip, grey in ((3, True, 0.3), (1, False, 0.0), (2, True, 0.3)):
        shape = _image(min(channels, 3), normalisation=None)
        settings = ImageAugmentation(flip=flip, grey=grey, crop_scale=(0.4, 0.9))
        augment = ImageAugment(settings, shape)
        pixels = _noise(twin, COUNT, channels, 12, 10).mul(0.2).add(0.5).clamp(0, 1)
        found = augment(Inputs(pixels, torch.ones_like(pixels, dtype=torch.bool)), draw)
        mirrored = (draw.for_samples("view flip") < (0.5 if flip else 0)).numpy()
        box = _boxes(draw, 12, 10, (0.4, 0.9), (0.75, 4 / 3))
        clean = _sampled(pixels.permute(0, 2, 3, 1).double().numpy(), box, mirrored, 12, 10)
        drawn = [draw.for_samples(f"view {name}").double().tolist() for name in
                 ("brightness", "contrast", "saturation", "grey")]  # fmt: skip
        weights = np.array([0.299, 0.587, 0.114] if channels == 3 else [1 / channels] * channels)
        expected = clean.copy()
        for one, light, contrast, colour, chance in zip(expected, *drawn, strict=True):
            one *= 1 + 0.2 * (2 * light - 1)
            middle = float((one * weights).sum(-1).mean())
            one[:] = middle + (1 + 0.2 * (2 * contrast - 1)) * (one - middle)
            luma = (one * weights).sum(-1, keepdims=True)
            kept = 0.0 if chance < grey else 1 + 0.2 * (2 * colour - 1)
            one[:] = np.clip(luma + kept * (one - luma), 0, 1)
        assert found.clean is not None
        gaps = [float(np.abs(a.permute(0, 2, 3, 1).double().numpy() - b).max()) for a, b in
                ((found.clean, clean), (found.values, expected))]  # fmt: skip
        parts.append(at_most(f"{channels} channels: largest difference", max(gaps), 1e-5))
        parts.append(true(f"{channels} channels: all is valid", found.valid is None))
    scaled = ImageAugment(ImageAugmentation(), _image(3))
    own = _image(3).normalisation
    assert own is not None
    gap = float((scaled.mean - torch.tensor(own.mean)).abs().max())
    return all_of(*parts, at_most("mean that is taken off", gap, 1e-7))
