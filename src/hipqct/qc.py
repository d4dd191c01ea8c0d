"""A picture of one hip to look at: the mask's outline over axial, coronal and sagittal slices."""

import numpy as np
from matplotlib.figure import Figure

from hipqct.image import Image

BONE_WINDOW_HU = (-250, 1150)  # fat nearly black, the densest cortex white
# Axial slices by depth below the mask's top: head, neck, lesser trochanter, shaft; closer in shorter masks.
DEPTHS_MM = (20, 43, 75, 110)
USUAL_LENGTH_MM = 125
MARGIN_MM = 25  # shown of the scan above and below the mask
SCALE_BAR_MM = 20
PLANES = ("sagittal", "coronal", "axial")  # by the axis across them
OUTLINE = "#FFB000"
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top and bottom edge
LETTER_PLACES = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))  # shares of the panel
PNG_SETTINGS = {"dpi": 100, "metadata": {"Software": "hipqct"}}


def draw_outlines(ct: Image, mask: Image, roi: Image, side: str, measures: dict) -> Figure:
    """Draw four axial slices, and the coronal and the sagittal slice that show most of the mask.

    Axial and coronal slices are seen as radiologists do, the patient's right on the left. Axial
    panels show the crop, the others the mask and 25 mm above and below it. Nothing tells whose scan it is.

    Args:
        ct: HU, and ``mask``, on one grid. Small obliquity is drawn as if there were none.
        roi: the crop; panels show its in-plane box, black where the scan ends.
        side: ``left`` or ``right``.
        measures: the content of volume.json.

    Raises:
        ValueError: the mask is empty, or on another grid than ct.
    """
    if not (mask.same_grid(ct) and mask.array.any()):
        raise ValueError(f"mask must have voxels and be on the grid of ct {ct.shape}, got {mask.shape}")
    inside = mask.array > 0
    slice_mm = ct.spacing_mm[2]
    bottom, top = np.flatnonzero(inside.any(axis=(0, 1)))[[0, -1]]
    shrink = min(1, (top - bottom + 1) * slice_mm / USUAL_LENGTH_MM)
    levels = [top - round(depth_mm * shrink / slice_mm) for depth_mm in DEPTHS_MM]
    box_mm = _box_mm(ct, roi)
    around_mm = (bottom - 0.5) * slice_mm - MARGIN_MM, (top + 0.5) * slice_mm + MARGIN_MM
    box_mm[:, 2] = np.clip(around_mm, *box_mm[:, 2])
    figure = Figure(figsize=(13, 6.6), layout="constrained", facecolor="black")
    width_mm, _, height_mm = np.ptp(box_mm, axis=0)
    wide = np.clip(2 * width_mm / height_mm, 1, 1.25)  # short scans leave room for wider panels
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, wide, wide))
    for place, z in zip((grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]), levels, strict=True):
        axes = figure.add_subplot(place)
        _draw(axes, ct, inside, box_mm, 2, z)
        axes.set_title(f"axial, {(top - z) * slice_mm:.0f} mm below the top", **_text(9))
    for column, axis in ((2, 1), (3, 0)):
        axes = figure.add_subplot(grid[:, column])
        _draw(axes, ct, inside, box_mm, axis, _fullest(inside, axis))
        axes.set_title(PLANES[axis], **_text(9))
        for z in levels:
            axes.axhline(z * slice_mm, color="white", linewidth=0.6, linestyle=":", alpha=0.6)
    figure.suptitle(caption(side, measures), **_text(12))
    return figure


def _fullest(inside: np.ndarray, axis: int) -> int:
    """The slice across ``axis`` that shows most of the mask."""
    return int(inside.sum(axis=tuple(a for a in range(3) if a != axis)).argmax())


def caption(side: str, measures: dict) -> str:
    """Side, volume, density and the flags of a hip's mask in two lines; those of its meshes come later."""
    density, calibration = measures["integral_density_mg_cm3"], measures.get("calibration") or {}
    unit = f"mg/cm³ {calibration.get('basis', '')}".strip()
    calibrated = "no density calibration" if density is None else f"integral density {density:.0f} {unit}"
    flags = ", ".join(measures["flags"]) or "none"
    return (
        f"{side} femur   {measures['volume_mm3'] / 1000:.1f} cm³   {calibrated}\nflags of the mask: {flags}"
    )


def _text(size: int) -> dict:
    return {"color": "white", "fontsize": size}


def _box_mm(ct: Image, roi: Image) -> np.ndarray:
    """Outer faces of the crop along the scan's axes, mm from the centre of ct's first voxel, shape (2, 3)."""
    corners = np.array([[-0.5, -0.5, -0.5], np.array(roi.shape) - 0.5])
    return np.sort(ct.to_index(roi.to_world(corners)) * ct.spacing_mm, axis=0)


def _draw(axes, ct: Image, inside: np.ndarray, box_mm: np.ndarray, axis: int, index: int) -> None:
    """One slice across ``axis`` with the outline of the mask; the front or the head is up."""
    across, down = (a for a in range(3) if a != axis)
    across_mm, down_mm = (np.arange(ct.shape[a]) * ct.spacing_mm[a] for a in (across, down))
    picture, outline = (np.take(array, index, axis=axis).T for array in (ct.array, inside))
    half = [ct.spacing_mm[a] / 2 for a in (across, down)]
    extent = (-half[0], across_mm[-1] + half[0], -half[1], down_mm[-1] + half[1])
    low, high = BONE_WINDOW_HU
    axes.imshow(
        picture, cmap="gray", vmin=low, vmax=high, extent=extent, origin="lower", interpolation="bilinear"
    )
    if outline.any():
        axes.contour(across_mm, down_mm, outline, levels=[0.5], colors=OUTLINE, linewidths=1.0)
    axes.set_xlim(box_mm[:, across])
    axes.set_ylim(box_mm[:, down][:: -1 if axis == 2 else 1])
    axes.set(aspect="equal", facecolor="black", xticks=[], yticks=[])
    _label(axes, PLANES[axis], box_mm[:, across])


def _label(axes, plane: str, across_mm: np.ndarray) -> None:
    """Letters of the patient's directions at the edges, and a bar of known length."""
    for letter, (x, y) in zip(LETTERS[plane], LETTER_PLACES, strict=True):
        axes.text(
            x, y, letter, ha=_align(x), va=_align(y, "bottom", "top"), transform=axes.transAxes, **_text(9)
        )
    start_mm = across_mm[0] + 0.05 * np.ptp(across_mm)
    place = axes.get_xaxis_transform()
    axes.plot([start_mm, start_mm + SCALE_BAR_MM], [0.05, 0.05], color="white", linewidth=2, transform=place)
    axes.text(start_mm, 0.065, f"{SCALE_BAR_MM} mm", va="bottom", transform=place, **_text(8))


def _align(place: float, low: str = "left", high: str = "right") -> str:
    return low if place < 0.1 else high if place > 0.9 else "center"
