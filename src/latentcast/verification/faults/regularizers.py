"""Bugs of VICReg and SIGReg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.nn.hierarchy import Tokens
from latentcast.objectives import jepa, regularizers
from latentcast.objectives.jepa import Jepa
from latentcast.randomness import Draw, tensor_uniform
from latentcast.verification.claims.regularizers import still
from latentcast.verification.fault import Fault, replaced
from latentcast.verification.observe.jepa import has_teacher, is_jepa


@contextmanager
def _everywhere(name: str, make: Any) -> Iterator[None]:
    """A function of the regularizers, where it is and where the objective looks it up."""
    with ExitStack() as stack:
        stack.enter_context(replaced(regularizers, name, make))
        stack.enter_context(replaced(jepa, name, make))
        yield


def _regularized(change: Any) -> AbstractContextManager[None]:
    """``Jepa._regularized`` is ``change(was, self, loss, trained, draw)``."""

    def make(was: Any) -> Any:
        def regularized(
            self: Jepa, loss: Tensor, trained: list[Tokens], draw: Draw | None
        ) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = change(was, self, loss, trained, draw)
            return found

        return regularized

    return replaced(Jepa, "_regularized", make)


def _different_samples() -> AbstractContextManager[None]:
    """The two halves of a batch are pulled together."""

    def make(was: Any) -> Any:
        def variance(x: Tensor, target: float = 1.0, weight: Tensor | None = None) -> Tensor:
            half = len(x) // 2
            pulled = 25 * F.mse_loss(x[:half], x[half : 2 * half])
            spread: Tensor = was(x, target, weight)
            return spread + pulled

        return variance

    return replaced(jepa, "variance", make)


def _pairs_unchecked() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        def invariance(
            a: Tensor, b: Tensor, ids_a: Tensor, ids_b: Tensor, weight: Tensor | None = None
        ) -> Tensor:
            out: Tensor = was(a, b, ids_a, ids_a, weight)
            return out

        return invariance

    return replaced(regularizers, "invariance", make)


def _no_hinge() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        def variance(x: Tensor, target: float = 1.0, weight: Tensor | None = None) -> Tensor:
            return (target - (x.var(0) + 1e-4).sqrt()).mean()

        return variance

    return _everywhere("variance", make)


def _no_root() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        def variance(x: Tensor, target: float = 1.0, weight: Tensor | None = None) -> Tensor:
            return F.relu(target - x.var(0)).mean()

        return variance

    return _everywhere("variance", make)


def _wrong_axis() -> AbstractContextManager[None]:
    """The spread of each row over its dimensions, which says nothing of collapse."""

    def make(was: Any) -> Any:
        def variance(x: Tensor, target: float = 1.0, weight: Tensor | None = None) -> Tensor:
            return F.relu(target - (x.var(1) + 1e-4).sqrt()).mean()

        return variance

    return _everywhere("variance", make)


def _covariance(change: Any) -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        def covariance(x: Tensor, weight: Tensor | None = None) -> Tensor:
            found: Tensor = change(x)
            return found

        return covariance

    return _everywhere("covariance", make)


def _off(matrix: Tensor) -> Tensor:
    return matrix - torch.diag(torch.diag(matrix))


def _not_centred() -> AbstractContextManager[None]:
    return _covariance(lambda x: _off(x.T @ x / (len(x) - 1)).square().sum() / x.shape[1])


def _diagonal() -> AbstractContextManager[None]:
    def change(x: Tensor) -> Tensor:
        y = x - x.mean(0)
        return (y.T @ y / (len(x) - 1)).square().sum() / x.shape[1]

    return _covariance(change)


def _of_samples() -> AbstractContextManager[None]:
    """The covariance of rows with rows."""

    def change(x: Tensor) -> Tensor:
        y = x - x.mean(0)
        return _off(y @ y.T / (len(x) - 1)).square().sum() / x.shape[1]

    return _covariance(change)


def _added() -> AbstractContextManager[None]:
    """``prediction + λ · regularizer``."""

    def change(was: Any, self: Jepa, loss: Tensor, trained: Any, draw: Any) -> Any:
        mixed, penalty = was(self, loss, trained, draw)
        assert self.config.regularizer is not None
        return mixed + self.config.regularizer.weight * loss, penalty

    return _regularized(change)


def _detached() -> AbstractContextManager[None]:
    """The regularizer looks at embeddings that have no gradient."""

    def change(was: Any, self: Jepa, loss: Tensor, trained: list[Tokens], draw: Any) -> Any:
        still = [Tokens(t.values.detach(), t.places, t.seen) for t in trained]
        return was(self, loss, still, draw)

    return _regularized(change)


def _finest_alone() -> AbstractContextManager[None]:
    """Unseen cells of the coarser levels are regularized, too."""

    def change(was: Any, self: Jepa, loss: Tensor, trained: list[Tokens], draw: Any) -> Any:
        return was(self, loss, [Tokens(t.values[:, ::2], t.places, None) for t in trained], draw)

    return _regularized(change)


def _waves(change: Any) -> AbstractContextManager[None]:
    """What enters the characteristic function, or leaves it, is changed."""

    def make(was: Any) -> Any:
        return SimpleNamespace(apply=lambda *args: change(was.apply, *args))

    return replaced(regularizers, "_Waves", make)


def _standardised() -> AbstractContextManager[None]:
    def change(apply: Any, y: Tensor, *rest: Any) -> Any:
        return apply((y - y.mean(0)) / (y.std(0) + 1e-6), *rest)

    return _waves(change)


def _cosines_alone() -> AbstractContextManager[None]:
    """The imaginary part is left out, so a shift to the other side is not seen."""

    def change(apply: Any, *args: Any) -> Any:
        out = apply(*args)
        return torch.stack([out[0], torch.zeros_like(out[1])])

    return _waves(change)


def _sigreg(change: Any) -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        return lambda x, stream, **told: change(was, x, stream, told)

    return _everywhere("sigreg", make)


def _by_rank() -> AbstractContextManager[None]:
    """The slices depend on which samples a rank holds."""

    def change(was: Any, self: Jepa, loss: Tensor, trained: Any, draw: Draw | None) -> Any:
        own = None if draw is None else replace(draw, seed=draw.seed + int(draw.ids.sum()))
        return was(self, loss, trained, own)

    return _regularized(change)


def _not_unit() -> AbstractContextManager[None]:
    def make(was: Any) -> Any:
        return lambda stream, width, slices, like: was(stream, width, slices, like) * width**0.5

    return replaced(regularizers, "directions", make)


def _one_orthant() -> AbstractContextManager[None]:
    """Uniform numbers where normal ones belong: all directions point one way."""

    def make(was: Any) -> Any:
        def directions(stream: int, width: int, slices: int, like: Tensor) -> Tensor:
            counters = torch.arange(width * slices, device=like.device)
            numbers = tensor_uniform(stream, counters).to(like.dtype)
            return F.normalize(numbers.view(width, slices), dim=0)

        return directions

    return replaced(regularizers, "directions", make)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "vicreg.different-samples",
        "VICReg pulls the two halves of a batch together.",
        "spec of H-JEPA, defect D7",
        _different_samples,
        ("vicreg.mixture",),
        has_teacher,
    ),
    Fault(
        "vicreg.pairs-unchecked",
        "Invariance takes any two rows for views of one sample.",
        "spec of H-JEPA, defect D7",
        _pairs_unchecked,
        ("vicreg.same-sample",),
        is_jepa,
    ),
    Fault(
        "vicreg.no-hinge",
        "Spread beyond the target is rewarded.",
        "classic: a lost max(0, ·)",
        _no_hinge,
        ("vicreg.variance",),
        is_jepa,
    ),
    Fault(
        "vicreg.no-root",
        "The hinge is on the variance and not on the deviation.",
        "VICReg, section 4.1",
        _no_root,
        ("vicreg.variance",),
        is_jepa,
    ),
    Fault(
        "vicreg.wrong-axis",
        "The variance term is over the channels of a token.",
        "classic: the wrong axis",
        _wrong_axis,
        ("vicreg.variance", "vicreg.mixture"),
        has_teacher,
    ),
    Fault(
        "vicreg.not-centred",
        "Covariances are taken about 0.",
        "classic",
        _not_centred,
        ("vicreg.covariance",),
        is_jepa,
    ),
    Fault(
        "vicreg.diagonal",
        "Variances are punished with the covariances.",
        "classic",
        _diagonal,
        ("vicreg.covariance",),
        is_jepa,
    ),
    Fault(
        "vicreg.of-samples",
        "Covariances are those of samples and not of dimensions.",
        "classic: a transposed product",
        _of_samples,
        ("vicreg.covariance",),
        is_jepa,
    ),
    Fault(
        "regularizer.added",
        "The regularizer is added to the whole prediction loss.",
        "issue 413 of stable-pretraining; spec of JEPA, 3.1",
        _added,
        ("vicreg.mixture", "sigreg.mixture", "regularizer.shipped"),
        has_teacher,
    ),
    Fault(
        "regularizer.detached",
        "The regularizer's gradient reaches nothing.",
        "classic: a detached embedding",
        _detached,
        ("regularizer.reaches-student",),
        has_teacher,
    ),
    Fault(
        "regularizer.unseen-rows",
        "Half the tokens are regularized, and those that nothing was seen of.",
        "classic: a lost validity mask",
        _finest_alone,
        ("vicreg.mixture", "sigreg.mixture", "regularizer.shipped"),
        has_teacher,
    ),
    Fault(
        "sigreg.standardised",
        "Projections are standardised before they are tested.",
        "spec of H-JEPA, defect D8",
        _standardised,
        ("sigreg.not-standardised", "sigreg.definition"),
        is_jepa,
    ),
    Fault(
        "sigreg.cosines-alone",
        "Half of the characteristic function is left out.",
        "classic: a real part for a complex number",
        _cosines_alone,
        ("sigreg.definition",),
        is_jepa,
    ),
    Fault(
        "sigreg.mean-for-total",
        "The statistic is not multiplied by the number of rows.",
        "spec of JEPA, 3.1 (N_total)",
        lambda: _sigreg(lambda was, x, stream, told: was(x, stream, **told) / len(x)),
        ("sigreg.definition", "sigreg.mixture"),
        has_teacher,
    ),
    Fault(
        "sigreg.fixed-slices",
        "The same slices at every step.",
        "spec of JEPA, 3.1 (new every step)",
        lambda: _sigreg(lambda was, x, stream, told: was(x, 0, **told)),
        ("sigreg.slices",),
        still,
    ),
    Fault(
        "sigreg.slices-by-rank",
        "Each rank draws slices of its own.",
        "le-wm issue 24; spec of JEPA, 3.1",
        _by_rank,
        ("sigreg.slices",),
        still,
    ),
    Fault(
        "sigreg.not-unit",
        "Slices are not of unit length.",
        "classic: a lost normalisation",
        _not_unit,
        ("sigreg.directions",),
        is_jepa,
    ),
    Fault(
        "sigreg.one-orthant",
        "Slices all point one way: uniform numbers for normal ones.",
        "classic: rand for randn",
        _one_orthant,
        ("sigreg.directions",),
        is_jepa,
    ),
)
