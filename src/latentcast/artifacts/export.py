"""One plain file for everybody else: all weights, and the configuration beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentcast.artifacts.choice import Choice, choice_of, chosen_checkpoint
from latentcast.artifacts.public import is_public, read_public, refuse_unnormalised
from latentcast.config import Config, validated
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.files import apart, check_digest, digested, parse_object, replacing
from latentcast.places import refuse_graph
from latentcast.pretrained.models import at_step, located

FORMAT = "2"
"""Files of format 1 are read as well; they have no digest, so damage to them goes unnoticed."""
ENCODER = "3"
"""Format of a file that holds an encoder alone, under the names it has by itself."""
SUFFIX = ".safetensors"
_ABOUT = {"format", "step", "config"}
AGAIN = "export the run again, or restore the file from a copy"


def export(
    run: str | Path, file: str | Path, fitted: Callable[[Config], Config] | None = None
) -> int:
    """Write a run's newest checkpoint, or another one, as one safetensors file; of a fine-tuned run
    the checkpoint that validation chose; of an exported model or one that ships its file.

    Student, teacher and predictors under the names they have in the objective; in the metadata
    ``config`` (JSON, with the normalisation of the training split), ``step``, ``format``, of a
    fine-tuned run ``classifier`` (its temperature and thresholds), and the ``digest`` of these and
    of all weights, which safetensors itself has none of.
    ``Encoder.from_pretrained(file)`` reads it, and so does anything that reads safetensors.

    Args:
        fitted: of public weights, the configuration with a normalisation; see
            :func:`latentcast.data.fit.fit_to_store`.

    Returns:
        optimizer steps of the weights.

    Raises:
        LatentcastError: no checkpoint, a damaged one, a file of another suffix, inside of the run
            or there already and no export, or it cannot be written.
    """
    file, run = Path(file), at_step(run)
    refuse_graph(run)
    apart(file, run=run.parent.parent if (run / "state.json").is_file() else run)
    if file.suffix != SUFFIX or file.is_dir():
        raise LatentcastError(
            f"{file}: what is written is one {SUFFIX} file; name it {file.resolve().stem}{SUFFIX}"
        )
    if file.is_file() and file.stat().st_size and not _is_export(file):
        raise LatentcastError(
            f"{file}: exists and was not written by latentcast export; name another file, or "
            "remove that one"
        )
    if (source := located(run)).is_file():
        if not is_public(source):
            return _copy(source, file)
        found = read_public(source)
        config = found.config if fitted is None else fitted(found.config)
        refuse_unnormalised(source, config)
        content = json.dumps(config.model_dump(mode="json"))
        _write(file, {"format": ENCODER, "step": "0", "config": content}, found.tensors)
        return 0
    newest = chosen_checkpoint(run)
    record = checkpoint.read_record(newest)
    tensors = checkpoint.read_tensors(newest, "model")
    about = {"format": FORMAT, "step": str(record["step"]), "config": json.dumps(record["config"])}
    if (choice := choice_of(newest)) is not None:
        about["classifier"] = json.dumps(choice.as_json())
    _write(file, about, tensors)
    return int(record["step"])


def export_encoder(
    network: nn.Module, config: Config, step: int, file: Path, half: bool = False
) -> None:
    """Write the averaged weights of an encoder alone: it embeds and can be trained on, and predicts
    no patches.

    Args:
        half: matrices and kernels as float16, half of the bytes; vectors (norms, biases, statistics
            of batch norms) stay float32. All are float32 again when they are read.

    Raises:
        LatentcastError: a weight is beyond float16, or the file cannot be written.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if half and tensor.ndim > 1 and tensor.is_floating_point():
            tensor = tensor.half()
            if not tensor.isfinite().all():
                raise LatentcastError(f"{name}: is beyond float16; store it in float32")
        tensors[name] = tensor.clone()  # one storage each
    content = json.dumps(config.model_dump(mode="json"))
    _write(file, {"format": ENCODER, "step": str(step), "config": content}, tensors)


def _copy(source: Path, file: Path) -> int:
    """Of an exported file, its content; the optimizer steps of its weights."""
    exported = read_export(source)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            draft.write_bytes(source.read_bytes())
    except OSError as problem:
        raise _unwritten(file, problem) from None
    return exported.step


def _write(file: Path, about: dict[str, str], tensors: dict[str, Tensor]) -> None:
    about = {**about, "digest": digested(_content(about, tensors))["digest"]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            save_file(tensors, draft, metadata=about)
    except (OSError, SafetensorError) as problem:
        raise _unwritten(file, problem) from None


def _unwritten(file: Path, problem: Exception) -> LatentcastError:
    return LatentcastError(
        f"{file}: cannot be written ({problem}); free space or name another file"
    )


class Exported(NamedTuple):
    """What an exported file holds; of an ``encoder_alone`` the tensors have the names in it."""

    tensors: dict[str, Tensor]
    config: Config
    step: int
    encoder_alone: bool


def _is_export(file: Path) -> bool:
    """Whether a file begins like one; it may be damaged, then it is to be written again."""
    with file.open("rb") as stream:
        head = stream.read(2**16)
    return all(f'"{name}"'.encode() in head for name in ("__metadata__", *_ABOUT))


def read_export(file: Path) -> Exported:
    """Weights, configuration and step of an exported file.

    Raises:
        LatentcastError: it is damaged, or was not written by :func:`export`.
    """
    about, tensors = _parts(file)
    if about.get("format") not in ("1", FORMAT, ENCODER) or not _ABOUT <= about.keys():
        raise LatentcastError(f"{file}: was not written by latentcast export; export the run")
    try:
        if about["format"] != "1":
            check_digest(_content(about, tensors))
        config, step = parse_object(about["config"]), int(about["step"])
    except ValueError as problem:
        raise LatentcastError(f"{file}: is damaged ({problem}); {AGAIN}") from None
    alone = about["format"] == ENCODER
    if alone:
        tensors = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    return Exported(tensors, validated(config, str(file)), step, alone)


def read_choice(file: Path) -> Choice | None:
    """What validation chose for the weights of an exported file; None where it has none, as of a
    pretraining or of an export by a version before this was kept.

    Raises:
        LatentcastError: the file is damaged.
    """
    text = _parts(file, weights=False)[0].get("classifier")
    return None if text is None else Choice.of(lambda: parse_object(text), file)


def _parts(file: Path, weights: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file."""
    try:
        with safe_open(file, framework="pt") as stream:
            names = stream.keys() if weights else ()
            return stream.metadata() or {}, {name: stream.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError, KeyError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); {AGAIN}") from None


def _content(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """What the digest is of: the metadata, and name, type, shape and sha256 of every tensor."""
    digests = {
        name: [str(tensor.dtype), list(tensor.shape), _sha256(tensor)]
        for name, tensor in tensors.items()
    }
    return {**about, "tensors": digests}


def _sha256(tensor: Tensor) -> str:
    octets = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(octets.data).hexdigest()
