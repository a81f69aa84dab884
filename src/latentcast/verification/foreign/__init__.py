"""Probes for code that is not ours: any PyTorch module, any training.

They need a model and a function, nothing of this library's: :func:`verify_ema` looks over the
shoulder of a training step, :func:`verify_nepa` disturbs a causal predictor, :func:`verify_masks`
draws from a sampler of masks, :func:`verify_readout` replaces patch after patch. Each returns a
:class:`Verified`; ``print`` it, or test its ``holds``. :func:`watched` needs no model: in it a
training is measured as it runs.
"""

from latentcast.verification.foreign.average import verify_ema
from latentcast.verification.foreign.masking import verify_masks
from latentcast.verification.foreign.prediction import verify_nepa
from latentcast.verification.foreign.readout import verify_readout
from latentcast.verification.foreign.verified import Verified
from latentcast.verification.foreign.watch import Watch, watched

__all__ = [
    "Verified", "Watch", "verify_ema", "verify_masks", "verify_nepa", "verify_readout", "watched",
]  # fmt: skip
