"""What the server answers, as its OpenAPI description has it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

NOTICE = "Research use only. Not for diagnosis."


class Facts(BaseModel):
    """Of the recording that was read."""

    format: str | None
    leads: list[str]
    sampling_rate: float
    """Hz, in the upload."""
    seconds: float
    valid: float
    """Share of the samples that are signal: neither missing, flat nor saturated."""
    windows: int
    """That the network read."""


class Embedding(BaseModel):
    """One vector: the mean over the windows."""

    layer: str
    pooling: str
    vector: list[float]


class Label(BaseModel):
    """What is predicted of one label, class or quantity."""

    name: str
    value: float
    """A probability, or the value of a regression."""
    spread: float
    """Standard deviation over the crops of the recording."""
    threshold: float | None = None
    """From which probability on it is called, as validation chose it."""
    called: bool | None = None


class Prediction(BaseModel):
    """The mean over crops that step by half of one."""

    task: str
    target: Literal["multi-label", "multi-class", "regression"]
    calibrated: bool
    """Whether a temperature was chosen on validation."""
    crops: int
    labels: list[Label]


class Neighbour(BaseModel):
    """A recording of the index."""

    id: str
    patient: str
    split: str
    cosine: float
    """Of the embeddings."""


class Answer(BaseModel):
    """All about one recording."""

    id: str
    model: str
    recording: Facts
    remarks: list[str]
    """What was done to the recording before it was read."""
    embedding: Embedding | None = None
    prediction: Prediction | None = None
    neighbours: list[Neighbour] | None = None
    picture: str | None = None
    """An ``<svg>`` element, where it was asked for."""
    notice: str = NOTICE


class Problem(BaseModel):
    """Why a request has no answer."""

    error: str


class ModelFacts(BaseModel):
    """What is served."""

    model: str
    version: str
    leads: list[str]
    sampling_rate: float
    window_seconds: float
    layer: str
    pooling: str
    features: int
    task: str | None
    labels: list[str]
    index: int | None
    """Recordings of which neighbours are found."""
    most_bytes: int
    notice: str = NOTICE
