"""What only a store can show: a map of features, and an ECG with the model's errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentcast.report.ecg import plot_recording
from latentcast.report.embedding import Projection, plot_embedding, project, thinned
from latentcast.report.picture import Picture

if TYPE_CHECKING:
    from latentcast.signals.recording import Recording


SURPRISE = "Where the model is surprised"
MAP = "Map of the features"


def shows_pictures(page: Path) -> bool:
    """Whether a page that was written before has one of them."""
    try:
        text = page.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(f"<h2>{title}</h2>" in text for title in (SURPRISE, MAP))


@dataclass(frozen=True)
class Surprise:
    """A recording, and how wrong the model was about each of its patches.

    Attributes:
        recording: the ECG to show, of the test fold.
        errors: (n_patches,), 1 - cosine, NaN where nothing was predicted.
        patch_seconds: length of a patch in seconds.
        predicted_from: what a patch was predicted from, in words.
    """

    recording: Recording
    errors: npt.ArrayLike
    patch_seconds: float
    predicted_from: str

    def picture(self) -> Picture:
        """The ECG on millimetre paper, tinted; LatentcastError when the errors do not fit it."""
        recording, errors = self.recording, np.asarray(self.errors, dtype=np.float64)
        predicted = errors[np.isfinite(errors)]
        spread = (
            f"median {np.median(predicted):.2f}, largest {predicted.max():.2f} in the patch at "
            f"{np.nanargmax(errors) * self.patch_seconds:.2f} s"
            if predicted.size
            else "no patch was predicted"
        )
        return Picture(
            "ecg",
            SURPRISE,
            plot_recording(recording, patch_errors=errors, patch_seconds=self.patch_seconds),
            f"ECG of record {recording.record_id} with leads {', '.join(recording.leads)} on "
            f"millimetre paper, tinted by the prediction error of each patch: {spread}.",
            "How to read it: each vertical band is one patch, and the darker the band and the "
            f"taller its bar, the worse it was predicted from {self.predicted_from}; an "
            "error of 0 is a perfect prediction, 1 is no better than an unrelated direction. "
            f"Surprise is not abnormality. Here: {spread}.",
            paper=True,
        )


@dataclass(frozen=True)
class Colours:
    """By what a map is coloured.

    Attributes:
        labels: bool (records, classes).
        classes: names of the columns of ``labels``.
    """

    labels: npt.NDArray[np.bool_]
    classes: Sequence[str]


@dataclass(frozen=True)
class FeatureMap:
    """Frozen features of the test fold, and the classes by which they are coloured.

    Attributes:
        features: (records, features).
        labels: bool (records, classes).
        classes: names of the columns of ``labels``.
        source: what the features are, as in "layer block 2, mean+std".
        noun: what a sample is called.
        metadata: by its key, such as sex or device, further colours of the same map.
    """

    features: npt.NDArray[np.floating[Any]]
    labels: npt.NDArray[np.bool_]
    classes: Sequence[str]
    source: str
    noun: str = "record"
    metadata: Mapping[str, Colours] = field(default_factory=dict)

    def pictures(self) -> list[Picture]:
        """One for the classes and one for each key; LatentcastError when shapes do not fit."""
        points = None
        drawn = []
        for key, colours in {"": Colours(self.labels, self.classes), **self.metadata}.items():
            features, labels, classes = thinned(self.features, colours.labels, colours.classes)
            points = project(features, 0) if points is None else points
            drawn.append(self._picture(key, features, labels, classes, colours, points))
        return drawn

    def _picture(
        self,
        key: str,
        features: npt.NDArray[np.floating[Any]],
        labels: npt.NDArray[np.bool_],
        classes: tuple[str, ...],
        colours: Colours,
        points: Projection,
    ) -> Picture:
        noun = "value" if key else "class"
        which = ""
        if len(classes) < len(colours.classes):
            most = f"{len(classes)} most frequent of {len(colours.classes)}"
            which = f" Shown are the {most} {noun}{'s' if key else 'es'}."
        grey = "another value, or none" if key else "several of these classes, or none"
        return Picture(
            f"map-{re.sub(r'[^A-Za-z0-9]+', '-', key).lower()}" if key else "map",
            f"{MAP} by {key}" if key else MAP,
            plot_embedding(
                features,
                labels,
                classes,
                points=points,
                grey="another or none" if key else "several or none",
            ),
            f"Two maps of {len(features):,} test {self.noun}s, by principal components "
            f"and by t-SNE, coloured by {', '.join(classes)}, and one small t-SNE map for each.",
            f"{len(features):,} {self.noun}s of the test fold, {self.source}.{which} Grey: "
            f"{grey}. Left: first two principal components. Right and below: "
            "t-SNE of the leading components. For looking only: distances between groups, their "
            "size and their number mean nothing in t-SNE; what the features are worth is in the "
            "tables.",
        )
