"""Probes for code that is not ours: any PyTorch module, any training.

They need a model and a function, nothing of this library's: :func:`verify_ema` looks over the
shoulder of a training step, :func:`verify_nepa` disturbs a causal predictor, :func:`verify_masks`
draws from a sampler of masks, :func:`verify_readout` replaces patch after patch,
:func:`verify_schedule` follows a schedule to its end, :func:`verify_initial` holds weights against
what is declared of them, :func:`verify_regularizer` gives a term against collapse what has
collapsed, :func:`verify_normalisation`, :func:`verify_labels` and :func:`verify_leads` look at
data. Each returns a :class:`Verified`; ``print`` it, or test its ``holds``. :func:`watched` needs
no model: in it a training is measured as it runs.
"""

from latentcast.verification.foreign.average import verify_ema
from latentcast.verification.foreign.data import (
    verify_labels,
    verify_leads,
    verify_normalisation,
)
from latentcast.verification.foreign.initial import verify_initial
from latentcast.verification.foreign.masking import verify_masks
from latentcast.verification.foreign.prediction import verify_nepa
from latentcast.verification.foreign.readout import verify_readout
from latentcast.verification.foreign.regularizer import verify_regularizer
from latentcast.verification.foreign.schedules import verify_schedule
from latentcast.verification.foreign.verified import Verified
from latentcast.verification.foreign.watch import Watch, watched

__all__ = [
    "Verified", "Watch", "verify_ema", "verify_initial", "verify_labels", "verify_leads",
    "verify_masks", "verify_nepa", "verify_normalisation", "verify_readout", "verify_regularizer",
    "verify_schedule", "watched",
]  # fmt: skip
