"""Random changes of training patches: drawn first, applied after, in millimetres and HU.

Drawing gives a plain record (`Augmentation`) which can be looked at and applied again; applying is
deterministic. Rotations and scalings act in physical space, because a voxel is 0.8 x 0.8 x 3 mm.
Mirroring turns a left femur into a right one: only a model for both sides may be trained with it.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.spatial.transform import Rotation

from hipqct.errors import ModelError

BONE_HU = 150.0  # above this a voxel is taken to hold bone; fat, muscle and water lie below
SOFT_TISSUE_HU = 50.0  # muscle, the fixed point of contrast
FIELD_NODE_MM = 30.0  # distance of the nodes of the density field: one bone from the next
ELASTIC_NODE_MM = 40.0  # distance of the nodes of the elastic displacement: larger than the neck is thick
STREAK_MM = 12.0  # sigma along x of the streaks that few photons through both hips leave
GAMMA_RANGE_HU = (-200.0, 1500.0)

Change = tuple[float, tuple[float, float]]  # its probability, and the range (low, high) to draw from


@dataclass(frozen=True)
class Ranges:
    """What may be drawn."""

    rotation: Change = (0.5, (-15.0, 15.0))  # degrees, about each axis
    scale: Change = (0.4, (0.85, 1.15))  # size of the hip
    bone: Change = (0.5, (0.6, 1.5))  # factor on HU above BONE_HU: density
    bone_field: Change = (0.5, (0.1, 0.4))  # SD of the log of a local such factor
    contrast: Change = (0.3, (0.85, 1.2))  # factor about SOFT_TISSUE_HU
    brightness: Change = (0.4, (-60.0, 60.0))  # HU
    gamma: Change = (0.3, (0.75, 1.35))  # exponent over GAMMA_RANGE_HU
    blur: Change = (0.3, (0.3, 1.1))  # Gaussian sigma in mm
    noise: Change = (0.5, (5.0, 60.0))  # SD in HU
    noise_grain: Change = (0.6, (0.3, 1.2))  # in-plane sigma of the noise, mm
    truncation: Change = (0.1, (0.2, 0.9))  # share of the patch kept along z
    mirror: Change = (0.0, (1.0, 1.0))  # across the sagittal plane: 1 is mirrored
    elastic: Change = (0.0, (0.5, 3.0))  # SD in mm of a smooth displacement, each axis
    low_dose: Change = (0.0, (10.0, 60.0))  # SD in HU of streaks from side to side

    def times(self, share: float) -> "Ranges":
        """Ranges with every probability multiplied by ``share``, except that of noise grain.

        Raises:
            ModelError: a probability would not lie within 0 to 1.
        """
        changed = {name: drawn for name, drawn in vars(self).items() if name != "noise_grain"}
        most = max(p for p, _ in changed.values())
        if not 0 <= share * most <= 1:
            raise ModelError(
                f"augmentation {share} would take a probability out of 0 to 1: choose 0 to {1 / most:.3g}"
            )
        return replace(self, **{name: (share * p, drawn) for name, (p, drawn) in changed.items()})


@dataclass(frozen=True)
class Augmentation:
    """One drawn set of changes; the defaults change nothing."""

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    bone: float = 1.0
    bone_field: float = 0.0
    contrast: float = 1.0
    brightness_hu: float = 0.0
    gamma: float = 1.0
    blur_mm: float = 0.0
    noise_hu: float = 0.0
    noise_grain_mm: float = 0.0
    truncation: float = 1.0  # share of slices kept; the last or first kept one then repeats
    keep_head_end: bool = False  # which end a truncation keeps
    noise_seed: int = field(default=0, repr=False)
    mirrored: bool = False
    elastic_mm: float = 0.0
    streaks_hu: float = 0.0

    @property
    def keeps_grid(self) -> bool:
        """Whether patches lie along the crop's own axes, in voxels of its size."""
        return self.rotation_deg == (0.0, 0.0, 0.0) and self.scale == 1 and not self.elastic_mm


