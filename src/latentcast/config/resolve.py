"""Recipe, file and flags to one configuration; files read, errors as sentences.

Precedence is flag > ``--config file.yaml`` > recipe (:func:`resolve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from latentcast.config.run import Config
from latentcast.errors import LatentcastError, nearest

_KINDS = frozenset(
    [
        "ecg",
        "image",
        "rotary",
        "sincos",
        "nepa",
        "jepa",
        "blocks",
        "context_blocks",
        "reference",
        "sigreg",
        "vicreg",
    ]
)
"""Tags of the unions: pydantic names them in the place of an error, a user did not write them."""


def resolve(recipe: Config, file: Path | None = None, flags: Sequence[str] = ()) -> Config:
    """Apply ``file`` (a full or partial YAML tree) and then ``key=value`` flags to a recipe."""
    tree = recipe.model_dump()
    if file is not None:
        _merge(tree, read_yaml(file))
    for flag in flags:
        name, found, text = flag.partition("=")
        if not found:
            raise LatentcastError(f"--set {flag}: is not of the form key=value; write {flag}=VALUE")
        _put(tree, name, _scalar(text))
    return validated(tree, str(file) if file else "configuration")


def updated(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration with dotted keys replaced, validated anew."""
    tree = config.model_dump()
    for dotted, value in changes.items():
        _put(tree, dotted, value)
    return validated(tree, "configuration")


def load(file: Path) -> Config:
    """The configuration a run wrote.

    Raises:
        LatentcastError: the file is absent, is no YAML, or does not fit this version.
    """
    return validated(read_yaml(file), str(file))


def read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); name a YAML file") from None
    except yaml.YAMLError as problem:
        raise LatentcastError(f"{file}: is not valid YAML ({problem}); mend the file") from None
    if not isinstance(tree, dict):
        raise LatentcastError(f"{file}: holds no mapping of keys; start from a run's config.yaml")
    return tree


def validated(tree: Mapping[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as problem:
        raise LatentcastError(_sentence(problem, source)) from None


def differences(ours: Config, theirs: Config) -> list[str]:
    """``key: ours, theirs`` for each leaf in which two configurations differ.

    The machine's are left out: where a run computes is no part of what it computes.
    """
    left, right = (leaves(config.model_dump(exclude={"machine"})) for config in (ours, theirs))
    return [
        f"{name} is {left.get(name)} here, {right.get(name)} there"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value; the sections of a list are numbered, as ``--set`` writes them."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        inside = value
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            inside = {str(place): item for place, item in enumerate(value)}
        if isinstance(inside, Mapping):
            flat |= {f"{name}.{inner}": held for inner, held in leaves(inside).items()}
        else:
            flat[name] = value
    return flat


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    names = dotted.split(".")
    for depth in range(1, len(names) + 1):
        known = _siblings(names[:depth])
        if not names[depth - 1].isdigit() and names[depth - 1] not in known:
            raise LatentcastError(
                f"{dotted}: is an unknown key; {nearest(names[depth - 1], known)}"
            )
    node: Any = tree
    for name in names[:-1]:
        if isinstance(node, list):
            node = node[_place(node, name, dotted)]
        else:
            node[name] = _opened(node.get(name))
            node = node[name]
    if isinstance(node, list):
        node[_place(node, names[-1], dotted)] = value
    elif names[-1] == "kind" and value != node.get("kind"):
        # Another kind has its own keys: those that it does not know go with the old one.
        kept = set(_siblings([*names[:-1], str(value), "kind"]))
        for name in [name for name in node if name not in kept]:
            del node[name]
        node["kind"] = value
    else:
        node[names[-1]] = value


def _opened(section: Any) -> Any:
    """A section that can be written to: tuples as lists, a section that was off as empty."""
    return list(section) if isinstance(section, tuple | list) else section or {}


def _place(items: list[Any], name: str, dotted: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        raise LatentcastError(
            f"{dotted}: there is no {name} among {len(items)}; number them from 0"
        )
    return int(name)


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


def _sentence(problem: ValidationError, source: str) -> str:
    lines = []
    for error in problem.errors():
        names = [str(part) for part in error["loc"]]
        where = ".".join(name for name in names if name not in _KINDS)
        if error["type"] == "extra_forbidden":
            lines.append(f"{where} is an unknown key; {nearest(names[-1], _siblings(names))}")
        else:
            reason = error["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {reason}" if where else reason)
    return f"{source}: " + "; ".join(lines)


def _siblings(names: Sequence[str]) -> list[str]:
    """The known keys beside an unknown one, found by walking the models.

    A tag of a union among the names, as pydantic puts it there, narrows the walk to that kind.
    """
    models: list[type[BaseModel]] = [Config]
    for name in names[:-1]:
        if name.isdigit():  # an item of a list: its keys are those of the list's model
            continue
        if name in _KINDS and (kinds := [m for m in models if _kind(m) == name]):
            models = kinds
            continue
        models = [
            model
            for parent in models
            if name in parent.model_fields
            for model in _models_in(parent.model_fields[name].annotation)
        ]
    return sorted({field for model in models for field in model.model_fields})


def _kind(model: type[BaseModel]) -> Any:
    """The tag by which a union knows a model; None for a model that is in none."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]
