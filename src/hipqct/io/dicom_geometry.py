"""Where the slices of a series lie, and whether they form one evenly spaced, upright stack. Pure numpy."""

from dataclasses import dataclass

import numpy as np

from hipqct.errors import ScanError

# Positions are often written to 0.1 mm, so gaps of an even stack differ by up to that.
SPACING_TOLERANCE_MM = 0.1
DUPLICATE_MM = 0.02  # no scanner reconstructs slices closer than this
SIDEWAYS_TOLERANCE_MM = 0.5  # over the whole stack: about half a pixel; 0.2 degrees of tilt in 150 mm
COSINE_TOLERANCE = 1e-3  # moves the far edge of a 500-mm field of view by half a pixel
PIXEL_TOLERANCE_MM = 1e-3  # half a pixel over 512 columns
# Head and trochanters of a small femur span 70-90 mm; less cannot hold a proximal femur.
MIN_COVERAGE_MM = 60.0
MIN_SLICES = 12  # 60 mm at 5 mm, the thickest slices used


@dataclass(frozen=True)
class Stack:
    """An evenly spaced stack: slice order (indices, along the normal), place and shape in LPS mm."""

    order: np.ndarray
    spacing_mm: tuple[float, float, float]
    origin_mm: np.ndarray
    direction: np.ndarray


def stack_slices(positions_mm, orientations, pixels_mm, labels: list[str]) -> Stack:
    """Order slices along their common normal and prove that they are one regular grid.

    Args:
        positions_mm: (n, 3) ImagePositionPatient, centre of the first pixel.
        orientations: (n, 6) ImageOrientationPatient, unit vectors along a row and down a column.
        pixels_mm: (n, 2) PixelSpacing, between rows and between columns.
        labels: what to call each slice in an error.

    Raises ScanError when slices differ in orientation or pixel size, are too few, stand at the same place,
    have missing or uneven gaps (``SPACING_TOLERANCE_MM``), or slide along their plane (gantry tilt).
    """
    positions_mm, orientations, pixels_mm = (
        np.asarray(a, dtype=float) for a in (positions_mm, orientations, pixels_mm)
    )
    axes = _common_axes(orientations, labels)
    _check_pixels(pixels_mm, labels)
    depth_mm = positions_mm @ axes[:, 2]
    order = np.argsort(depth_mm, kind="stable")
    depth_mm, positions_mm, labels = depth_mm[order], positions_mm[order], [labels[i] for i in order]
    _check_enough(depth_mm)
    _check_gaps(depth_mm, labels)
    _check_upright(positions_mm, axes, labels)
    spacing_mm = (depth_mm[-1] - depth_mm[0]) / (len(depth_mm) - 1)
    return Stack(order, (pixels_mm[0, 1], pixels_mm[0, 0], spacing_mm), positions_mm[0], axes)


def slice_normal(orientation) -> np.ndarray:
    """Unit normal of a slice from ImageOrientationPatient (6 numbers)."""
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / (np.linalg.norm(normal) or 1.0)


def _common_axes(orientations: np.ndarray, labels: list[str]) -> np.ndarray:
    """The one direction matrix of all slices (columns: along a row, down a column, normal)."""
    apart = np.abs(orientations - orientations[0]).max(axis=1)
    if apart.max() > COSINE_TOLERANCE:
        odd = int(apart.argmax())
        raise ScanError(
            f"mixed series: {labels[odd]} is oriented {_numbers(orientations[odd])} and {labels[0]} "
            f"{_numbers(orientations[0])}; give each stack its own folder or series"
        )
    row, column = orientations[0, :3], orientations[0, 3:]
    skew = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if skew > COSINE_TOLERANCE:
        raise ScanError(
            f"{labels[0]} has an ImageOrientationPatient that is not two perpendicular unit vectors "
            f"({_numbers(orientations[0])}); export the series again"
        )
    row = row / np.linalg.norm(row)
    column = column - row * (row @ column)
    column = column / np.linalg.norm(column)
    return np.column_stack([row, column, np.cross(row, column)])


def _check_pixels(pixels_mm: np.ndarray, labels: list[str]) -> None:
    apart = np.abs(pixels_mm - pixels_mm[0]).max(axis=1)
    if apart.max() > PIXEL_TOLERANCE_MM:
        odd = int(apart.argmax())
        raise ScanError(
            f"mixed series: {labels[odd]} has pixels of {_numbers(pixels_mm[odd])} mm and {labels[0]} of "
            f"{_numbers(pixels_mm[0])} mm; give each stack its own folder or series"
        )
    if not (pixels_mm > 0).all():
        raise ScanError(
            f"{labels[0]} has a pixel spacing of {_numbers(pixels_mm[0])} mm; it must be positive"
        )


