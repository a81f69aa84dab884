"""A two-dimensional map of frozen features: for looking, not for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from latentcast import randomness
from latentcast.errors import LatentcastError, missing_extra, printable
from latentcast.report.style import CLASS_COLOURS, LIGHT, TEXT_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

#: More records than this are thinned at random: a map of more points shows ink, not structure.
MOST_RECORDS: Final = 2000
#: More classes than this cannot be told apart by colour.
MOST_CLASSES: Final = len(CLASS_COLOURS)
#: t-SNE looks at the leading principal components only (van der Maaten & Hinton 2008).
COMPONENTS: Final = 50
#: Fewer records than this are no map.
LEAST: Final = 5
PERPLEXITY: Final = 30.0
#: Small maps beside each other: fewer classes leave room, for a map that is stretched misleads.
LEAST_PANELS: Final = 5
_LINE: Final = 105
"""Characters beside each other on the figure."""

Points = npt.NDArray[np.float64]
Projection = tuple[Points, float, Points]
"""First two principal components (n, 2), their share of the variance, and t-SNE (n, 2)."""


def plot_embedding(
    features: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.bool_],
    classes: Sequence[str],
    *,
    seed: int = 0,
    points: Projection | None = None,
    grey: str = "several or none",
) -> Figure:
    """Maps of features by PCA and by t-SNE, coloured by class, and t-SNE once more a class each.

    Features are standardised. A record with one class has its colour, with several or none it is
    grey; in the small panels a record is coloured wherever the class is among its own. Distances
    between groups, their sizes and their number mean nothing in t-SNE.

    Args:
        features: (records, features), finite.
        labels: (records, classes), a record may have several classes or none.
        classes: names of the columns of ``labels``.
        seed: of the thinning above 2,000 records and of t-SNE; see :func:`thinned`.
        points: of :func:`project` of the thinned features, for a second map of the same.
        grey: what the legend calls records without a colour.

    Raises:
        LatentcastError: an extra is missing, shapes differ, or there are fewer than 5 records.
    """
    features, labels, classes = thinned(features, labels, classes, seed=seed)
    classes = tuple(" ".join(printable(name).split()) for name in classes)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot", "drawing the embedding map") from error

    linear, share, neighbours = points or project(features, seed)
    collapsed = "" if linear.any() else ": all records have the same features"

    figure = Figure(figsize=(10.0, 7.2), facecolor="none")
    columns = max(len(classes), LEAST_PANELS)
    outer = figure.add_gridspec(
        2, 1, height_ratios=(2.3, 1), left=0.01, right=0.99, top=0.95, bottom=0.01, hspace=0.3
    )
    large = outer[0].subgridspec(1, 2, wspace=0.04)
    small = outer[1].subgridspec(1, columns, wspace=0.08)
    title = f"PCA, {100 * share:.0f} % of the variance{collapsed}"
    dots = _all_classes(figure.add_subplot(large[0]), linear, labels, title)
    title = f"t-SNE, neighbourhoods only{collapsed}"
    _all_classes(figure.add_subplot(large[1]), neighbours, labels, title)
    names = [grey, *(_short(name, 17) for name in classes)]
    if not np.size(dots[0].get_offsets()):
        del dots[0], names[0]  # nothing is grey
    # Between the large maps and the small ones: inside a map it would lie on the records.
    legend = figure.legend(
        dots,
        [str(place) for place in range(len(dots))],
        loc="center left",
        bbox_to_anchor=(0.01, 0.334),
        ncols=len(names) if sum(map(len, names)) + 4 * len(names) <= _LINE else 5,
        borderpad=0.0,
        labelspacing=0.3,
        fontsize=TEXT_POINTS - 0.5,
        frameon=False,
        labelcolor=LIGHT["ink"],
        handletextpad=0.2,
        columnspacing=1.2,
        markerscale=1.8,
    )
    # Set here: matplotlib leaves out a name that begins with "_", and reads "$" as mathematics.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    for column, name in enumerate(classes):
        member = labels[:, column]
        title = f"{_short(name, _LINE // columns)}\nn = {int(member.sum()):,}"
        _one_class(figure.add_subplot(small[column]), neighbours, member, title, column)
    return figure


def thinned(
    features: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.bool_],
    classes: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_], tuple[str, ...]]:
    """What a map can show: at most 2,000 records, and at most 8 classes.

    The records are drawn at random; the classes are the most frequent among these records, in
    their old order. Arguments and errors are those of :func:`plot_embedding`.
    """
    features, labels = _checked(features, labels, classes)
    if len(features) > MOST_RECORDS:
        order = randomness.permutation(randomness.key(seed, "embedding"), len(features))
        rows = np.sort(order[:MOST_RECORDS])
        features, labels = features[rows], labels[rows]
    frequent = np.sort(np.argsort(-labels.sum(axis=0), kind="stable")[:MOST_CLASSES])
    return features, labels[:, frequent], tuple(classes[column] for column in frequent)


def project(features: npt.NDArray[np.floating[Any]], seed: int) -> Projection:
    """The points of both maps. Features that do not differ at all have the origin for all three.

    The same input and seed give the same points. ``features`` (n, F) are standardised first.
    Raises LatentcastError when scikit-learn is missing.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("scikit-learn", "eval", "the embedding map") from error

    wide = features.astype(np.float64)
    spread = wide.std(axis=0)
    # Below this a deviation is the rounding of float32, and scaling it up would map noise.
    varies = spread > 1e-6 * np.abs(wide).max(axis=0)
    if not varies.any():
        # Every record at one place, as after a collapse: scikit-learn's t-SNE would divide by the
        # spread of its start, which is 0, and end the process.
        return np.zeros((len(wide), 2)), 0.0, np.zeros((len(wide), 2))
    standard = (wide - wide.mean(axis=0))[:, varies] / spread[varies]
    pca = PCA(min(COMPONENTS, *standard.shape), svd_solver="full")
    components = pca.fit_transform(standard)
    share = float(pca.explained_variance_ratio_[:2].sum())
    # A single feature has no second component.
    components = np.pad(components, ((0, 0), (0, max(0, 2 - components.shape[1]))))
    perplexity = min(PERPLEXITY, (len(wide) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    # Threads do not help a map of this size, and on a busy machine their spinning costs 10 x.
    with threadpool_limits(1):
        neighbours = np.asarray(tsne.fit_transform(components), dtype=np.float64)
    return components[:, :2], share, neighbours


def _checked(
    features: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.bool_], classes: Sequence[str]
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_]]:
    features, labels = np.asarray(features), np.asarray(labels, dtype=bool)
    expected = (len(features), len(classes))
    if features.ndim != 2 or labels.shape != expected:
        raise LatentcastError(
            f"embedding map: features {features.shape} and labels {labels.shape} do not fit "
            f"{len(classes)} classes; pass (records, features) and (records, classes)"
        )
    if len(features) < LEAST:
        raise LatentcastError(
            f"embedding map: {len(features)} records are too few to draw; give {LEAST} or more"
        )
    if not np.isfinite(features).all():
        raise LatentcastError(
            "embedding map: features are not finite; look for NaN in the encoder or its input"
        )
    return features, labels


