"""Bugs between a recording's file and what an encoder sees of it; images are in ``pixels``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentcast.batch import Batch, Inputs
from latentcast.data import convert, folds, ingest, statistics
from latentcast.data import store as stores
from latentcast.data.codecs import counts as codec
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.labels import Labels
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.data.writer import ShardWriter
from latentcast.evaluation import leaks
from latentcast.signals import counts, recording
from latentcast.signals.readers import arrays, ptbxl, wfdb
from latentcast.signals.recording import INVALID, Recording
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults import pixels
from latentcast.verification.observe.data import is_ecg
from latentcast.verification.observe.twin import Subject

CLASSIC = "a classic"
Inject = Callable[[], AbstractContextManager[None]]


def swapped(owner: Any, name: str, make: Callable[[Any], Any]) -> Inject:
    """Puts ``make(what it is)`` in the place of ``owner.name``."""
    return lambda: replaced(owner, name, make)


# Units and leads


def _header(**said: Any) -> Callable[[Any], Any]:
    """Every signal of a header says this."""

    def make(was: Any) -> Any:
        def to_millivolts(digital: Any, header: Any, factors: list[float]) -> Any:
            signals = tuple(replace(signal, **said) for signal in header.signals)
            return was(digital, replace(header, signals=signals), factors)

        return to_millivolts

    return make


def _by_position(was: Any) -> Any:
    """The first channel is I, the second II, and so on."""

    def select(held: Recording, leads: tuple[str, ...], *, mask_missing: bool) -> Recording:
        if len(held.leads) == len(leads):
            return replace(held, leads=leads)
        made: Recording = was(held, leads, mask_missing=mask_missing)
        return made

    return select


def _augmented_swapped(was: Any) -> Any:
    def select(held: Recording, leads: tuple[str, ...], *, mask_missing: bool) -> Recording:
        made: Recording = was(held, leads, mask_missing=mask_missing)
        order = [*range(4), 5, 4, *range(6, len(leads))]
        return replace(made, signal=made.signal[order], valid=made.valid[order])

    return select


# Resampling and time


def _interpolated(was: Any) -> Any:
    """Points of the line between samples, without a filter."""

    def resample(held: Recording, rate: float) -> Recording:
        count = round(held.samples * rate / held.sampling_rate)
        at = np.arange(count) * held.sampling_rate / rate
        own = np.arange(held.samples)
        signal = np.stack([np.interp(at, own, row) for row in held.signal]).astype(np.float32)
        return replace(held, signal=signal, valid=np.isfinite(signal), sampling_rate=rate)

    return resample


def _every_second(was: Any) -> Any:
    """A ratio that is no whole number, made one."""

    def resample(held: Recording, rate: float) -> Recording:
        step = int(held.sampling_rate // rate)
        return replace(
            held, signal=held.signal[:, ::step], valid=held.valid[:, ::step], sampling_rate=rate
        )

    return resample


def _truncated(was: Any) -> Any:
    def quantise(held: Recording, scale: float, unit: str = "mV") -> Any:
        rounded = was(held, scale, unit)
        cut = np.trunc(np.nan_to_num(held.signal) * np.float32(1 / scale)).astype(np.int16)
        return np.where(rounded == INVALID, rounded, cut)

    return quantise


# Crops


def _per_lead(was: Any) -> Any:
    """Each lead is cropped by itself."""

    def batch(self: Any, attempt: int) -> Batch:
        made: Batch = was(self, attempt)
        if not isinstance(self, Loader):
            return made
        rows, starts, length = self.request(made.ids.numpy())
        room = np.maximum(0, self.store.lengths[rows] - length)
        samples = made.samples.clone()
        for lead in range(1, samples.shape[-1]):
            own = (starts + 7 * lead) % (room + 1)
            samples[..., lead] = torch.from_numpy(self.store.take(rows, own, length))[..., lead]
        return Batch(samples, made.ids)

    return batch


def _anywhere(was: Any) -> Any:
    """A start is drawn from the whole record, also where the crop no longer fits."""

    def starts(self: Any, ids: Any, rows: Any) -> Any:
        room = np.maximum(1, self.store.lengths[rows] - self.length)
        return was(self, ids, rows) * self.store.lengths[rows] // room

    return starts


# Statistics and normalisation


def _sums(change: Callable[[Any, Any], tuple[Any, Any]]) -> Inject:
    """Statistics of ``change(counts, valid)``."""

    def make(was: Any) -> Any:
        return classmethod(lambda cls, given, valid: was.__func__(cls, *change(given, valid)))

    return swapped(statistics.ChannelSums, "of", make)


def _centred(given: Any, valid: Any) -> tuple[Any, Any]:
    held = np.where(valid, given, 0)
    mean = held.sum(1, keepdims=True) / np.maximum(1, valid.sum(1, keepdims=True))
    return (held - np.rint(mean)).astype(np.int16), valid


def _squared(was: Any) -> Any:
    def of(self: Any, scale: float) -> Any:
        told = was(self, scale)
        return told.model_copy(update={"std": tuple(s and s * s for s in told.std)})

    return of


def _reading(change: Callable[[EcgPreprocess, Tensor], Inputs]) -> Inject:
    """``EcgPreprocess`` does this instead."""
    return swapped(
        EcgPreprocess,
        "__call__",
        lambda was: lambda self, samples, draw=None: change(self, samples),
    )


def _floats(self: EcgPreprocess, samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Millivolts and validity ``(B, leads, samples)``, mean and std of each lead."""
    channels = samples.transpose(1, 2)
    valid = channels != INVALID
    return channels.float() * self.scale, valid, self.mean[:, None], self.std[:, None]


