"""A training step beside the steps of public code, from checkouts of their repositories.

    python benchmarks/peers.py --nepa DIR --ijepa DIR --ecg-jepa DIR --ecg-jepa-leads DIR

DIR is a checkout of SihanXU/nepa, facebookresearch/ijepa, kweimann/ECG-JEPA or
sehunfromdaegu/ECG_JEPA; what is not given is left out by name. They need transformers (nepa) and
timm (the last), which nothing else here does. Their models, masks and optimizers are imported from
there and stepped in the order of their scripts: forward, backward, clip, optimizer, average. Both
sides have the same shapes, batch, tokens (the very masks, in a JEPA) and type, in one process, and
a ratio is taken pair by pair of processor times. Each side draws its masks by its own code in every
step.

A ratio has two versions. In ``one process`` both use memory as latentcast sets it up (freed memory
is kept). ``own memory`` gives theirs what glibc does by itself after the first steps of a program.
``shipped`` is latentcast in the type of its recipe against theirs in the type of its script on a
CPU, with their own memory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib
import importlib.util
import itertools
import json
import logging
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentcast.config import Config, EncoderConfig
from latentcast.engine.context import Context, keep_freed_memory
from latentcast.files import write_text
from latentcast.objectives.build import build
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.jepa.masks import Masks
from latentcast.randomness import Draw
from latentcast.recipes import recipe
from latentcast.workflows.bench import machine, operations
from step import WARMUP, numbered_step, product_peak, seconds, spread

PRECISIONS = ("fp32", "bf16")
BATCHES = {"small": 8, "tiny": 32}
DRAWS = 8
OWN_NAMES = ("models", "src", "configs", "utils", "data", "ecg_jepa", "pos_encoding")
MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1
"""Options of mallopt(3)."""
Numbered = Callable[[int], object]


@dataclass(frozen=True)
class Peer:
    """A public repository, our configuration of its shapes (``small``, ``tiny``), and its step.

    ``step`` takes the checkout and our configuration and gives the trained modules and, for a
    context, its step by number. ``shipped`` is the type of its script on a CPU.
    """

    repository: str
    config: Callable[[str], Config]
    step: Callable[[Path, Config], tuple[nn.Module, Callable[[Context], Numbered]]]
    shipped: str
    differs: str


# SihanXU/nepa


def nepa_config(size: str) -> Config:
    if size == "small":
        return _sized("nepa-image-base", (384, 8, 6), {"encoder.patch": 16})
    image = {"encoder.patch": 4, "input.height": 32, "input.width": 32}
    return _sized("nepa-image-base", (192, 4, 3), image)


def _sized(name: str, size: tuple[int, int, int], changes: dict[str, Any]) -> Config:
    """A recipe at another width, depth and number of heads."""
    width, depth, heads = size
    encoder = {"width": width, "depth": depth, "heads": heads, "mlp_width": 4 * width}
    return recipe(name).updated({f"encoder.{k}": v for k, v in encoder.items()} | changes)


def _predictor(width: int, depth: int, heads: int) -> dict[str, Any]:
    size = {"width": width, "depth": depth, "heads": heads, "mlp_width": 4 * width}
    return {"objective.predictor": size}


def nepa_step(folder: Path, config: Config) -> tuple[nn.Module, Callable[[Context], Numbered]]:
    """Its model; of the Trainer it runs in, what touches weights."""
    with imported_from(folder):
        _restore_transformers()
        home = "models.vit_nepa"
        settings = importlib.import_module(f"{home}.configuration_vit_nepa").ViTNepaConfig
        network = importlib.import_module(f"{home}.modeling_vit_nepa").ViTNepaForPreTraining
    e, own = config.encoder, config.input
    model = network(
        settings(
            hidden_size=e.width, num_hidden_layers=e.depth, num_attention_heads=e.heads,
            intermediate_size=e.mlp_width, image_size=own.size[0], patch_size=e.patch,
            num_channels=own.channels, qk_norm=e.qk_norm, qkv_bias=e.qkv_bias,
            attn_implementation="sdpa",
        )
    ).train()  # fmt: skip
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-4, betas=config.optimizer.betas,
    )  # fmt: skip
    averages = {name: value.clone() for name, value in model.state_dict().items()}
    values = torch.randn(config.train.batch_size, own.channels, *own.size)

    def in_(context: Context) -> Numbered:
        def step(number: int) -> None:
            with context.autocast():
                loss = model(pixel_values=values).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                current = model.state_dict()
                for name, average in averages.items():
                    average.mul_(0.9999).add_(current[name].float(), alpha=1e-4)

        return step

    return model, in_


def _restore_transformers() -> None:
    """What the models import and later versions of transformers dropped; no step calls it but
    ``get_head_mask``, which gives a None for each layer."""
    utilities = importlib.import_module("transformers.pytorch_utils")
    models = importlib.import_module("transformers.modeling_utils").PreTrainedModel
    if not hasattr(utilities, "find_pruneable_heads_and_indices"):
        utilities.find_pruneable_heads_and_indices = None  # type: ignore[attr-defined]
    if not hasattr(models, "get_head_mask"):
        models.get_head_mask = lambda self, mask, layers: [None] * layers


# facebookresearch/ijepa


def ijepa_config(size: str) -> Config:
    masks = {"objective.masks": {"kind": "reference"}}
    if size == "small":
        return _sized("ijepa-image-base", (384, 12, 6), _predictor(384, 6, 6) | masks)
    return _sized("ijepa-image-base", (192, 12, 3), _predictor(192, 6, 3) | masks)


def ijepa_step(folder: Path, config: Config) -> tuple[nn.Module, Callable[[Context], Numbered]]:
    """Without the wrapper for several devices."""
    with imported_from(folder):
        home = importlib.import_module("src.helper")
        collator = importlib.import_module("src.masks.multiblock").MaskCollator
        apply_masks = importlib.import_module("src.masks.utils").apply_masks
        grad_logger = importlib.import_module("src.utils.logging").grad_logger
    size, batch, steps = config.input.size[0], config.train.batch_size, config.train.steps
    jepa, name = config.objective, {384: "vit_small", 192: "vit_tiny"}[config.encoder.width]
    assert isinstance(jepa, JepaConfig)
    (encoder, predictor), (target, _) = (
        home.init_model(
            torch.device("cpu"), patch_size=config.encoder.patch, model_name=name, crop_size=size,
            pred_depth=jepa.predictor.depth, pred_emb_dim=jepa.predictor.width,
        )
        for _ in range(2)
    )  # fmt: skip
    target.load_state_dict(encoder.state_dict())
    target.requires_grad_(False)
    optimizer, _, rates, decays = home.init_opt(
        encoder, predictor, iterations_per_epoch=steps // 300, start_lr=2e-4, ref_lr=1e-3,
        warmup=40, num_epochs=300, wd=0.04, final_wd=0.4, final_lr=1e-6, ipe_scale=1.0,
    )  # fmt: skip
    draw = collator(
        input_size=size, patch_size=config.encoder.patch, enc_mask_scale=(0.85, 1.0),
        pred_mask_scale=(0.15, 0.2), aspect_ratio=(0.75, 1.5), nenc=1, npred=4, min_keep=10,
    )  # fmt: skip
    masks = masks_of(config)
    values = torch.randn(batch, config.input.channels, *config.input.size)

    def in_(context: Context) -> Numbered:
        def step(number: int) -> None:
            draw([0] * batch)  # its time counts; the patches are ours, so that both have as many
            kept, hidden = [masks(number).context], list(masks(number).targets[0])
            rates.step()
            decays.step()
            with context.autocast():
                with torch.no_grad():
                    h = target(values)
                    h = apply_masks(F.layer_norm(h, (h.shape[-1],)), hidden)
                loss = F.smooth_l1_loss(predictor(encoder(values, kept), kept, hidden), h)
            loss.backward()
            optimizer.step()
            grad_logger(encoder.named_parameters())
            optimizer.zero_grad()
            with torch.no_grad():
                for ours, theirs in zip(encoder.parameters(), target.parameters(), strict=True):
                    theirs.mul_(0.996).add_((1 - 0.996) * ours.detach())
            loss.item()

        return step

    return nn.ModuleList([encoder, predictor]), in_


# kweimann/ECG-JEPA


def ecg_jepa_config(size: str) -> Config:
    betas = {"optimizer.betas": [0.9, 0.99]}
    if size == "small":
        return _sized("ijepa-ecg-small", (384, 8, 6), _predictor(192, 8, 6) | betas)
    return _sized("ijepa-ecg-small", (192, 8, 4), _predictor(96, 8, 4) | betas)


def ecg_jepa_step(folder: Path, config: Config) -> tuple[nn.Module, Callable[[Context], Numbered]]:
    """Its ViT-S or ViT-XS for PTB-XL with the attention that it takes on a CPU."""
    with imported_from(folder):
        configs = importlib.import_module("configs")
        network = importlib.import_module("models.JEPA").JEPA
        collator = imported_file(folder / "data" / "masks.py").MaskCollator
    name = {384: "ViTS_ptbxl", 192: "ViTXS_ptbxl"}[config.encoder.width]
    found = configs.load_config_file(folder / "configs" / "pretrain" / f"{name}.yaml")
    settings = configs.pretrain.Config(**found)
    model = network(settings, itertools.repeat(0.998), use_sdp_kernel=False).train()
    optimizer = model.get_optimizer(fused=False)
    draw = collator(
        settings.patch_size, settings.min_block_size, settings.min_keep_ratio,
        settings.max_keep_ratio,
    )  # fmt: skip
    masks = masks_of(config)
    values = torch.randn(config.train.batch_size, config.input.channels, *config.input.size)

    def in_(context: Context) -> Numbered:
        def step(number: int) -> None:
            draw(list(values[:, :1]))  # its time counts; one channel tells it the length
            kept, (hidden,) = masks(number).context, masks(number).targets[0]
            with context.autocast():
                loss = model(values, kept, hidden)
            loss.backward()
            loss.item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return model, in_


# sehunfromdaegu/ECG_JEPA


def leads_config(size: str) -> Config:
    leads = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    changes = {
        "input.sampling_rate": 250, "input.length": 2500, "input.leads": leads,
        "input.tokens": "per_lead", "encoder.patch": 50,
        "objective.masks.context_share": [0.44, 0.44],
    }  # fmt: skip
    if size == "small":
        return _sized("ijepa-ecg-small", (384, 12, 6), _predictor(192, 4, 6) | changes)
    return _sized("ijepa-ecg-small", (192, 4, 3), _predictor(96, 2, 3) | changes)


def leads_step(folder: Path, config: Config) -> tuple[nn.Module, Callable[[Context], Numbered]]:
    """The sizes that its class has by itself, or smaller; drop-path 0.1 as in its script."""
    with imported_from(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = importlib.import_module("ecg_jepa").ecg_jepa
    e, jepa = config.encoder, config.objective
    assert isinstance(e, EncoderConfig) and isinstance(jepa, JepaConfig)
    model = network(
        encoder_embed_dim=e.width, encoder_depth=e.depth, encoder_num_heads=e.heads,
        predictor_embed_dim=jepa.predictor.width, predictor_depth=jepa.predictor.depth,
        predictor_num_heads=jepa.predictor.heads, drop_path_rate=0.1, mask_scale=(0.175, 0.225),
    ).train()  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
         {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}], lr=5e-5,
    )  # fmt: skip
    masks, patches = masks_of(config), config.grids[0][1]
    draw = model.target_encoder._make_block_mask
    values = torch.randn(config.train.batch_size, config.input.channels, *config.input.size)

    def in_(context: Context) -> Numbered:
        def step(number: int) -> None:
            kept = masks(number).context[0] % patches  # one draw for the batch: the first sample's
            hidden = torch.ones(patches, dtype=torch.bool).index_fill(0, kept, False)

            def drawn(scale: object) -> Tensor:
                draw(scale)  # its time counts
                return hidden

            model.target_encoder._make_block_mask = drawn
            optimizer.zero_grad()
            with context.autocast():
                loss = model(values)
            loss.backward()
            optimizer.step()
            loss.item()
            pairs = zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True)
            with torch.no_grad():
                for ours, theirs in pairs:
                    theirs.mul_(0.996).add_((1 - 0.996) * ours.detach())

        return step

    return model, in_


PEERS = {
    "nepa": Peer(
        "SihanXU/nepa", nepa_config, nepa_step, "bf16",
        "theirs: q, k and v are three products; under the installed transformers, its own being "
        "4.56.2. Both clip at 1, AdamW, average of all weights.",
    ),
    "ijepa": Peer(
        "facebookresearch/ijepa", ijepa_config, ijepa_step, "fp32",
        "theirs: four norms of gradients for its log are read in every step; ours computes the "
        "norm of all. Neither clips.",
    ),
    "ecg_jepa": Peer(
        "kweimann/ECG-JEPA", ecg_jepa_config, ecg_jepa_step, "fp32",
        "theirs: one register token more in the encoder (201), no biases, L1 against targets "
        "without a norm. Neither clips; ours computes the norm of the gradients.",
    ),
    "ecg_jepa_leads": Peer(
        "sehunfromdaegu/ECG_JEPA", leads_config, leads_step, "fp32",
        "theirs: one mask for the whole batch; a token attends to its lead and its time, by a mask "
        "of all pairs; the predictor sees one lead at a time; no biases of q, k, v; drop-path. "
        "ours attends to everything. Neither clips; ours computes the norm of the gradients.",
    ),
}  # fmt: skip


@contextlib.contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Packages of a checkout first; their names, which all share, are forgotten afterwards."""
    before, path = set(sys.modules), sys.path[:]
    sys.path.insert(0, str(folder.resolve()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in OWN_NAMES:
                del sys.modules[name]


def imported_file(file: Path) -> ModuleType:
    """One file without its package, whose other files need more than is installed."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def masks_of(config: Config) -> Callable[[int], Masks]:
    """The masks that our step of a number draws; drawn once."""
    objective = build(config)
    assert isinstance(objective, Jepa)
    ids = torch.arange(config.train.batch_size)

    @functools.cache
    def masks(number: int) -> Masks:
        return objective.masks(Draw(config.train.seed, number, ids), None)

    for number in range(DRAWS):
        masks(number)
    return masks


def plain_memory() -> None:
    """What glibc does by itself in a program that has freed large tensors (mallopt(3))."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for option, value in ((MMAP_MAX, 65536), (MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**26)):
            libc.mallopt(option, value)


def measure(peer: Peer, folder: Path, size: str, batch: int, rounds: int) -> dict[str, Any]:
    config = peer.config(size).updated(
        {
            "machine.loggers": [], "machine.device": "cpu",
            "train.batch_size": batch, "train.micro_batches": 1,
        }
    )  # fmt: skip
    shipped = config.train.precision
    contexts = {p: Context.of(config.updated({"train.precision": p})) for p in PRECISIONS}
    model, theirs = peer.step(folder, config)
    steps: dict[tuple[str, str], Numbered] = {}
    for precision, context in contexts.items():
        own = config.updated({"train.precision": precision})
        steps["ours", precision] = numbered_step(own, context)
        steps["theirs", precision] = theirs(context)
    taken: dict[tuple[str, str], list[float]] = {}
    peaks = dict.fromkeys(PRECISIONS, 0.0)

    def timed(kind: str, precision: str, number: int, name: str | None = None) -> None:
        step = functools.partial(steps[kind, precision], number % DRAWS)
        found = seconds(step, torch.device("cpu"))
        taken.setdefault((name or kind, precision), []).append(found)

    for number in range(WARMUP - 1):
        for step in steps.values():
            step(number)
    for number in range(rounds):
        keep_freed_memory()
        steps["ours", "fp32"](number % DRAWS)  # takes the memory back
        order = list(steps) if number % 2 == 0 else list(reversed(steps))
        for kind, precision in order:
            timed(kind, precision, number)
        for precision in PRECISIONS:
            peaks[precision] = max(peaks[precision], product_peak(contexts[precision]))
        plain_memory()
        steps["theirs", "bf16"](number % DRAWS)  # gives it back
        for precision in PRECISIONS:
            timed("theirs", precision, number, "own memory")
    keep_freed_memory()

    flops = operations(config) / config.train.steps

    def against(name: str, other: str, precision: str) -> dict[str, float]:
        pairs = zip(taken[name, other], taken["ours", precision], strict=True)
        return spread([a / b for a, b in pairs])

    pairs: dict[str, Any] = {}
    for precision in PRECISIONS:
        ms = {k: 1e3 * statistics.median(taken[k, precision]) for k in ("ours", "theirs")}
        pairs[precision] = {
            **{f"{kind}_ms": round(value, 1) for kind, value in ms.items()},
            "times_as_fast": against("theirs", precision, precision),
            "times_as_fast_own_memory": against("own memory", precision, precision),
            "of_peak": {
                kind: round(1e3 * flops / value / peaks[precision], 3) for kind, value in ms.items()
            },
            "peak_gflops": round(peaks[precision] / 1e9, 1),
        }
    pairs["shipped"] = {
        "precision": {"ours": shipped, "theirs": peer.shipped},
        "times_as_fast": against("own memory", peer.shipped, shipped),
    }
    objective = build(config)
    predictor = getattr(config.objective, "predictor", None)
    return {
        "peer": peer.repository,
        "commit": _commit(folder),
        "size": size,
        "batch_size": batch,
        "input": [config.input.channels, *config.input.size],
        "tokens": [list(grid) for grid in config.grids],
        "encoder": {k: getattr(config.encoder, k) for k in ("width", "depth", "heads", "patch")},
        "predictor": predictor and predictor.model_dump(),
        "parameters": {
            "ours": sum(p.numel() for p in objective.trainable().values()),
            "theirs": sum(p.numel() for p in model.parameters() if p.requires_grad),
        },
        "differs": peer.differs,
        "machine": machine(config, contexts[shipped]),
        "rounds": rounds,
        "pairs": pairs,
    }


def _named(row: dict[str, Any]) -> tuple[str, str]:
    return row["peer"], row["size"]


def _commit(folder: Path) -> str | None:
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, peer in PEERS.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=Path, metavar="DIR", help=f"a checkout of {peer.repository}")
    parser.add_argument("--sizes", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--batch", type=int, help="samples a step; by default 8, of tiny 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="rows of this file are replaced or added to")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    out, found = arguments.out, []
    rows = json.loads(out.read_text()) if out and out.exists() else []
    for name, peer in PEERS.items():
        folder, flag = getattr(arguments, name), name.replace("_", "-")
        if folder is None:
            print(f"{peer.repository}: left out; give --{flag} DIR", file=sys.stderr)
            continue
        for size in arguments.sizes:
            batch = arguments.batch or BATCHES[size]
            row = measure(peer, folder, size, batch, arguments.rounds)
            found.append(row)
            rows = [other for other in rows if _named(other) != _named(row)] + [row]
            if out:
                write_text(out, json.dumps(rows, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
