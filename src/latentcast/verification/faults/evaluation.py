"""Bugs of scores: what is fitted on what, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from latentcast.artifacts import ecg, image
from latentcast.artifacts.encoder import Encoder
from latentcast.evaluation import features, metrics, protocol
from latentcast.evaluation.heads import base, knn, logistic, multinomial
from latentcast.evaluation.heads.base import Standardiser
from latentcast.signals.recording import INVALID
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.data import is_ecg, is_image

CLASSIC = "a classic"
Slip = tuple[Any, str, Callable[[Any], Any]]


def _slips(*slips: Slip) -> Callable[[], AbstractContextManager[None]]:
    """``owner.name`` becomes ``make(what it was)``, for each of them."""

    @contextmanager
    def inject() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, make in slips:
                stack.enter_context(replaced(owner, name, make))
            yield

    return inject


def _always(what: Any) -> Callable[[Any], Any]:
    return lambda was: what


# The encoder


@contextmanager
def _turned_off(source: Any) -> Iterator[None]:
    """Evaluation mode, for good."""
    if isinstance(source, torch.nn.Module):
        source.eval()
    yield


def _moving(was: Any) -> Any:
    """Reading an encoder trains it a little."""

    def token_layers(self: Encoder, samples: Any) -> Any:
        read = was(self, samples)
        with torch.no_grad():
            self.network.get_parameter(
                "norm.weight" if hasattr(self.network, "norm") else "finest.norm.weight"
            ).mul_(1.001)
        return read

    return token_layers


def _leads_hidden(was: Any) -> Any:
    """The random masking of channels that training has goes on."""
    generator = np.random.default_rng(0)

    def token_layers(self: Encoder, samples: Any) -> Any:
        hidden = samples.copy()
        channel = int(generator.integers(samples.shape[-1]))
        kept = generator.random() < 0.5
        hidden[..., channel] = hidden[..., channel] * kept if samples.dtype == np.uint8 else INVALID
        return was(self, hidden)

    return token_layers


def _every_token(was: Any) -> Any:
    return lambda tokens, valid, how: was(tokens, torch.ones_like(valid), how)


def _cls_allowed(was: Any) -> Any:
    def check(pooling: str, *, causal: bool) -> Any:
        return "mean" if pooling == "cls" else was(pooling, causal=causal)

    return check


def _trained_floor(was: Any) -> Any:
    def random(cls: Any, run: Any, seed: int | None = None) -> Any:
        made = cls.from_pretrained(run)
        made.name = "random-initialised"
        return made

    return classmethod(random)


def _not_begun(was: Any) -> Any:
    """A floor of weights that were never drawn as the run's were."""

    def random(cls: Any, run: Any, seed: int | None = None) -> Any:
        made = was.__func__(cls, run, seed)
        with torch.no_grad():
            for p in made.objective.parameters():
                p.normal_(0, 0.5)
        return made

    return classmethod(random)


# What is fitted on what


def _test_fitted(was: Any) -> Any:
    def read(layers: Any, y: Any, places: Any, *rest: Any) -> Any:
        train, validation, test = places
        return was(layers, y, [np.concatenate([train, test]), validation, test], *rest)

    return read


def _chosen_on_test(was: Any) -> Any:
    def read(layers: Any, y: Any, places: Any, *rest: Any) -> Any:
        train, _, test = places
        return was(layers, y, [train, test, test], *rest)

    return read


def _train_chosen(was: Any) -> Any:
    def read(layers: Any, y: Any, places: Any, *rest: Any) -> Any:
        train, _, test = places
        return was(layers, y, [train, train, test], *rest)

    return read


def _all_standardised(was: Any) -> Any:
    """Features are standardised over all records before they are split."""

    def extract(*args: Any, **said: Any) -> Any:
        return {
            name: ((x - x.mean(0)) / (x.std(0) + 1e-12)).astype(np.float32)
            for name, x in was(*args, **said).items()
        }

    return extract


def _as_they_are(was: Any) -> Any:
    def fit(cls: Any, x: Any) -> Any:
        return cls(np.zeros(x.shape[1]), np.ones(x.shape[1]))

    return classmethod(fit)


def _with_penalties(change: Callable[[float, int], float]) -> tuple[Slip, Slip]:
    """Both regressions take the penalty C for ``change(C, rows)``."""

    def binary(was: Any) -> Any:
        return lambda x, y, penalties: was(x, y, [change(c, len(x)) for c in penalties])

    def multi(was: Any) -> Any:
        def path(x: Any, y: Any, penalties: Any) -> Any:
            found = was(x, y, [change(c, len(x)) for c in penalties])
            for c, (_, weights, intercepts) in zip(penalties, found, strict=False):
                yield c, weights, intercepts

        return path

    return (logistic, "logistic_regression", binary), (multinomial, "regression_path", multi)


