"""Where tokens resemble each other, and which are attended to: over time, or over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.errors import missing_extra
from latentcast.evaluation.attention import received_attention
from latentcast.report.picture import Picture
from latentcast.report.style import LIGHT, TEXT_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FITTED = 64
"""Samples whose tokens the components are of."""
IMAGES = 4
"""That are shown."""
NOT_MEASURED = 0.9
"""Grey of a token that is not valid."""
Floats = npt.NDArray[np.floating[Any]]


def token_maps(encoder: Encoder, store: Store, rows: npt.NDArray[np.int64]) -> list[Picture]:
    """The map of the first recording that is long enough, or of some images, of ``rows``."""
    if store.modality == "image":  # spread over the fold, which may be in the order of classes
        rows = rows[_spread(len(rows), FITTED)]
        samples = store.take(rows)
    else:
        complete = rows[store.lengths[rows] >= encoder.length]
        rows = complete if len(complete) else rows
        samples = store.take(rows[:FITTED], length=encoder.length)
    layers, valid = encoder.token_layers(samples)
    place = encoder.layer_names.index(encoder.layer)
    tokens, measured = layers[place].cpu().numpy(), valid.cpu().numpy()
    if measured.sum() < 4:
        return []
    colours = np.full((*measured.shape, 3), NOT_MEASURED)
    colours[measured], share = principal_colours(tokens[measured])
    shown = _spread(len(samples), IMAGES if store.modality == "image" else 1)
    received = received_attention(encoder, samples[shown])
    grid = encoder.network.grid(encoder.config.input.size)
    words = (
        f"the first three principal components of the tokens (layer {encoder.layer}), as red, "
        f"green and blue; they hold {100 * share:.0f} % of the variance over the tokens of "
        f"{len(samples):,} test {'image' if store.modality == 'image' else 'record'}s. Equal "
        "colours are tokens that the network finds alike"
    )
    if received is not None:
        words += (
            "; below, the attention that a token receives in the last block (1: an even spread)"
        )
    if store.modality == "image":
        return [_of_images(samples[shown], colours[shown], received, grid, words)]
    return [_of_recording(encoder, store, int(rows[0]), colours[0],
                          None if received is None else received[0], grid, words)]  # fmt: skip


def principal_colours(tokens: Floats) -> tuple[npt.NDArray[np.float64], float]:
    """Tokens ``(n, width)`` to red, green, blue ``(n, 3)`` in [0, 1], and the share of the variance
    of the three components. The 2nd and 98th percentile of each are 0 and 1; a component points to
    where its largest weight is positive, so that one input has one map."""
    centred = np.asarray(tokens, dtype=np.float64) - tokens.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1], vectors[:, ::-1][:, :3]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    points = np.zeros((len(tokens), 3))
    points[:, : vectors.shape[1]] = centred @ vectors
    low, high = np.percentile(points, (2, 98), axis=0)
    spread = np.where(high > low, high - low, 1.0)
    total = float(values.clip(0).sum())
    share = float(values[:3].clip(0).sum() / total) if total else 0.0
    return ((points - low) / spread).clip(0.0, 1.0), share


def _of_recording(
    encoder: Encoder,
    store: Store,
    row: int,
    colours: Floats,
    received: Floats | None,
    grid: tuple[int, ...],
    words: str,
) -> Picture:
    recording = store.recording(row)
    seconds = encoder.patch_seconds * grid[-1]
    shown = min(len(recording.signal[0]), round(seconds * store.sampling_rate))
    lead = recording.leads.index("II") if "II" in recording.leads else 0
    rows_of_leads = len(grid) > 1
    strips = 2 if received is not None else 1
    high = 1.5 if rows_of_leads else 0.45
    inches = 1.9 + strips * (high + 0.35)
    figure = _figure(10.0, inches)
    axes = figure.subplots(1 + strips, 1, sharex=True,
                           height_ratios=(1.5, *[high] * strips))  # fmt: skip
    times = np.arange(shown) / store.sampling_rate
    axes[0].plot(times, recording.signal[lead][:shown], color=LIGHT["ink"], linewidth=0.8)
    _dress(axes[0], f"Lead {recording.leads[lead]}, mV")
    cells = colours.reshape(*(grid if rows_of_leads else (1, *grid)), 3)
    _cells(axes[1], cells, seconds)
    _dress(axes[1], "Tokens by principal components")
    if received is not None:
        _cells(axes[2], _heat(received.reshape(cells.shape[:2])), seconds)
        _dress(axes[2], f"Attention received, up to {np.nanmax(received):.1f}")
    leads = encoder.leads if rows_of_leads else ()
    for one in axes[1:]:
        one.set_yticks(np.arange(len(leads)) + 0.5, leads[: cells.shape[0]] if leads else [])
        one.tick_params(axis="y", labelsize=TEXT_POINTS - 2.5)
    axes[-1].set_xlabel("seconds", fontsize=TEXT_POINTS - 0.5, color=LIGHT["muted"])
    axes[0].set_xlim(0, seconds)
    about = f"Record {recording.record_id} of the test fold"
    return Picture(
        "tokens", "What the tokens hold", figure,
        f"{about}: lead {recording.leads[lead]} over time, and {words}.",
        f"{about}. Above lead {recording.leads[lead]}; then {words}.",
    )  # fmt: skip


def _of_images(
    samples: npt.NDArray[Any],
    colours: Floats,
    received: Floats | None,
    grid: tuple[int, ...],
    words: str,
) -> Picture:
    count, lines = len(samples), 2 if received is None else 3
    figure = _figure(1.4 * IMAGES, 1.5 * lines)
    axes = figure.subplots(lines, IMAGES, squeeze=False)
    for column in range(IMAGES):
        for line in range(lines):
            axes[line][column].set_axis_off()
            axes[line][column].set_aspect("equal")
        if column >= count:
            continue
        pixels = samples[column]
        grey = pixels.shape[-1] == 1
        axes[0][column].imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255)
        _cells(axes[1][column], colours[column].reshape(*grid, 3), grid[-1], grid[0])
        if received is not None:
            heat = _heat(received)[column].reshape(*grid, 3)
            _cells(axes[2][column], heat, grid[-1], grid[0])
    _dress(axes[1][0], "Tokens by principal components")
    if received is not None:
        _dress(axes[2][0], f"Attention received, up to {np.nanmax(received):.1f}")
    return Picture(
        "tokens", "What the tokens hold", figure,
        f"{count} test images in a row each, and {words}.",
        f"Above {count} images of the test fold; then {words}.",
    )  # fmt: skip


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many places of ``count``, evenly spread, the first among them."""
    return np.arange(min(count, most), dtype=np.int64) * count // max(1, min(count, most))


