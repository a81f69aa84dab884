"""The card of a model: the one writer of it, from facts that others collect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.files import sha256, write_text
from latentcast.markdown import table
from latentcast.pretrained.models import WEIGHTS

CARD, SETTINGS = "README.md", "config.json"
INTENDED = (
    "Research: features of recordings or images for probes, fine-tuning and comparisons. It is no "
    "medical device: it gives no diagnosis, and nothing that decides about a patient may rest on "
    "it. Its features are as good as the data it was trained on; on other populations, devices and "
    "sampling rates it has to be measured before it is used."
)
USE = """\
```python
import latentcast as lc

vectors = lc.Encoder.from_pretrained("{}").embed("FILES")
```
"""


LIMITS_OF_USE = (
    "Not for diagnosis, triage, monitoring or treatment, and not for telling persons apart. Who "
    "uses the features measures them on own data first, by age, sex, site and device (`latentcast "
    "probe --by`), and again when the recorders or the patients change."
)
"""Cautioned use and monitoring, as the model card of the Coalition for Health AI asks for them."""


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
        sections: heading and Markdown of each.
        licence: of the weights, as Hugging Face abbreviates it; None where it is not recorded.
        datasets: names of what it was trained on.
        results: scores on test records.
        elsewhere: trained by other code; what the configuration has of a training is a recipe's.
    """

    sections: Sequence[tuple[str, str]] = ()
    licence: str | None = None
    datasets: Sequence[str] = ()
    results: Sequence[Result] = ()
    elsewhere: bool = False


NOTHING = Facts(
    (("Training", "Nothing is recorded here of its data, its scores or its licence: the weights "
                  "were saved from memory, and not exported from the folder of their run."),)
)  # fmt: skip


def card(
    name: str, config: Config, weights: str, size: Mapping[str, str], facts: Facts = NOTHING
) -> str:
    """Markdown with the front matter of Hugging Face.

    Args:
        name: what ``Encoder.from_pretrained`` is given.
        weights: which they are: recipe, role and step.
        size: what the encoder reads, and how large it is (:mod:`latentcast.artifacts.summary`).
    """
    front = ["library_name: latentcast", f"tags: [{config.input.kind}, self-supervised-learning]"]
    if facts.licence is not None:
        front.insert(0, f"license: {facts.licence}")
    front += _index(name, facts)
    rows = {"weights": weights}
    rows |= {key: size[key] for key in size if key not in ("weights", "device")}
    rows |= {"objective": config.objective.kind, "encoder": config.encoder.kind}
    if not facts.elsewhere:
        train = config.train
        rows["training"] = f"{train.steps:,} steps of {train.batch_size:,}, seed {train.seed}"
    parts = ["---", *front, "---", "", f"# {name}", "", USE.format(name)]
    parts += table(("", ""), rows.items())
    for heading, text in (
        *facts.sections,
        ("Intended use", INTENDED),
        ("Out of scope, and monitoring", LIMITS_OF_USE),
    ):
        parts += ["", f"## {heading}", "", text.strip()]
    return "\n".join(parts) + "\n"


def _index(name: str, facts: Facts) -> list[str]:
    """Data sets and scores as YAML; a text in JSON is one in YAML."""
    lines = [f"datasets: {json.dumps(list(facts.datasets))}"] if facts.datasets else []
    if facts.results:
        metrics = list(dict.fromkeys(result.metric for result in facts.results))
        lines += [f"metrics: {json.dumps(metrics)}", "model-index:", f"- name: {json.dumps(name)}",
                  "  results:"]  # fmt: skip
    for result in facts.results:
        task, data = {"type": "other", "name": result.task}, {"type": "other"}
        metric = {"type": result.metric, "value": round(result.value, 4), "name": result.about}
        lines += [
            f"  - task: {json.dumps(task, ensure_ascii=False)}",
            f"    dataset: {json.dumps(data | {'name': result.dataset}, ensure_ascii=False)}",
            f"    metrics: [{json.dumps(metric, ensure_ascii=False)}]",
        ]
    return lines


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
