"""latentcast: self-supervised pretraining by prediction in latent space, for ECG and images.

Everything that the command line does is one call::

    import latentcast as lc

    lc.ingest("my-ecgs", "store")
    lc.train("nepa-ecg-tiny", "store", "run")
    lc.probe("run", "store")
    lc.label(lc.open_store("store"), "labels.csv")
    lc.finetune("run", "store", "tuned")
    vectors = lc.Encoder.from_pretrained("run").embed("my-ecgs")

The names: ``ingest``, ``write_store``, ``open_store``, ``Store``; ``read_recording``,
``Recording``; ``recipe``, ``Config``, ``train``; ``probe``, ``evaluate``, ``verify``, ``Encoder``;
``label``, ``finetune``, ``Classifier``; ``LatentcastError``.
"""

import gc
from difflib import get_close_matches
from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentcast.artifacts.classifier import Classifier
    from latentcast.artifacts.encoder import Encoder
    from latentcast.config import Config
    from latentcast.data.arrays import write_store
    from latentcast.data.ingest import ingest
    from latentcast.data.store import Store, open_store
    from latentcast.data.tables.attached import label
    from latentcast.errors import LatentcastError
    from latentcast.recipes import recipe
    from latentcast.signals.readers import read_recording
    from latentcast.signals.recording import Recording
    from latentcast.verification.verify import verify
    from latentcast.workflows.evaluate import evaluate
    from latentcast.workflows.finetune import finetune
    from latentcast.workflows.probe import probe
    from latentcast.workflows.train import train

_HOMES = {
    "Classifier": "latentcast.artifacts.classifier",
    "Config": "latentcast.config",
    "Encoder": "latentcast.artifacts.encoder",
    "LatentcastError": "latentcast.errors",
    "Recording": "latentcast.signals.recording",
    "Store": "latentcast.data.store",
    "evaluate": "latentcast.workflows.evaluate",
    "finetune": "latentcast.workflows.finetune",
    "ingest": "latentcast.data.ingest",
    "label": "latentcast.data.tables.attached",
    "open_store": "latentcast.data.store",
    "probe": "latentcast.workflows.probe",
    "read_recording": "latentcast.signals.readers",
    "recipe": "latentcast.recipes",
    "train": "latentcast.workflows.train",
    "verify": "latentcast.verification.verify",
    "write_store": "latentcast.data.arrays",
}

__all__ = [
    "Classifier",
    "Config",
    "Encoder",
    "LatentcastError",
    "Recording",
    "Store",
    "evaluate",
    "finetune",
    "ingest",
    "label",
    "open_store",
    "probe",
    "read_recording",
    "recipe",
    "train",
    "verify",
    "write_store",
]


def __getattr__(name: str) -> object:
    # On first use, so that `latentcast --help` does not wait for torch.
    if name == "__version__":
        return metadata.version("latentcast")
    if name not in _HOMES:
        close = get_close_matches(name, _HOMES, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise AttributeError(f"module 'latentcast' has no attribute '{name}'{hint}")
    # Modules that are loaded are no garbage; looking for some among all that torch loads costs a
    # tenth of a second.
    collects = gc.isenabled()
    gc.disable()
    try:
        return getattr(import_module(_HOMES[name]), name)
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
