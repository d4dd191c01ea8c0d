"""The scanner: from fine slabs of tissue to a reconstructed scan with blur and correlated noise."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hipqct.density import BASES

PHYSICAL_AIR_HU = -1000  # outside the scanned circle voxels have -1024 (`hipqct.hounsfield.AIR_HU`)
LOWEST_HU = -1024
HIGHEST_HU = 3071

# Length (one SD) of the lateral streaks in scans with too few photons.
STREAK_MM = 10.0

HYDROXYAPATITE_SHARE = 0.25
ROUNDEST_PROFILE = 0.31  # slices: a Gaussian whose full width at half maximum is the slice

NOISE_PEAK_PER_MM, NOISE_BETWEEN = (0.10, 0.22), (0.0, 0.4)  # measured on real scans: docs/phantoms.md

# Share of scans whose field of view ends at one side, and how far (mm) from the middle.
CUT_SHARE, CUT_EDGE_MM = 0.05, (125.0, 165.0)


@dataclass(frozen=True)
class Scanner:
    """Geometry and physics of one scan.

    ``top_mm`` and ``bottom_mm`` are the scan's ends above and below the centre of the femoral heads.
    ``slope`` and ``intercept`` give the density (mg/cm3) of a Hounsfield number: the truth of the
    calibration. ``basis`` is what the rods are made of, ``"K2HPO4"`` or ``"HA"`` (hydroxyapatite): all
    densities of the phantom, bones included, are equivalents in it. ``center_x_mm`` shifts the field of view
    to the left; ``cut_edge_mm``, unless 0, ends it that far left (negative: right) of the middle instead.
    ``profile_blur`` is explained in `blur_between_slices`, ``noise_peak_per_mm`` and
    ``noise_between`` in `noise`.
    ``table_gap_mm`` is the gap between the back of the patient and the calibration phantom.
    """

    matrix: int = 512
    pixel_mm: float = 0.8
    slice_mm: float = 2.0
    top_mm: float = 38.0
    bottom_mm: float = 85.0
    blur_sigma_mm: float = 0.65
    noise_sd_hu: float = 12.0
    slope: float = 0.8
    intercept: float = -2.0
    rods: bool = True
    table_gap_mm: float = 6.0
    substep_mm: float = 1.0
    center_x_mm: float = 0.0
    cut_edge_mm: float = 0.0
    basis: str = "K2HPO4"
    profile_blur: float = 0.0
    noise_peak_per_mm: float = 0.16
    noise_between: float = 0.0

    def __post_init__(self):
        if self.basis not in BASES:
            raise ValueError(f"basis must be {' or '.join(BASES)}, got {self.basis!r}")
        if not 0 < self.slice_mm < math.inf:
            raise ValueError(f"slice_mm must be a positive number of millimetres, got {self.slice_mm}")

    @property
    def slices(self) -> int:
        """Number of slices."""
        return max(1, round((self.top_mm + self.bottom_mm) / self.slice_mm))

    @property
    def field_center_mm(self) -> float:
        """Middle of the field of view, mm to the left of the table's middle."""
        if not self.cut_edge_mm:
            return self.center_x_mm
        return self.cut_edge_mm - float(np.sign(self.cut_edge_mm)) * self.matrix / 2 * self.pixel_mm

    def hounsfield(self, density_mg_cm3: np.ndarray | float) -> np.ndarray | float:
        """Hounsfield numbers of densities."""
        return (density_mg_cm3 - self.intercept) / self.slope


def sample_scanner(rng, more, head_radius_mm: float) -> Scanner:
    """Draw a scan: extent and physics from ``rng``; basis, profile, noise and a cut field from ``more``."""
    short_top, short_end = rng.random() < 0.06, rng.random() < 0.15
    slope = np.clip(rng.normal(0.80, 0.03), 0.7, 0.9)
    scanner = Scanner(
        pixel_mm=float(rng.uniform(0.742, 0.977)),
        slice_mm=2.0,
        top_mm=float(head_radius_mm + (rng.uniform(-12, 3) if short_top else rng.uniform(6, 40))),
        bottom_mm=float(rng.uniform(48, 75) if short_end else rng.uniform(75, 140)),
        blur_sigma_mm=float(rng.uniform(0.5, 1.0)),
        noise_sd_hu=float(np.exp(rng.uniform(np.log(4.5), np.log(26)))),
        slope=float(slope),
        intercept=float(rng.normal(-2, 4)),
        rods=bool(rng.random() < 0.8),
    )
    basis = "HA" if more.random() < HYDROXYAPATITE_SHARE else "K2HPO4"
    profile_blur = float(more.uniform(0, ROUNDEST_PROFILE))
    edge_mm = float(more.choice([-1, 1]) * more.uniform(*CUT_EDGE_MM))
    cut_edge_mm = edge_mm if more.random() < CUT_SHARE else 0.0
    peak_per_mm = float(more.uniform(*NOISE_PEAK_PER_MM))
    noise_between = float(more.uniform(*NOISE_BETWEEN))
    return dataclasses.replace(
        scanner,
        basis=basis,
        profile_blur=profile_blur,
        cut_edge_mm=cut_edge_mm,
        noise_peak_per_mm=peak_per_mm,
        noise_between=noise_between,
    )