def _check_enough(depth_mm: np.ndarray) -> None:
    gap_mm = (depth_mm[-1] - depth_mm[0]) / max(len(depth_mm) - 1, 1)
    coverage_mm = gap_mm * len(depth_mm)
    if len(depth_mm) < MIN_SLICES or coverage_mm < MIN_COVERAGE_MM:
        raise ScanError(too_few(len(depth_mm), coverage_mm))


def too_few(slices: int, coverage_mm: float) -> str:
    """The sentence for a stack that cannot hold a hip."""
    return (
        f"too few slices for a hip: {slices} covering {coverage_mm:.1f} mm, at least {MIN_SLICES} covering "
        f"{MIN_COVERAGE_MM:.0f} mm are needed; give the whole scan"
    )


def _check_gaps(depth_mm: np.ndarray, labels: list[str]) -> None:
    gaps_mm = np.diff(depth_mm)
    usual_mm = float(np.median(gaps_mm))
    at = int(gaps_mm.argmin())
    if gaps_mm[at] < DUPLICATE_MM:
        count = int((gaps_mm < DUPLICATE_MM).sum())
        raise ScanError(
            f"duplicated slices: {labels[at]} and {labels[at + 1]} lie at the same {depth_mm[at]:.2f} mm "
            f"({count} such pairs); keep one copy, one phase and one reconstruction"
        )
    at = int(np.abs(gaps_mm - usual_mm).argmax())
    if abs(gaps_mm[at] - usual_mm) <= SPACING_TOLERANCE_MM:
        _check_grid(depth_mm, labels)
        return
    times = round(gaps_mm[at] / usual_mm)
    missing = times > 1 and abs(gaps_mm[at] - times * usual_mm) <= SPACING_TOLERANCE_MM * times
    what = f"missing slices ({times - 1} here)" if missing else "unevenly spaced slices"
    raise ScanError(
        f"{what}: the gap between {labels[at]} and {labels[at + 1]} is {gaps_mm[at]:.2f} mm where "
        f"{usual_mm:.2f} mm is usual (tolerance {SPACING_TOLERANCE_MM} mm); export the whole series again"
    )


def _check_grid(depth_mm: np.ndarray, labels: list[str]) -> None:
    """Refuse gaps that are each near the usual one but add up, such as 3.0 mm above and 3.1 mm below."""
    off_mm = depth_mm - np.linspace(depth_mm[0], depth_mm[-1], len(depth_mm))
    at = int(np.abs(off_mm).argmax())
    if abs(off_mm[at]) > SPACING_TOLERANCE_MM:
        raise ScanError(
            f"unevenly spaced slices: {labels[at]} lies {abs(off_mm[at]):.2f} mm off an even grid "
            f"(tolerance {SPACING_TOLERANCE_MM} mm); export the whole series again"
        )


def _check_upright(positions_mm: np.ndarray, axes: np.ndarray, labels: list[str]) -> None:
    """Refuse stacks whose slices slide sideways: sheared (gantry tilt) or pieced together."""
    sideways_mm = (positions_mm - positions_mm[0]) @ axes[:, :2]
    worst = int(np.abs(sideways_mm).max(axis=1).argmax())
    if np.abs(sideways_mm[worst]).max() <= SIDEWAYS_TOLERANCE_MM:
        return
    along_mm = (positions_mm - positions_mm[0]) @ axes[:, 2]
    drift = np.linalg.lstsq(along_mm[:, None], sideways_mm, rcond=None)[0]
    if np.abs(sideways_mm - along_mm[:, None] * drift).max() <= SIDEWAYS_TOLERANCE_MM:
        tilt_deg = np.degrees(np.arctan(np.linalg.norm(drift)))
        raise ScanError(
            f"gantry tilt: the stack leans {tilt_deg:.1f} degrees from its slices' normal "
            f"({np.linalg.norm(sideways_mm[-1]):.1f} mm over {along_mm[-1]:.0f} mm); "
            "scan or reconstruct it upright"
        )
    raise ScanError(
        f"mixed series: {labels[worst]} is shifted {np.linalg.norm(sideways_mm[worst]):.1f} mm sideways "
        f"against {labels[0]} (tolerance {SIDEWAYS_TOLERANCE_MM} mm); give each stack its own folder"
    )


def _numbers(values) -> str:
    return "\\".join(f"{v:.5g}" for v in values)