def _doubled(was: Any) -> Any:
    """``softmax`` before a cross-entropy that has one."""

    def entropy(logits: Any, y: Any, reduction: str) -> Any:
        return F.cross_entropy(logits.softmax(-1), y, reduction=reduction)

    return SimpleNamespace(cross_entropy=entropy, linear=F.linear)


# What is counted


def _ties_won(was: Any) -> Any:
    def auroc(y: Any, scores: Any, counts: Any = None) -> Any:
        return was(y, scores + 1e-9 * np.asarray(y), counts)

    return auroc


def _pooled(was: Any) -> Any:
    """All classes in one ranking."""

    def auroc(y: Any, scores: Any, counts: Any = None) -> Any:
        labels = np.shape(y)[1]
        many = None if counts is None else np.repeat(counts, labels, 1)
        one = was(np.reshape(y, (-1, 1)), np.reshape(scores, (-1, 1)), many)
        return np.repeat(one, labels, -1)

    return auroc


def _half_for_none(was: Any) -> Any:
    return lambda areas: np.where(np.isfinite(areas), areas, 0.5).mean(-1)


def _unpaired(was: Any) -> Any:
    def difference(one: Any, other: Any) -> Any:
        value = metrics.macro(one.columns) - metrics.macro(other.columns)
        redrawn = metrics.macro(one.redrawn) - np.roll(metrics.macro(other.redrawn), 1)
        return metrics.estimate(value, redrawn)

    return difference


def _rolled_score(was: Any) -> Any:
    return lambda kind, y, *args: was(kind, np.roll(y, 1, 0), *args)


def _distance_as_cosine(was: Any) -> Any:
    """1 - d of unit vectors, where the cosine is 1 - d² / 2."""

    def nearest(bank: Any, queries: Any, k: int = knn.K) -> Any:
        rows, cosine = was(bank, queries, k)
        return rows, 1 - np.sqrt(np.maximum(0, 2 - 2 * cosine))

    return nearest


def _raw_distance(was: Any) -> Any:
    def nearest(bank: Any, queries: Any, k: int = knn.K) -> Any:
        held, asked = torch.from_numpy(bank), torch.from_numpy(queries)
        found = torch.cdist(asked, held).topk(min(k, len(bank)), largest=False)
        return found.indices.numpy(), (1 - found.values).numpy()

    return nearest


CHECKS = tuple((owner, "check_pooling", _cls_allowed) for owner in (features, protocol, ecg, image))

