"""Recipe, file and flags to one configuration; files read, two configurations compared.

Precedence is flag > ``--config file.yaml`` > recipe (:func:`resolve`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from latentcast.config import tree
from latentcast.config.run import Config, validated
from latentcast.config.training import LOOKS
from latentcast.errors import LatentcastError
from latentcast.files import regular

_LONGEST = 2**20
"""Characters of a configuration; the longest of ours has four thousand."""
_MOST_NODES, _DEEPEST = 10_000, 100


_NEXT_KEY = re.compile(r"\s+(?=[a-z_][\w.]*=)")
Flags = str | Sequence[str] | Mapping[str, Any]
"""Single keys: ``optimizer.lr=3e-4``, several of these, or a value for each key."""


def resolve(recipe: Config, file: Path | None = None, flags: Flags = ()) -> Config:
    """Apply ``file`` (a full or partial YAML tree) and then single keys to a recipe."""
    nested = recipe.model_dump()
    if file is not None:
        tree.merge(Config, nested, read_yaml(file))
    texts: dict[str, str] = {}
    for flag in listed(flags):
        name, separator, text = flag.partition("=")
        if not separator:
            raise LatentcastError(f"--set {flag}: is not of the form key=value; write {flag}=VALUE")
        if texts.setdefault(name, text) != text:
            raise LatentcastError(
                f"{name}: is set twice, to {texts[name]} and to {text}; leave one out"
            )
        tree.put(Config, nested, name, _scalar(text))
    return validated(nested, str(file) if file else "configuration")


def listed(flags: Flags) -> list[str]:
    """``KEY=VALUE`` each; a text may hold several, ``"a=1 b=[2, 3]"``."""
    if isinstance(flags, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in flags.items()]
    texts = [flags] if isinstance(flags, str) else flags
    return [flag for text in texts for flag in _NEXT_KEY.split(text.strip())]


def load(file: Path) -> Config:
    """The configuration a run wrote.

    Raises:
        LatentcastError: the file is absent, is no YAML, or does not fit this version.
    """
    return validated(read_yaml(file), str(file))


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping of a YAML file.

    Raises:
        LatentcastError: it cannot be read, or is no configuration.
    """
    try:
        with regular(file).open(encoding="utf-8") as stream:
            text = stream.read(_LONGEST + 1)
        nested = parse_yaml(text)
    except FileNotFoundError:
        raise LatentcastError(f"{file}: does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); name a YAML file") from None
    except ValueError as problem:
        raise LatentcastError(f"{file}: is not valid YAML ({problem}); correct the file") from None
    if not isinstance(nested, dict):
        raise LatentcastError(f"{file}: holds no mapping of keys; start from a run's config.yaml")
    return nested


def parse_yaml(text: str) -> Any:
    """A YAML text as plain values; dates are text, since no key is one.

    Raises:
        ValueError: it is no YAML, or so long, deep, or (by aliases of aliases) large that it is no
            configuration.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST:,} characters")
    try:
        if _depth(text) > _DEEPEST:  # where libyaml builds nodes it calls itself, and would crash
            raise ValueError("it is nested too deeply")
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > _MOST_NODES:
            raise ValueError(f"its aliases stand for more than {_MOST_NODES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as problem:
        raise ValueError(" ".join(str(problem).split())) from None  # it has several lines
    except (ArithmeticError, AttributeError, LookupError, TypeError):  # !!timestamp x, !!bool x
        raise ValueError("a value is not of the type that its tag names") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Without dates; libyaml's where PyYAML was built with it, five times as fast."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in several if not tag.endswith(":timestamp")]
    for first, several in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _depth(text: str) -> int:
    """How many mappings and lists lie in one another, until there are too many."""
    depth = deepest = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
        if deepest > _DEEPEST:
            break
    return deepest


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Values that a node stands for, its aliases written out."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_NODES + 1  # of a node that contains itself
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = chain.from_iterable(c if isinstance(c, tuple) else (c,) for c in children)
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in inner)
    return sizes[id(node)]


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
        return parse_yaml(text)
    except ValueError:
        raise LatentcastError(
            f"--set ...={text}: is no value; write numbers, names or [a, b]"
        ) from None
