"""Training on labels: the loss by its formula, who learns at which rate, and what is refused."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from latentcast.batch import Inputs
from latentcast.nn.backbones import build_encoder
from latentcast.nn.heads import HEADS
from latentcast.objectives.supervised import Classifier, Supervised, SupervisedConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, greatest, none
from latentcast.verification.observe.jepa import apart
from latentcast.verification.observe.network import real, stirred
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

OURS = "our protocol, docs of workflows/finetune.py"
NAN = math.nan


def _settings(**own: Any) -> SupervisedConfig:
    base: dict[str, Any] = {"task": "sick", "target": "multi-label", "names": ("a", "b", "c")}
    return SupervisedConfig(**(base | own))


def _supervised(twin: Twin, settings: SupervisedConfig, teacher: bool = False) -> Supervised:
    encoder = build_encoder(twin.config)
    head = HEADS[settings.head](encoder.width, len(settings.names))
    objective = Supervised(Classifier(encoder, head), settings, teacher)
    objective.initialise(twin.seed)
    stirred(objective, twin.seed)
    return objective.eval()  # without what training draws


def _naive(
    outputs: list[list[float]], targets: list[Any], settings: SupervisedConfig
) -> tuple[float, float]:
    """An output at a time; and of how much weight."""
    terms, weights, balance = list[float](), list[float](), settings.class_weights
    for row, target in zip(outputs, targets, strict=True):
        if settings.target == "multi-class":
            if target >= 0:
                share = row[target] - math.log(math.fsum(map(math.exp, row)))
                weights.append(1.0 if balance is None else balance[target])
                terms.append(-share * weights[-1])
            continue
        goals = target if isinstance(target, list) else [target]
        for n, (x, y) in enumerate(zip(row, goals, strict=True)):
            if math.isnan(y):
                continue
            weights.append(1.0)
            if settings.target == "regression":
                terms.append((x - (y - settings.mean) / settings.std) ** 2)
                continue
            gain = 1.0 if balance is None else balance[n]
            yes, no = math.log1p(math.exp(-x)), math.log1p(math.exp(x))
            terms.append(gain * y * yes + (1 - y) * no)
    return math.fsum(terms) / max(math.fsum(weights), 1e-6), math.fsum(weights)


@claim("finetune.loss", "The loss on labels is cross-entropy of each label, of the class, or the "
       "squared error of the scaled number, by class weights where given, its mean over what is "
       "not missing; the average of the weights takes no part in it.", source=OURS)  # fmt: skip
def loss(twin: Twin) -> Evidence:
    """An output at a time in float64, in every kind of target, with and without weights."""
    inputs, parts = real(twin, 4), list[Evidence]()
    labels = [[1.0, 0.0, NAN], [0.0, 1.0, 1.0], [NAN, NAN, NAN], [0.25, 1.0, 0.0]]
    ways: dict[str, tuple[SupervisedConfig, list[Any]]] = {
        "labels": (_settings(), labels),
        "weighted labels": (_settings(class_weights=(0.5, 2.0, 3.0)), labels),
        "classes": (_settings(target="multi-class", head="attentive"), [2, -1, 0, 1]),
        "weighted classes": (_settings(target="multi-class", class_weights=(0.5, 2.0, 3.0)),
                             [2, -1, 0, 0]),
        "numbers": (_settings(target="regression", names=("age",), mean=40.0, std=12.0),
                    [35.0, NAN, 71.0, 40.0]),
        "nothing": (_settings(target="multi-class"), [-1, -1, -1, -1]),
    }  # fmt: skip
    for name, (settings, targets) in ways.items():
        objective = _supervised(twin, settings, teacher=True)
        with torch.no_grad():
            assert objective.teacher is not None
            for parameter in objective.teacher.parameters():
                parameter.add_(1.0)
            outputs = objective.student(inputs)
            found = objective(inputs.with_targets(torch.tensor(targets)), None)
        expected, weight = _naive(outputs.tolist(), targets, settings)
        parts += [
            at_most(
                f"{name}: difference", abs(float(found.loss) - expected), 1e-6 * max(1, expected)
            ),
            at_most(f"{name}: weight, difference", abs(float(found.weight) - weight), 1e-6),
        ]
    return all_of(*parts)


@claim(
    "finetune.reads",
    "The head reads the encoder's last tokens that are valid and not CLS: what "
    "was not measured is neither attended to nor pooled, unless the encoder is causal.",
    source=OURS,
)
@torch.no_grad()
def reads(twin: Twin) -> Evidence:
    inputs = real(twin, 3)
    objective = _supervised(twin, _settings())
    encoder, head = objective.student.encoder, objective.student.head
    flags = torch.ones_like(inputs.values, dtype=torch.bool)
    flags[1, ..., flags.shape[-1] // 2 :] = False
    read, parts = Inputs(torch.where(flags, inputs.values, 0), flags), list[Evidence]()
    for name, given in (("all measured", Inputs(inputs.values)), ("half measured", read)):
        valid = None if given.valid is None else encoder.valid(given.valid)
        tokens = encoder.encode(given.values, None if encoder.causal else valid)[
            :, encoder.prefix :
        ]
        shown = torch.ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid
        means = torch.stack([row[own].mean(0) for row, own in zip(tokens, shown, strict=True)])
        scaled = (means - means.mean(1, keepdim=True)) / (
            means.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        linear, norm = head.linear, head.norm
        expected = (scaled * norm.weight + norm.bias) @ linear.weight.T + linear.bias  # type: ignore[operator, union-attr]
        parts.append(
            at_most(f"{name}: difference", apart(objective.student(given), expected), 1e-9)
        )
    return all_of(*parts)


@claim(
    "finetune.rates",
    "A layer learns at the decay to the power of the layers above it, the head "
    "and the last norm at the rate, the dynamics of a state space at a tenth; with a decay of 0 "
    "the head alone is trained and the encoder stays in evaluation.",
    source=OURS,
)
def rates(twin: Twin) -> Evidence:
    """By the places of the units in the encoder; for the average there is one more copy."""
    objective = _supervised(twin, _settings(layer_decay=0.5), teacher=True)
    assert objective.teacher is not None
    units = [
        m
        for m in objective.student.encoder.modules()
        if type(m).__bases__[0].__name__ == "Unit"
        or "Unit" in [base.__name__ for base in type(m).__mro__[1:]]
    ]
    depth = {id(p): n for n, unit in enumerate(units, start=1) for p in unit.parameters()}
    first = {id(p) for p in objective.student.encoder.tokenizer.parameters()}
    wrong, numbered = list[str](), set[int]()
    for name, parameter in objective.student.named_parameters(prefix="student"):
        last = name.rpartition(".")[2]
        place = depth.get(id(parameter), len(units) + 1)
        if id(parameter) not in depth and (
            id(parameter) in first or last == "cls" or name.endswith("leads.weight")
        ):
            place = 0
        slow = 0.1 if last in ("log_step", "log_decay", "frequency") else 1.0
        numbered.add(place)
        expected = slow * 0.5 ** (len(units) + 1 - place)
        wrong += [name] * (not math.isclose(objective.lr_scale(name), expected, rel_tol=1e-12))
    frozen = _supervised(twin, _settings(layer_decay=0.0))
    trained = {name.split(".")[1] for name in frozen.trainable()}
    modes = {m.training for m in frozen.train().student.encoder.modules()}
    also = frozen.student.head.training
    averaged = objective.encoder("teacher") is not objective.encoder("student")
    pairs, without = objective.ema_pairs(), frozen.ema_pairs()
    own = copy.deepcopy(objective)
    own.initialise(twin.seed + 1)
    assert own.teacher is not None
    gap = greatest(*(apart(a, b) for a, b in zip(own.student.parameters(), own.teacher.parameters(),
                                          strict=True)))  # fmt: skip
    drawn = [_drawn(twin, seed) for seed in (3, 3, 4)]
    encoder = build_encoder(twin.config)
    encoder.initialise(3)
    heads = [one.student.head.get_parameter("linear.weight") for one in drawn]
    return all_of(
        at_most(
            "weights of the encoder, from its own draw",
            greatest(
                *(
                    apart(a, b)
                    for a, b in zip(
                        encoder.parameters(), drawn[0].student.encoder.parameters(), strict=True
                    )
                )
            ),
            0.0,
        ),
        at_most("weights of the head, drawn twice", apart(heads[0], heads[1]), 0.0),
        above("drawn from another seed", apart(heads[0], heads[2]), 1e-6),
        equal(
            "weights of the average that are trained",
            sum(p.requires_grad for p in objective.teacher.parameters()),
            0,
        ),
        none("parameters at another rate", wrong),
        equal("layers", str(sorted(numbered)), str(list(range(len(units) + 2)))),
        equal("trained at a decay of 0", str(sorted(trained)), "['head']"),
        equal("its encoder in training", str(modes), "{False}"),
        equal("its head in training", also, True),
        equal("an average is read out", averaged, True),
        equal("pairs of an average, and without one", f"{len(pairs)}, {len(without)}", "1, 0"),
        at_most("average and weights at the start", gap, 0.0),
        equal(
            "without an average, the weights",
            frozen.encoder("teacher") is frozen.encoder("student"),
            True,
        ),
        above("operations", objective.step_flops(tuple(real(twin, 1).values.shape[2:])), 0),
        refusals(
            _refused(twin),
            {
                "weights of each": lambda: _checked(twin, class_weights=(1.0,) * 3),
                "a number": lambda: _checked(twin, target="regression"),
            },
        ),
    )


def _drawn(twin: Twin, seed: int) -> Supervised:
    settings = _settings()
    encoder = build_encoder(twin.config)
    head = HEADS["linear"](encoder.width, len(settings.names))
    objective = Supervised(Classifier(encoder, head), settings, teacher=False)
    objective.initialise(seed)
    return objective


def _checked(twin: Twin, **own: Any) -> None:
    _settings(**own).check(twin.config)


def _refused(twin: Twin) -> dict[str, Case]:
    return {
        "two weights for three": (
            lambda: _checked(twin, class_weights=(1.0, 2.0)),
            "class_weights has 2 numbers, there are 3",
        ),
        "weights of a number": (
            lambda: _checked(twin, target="regression", class_weights=(1.0,) * 3),
            "class_weights is for classes",
        ),
    }
