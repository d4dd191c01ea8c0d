"""The cohort's figures: agreement of volumes, overlap, and the distributions of volume and density."""

import os
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hipqct.cohort import COHORTS, is_synthetic, select

# Okabe and Ito's colours, told apart by colour-blind readers; men and women also differ by marker.
STYLE = {"F": ("#D55E00", "o", "women"), "M": ("#0072B2", "s", "men"), "": ("#555555", "^", "sex unknown")}
CM3 = 1000.0  # mm3 per cm3
LIMITS_OF_AGREEMENT_SD = 1.96
SVG_SETTINGS = {"svg.hashsalt": "hipqct", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
SVG_SETTINGS |= {"axes.spines.right": False, "font.family": "DejaVu Sans", "legend.frameon": False}


def draw_all(subjects: pd.DataFrame, figures_dir) -> None:
    """Draw every figure the cohort has data for as SVG; the same table gives the same bytes.

    Args:
        subjects: the table subjects.tsv; only hips that are done are drawn.
        figures_dir: replaced as a whole when all figures are drawn.
    """
    figures_dir = Path(figures_dir)
    temporary = figures_dir.with_name(f".{os.getpid()}.tmp.{figures_dir.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    done = select(subjects, "all")
    evaluated = done.dropna(subset=["dice"])
    try:
        with matplotlib.rc_context(SVG_SETTINGS):
            if len(done):
                _save(draw_measures(done), temporary / "measures.svg", done)
            if len(evaluated):
                _save(draw_volume_agreement(evaluated), temporary / "volume_agreement.svg", evaluated)
                _save(draw_segmentation(evaluated), temporary / "segmentation.svg", evaluated)
        if figures_dir.exists():
            shutil.rmtree(figures_dir)
        temporary.rename(figures_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(figure: Figure, path: Path, hips: pd.DataFrame) -> None:
    if is_synthetic(hips):
        figure.suptitle("synthetic scans (digital hip phantoms)", fontsize=8, color="0.35")
    figure.savefig(path, metadata={"Date": None, "Creator": "hipqct"})


def _by_sex(hips: pd.DataFrame):
    """(colour, marker, label, hips) for women, men and those of unknown sex, as far as there are any."""
    for sex, (colour, marker, label) in STYLE.items():
        part = hips[hips["sex"].fillna("") == sex]
        if len(part):
            yield colour, marker, f"{label} (n = {len(part)})", part


def draw_volume_agreement(evaluated: pd.DataFrame) -> Figure:
    """Predicted against reference volume (the paper's Figure 6), and Bland and Altman's plot."""
    figure = Figure(figsize=(7.2, 3.5), layout="constrained")
    scatter, difference = figure.subplots(1, 2)
    reference_cm3 = evaluated["volume_reference_mm3"].to_numpy(float) / CM3
    predicted_cm3 = evaluated["volume_predicted_mm3"].to_numpy(float) / CM3
    both_cm3 = np.concatenate([reference_cm3, predicted_cm3])
    ends = np.array([both_cm3.min(), both_cm3.max()])
    ends += np.array([-0.06, 0.06]) * max(np.ptp(ends), 1)
    scatter.plot(ends, ends, color="0.7", linewidth=1, label="identity", zorder=1)
    for colour, marker, label, part in _by_sex(evaluated):
        x, y = part["volume_reference_mm3"] / CM3, part["volume_predicted_mm3"] / CM3
        scatter.scatter(x, y, s=22, color=colour, marker=marker, label=label, zorder=2)
        difference.scatter((x + y) / 2, y - x, s=22, color=colour, marker=marker, zorder=2)
    if len(evaluated) > 2 and np.ptp(reference_cm3) > 0:
        slope, intercept = np.polyfit(reference_cm3, predicted_cm3, 1)
        text = f"y = {slope:.3f} x {intercept:+.2f}"
        scatter.plot(ends, slope * ends + intercept, "--", color="0.2", linewidth=1, label=text, zorder=1)
    scatter.set(xlim=ends, ylim=ends, aspect="equal")
    scatter.set(xlabel="reference volume (cm³)", ylabel="predicted volume (cm³)")
    scatter.legend(fontsize=7.5, loc="upper left")
    _draw_limits(difference, predicted_cm3 - reference_cm3)
    difference.set(xlabel="mean of both volumes (cm³)", ylabel="predicted − reference (cm³)")
    return figure


def _draw_limits(axes, differences_cm3: np.ndarray) -> None:
    """Bias and 95% limits of agreement, named at the right edge."""
    lines = [(differences_cm3.mean(), "-", "bias")]
    if len(differences_cm3) > 1:
        reach = LIMITS_OF_AGREEMENT_SD * differences_cm3.std(ddof=1)
        lines += [(lines[0][0] - reach, "--", "−1.96 SD"), (lines[0][0] + reach, "--", "+1.96 SD")]
    axes.axhline(0, color="0.85", linewidth=1, zorder=0)
    for y, style, name in lines:
        axes.axhline(y, linestyle=style, color="0.2", linewidth=1, zorder=1)
        at_edge = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(f"{name} {y:+.2f}", (1, y), xytext=(-2, 2), ha="right", fontsize=7.5, **at_edge)
    axes.margins(y=0.25)


def draw_segmentation(evaluated: pd.DataFrame) -> Figure:
    """Dice, 95% Hausdorff distance and relative volume error of every hip, for all, men and women."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    panels = {
        "dice": "Dice",
        "hausdorff95_mm": "95% Hausdorff distance (mm)",
        "relative_error_percent": "relative volume error (%)",
    }
    for axes, (column, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        _draw_by_cohort(axes, evaluated, column)
        axes.set_ylabel(label)
    return figure


def draw_measures(done: pd.DataFrame) -> Figure:
    """Volume and integral density of every hip, for all, men and women."""
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    volume, density = figure.subplots(1, 2)
    _draw_by_cohort(volume, done.assign(volume_cm3=done["volume_mm3"] / CM3), "volume_cm3")
    volume.set_ylabel("femur volume in the scan (cm³)")
    _draw_by_cohort(density, done, "integral_density_mg_cm3")
    density.set_ylabel("integral density (mg/cm³)")
    return figure


def _draw_by_cohort(axes, hips: pd.DataFrame, column: str) -> None:
    """Every value as a point, the median as a line, for each cohort."""
    names = []
    for x, (cohort, sex) in enumerate(COHORTS.items()):
        values = select(hips, cohort)[column].dropna().to_numpy(float)
        names.append(f"{cohort}\nn = {len(values)}")
        if len(values) == 0:
            continue
        colour = STYLE[sex][0] if sex else "0.35"
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        axes.scatter(x + spread[np.argsort(np.argsort(values))], values, s=14, color=colour, alpha=0.8)
        axes.hlines(np.median(values), x - 0.3, x + 0.3, color="0.1", linewidth=1.5)
    axes.set_xticks(range(len(COHORTS)), names)
    axes.set_xlim(-0.6, len(COHORTS) - 0.4)
    if not axes.collections:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="0.5")
