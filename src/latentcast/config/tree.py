"""A configuration as nested mappings: keys put in, files merged, errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from latentcast.errors import LatentcastError, nearest

Model = type[BaseModel]


def put(model: Model, nested: dict[str, Any], dotted: str, value: Any) -> None:
    """Write one dotted key; items of lists are numbered from 0.

    Raises:
        LatentcastError: no kind of the section has such a key (the nearest is named), or the list
            has no such item.
    """
    names = dotted.split(".")
    for depth, name in enumerate(names):
        keys = _keys(_models(model, names[:depth]))
        if not name.isdigit() and name not in keys:
            if ends := [key for key in _dotted(nested) if key.endswith(f".{dotted}")]:
                full = " or ".join(f"'{key}'" for key in ends[:3])
                raise LatentcastError(f"{dotted}: is a part of a key; did you mean {full}?")
            raise LatentcastError(f"{dotted}: is an unknown key; {nearest(name, keys)}")
    node: Any = nested
    for name in names[:-1]:
        if isinstance(node, list):
            node = node[_item(node, name, dotted)]
        else:
            node[name] = _opened(node.get(name))
            node = node[name]
    if isinstance(node, list):
        node[_item(node, names[-1], dotted)] = value
        return
    if names[-1] == "kind":
        _switch(model, node, names[:-1], value)
    node[names[-1]] = value


def _dotted(nested: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """All keys of a tree, sections included."""
    for name, value in nested.items():
        yield place + name
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{place}{name}.")


def merge(
    model: Model, nested: dict[str, Any], changes: Mapping[str, Any], place: Sequence[str] = ()
) -> None:
    """Write a partial tree over a whole one; a section of another kind drops the former's keys."""
    if "kind" in changes:
        _switch(model, nested, place, changes["kind"])
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(nested.get(name), dict):
            merge(model, nested[name], value, [*place, name])
        else:
            nested[name] = value


def _switch(model: Model, section: dict[str, Any], place: Sequence[str], kind: Any) -> None:
    """Drop the keys that another kind of a section does not have."""
    if kind == section.get("kind"):
        return
    models = [m for m in _models(model, place) if _kind(m) == str(kind)]
    keys = _keys(models) if models else ["kind"]
    for name in [name for name in section if name not in keys]:
        del section[name]


def _opened(section: Any) -> Any:
    """A section that can be written to: tuples as lists, a section that was off as empty."""
    return list(section) if isinstance(section, tuple | list) else section or {}


def _item(items: list[Any], name: str, dotted: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        list_key = dotted.partition(f".{name}")[0]
        raise LatentcastError(
            f"{dotted}: there is no {name} among {len(items)}; "
            + ("number them from 0" if items else f"write the whole list, {list_key}=[...]")
        )
    return int(name)


def sentence(model: Model, nested: Mapping[str, Any], problem: ValidationError, source: str) -> str:
    """Every error of a validation as ``key: reason``, one after the other."""
    tags = {kind for found in _all_models(model) if (kind := _kind(found)) is not None}
    lines = []
    for error in problem.errors():
        names = [str(part) for part in error["loc"]]
        where = ".".join(name for name in names if name not in tags)
        if error["type"] == "extra_forbidden":
            keys = _keys(_models(model, names[:-1], nested))
            lines.append(f"{where} is an unknown key; {nearest(names[-1], keys)}")
        else:
            reason = error["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {reason}" if where else reason)
    return f"{source}: " + "; ".join(lines)


def _models(model: Model, place: Sequence[str], nested: Any = None) -> list[Model]:
    """The models that can stand at a place, found by walking down from ``model``.

    Where a section has several kinds, the ``kind`` that stands in ``nested`` narrows them, as does
    the tag that pydantic writes into the place of an error.
    """
    models = [model]
    for name in place:
        if name.isdigit():  # an item of a list: its keys are those of the list's model
            nested = nested[int(name)] if isinstance(nested, list | tuple) else None
            continue
        if tagged := [m for m in models if _kind(m) == name]:
            models = tagged
            continue
        nested = nested.get(name) if isinstance(nested, Mapping) else None
        models = [
            found
            for parent in models
            if name in parent.model_fields
            for found in _models_in(parent.model_fields[name].annotation)
        ]
        kind = nested.get("kind") if isinstance(nested, Mapping) else None
        models = [m for m in models if _kind(m) == kind] or models
    return models


def _keys(models: Sequence[Model]) -> list[str]:
    return sorted({field for model in models for field in model.model_fields})


def _kind(model: Model) -> Any:
    """The kind that a union or a registry knows a model by; None for a model that is in none."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _models_in(annotation: Any) -> list[Model]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        registry = getattr(annotation, "registry", None)
        return [annotation] if registry is None else [*registry.kinds.values()]
    return [m for part in get_args(annotation) for m in _models_in(part)]


def _all_models(model: Model) -> Iterator[Model]:
    yield model
    for field in model.model_fields.values():
        for found in _models_in(field.annotation):
            yield from _all_models(found)
