"""One source of an evaluation, read by every head and scored on every cohort of a task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from latentcast.artifacts.classifier import Classifier
from latentcast.evaluation import metrics
from latentcast.evaluation.cache import FeatureCache
from latentcast.evaluation.concatenation import Concatenation
from latentcast.evaluation.cross_validation import OutOfFold
from latentcast.evaluation.estimate import LISTED, Score
from latentcast.evaluation.evaluation import Reading
from latentcast.evaluation.features import FeatureSource
from latentcast.evaluation.heads import HEADS, PATHS, READ_TOKENS
from latentcast.evaluation.low_shot import Amount, subset
from latentcast.evaluation.measurement import Measurement, Scored, columns_of
from latentcast.evaluation.predictions import of_metric, predict
from latentcast.evaluation.probabilities import (
    probabilities_of,
    with_calibrated_head,
    with_probabilities,
)
from latentcast.evaluation.protocol import choose_layer, trainable
from latentcast.evaluation.question import Group, Member, Question
from latentcast.evaluation.subgroups import subgroups
from latentcast.evaluation.tokens import TokenLayers

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a reading is a part of, and its macro average with those of the resamples."""

    head: str
    store: str
    amount: str
    reading: Reading
    redrawn: metrics.Floats


@dataclass(frozen=True, eq=False)
class Within:
    """The score of a head within the training records, and the seconds that it took."""

    head: str
    found: OutOfFold
    seconds: float


def tokens_of(member: Member, question: Question) -> TokenLayers | None:
    """The tokens of all records of the store that heads are fitted on, read once for all tasks;
    None where no head takes them."""
    source = member.reads
    if isinstance(source, Classifier | Concatenation) or not READ_TOKENS & set(question.heads):
        return None
    return TokenLayers(source, question.store, np.arange(len(question.store)), question.windows)


def readings(
    measured: Measurement,
    group: Group,
    member: Member,
    tokens: TokenLayers | None,
    cache: FeatureCache,
) -> list[Scores | Within]:
    """Everything that a member is read by; ``tokens`` are :func:`tokens_of` it."""
    if isinstance(member.reads, Classifier):
        return list(_classified(measured, group, member, member.reads))
    return list(_fitted(measured, member, member.reads, tokens, cache))


def _fitted(
    measured: Measurement,
    member: Member,
    source: FeatureSource | Concatenation,
    tokens: TokenLayers | None,
    cache: FeatureCache,
) -> Iterator[Scores | Within]:
    """Of each head and draw the readings of all cohorts."""
    question, kind, scored_on = measured.question, measured.targets.kind, measured.scored
    everything = np.arange(len(measured.store))
    pooled: Mapping[str, Any] = question.features(source, measured.store, everything, cache)
    elsewhere: list[Mapping[str, Any]] = [
        question.features(source, scored.store, scored.rows, cache) for scored in scored_on[1:]
    ]
    validation, test = measured.rows_of["validation"], measured.rows_of["test"]
    for name in question.heads:
        fit, layers = HEADS[name][kind], pooled
        others: Sequence[Mapping[str, Any]] = elsewhere
        if name in READ_TOKENS:
            if tokens is None or isinstance(source, Concatenation):
                continue
            fit, layers = partial(fit, seed=question.seed), tokens
            others = [
                TokenLayers(source, scored.store, scored.rows, question.windows)
                for scored in scored_on[1:]
            ]
        if question.layer in layers:
            layers = {question.layer: layers[question.layer]}
        if measured.cross_validation and name in PATHS:
            begin = time.perf_counter()
            found = measured.cross_validation.choose(layers, PATHS[name][kind])
            yield Within(name, found, time.perf_counter() - begin)
        for draw in measured.draws:
            y = columns_of(measured.targets.values, measured.targets.names, draw.names, kind)
            begin = time.perf_counter()
            layer, head = choose_layer(
                layers, y, [draw.train, validation, test], fit, kind, question.seed
            )
            fitting = time.perf_counter() - begin
            of_validation = layers[layer][validation], y[validation]
            tested = [layers[layer][test], *(other[layer] for other in others)]
            for scored, features in zip(scored_on, tested, strict=True):
                shares = None
                if kind == "multi-class":
                    shares = probabilities_of(head, features, kind, len(draw.names))
                predictions = head.predict(features)
                score, redrawn = _score(measured, scored, draw.names, predictions, shares)
                score = with_calibrated_head(
                    score, kind, draw.names, head, of_validation,
                    (features, scored.columns(draw.names, kind)), scored.counts,
                )  # fmt: skip
                seconds = {
                    "features": question.seconds(source, scored.store, cache), "fit": fitting,
                }  # fmt: skip
                reading = Reading(
                    member.run, member.seed, draw.number, layer, head.penalty,
                    head.validation, len(draw.train), draw.left_out, score, seconds,
                )  # fmt: skip
                yield Scores(name, scored.name, str(draw.amount), reading, redrawn)


def _classified(
    measured: Measurement, group: Group, member: Member, classifier: Classifier
) -> Iterator[Scores]:
    """The predictions of a fine-tuned network for all cohorts; none of another task."""
    settings, kind, choice = classifier.settings, measured.targets.kind, classifier.choice
    if settings.task != measured.task.name:
        return
    length = classifier.encoder.config.input.size[0]
    targets, train = measured.targets, measured.rows_of["train"]
    names, _ = trainable(measured.task, targets, train, measured.store)
    left_out = tuple(name for name in targets.names if name not in names)
    for scored in measured.scored:
        begin = time.perf_counter()
        found = predict(
            classifier.outputs, classifier.network, scored.store, scored.rows, length,
            settings, choice.temperature,
        )  # fmt: skip
        seconds = {"features": time.perf_counter() - begin, "fit": 0.0}
        predictions = of_metric(found, kind)
        probabilities, thresholds = found.values, np.array(choice.thresholds)
        if kind == "multi-label":
            places = [settings.names.index(name) for name in names]
            predictions = probabilities = found.values[:, places]
            # A file of one encoder has no thresholds: nothing was chosen for it.
            thresholds = thresholds[places] if len(thresholds) else np.full(len(names), np.nan)
        few = kind == "multi-label" or (kind == "multi-class" and len(names) <= LISTED)
        shares = probabilities if few and kind == "multi-class" else None
        score, redrawn = _score(measured, scored, names, predictions, shares)
        if few:
            score = with_probabilities(
                score, kind, names, scored.columns(names, kind), probabilities,
                choice.temperature, thresholds, scored.counts,
            )  # fmt: skip
        amount = Amount(settings.labels_fraction)
        drawn = subset(amount, measured.store, measured.labelled, targets, settings.labels_seed)
        reading = Reading(
            member.run, member.seed, 0, "", None, choice.score, len(drawn), left_out, score, seconds
        )
        yield Scores(group.kind, scored.name, str(amount), reading, redrawn)


def _score(
    measured: Measurement,
    scored: Scored,
    names: tuple[str, ...],
    predictions: Array,
    shares: Array | None,
) -> tuple[Score, metrics.Floats]:
    """The score, and the macro average: its value, then that of each resample."""
    kind, y = measured.targets.kind, scored.columns(names, measured.targets.kind)
    score, drawn = metrics.score(kind, y, predictions, names, scored.counts, shares)
    patients = scored.store.patient_ids[scored.rows]
    parts = subgroups(kind, y, predictions, names, scored.counts, patients, scored.by)
    values = [metrics.macro(drawn.columns), *metrics.macro(drawn.redrawn)]
    return replace(score, subgroups=parts), np.array(values, dtype=np.float64)
