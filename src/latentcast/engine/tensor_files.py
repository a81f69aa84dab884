"""Named tensors as safetensors, a file for each rank, by ``torch.distributed.checkpoint``.

Imported by who saves or loads a checkpoint, when it does: that package takes as long to import as
torch itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from latentcast.engine.ranks import Ranks


def write(folder: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Write each rank's part of them.

    Raises:
        OSError: on one of the ranks.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _on_one_rank_or_more():
        save(plain, storage_writer=writer, no_dist=ranks.size == 1)


def fill(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, whole or in shards, in place; every rank reads its own part.

    Raises:
        OSError, ValueError, LookupError: on one of the ranks.
    """
    reader = HuggingFaceStorageReader(str(folder))
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    with _on_one_rank_or_more():
        load(tensors, storage_reader=reader, no_dist=alone)


def described(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Sizes and types by name.

    Raises:
        OSError, ValueError, LookupError: they cannot be read.
    """
    with _on_one_rank_or_more():
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    found = metadata.state_dict_metadata
    return {
        name: value for name, value in found.items() if isinstance(value, TensorStorageMetadata)
    }


@contextmanager
def _on_one_rank_or_more() -> Iterator[None]:
    """Without the remark that a single process saves as a single process; and the first failure
    of any rank in the place of the tracebacks of all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except CheckpointException as problem:
        raise OSError(str(next(iter(problem.failures.values()))[0])) from None
    except SafetensorError as problem:
        raise OSError(str(problem)) from None