def _limited(self: EcgPreprocess, values: Tensor) -> Tensor:
    return values if self.clip is None else values.clamp(-self.clip, self.clip)


def _clip_first(self: EcgPreprocess, samples: Tensor) -> Inputs:
    volts, valid, mean, std = _floats(self, samples)
    return Inputs(torch.where(valid, (_limited(self, volts) - mean) / std, 0.0), valid)


def _all_valid(self: EcgPreprocess, samples: Tensor) -> Inputs:
    volts, valid, mean, std = _floats(self, samples)
    values = torch.where(valid, _limited(self, (volts - mean) / std), 0.0)
    return Inputs(values, torch.ones_like(valid))


def _marker_learned(self: EcgPreprocess, samples: Tensor) -> Inputs:
    volts, valid, mean, std = _floats(self, samples)
    return Inputs(_limited(self, (volts - mean) / std), valid)


def _unscaled(self: EcgPreprocess, samples: Tensor) -> Inputs:
    volts, valid, mean, std = _floats(self, samples)
    counted = (volts / self.scale - mean) / std
    return Inputs(torch.where(valid, _limited(self, counted), 0.0), valid)


def _reshaped(self: EcgPreprocess, samples: Tensor) -> Inputs:
    """Another shape is not another order of the axes."""
    length, leads = samples.shape[1:]
    turned = samples.reshape(len(samples), leads, length).transpose(1, 2)
    volts, valid, mean, std = _floats(self, turned)
    return Inputs(torch.where(valid, _limited(self, (volts - mean) / std), 0.0), valid)


def _each_alone(self: EcgPreprocess, samples: Tensor) -> Inputs:
    """Each crop by its own mean and deviation: how large an ECG is, is gone."""
    volts, valid, _, _ = _floats(self, samples)
    own = (volts - volts.mean(-1, keepdim=True)) / volts.std(-1, keepdim=True).clamp(min=1e-6)
    return Inputs(torch.where(valid, _limited(self, own), 0.0), valid)


# What was not measured


