"""The encoder a run leaves behind, with the preprocessing that training saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.artifacts.export import read_export
from latentcast.batch import Inputs
from latentcast.config import Config, EcgInput
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.objectives.base import Objective, Role
from latentcast.objectives.build import build

Samples = npt.NDArray[np.int16] | npt.NDArray[np.uint8]


class Encoder:
    """Frozen features, from exactly the tensor that training saw.

    :meth:`from_pretrained` gives an :class:`~latentcast.artifacts.ecg.EcgEncoder` or an
    :class:`~latentcast.artifacts.image.ImageEncoder`, by what the run was trained on; they add how
    a recording or an image is read.

    Args:
        config: of the run, with its normalisation filled in.
        objective: with its weights.
        preprocess: integers to what the network sees.
        role: ``teacher`` reads the averaged weights (what the original NEPA evaluates).
        name: how reports call it.
        step: optimizer steps the weights have seen.
    """

    def __init__(
        self,
        config: Config,
        objective: Objective,
        preprocess: Callable[[Tensor], Inputs],
        role: Role,
        name: str,
        step: int = 0,
    ) -> None:
        self.config, self.name, self.role, self.step = config, name, role, step
        self._objective, self._preprocess = objective.eval(), preprocess
        self._network = objective.encoder(role)

    @classmethod
    def from_pretrained(cls, run: str | Path, role: Role = "teacher") -> Self:
        """The newest checkpoint of a run folder, or a file that ``latentcast export`` wrote.

        Raises:
            LatentcastError: no such run, no checkpoint yet, a damaged one, or, asked of a
                subclass, a run on the other kind of data.
        """
        if Path(run).is_file():
            tensors, config, step = read_export(Path(run))
        else:
            newest, record, config = _newest(run)
            tensors, step = checkpoint.read_tensors(newest, "model"), record["step"]
        objective = build(config)
        objective.load_state_dict(tensors)
        return cls._reading(config, objective, role, "pretrained", step)

    @classmethod
    def random(cls, run: str | Path, seed: int | None = None) -> Self:
        """The same architecture and preprocessing at initialisation: the floor to beat.

        Without a seed it is the very network the run started from.
        """
        _, _, config = _newest(run)
        objective = build(config)
        if seed is not None:
            objective.initialise(seed)
        return cls._reading(config, objective, "student", "random-initialised", 0)

    @classmethod
    def _reading(
        cls, config: Config, objective: Objective, role: Role, name: str, step: int
    ) -> Self:
        """The subclass that reads what the run was trained on."""
        from latentcast.artifacts.ecg import EcgEncoder  # both derive from this class
        from latentcast.artifacts.image import ImageEncoder

        made: Encoder
        if isinstance(config.input, EcgInput):
            made = EcgEncoder(config, objective, role, name, step)
        else:
            made = ImageEncoder(config, objective, role, name, step)
        if not isinstance(made, cls):
            held = "recordings" if isinstance(made, EcgEncoder) else "images"
            raise LatentcastError(
                f"{config.recipe}: was trained on {held}; read it with {type(made).__name__}"
            )
        return made

    @property
    def weights(self) -> str:
        """Which weights these are: recipe, role and step."""
        return f"{self.config.recipe}, {self.role}, step {self.step}"

    @property
    def layer_names(self) -> tuple[str, ...]:
        """What can be read: embedding, blocks, final norm, coarser levels, fusion."""
        return self._network.layer_names

    @property
    def causal(self) -> bool:
        """Whether a token sees only what came before it."""
        return self.config.encoder.causal

    @torch.no_grad()
    def token_layers(self, samples: Samples) -> tuple[list[Tensor], Tensor]:
        """Patch tokens of every depth.

        Args:
            samples: integers as the store gives them, int16 ``(B, samples, leads)`` counts or
                uint8 ``(B, height, width, channels)``.

        Returns:
            for each of :attr:`layer_names` a float32 ``(B, N, width)``, and the validity of the
            tokens, bool ``(B, N)``. CLS is left out: under a causal mask it sees only itself. A
            coarser level gives every patch the vector of the cell it lies in.
        """
        inputs = self._inputs(samples)
        valid = None
        if inputs.valid is not None:
            valid = self._network.valid(inputs.valid)
        layers = [layer.float() for layer in self._network.read(inputs.values, valid)]
        if valid is None:
            valid = torch.ones(layers[0].shape[:2], dtype=torch.bool)
        return layers, valid

    def patch_errors(self, samples: Samples) -> npt.NDArray[np.float32]:
        """How badly each patch was predicted from what the objective shows of the others.

        NEPA predicts it from its past, a JEPA from everything outside a block around it.

        Args:
            samples: as :meth:`token_layers` takes them.

        Returns:
            ``1 − cos``, float32 ``(B, N)``, NaN where not valid.
        """
        errors = self._objective.patch_errors(self._inputs(samples), self.role)
        return errors.float().numpy()

    @property
    def predicted_from(self) -> str | None:
        """What :meth:`patch_errors` predicts a patch from; None for objectives without them."""
        return self._objective.predicted_from

    def _layer(self, name: str) -> int:
        if name not in self.layer_names:
            raise LatentcastError(f"{name}: is no layer; known: {', '.join(self.layer_names)}")
        return self.layer_names.index(name)

    def _inputs(self, samples: Samples) -> Inputs:
        return self._preprocess(torch.from_numpy(np.ascontiguousarray(samples)))


def _newest(run: str | Path) -> tuple[Path, dict[str, Any], Config]:
    newest = checkpoint.latest(Path(run) / "checkpoints")
    record = checkpoint.read_record(newest)
    # The checkpoint's own configuration: an edited config.yaml must not change what is read.
    return newest, record, checkpoint.config_of(newest, record)
