"""Features in the plane."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, MARKERS, SOURCE, TARGET, figure, short

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Embedding = Literal["tsne", "umap", "none"]


def embed(features: Floats, how: Embedding, seed: int = 0) -> Floats:
    """(N, 2): neighbours in the feature space stay neighbours; distances between groups mean little.

    t-SNE: van der Maaten and Hinton, JMLR 2008, on the first 50 principal components. UMAP: McInnes et al.,
    2018, https://arxiv.org/abs/1802.03426.

    Args:
        features: (N, D), N ≥ 5.

    Raises:
        ValueError: for features that are not finite, all alike, or too few.
    """
    if not np.isfinite(features).all():
        raise ValueError("the features are not finite")
    if len(features) < 5 or np.ptp(features, axis=0).max(initial=0) == 0:
        raise ValueError("too few different rows")
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    x = features.astype(np.float32)
    if x.shape[1] > 50:
        x = PCA(min(50, len(x)), random_state=seed).fit_transform(x)
    reducer: Any
    if how == "umap":
        from umap import UMAP

        reducer = UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed, n_jobs=1)
    else:
        from sklearn.manifold import TSNE

        # Half of the usual iterations: later ones only spread the groups further.
        reducer = TSNE(init="pca", perplexity=min(30, (len(x) - 1) / 3), max_iter=500, random_state=seed)
    # UMAP's compiler sets the number of threads of all arithmetic to its own: stages that follow would add up in
    # another order. What was set before is set again at the end.
    with warnings.catch_warnings(), threadpool_limits():
        warnings.simplefilter("ignore")
        placed: Floats = reducer.fit_transform(x)
    return placed


def scatter(
    places: Sequence[tuple[str, Floats]],
    domain: Ints,
    domains: Sequence[str],
    label: Ints,
    classes: Sequence[str],
    coloured: Sequence[int],
    target: Ints,
) -> Figure:
    """Rows in the plane: a row of panels for each set of places, coloured by domain and by class.

    Args:
        places: (title, (N, 2)) one or two: before and after.
        domain: (N,) index into `domains`. label: (N,) index into `classes`.
        coloured: classes that have a colour; all others are grey.
        target: those of `domains` that are the target's.
    """
    made = figure(3.0 * len(places) + 0.9)
    grid = made.subplots(len(places), 2, squeeze=False)
    of_target = np.isin(domain, target)
    for (by_domain, by_class), (title, xy) in zip(grid, places, strict=True):
        for d, name in enumerate(domains):
            colour, marker = _domain_look(d, target)
            _dots(by_domain, xy[domain == d], colour, marker, short(name))
        by_domain.set_title(f"{title}: by domain")
        others = ~np.isin(label, coloured)
        if others.any():
            _dots(by_class, xy[others], "#d5d5d5", ".", "any other")
        for place, k in enumerate(coloured):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            of_class = label == k
            _dots(by_class, xy[of_class & ~of_target], colour, marker, None, 0.3)
            _dots(by_class, xy[of_class & of_target], colour, marker, short(classes[k], 16))
        by_class.set_title(f"{title}: by class")
        for axes in (by_domain, by_class):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color("#cccccc")
            axes.grid(visible=False)
    for axes, columns in zip(grid[-1], (2, 3), strict=True):
        handles, names = axes.get_legend_handles_labels()
        axes.legend(
            handles,
            names,
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.02),
            ncols=columns,
            markerscale=1.6,
            handletextpad=0.1,
            columnspacing=0.8,
        )
    return made


def _domain_look(d: int, target: Ints) -> tuple[str, str]:
    """Colour and marker: targets are round, and the first of them has the colour of the target's curves."""
    if d in target:
        place = int(np.flatnonzero(target == d)[0])
        return (TARGET, COLOURS[9], COLOURS[4])[place % 3], "o"
    return (SOURCE, COLOURS[1], COLOURS[5], COLOURS[8])[d % 4], "^sDv"[d % 4]


def _dots(axes: Axes, xy: Floats, colour: str, marker: str, label: str | None, alpha: float = 0.75) -> None:
    axes.scatter(
        xy[:, 0],
        xy[:, 1],
        s=9,
        c=colour,
        marker=marker,
        alpha=alpha,
        linewidths=0,
        label=label,
        rasterized=True,
    )
