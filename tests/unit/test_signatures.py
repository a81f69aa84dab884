"""Every argument of every public name: what is of another kind is refused in a sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentcast as lc
from latentcast.artifacts.choice import Choice

FORWARD = {"Encoder.forward", "Encoder.inputs", "Encoder.token_layers", "Encoder.patch_errors",
           "Classifier.outputs"}  # fmt: skip
"""What a training or a harness calls for each batch: tensors and arrays, as torch takes them."""
WRONG = (None, 3.5, object())
ARRAYS = {"sampling_rate": 100, "leads": ["I"], "signals": [np.zeros((1, 1000))]}


def public_calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in lc.__all__:
        yield name, getattr(lc, name)
        for method, value in vars(getattr(lc, name)).items():
            function = getattr(value, "__func__", value)
            if not method.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{method}", function


def allows(parameter: inspect.Parameter, value: object) -> bool:
    kinds = str(parameter.annotation).split(" | ")
    if parameter.kind is parameter.VAR_KEYWORD:
        return True
    return ("None" in kinds or parameter.default is None) if value is None else (
        isinstance(value, float) and "float" in kinds
    )  # fmt: skip


CASES = [
    (name, argument, value)
    for name, function in public_calls()
    for argument, parameter in inspect.signature(function).parameters.items()
    for value in WRONG
    if name not in {*FORWARD, "LatentcastError"} and argument not in ("self", "cls")
    if not allows(parameter, value)
]


@pytest.fixture(scope="module")
def usual(small_store: Path, small_run: Path) -> dict[str, Any]:
    """What makes each call a call: the object of a method, and the arguments without defaults."""
    store, encoder = lc.open_store(small_store), lc.Encoder.from_pretrained(small_run)
    config, recording = encoder.config, store.recording(0)
    classifier = object.__new__(lc.Classifier)
    classifier.encoder, classifier.network = encoder, encoder.network
    nowhere, run = small_run / "nowhere", small_run
    of_recording = {name: getattr(recording, name) for name in recording.__dataclass_fields__}
    return {
        "Classifier": {"encoder": encoder, "choice": Choice(1, 0.5)},
        "Classifier.from_pretrained": {"run": run}, "Classifier.predict": {"x": recording},
        "Config": dict(config), "Config.updated": {"changes": {}},
        "Config.trained_on": {"done": 1, "steps": 2}, "Config.as_of": {"done": 1},
        "Encoder": {"config": config, "objective": encoder.objective},
        "Encoder.from_pretrained": {"run": run}, "Encoder.random": {"run": run},
        "Encoder.save_pretrained": {"folder": nowhere},
        "Encoder.embed": {"x": store}, "Encoder.windows": {"x": store},
        "Encoder.counts": {"recording": recording}, "Recording": of_recording,
        "Store": {"path": small_store, "manifest": store.manifest},
        "Store.open": {"path": small_store}, "Store.divided": {"folds": None},
        "Store.row_of": {"record_id": "a"}, "Store.rows": {"split": "train"},
        "Store.take": {"rows": [0]}, "Store.metadata": {"row": 0},
        "Store.require": {"modality": "ecg"}, "Store.recording": {"row": 0},
        "Store.encoded": {"row": 0}, "evaluate": {"runs": [run]},
        "finetune": {"run": run, "data": small_store, "out": nowhere},
        "ingest": {"source": small_store, "out": nowhere}, "label": {"store": store, "path": "x"},
        "open_store": {"path": small_store}, "probe": {"run": run},
        "read_recording": {"path": "x"}, "recipe": {"name": "x"},
        "train": {"config": config, "data": small_store, "out": nowhere}, "verify": {},
        "write_store": {"out": nowhere, **ARRAYS},
        "objects": {"Classifier": classifier, "Encoder": encoder, "Store": store,
                    "Config": config},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "argument", "value"), CASES, ids=[f"{n}-{a}-{type(v).__name__}" for n, a, v in CASES]
)
def test_an_argument_of_another_kind_is_named(
    name: str, argument: str, value: object, usual: dict[str, Any]
) -> None:
    owner, _, method = name.partition(".")
    call = getattr(usual["objects"].get(owner, lc), method) if method else getattr(lc, name)
    with pytest.raises(lc.LatentcastError, match=f"{argument}|is nothing that can be embedded"):
        found = call(**{**usual[name], argument: value})
        list(found)  # what is read one by one
