"""Arguments of a public call, compared with what its signature names; errors from its docstring."""

from __future__ import annotations

import inspect
import numbers
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, wraps
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, ParamSpec, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as hints_of

from latentcast.errors import LatentcastError, nearest

P = ParamSpec("P")
T = TypeVar("T")

_MOST = 1000
"""Items of a list that are looked at, so that the names of a million records cost nothing."""
_PLAIN: Final[Mapping[Any, tuple[Any, str, str]]] = {
    str: (str, "text", "text"),
    Path: (os.PathLike, "a path", "paths"),
    int: (numbers.Integral, "a whole number", "whole numbers"),
    float: (numbers.Real, "a number", "numbers"),
    NoneType: (NoneType, "None", "None"),
}
"""Of a type in a signature: what passes for it, and what one and several of them are called."""


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, whose arguments are compared with its annotations before it runs.

    Raises:
        LatentcastError: names the function, the argument, and its line of the docstring.
    """

    @cache  # at the first call, when every name that the annotations use can be found
    def annotated() -> tuple[inspect.Signature, dict[str, Any]]:
        return inspect.signature(function), hints_of(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        signature, hints = annotated()
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # says itself which argument is missing
        is_class = function.__name__ == "__init__"
        check(type(args[0]) if is_class else function, arguments, hints)
        return function(*args, **kwargs)

    return call


def check(of: Callable[..., Any], arguments: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raises LatentcastError: an argument of ``of`` is of another kind than its hint."""
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            raise LatentcastError(_refusal(of, name, value, hints[name]))


def _fits(value: Any, hint: Any) -> bool:
    if type(value) is hint:
        return True
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return any(value is part or value == part for part in get_args(hint))
    kind = origin or hint
    if kind is Any:
        return True
    if kind in (Sequence, tuple, list):
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
            return False
        inner = get_args(hint)[0] if origin else Any
        items = list(islice(value, _MOST))
        # Alike in type, as names of leads are: this is asked of every recording of an archive.
        return (
            inner is Any
            or {*map(type, items)} <= {inner}
            or all(_fits(item, inner) for item in items)
        )
    if kind in _PLAIN:
        # True is a number in Python, and never what a number was meant to be.
        return isinstance(value, _PLAIN[kind][0]) and not isinstance(value, bool)
    return isinstance(value, kind)


def _refusal(of: Callable[..., Any], name: str, value: Any, hint: Any) -> str:
    what = f"{of.__qualname__}: '{name}' {_described(value, hint)}"
    parts = list(_parts(hint))
    if isinstance(value, str):
        choices = [each for part in parts if get_origin(part) is Literal for each in get_args(part)]
        if choices:
            return f"{what}; {nearest(value, choices)}"
        if any(get_origin(part) is Sequence for part in parts):
            items = re.split(r"[,\s]+", value.strip())
            return f"{what}; give a list, {name}={items}"
    about = re.search(
        rf"^ *(?:\w+, )*{name}(?:, \w+)*: (.+?)(?:[;.]\s|\.?$|\n\n|\n *\*?\w+: )",
        inspect.cleandoc(of.__doc__ or ""), re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    text = "" if about is None else f": {' '.join(about[1].split())}"
    text = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", text).replace("``", "")
    return f"{what}; give {_named(parts)}{text}"


def _described(value: Any, hint: Any) -> str:
    """``is None``, or of a list with one wrong item ``holds None``."""
    verb = "is"
    if isinstance(value, list | tuple) and _fits([], hint):
        verb = "holds"
        value = next(item for item in value if not _fits([item], hint))
    if value is None or isinstance(value, str | bool | numbers.Number):
        return f"{verb} {repr(value)[:60]}"
    if isinstance(value, type):
        return f"{verb} the class {value.__name__}"
    return f"{verb} {_with_article(type(value).__name__)}"


def _parts(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]


def _named(hints: Sequence[Any], *, many: bool = False) -> str:
    """``a path or a list of numbers``; each name once, and text where a path is meant as one."""
    names = dict.fromkeys(_name(hint, many) for hint in hints if hint is not NoneType)
    if {"a path", "paths"} & names.keys():
        names.pop("text", None)
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _name(hint: Any, many: bool) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    kind = origin or hint
    if kind in _PLAIN:
        return _PLAIN[kind][2 if many else 1]
    if kind in (Sequence, tuple, list):
        inner = get_args(hint)[:1]
        of = f" of {_named(_parts(inner[0]), many=True)}" if inner else ""
        return f"lists{of}" if many else f"a list{of}"
    if kind is bool:
        return "True or False"
    if kind in (Mapping, dict):
        return "mappings" if many else "a mapping"
    name = {"ndarray": "array"}.get(kind.__name__, kind.__name__)
    return f"{name}s" if many else _with_article(name)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
