"""The encoder a run leaves behind, with the preprocessing that training saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from latentcast.artifacts.card import write_card
from latentcast.artifacts.export import export_encoder
from latentcast.artifacts.images import at_resolution
from latentcast.artifacts.readers import read_windows
from latentcast.artifacts.recordings import ArrayAxes, Counts, MissingLeads, RecordingReader
from latentcast.artifacts.rejections import Embedded, Errors, Rejections
from latentcast.artifacts.summary import summary, where_patches_are
from latentcast.artifacts.weights import filled, read_weights
from latentcast.artifacts.windows import averaged, blank, in_batches, samples_of
from latentcast.batch import Inputs
from latentcast.config import Config, EcgInput
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.engine.device import AUTO, device_of
from latentcast.errors import LatentcastError
from latentcast.nn.modes import evaluating
from latentcast.nn.pooling import BATCH, check_pooling, layers_of, pool_joined
from latentcast.notebook import table_html
from latentcast.objectives.base import Objective, Role
from latentcast.objectives.build import build
from latentcast.pretrained.models import WEIGHTS
from latentcast.signals.recording import Recording
from latentcast.signatures import checked

Samples = npt.NDArray[np.int16] | npt.NDArray[np.uint8]


class Encoder(nn.Module):
    """A trained network and its preprocessing: recordings or images in, features out.

    ``Encoder.from_pretrained(run)`` loads one, :meth:`embed` gives a vector for each recording or
    image, and calling the encoder gives the tokens of every layer, with gradients where it is not
    frozen. It moves between devices as any torch module does, and the preprocessing with it.

    Args:
        config: of the run, with its normalisation filled in.
        objective: with its weights; its encoder becomes :attr:`network`.
        role: ``teacher`` reads the averaged weights (what the original NEPA evaluates).
        name: how reports call it.
        step: optimizer steps of the weights.
        frozen: the parameters do not require a gradient.
        alone: the objective has the weights of its encoder and no others, so that it predicts
            nothing.

    Attributes:
        network: the encoder of the objective; ``parameters()`` and ``state_dict()`` are its own.
    """

    @checked
    def __init__(
        self,
        config: Config,
        objective: Objective,
        role: Role = "teacher",
        name: str = "pretrained",
        step: int = 0,
        frozen: bool = True,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.role, self.name, self.step = config, role, name, step
        self.alone = alone
        # In a tuple: the predictors and the other role are no part of what is used and tuned.
        self._objective = (objective.eval(),)
        self.network = objective.encoder(role).requires_grad_(not frozen)
        self._preprocess: Callable[[Tensor], Inputs] = (
            EcgPreprocess(config.input)
            if isinstance(config.input, EcgInput)
            else ImagePreprocess(config.input)
        )
        self.eval()

    @classmethod
    @checked
    def from_pretrained(
        cls,
        run: str | Path,
        role: Role = "teacher",
        device: str | torch.device = AUTO,
        frozen: bool = True,
    ) -> Self:
        """The newest checkpoint of a run folder, one checkpoint, what ``export`` or
        :meth:`save_pretrained` wrote, or a model that ships (``latentcast models``).

        Args:
            run: folder of the run, ``RUN@STEP``, the exported file or folder, ``latentcast/NAME``.
            role: ``teacher``, the averaged weights, or ``student``, the trained ones; without an
                average both are the trained ones.
            device: to compute on, such as ``"cuda:1"``; by default the GPU when there is one, else
                the CPU.
            frozen: the parameters do not require a gradient; with False they do, for fine-tuning.

        Raises:
            LatentcastError: no such run or device, no checkpoint yet, or a damaged one; the trained
                weights of a model that has the averaged ones alone.
        """
        weights = read_weights(run)
        objective, alone = filled(weights), weights.encoder_alone
        if alone and role != "teacher" and _has_average(objective):
            raise LatentcastError(f"{run}: holds the averaged weights alone; use role='teacher'")
        made = cls(weights.config, objective, role, "pretrained", weights.step, frozen, alone)
        return made.to(device_of(device))

    @checked
    def save_pretrained(self, folder: str | Path) -> None:
        """Write what :meth:`from_pretrained` reads again: ``model.safetensors`` (the network as it
        is now, float32), ``config.json`` and a card, ``README.md``.

        Raises:
            LatentcastError: role student where there is an average; the folder cannot be written.
        """
        if self.role != "teacher" and _has_average(self.objective):
            raise LatentcastError(
                f"{self.weights}: an exported encoder is the averaged one; load it with "
                "role='teacher'"
            )
        export_encoder(self.network, self.config, self.step, Path(folder) / WEIGHTS)
        write_card(Path(folder), self.config, self._summary["weights"], self._summary)

    @classmethod
    @checked
    def random(
        cls, run: str | Path, seed: int | None = None, device: str | torch.device = AUTO
    ) -> Self:
        """The same architecture and preprocessing at initialisation: the floor to beat.

        Without a seed it is what the run started from, unless that was ``train --init``.
        """
        config = read_weights(run).config
        objective = build(config)
        if seed is not None:
            objective.initialise(seed)
        return cls(config, objective, "student", "random-initialised").to(device_of(device))

    def __repr__(self) -> str:
        return f"Encoder({', '.join(self._summary.values())})"

    def _repr_html_(self) -> str:
        return table_html(f"Encoder {self.config.recipe}", self.description.items())

    @property
    def description(self) -> dict[str, str]:
        """What it reads, its size, layers and positions: name and text of each."""
        return self._summary | {"layer names": ", ".join(self.layer_names), "where": self.positions}

    @property
    def _summary(self) -> dict[str, str]:
        size = summary(self.config, self.network, self.layer_names)
        return {"weights": self.weights, **size, "device": f"on {self.device}"}

    @property
    def objective(self) -> Objective:
        """What the network was trained by; it holds the other role and the predictors."""
        return self._objective[0]

    @property
    def weights(self) -> str:
        """Which weights these are: recipe, role and step."""
        return f"{self.config.recipe}, {self.role}, step {self.step}"

    @property
    def modality(self) -> str:
        """``ecg`` or ``image``."""
        return self.config.input.kind

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.network.parameters()).device

    @property
    def layer_names(self) -> tuple[str, ...]:
        """What can be read: embedding, blocks, final norm, coarser levels, fusion."""
        return self.network.layer_names

    @property
    def layer(self) -> str:
        """What is read by default: the norm after the last block, else the last layer."""
        return "norm" if "norm" in self.layer_names else self.layer_names[-1]

    @property
    def causal(self) -> bool:
        """Whether a token sees only what came before it."""
        return self.config.encoder.causal

    @property
    def leads(self) -> tuple[str, ...]:
        """Lead names, in the order of the weights."""
        return self._recordings().leads

    @property
    def scale(self) -> float:
        """Millivolts for one integer count."""
        return self._recordings().scale

    @property
    def sampling_rate(self) -> float:
        """Hz."""
        return self._recordings().sampling_rate

    @property
    def length(self) -> int:
        """Samples of a training crop."""
        return self._recordings().length

    @property
    def patch_seconds(self) -> float:
        """Seconds in a patch."""
        return self.config.encoder.patch / self.sampling_rate

    @property
    def positions(self) -> str:
        """Where patches are in a window or image of another size than training saw."""
        return where_patches_are(self.config)

    def forward(self, samples: Tensor, valid: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Patch tokens of every layer, with gradients unless the encoder is frozen.

        Args:
            samples: integers as a store gives them, int16 ``(B, samples, leads)`` counts or uint8
                ``(B, height, width, channels)``; or floats, already normalised,
                ``(B, channels, *size)``. On any device.
            valid: of floats, bool of the same shape, what was measured (all); the rest reads 0.

        Returns:
            for each of :attr:`layer_names` a float32 ``(B, k N, width)``, ``k`` tokens to a patch
            (:meth:`~latentcast.nn.base.Readable.read`), and the validity of patches ``(B, N)``. CLS
            is left out: under a causal mask it sees only itself. A coarser level gives every patch
            the vector of the cell it lies in.
        """
        if samples.is_floating_point():
            measured = None if valid is None else valid.to(self.device)
            floats = samples.to(self.device)
            inputs = Inputs(floats if measured is None else floats.where(measured, 0.0), measured)
        else:
            inputs = self.inputs(samples)
        values = inputs.values.to(next(self.network.parameters()).dtype)
        tokens = None if inputs.valid is None else self.network.valid(inputs.valid)
        layers = [layer.float() for layer in self.network.read(values, tokens)]
        if tokens is None:
            tokens = torch.ones(layers[-1].shape[:2], dtype=torch.bool, device=values.device)
        return layers, tokens

    @torch.no_grad()
    def token_layers(self, samples: Samples) -> tuple[list[Tensor], Tensor]:
        """Calling the encoder with a store's integers as an array, without gradients."""
        layers: tuple[list[Tensor], Tensor] = self(_tensor(samples))
        return layers

    @overload
    def embed(self, x: Any, *read: Any, errors: Literal["skip"], **how: Any) -> Embedded: ...

    @overload
    def embed(
        self, x: Any, *read: Any, errors: Literal["refuse"] = "refuse", **how: Any
    ) -> npt.NDArray[np.float32]: ...

    @checked  # type: ignore[misc]  # the overloads name only what decides the result
    def embed(
        self,
        x: Any,
        layer: str | None = None,
        pooling: str = "mean",
        batch_size: int = BATCH,
        *,
        rows: npt.ArrayLike | None = None,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        layout: str = "records,leads,samples",
        rename: Mapping[str, str] | None = None,
        resample: bool = False,
        window_seconds: float | None = None,
        size: int | None = None,
        errors: Errors = "refuse",
        missing_leads: MissingLeads = "refuse",
    ) -> npt.NDArray[np.float32] | Embedded:
        """One vector a recording or image, float32 ``(n, features)``: what the probe reads of it.

        A recording is quality-checked and brought to counts as ingest does it, read through windows
        of :attr:`length` (padded if shorter), pooled over valid tokens, averaged over the windows.

        Args:
            x: what ingest accepts, one or many. Recordings: a
                :class:`~latentcast.signals.recording.Recording`, the path of a record, of a folder
                of records or of an array file, an array ``(records, leads, samples)`` or
                ``(leads, samples)`` with ``sampling_rate``, ``leads`` and ``unit``. Images: uint8
                arrays or tensors, one ``(height, width, channels)`` or grey ``(height, width)``, or
                many ``(n, height, width, channels)``, of any size, PIL images, paths of images,
                folders and data sets; each is brought to the encoder's size as ingest does it, with
                a warning where it was smaller. Both: a store, its path, or a list of all these.
            layer: one of :attr:`layer_names`, or ``joined``, all of them; None, :attr:`layer`.
            pooling: mean, std, max, mean+std, mean+std+max or last.
            batch_size: windows or images a forward pass; the vectors do not depend on it.
            rows: of a store; all by default.
            sampling_rate: of arrays and of files that have none (tables of leads), Hz.
            leads: of arrays, the name of each channel.
            unit: of arrays and of files that have none, V, mV, uV or nV.
            layout: of arrays, ``records,leads,samples`` or ``records,samples,leads``.
            rename: of files, leads by what they are called there, as ``{"ECG1": "II"}``.
            resample: bring recordings at another rate to the encoder's, as ``ingest`` with ``fs``.
            window_seconds: of recordings, what is read at a time instead of the training length;
                :attr:`positions` says where patches are then.
            size: of images, pixels a side to read them at instead of those of the training: a
                multiple of the patch. Positions are interpolated, with a warning.
            errors: with ``skip`` records that cannot be read are left out, and the result is an
                :class:`~latentcast.artifacts.rejections.Embedded`: the vectors, the ids of their
                records, and the reasons of the others. By default one of them refuses all.
            missing_leads: with ``mean`` leads that a recording lacks are read at their mean of the
                training data. III, aVR, aVL and aVF follow from I and II. What was done is printed.

        Raises:
            LatentcastError: an unknown layer or pooling; a recording at another rate, in another
                unit than it is given with, normalised before, without a lead that cannot be derived
                or without a valid token; an image of other channels; something that is neither.
        """
        read = layers_of(self.layer if layer is None else layer, self.layer_names)
        how = check_pooling(pooling, causal=self.causal)
        if batch_size < 1:
            raise LatentcastError(f"batch_size {batch_size}: must be at least 1")
        axes = ArrayAxes(sampling_rate, leads, unit, layout, rename)
        length = None
        if window_seconds is not None:
            rate, patch = self.sampling_rate, self.patch_seconds
            length = samples_of(window_seconds, rate, patch, self.network)
        names: list[str] = []
        owners, vectors, measured = [], [], []
        rejections = Rejections(errors)
        resolution = at_resolution(self.config.input, self.network, size)
        with torch.no_grad(), evaluating(self), resolution as (config, prepare):
            own = self.network, config, self.config.recipe
            samples = read_windows(x, rows, axes, resample, length, rejections, *own, missing_leads)
            for owner, windows in in_batches(samples, names, batch_size):
                layers, valid = self(prepare(_tensor(windows)))
                owners.append(owner)
                measured.append(valid.any(dim=1).cpu().numpy())
                vectors.append(pool_joined(layers[read], valid, how).cpu().numpy())
            rejected = rejections.check(len(names))
            if not names:  # one vector of zeros, for its length
                layers, valid = self(blank(self.config.input))
                owners, measured = [np.zeros(1, np.int64)], [np.zeros(1, np.bool_)]
                vectors = [pool_joined(layers[read], valid, how).cpu().numpy()]
        means = averaged(
            names, np.concatenate(owners), np.concatenate(vectors), np.concatenate(measured)
        )
        if not np.isfinite(means).all():
            raise LatentcastError(
                f"{self.weights}: features are not finite; the run has diverged, use an earlier "
                "checkpoint (RUN/checkpoints/step-N)"
            )
        return means if errors == "refuse" else Embedded(tuple(names), means, rejected)

    @checked
    def counts(self, recording: Recording, resample: bool = False) -> Counts:
        """A recording as the store would hold it: int16 ``(samples, leads)``, in our lead order.

        Raises:
            LatentcastError: another sampling rate (without ``resample``), a missing lead, or an
                amplitude beyond int16.
        """
        reader = RecordingReader(self._recordings(), ArrayAxes(), resample)
        return reader.counts(recording)

    @torch.no_grad()
    def patch_errors(self, samples: Samples) -> npt.NDArray[np.float32]:
        """How badly each patch was predicted from what the objective shows of the others.

        NEPA predicts it from its past, a JEPA from everything outside a block around it.

        Args:
            samples: as :meth:`token_layers` takes them.

        Returns:
            ``1 − cos``, float32 ``(B, N)``, NaN where not valid.

        Raises:
            LatentcastError: the objective predicts no patches, or its predictor was left out.
        """
        if self.alone:
            raise LatentcastError(
                f"{self.weights}: is an encoder alone, without the predictor that patch errors "
                "need; read its features instead (Encoder.embed)"
            )
        patches = self.objective.patch_errors(self.inputs(_tensor(samples)), self.role)
        return patches.float().cpu().numpy()

    def inputs(self, samples: Tensor) -> Inputs:
        """A store's integers, as :meth:`forward` takes them, to what the network reads."""
        return self._preprocess(samples.to(self.device))

    @checked
    def windows(
        self,
        x: Any,
        *,
        rows: npt.ArrayLike | None = None,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
        layout: str = "records,leads,samples",
        rename: Mapping[str, str] | None = None,
        resample: bool = False,
        missing_leads: MissingLeads = "refuse",
        rejections: Rejections | None = None,
    ) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """What :meth:`embed` reads: the name of each recording or image, and its windows as
        integers, int16 ``(windows, samples, leads)`` or uint8 ``(1, height, width, channels)``."""
        axes = ArrayAxes(sampling_rate, leads, unit, layout, rename)
        kept = rejections or Rejections()
        own = self.network, self.config.input, self.config.recipe
        return read_windows(x, rows, axes, resample, None, kept, *own, missing_leads)

    @property
    def predicted_from(self) -> str | None:
        """What :meth:`patch_errors` predicts a patch from; None for objectives without them."""
        return None if self.alone else self.objective.predicted_from

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What moves or casts the network does the same to the predictors.
        self.objective._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _recordings(self) -> EcgInput:
        if not isinstance(self.config.input, EcgInput):
            raise LatentcastError(
                f"{self.config.recipe}: was trained on images, which have no leads and no rate"
            )
        return self.config.input


def _has_average(objective: Objective) -> bool:
    return objective.encoder("student") is not objective.encoder("teacher")


def _tensor(samples: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples))
