"""latentcast: self-supervised pretraining by prediction in latent space, for ECG and images."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentcast.artifacts.encoder import Encoder
    from latentcast.config import Config
    from latentcast.data.ingest import ingest
    from latentcast.data.store import Store
    from latentcast.errors import LatentcastError
    from latentcast.recipes import recipe
    from latentcast.signals.readers import read_recording
    from latentcast.signals.recording import Recording
    from latentcast.workflows.train import pretrain

_HOMES = {
    "Config": "latentcast.config",
    "Encoder": "latentcast.artifacts.encoder",
    "LatentcastError": "latentcast.errors",
    "Recording": "latentcast.signals.recording",
    "Store": "latentcast.data.store",
    "ingest": "latentcast.data.ingest",
    "pretrain": "latentcast.workflows.train",
    "read_recording": "latentcast.signals.readers",
    "recipe": "latentcast.recipes",
}

__all__ = [
    "Config",
    "Encoder",
    "LatentcastError",
    "Recording",
    "Store",
    "ingest",
    "pretrain",
    "read_recording",
    "recipe",
]


def __getattr__(name: str) -> object:
    # On first use, so that `latentcast --help` does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'latentcast' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
