"""Bugs of checkpoints: what is not kept, not restored, or not checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentcast.config import Config
from latentcast.data.loader import Loader
from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import State
from latentcast.engine.schedules import Schedules
from latentcast.errors import LatentcastError
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.faults.ema import CLASSIC, HJEPA, Patch, scheduled, several
from latentcast.verification.observe.rehearsal import averages


def _resumed(change: Callable[[State, Any], State]) -> Patch:
    def make(was: Any) -> Any:
        def resume(folder: Any, model: Any, *rest: Any) -> State:
            return change(was(folder, model, *rest), model)

        return resume

    return replaced(checkpoint, "resume", make)


def _without_moments() -> Patch:
    def make(was: Any) -> Any:
        return lambda at, which, into: None if which == "optimizer" else was(at, which, into)

    return replaced(checkpoint, "load", make)


def _written(change: Callable[[str, dict[str, Tensor]], dict[str, Tensor]]) -> Patch:
    """Something else is written than is there."""

    def make(was: Any) -> Any:
        return lambda folder, tensors, ranks: was(folder, change(folder.name, tensors), ranks)

    return replaced(checkpoint, "_write", make)


def _empty_moments(what: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if what != "optimizer":
        return tensors
    return {n: t if n.endswith("|step") else torch.zeros_like(t) for n, t in tensors.items()}


def _in_bf16(what: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if what != "model":
        return tensors
    return {name: tensor.to(torch.bfloat16).to(tensor.dtype) for name, tensor in tensors.items()}


def _student_alone(what: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: tensors[n.replace("teacher.", "student.", 1)].clone() for n in tensors}


def _teacher_from_student() -> Patch:
    def change(state: State, model: Any) -> State:
        if state.step:
            model.teacher.load_state_dict(model.student.state_dict())
        return state

    return _resumed(change)


def _schedules_restart() -> Patch:
    begun = [0]

    def note(state: State, model: Any) -> State:
        begun[0] = state.step
        return state

    def change(was: Schedules, config: Config) -> Schedules:
        return replace(was, lr=lambda n: was.lr(n - begun[0]),
                       weight_decay=lambda n: was.weight_decay(n - begun[0]))  # fmt: skip

    return several(_resumed(note), scheduled(change))


def _repeats_the_batch() -> Patch:
    def make(was: Any) -> Any:
        return lambda self, attempt: was(self, max(0, attempt - 1))

    return replaced(Loader, "stream", make)


def _from_global_generator() -> Patch:
    def make(was: Any) -> Any:
        return lambda self, stream: torch.rand(len(self.ids), device=self.ids.device)

    return replaced(Draw, "for_samples", make)


def _pickled() -> Patch:
    def make(was: Any) -> Any:
        def written(folder: Any, tensors: dict[str, Tensor], ranks: Any) -> None:
            was(folder, tensors, ranks)
            torch.save(tensors, folder / "all.pt")

        return written

    return replaced(checkpoint, "_write", make)


def _any_configuration() -> Patch:
    return replaced(checkpoint, "differences", lambda was: lambda ours, theirs: [])


def _unchecked() -> Patch:
    return replaced(checkpoint, "_sha256", lambda was: lambda file: "0" * 64)


def _swallowed() -> Patch:
    def make(was: Any) -> Any:
        def resume(*given: Any) -> State:
            try:
                state: State = was(*given)
            except LatentcastError:
                return State()
            return state

        return resume

    return replaced(checkpoint, "resume", make)


def _a_step_early() -> Patch:
    """The number of the step that is next, and not of those that are done."""
    return _resumed(lambda state, model: replace(state, step=max(0, state.step - 1)))


FAULTS: tuple[Fault, ...] = (
    Fault("resume.without-moments", "The optimizer's moments are not restored.",
          "ECG_JEPA, which saves the encoder alone", _without_moments, ("resume.bit-exact",)),
    Fault("resume.moments-empty", "The optimizer's moments are not saved.", CLASSIC,
          lambda: _written(_empty_moments), ("resume.moments", "resume.bit-exact")),
    Fault("resume.schedules-restart", "After a resume the schedules begin anew.", f"{HJEPA}, D6",
          _schedules_restart, ("resume.schedules", "resume.bit-exact")),
    Fault("resume.from-step-zero", "Weights are restored and the step is 0.",
          "ECG-JEPA (arXiv 2410.13867), pretrain.py", lambda: _resumed(lambda s, m: State()),
          ("resume.schedules", "resume.data")),
    Fault("resume.a-step-early", "A resumed run does the last step again.", CLASSIC,
          _a_step_early, ("resume.data", "resume.bit-exact", "resume.schedules")),
    Fault("resume.repeats-the-batch", "The last batch comes again.", CLASSIC, _repeats_the_batch,
          ("resume.data", "resume.bit-exact")),
    Fault("resume.forgets-skips", "Skipped steps are not counted: a batch comes again.", CLASSIC,
          lambda: _resumed(lambda state, model: replace(state, skipped=0)),
          ("resume.after-skip", "resume.data")),
    Fault("resume.teacher-from-student", "The teacher is made anew from the student.", CLASSIC,
          _teacher_from_student, ("resume.bit-exact",), averages),
    Fault("resume.student-alone", "Only the student is saved.", "ECG_JEPA",
          lambda: _written(_student_alone), ("resume.weights", "resume.bit-exact"), averages),
    Fault("resume.saved-in-bf16", "Weights are saved in bf16.", CLASSIC,
          lambda: _written(_in_bf16), ("resume.weights", "resume.bit-exact")),
    Fault("resume.global-generator", "Drop-path is drawn from a generator whose state is lost.",
          f"{HJEPA}, D6: RNG not saved", _from_global_generator,
          ("resume.bit-exact", "ema.repeatable")),
    Fault("resume.pickled", "Moments are pickled beside the tensors.", f"{HJEPA}, D6", _pickled,
          ("resume.nothing-pickled",)),
    Fault("resume.any-configuration", "A run of another configuration is gone on with.", CLASSIC,
          _any_configuration, ("resume.other-configuration",)),
    Fault("resume.unchecked", "Checksums are not looked at.", CLASSIC, _unchecked,
          ("resume.damage",)),
    Fault("resume.swallowed", "An error while loading means to start over.",
          "I-JEPA (specification 1.9)", _swallowed,
          ("resume.damage", "resume.other-configuration")),
)  # fmt: skip
