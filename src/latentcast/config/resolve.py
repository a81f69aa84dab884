"""Recipe, file and flags to one configuration; files read, two configurations compared.

Precedence is flag > ``--config file.yaml`` > recipe (:func:`resolve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from latentcast.config import tree
from latentcast.config.run import Config, validated
from latentcast.config.training import LOOKS
from latentcast.errors import LatentcastError


def resolve(recipe: Config, file: Path | None = None, flags: Sequence[str] = ()) -> Config:
    """Apply ``file`` (a full or partial YAML tree) and then ``key=value`` flags to a recipe."""
    nested = recipe.model_dump()
    if file is not None:
        tree.merge(Config, nested, read_yaml(file))
    for flag in flags:
        name, separator, text = flag.partition("=")
        if not separator:
            raise LatentcastError(f"--set {flag}: is not of the form key=value; write {flag}=VALUE")
        tree.put(Config, nested, name, _scalar(text))
    return validated(nested, str(file) if file else "configuration")


def load(file: Path) -> Config:
    """The configuration a run wrote.

    Raises:
        LatentcastError: the file is absent, is no YAML, or does not fit this version.
    """
    return validated(read_yaml(file), str(file))


def read_yaml(file: Path) -> dict[str, Any]:
    try:
        nested = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); name a YAML file") from None
    except yaml.YAMLError as problem:
        raise LatentcastError(f"{file}: is not valid YAML ({problem}); correct the file") from None
    if not isinstance(nested, dict):
        raise LatentcastError(f"{file}: holds no mapping of keys; start from a run's config.yaml")
    return nested


def differences(ours: Config, theirs: Config) -> list[str]:
    """``key: ours, theirs`` for each leaf in which two configurations differ.

    The machine's are left out, and how often a run is looked at and saved: they are no part of
    what is learned.
    """
    without: Any = {"machine": True, "train": set(LOOKS)}
    left, right = (leaves(config.model_dump(exclude=without)) for config in (ours, theirs))
    return [
        f"{name} is {left.get(name)} here, {right.get(name)} there"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def leaves(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value; the sections of a list are numbered, as ``--set`` writes them."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        inside = value
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            inside = {str(place): item for place, item in enumerate(value)}
        if isinstance(inside, Mapping):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in leaves(inside).items()}
        else:
            flat[name] = value
    return flat


def _scalar(text: str) -> Any:
    if "e" in text.lower():
        with suppress(ValueError):
            # YAML 1.1 reads 1e-3 as a string; a learning rate is a number.
            return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise LatentcastError(
            f"--set ...={text}: is no value; write numbers, names or [a, b]"
        ) from None
