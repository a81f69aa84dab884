"""Crops and augmentation restated: a sample at a time, from the same draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from latentcast.batch import Inputs
from latentcast.config import EcgAugmentation, EcgInput, ImageAugmentation, ImageInput
from latentcast.config.inputs import Normalisation
from latentcast.data.ecg_augment import EcgAugment
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_augment import ImageAugment
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.randomness import Draw
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, none
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.recordings import is_ecg
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
COUNT, LENGTH, SAMPLES, RATE = 12, 40, 90, 250.0
FLOAT = 3e-5
"""Waves are of float32."""
OURS = "our design, law 1: a function of seed, step and sample"
ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")


def _draw(twin: Twin) -> Draw:
    return Draw(twin.seed, 5, 3 + 2 * torch.arange(COUNT))


def _numbers(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=shape).astype(np.float32)


@claim("views.recordings-changed", "A crop lies where the draw says, faster or slower; gains, "
       "breathing, hum, noise and lost leads are those that were drawn, in millivolts and at the "
       "electrodes.", source=OURS, about=is_ecg)  # fmt: skip
def recordings_changed(twin: Twin) -> Evidence:
    """Each change alone and all together; twelve leads and channels of any name, with and without
    a normalisation and what was not recorded."""
    wrong, draw = list[str](), _draw(twin)
    usual = dict.fromkeys(("gain", "lead_gain", "wander", "noise", "drop_leads"), 0.0)
    strengths: list[dict[str, Any]] = [
        {}, {"gain": 0.3}, {"lead_gain": 0.4}, {"wander": 0.5}, {"noise": 0.2}, {"drop_leads": 0.4},
        {"powerline": 0.3, "mains": 60}, {"warp": 0.2},
        {"gain": 0.2, "lead_gain": 0.2, "wander": 0.2, "noise": 0.1, "powerline": 0.1,
         "drop_leads": 0.5, "warp": 0.1, "mains": 50},
    ]  # fmt: skip
    for own in strengths:
        for leads in (CANONICAL_LEADS, ("left", "right", "third")):
            joint, ecg = len(own) != 1, leads == CANONICAL_LEADS
            scale = Normalisation(
                mean=tuple(np.linspace(-0.3, 0.4, len(leads)).tolist()),
                std=tuple(np.linspace(0.4, 1.3, len(leads)).tolist()),
            )
            recording = EcgInput(
                leads=leads, length=LENGTH, sampling_rate=RATE, signal="ecg" if ecg else "other",
                normalisation=scale if joint or not ecg else None, clip=1.5 if joint else None,
                tokens="joint" if joint else "per_lead",
            )  # fmt: skip
            settings = EcgAugmentation(**{**usual, **own, "consistent": ecg})
            values = _numbers((COUNT, len(leads), SAMPLES), 1)
            valid = _numbers(values.shape, 2) > -1.5
            valid[:, 1, :30] = False
            for flags in (None, valid):
                x = values if flags is None else np.where(flags, values, 0.0)
                given = Inputs(
                    torch.from_numpy(x), None if flags is None else torch.from_numpy(flags)
                )
                found = EcgAugment(settings, recording, LENGTH)(given, draw)
                expected = _changed(settings, recording, x, flags, draw)
                at = f"{' '.join(own)} of {len(leads)}" + " with gaps" * (flags is not None)
                wrong += differences(found.values, expected[0], FLOAT, f"{at}: values")
                wrong += differences(found.clean, expected[1], FLOAT, f"{at}: clean")
                wrong += differences(found.valid, expected[2], at=f"{at}: valid")
    return all_of(none("differs", wrong), cases=4 * len(strengths))


def _changed(
    settings: EcgAugmentation, recording: EcgInput, x: Array, valid: Array | None, draw: Draw
) -> tuple[Array, Array, Array | None]:
    """Values, the crop as it was, and which are valid."""
    leads, scale = recording.leads, recording.normalisation
    mean = np.zeros(len(leads)) if scale is None else np.array(scale.mean)
    std = np.ones(len(leads)) if scale is None else np.array(scale.std)
    clean, cut = _crop(settings, x, valid, draw)
    kept = _kept(draw, "view", len(leads), settings.drop_leads)
    millivolts = clean * std[:, None] + mean[:, None]
    limb = (
        [lead not in ELECTRODES for lead in leads] if settings.consistent else [False] * len(leads)
    )
    chest = [n for n, one in enumerate(limb) if not one]
    amplifiers = [0 if limb[n] else chest.index(n) + (any(limb)) for n in range(len(leads))]
    own = draw.normal("view lead gain", max(amplifiers) + 1).double().numpy()
    common = draw.normal("view gain", 1).double().numpy()
    millivolts *= np.exp(settings.gain * common[:, :, None])
    millivolts *= np.exp(settings.lead_gain * own[:, amplifiers])[:, :, None]
    millivolts += _at_leads(settings, recording, draw, clean.shape[2])
    changed = (millivolts - mean[:, None]) / std[:, None]
    if recording.clip is not None:
        changed = np.clip(changed, -recording.clip, recording.clip)
    there = np.broadcast_to(kept[:, :, None], changed.shape)
    measured = there if cut is None else there & cut
    flags = measured if recording.tokens == "per_lead" else cut
    return np.where(measured, changed, 0.0), clean, flags


def _crop(settings: EcgAugmentation, x: Array, valid: Array | None, draw: Draw) -> Any:
    place = draw.for_samples("view place").tolist()
    speed = draw.for_samples("view warp").tolist()
    values, flags = [], []
    for n in range(COUNT):
        if not settings.warp:
            start = int(place[n] * (SAMPLES - LENGTH + 1))
            values.append(x[n, :, start : start + LENGTH])
            flags.append(valid[n, :, start : start + LENGTH] if valid is not None else None)
            continue
        extent = min(LENGTH * math.exp(settings.warp * (2 * speed[n] - 1)), SAMPLES)
        at = place[n] * (SAMPLES - extent) + (np.arange(LENGTH) + 0.5) * extent / LENGTH - 0.5
        at = np.clip(at, 0, SAMPLES - 1)
        low = np.floor(at).astype(int)
        high, part = np.minimum(low + 1, SAMPLES - 1), at - low
        mixed = x[n][:, low] * (1 - part) + x[n][:, high] * part
        both = None if valid is None else valid[n][:, low] & valid[n][:, high]
        values.append(mixed if both is None else np.where(both, mixed, 0.0))
        flags.append(both)
    return np.array(values, np.float64), None if valid is None else np.array(flags)


def _at_leads(settings: EcgAugmentation, recording: EcgInput, draw: Draw, samples: int) -> Array:
    """Wander, hum and noise, which arise at the electrodes, as each lead has them."""
    leads, seconds = recording.leads, np.arange(samples) / RATE
    count = len(ELECTRODES) if settings.consistent else len(leads)
    at = np.zeros((COUNT, count, samples))
    rates = 0.05 + 0.45 * draw.uniform("view wander rate", 1)[:, 0].double().numpy()
    for strength, stream, hertz in (
        (settings.wander, "view wander", rates),
        (settings.powerline, "view mains", np.full(COUNT, float(settings.mains))),
    ):
        size = draw.normal(f"{stream} size", count).double().numpy()[:, :, None]
        phase = draw.uniform(f"{stream} phase", count).double().numpy()[:, :, None]
        turns = hertz[:, None, None] * seconds + phase
        at += strength * size * np.sin(2 * np.pi * turns)
    white = draw.normal("view noise", count * samples).double().numpy().reshape(at.shape)
    at += settings.noise * draw.uniform("view noise size", 1).double().numpy()[:, :, None] * white
    if not settings.consistent:
        return at
    of = dict(zip(ELECTRODES, at.transpose(1, 0, 2), strict=True))
    right, left, foot = of["RA"], of["LA"], of["LL"]
    limbs = {
        "I": left - right, "II": foot - right, "III": foot - left, "aVR": right - (left + foot) / 2,
        "aVL": left - (right + foot) / 2, "aVF": foot - (right + left) / 2,
    }  # fmt: skip
    middle = (right + left + foot) / 3
    return np.stack([limbs[lead] if lead in limbs else of[lead] - middle for lead in leads], 1)


def _kept(draw: Draw, stream: str, leads: int, share: float) -> Array:
    """Of each sample the leads that are not lost: all of half of them, and never none."""
    size = draw.uniform(f"{stream} lost share", 1)[:, 0].tolist()
    loses = draw.uniform(f"{stream} loses", 1)[:, 0].tolist()
    found = []
    for n, rank in enumerate(draw.uniform(f"{stream} leads", leads).tolist()):
        lost = 2 * share * size[n] if loses[n] < 0.5 else 0.0
        found.append([one >= lost or one == max(rank) for one in rank])
    return np.array(found)


@claim("views.images-changed", "A crop of an image lies where the draw says, mirrored or not, "
       "and its colours change by the factors that were drawn.",
       source=OURS, about=is_image)  # fmt: skip
def images_changed(twin: Twin) -> Evidence:
    """Pixel by pixel: of one and of three channels, at sides that differ, with all of the image and
    with parts of it."""
    wrong, draw = list[str](), _draw(twin)
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "flip": False}
    cases: list[dict[str, Any]] = [
        {"crop_scale": (1.0, 1.0), "crop_aspect": (1.0, 1.0), **still},
        {"crop_scale": (0.2, 0.7), **still}, {"crop_scale": (0.9, 1.0), **still, "flip": True},
        {"crop_scale": (0.3, 1.0), "grey": 0.5, "brightness": 0.4, "contrast": 0.3,
         "saturation": 0.6},
    ]  # fmt: skip
    for channels in (1, 3):
        for height, width in ((8, 8), (6, 16)):
            scale = Normalisation(mean=(0.4, 0.5, 0.6)[:channels], std=(0.3, 0.2, 0.25)[:channels])
            for own in cases:
                image = ImageInput(channels=channels, height=height, width=width,
                                   normalisation=scale if "grey" in own else None)  # fmt: skip
                settings = ImageAugmentation(**own)
                pixels = np.abs(_numbers((COUNT, channels, height, width), 3)) % 1
                mean = np.array(scale.mean if "grey" in own else [0.0] * channels)[:, None, None]
                std = np.array(scale.std if "grey" in own else [1.0] * channels)[:, None, None]
                given = Inputs(torch.from_numpy((pixels - mean) / std).float())
                found = ImageAugment(settings, image)(given, draw)
                clean, changed = _recoloured(settings, pixels, draw)
                at = f"{channels} of {height} × {width}, {own['crop_scale']}"
                wrong += differences(found.clean, (clean - mean) / std, FLOAT, f"{at}: clean")
                wrong += differences(found.values, (changed - mean) / std, FLOAT, f"{at}: values")
                wrong += differences(found.valid is None, True, at=f"{at}: valid")
    return all_of(none("differs", wrong), cases=4 * len(cases))


def _boxes(draw: Draw, height: int, width: int, scale: Any, aspect: Any) -> list[list[float]]:
    """Top, left, height and width of each crop."""
    streams = ("area", "aspect", "row", "column")
    drawn = torch.stack([draw.for_samples(f"crop {one}") for one in streams], 1).tolist()
    image, found = width / height, []
    most = min(1.0, aspect[1] / image, image / aspect[0])  # no aspect fits a larger share
    for area, shape, row, column in drawn:
        low, high = (min(one, most) for one in scale)
        share = low + (high - low) * area
        narrow, wide = max(aspect[0], share * image), min(aspect[1], image / share)
        ratio = narrow * (wide / narrow) ** shape
        tall = min(height, math.sqrt(share * height * width / ratio))
        long = min(width, math.sqrt(share * height * width * ratio))
        found.append([row * (height - tall), column * (width - long), tall, long])
    return found


def _places(start: float, extent: float, count: int) -> Array:
    """Weights ``(count, count)`` of the pixels of an axis in those of a crop."""
    weights = np.zeros((count, count))
    for n in range(count):
        at = min(max(start + (n + 0.5) * extent / count - 0.5, 0.0), count - 1.0)
        low = int(at)
        weights[n, low] += 1 - (at - low)
        weights[n, min(low + 1, count - 1)] += at - low
    return weights


def _recoloured(settings: ImageAugmentation, pixels: Array, draw: Draw) -> tuple[Array, Array]:
    """The crops, and what became of their colours."""
    _, channels, height, width = pixels.shape
    share = np.array([0.299, 0.587, 0.114] if channels == 3 else [1 / channels] * channels)
    boxes = _boxes(draw, height, width, settings.crop_scale, settings.crop_aspect)
    streams = ("flip", "brightness", "contrast", "saturation", "grey")
    drawn = torch.stack([draw.for_samples(f"view {one}") for one in streams], 1).tolist()
    clean, changed = [], []
    for image, (top, left, tall, wide), (flip, *factors, chance) in zip(
        pixels.astype(np.float64), boxes, drawn, strict=True
    ):
        columns = _places(left, wide, width)
        columns = columns[::-1] if settings.flip and flip < 0.5 else columns
        cut = np.einsum("rh,chw,kw->crk", _places(top, tall, height), image, columns)
        brightness, contrast, saturation = (
            1 + strength * (2 * one - 1)
            for strength, one in zip(
                (settings.brightness, settings.contrast, settings.saturation), factors, strict=True
            )
        )
        lit = cut * brightness
        middle = np.einsum("c,crk->rk", share, lit).mean()
        lit = middle + contrast * (lit - middle)
        grey = np.einsum("c,crk->rk", share, lit)
        saturation = 0.0 if chance < settings.grey else saturation
        clean.append(cut)
        changed.append(np.clip(grey + saturation * (lit - grey), 0, 1))
    return np.array(clean), np.array(changed)


@claim("data.preprocessed", "What an encoder sees is the normalised sample, clipped and 0 where "
       "nothing was measured, without the leads that training drops; samples of another shape are "
       "refused.", source=OURS, about=is_ecg)  # fmt: skip
def preprocessed(twin: Twin) -> Evidence:
    """Counts with gaps, of twelve leads, with and without a clip and a draw."""
    wrong, draw = list[str](), _draw(twin)
    scale = Normalisation(
        mean=tuple(np.linspace(-0.3, 0.4, 12)), std=tuple(np.linspace(0.4, 1.3, 12))
    )
    counts = (1000 * _numbers((COUNT, LENGTH, 12), 4)).astype(np.int16)
    counts[2, :, 3], counts[4, 5:9] = -32768, -32768
    for clip in (None, 0.5):
        for share in (0.0, 0.4):
            config = EcgInput(length=LENGTH, sampling_rate=RATE, scale=0.002, clip=clip,
                              normalisation=scale, drop_leads=share, tokens="per_lead")  # fmt: skip
            for drawn in (None, draw):
                found = EcgPreprocess(config)(torch.from_numpy(counts), drawn)
                valid = counts.transpose(0, 2, 1) != -32768
                if drawn is not None and share:
                    valid = valid & _kept(draw, "input", 12, share)[:, :, None]
                x = counts.transpose(0, 2, 1).astype(np.float64) * 0.002
                x = (x - np.array(scale.mean)[:, None]) / np.array(scale.std)[:, None]
                x = np.where(valid, x if clip is None else np.clip(x, -clip, clip), 0.0)
                at = f"clip {clip}, {share} dropped, {'drawn' if drawn else 'evaluated'}"
                wrong += differences(found.values, x, 1e-5, at)
                wrong += differences(found.valid, valid, at=f"{at}: valid")
    bare = EcgInput(length=LENGTH)
    short = bare.model_copy(update={"normalisation": Normalisation(mean=(0.0,), std=(1.0,))})
    for config, words in (
        (bare, "input.normalisation: is not set; train from a store"),
        (short, "input.normalisation: has 1 leads, input.leads has 12"),
    ):
        answer = refusal(lambda config=config: EcgPreprocess(config))
        wrong += [] if answer.startswith(words) else [f"{answer[:80]!r} and not {words!r}"]
    return all_of(none("differs", wrong))


@claim("image.refused", "Images that are no whole numbers, of other channels or of another size "
       "are refused, with what to do.", source=OURS, about=is_image)  # fmt: skip
def refused(twin: Twin) -> Evidence:
    wrong = list[str]()
    scale = Normalisation(mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))
    image = ImageInput(channels=3, height=8, width=12, normalisation=scale)
    square = image.model_copy(update={"width": 8})
    pixels = torch.zeros(2, 8, 12, 3, dtype=torch.uint8)

    def answer(config: ImageInput, samples: Any) -> str:
        return refusal(lambda: tuple(ImagePreprocess(config)(samples).values.shape))

    for found, words in (
        (answer(image.model_copy(update={"normalisation": None}), pixels),
         "input.normalisation: is not set; train from a store"),
        (answer(image, pixels), "a result: (2, 3, 8, 12)"),
        (answer(image, pixels.float()), "images of float32 (2, 8, 12, 3): are not uint8"),
        (answer(image, pixels[0]), "images of uint8 (8, 12, 3): are not uint8"),
        (answer(image, pixels.permute(0, 3, 1, 2)), "input.channels: is 3, the images have 12; the "
         "channels lie first"),
        (answer(image, pixels[..., :1]), "input.channels: is 3, the images have 1; give images of"),
        (answer(image, pixels[:, :, :8]), "images of 8 × 8 pixels: the encoder reads 8 × 12; give "
         "them to Encoder.embed"),
        (answer(image, pixels[:, :7]), "images of 7 × 12 pixels: the encoder reads 8 × 12"),
        (answer(square, pixels), "images of 8 × 12 pixels: the encoder reads 8 × 8; ingest them "
         "with --size 8, or give"),
    ):  # fmt: skip
        wrong += [] if found.startswith(words) else [f"{found[:90]!r} and not {words!r}"]
    return all_of(none("answers that are others", wrong))
