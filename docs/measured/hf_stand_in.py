"""What the NEPA models import of transformers 4.56, so that their forward pass runs without it.

Its initialisation walks over the modules as ``PreTrainedModel.post_init`` does, each once, by the
nearest model above it; attention is PyTorch's own, as under ``attn_implementation="sdpa"``.
"""

import importlib
import json
import logging
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypedDict, Unpack

from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class PretrainedConfig:
    _attn_implementation, chunk_size_feed_forward = "sdpa", 0
    output_attentions = output_hidden_states = False

    def __init__(self, num_labels=2, **keys):
        self.__dict__.update(keys, num_labels=num_labels)


class ModelOutput:
    pass


@dataclass
class Outputs(ModelOutput):
    last_hidden_state: Any = None
    hidden_states: Any = None
    attentions: Any = None
    loss: Any = field(default=None, kw_only=True)
    logits: Any = field(default=None, kw_only=True)


class PreTrainedModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.drawn = config, set()

    def post_init(self):
        self._draw(self)

    def _draw(self, module):
        own = module if isinstance(module, PreTrainedModel) else self
        for child in module.children():
            own._draw(child)
        if not getattr(module, "is_drawn", False):
            own._init_weights(module)
            module.is_drawn = True

    def get_head_mask(self, mask, layers):
        return [None] * layers


class TransformersKwargs(TypedDict, total=False):
    pass


def sdpa(module, query, key, value, mask, dropout=0.0, scaling=None, is_causal=None, **rest):
    out = scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, scale=scaling)
    return out.transpose(1, 2), None


def unchanged(function=None, **rest):
    return function or (lambda other: other)


def names_outside(model, layers):
    """Of the parameters that lie in no layer of these types."""
    inside = {f"{name}.{own}" for name, part in model.named_modules()
              if isinstance(part, tuple(layers)) for own, _ in part.named_parameters()}  # fmt: skip
    return [name for name, _ in model.named_parameters() if name not in inside]


PARTS = {
    "activations": {"ACT2FN": {"gelu": nn.GELU(), "silu": nn.SiLU()}},
    "modeling_layers": {"GradientCheckpointingLayer": nn.Module},
    "modeling_outputs": {"BaseModelOutput": Outputs, "ImageClassifierOutput": Outputs,
                         "ModelOutput": ModelOutput},
    "modeling_utils": {"ALL_ATTENTION_FUNCTIONS": {"sdpa": sdpa},
                       "PreTrainedModel": PreTrainedModel},
    "processing_utils": {"Unpack": Unpack},
    "pytorch_utils": {"find_pruneable_heads_and_indices": None, "prune_linear_layer": None},
    "utils": {"TransformersKwargs": TransformersKwargs, "auto_docstring": unchanged,
              "logging": SimpleNamespace(get_logger=logging.getLogger), "torch_int": int},
    "utils.generic": {"can_return_tuple": unchanged, "check_model_inputs": unchanged},
    "configuration_utils": {"PretrainedConfig": PretrainedConfig},
    "trainer_pt_utils": {"get_parameter_names": names_outside},
    "trainer_utils": {"get_last_checkpoint": None},
}  # fmt: skip
NAMES = ("HfArgumentParser", "TrainingArguments", "set_seed")


def module(name, **contents):
    made = sys.modules[name] = ModuleType(name)
    made.__path__ = []
    made.__dict__.update(contents)


module("transformers", Trainer=object, **dict.fromkeys(NAMES))
for part, contents in PARTS.items():
    module(f"transformers.{part}", **contents)


def from_any_file(folder: Path, package: ModuleType, name: str):
    if not name.startswith("_"):
        for file in sorted(folder.glob("*_*.py")):
            if f"class {name}" in file.read_text():
                return getattr(importlib.import_module(f"{package.__name__}.{file.stem}"), name)
    raise AttributeError(name)


def imported(repository: Path, *names: str):
    """Modules of a repository, past the lazy ``__init__`` of its models."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]
    for folder in ("models", *(f"models/{p.name}" for p in (repository / "models").iterdir())):
        module(folder.replace("/", "."))
        package = sys.modules[folder.replace("/", ".")]
        package.__path__ = [str(repository / folder)]
        package.__dict__["__getattr__"] = partial(from_any_file, repository / folder, package)
    sys.path.insert(0, str(repository))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(repository))


def configured(cls, folder: Path):
    return cls(**json.loads((folder / "config.json").read_text()))
