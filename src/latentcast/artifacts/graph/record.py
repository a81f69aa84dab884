"""What a graph is of, as JSON inside its file: all that is needed to give it the right samples."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

KEY = "latentcast"
"""Of the metadata of the file."""


@dataclass(frozen=True)
class GraphRecord:
    """Of recordings the leads, the rate in Hz and the samples of a window; of images the size.

    Attributes:
        output: ``embedding``, or ``prediction``.
        names: of the predicted labels or classes.
        thresholds: of the labels, chosen on validation; none where there are none.
        weights: recipe, role and step; ``sha256`` of them.
        difference: largest one between the graph and the library, on ``compared`` samples.
        bits: of weights and matrix products; ``cosine``, the least one between an output of 8 bits
            and of 32.
    """

    modality: Literal["ecg", "image"]
    output: Literal["embedding", "prediction"]
    weights: str
    sha256: str
    version: str
    leads: tuple[str, ...] = ()
    sampling_rate: float = 0.0
    scale: float = 0.0
    length: int = 0
    size: tuple[int, ...] = ()
    layer: str = ""
    pooling: str = ""
    names: tuple[str, ...] = ()
    thresholds: tuple[float | None, ...] = ()
    difference: float = 0.0
    compared: str = ""
    bits: int = 32
    cosine: float = 1.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises ValueError: it is no such record."""
        found: dict[str, Any] = json.loads(text)
        lists = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
        try:
            return cls(**found | lists)
        except TypeError as problem:
            raise ValueError(str(problem)) from None
