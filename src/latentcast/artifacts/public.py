"""Public weights as full encoders: a new layout is one file with a ``read``, and one line here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from latentcast.artifacts import (
    public_ijepa,
    public_kweimann,
    public_nepa,
    public_sehunfromdaegu,
)
from latentcast.artifacts.public_layout import Content, PublicEncoder, read_pickled
from latentcast.artifacts.public_unread import refuse_unread
from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.files import read_object
from latentcast.nn.hierarchy import Hierarchy
from latentcast.objectives.build import assemble
from latentcast.places import PICKLED

LAYOUTS = (public_ijepa, public_nepa, public_sehunfromdaegu, public_kweimann)
"""In the order in which they are tried."""
KINDS = "I-JEPA, NEPA, ECG-JEPA of sehunfromdaegu or of kweimann"


def is_public(file: Path) -> bool:
    """Whether a file may hold public weights: a pickle of tensors, or safetensors that are no
    export of ours."""
    if file.name.endswith(PICKLED):
        return True
    try:
        with safe_open(file, framework="pt") as stream:
            return "config" not in (stream.metadata() or {})
    except (OSError, SafetensorError, ValueError):
        return False


def read_public(file: str | Path, heads: int | None = None) -> PublicEncoder:
    """The encoder in a file of public weights, with the input that it was trained on.

    Args:
        file: ``.pth`` and the like, or safetensors, beside a ``config.json`` where they have one.
        heads: of the attention, where they follow neither from the file nor from the width of a
            published model.

    Raises:
        LatentcastError: the file cannot be read, is of no known layout, or has other heads.
    """
    file = Path(file)
    try:
        content = read_pickled(file) if file.name.endswith(PICKLED) else _read_safetensors(file)
    except LatentcastError:
        refuse_unread(file, None)
        raise
    for layout in LAYOUTS:
        if (found := layout.read(file, content, heads)) is not None:
            return _placed(found)
    refuse_unread(file, content)
    raise LatentcastError(
        f"{file}: was not written by latentcast export and is of no public layout known here "
        f"({KINDS}); give probe the network itself (--encoder NAME=module:function), or "
        "export a run"
    )


def refuse_unnormalised(file: str | Path, config: Config) -> None:
    """Raises LatentcastError: the file does not hold how recordings were normalised."""
    if config.input.normalisation is None:
        raise LatentcastError(
            f"{file}: does not hold the mean and deviation that recordings are normalised by; take "
            f"those of a store: latentcast export {file} --out FOLDER --data STORE, and use that "
            "folder"
        )


def _read_safetensors(file: Path) -> Content:
    beside = file.with_name("config.json")
    try:
        with safe_open(file, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return {"model": tensors, "config": read_object(beside) if beside.is_file() else None}
    except (OSError, SafetensorError, ValueError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); download it again") from None


def _placed(found: PublicEncoder) -> PublicEncoder:
    """Tensors by the names that the objective's encoder has for them."""
    with torch.device("meta"):
        network = assemble(found.config).encoder("teacher")
    place = "finest." if isinstance(network, Hierarchy) else ""
    return replace(found, tensors={f"{place}{n}": t for n, t in found.tensors.items()})
