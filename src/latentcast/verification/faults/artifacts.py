"""Bugs of what leaves a run: preprocessing that stays behind, weights that are others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcast.artifacts import public_ijepa, public_nepa, recordings
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.recordings import RecordingReader
from latentcast.batch import Inputs
from latentcast.config import JepaConfig, NepaConfig
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.signals import counts
from latentcast.signals.recording import select_leads
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.data import is_ecg
from latentcast.verification.observe.rehearsal import averages
from latentcast.verification.observe.twin import Subject

CLASSIC = "a classic"
Slip = tuple[Any, str, Callable[[Any], Any]]


def _slips(*slips: Slip) -> Callable[[], AbstractContextManager[None]]:
    """``owner.name`` becomes ``make(what it was)``, for each of them."""

    @contextmanager
    def inject() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, make in slips:
                stack.enter_context(replaced(owner, name, make))
            yield

    return inject


# What an encoder sees


def _raw(was: Any) -> Any:
    """Millivolts, or 0 to 1, as they are."""

    def inputs(self: Encoder, samples: Any) -> Inputs:
        made: Inputs = was(self, samples)
        return Inputs(_undone(self, made.values), made.valid)

    return inputs


def _undone(self: Encoder, values: Tensor) -> Tensor:
    """What it was before it was normalised."""
    told = self.config.input.normalisation
    assert told is not None
    shape = (-1, *(1,) * (values.ndim - 2))
    return values * torch.tensor(told.std).view(shape) + torch.tensor(told.mean).view(shape)


def _own_statistics(was: Any) -> Any:
    """Mean and deviation of what is embedded, in the place of those of training."""

    def inputs(self: Encoder, samples: Any) -> Inputs:
        made: Inputs = was(self, samples)
        axes = [0, *range(2, made.values.ndim)]
        mean = made.values.mean(axes, keepdim=True)
        return Inputs((made.values - mean) / made.values.std(axes, keepdim=True), made.valid)

    return inputs


def _stretched(was: Any) -> Any:
    """A short recording is stretched to the training length."""

    def of(self: RecordingReader, recording: Any) -> Any:
        held, length = was(self, recording), self.config.length
        if len(held) >= length:
            return held
        return held[np.arange(length) * len(held) // length]

    return of


def _unassessed(was: Any) -> Any:
    """Without a look for flat and saturated stretches."""

    def choose(recording: Any, leads: Any, *, mask_missing: bool) -> Any:
        return select_leads(recording, leads, mask_missing=mask_missing), ()

    return choose


def _by_position(was: Any) -> Any:
    def choose(recording: Any, leads: Any, *, mask_missing: bool) -> Any:
        if len(recording.leads) == len(leads):
            recording = replace(recording, leads=leads)
        return was(recording, leads, mask_missing=mask_missing)

    return choose


# Weights


def _student(was: Any) -> Any:
    return classmethod(lambda cls, run, role="teacher": was.__func__(cls, run, "student"))


def _default_student(was: Any) -> Any:
    return classmethod(lambda cls, run, role="student": was.__func__(cls, run, role))


def _not_loaded(was: Any) -> Any:
    """No name fits, and none is missed (``strict=False``)."""

    def of(cls: Any, run: Any, role: Any = "teacher") -> Any:
        loaded, fresh = was.__func__(cls, run, role), cls.random(run)
        state = {n: t.clone() for n, t in fresh.objective.state_dict().items()}
        loaded.objective.load_state_dict(state)
        return loaded

    return classmethod(of)


def _unchecked(was: Any) -> Any:
    def record(folder: Any) -> Any:
        return json.loads((folder / "state.json").read_text())

    return record


def _starts_over(was: Any) -> Any:
    """A checkpoint that cannot be read is passed over."""

    def of(cls: Any, run: Any, role: Any = "teacher") -> Any:
        try:
            return was.__func__(cls, run, role)
        except LatentcastError:
            return None

    return classmethod(of)


def _rounded(was: Any) -> Any:
    """Saved in half the bits."""

    def write(folder: Any, tensors: dict[str, Tensor], ranks: Any) -> None:
        was(folder, {n: t.bfloat16().float() for n, t in tensors.items()}, ranks)

    return write


# Public layouts


def _transposed(was: Any) -> Any:
    """Square matrices are written the other way round."""

    def out(*args: Any) -> Any:
        return {
            name: t.t() if (t.ndim == 2 and t.shape[0] == t.shape[1] and "proj" in name)
            or name.endswith("attention.output.dense.weight") else t
            for name, t in was(*args).items()
        }  # fmt: skip

    return out


def _exchanged(first: str, second: str) -> Callable[[Any], Any]:
    """Tensors under two names are exchanged."""

    def make(was: Any) -> Any:
        def out(*args: Any) -> Any:
            given = was(*args)
            return {
                name: given[name.replace(first, "?").replace(second, first).replace("?", second)]
                for name in given
            }

        return out

    return make


def _without(part: str) -> Callable[[Any], Any]:
    return lambda was: lambda *args: {n: t for n, t in was(*args).items() if part not in n}


def _nepa(subject: Subject) -> bool:
    return isinstance(subject.config.objective, NepaConfig)


def _ijepa(subject: Subject) -> bool:
    wanted, network = subject.config.objective, subject.config.encoder
    plain = not network.qk_norm and network.layer_scale is None
    return isinstance(wanted, JepaConfig) and not wanted.coarser and plain


def _scaled(subject: Subject) -> bool:
    return _nepa(subject) and subject.config.encoder.layer_scale is not None


FAULTS: tuple[Fault, ...] = (
    Fault("artifact.not-normalised", "embed leaves out the normalisation.",
          "specification 6, pain 1: the scaling function never called",
          _slips((Encoder, "_inputs", _raw)), ("artifact.same-tensor", "artifact.equal")),
    Fault("artifact.own-statistics", "embed normalises by the statistics of what it is given.",
          "specification, defect 12: train/serve skew",
          _slips((Encoder, "_inputs", _own_statistics)),
          ("artifact.same-tensor", "artifact.equal")),
    Fault("artifact.stretched", "A short recording is stretched to the training length.",
          "specification, defect 10", _slips((RecordingReader, "counts", _stretched)),
          ("artifact.short", "artifact.counts"), is_ecg),
    Fault("artifact.padded-with-zero", "A short recording is padded with 0 mV.",
          "specification, defect 14", _slips((recordings, "INVALID", lambda was: 0)),
          ("artifact.short",), is_ecg),
    Fault("artifact.first-window", "embed reads the beginning of a long recording only.", CLASSIC,
          _slips((recordings, "window_starts", lambda was: lambda length, window: [0])),
          ("artifact.embed",), is_ecg),
    Fault("artifact.layer-beside", "embed reads the layer before the one that is asked for.",
          CLASSIC, _slips((Encoder, "_layer", lambda was: lambda self, name: was(self, name) - 1)),
          ("artifact.embed",)),
    Fault("artifact.unassessed", "embed takes flat stretches for measured ones.", CLASSIC,
          _slips((counts, "choose_valid", _unassessed)), ("artifact.counts",), is_ecg),
    Fault("artifact.leads-by-position", "embed takes leads in the order in which they come.",
          "specification, defect 8", _slips((counts, "choose_valid", _by_position)),
          ("artifact.counts",), is_ecg),
    Fault("artifact.student-read", "The trained weights are read for the average.", CLASSIC,
          _slips((Encoder, "from_pretrained", _student)),
          ("artifact.teacher", "artifact.equal"), averages),
    Fault("artifact.student-by-default", "Without being asked the trained weights are read.",
          "transformers and timm convert I-JEPA's context encoder",
          _slips((Encoder, "from_pretrained", _default_student)), ("artifact.teacher",), averages),
    Fault("artifact.not-loaded", "Weights whose names do not fit are passed over.", CLASSIC,
          _slips((Encoder, "from_pretrained", _not_loaded)), ("artifact.equal",)),
    Fault("artifact.checksum-unchecked", "The checksums of a checkpoint are not looked at.",
          CLASSIC, _slips((checkpoint, "read_record", _unchecked)), ("artifact.damaged",)),
    Fault("artifact.starts-over", "A checkpoint that cannot be read is passed over.",
          "I-JEPA: a load error is swallowed (specification 1.9)",
          _slips((Encoder, "from_pretrained", _starts_over)), ("artifact.damaged",)),
    Fault("artifact.half-saved", "Weights are saved in bf16.", CLASSIC,
          _slips((checkpoint, "_write", _rounded)), ("artifact.written", "artifact.equal")),
    Fault("artifact.nepa-transposed", "Square matrices leave transposed.", CLASSIC,
          _slips((public_nepa, "to_public", _transposed)), ("artifact.public-nepa",), _nepa),
    Fault("artifact.nepa-q-for-k", "q and k are exchanged, out and in.", CLASSIC,
          _slips((public_nepa, "to_public", _exchanged("attention.query", "attention.key"))),
          ("artifact.public-nepa",), _nepa),
    Fault("artifact.nepa-without-scale", "LayerScale does not leave.", CLASSIC,
          _slips((public_nepa, "to_public", _without("layer_scale"))),
          ("artifact.public-nepa",), _scaled),
    Fault("artifact.ijepa-transposed", "Square matrices leave transposed.", CLASSIC,
          _slips((public_ijepa, "_out", _transposed)), ("artifact.public-ijepa",), _ijepa),
    Fault("artifact.ijepa-norms", "The two norms of a block are exchanged, out.", CLASSIC,
          _slips((public_ijepa, "_out", _exchanged("norm1", "norm2"))),
          ("artifact.public-ijepa",), _ijepa),
    Fault("artifact.ijepa-q-for-k", "q and k are exchanged on the way to transformers.", CLASSIC,
          _slips((public_ijepa, "to_transformers", _exchanged("attention.query", "attention.key"))),
          ("artifact.public-ijepa",), _ijepa),
)  # fmt: skip
