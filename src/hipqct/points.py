"""Size, opacity, drawing order and spread of points, in plots of ten to several thousand hips."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.collections import PathCollection
from matplotlib.markers import MarkerStyle
from scipy.ndimage import gaussian_filter1d

# Okabe and Ito's colours, told apart by colour-blind readers; women and men also differ by marker.
STYLE = {"F": ("#D55E00", "o", "women"), "M": ("#0072B2", "s", "men"), "": ("#555555", "^", "sex unknown")}
USUAL_SIZE, USUAL_ALPHA = 20.0, 0.75  # points squared; of up to some fifty hips
LEAST_ALPHA = 0.25
MOST_VECTORS = 500  # more points are one picture within the SVG: as vectors they are most of a report's bytes
WIDEST = 0.3  # of a column's points, to both sides; columns are 1 apart
BINS, SMOOTHING_BINS = 60, 1.5
GOLDEN = 0.618034


def point_style(count: int) -> dict:
    """Matplotlib's options for so many points: the more, the smaller and fainter."""
    return {
        "s": USUAL_SIZE * min(1.0, 6 / np.sqrt(max(count, 1)) + 0.2),
        "alpha": max(LEAST_ALPHA, USUAL_ALPHA * min(1.0, np.sqrt(100 / max(count, 1)))),
        "linewidths": 0,
        "rasterized": count > MOST_VECTORS,
        "zorder": 2,  # lines are drawn over points, which would hide them
    }


def by_sex(hips: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """(colour, marker, label, hips) for women, men and those of unknown sex, as far as there are any."""
    for sex, (colour, marker, label) in STYLE.items():
        part = hips[hips["sex"].fillna("") == sex]
        if len(part):
            yield colour, marker, f"{label} (n = {len(part):,})", part


def scatter_by_sex(axes, x: np.ndarray, y: np.ndarray, sex: pd.Series) -> PathCollection:
    """Draw hips in the colour and marker of their sex, shuffled by a fixed order: neither lies on top.

    Args:
        x, y: shape (hips,); sex: ``F``, ``M`` or empty of each.
    """
    styles = [STYLE[one] for one in sex.fillna("")]
    order = np.random.default_rng(0).permutation(len(styles))
    colours = [styles[i][0] for i in order]
    points = axes.scatter(x[order], y[order], color=colours, **point_style(len(styles)))
    shapes = {m: MarkerStyle(m) for _, m, _ in STYLE.values()}
    paths = {m: shape.get_path().transformed(shape.get_transform()) for m, shape in shapes.items()}
    points.set_paths([paths[styles[i][1]] for i in order])
    return points


def name_sexes(axes, hips: pd.DataFrame) -> None:
    """Give the legend an entry for each sex there is, in full colour whatever the points' opacity."""
    for colour, marker, label, _ in by_sex(hips):
        axes.scatter([], [], s=USUAL_SIZE, color=colour, marker=marker, linewidths=0, label=label)


def spread(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """How far beside the middle of its column each of the sorted values lies.

    Multiples of the golden ratio lay neighbours in rank far apart, and the same values out the same way;
    widths follow the local density, so that many points have the outline of their distribution, and one alone
    lies in the middle.

    Args:
        values: sorted, shape (n,); ends: the axis' limits, between which density is counted.

    Returns:
        Shape (n,), between -`WIDEST` and `WIDEST`.
    """
    golden = 2 * ((np.arange(len(values)) * GOLDEN + 0.5) % 1) - 1
    counts, edges = np.histogram(values, bins=BINS, range=ends)
    density = gaussian_filter1d(counts.astype(float), SMOOTHING_BINS, mode="constant")
    near = np.interp(values, (edges[:-1] + edges[1:]) / 2, density)
    return WIDEST * golden * near / max(near.max(), 1e-9)