def draw_augmentation(rng: np.random.Generator, ranges: Ranges) -> Augmentation:
    """Draw each change with its own probability, uniformly in its range (factors: uniformly in their log)."""

    def draw(change: Change, default: float, log: bool = False) -> float:
        probability, (low, high) = change
        happens, where = rng.random(2)
        if happens >= probability:
            return default
        return float(low * (high / low) ** where if log else low + (high - low) * where)

    return Augmentation(
        rotation_deg=tuple(draw(ranges.rotation, 0.0) for _ in range(3)),
        scale=draw(ranges.scale, 1.0, log=True),
        bone=draw(ranges.bone, 1.0, log=True),
        bone_field=draw(ranges.bone_field, 0.0),
        contrast=draw(ranges.contrast, 1.0, log=True),
        brightness_hu=draw(ranges.brightness, 0.0),
        gamma=draw(ranges.gamma, 1.0, log=True),
        blur_mm=draw(ranges.blur, 0.0),
        noise_hu=draw(ranges.noise, 0.0),
        noise_grain_mm=draw(ranges.noise_grain, 0.0),
        truncation=draw(ranges.truncation, 1.0),
        keep_head_end=bool(rng.random() < 0.5),
        noise_seed=int(rng.integers(2**32)),
        mirrored=bool(draw(ranges.mirror, 0.0)),
        elastic_mm=draw(ranges.elastic, 0.0),
        streaks_hu=draw(ranges.low_dose, 0.0),
    )


def cut_patch(array: np.ndarray, spacing_mm, centre, size, augmentation: Augmentation) -> np.ndarray:
    """Cut a rotated, scaled, bent patch of ``size`` voxels round index ``centre``: linear, float32.

    Outside the array its edge repeats, as at inference (`hipqct.predict`). A scale of 1.1 makes the hip
    10% larger. ``array`` may be an HDF5 dataset: only the box that the patch needs is read.
    """
    spacing_mm, centre = np.asarray(spacing_mm, float), np.asarray(centre, float)
    turn = Rotation.from_euler("xyz", augmentation.rotation_deg, degrees=True).as_matrix()
    matrix = turn * spacing_mm / spacing_mm[:, None] / augmentation.scale
    middle = (np.asarray(size, float) - 1) / 2
    offset = centre - matrix @ middle
    bend = draw_displacement(size, spacing_mm, augmentation) / spacing_mm.reshape(3, 1, 1, 1)
    low, box = _needed_box(matrix, offset, size, array.shape, np.abs(bend).max(axis=(1, 2, 3)))
    part = np.asarray(array[box])
    part = part.view(np.uint8) if part.dtype == bool else part
    how = {"output": np.float32, "order": 1, "mode": "nearest"}
    if augmentation.keeps_grid and not (offset % 1).any():
        places = [(np.arange(n) + first).astype(int) for n, first in zip(size, offset - low, strict=True)]
        held = [place.clip(0, n - 1) for place, n in zip(places, part.shape, strict=True)]
        patch = part[np.ix_(*held)].astype(np.float32)
    elif augmentation.elastic_mm:
        places = np.tensordot(matrix, np.indices(size), 1) + (offset - low).reshape(3, 1, 1, 1) + bend
        patch = map_coordinates(part, places, **how)
    else:
        patch = affine_transform(part, matrix, offset - low, output_shape=tuple(size), **how)
    return _truncate(patch[::-1] if augmentation.mirrored else patch, augmentation)


