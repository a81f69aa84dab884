"""What an objective gives beside its loss: tokens, what monitors are shown, logged numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentcast.objectives.cpc import Cpc
from latentcast.objectives.nepa import Nepa
from latentcast.objectives.views import TwoViews
from latentcast.randomness import Draw
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, none
from latentcast.verification.observe.jepa import apart
from latentcast.verification.observe.nepa import draw_of, with_padding
from latentcast.verification.observe.network import outputs_of, real, sequence, stirred
from latentcast.verification.observe.twin import Twin

OURS = "our design, objectives/base.py"


def _predicts_next(twin: Twin) -> bool:
    return twin.recipe.objective.kind in ("nepa", "cpc")


def _has_views(twin: Twin) -> bool:
    return twin.recipe.objective.views is not None


@claim("collapse.tokens", "Where the next patch is predicted, monitors are shown the embeddings of "
       "the patches that are targets and the outputs that predict them, with the flags of these "
       "targets; the tokens of a batch are its outputs.", source=OURS,
       about=_predicts_next)  # fmt: skip
@torch.no_grad()
def shown(twin: Twin) -> Evidence:
    """By a hook on the last norm, of samples whose ends were not measured."""
    inputs, flags = with_padding(twin)
    objective = stirred(twin.objective(), twin.seed)
    assert isinstance(objective, Nepa | Cpc)
    with outputs_of(sequence(objective).norm) as (normed,):
        found = objective(inputs, draw_of(twin, inputs))
    h, z = normed[0], objective.student.embed(inputs.values)
    prefix = objective.student.prefix
    measured = torch.tensor(flags)
    # In a NEPA CLS predicts the first patch; in CPC the first target is the second patch.
    first = 0 if isinstance(objective, Nepa) else prefix
    counted = measured if isinstance(objective, Nepa) else measured[:, 1:]
    views = {view.role: view for view in found.views}
    own: dict[str, Tensor] = {"target": z[:, first + 1 :], "output": h[:, first:-1]}
    parts = [equal("shown", " ".join(sorted(views)), "output target")]
    for role, tokens in own.items():
        valid = views[role].valid
        parts.append(at_most(f"{role}: difference", apart(views[role].tokens, tokens), 1e-12))
        parts.append(equal(f"{role}: flags that differ",
                           -1 if valid is None else int((valid != counted).sum()), 0))  # fmt: skip
    every = objective(real(twin), None)
    assert found.tokens is not None and found.valid is not None
    return all_of(
        *parts,
        equal("parts", f"{views['target'].part} {views['output'].part}", "encoder predictor"),
        at_most("tokens, difference", apart(found.tokens, h[:, prefix:]), 1e-12),
        equal("flags of tokens that differ", int((found.valid != measured).sum()), 0),
        none("flags where all was measured", [v.role for v in every.views if v.valid is not None]),
    )


@claim("loop.drawn", "Every weight is drawn from the seed when a run begins, whatever was in it: "
       "the same from one seed, others from another.", source="our design, law 1: the state is the "
       "step")  # fmt: skip
@torch.no_grad()
def drawn(twin: Twin) -> Evidence:
    """With the term between two views where the recipe has it."""
    views = twin.config.objective.views
    changes: dict[str, Any] = {} if views is None else {"objective.views": views.model_dump()}
    weights = list[dict[str, Tensor]]()
    for seed, filled in ((3, 0.5), (3, -7.0), (4, 0.5)):
        objective = twin.objective(changes | {"train.micro_batches": 1})
        for parameter in objective.parameters():
            parameter.fill_(filled)
        objective.initialise(seed)
        weights.append({name: p.clone() for name, p in objective.named_parameters()})
    first, again, other = weights
    left = [name for name in first if not torch.equal(first[name], again[name])]
    constant = {name for name, p in first.items() if bool((p == p.flatten()[0]).all())}
    alike = [
        name for name in first if name not in constant and torch.equal(first[name], other[name])
    ]
    fixed = [n for n in alike if "log_" not in n and "frequency" not in n]
    return all_of(
        none("left as they were", left),
        none("the same from another seed", fixed),
        above("drawn", len(first) - len(constant), 0),
    )


@claim("views.output", "Beside its loss an objective with two views logs the parts of the term, "
       "the term and its own loss, and not what copying the last patch costs; its weights learn "
       "as they would without, the projector's at the rate and decayed.", source=OURS,
       about=_has_views)  # fmt: skip
@torch.no_grad()
def with_views(twin: Twin) -> Evidence:
    views = twin.config.objective.views
    assert views is not None
    config = twin.config.updated({"train.micro_batches": 1})
    objective = twin.objective({"objective.views": views.model_dump(), "train.micro_batches": 1})
    assert isinstance(objective, TwoViews)
    inner, term = dict[str, Any](), dict[str, Any]()
    compare = objective.compare

    def compared(*arguments: Any) -> Any:
        term["term"], term["parts"] = compare(*arguments)
        return term["term"], term["parts"]

    def record(module: Any, arguments: Any, output: Any) -> None:
        inner["output"], inner["size"] = output, tuple(arguments[0].values.shape[2:])

    handle = objective.base.register_forward_hook(record)
    objective.compare = compared  # type: ignore[assignment, method-assign]
    inputs = real(twin, 5)
    found = objective(
        type(inputs)(inputs.values.float(), inputs.valid), Draw(twin.seed, 1, torch.arange(5))
    )
    handle.remove()
    base = inner["output"]
    names = {"objective_loss", "views_term", *(f"views_{name}" for name in term["parts"])}
    names |= set(base.scalars) - {"copy_last_loss"}
    gaps = [abs(float(found.scalars[f"views_{n}"]) - float(v)) for n, v in term["parts"].items()]
    gaps += [abs(float(found.scalars["views_term"]) - float(term["term"])),
             abs(float(found.scalars["objective_loss"]) - float(base.loss)),
             abs(float(found.loss) - float(base.loss) - views.weight * float(term["term"])),
             abs(float(found.weight) - float(base.weight))]  # fmt: skip
    wrong = list[str]()
    for name, parameter in objective.named_parameters():
        own = name.removeprefix("base.")
        rate = 1.0 if own == name else objective.base.lr_scale(own)
        alone = parameter.ndim <= 1 if own == name else objective.base.undecayed(own, parameter)
        wrong += [name] * (
            objective.lr_scale(name) != rate or objective.undecayed(name, parameter) != alone
        )
    roles = [objective.encoder(r) is objective.base.encoder(r) for r in ("student", "teacher")]
    return all_of(
        equal("logged", " ".join(sorted(found.scalars)), " ".join(sorted(names))),
        at_most("largest difference", greatest(*gaps), 1e-5),
        equal("views for the monitors", len(found.views), len(base.views)),
        equal("size of a view", str(inner["size"]), str(tuple(config.of_views.input.size))),
        equal("and for its operations", str(tuple(objective.size)), str(inner["size"])),
        none("learn otherwise", wrong),
        equal("encoders that are read out", str(roles), "[True, True]"),
        equal("averages", len(objective.ema_pairs()), len(objective.base.ema_pairs())),
    )
