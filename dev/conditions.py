"""Words for ``where:``: what a recipe must have for a fault to be a fault of it.

``not-`` before a word denies it. Most faults need none: a fault concerns a recipe when every claim
that it reddens does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "jepa": lambda config, twin: config.objective.kind == "jepa",
    "hierarchy": lambda config, twin: bool(getattr(config.objective, "coarser", ())),
    "blocks": lambda config, twin: _masks(config) == "blocks",
    "stretches": lambda config, twin: _masks(config) == "context_blocks",
    "accumulates": lambda config, twin: twin.train.micro_batches > 1,
    "leads": lambda config, twin: getattr(config.input, "tokens", "joint") == "per_lead",
    "ecg": lambda config, twin: config.input.kind == "ecg",
    "image": lambda config, twin: config.input.kind == "image",
    "channels": lambda config, twin: config.input.channels > 1,
    "crops": lambda config, twin: getattr(config.input, "crop_scale", None) is not None,
    "patches": lambda config, twin: twin.encoder.patch > 1,
    "batch-norm": lambda config, twin: getattr(config.encoder, "norm", None) == "batch",
    "cls": lambda config, twin: config.encoder.cls,
    "layer-scale": lambda config, twin: config.encoder.layer_scale is not None,
    "small-scale": lambda config, twin: config.encoder.layer_scale not in (None, 1.0),
    "rescale": lambda config, twin: getattr(config.encoder.positions, "rescale", None) is not None,
}
"""Of a recipe as shipped and of its twin, which is what is measured."""


def hold(where: Iterable[str], config: Any, twin: Any) -> bool:
    """Whether a recipe has all of what the words say."""
    return all(
        CONDITIONS[word.removeprefix("not-")](config, twin) != word.startswith("not-")
        for word in where
    )


def _masks(config: Any) -> str:
    masks = getattr(config.objective, "masks", None)
    return str(masks.kind) if masks else ""
