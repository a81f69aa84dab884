"""The card of a model: the one writer of it, from facts that others collect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.files import sha256, write_text
from latentcast.markdown import render
from latentcast.pretrained.models import WEIGHTS

CARD, SETTINGS = "README.md", "config.json"


@dataclass(frozen=True)
class Result:
    """A test score, for the ``model-index`` of Hugging Face."""

    task: str
    dataset: str
    metric: str
    value: float
    about: str


@dataclass(frozen=True)
class Facts:
    """What is known of the training of a model, beside its configuration.

    Attributes:
        text: Markdown, with a heading ("## Data") above each part.
        licence: of the weights, as Hugging Face abbreviates it; None where it is not recorded.
        datasets: names of what it was trained on.
        results: scores on test records.
        elsewhere: trained by other code; what the configuration has of a training is a recipe's.
    """

    text: str = ""
    licence: str | None = None
    datasets: Sequence[str] = ()
    results: Sequence[Result] = ()
    elsewhere: bool = False


NOTHING = Facts(
    "## Training\n\nNothing is recorded here of its data, its scores or its licence: the weights "
    "were saved from memory, and not exported from the folder of their run."
)


def card(
    name: str, config: Config, weights: str, size: Mapping[str, str], facts: Facts = NOTHING
) -> str:
    """Markdown with the front matter of Hugging Face.

    Args:
        name: what ``Encoder.from_pretrained`` is given.
        weights: which they are: recipe, role and step.
        size: what the encoder reads, and how large it is (:mod:`latentcast.artifacts.summary`).
    """
    rows = {"weights": weights}
    rows |= {key: size[key] for key in size if key not in ("weights", "device")}
    rows |= {"objective": config.objective.kind, "encoder": config.encoder.kind}
    if not facts.elsewhere:
        train = config.train
        steps = f"{train.steps:,} step{'s' * (train.steps != 1)} of {train.batch_size:,}"
        rows["training"] = f"{steps}, seed {train.seed}"
    return render(
        __package__, "card.md", name=name, kind=config.input.kind, facts=facts,
        rows=rows, text=Markup(facts.text.strip()),
    )  # fmt: skip


def write_card(
    folder: Path, config: Config, weights: str, size: Mapping[str, str], facts: Facts = NOTHING
) -> None:
    """``config.json`` and the card into the folder of an exported model.

    Raises LatentcastError: it cannot be written.
    """
    content = config.model_dump(mode="json")
    try:
        if (folder / WEIGHTS).is_file():
            size = {**size, f"sha256 of {WEIGHTS}": sha256(folder / WEIGHTS)}
        write_text(folder / SETTINGS, json.dumps(content, indent=1) + "\n")
        write_text(folder / CARD, card(folder.name or str(folder), config, weights, size, facts))
    except OSError as problem:
        raise LatentcastError(
            f"{folder}: cannot be written ({problem}); free space or name another folder"
        ) from None
