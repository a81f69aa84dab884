"""A graph in onnxruntime: files in, vectors or probabilities out, without torch in the process."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.graph.record import KEY, GraphRecord
from latentcast.errors import LatentcastError, missing_extra
from latentcast.signals.counts import choose_valid
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import Recording
from latentcast.signals.resample import resample

Floats = npt.NDArray[np.float32]


class Graph:
    """A file of ``latentcast export --out NAME.onnx``.

    Args:
        file: the graph.
        threads: of onnxruntime; 0 for all cores.

    Attributes:
        record: what the file is of.

    Raises:
        LatentcastError: onnxruntime is missing, or the file is no graph of latentcast.
    """

    def __init__(self, file: str | Path, threads: int = 0) -> None:
        self.file = Path(file)
        self._session = session_of(self.file, threads)
        record = record_of(self._session)
        if record is None:
            raise LatentcastError(f"{file}: was not written by latentcast export; write it again")
        self.record = record

    def __repr__(self) -> str:
        return f"Graph({self.file}, {self.record.output} of {self.record.weights})"

    def __call__(self, samples: npt.NDArray[Any]) -> Floats:
        """float32 millivolts ``(B, leads, samples)`` at the rate of the record, NaN where nothing
        was measured, or uint8 images ``(B, height, width, channels)``, to ``(B, features)``."""
        found: Floats = output_of(self._session, samples)
        return found

    def read(self, recording: Recording | str | Path) -> Floats:
        """One recording, or the path of one, to ``(features,)``.

        Quality-checked, brought to the leads and the rate of the graph, as ingest does it.

        Raises:
            LatentcastError: it cannot be used, or the graph reads images.
        """
        record = self.record
        if record.modality != "ecg":
            raise LatentcastError(f"{self.file}: reads images; give it arrays of them")
        if not isinstance(recording, Recording):
            recording = read_recording(recording)
        chosen, _ = choose_valid(recording, record.leads, mask_missing=False)
        chosen = resample(chosen, record.sampling_rate)
        signal = np.where(chosen.valid, chosen.signal, np.nan).astype(np.float32)
        return np.asarray(self(signal[np.newaxis])[0])


def record_of(session: Any) -> GraphRecord | None:
    """What the file of a session is of; None where it was not written by us."""
    try:
        return GraphRecord.of(session.get_modelmeta().custom_metadata_map.get(KEY, ""))
    except ValueError:
        return None


def output_of(session: Any, samples: npt.NDArray[Any]) -> Any:
    """The first output of a network for its only input."""
    name = session.get_inputs()[0].name
    return session.run(None, {name: np.ascontiguousarray(samples)})[0]


def session_of(file: Path, threads: int = 0) -> Any:
    """An onnxruntime session.

    Raises:
        LatentcastError: onnxruntime is missing, or it cannot read the file.
    """
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise missing_extra("onnxruntime", "onnx", "reading an .onnx file") from error
    options: dict[str, Any] = {"providers": ["CPUExecutionProvider"]}
    if threads:
        options["sess_options"] = runtime.SessionOptions()
        options["sess_options"].intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(file), **options)
    except Exception as problem:  # of the runtime, which has classes of its own
        raise LatentcastError(f"{file}: cannot be read ({problem}); export it again") from None
