"""An encoder of somebody else by what a user names: a callable, a text, a run or an export.

A callable returns tokens ``(B, N, D)`` or one vector a sample ``(B, D)``. Nothing is unpickled, and
TorchScript, whose loading runs the code in it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import Store
from latentcast.engine.device import AUTO
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import FeatureSource
from latentcast.evaluation.foreign.images import ForeignImages, of_images
from latentcast.evaluation.foreign.networks import OnnxFile, imported
from latentcast.evaluation.foreign.recordings import ForeignRecordings, of_recordings
from latentcast.files import sha256
from latentcast.pretrained.models import at_step, ships

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def foreign(
    name: str, target: Any, store: Store, device: str | torch.device = AUTO
) -> FeatureSource:
    """An encoder that a probe can read.

    Args:
        name: of its rows.
        target: a callable, a source of features, or a text
            ``WHAT[,sampling_rate=HZ][,leads=I+II][,length=SAMPLES][,unit=mV]``, of images
            ``WHAT[,size=PIXELS][,channels=3][,mean=0.5][,std=0.25]``, where WHAT is
            ``module:function``, an ``.onnx`` file, or a run or exported file of latentcast.
        store: that is read.
        device: of a run or exported file of latentcast.

    Raises:
        LatentcastError: there is no such thing, it cannot be read safely, or the store lacks what
            it reads.
    """
    if not isinstance(target, str | Path):
        return target if hasattr(target, "token_layers") else _over(name, target, {}, store)
    what, *options = str(target).split(",")
    reads = dict(option.partition("=")[::2] for option in options)
    path = at_step(what)
    if path.suffix in PICKLED:
        raise LatentcastError(
            f"{what}: a file of this kind runs code when it is loaded; name what reads "
            "the samples (module:function), or an .onnx file"
        )
    if path.suffix == ".onnx":
        encoder = _over(name, OnnxFile(path), reads, store)
        # Weights in a second file, which the first one locates, would change without its digest.
        apart = not path.is_file() or b"location" in path.read_bytes()
        return encoder if apart else replace(encoder, digest=sha256(path))
    if path.exists() or ships(path):
        if reads:
            raise LatentcastError(
                f"--encoder {name}: {what} carries what it reads; leave out {', '.join(reads)}"
            )
        ours = Encoder.from_pretrained(path, device=device)
        ours.name = name
        return ours
    return _over(name, imported(name, what), reads, store)


def _over(
    name: str, call: Callable[[Tensor], Any], reads: Mapping[str, str], store: Store
) -> ForeignRecordings | ForeignImages:
    """A network over what the store holds."""
    if store.modality == "image":
        return of_images(name, call, reads, store)
    return of_recordings(name, call, reads, store)
