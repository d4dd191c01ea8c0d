"""A femur's mask as one solid body: its largest part, its cavities filled, cut to a length."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from hipqct.errors import MeshError
from hipqct.hounsfield import OUTSIDE_HU
from hipqct.image import Image


def solid_mask(mask: np.ndarray) -> np.ndarray:
    """The largest face-connected part of a mask, its cavities filled.

    Raises:
        MeshError: the mask is empty, or fills the whole image.
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        raise MeshError("the mask is empty, so there is nothing to mesh: look at the segmentation first")
    if mask.all():
        raise MeshError("the mask fills the whole image, which no bone does: look at the segmentation first")
    box = bounding_box(mask)
    solid = np.zeros_like(mask)
    solid[box] = ndimage.binary_fill_holes(largest_component(mask[box])[0])
    return solid


def signed_distance_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance of every voxel's centre to the nearest one on the other side of a mask's surface.

    Negative in the mask. Half a voxel more than to the surface itself, which lies between the two.
    """
    distance_mm = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    distance_mm -= ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return distance_mm


def surface_distance_um(
    mask: np.ndarray, spacing_mm: Sequence[float], distance_mm: np.ndarray | None = None
) -> np.ndarray:
    """Signed distance of every voxel's centre to a femur's surface, negative exactly in its mask; int16.

    Between voxels it tells where the surface lies, to a fraction of one, which the mask does not (shape-based
    interpolation: Raya and Udupa 1990, doi:10.1109/42.52980).

    Args:
        mask: ``(x, y, z)``.
        distance_mm: to the surface of which the mask was made, negative inside, where it is known; else that
            of `signed_distance_mm`.

    Returns:
        Micrometres; 1 where ``distance_mm`` contradicts the mask; cut where they exceed a voxel's diagonal,
        beyond which no interpolation reaches.
    """
    mask = np.asarray(mask, bool)
    if distance_mm is None:
        distance_mm = signed_distance_mm(mask, spacing_mm)
    most_um = np.ceil(1000 * np.linalg.norm(spacing_mm))
    away_um = np.maximum(np.rint(1000 * np.where(mask, -distance_mm, distance_mm)), 1)
    return np.where(mask, -1, 1).astype(np.int16) * np.minimum(away_um, most_um).astype(np.int16)


def largest_component(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest face-connected part of a boolean mask, and every part's number of voxels (none: empty)."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=1)[1:]
    return (labels == sizes.argmax() + 1) if count else mask, sizes


def air_outside(ct: np.ndarray) -> np.ndarray:
    """Where air reaches the sides of an image (HU) in plane: round the body, and beyond the field of view."""
    pieces, count = ndimage.label(ct <= OUTSIDE_HU)
    outside = np.zeros(count + 1, bool)
    for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        outside[np.unique(side)] = True
    outside[0] = False
    return outside[pieces]


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Smallest half-open box that holds every nonzero voxel."""
    lines = (mask.any(axis=(1, 2)), mask.any(axis=(0, 2)), mask.any(axis=(0, 1)))
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


def share_above(mask: Image, point_mm: np.ndarray, axis: np.ndarray, distance_mm: float) -> np.ndarray:
    """Share (0 to 1) of each of the mask's voxels that lies above a plane, in the order of ``array[mask]``.

    Args:
        point_mm: LPS, for example a head's centre; axis: unit vector upwards, perpendicular to the plane.
        distance_mm: how far below the point the plane lies along the axis.
    """
    rise_mm = (mask.direction.T @ axis) * mask.spacing_mm  # of one voxel along each array axis
    above_mm = np.argwhere(mask.array) @ rise_mm + (mask.to_world((0, 0, 0)) - point_mm) @ axis + distance_mm
    return np.clip(above_mm / np.abs(rise_mm).sum() + 0.5, 0, 1)


def cut_below(mask: Image, point_mm: np.ndarray, distance_mm: float) -> Image:
    """The mask without the slices that lie more than a distance below a point; it ends there to half a slice.

    Bone that a model holds at its lower end is as stiff as it is long, so femurs are compared at one length.

    Args:
        mask: slices along the third axis, nearer to the head at whichever end has the higher z.
        point_mm: LPS, for example the head's centre; the distance counts along the slices' axis.
    """
    slices = np.arange(mask.shape[2])
    centres_mm = mask.to_world(np.stack([np.zeros_like(slices), np.zeros_like(slices), slices], axis=1))
    below_mm = (np.asarray(point_mm) - centres_mm) @ mask.up
    return mask.with_array(np.asarray(mask.array, bool) & (below_mm <= distance_mm))
