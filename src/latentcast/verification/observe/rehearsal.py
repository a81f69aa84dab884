"""A run in six steps that meets what a long run meets.

Batches that are not finite, a stop in the middle, a resume with everything built anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.verification.observe.config import has_transformer
from latentcast.verification.observe.loop_recorder import LoopRecord, record_loop
from latentcast.verification.observe.twin import Twin

POISONED = 2
"""The attempt of a rehearsal whose batch is not finite: the third."""
STEPS = 6
EARLIER, LATER = 2, 4
"""Steps with a checkpoint, one from before the attempt that did not count and one from after it."""
REVEALING: dict[str, Any] = {
    "machine.device": "cpu", "train.steps": STEPS, "train.checkpoint_every": 2,
    "train.keep_checkpoints": 9,
    "train.batch_size": 7, "optimizer.warmup_steps": 2, "optimizer.lr": 1e-3,
    "optimizer.weight_decay": 0.1, "optimizer.final_weight_decay": 0.3,
    "optimizer.clip_grad_norm": 1e30, "ema": {"base": 0.5, "final": 0.9, "warmup_steps": 2},
}  # fmt: skip
"""The twin, still less deep, with numbers that show what is done with them: a teacher that moves
half of the way, a decay that changes, pieces of unequal length."""


def accumulates(twin: Twin) -> bool:
    """Whether batches may be cut: regularizers, two views and batch norms need the whole batch."""
    return not twin.config.whole_batch


def averages(twin: Twin) -> bool:
    """Whether there is an average of the weights."""
    return twin.config.ema is not None


def revealing(twin: Twin) -> Config:
    """The configuration of :func:`rehearsed`."""
    changes = dict(REVEALING)
    if not averages(twin):
        del changes["ema"]
    if has_transformer(twin):
        changes |= {"encoder.depth": 2, "encoder.drop_path": 0.2}  # of the first block it is 0
    pieces = 3 if accumulates(twin) else 1
    return twin.config.updated({**changes, "train.micro_batches": pieces})


def rehearsed(twin: Twin) -> LoopRecord:
    """Six steps and one batch that is not finite; the same run when asked again."""
    return twin.once("rehearsal", lambda: rehearse(twin, revealing(twin), {POISONED}))


def resumed(twin: Twin, step: int) -> LoopRecord:
    """:func:`rehearsed`, gone on with from its checkpoint of a step, for two steps or the rest.

    Store, objective, optimizer and average are made anew, as another process would.
    """

    def again() -> LoopRecord:
        most = 3 if step == EARLIER else None  # one of them does not count
        resume = rehearsed(twin).checkpoint(step)
        return rehearse(twin, revealing(twin), {POISONED}, resume=resume, most=most)

    return twin.once(f"rehearsal resumed from {step}", again)


def short_run(twin: Twin, name: str, changes: Mapping[str, Any], most: int) -> LoopRecord:
    """A few attempts of the rehearsal under other settings, in one piece."""
    config = revealing(twin).updated({"train.micro_batches": 1, **changes})
    return twin.once(name, lambda: rehearse(twin, config, most=most))


def rehearse(
    twin: Twin,
    config: Config,
    poisoned: Collection[int] = (),
    *,
    resume: Path | None = None,
    most: int | None = None,
) -> LoopRecord:
    """:func:`record_loop` on the twin's store, opened anew, in a folder of its own."""
    runs = twin.folder / "rehearsals"
    folder = runs / str(len(list(runs.glob("*"))))
    store = Store.open(twin.store.path)
    return record_loop(store, config, folder, poisoned, resume=resume, most=most)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names that only one has, or whose tensors are not the same bits."""
    both = one.keys() & other.keys()
    return sorted(one.keys() ^ other.keys()) + sorted(
        name for name in both if not torch.equal(one[name], other[name])
    )
