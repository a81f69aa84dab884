"""Settings that an objective cannot be trained with are refused before training, with their fix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from latentcast.config import Config
from latentcast.objectives.cpc import CpcConfig
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.masked import MaskedConfig
from latentcast.objectives.nepa import NepaConfig
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, equal
from latentcast.verification.observe.config import has_transformer, patch_by_patch
from latentcast.verification.observe.refusals import Case, refusals
from latentcast.verification.observe.twin import Twin

QUIET = "our design, law 6: nothing fails quietly"


def _is(kind: type[Any]) -> Callable[[Twin], bool]:
    return lambda twin: isinstance(twin.recipe.objective, kind)


def _reads_patches(twin: Twin) -> bool:
    """A JEPA that drops what it hides from a transformer."""
    return _is(JepaConfig)(twin) and has_transformer(twin) and patch_by_patch(twin)


def _changed(twin: Twin, **changes: Any) -> Callable[[], object]:
    """The twin under other settings, ``__`` for a dot, checked as a whole."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return lambda: Config.model_validate(twin.config.updated(named).model_dump())


@claim(
    "nepa.refused",
    "A NEPA is not trained without a causal mask, without CLS, or with positions "
    "that would be part of what is predicted.",
    source=QUIET,
    about=lambda twin: _is(NepaConfig)(twin) and has_transformer(twin),
)
def of_nepa(twin: Twin) -> Evidence:
    sincos = {"kind": "sincos"}
    cases: dict[str, Case] = {
        "both directions": (
            _changed(twin, encoder__causal=False),
            "encoder.causal is false: NEPA would see the patch it predicts",
        ),
        "no CLS": (
            _changed(twin, encoder__cls=False),
            "encoder.cls is false: NEPA predicts the first",
        ),
        "fixed positions": (
            _changed(twin, encoder__positions=sincos, objective__views=None),
            "positions sincos would be part of what NEPA predicts",
        ),
    }
    return refusals(cases, {"the recipe": _changed(twin)})


@claim(
    "cpc.refused",
    "CPC is not trained without a causal mask, with positions that tell which patch "
    "comes when, or further ahead than an input has patches.",
    source=QUIET,
    about=_is(CpcConfig),
)
def of_cpc(twin: Twin) -> Evidence:
    patches = math.prod(twin.config.grids[0])
    cases: dict[str, Case] = {
        "both directions": (_changed(twin, encoder__causal=False),
                            "encoder.causal is false: CPC would see the patches it predicts"),
        "all patches ahead": (_changed(twin, objective__steps=patches),
                              f"reaches beyond the {patches} patches of an input; set "
                              f"objective.steps={patches - 1}"),
    }  # fmt: skip
    if has_transformer(twin):
        cases["fixed positions"] = (
            _changed(twin, encoder__positions={"kind": "sincos"}),
            "positions sincos would tell CPC which patch comes",
        )
    batch = twin.config.updated({"objective.negatives": "batch", "train.micro_batches": 1})
    return all_of(
        refusals(cases, {"one less": _changed(twin, objective__steps=patches - 1)}),
        equal("what needs the whole batch", str(batch.objective.whole_batch), "negatives"),
        equal("of a recording's own", str(twin.config.objective.whole_batch), "None"),
    )


@claim("masked.refused", "Masked prediction is not trained with a causal mask, CLS, without an "
       "average, with spans that leave nothing, or with a kernel that has no middle.", source=QUIET,
       about=_is(MaskedConfig))  # fmt: skip
def of_masked(twin: Twin) -> Evidence:
    least = min(twin.config.of_views.grids[0])
    ratio = {"objective__mask_ratio": 0.01}
    cases: dict[str, Case] = {
        "no average": (_changed(twin, ema=None), "ema is null: the targets are a teacher's"),
        "a span of all": (
            _changed(twin, objective__mask_span=least, **ratio),
            f"mask_span {least} leaves nothing of a grid",
        ),
        "its fix": (
            _changed(twin, objective__mask_span=least, **ratio),
            f"use at most {max(1, least // 2)}, or",
        ),
        "an even kernel": (
            _changed(twin, objective__predictor__kernel=4),
            "kernel 4 has no middle; use 5",
        ),
    }
    if has_transformer(twin):
        cases["one direction"] = (_changed(twin, encoder__causal=True), "encoder.causal is true")
        cases["CLS"] = (_changed(twin, encoder__cls=True), "encoder.cls is true")
    batchwise = twin.config.objective.whole_batch
    return all_of(
        refusals(
            cases,
            {
                "a span of all but one": _changed(twin, objective__mask_span=least - 1, **ratio),
                "an odd kernel": _changed(twin, objective__predictor__kernel=3),
            },
        ),
        equal("what needs the whole batch", str(batchwise), "kind"),
    )


@claim("jepa.refused", "A JEPA is not trained with a causal mask, CLS, or without what keeps its "
       "targets from collapsing: a teacher, or a regularizer.", source=QUIET,
       about=_reads_patches)  # fmt: skip
def of_jepa(twin: Twin) -> Evidence:
    alone: dict[str, Any] = {
        "objective__regularizer": {"kind": "sigreg"},
        "train__micro_batches": 1,
    }
    teacher = {"ema": {"base": 0.99}}
    cases: dict[str, Case] = {
        "one direction": (_changed(twin, encoder__causal=True), "encoder.causal is true: "),
        "CLS": (
            _changed(twin, encoder__cls=True),
            "encoder.cls is true: nothing in a JEPA trains it",
        ),
        "no teacher": (
            _changed(twin, objective__target="teacher", ema=None),
            "target teacher needs an ema",
        ),
        "a teacher too many": (
            _changed(twin, objective__target="student", objective__views=None, **teacher, **alone),
            "set ema=null",
        ),
        "no regularizer": (
            _changed(twin, objective__target="student", ema=None, objective__regularizer=None),
            "collapses without a regularizer",
        ),
    }
    return refusals(cases, {"the recipe": _changed(twin)})