def _zeros_for_padding(was: Any) -> Any:
    def take(self: Any, *args: Any, **said: Any) -> Any:
        taken = was(self, *args, **said)
        taken[taken == INVALID] = 0
        return taken

    return take


def _zeros_for_gaps(was: Any) -> Any:
    def read(signal: Any, *args: Any) -> Any:
        return was(np.nan_to_num(signal), *args)

    return read


# Labels, patients, splits


def _known_only(was: Any) -> Any:
    """``if likelihood > 0``."""

    def indicator(self: Labels, codes: Any) -> Any:
        present = was(self, codes)
        for row, column in zip(*np.nonzero(present), strict=True):
            present[row, column] = self.of(int(row))[codes[column]] > 0
        return present

    return indicator


def _likely_only(was: Any) -> Any:
    return lambda text: {code: value for code, value in was(text).items() if value > 0}


def _annotated(change: Callable[[Any, Any], Any]) -> Inject:
    """A record is converted with ``change(ref, annotation)`` beside it."""

    def make(was: Any) -> Any:
        def converted(ref: Any, held: Any, given: Any, annotation: Any, findings: Any) -> Any:
            return was(ref, held, given, change(ref, annotation), findings)

        return converted

    return swapped(convert, "_converted", make)


def _unnamed(was: Any) -> Any:
    def converted(ref: Any, held: Recording, given: Any, said: Any, findings: Any) -> Any:
        said, held = replace(said, patient_id=None), replace(held, patient_id=None)
        return was(ref, held, given, said, findings)

    return converted


def _fold_of_record(ref: Any, annotation: Any) -> Any:
    if annotation.fold is not None:
        return annotation
    return replace(annotation, fold=folds.stable_fold(ref.record_id))


def _validation_too(was: Any) -> Any:
    """Folds 1 to 9 are trained on, as where nothing is chosen on a validation fold."""

    def rows(self: Any, split: str) -> Any:
        if split != "train":
            return was(self, split)
        return np.sort(np.concatenate([was(self, "train"), was(self, "validation")]))

    return rows


def _resamples(subject: Subject) -> bool:
    return is_ecg(subject) and find_spec("scipy") is not None


def _crops(subject: Subject) -> bool:
    return is_ecg(subject) and subject.config.train.random_crop


def _clips(subject: Subject) -> bool:
    return getattr(subject.config.input, "clip", None) is not None


def _everyone(was: Any) -> Any:
    return dict(was) | {"train": tuple(range(1, 11))}


def _microvolts(was: Any) -> Any:
    return lambda unit: 1.0 if unit.strip().lower() == "uv" else was(unit)


