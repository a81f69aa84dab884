"""Learning rate and weight decay of a step, and which parameters they are of."""

from __future__ import annotations

from torch import nn

from latentcast.config import Config
from latentcast.engine.schedules import Schedules
from latentcast.nn.positions import LeadEmbedding
from latentcast.nn.state_space import Modes
from latentcast.objectives.base import Objective
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, at_most, equal, greatest, none
from latentcast.verification.formulas import decay_of, muon_scale, rate_of
from latentcast.verification.observe.loop_recorder import Attempt, LoopRecord
from latentcast.verification.observe.rehearsal import rehearsed
from latentcast.verification.observe.twin import Twin

IJEPA = "I-JEPA, train.py and utils/schedulers.py (specification 1.7)"
EXACT = 1e-12
"""Of a schedule: float64 against float64."""


def _scheduled(twin: Twin) -> list[tuple[LoopRecord, int, Attempt]]:
    """Each step of a run with the recipe's numbers and of one with revealing ones."""
    runs = (twin.trained(), rehearsed(twin))
    return [(run, n, step) for run in runs for n, step in enumerate(run.steps)]


@claim("loop.rate", "The learning rate that moves each parameter at step n is the schedule at n, "
       "from the first step on: linear warm-up counted from one, then half a cosine to the end; "
       "a tenth of it for the dynamics of a state space, Muon's for the matrices that it moves.",
       source=IJEPA)  # fmt: skip
def rate(twin: Twin) -> Evidence:
    steps, run = _scheduled(twin), rehearsed(twin)
    slow, matrices = _dynamics(run.objective), run.matrices

    def scale(config: Config, name: str) -> float:
        return 0.1 if name in slow else muon_scale(config) if name in matrices else 1.0

    worst = greatest(
        *(
            abs(rate - rate_of(run.config, n) * scale(run.config, name)) / run.config.optimizer.lr
            for run, n, step in steps
            for name, rate in step.rates.items()
        )
    )
    return all_of(
        at_most("largest difference, of the peak", worst, EXACT),
        equal("steps", len(steps), sum(r.config.train.steps for r in (twin.trained(), run))),
        first_update=next(iter(run.steps[0].rates.values())), its_schedule=rate_of(run.config, 0),
    )  # fmt: skip


@claim("loop.decay", "The weight decay used at step n is the schedule at n: half a cosine over "
       "the run, or constant where the recipe says so.", source=IJEPA)  # fmt: skip
def decay(twin: Twin) -> Evidence:
    used = [(max(step.decays.values()), decay_of(r.config, n)) for r, n, step in _scheduled(twin)]
    worst = greatest(*(abs(measured - expected) for measured, expected in used))
    return all_of(
        at_most("largest difference", worst, EXACT), last=used[-1][0], scheduled_last=used[-1][1]
    )


@claim("loop.decay-groups", "Biases, norms, gains, CLS, the vectors of leads and the dynamics of a "
       "state space are not decayed; all else is.",
       source="I-JEPA, helper.py; NEPA, run_nepa.py; S4D (Gu et al. 2022)")  # fmt: skip
def decay_groups(twin: Twin) -> Evidence:
    run = twin.trained()
    alone, decays = undecayed(run.objective), run.steps[-1].decays
    return all_of(
        none("wrong", [name for name, own in decays.items() if (own == 0) != (name in alone)]),
        decayed=len(decays.keys() - alone),
        not_decayed=len(alone & decays.keys()),
    )


def _dynamics(objective: Objective) -> set[str]:
    """Time steps, decays and frequencies of all state spaces."""
    places = [place for place, m in objective.named_modules() if isinstance(m, Modes)]
    return {f"{p}.{name}" for p in places for name in ("log_step", "log_decay", "frequency")}


def undecayed(objective: Objective) -> set[str]:
    """Biases, norms, gains, CLS, vectors of leads and dynamics, by the modules that have them."""
    found = _dynamics(objective)
    for place, module in objective.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            alone = (
                isinstance(module, nn.LayerNorm | LeadEmbedding)
                or parameter.numel() == parameter.shape[-1]
            )
            if name in ("bias", "cls", "gain") or (alone and name != "mask_token"):
                found.add(f"{place}.{name}".removeprefix("."))
    return found


@claim("loop.stays-at-the-end", "Beyond its last step a schedule stays at its end and does not "
       "turn back, the momentum's too.",
       source="specification, executable requirements 17 and 19")  # fmt: skip
def stays_at_the_end(twin: Twin) -> Evidence:
    config = rehearsed(twin).config
    schedules, end = Schedules.of(config), config.train.steps
    beyond = (end, end + 1, 2 * end, 10 * end)
    final, peak = config.optimizer.final_lr, config.optimizer.lr
    parts = [
        at_most("rate, of the peak",
                greatest(*(abs(schedules.lr(n) - final) for n in beyond)) / peak, EXACT),
        at_most("decay", greatest(*(abs(schedules.weight_decay(n) - decay_of(config, end))
                             for n in beyond)), EXACT),
    ]  # fmt: skip
    if config.ema is not None:
        last = config.ema.final
        assert last is not None
        gap = greatest(*(abs(schedules.momentum(n) - last) for n in beyond))
        parts.append(at_most("momentum", gap, EXACT))
    return all_of(*parts)
