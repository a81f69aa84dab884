"""What the student gets: batches, modes, and the random numbers of loader workers."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from latentcast.verification.evidence import equal
from latentcast.verification.foreign.events import Observer
from latentcast.verification.foreign.passes import DROPPING, drop_rate, tensors_in
from latentcast.verification.foreign.ranks import Ranks
from latentcast.verification.foreign.verified import Lines
from latentcast.verification.report.lines import Line

SOURCE = "PyTorch, torch.utils.data: randomness in multi-process data loading; nn.Module.train"
PLACES = 4096


class Batches(Observer):
    """Batches of loaders, and the passes of modules that are trained, from the first step on."""

    name = "batches"

    def __init__(self) -> None:
        self.hashes = Counter[str]()
        self.infinite = self.passes = self.not_dropping = 0
        self.first_infinite = ""
        self._trained = set[int]()
        self._depth = 0
        self._drops = set[int]()
        self._folder = Path(tempfile.mkdtemp(prefix="latentcast-watch-"))
        self._states = list[dict[str, str]]()
        self._undo = list[Callable[[], object]]()
        self.ranks = Ranks()

    def open(self) -> None:
        """From here on loaders report their batches, and their workers what they would draw."""
        self.ranks.open()
        following, starting = _BaseDataLoaderIter.__next__, DataLoader.__iter__
        batches = self

        def following_and_hashed(loader: Any) -> Any:
            batch = following(loader)
            if torch.is_grad_enabled():  # else it is a validation
                parts = [_hash(tensor) for tensor in tensors_in(batch)]
                batches.hashes[_digest(repr(parts).encode())] += 1
                batches.ranks.note(parts)
            return batch

        def starting_with_states(loader: Any) -> Any:
            if loader.num_workers and not isinstance(loader.worker_init_fn, _Report):
                original = loader.worker_init_fn
                loader.worker_init_fn = _Report(original, batches._folder)
                batches._undo.append(lambda: setattr(loader, "worker_init_fn", original))
            return starting(loader)

        self._replace(_BaseDataLoaderIter, "__next__", following_and_hashed)
        self._replace(DataLoader, "__iter__", starting_with_states)

    def _replace(self, owner: Any, name: str, function: Callable[..., object]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, function)
        self._undo.append(lambda: setattr(owner, name, original))

    def start(self, optimizer: Optimizer) -> None:
        self.ranks.state = _digest(torch.get_rng_state().numpy().tobytes())
        ids = self.session.heap.trained(optimizer)
        for module in self.session.heap.modules:
            if any(id(p) in ids for p in module.parameters()):
                self._trained.add(id(module))
                self._drops |= {
                    id(part) for part in module.children()
                    if any(name in type(part).__name__ for name in DROPPING) and drop_rate(part)
                    and not next(part.children(), None)
                }  # fmt: skip

    def enter(self, module: nn.Module, args: Any) -> None:
        if id(module) in self._drops and not module.training and self.session.grad_mode:
            self.not_dropping += 1
        self._depth += id(module) in self._trained

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) not in self._trained:
            return
        self._depth = max(0, self._depth - 1)
        if self._depth:
            return
        self.passes += 1
        if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors_in(output)):
            self.infinite += 1
            self.first_infinite = self.first_infinite or type(module).__name__

    def before(self, optimizer: Optimizer, step: int) -> None:
        self._depth = 0

    def end(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._states = [json.loads(file.read_text()) for file in self._folder.glob("*.json")]
        shutil.rmtree(self._folder, ignore_errors=True)
        self.ranks.write()

    def lines(self) -> Sequence[Line]:
        lines = Lines(SOURCE)
        if self.passes:
            beside = {"first": self.first_infinite} if self.infinite else {}
            lines.add("data.finite", "What is trained gives finite numbers in each pass.",
                      equal("passes with infinity or NaN", self.infinite, 0),
                      passes=self.passes, **beside)  # fmt: skip
            lines.add("student.mode", "The dropout of what is trained is on in training.",
                      equal("passes without", self.not_dropping, 0))  # fmt: skip
        if self.hashes:
            again = sum(self.hashes.values()) - len(self.hashes)
            lines.add("data.fresh", "No batch comes twice in the steps that were watched.",
                      equal("again", again, 0), batches=sum(self.hashes.values()))  # fmt: skip
        self._workers(lines)
        self.ranks.add(lines)
        return lines

    def _workers(self, lines: Lines) -> None:
        """Each start of a loader has workers of one parent seed."""
        starts: dict[str, list[dict[str, str]]] = {}
        for state in self._states:
            starts.setdefault(state["start"], []).append(state)
        alike = Counter[str]()
        for states in starts.values():
            for source in ("torch", "numpy", "python"):
                values = [state[source] for state in states]
                alike[source] += len(values) - len(set(values))
        if starts:
            sentence = "No two workers of a loader draw the same random numbers."
            parts = [equal(f"alike in {source}", n, 0) for source, n in alike.items()]
            lines.add("workers.seeds", sentence, *parts)


class _Report:
    """A ``worker_init_fn`` that does what another does and writes down the random states.

    It is pickled where workers are spawned.
    """

    def __init__(self, original: Callable[[int], object] | None, folder: Path) -> None:
        self.original, self.folder = original, folder

    def __call__(self, worker: int) -> None:
        if self.original is not None:
            self.original(worker)
        info = torch.utils.data.get_worker_info()
        states = {
            "start": str((info.seed if info is not None else 0) - worker),
            "torch": _digest(torch.get_rng_state().numpy().tobytes()),
            "numpy": _digest(np.random.get_state()[1].tobytes()),  # type: ignore[index]
            "python": _digest(repr(random.getstate()).encode()),
        }
        try:
            file = self.folder / f"{states['start']}-{worker}.json"
            file.write_text(json.dumps(states))
        except OSError:  # the report was written without this worker
            pass


def _hash(tensor: Tensor) -> str:
    flat = (tensor.to_dense() if tensor.is_sparse else tensor).detach().reshape(-1)
    places = flat[:: max(1, flat.numel() // PLACES)]
    return _digest(places.double().cpu().numpy().tobytes())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()
