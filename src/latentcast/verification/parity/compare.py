"""Agreement with numbers of the public reference implementations.

A parity file is a ``safetensors`` file with random weights and inputs, what the reference
computed from them, and its configuration in the metadata. Three kinds are read here: NEPA's
*forward* (outputs, loss, gradients, classifier logits) and *trajectory* (the weights after several
optimizer steps), and I-JEPA's trajectory.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from latentcast.errors import LatentcastError
from latentcast.verification.parity import ijepa as parity_ijepa
from latentcast.verification.parity import nepa as parity_nepa
from latentcast.verification.parity.agreement import Agreement


def compare(file: Path) -> list[Agreement]:
    """All quantities of a parity file.

    Raises:
        LatentcastError: the file cannot be read or is not of the documented form.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise LatentcastError(f"{file}: cannot be read ({problem}); give a parity file") from None
    if "config" not in metadata or not any(name.startswith("weights.") for name in tensors):
        raise LatentcastError(
            f"{file}: has no 'config' in its metadata or no weights.*; it is not a parity file"
        )
    try:
        public = json.loads(metadata["config"])
        run = json.loads(metadata["trajectory"]) if "trajectory" in metadata else None
        if "num_hidden_layers" in public:
            if run is None:
                return parity_nepa.forward(tensors, public)
            return parity_nepa.trajectory(tensors, public, run)
        if "predictor_depth" in public and run is not None:
            return parity_ijepa.trajectory(tensors, public, run)
    except (KeyError, TypeError, ValueError, LatentcastError) as problem:
        kind = "" if isinstance(problem, LatentcastError) else f"{type(problem).__name__}: "
        raise LatentcastError(
            f"{file}: is not of the documented form ({kind}{problem}); "
            "write it again, or compare with a file of tests/parity"
        ) from problem
    raise LatentcastError(
        f"{file}: is neither a NEPA nor an I-JEPA parity file; check where it comes from"
    )