FAULTS: tuple[Fault, ...] = (
    Fault("probe.training-mode", "A network is read in the mode in which it comes.", CLASSIC,
          _slips((features, "evaluating", _always(lambda source: nullcontext()))),
          ("probe.eval-mode",)),
    Fault("probe.left-in-eval", "A network that was probed stays in evaluation mode.",
          "specification, D21: the caller's model is frozen for good",
          _slips((features, "evaluating", _always(_turned_off))), ("probe.eval-mode",)),
    Fault("probe.moves-encoder", "Reading an encoder moves a weight of it.", CLASSIC,
          _slips((Encoder, "token_layers", _moving)), ("probe.frozen", "probe.deterministic")),
    Fault("probe.masking-goes-on", "Channels are hidden at random in evaluation, too.",
          "specification 6, pain 6: random lead masking on at inference",
          _slips((Encoder, "token_layers", _leads_hidden)), ("probe.deterministic",)),
    Fault("probe.every-token", "Padding is pooled with the rest.", CLASSIC,
          _slips(*((owner, "pool", _every_token) for owner in (features, ecg, image))),
          ("probe.valid-tokens",)),
    Fault("probe.first-window", "Of a long record only the beginning is read.", CLASSIC,
          _slips((features, "window_starts", _always(lambda length, window: [0]))),
          ("probe.windows",), is_ecg),
    Fault("probe.end-unread", "The last window is left out where half windows do not come out "
          "even.", CLASSIC,
          _slips((features, "window_starts", _always(lambda length, window: [
              *range(0, max(1, length - window + 1), max(1, window // 2))]))),
          ("probe.windows",), is_ecg),
    Fault("probe.cls-allowed", "Pooling by CLS is not refused.", "specification, defect 9",
          _slips(*CHECKS), ("probe.no-cls",)),
    Fault("probe.floor-trained", "The floor is the trained network.", CLASSIC,
          _slips((Encoder, "random", _trained_floor)), ("probe.floor",)),
    Fault("probe.floor-drawn-otherwise", "The floor is drawn otherwise than the run began.",
          CLASSIC, _slips((Encoder, "random", _not_begun)), ("probe.floor",)),
    Fault("probe.test-fitted", "The test split is fitted on, too.", CLASSIC,
          _slips((protocol, "_read", _test_fitted)),
          ("probe.test-unseen", "probe.standardised-on-train", "probe.minimum", "probe.bank")),
    Fault("probe.chosen-on-test", "Layer and penalty are chosen on the test split.", CLASSIC,
          _slips((protocol, "_read", _chosen_on_test)),
          ("probe.chosen-on-validation",)),
    Fault("probe.chosen-on-train", "The penalty is the one that fits the training rows best.",
          CLASSIC, _slips((protocol, "_read", _train_chosen)),
          ("probe.chosen-on-validation",)),
    Fault("probe.one-penalty", "Only the first of the penalties is tried.", CLASSIC,
          _slips((logistic, "PENALTIES", lambda was: was[:1]),
                 (multinomial, "PENALTIES", lambda was: was[:1])),
          ("probe.chosen-on-validation",)),
    Fault("probe.standardised-on-all", "Features are standardised before they are split.",
          CLASSIC,
          _slips((protocol, "extract", _all_standardised)),
          ("probe.test-unseen", "probe.standardised-on-train")),
    Fault("probe.not-standardised", "Features are not standardised.", CLASSIC,
          _slips((Standardiser, "fit", _as_they_are)), ("probe.standardised-on-train",)),
    Fault("probe.penalty-doubled", "The penalty is |w|² and not its half.", CLASSIC,
          _slips(*_with_penalties(lambda c, rows: c / 2)), ("probe.minimum",)),
    Fault("probe.mean-for-sum", "The objective has the mean over rows where it says sum.",
          CLASSIC, _slips(*_with_penalties(lambda c, rows: c / rows)), ("probe.minimum",)),
    Fault("probe.unconverged", "The solver stops long before the minimum.", CLASSIC,
          _slips((logistic, "TOLERANCE", _always(0.7)), (multinomial, "TOLERANCE", _always(30.0)),
                 (multinomial, "STRIDE", _always(1))),
          ("probe.minimum",)),
    Fault("probe.double-softmax", "A softmax before a cross-entropy that has one.", CLASSIC,
          _slips((multinomial, "F", _doubled)), ("probe.minimum",), is_image),
    Fault("probe.ties-won", "A tie counts as a pair in order.", CLASSIC,
          _slips((metrics, "auroc", _ties_won)),
          ("probe.auroc",), is_ecg),
    Fault("probe.classes-pooled", "All classes are ranked together and not averaged over.",
          CLASSIC, _slips((metrics, "auroc", _pooled)),
          ("probe.auroc", "probe.score"), is_ecg),
    Fault("probe.half-for-none", "A class without a pair counts as 0.5.",
          "specification, defect 7",
          _slips(*((owner, "macro", _half_for_none) for owner in (metrics, base))),
          ("probe.auroc",), is_ecg),
    Fault("probe.unpaired", "Each score of a difference has resamples of its own.", CLASSIC,
          _slips((metrics, "difference", _unpaired)),
          ("probe.paired",)),
    Fault("probe.records-drawn", "The bootstrap draws records and not patients.", CLASSIC,
          _slips((metrics, "patient_numbers", _always(lambda ids: np.arange(len(ids))))),
          ("probe.patients",), is_ecg),
    Fault("probe.rows-shifted", "Scores are held against the labels of the row beside.", CLASSIC,
          _slips((metrics, "score", _rolled_score)),
          ("probe.score",)),
    Fault("probe.distance-as-cosine", "kNN takes 1 minus the distance for the cosine.",
          "specification, D21", _slips((knn, "neighbours", _distance_as_cosine)),
          ("probe.cosine",), is_image),
    Fault("probe.raw-distance", "kNN goes by the distance of vectors of any length.", CLASSIC,
          _slips((knn, "neighbours", _raw_distance)), ("probe.cosine",), is_image),
    Fault("probe.leak-passed", "A leak is found, and scored all the same.", CLASSIC,
          _slips((protocol, "_refuse", _always(lambda findings, store: None))),
          ("probe.leak-refused",), is_ecg),
)  # fmt: skip