def _heat(received: Floats) -> npt.NDArray[np.float64]:
    """White for nothing, the colour of the model for the most; grey where there is no token."""
    top = np.nanmax(received) if np.isfinite(received).any() else 1.0
    depth = (received / (top or 1.0))[..., None]
    model = np.array([int(LIGHT["model"][at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(np.isfinite(depth), 1 - depth * (1 - model), NOT_MEASURED)


def _cells(axes: Axes, colours: Floats, width: float, height: float | None = None) -> None:
    """Rectangles (rows, columns, 3), the first row at the top; a raster would blur in print."""
    from matplotlib.collections import PolyCollection

    rows, columns = colours.shape[:2]
    w, h = width / columns, (height or rows) / rows
    corners = [
        [(x * w, y * h), ((x + 1) * w, y * h), ((x + 1) * w, (y + 1) * h), (x * w, (y + 1) * h)]
        for y in range(rows)
        for x in range(columns)
    ]
    axes.add_collection(PolyCollection(corners, facecolors=colours.reshape(-1, 3), linewidths=0))
    axes.set_xlim(0, width)
    axes.set_ylim(height or rows, 0)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing maps of tokens") from error
    return Figure(figsize=(width, height), facecolor="none", layout="tight")


def _dress(axes: Axes, title: str) -> None:
    axes.set_facecolor("none")
    axes.set_title(title, loc="left", fontsize=TEXT_POINTS, color=LIGHT["ink"], parse_math=False)
    axes.tick_params(labelsize=TEXT_POINTS - 1, labelcolor=LIGHT["muted"], color=LIGHT["rule"])
    for spine in axes.spines.values():
        spine.set_color(LIGHT["rule"])
