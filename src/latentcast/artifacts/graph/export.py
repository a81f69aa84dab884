"""A graph from a run: made, compared with the library on recordings or images, and only then
written."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.graph.int8 import LEAST_COSINE, least_cosine, quantise, write_record
from latentcast.artifacts.graph.networks import EmbeddingGraph, PredictionGraph
from latentcast.artifacts.graph.record import KEY, GraphRecord
from latentcast.artifacts.graph.session import output_of, session_of
from latentcast.artifacts.weights import fingerprint
from latentcast.data.manifest import library_version
from latentcast.data.store import Store
from latentcast.errors import LatentcastError, missing_extra
from latentcast.files import apart, replacing
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import check_pooling
from latentcast.objectives.supervised import SupervisedConfig
from latentcast.places import GRAPHS
from latentcast.signals.recording import INVALID, Recording
from latentcast.signals.synthetic import synthetic_recording

LARGEST_DIFFERENCE = 1e-4
"""Relative to the largest value, between a graph and the network: beyond it nothing is written."""
COMPARED = 32
"""Recordings or images, as one batch and the first one alone; recordings as long as a window, half
as long, and half as long again."""
Samples = npt.NDArray[Any]
Cases = list[tuple[Samples, npt.NDArray[np.floating[Any]]]]
"""What a graph reads, and what the library makes of it."""


def export_graph(
    run: str | Path,
    file: str | Path,
    *,
    layer: str | None = None,
    pooling: str = "mean",
    data: Store | str | Path | None = None,
    int8: bool = False,
) -> GraphRecord:
    """Write a run as one file for onnxruntime (``.onnx``) or for ``torch.export.load`` (``.pt2``).

    Preprocessing is part of the graph; batch and length are free. An encoder gives embeddings, a
    run of ``latentcast finetune`` its probabilities.

    Args:
        run: anything that ``Encoder.from_pretrained`` reads.
        file: to write.
        layer: of an encoder; by default the one that ``embed`` reads.
        pooling: of an encoder, as of ``embed``.
        data: a store to compare on, such as that of the training; by default synthetic recordings
            or random images.
        int8: of an ``.onnx`` file, weights and matrix products in 8 bits; compared
            before and after; what it costs in a task, ``latentcast evaluate`` measures.

    Returns:
        what stands in the file, the largest difference among it.

    Raises:
        LatentcastError: another suffix; a run with filters; layer or pooling of a classifier; a
            package is missing; the network cannot be exported, or the graph differs from it; 8 bits
            for a ``.pt2`` file, or too few for the network; the file cannot be written.
    """
    file = Path(file)
    apart(file, run=run)
    if int8 and file.suffix == ".pt2":
        raise LatentcastError(f"{file}: 8 bits are for .onnx files; name it {file.stem}.onnx")
    if file.suffix not in GRAPHS:
        raise LatentcastError(
            f"{file}: graphs are {' or '.join(GRAPHS)} files; name it {file.stem}.onnx"
        )
    model, record = _model(run, layer, pooling)
    encoder = model.encoder if isinstance(model, Classifier) else model
    if filters := getattr(encoder.config.input, "filters", ()):
        kinds = ", ".join(one.kind for one in filters)
        raise LatentcastError(
            f"{file}: a graph does not hold the input.filters of the run ({kinds}); export its "
            f"weights instead, --out {file.with_suffix('.safetensors').name}, which do"
        )
    graph = (
        PredictionGraph(model) if isinstance(model, Classifier)
        else EmbeddingGraph(model, record.layer, check_pooling(pooling, causal=model.causal))
    )  # fmt: skip
    cases, source = _cases(model, record, _store(data, encoder))
    with _quiet(), evaluating(graph):
        made = _traced(graph, cases[0][0])
        program = _onnx(made) if file.suffix == ".onnx" else made
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            _write(program, draft, record)
            worst = _difference(draft, cases)
            compared = f"{len(cases[0][0])} {source}"
            if not worst <= LARGEST_DIFFERENCE:
                raise LatentcastError(
                    f"the graph differs by {worst:.2g} from the library on {compared}, more than "
                    f"{LARGEST_DIFFERENCE:g}; nothing was written, use the model with torch "
                    "(Encoder.from_pretrained)"
                )
            record = replace(record, difference=worst, compared=compared)
            _write(program, draft, record)
            if int8:
                examples = None if data is None else cases[0][0]
                record = _in_8_bits(draft, record, examples, cases)
    except OSError as problem:
        raise LatentcastError(
            f"{file}: cannot be written ({problem}); free space or name another file"
        ) from None
    return record


def _model(
    run: str | Path, layer: str | None, pooling: str
) -> tuple[Encoder | Classifier, GraphRecord]:
    encoder = Encoder.from_pretrained(run, device="cpu")
    if not isinstance(encoder.config.objective, SupervisedConfig) or encoder.alone:
        layer = layer or encoder.layer
        return encoder, GraphRecord(
            **_about(encoder), output="embedding", layer=layer, pooling=pooling
        )
    if layer is not None or pooling != "mean":
        raise LatentcastError(
            f"{run}: was fine-tuned and gives probabilities; leave out --layer and --pooling"
        )
    model = Classifier.from_pretrained(run, device="cpu")
    thresholds = tuple(None if np.isnan(t) else t for t in model.choice.thresholds)
    about = _about(model.encoder)
    return model, GraphRecord(
        **about, output="prediction", names=model.names, thresholds=thresholds
    )


def _about(encoder: Encoder) -> dict[str, Any]:
    """What a record has of any encoder."""
    about: dict[str, Any] = {
        "modality": encoder.modality, "weights": encoder.weights, "version": library_version(),
        "sha256": fingerprint(encoder.config, encoder.network),
    }  # fmt: skip
    if encoder.modality == "image":
        config = encoder.config.input
        return about | {"size": (*config.size, config.channels)}
    signal = {name: getattr(encoder, name) for name in ("leads", "sampling_rate", "scale")}
    return about | signal | {"length": encoder.length}


def _store(data: Store | str | Path | None, encoder: Encoder) -> Store | None:
    if data is None:
        return None
    store = data if isinstance(data, Store) else Store.open(data)
    store.require(encoder.config.input.kind)
    return store


def _cases(
    model: Encoder | Classifier, record: GraphRecord, store: Store | None
) -> tuple[Cases, str]:
    """What the graph is compared on, largest first, and where it is from."""

    def library(several: Any) -> npt.NDArray[np.floating[Any]]:
        if isinstance(model, Classifier):
            return model.predict(several).values
        return model.embed(several, record.layer, record.pooling)

    if record.modality == "image":
        images, source = _images(record, store)
        return [(images, library(images)), (images[:1], library(images[:1]))], source
    encoder = model.encoder if isinstance(model, Classifier) else model
    recordings, source = _recordings(record, store)
    cases: Cases = []
    for length in (record.length * 3 // 2, record.length, record.length // 2):
        cut = [
            replace(each, signal=each.signal[:, :length], valid=each.valid[:, :length])
            for each in recordings
        ]
        counts = [encoder.counts(each) for each in cut]
        pairs = [(c, each) for c, each in zip(counts, cut, strict=True) if len(c) == len(counts[0])]
        together = np.stack([c for c, _ in pairs])
        millivolts = together.astype(np.float32) * np.float32(record.scale)
        signal = np.where(together == INVALID, np.float32(np.nan), millivolts)
        signal = np.ascontiguousarray(signal.transpose(0, 2, 1))
        expected = library([each for _, each in pairs])
        cases += [(signal, expected), (signal[:1], expected[:1])]
    return cases, source


def _images(record: GraphRecord, store: Store | None) -> tuple[Samples, str]:
    if store is not None:
        return store.take(np.arange(min(COMPARED, len(store)))), f"images of {store.path.name}"
    shape = (COMPARED, *record.size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), "random images"


def _recordings(record: GraphRecord, store: Store | None) -> tuple[list[Recording], str]:
    if store is not None:
        rows = range(min(COMPARED, len(store)))
        return [store.recording(row) for row in rows], f"recordings of {store.path.name}"
    rate = record.sampling_rate
    made = [
        synthetic_recording(60 + 2 * n, rate, 1.5 * record.length / rate, seed=n)
        for n in range(COMPARED)
    ]
    return made, "synthetic recordings"


def _traced(graph: nn.Module, samples: Samples) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"samples": {0: dynamic, 2: dynamic} if samples.dtype == np.float32 else {0: dynamic}}
    try:
        return torch.export.export(
            graph, (torch.from_numpy(samples[:3]),), dynamic_shapes=shapes, strict=False
        )
    except Exception as problem:  # of torch, which has many
        raise LatentcastError(
            f"the network cannot be made a graph ({str(problem).splitlines()[0]}); use it with "
            "torch (Encoder.from_pretrained)"
        ) from problem


def _onnx(made: torch.export.ExportedProgram) -> Any:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            raise missing_extra(package, "onnx", "writing an .onnx file") from error
    try:
        return torch.onnx.export(
            made, dynamo=True, verbose=False, input_names=["samples"], output_names=["output"]
        )
    except Exception as problem:  # of torch.onnx, onnxscript and onnx
        cause: BaseException = problem
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise LatentcastError(
            f"the network has no ONNX form ({str(cause).splitlines()[0]}); write a .pt2 file"
        ) from problem


def _write(program: Any, file: Path, record: GraphRecord) -> None:
    if isinstance(program, torch.export.ExportedProgram):
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={KEY: record.to_json()})
        file.write_bytes(content.getvalue())
        return
    program.model.metadata_props[KEY] = record.to_json()
    program.save(str(file))


def _in_8_bits(
    file: Path, record: GraphRecord, examples: Samples | None, cases: Cases
) -> GraphRecord:
    """Quantise a written graph in its place."""
    exact = _call(file)
    with replacing(file) as draft:
        quantise(file, draft, examples)
        rounded = _call(draft)
        worst, cosine = _difference(draft, cases), 1.0
        for samples, _ in cases:
            batch = torch.from_numpy(samples)
            cosine = min(cosine, least_cosine(rounded(batch), exact(batch)))
        if cosine < LEAST_COSINE:
            raise LatentcastError(
                f"in 8 bits an output is {cosine:.3f} alike to that of float32 (cosine), less than "
                f"{LEAST_COSINE:g}; nothing was written, leave out --int8"
            )
        record = replace(record, bits=8, difference=worst, cosine=cosine)
        write_record(draft, record)
    return record


def _difference(file: Path, cases: Cases) -> float:
    """The largest one, relative to the largest value; infinite where shapes or NaN differ."""
    call, worst = _call(file), 0.0
    for samples, expected in cases:
        with torch.no_grad():
            found = np.asarray(call(torch.from_numpy(samples)))
        some = np.isfinite(expected)
        if found.shape != expected.shape or (np.isfinite(found) != some).any():
            return np.inf
        scale = np.abs(expected[some]).max(initial=1.0)
        worst = max(worst, float(np.abs(found[some] - expected[some]).max(initial=0.0) / scale))
    return worst


def _call(file: Path) -> Any:
    content = file.read_bytes()
    if content[:2] == b"PK":  # a zip, as .pt2 files are
        program = torch.export.load(io.BytesIO(content))
        # The guards are those of the example: a batch of one would be refused.
        return program.module(check_guards=False)
    session = session_of(file)
    return lambda batch: output_of(session, batch.numpy())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it could use, and on its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