def blur_in_plane(hu: np.ndarray, pixel_mm: float, sigma_mm: float) -> np.ndarray:
    """Point spread of the kernel: a Gaussian of ``sigma_mm`` in x and y."""
    sigma = sigma_mm / pixel_mm
    return ndimage.gaussian_filter(hu, (sigma, sigma, 0), mode="nearest", truncate=4.0)


def blur_between_slices(hu: np.ndarray, blur: float) -> np.ndarray:
    """A bell-shaped slice profile out of a rectangular one: each slice takes from both its neighbours.

    ``blur`` is the standard deviation of the spread added to the rectangle, in slices (0.31 gives a
    Gaussian whose full width at half maximum is the slice); weights of three slices have that variance.
    The end slices count twice for their missing neighbours.

    Raises:
        ValueError: ``blur`` is negative or above 0.7, where three slices cannot hold it.
    """
    if not 0 <= blur <= 0.7:
        raise ValueError(f"blur must be 0 to 0.7 slices, got {blur}")
    share = blur * blur / 2
    return ndimage.convolve1d(hu, [share, 1 - 2 * share, share], axis=2, mode="nearest")


def noise(
    shape, pixel_mm: float, sd_hu: float, rng, peak_per_mm: float, between: float = 0.0, streaks: float = 0.0
) -> np.ndarray:
    """Correlated noise, shape ``(nx, ny, nz)``, with a ramp-like in-plane spectrum.

    The spectrum grows as the ramp filter does (Kijewski and Judy 1987, doi 10.1088/0031-9155/32/5/003) and
    the kernel takes it down: its power is f exp(-(f / ``peak_per_mm``)^2), frequencies f in cycles per mm.
    ``between`` (0 to 0.5) is the correlation of neighbouring slices, as overlapping helical slices have it.
    ``streaks`` adds the lateral streaks of photon starvation through the hips, as a ratio to ``sd_hu``.
    """
    fx = np.fft.fftfreq(shape[0], pixel_mm)[:, None]
    fy = np.fft.rfftfreq(shape[1], pixel_mm)[None]
    frequency = np.hypot(fx, fy).astype(np.float32)
    filtering = np.sqrt(frequency / peak_per_mm) * np.exp(-0.5 * (frequency / peak_per_mm) ** 2)
    filtering += 0.08 * np.exp(-0.5 * (frequency / peak_per_mm) ** 2)
    rays = filtering * np.exp(-2 * (np.pi * STREAK_MM * fx) ** 2)  # smooth along x only
    filtering = filtering / _gain(filtering, shape) + rays * (streaks / _gain(rays, shape))
    filtering = (filtering * sd_hu).astype(np.float32)
    out = np.empty(shape, dtype=np.float32)
    # own^2 + next^2 = 1 and own next = between: each slice mixes its own noise with its neighbour's
    own = np.sqrt((1 + np.sqrt(1 - 4 * between**2)) / 2)
    following = rng.standard_normal(shape[:2], dtype=np.float32)
    for k in range(shape[2]):
        white, following = following, rng.standard_normal(shape[:2], dtype=np.float32)
        white = np.float32(own) * white + np.float32(np.sqrt(1 - own**2)) * following
        out[..., k] = np.fft.irfft2(np.fft.rfft2(white) * filtering, shape[:2])
    return out


def _gain(filtering: np.ndarray, shape) -> float:
    """Standard deviation of white noise of unit spread after a filter given on the half plane of rfft2."""
    return float(np.sqrt(np.mean(np.abs(np.fft.fft2(np.fft.irfft2(filtering, shape[:2]))) ** 2)))


def to_int16(hu: np.ndarray) -> np.ndarray:
    """Round to whole Hounsfield numbers and clip to what 12 bits hold."""
    return np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(np.int16)