def _needed_box(matrix: np.ndarray, offset: np.ndarray, size, shape, reach) -> tuple[np.ndarray, tuple]:
    """First index and slices of the part of an array that a patch's voxels lie in, neighbours included.

    ``reach``: how many voxels along each axis they may be displaced from the affine grid.
    """
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in size], indexing="ij"), -1).reshape(-1, 3)
    places = corners @ matrix.T + offset
    low = np.clip(np.floor(places.min(axis=0) - reach).astype(int), 0, np.subtract(shape, 1))
    high = np.clip(np.ceil(places.max(axis=0) + reach).astype(int) + 1, low + 1, shape)
    return low, tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _truncate(patch: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Let the scan end inside the patch: slices beyond the end repeat the last one."""
    slices = patch.shape[2]
    kept = max(1, round(slices * augmentation.truncation))
    if kept == slices:
        return patch
    first = slices - kept if augmentation.keep_head_end else 0
    return patch[:, :, np.clip(np.arange(slices), first, first + kept - 1)]


def change_intensity(ct: np.ndarray, spacing_mm, augmentation: Augmentation) -> np.ndarray:
    """Apply density, contrast, brightness, gamma, blur, noise and streaks, in this order, to HU; float32."""
    a = augmentation
    ct = ct.astype(np.float32)
    factor = a.bone * draw_field(ct.shape, spacing_mm, a) if a.bone_field else a.bone
    ct = np.where(ct > BONE_HU, BONE_HU + (ct - BONE_HU) * np.float32(factor), ct)
    ct = SOFT_TISSUE_HU + (ct - SOFT_TISSUE_HU) * np.float32(a.contrast) + np.float32(a.brightness_hu)
    if a.gamma != 1:
        low, high = GAMMA_RANGE_HU
        inside = np.clip(ct, low, high)
        ct = ct - inside + low + (high - low) * ((inside - low) / (high - low)) ** np.float32(a.gamma)
    if a.blur_mm:
        ct = gaussian_filter(ct, a.blur_mm / np.asarray(spacing_mm))
    if a.noise_hu:
        ct = ct + draw_noise(ct.shape, spacing_mm, a)
    if a.streaks_hu:
        ct = ct + draw_streaks(ct.shape, spacing_mm, a)
    return ct.astype(np.float32)


def draw_field(shape, spacing_mm, augmentation: Augmentation) -> np.ndarray:
    """A smooth positive field about 1: one bone denser, the next less so; linear between random nodes."""
    rng = np.random.default_rng([augmentation.noise_seed, 1])
    log = _draw_between_nodes(rng, augmentation.bone_field, shape, spacing_mm, FIELD_NODE_MM, order=1)
    return np.exp(log)


def draw_displacement(shape, spacing_mm, augmentation: Augmentation) -> np.ndarray:
    """Displacement (mm) from each output voxel to its source, shape ``(3, x, y, z)``; cubic splines."""
    rng, sd_mm = np.random.default_rng([augmentation.noise_seed, 2]), augmentation.elastic_mm
    if not sd_mm:
        return np.zeros((3, 1, 1, 1), np.float32)
    axes = range(3)
    return np.stack([_draw_between_nodes(rng, sd_mm, shape, spacing_mm, ELASTIC_NODE_MM, 3) for _ in axes])


def _draw_between_nodes(rng, sd, shape, spacing_mm, node_mm: float, order: int) -> np.ndarray:
    """Normal values of that SD at nodes of a grid, splines of that order between them; float32."""
    positions = [np.arange(n) * mm / node_mm for n, mm in zip(shape, spacing_mm, strict=True)]
    field = rng.normal(0, sd, [int(p[-1]) + 2 for p in positions]).astype(np.float32)
    for along in positions:  # each axis by itself, the first one going to the back: splines are separable
        units = np.eye(field.shape[0], dtype=np.float32)
        weights = [map_coordinates(unit, [along], order=order, mode="nearest") for unit in units]
        field = np.tensordot(field, np.stack(weights), (0, 0))
    return np.ascontiguousarray(field)


def draw_noise(shape, spacing_mm, augmentation: Augmentation) -> np.ndarray:
    """Gaussian noise of SD ``noise_hu``, correlated in plane over ``noise_grain_mm`` as CT's is; float32."""
    noise = np.random.default_rng(augmentation.noise_seed).standard_normal(shape, dtype=np.float32)
    if grain_mm := augmentation.noise_grain_mm:
        for axis in (0, 1):
            noise = gaussian_filter1d(noise, grain_mm / spacing_mm[axis], axis, mode="wrap")
    return noise * np.float32(augmentation.noise_hu / noise.std())


def draw_streaks(shape, spacing_mm, augmentation: Augmentation) -> np.ndarray:
    """Noise of SD ``streaks_hu`` drawn out along x, as where a beam of low dose crosses both hips."""
    rng = np.random.default_rng([augmentation.noise_seed, 3])
    noise = rng.standard_normal(shape, dtype=np.float32)
    streaks = gaussian_filter1d(noise, STREAK_MM / spacing_mm[0], axis=0, mode="wrap")
    return streaks * np.float32(augmentation.streaks_hu / streaks.std())