def _all_classes(
    axes: Axes, points: Points, labels: npt.NDArray[np.bool_], title: str
) -> list[PathCollection]:
    """The dots of several classes or none, then those of each class."""
    single = labels.sum(axis=1) == 1
    dots = [_dots(axes, points[~single], 9, LIGHT["faint"], alpha=0.85)]
    for member, colour in zip(labels.T, CLASS_COLOURS, strict=False):
        dots.append(_dots(axes, points[single & member], 13, colour, alpha=0.85))
    _dress(axes, title, TEXT_POINTS + 1.5)
    return dots


def _one_class(
    axes: Axes, points: Points, member: npt.NDArray[np.bool_], title: str, column: int
) -> None:
    _dots(axes, points[~member], 3, LIGHT["faint"])
    _dots(axes, points[member], 5, CLASS_COLOURS[column])
    _dress(axes, title, TEXT_POINTS)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _dots(
    axes: Axes, points: Points, size: float, colour: str, alpha: float | None = None
) -> PathCollection:
    x, y = points.T
    return axes.scatter(x, y, s=size, color=colour, linewidths=0, alpha=alpha)


def _dress(axes: Axes, title: str, size: float) -> None:
    axes.set(xticks=[], yticks=[], facecolor="none")
    axes.margins(0.04)
    axes.set_title(
        title, loc="left", fontsize=size, fontweight="bold", color=LIGHT["ink"], parse_math=False
    )
    for spine in axes.spines.values():
        spine.set_color(LIGHT["rule"])
