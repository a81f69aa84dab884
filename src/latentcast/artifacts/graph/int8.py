"""Weights and matrix products of an ONNX graph in 8 bits: a third of the size, on a CPU faster."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.graph.record import KEY, GraphRecord
from latentcast.errors import LatentcastError, missing_extra

LEAST_COSINE = 0.98
"""Of an output in 8 bits and in float32: below it nothing is written."""
BATCH = 16
Samples = npt.NDArray[Any]


def quantise(file: Path, target: Path, examples: Samples | None) -> None:
    """Write ``target``, the graph of ``file`` with weights of 8 bits for each output channel.

    Of convolutions the activations are quantised by their range over ``examples`` (onnxruntime has
    no fast convolution that measures it anew); of matrix products alone, anew for each batch, and
    no examples are read.

    Raises:
        LatentcastError: onnx is missing; a graph with convolutions, and no examples.
    """
    try:
        onnx = import_module("onnx")
        quantization = import_module("onnxruntime.quantization")
    except ImportError as error:
        raise missing_extra("onnx", "onnx", "a graph in 8 bits") from error
    integers = quantization.QuantType.QInt8
    with _quiet():
        if not any(node.op_type == "Conv" for node in onnx.load(str(file)).graph.node):
            quantization.quantize_dynamic(
                str(file), str(target), weight_type=integers, per_channel=True
            )
            return
        if examples is None:
            raise LatentcastError(
                "8 bits for convolutions need real recordings or images to measure their range; "
                "name a store with --data"
            )
        quantization.quantize_static(
            str(file), str(target), _Examples(examples), per_channel=True, weight_type=integers,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )  # fmt: skip


def least_cosine(found: Samples, expected: Samples) -> float:
    """Between rows ``(B, D)`` of the same name; 0 where one is not finite."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / np.maximum(norms, 1e-30)
    return float(np.nan_to_num(cosines, nan=0.0).min())


def write_record(file: Path, record: GraphRecord) -> None:
    """Replace what a written ``.onnx`` file says it is of."""
    onnx = import_module("onnx")
    model = onnx.load(str(file))
    (entry,) = (one for one in model.metadata_props if one.key == KEY)
    entry.value = record.to_json()
    file.write_bytes(model.SerializeToString())


class _Examples:
    """What the calibration of onnxruntime reads, a batch at a time."""

    def __init__(self, examples: Samples) -> None:
        self._batches = iter(
            [{"samples": examples[n : n + BATCH]} for n in range(0, len(examples), BATCH)]
        )

    def get_next(self) -> dict[str, Samples] | None:
        return next(self._batches, None)

    def __iter__(self) -> Iterator[dict[str, Samples]]:
        return self._batches


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks on tensors whose type the quantiser does not know, printed and logged."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
