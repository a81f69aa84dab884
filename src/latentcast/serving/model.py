"""An artifact as the server uses it: recordings to windows, windows to outputs, to an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.embeddings import Embeddings
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.predictions import activated, joined
from latentcast.artifacts.recordings import ArrayAxes, Counts, MissingLeads, RecordingReader
from latentcast.artifacts.rejections import Rejections
from latentcast.artifacts.windows import averaged, with_tokens
from latentcast.config import EcgInput
from latentcast.errors import LatentcastError
from latentcast.nn.pooling import check_pooling, layers_of, pool_joined
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.serving.answers import (
    Answer,
    Embedding,
    Facts,
    Label,
    ModelFacts,
    Neighbour,
    Prediction,
)
from latentcast.serving.batching import Outputs
from latentcast.serving.neighbours import searched
from latentcast.signals.recording import INVALID, Recording
from latentcast.source import BadRecord

EMBEDDING, PREDICTION = "embedding", "prediction"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recording, and what the network reads of it.

    Attributes:
        windows: int16 ``(windows, samples, leads)``.
        remarks: what was done about its rate and leads.
        valid: share of the counts that are signal.
    """

    recording: Recording
    windows: Counts
    remarks: tuple[str, ...]
    valid: float


class Served:
    """A run, an exported file, or a model that ships, with all that an answer needs.

    Args:
        artifact: what ``Encoder.from_pretrained`` takes; of a fine-tuned run the predictions too.
        device: to compute on.
        layer: that embeddings are read from; None, the encoder's own.
        pooling: of its tokens.

    Raises:
        LatentcastError: no such artifact, of images, an unknown layer or pooling; or features that
            are not finite, of a run that has diverged.
    """

    def __init__(
        self,
        artifact: str | Path,
        device: str = "auto",
        layer: str | None = None,
        pooling: str = "mean",
    ) -> None:
        self.name = Path(artifact).name if Path(artifact).exists() else str(artifact)
        encoder = Encoder.from_pretrained(artifact, device=device)
        settings, shape = encoder.config.objective, encoder.config.input
        if not isinstance(shape, EcgInput):
            raise LatentcastError(
                f"{artifact}: was trained on images, and the server reads ECGs; embed or predict "
                "images from Python (Encoder.embed, Classifier.predict)"
            )
        self.input, self.classifier = shape, None
        if isinstance(settings, SupervisedConfig) and not encoder.alone:
            self.classifier = Classifier.from_pretrained(artifact, device=device)
            encoder = self.classifier.encoder
        self.encoder = encoder
        self.layer = encoder.layer if layer is None else layer
        self._read = layers_of(self.layer, encoder.layer_names)
        self.pooling = check_pooling(pooling, causal=encoder.causal)
        self.index: Embeddings | None = None
        self.outputs = (EMBEDDING, PREDICTION) if self.classifier else (EMBEDDING,)
        zeros = np.zeros((1, *shape.size, shape.channels), np.int16)
        vectors = self.run(zeros, self.outputs)[0]  # the first run is the slowest
        self.features = vectors.shape[1]
        if not np.isfinite(vectors).all():
            raise LatentcastError(
                f"{encoder.weights}: features are not finite; the run has diverged, use an earlier "
                "checkpoint (RUN/checkpoints/step-N)"
            )

    def search(self, path: Path) -> None:
        """Find neighbours in a store or in a table of embeddings; see :func:`searched`."""
        self.index = searched(path, self.encoder, self.layer, self.pooling, self.features)

    def facts(self, most_bytes: int) -> ModelFacts:
        """For clients and for the page."""
        classifier = self.classifier
        return ModelFacts(
            model=self.title, version=metadata.version("latentcast"), leads=list(self.input.leads),
            sampling_rate=self.input.sampling_rate,
            window_seconds=self.input.length / self.input.sampling_rate, layer=self.layer,
            pooling=self.pooling, features=self.features,
            task=None if classifier is None else classifier.settings.task,
            labels=[] if classifier is None else list(classifier.names),
            index=None if self.index is None else len(self.index), most_bytes=most_bytes,
        )  # fmt: skip

    @property
    def title(self) -> str:
        """Name and weights."""
        return f"{self.name} ({self.encoder.weights})"

    def prepared(self, recording: Recording, missing_leads: MissingLeads) -> Prepared:
        """A recording as the network reads it, in the way of ``embed``.

        Raises:
            BadRecord: it cannot be used.
        """
        reader = RecordingReader(
            self.input, ArrayAxes(), resample=True, missing_leads=missing_leads
        )
        counts = reader.counts(recording)
        windows = reader.windows(counts)
        named = iter([(recording.record_id, windows)])
        for _ in with_tokens(self.encoder.network, named, Rejections()):
            pass
        remarks = reader.completed
        rate, own = recording.sampling_rate, self.input.sampling_rate
        if rate != own:
            remarks = (f"resampled from {rate:g} to {own:g} Hz", *remarks)
        return Prepared(recording, windows, remarks, float((counts != INVALID).mean()))

    @torch.inference_mode()
    def run(self, windows: Counts, outputs: Sequence[str]) -> Outputs:
        """Of each window: its vector, float32; whether a token of it is valid; and, where it is
        among ``outputs``, its probabilities, float64."""
        layers, valid = self.encoder.token_layers(windows)
        vectors = pool_joined(layers[self._read], valid, self.pooling).cpu().numpy()
        measured = valid.any(dim=1).cpu().numpy()
        if PREDICTION not in outputs or self.classifier is None:
            return vectors, measured
        found = self.classifier
        raw = found.outputs(windows).double().cpu().numpy()
        return vectors, measured, activated(raw, found.settings, found.choice.temperature)

    def answer(self, prepared: Prepared, outputs: Outputs, neighbours: int) -> Answer:
        """From the outputs of all windows of a recording.

        Raises:
            BadRecord: they are not finite.
        """
        vectors, measured, *predicted = outputs
        recording = prepared.recording
        owners = np.zeros(len(vectors), np.int64)
        vector = averaged([recording.record_id], owners, vectors, measured)[0]
        if not np.isfinite(vector).all():
            raise BadRecord("its features are not finite; look at the signal")
        about = recording.metadata
        facts = Facts(
            format=about.get("format"), leads=list(recording.leads),
            sampling_rate=recording.sampling_rate, seconds=recording.seconds,
            valid=prepared.valid, windows=len(vectors),
        )  # fmt: skip
        found: list[Neighbour] | None = None
        if self.index is not None:
            near, _ = self.index.nearest(vector, neighbours, itself=True)
            found = [Neighbour(**one._asdict()) for one in near]
        numbers = [float(str(number)) for number in vector]  # no digits beyond float32
        embedding = Embedding(layer=self.layer, pooling=self.pooling, vector=numbers)
        return Answer(
            id=recording.record_id, model=self.title, recording=facts,
            remarks=list(prepared.remarks), embedding=embedding, neighbours=found,
            prediction=self._prediction(owners, *predicted),
        )  # fmt: skip

    def _prediction(
        self, owners: npt.NDArray[np.int64], *predicted: npt.NDArray[np.float64]
    ) -> Prediction | None:
        if self.classifier is None or not predicted:
            return None
        found = joined([(owners, predicted[0])], 1)
        choice, settings = self.classifier.choice, self.classifier.settings
        labels = [
            Label(name=name, value=value, spread=spread)
            if math.isnan(threshold)
            else Label(
                name=name, value=value, spread=spread, threshold=threshold,
                called=bool(value >= threshold),
            )
            for name, value, spread, threshold in zip(
                settings.names, found.values[0], found.spread[0], self.classifier.thresholds,
                strict=True,
            )
        ]  # fmt: skip
        return Prediction(
            task=settings.task, target=settings.target, calibrated=not math.isnan(choice.score),
            crops=int(found.crops[0]), labels=labels,
        )  # fmt: skip
