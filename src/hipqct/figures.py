"""The cohort's figures: agreement of volumes, overlap, and the distributions of volume and density."""

from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from hipqct.cohort import COHORTS, count_flagged, count_synthetic, select
from hipqct.folds import SEEN_IN_TRAINING
from hipqct.io.files import replace_folder_when_done
from hipqct.metrics import volume_agreement
from hipqct.points import STYLE, by_sex, name_sexes, point_style, scatter_by_sex, spread
from hipqct.provenance import OTHER_SETTINGS

COHORT_NAMES = {"all": "all", "male": "men", "female": "women"}
CM3 = 1000.0  # mm3 per cm3
FEWEST_FOR_QUARTILES = 5
NO_LIMITS = (-np.inf, np.inf)
# Column, label, least span of the axis (no noise is blown up where hips are nearly alike), possible values.
MEASURE_PANELS = (
    ("volume_mm3", "femur volume in the scan (cm³)", 20.0, (0, np.inf)),
    ("integral_density_mg_cm3", "integral density (mg/cm³)", 50.0, NO_LIMITS),
)
# In their place where every hip has its volume down to the cut: of one length, hence to be compared.
TO_CUT_PANELS = (
    ("volume_to_cut_mm3", "femur volume to the cut (cm³)", *MEASURE_PANELS[0][2:]),
    ("integral_density_to_cut_mg_cm3", "integral density to the cut\n(mg/cm³)", *MEASURE_PANELS[1][2:]),
)
SCORE_PANELS = (
    ("dice", "Dice", 0.02, (0, 1)),
    ("hausdorff95_mm", "95% Hausdorff distance (mm)", 0.5, (0, np.inf)),
    ("surface_distance_mm", "average surface distance (mm)", 0.2, (0, np.inf)),
    ("relative_error_percent", "relative volume error (%)", 2.0, NO_LIMITS),
)
LEAST_VOLUME_SPAN_CM3, LEAST_DIFFERENCE_SPAN_CM3 = 20.0, 2.0
LABEL_APART = 0.03  # of the axis' height: half a line of text
FROM_HERE_THOUSANDS = 1000  # numbers of hips that need a line of their own
MOST_SINGLE = 100  # more points run together to an area, on which a dark line needs an edge
RASTER_DPI = 200
CAPTIONS = {
    "measures": "Volume and density of every hip{part}. Line: median; box: the middle half (from 5 hips on).",
    "segmentation": "Agreement with the reference masks, hip by hip. Line: median; box: the middle half "
    "(from 5 hips on). Relative volume error: 100 (predicted − reference) / reference.",
    "volume_agreement": "Volumes. Left: predicted against reference, with the line of least squares; "
    "R² is that of the line of identity, 1 − SSres / SStot. "
    "Right: difference against mean (Bland and Altman), with bias and 95% limits of agreement.",
}
SETTINGS = {
    "svg.hashsalt": "hipqct",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw_all(subjects: pd.DataFrame, figures_dir) -> None:
    """Draw every figure the cohort has data for as SVG; the same table gives the same bytes.

    Args:
        subjects: the table subjects.tsv; only hips that are done are drawn.
        figures_dir: replaced as a whole when all figures are drawn.
    """
    with (
        replace_folder_when_done(figures_dir) as temporary,
        matplotlib.style.context(SETTINGS, after_reset=True),
    ):
        for name, (draw, of_cohort) in FIGURES.items():
            hips = of_cohort(subjects)
            if len(hips):
                _save(draw(hips), temporary / f"{name}.svg", _notes(name, hips))


def caption(name: str, subjects: pd.DataFrame) -> str:
    """What a figure shows and of how many hips, one paragraph."""
    hips = FIGURES[name][1](subjects)
    parts = ", ".join(label for _, _, label, _ in by_sex(hips))
    part = ", from the top down to the common cut below the head's centre" if _to_one_cut(hips) else ""
    notes = [CAPTIONS[name].format(part=part), f"{len(hips):,} hips: {parts}."]
    if others := count_flagged(hips, OTHER_SETTINGS):
        notes.append(f"{others:,} of them with the flag {OTHER_SETTINGS}, made otherwise than most.")
    if name == "measures" and hips["basis"].nunique() > 1:
        notes.append("Densities in K2HPO4 and in HA stand together: they are not to be compared.")
    notes += [f"{note[0].upper()}{note[1:]}." for note in _notes(name, hips)]
    return " ".join(notes)


def _notes(name: str, hips: pd.DataFrame) -> list[str]:
    """What stands above a figure, too: it may leave the page alone."""
    notes = [synthetic_note(hips)]
    if name != "measures" and (seen := count_flagged(hips, SEEN_IN_TRAINING)):
        notes.append(f"{seen:,} of {len(hips):,} hips were seen in training: their agreement is too good")
    return [note for note in notes if note]


def _measured(subjects: pd.DataFrame) -> pd.DataFrame:
    return select(subjects, "all").dropna(subset=["volume_mm3"])


def _evaluated(subjects: pd.DataFrame) -> pd.DataFrame:
    return select(subjects, "all").dropna(subset=["dice"])


def _save(figure: Figure, path: Path, notes: list[str]) -> None:
    if notes:
        figure.suptitle("\n".join(notes), fontsize=8, color="0.35")
    figure.savefig(path, dpi=RASTER_DPI, metadata={"Date": None, "Creator": "hipqct"})


def synthetic_note(hips: pd.DataFrame) -> str:
    """What a reader must know of where the hips come from; nothing when none is a phantom's."""
    count, total = count_synthetic(hips), len(select(hips, "all"))
    if count == 0:
        return ""
    which = "synthetic scans" if count == total else f"{count} of {total} hips are synthetic"
    return f"{which} (digital hip phantoms)"


def draw_volume_agreement(evaluated: pd.DataFrame) -> Figure:
    """Predicted against reference volume (the paper's Figure 6), and Bland and Altman's plot."""
    figure = Figure(figsize=(7.6, 3.5), layout="constrained")
    scatter, difference = figure.subplots(1, 2)
    reference_cm3 = evaluated["volume_reference_mm3"].to_numpy(float) / CM3
    predicted_cm3 = evaluated["volume_predicted_mm3"].to_numpy(float) / CM3
    ends = _ends(np.concatenate([reference_cm3, predicted_cm3]), LEAST_VOLUME_SPAN_CM3)
    scatter_by_sex(scatter, reference_cm3, predicted_cm3, evaluated["sex"])
    mean_cm3, difference_cm3 = (reference_cm3 + predicted_cm3) / 2, predicted_cm3 - reference_cm3
    scatter_by_sex(difference, mean_cm3, difference_cm3, evaluated["sex"])
    name_sexes(scatter, evaluated)
    scatter.plot(ends, ends, color="0.45", linewidth=1, label="identity", zorder=3)
    if len(evaluated) > 2 and np.ptp(reference_cm3) > 0:
        slope, intercept = np.polyfit(reference_cm3, predicted_cm3, 1)
        text = f"y = {slope:.3f} x {'−' if intercept < 0 else '+'} {abs(intercept):.2f}"
        scatter.plot(ends, slope * ends + intercept, "--", color="0.2", linewidth=1, label=text, zorder=3)
    scatter.set(xlim=ends, ylim=ends)
    for axes in (scatter, difference):
        axes.set_box_aspect(1)
    scatter.locator_params(nbins=6)
    scatter.set(xlabel="reference volume (cm³)", ylabel="predicted volume (cm³)")
    scatter.legend(fontsize=7.5, loc="upper left", borderaxespad=0.1)
    agreement = volume_agreement(CM3 * reference_cm3, CM3 * predicted_cm3)
    _write_agreement(scatter, agreement)
    _draw_limits(difference, agreement, difference_cm3)
    difference.set(xlabel="mean of both volumes (cm³)", ylabel="predicted − reference (cm³)", xlim=ends)
    return figure


def _ends(values: np.ndarray, least_span: float) -> np.ndarray:
    """Limits of an axis: the values' range, at least ``least_span``, and a margin."""
    middle, span = (values.min() + values.max()) / 2, max(np.ptp(values), least_span)
    return middle + np.array([-0.56, 0.56]) * span


def _write_agreement(axes, agreement: dict) -> None:
    """Number of hips, R² and errors in the corner below the line of identity."""
    lines = [f"n = {agreement['n']:,}"]
    if not np.isnan(agreement["r2"]):
        lines.append(f"R² (identity) {agreement['r2']:.4f}".replace("-", "−"))
    lines += [f"RMSE {agreement['rmse_mm3'] / CM3:.2f} cm³", f"MAE {agreement['mae_mm3'] / CM3:.2f} cm³"]
    axes.text(0.98, 0.03, "\n".join(lines), ha="right", fontsize=7.5, transform=axes.transAxes)


def _draw_limits(axes, agreement: dict, differences_cm3: np.ndarray) -> None:
    """Bias and 95% limits of agreement, named beyond the right edge, where no point lies."""
    bias = agreement["bias_mm3"] / CM3
    # Name: value, line, which side of its height the text lies on, and how far from the bias at least.
    lines = {"−1.96 SD": (agreement["loa_low_mm3"] / CM3, "--", "top", -LABEL_APART)}
    lines |= {"bias": (bias, "-", "center", 0.0)}
    lines |= {"+1.96 SD": (agreement["loa_high_mm3"] / CM3, "--", "bottom", LABEL_APART)}
    lines = {name: line for name, line in lines.items() if not np.isnan(line[0])}  # no limits of one hip
    heights = np.array([*differences_cm3, 0, *(line[0] for line in lines.values())])
    axes.set_ylim(_ends(heights, LEAST_DIFFERENCE_SPAN_CM3))
    span = np.ptp(axes.get_ylim())
    axes.axhline(0, color="0.85", linewidth=1, zorder=0)
    for name, (y, style, side, apart) in lines.items():
        axes.axhline(y, linestyle=style, color="0.2", linewidth=1, zorder=3)
        at_edge = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": side}
        height = bias + np.sign(apart) * max(abs(y - bias), abs(apart) * span)
        text = f"{name}: {y:z.2f}".replace("-", "−")
        axes.annotate(text, (1, height), xytext=(3, 0), fontsize=7.5, **at_edge)


def draw_segmentation(evaluated: pd.DataFrame) -> Figure:
    """Dice, surface distances and relative volume error of every hip, for all, men and women."""
    figure = _draw_panels(evaluated, SCORE_PANELS, width_inch=8.6)
    figure.axes[-1].axhline(0, color="0.85", linewidth=1, zorder=0)
    return figure


def draw_measures(done: pd.DataFrame) -> Figure:
    """Volume and integral density of every hip, for all, men and women; to the cut where all have it."""
    panels = TO_CUT_PANELS if _to_one_cut(done) else MEASURE_PANELS
    volume, (column, label, *limits) = panels
    bases = " and ".join(sorted(set(done["basis"].dropna())))
    panels = (volume, (column, label.replace(")", f" {bases})") if bases else label, *limits))
    in_cm3 = {volume[0]: done[volume[0]].astype(float) / CM3}
    return _draw_panels(done.assign(**in_cm3), panels, width_inch=5.4)


def _to_one_cut(done: pd.DataFrame) -> bool:
    """Whether every hip has its volume down to `mesh/distal_cut_mm`."""
    return len(done) > 0 and bool(done["volume_to_cut_mm3"].notna().all())


def _draw_panels(hips: pd.DataFrame, panels, width_inch: float) -> Figure:
    figure = Figure(figsize=(width_inch, 3.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        column, label, least_span, possible = panel
        axes.set_ylabel(label)
        axes.set_xlim(-0.6, len(COHORTS) - 0.4)
        values = {cohort: select(hips, cohort)[column].dropna().to_numpy(float) for cohort in COHORTS}
        names = [_name_column(cohort, len(values[cohort])) for cohort in COHORTS]
        axes.set_xticks(range(len(COHORTS)), names, fontsize=7.5)
        if len(values["all"]) == 0:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="0.5")
            continue
        axes.set_ylim(np.clip(_ends(values["all"], least_span), *possible))
        for x, (cohort, sex) in enumerate(COHORTS.items()):
            _draw_column(axes, x, np.sort(values[cohort]), STYLE[sex or ""][0])
    return figure


def _name_column(cohort: str, count: int) -> str:
    """The label below a column; wide numbers do not reach the next one's."""
    return f"{COHORT_NAMES[cohort]}\nn ={' ' if count < FROM_HERE_THOUSANDS else chr(10)}{count:,}"


def _draw_column(axes, x: int, values: np.ndarray, colour: str) -> None:
    """Sorted values as points beside each other, with median and quartiles."""
    if len(values) == 0:
        return
    style = point_style(len(values))
    axes.scatter(x + spread(values, axes.get_ylim()), values, color=colour, clip_on=False, **style)
    halo = [withStroke(linewidth=3, foreground="white")] if len(values) > MOST_SINGLE else None
    axes.hlines(np.median(values), x - 0.34, x + 0.34, "0.1", linewidth=1.5, zorder=4, path_effects=halo)
    if len(values) >= FEWEST_FOR_QUARTILES:
        low, high = np.percentile(values, [25, 75])
        box = Rectangle(
            (x - 0.34, low), 0.68, high - low, fill=False, edgecolor="0.1", linewidth=0.7, zorder=4
        )
        axes.add_patch(box)


def draw_curves(history: pd.DataFrame) -> Figure:
    """A training's loss and Dice by epoch, from history.tsv."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    loss, dice = figure.subplots(1, 2)
    loss.plot(history["epoch"], history["loss"], color="0.2", linewidth=1)
    loss.set(xlabel="epoch", ylabel="loss (1 − Dice + L2)")
    names = {
        "training_dice": "training (soft, patches)",
        "validation_dice": "validation",
        "test_dice": "test",
    }
    for (column, label), colour in zip(names.items(), ("0.6", "#0072B2", "#D55E00"), strict=True):
        if column in history and history[column].notna().any():
            dice.plot(history["epoch"], history[column], color=colour, linewidth=1.2, label=label)
    dice.set(xlabel="epoch", ylabel="Dice")
    dice.legend(fontsize=7.5, loc="lower right", frameon=False)
    for axes in (loss, dice):
        axes.locator_params(axis="x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


# Name of the file: how to draw it, and of which hips; none is drawn without any.
FIGURES = {
    "measures": (draw_measures, _measured),
    "segmentation": (draw_segmentation, _evaluated),
    "volume_agreement": (draw_volume_agreement, _evaluated),
}