FAULTS: tuple[Fault, ...] = (
    Fault("data.microvolt-for-millivolt", "Microvolts are taken for millivolts.",
          "specification, pain 9", swapped(wfdb, "millivolts_per", _microvolts),
          ("data.units",), is_ecg),
    Fault("data.gain-ignored", "Every gain is taken for 1000 counts a unit.", CLASSIC,
          swapped(wfdb, "to_millivolts", _header(gain=1000.0)),
          ("data.units", "data.calibration"), is_ecg),
    Fault("data.baseline-ignored", "A count of 0 is taken for 0 mV.", CLASSIC,
          swapped(wfdb, "to_millivolts", _header(baseline=0)), ("data.calibration",), is_ecg),
    Fault("data.leads-by-position", "Leads are taken in the order of the file.",
          "specification, defect 8", swapped(counts, "select_leads", _by_position),
          ("data.lead-order", "data.avl-avf", "data.einthoven"), is_ecg),
    Fault("data.avl-avf-swapped", "aVL and aVF are exchanged.", "specification, defect 8",
          swapped(counts, "select_leads", _augmented_swapped),
          ("data.avl-avf", "data.lead-order", "data.einthoven"), is_ecg),
    Fault("data.avf-sign", "aVF is computed with the sign of I turned.", CLASSIC,
          swapped(recording, "DERIVED_FROM_I_AND_II", lambda was: was | {"aVF": (0.5, 1.0)}),
          ("data.derived-leads",), is_ecg),
    Fault("data.no-anti-alias", "Resampling by interpolation, without a filter.", CLASSIC,
          swapped(codec, "resample", _interpolated), ("data.anti-alias",), _resamples),
    Fault("data.wrong-ratio", "Resampling takes every second sample where 2.5 were asked for.",
          CLASSIC, swapped(codec, "resample", _every_second),
          ("data.rhythm", "data.resampled"), _resamples),
    Fault("data.time-reversed", "Recordings are stored backwards.", CLASSIC,
          swapped(codec, "quantise", lambda was: lambda *args: was(*args)[:, ::-1]),
          ("data.round-trip", "data.rhythm"), is_ecg),
    Fault("data.truncated", "Counts are cut off towards zero and not rounded.", CLASSIC,
          swapped(codec, "quantise", _truncated), ("data.round-trip",), is_ecg),
    Fault("data.crop-per-lead", "Each lead of a crop begins elsewhere.", CLASSIC,
          swapped(Loader, "batch", _per_lead), ("data.same-instant",), _crops),
    Fault("data.crop-outside", "A crop may begin where it no longer fits into its record.",
          CLASSIC, swapped(Loader, "starts", _anywhere), ("data.crop-inside",), _crops),
    Fault("data.crop-at-zero", "Every crop begins at the start of its record.", CLASSIC,
          swapped(Loader, "starts", lambda was: lambda self, ids, rows: np.zeros_like(rows)),
          ("data.crop-varies",), _crops),
    Fault("data.crop-reused", "A record has one crop, whenever it is met.", CLASSIC,
          swapped(Loader, "starts", lambda was: lambda self, ids, rows: was(self, rows, rows)),
          ("data.crop-varies",), _crops),
    Fault("data.crop-off-by-one", "What is read begins a sample after where it should.", CLASSIC,
          swapped(Store, "take", lambda was: lambda self, rows, starts=None, length=None, out=None:
                  was(self, rows, 1 + (np.zeros(len(rows), int) if starts is None else
                                       np.asarray(starts)), length, out)),
          ("data.preprocess", "data.round-trip"), is_ecg),
    Fault("data.statistics-of-all", "Statistics are taken over all splits.",
          "specification, defect 12", swapped(convert, "SPLITS", _everyone),
          ("data.statistics", "data.preprocess"), is_ecg),
    Fault("data.statistics-of-gaps", "The marker of what was not measured is in the statistics.",
          "specification, defect 11", _sums(lambda given, valid: (given, np.ones_like(valid))),
          ("data.statistics", "data.preprocess"), is_ecg),
    Fault("data.statistics-of-flat", "Flat and saturated stretches are in the statistics.",
          CLASSIC, _sums(lambda given, valid: (given, given != INVALID)),
          ("data.statistics",), is_ecg),
    Fault("data.statistics-per-record", "Deviations are taken from each record's own mean.",
          CLASSIC, _sums(_centred), ("data.statistics", "data.preprocess"), is_ecg),
    Fault("data.variance-for-deviation", "The variance is divided by, and not its root.", CLASSIC,
          swapped(statistics.ChannelSums, "of_leads", _squared),
          ("data.statistics", "data.preprocess"), is_ecg),
    Fault("data.clip-before", "Millivolts are clipped, before they are normalised.", CLASSIC,
          _reading(_clip_first), ("data.clip-after", "data.preprocess"), _clips),
    Fault("data.padding-valid", "Zeros of padding and gaps count as measured.",
          "specification, defect 14", _reading(_all_valid), ("data.padding", "data.invalid"),
          is_ecg),
    Fault("data.marker-learned", "The marker of what was not measured is taken for -32.768 mV.",
          CLASSIC, _reading(_marker_learned), ("data.invalid", "data.padding"), is_ecg),
    Fault("data.scale-ignored", "Counts are normalised by the statistics of millivolts.", CLASSIC,
          _reading(_unscaled), ("data.preprocess",), is_ecg),
    Fault("data.reshaped", "Time and leads are reshaped into each other and not transposed.",
          "specification, defect 13", _reading(_reshaped), ("data.preprocess",), is_ecg),
    Fault("data.normalised-alone", "Each crop is normalised by itself.", CLASSIC,
          _reading(_each_alone), ("data.preprocess",), is_ecg),
    Fault("data.padded-with-zero", "The store pads with 0 mV.", "specification, defect 14",
          swapped(Store, "take", _zeros_for_padding), ("data.padding", "data.invalid"), is_ecg),
    Fault("data.gaps-zeroed", "NaN is replaced by 0 when a file is read.",
          "specification, defect 11", swapped(arrays, "from_signal", _zeros_for_gaps),
          ("data.invalid", "data.statistics"), is_ecg),
    Fault("data.flat-kept", "An electrode that was off counts as measured.",
          "specification, defect 14",
          swapped(counts, "assess", lambda was: lambda held: (held, ())),
          ("data.invalid", "data.statistics"), is_ecg),
    Fault("data.likelihood-zero", "A label counts where its likelihood is above 0.",
          "specification, defect 5", swapped(Labels, "indicator", _known_only), ("data.labels",),
          is_ecg),
    Fault("data.labels-deleted", "Codes of likelihood 0 are dropped when the table is read.",
          "specification, defect 5", swapped(ptbxl, "parse_codes", _likely_only),
          ("data.labels",), is_ecg),
    Fault("data.split-by-record", "Records are split, and not patients.",
          "specification, defect 15", _annotated(_fold_of_record), ("data.patients",), is_ecg),
    Fault("data.patient-lost", "The patient of a record is not kept.", "specification, defect 15",
          swapped(convert, "_converted", _unnamed), ("data.patients",), is_ecg),
    Fault("data.folds-redrawn", "The source's folds are drawn anew.", CLASSIC,
          _annotated(lambda ref, said: replace(said, fold=None)), ("data.folds",), is_ecg),
    Fault("data.validation-trained-on", "The validation fold is trained on, too.",
          "specification 2a: folds 1 to 9", swapped(Store, "rows", _validation_too),
          ("data.splits",), is_ecg),
    Fault("data.quarantine-silent", "A bad record is left out and nobody is told.", CLASSIC,
          swapped(ShardWriter, "reject", lambda was: lambda self, rejected: None),
          ("data.quarantine",), is_ecg),
    Fault("data.sums-unchecked", "A file that contradicts its checksum is read.", CLASSIC,
          swapped(wfdb, "_check_sums", lambda was: lambda samples, signals: None),
          ("data.quarantine",), is_ecg),
    Fault("data.duplicates-kept", "The same recording is stored twice.", CLASSIC,
          swapped(ingest, "_unless_duplicate", lambda was: lambda held, names, digests:
                  names.setdefault(held.ref.record_id, held.ref.record_id) and held),
          ("data.quarantine",), is_ecg),
    Fault("data.copies-unseen", "Leaks are looked for by id, and not by waveform.",
          "specification, defect 15", swapped(leaks, "_fingerprints", lambda was: lambda *_: {}),
          ("data.leaks",), is_ecg),
    Fault("data.patients-unseen", "Leaks are not looked for among patients.",
          "specification, defect 15", swapped(leaks, "_named", lambda was: lambda ids: set()),
          ("data.leaks",), is_ecg),
    Fault("data.damage-unseen", "A store is trained on without a look at its checksums.", CLASSIC,
          swapped(stores, "verify_files", lambda was: lambda folder, promised: None),
          ("data.checksums",), is_ecg),
    *pixels.FAULTS,
)  # fmt: skip
