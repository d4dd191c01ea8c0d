"""A femur's mask and more than thirty ways to spoil it, each with what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage
from shipped import mesh_options

from hipqct.image import Image, reorient_to_lps
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import sample_parameters

# A coarse scan of a whole hip: what counts is the shape.
SCANNER = {"matrix": 256, "pixel_mm": 1.6, "slice_mm": 3.0, "top_mm": 45.0, "bottom_mm": 90.0}
SEED = 2002
# A coarse mesh misses the mask's volume and mineral by more.
COARSE = {"hex_volume_error_percent": [-8, 8], "hex_mineral_error_percent": [-8, 8]}
# Meshes are coarse for speed.
OPTIONS = mesh_options(COARSE, cube_mm=4.0, tet_mm=5.0, points_per_edge=2)


# These scans have no calibration and end where the shaft begins.
ALWAYS = {"uncalibrated", "shaft_length_mm"}


@dataclass(frozen=True)
class Perturbation:
    """What is done to a mask, and the flags or the refusal (a word of its sentence) that must follow.

    ``allowed``: flags that may come besides; ``side``: what the hip is said to be.
    """

    name: str
    change: Callable[[Image], Image]
    flags: frozenset[str] = frozenset()
    refused: str = ""
    allowed: frozenset[str] = field(default=frozenset())
    side: str = "left"

    def is_right(self, found: set[str]) -> bool:
        """Whether these flags are those that must and may come."""
        return self.flags <= found <= self.flags | self.allowed | ALWAYS


@lru_cache
def femur() -> Image:
    """The left femur of a synthetic phantom, cropped, with air round it but at the shaft's end."""
    parameters = sample_parameters(SEED, cut_edge_mm=0.0, metal_side="", **SCANNER)
    mask = reorient_to_lps(generate_phantom(parameters).left_femur)
    inside = np.argwhere(mask.array)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    array = np.pad(np.asarray(mask.array, bool)[box], ((8, 8), (8, 8), (0, 6)))
    return Image(array, mask.spacing_mm, tuple(mask.to_world(low - [8, 8, 0])))


def _with(mask: Image, array) -> Image:
    return mask.with_array(np.asarray(array, bool))


def _head(mask: Image):
    """Index of the head's middle and its radius in voxels by axis: the widest ball of the upper half."""
    top = np.flatnonzero(mask.array.any(axis=(0, 1)))[-1]
    upper = mask.array.copy()
    upper[:, :, : top - 20] = False
    depth_mm = ndimage.distance_transform_edt(upper, sampling=mask.spacing_mm)
    middle = np.array(np.unravel_index(depth_mm.argmax(), depth_mm.shape))
    return middle, depth_mm.max() / np.array(mask.spacing_mm)


def _edge(mask: Image, probability: float, seed: int) -> Image:
    edge = ndimage.binary_dilation(mask.array) & ~ndimage.binary_erosion(mask.array)
    flip = edge & (np.random.default_rng(seed).random(mask.shape) < probability)
    return _with(mask, mask.array ^ flip)


def _jitter(mask: Image, pixels: int) -> Image:
    rng, array = np.random.default_rng(pixels), mask.array.copy()
    for z in range(mask.shape[2]):
        array[:, :, z] = np.roll(array[:, :, z], rng.integers(-pixels, pixels + 1, 2), axis=(0, 1))
    return _with(mask, array)


def _islands(mask: Image, count: int, size: int) -> Image:
    rng, array = np.random.default_rng(count), mask.array.copy()
    far = np.argwhere(ndimage.distance_transform_edt(~mask.array) > size + 2)
    for x, y, z in far[rng.choice(len(far), count)]:
        array[x : x + size, y : y + size, z : z + 1] = True
    return _with(mask, array)


def _holes(mask: Image, size: int) -> Image:
    array = mask.array.copy()
    deep = np.argwhere(ndimage.distance_transform_edt(mask.array) > size + 1.5)
    x, y, z = deep[len(deep) // 2]
    array[x - size // 2 : x + size // 2 + 1, y - size // 2 : y + size // 2 + 1, z : z + size] = False
    return _with(mask, array)


def _tunnel(mask: Image) -> Image:
    array, (middle, _) = mask.array.copy(), _head(mask)
    array[:, middle[1] - 3 : middle[1] + 3, middle[2] - 1 : middle[2] + 1] = False
    return _with(mask, array)


def _leak(mask: Image, share: float) -> Image:
    """Part of the socket: a cap 6 mm thick on the head's inner upper side."""
    middle, _ = _head(mask)
    offset_mm = (np.indices(mask.shape).T - middle).T * np.reshape(mask.spacing_mm, (3, 1, 1, 1))
    distance_mm = np.linalg.norm(offset_mm, axis=0)
    radius_mm = _head(mask)[1][0] * mask.spacing_mm[0]
    inward = (-offset_mm[0] + offset_mm[2]) / np.maximum(distance_mm, 1) / np.sqrt(2)
    shell = (distance_mm < radius_mm + 9) & (distance_mm > radius_mm - 3) & (inward > 1 - share)
    return _with(mask, mask.array | shell)


def _neck(mask: Image, keep_mm: float) -> Image:
    """The neck cut down to a rod of this radius, or through (0)."""
    from hipqct.anatomy import find_frame

    frame = find_frame(mask, "left")
    points_mm = mask.to_world(np.moveaxis(np.indices(mask.shape), 0, -1)) - frame.neck_center_mm
    along = points_mm @ frame.neck_axis
    across = np.linalg.norm(points_mm - along[..., None] * frame.neck_axis, axis=-1)
    near = across < 1.3 * frame.head_radius_mm
    return _with(mask, mask.array & ~((np.abs(along) < 6) & near & (across > keep_mm)))


def _cut_head(mask: Image, share: float) -> Image:
    middle, radius = _head(mask)
    top = round(middle[2] + radius[2] * (1 - 2 * share))
    return Image(mask.array[:, :, : top + 1], mask.spacing_mm, mask.origin_mm)


def _without(mask: Image, *places: float) -> Image:
    array, slices = mask.array.copy(), np.flatnonzero(mask.array.any(axis=(0, 1)))
    for place in places:
        array[:, :, slices[int(place * (len(slices) - 1))]] = False
    return _with(mask, array)


def _trim_side(mask: Image) -> Image:
    first = np.flatnonzero(mask.array.any(axis=(1, 2)))[0] + 2
    return Image(mask.array[first:], mask.spacing_mm, tuple(mask.to_world([first, 0, 0])))


def _scaled(mask: Image, factor: float) -> Image:
    return Image(mask.array, tuple(factor * s for s in mask.spacing_mm), mask.origin_mm)


def _mirrored(mask: Image) -> Image:
    return Image(mask.array[::-1], mask.spacing_mm, mask.origin_mm)


def _rotated(mask: Image, degrees: float, axes: tuple[int, int]) -> Image:
    """Turned in physical space, resampled on the same grid, and cut flat again below."""
    fine = ndimage.zoom(
        mask.array.astype(np.float32), (1, 1, mask.spacing_mm[2] / mask.spacing_mm[0]), order=1
    )
    turned = ndimage.rotate(fine, degrees, axes=axes, reshape=False, order=1)
    back = ndimage.zoom(turned, (1, 1, mask.shape[2] / turned.shape[2]), order=1) > 0.5
    back[:, :, -1] = False
    return _with(mask, back)


def _oblique(mask: Image, x: float, y: float, z: float) -> Image:
    from scipy.spatial.transform import Rotation

    direction = Rotation.from_euler("xyz", [x, y, z], degrees=True).as_matrix()
    return Image(mask.array, mask.spacing_mm, (30.0, -120.0, 640.0), direction)


def _part(mask: Image, low: float, high: float) -> Image:
    array, slices = mask.array.copy(), np.flatnonzero(mask.array.any(axis=(0, 1)))
    array[:, :, : slices[int(low * (len(slices) - 1))]] = False
    array[:, :, slices[int(high * (len(slices) - 1))] + 1 :] = False
    return _with(mask, array)


def _stub(mask: Image) -> Image:
    """The lowest 9 mm shrunk to a stub of a few pixels."""
    array = np.array(mask.array, bool)
    for z in np.flatnonzero(array.any((0, 1)))[: max(2, round(9 / mask.spacing_mm[2]))]:
        x, y = np.argwhere(array[:, :, z]).mean(0).astype(int)
        kept = np.zeros(array.shape[:2], bool)
        kept[x - 2 : x + 3, y - 2 : y + 3] = True
        array[:, :, z] &= kept
    return _with(mask, array)


def _thorn(mask: Image, pixels: int, half: int) -> Image:
    """A rod (x) of this length and half its width on the trochanter, where a fall's plate touches."""
    from hipqct.anatomy import find_frame

    frame, array = find_frame(mask, "left"), mask.array.copy()
    inside = np.argwhere(array)
    outward = np.cos(np.radians(15)) * frame.lateral + np.sin(np.radians(15)) * frame.posterior
    x, y, z = inside[(mask.to_world(inside) @ outward).argmax()]
    array[x - 2 : x + pixels + 1, y - half : y + half + 1, z - half // 2 : z + half // 2 + 1] = True
    return _with(mask, array)


def _only(mask: Image, *voxels) -> Image:
    array = np.zeros(mask.shape, bool)
    for voxel in voxels:
        array[voxel] = True
    return _with(mask, array)


ROUGH = frozenset({"surface_handles"})
ANATOMY = frozenset(
    {"no_anatomical_frame", "head_radius_mm", "head_misfit_mm", "head_coverage", "head_leak_percent"}
    | {"neck_share", "neck_shaft_angle_deg", "below_head_mm", "distal_slab_share", "contact_radius_mm"}
    | {"head_above_mask_mm"}
)


def _must(*flags: str) -> frozenset[str]:
    return frozenset(flags)


PERTURBATIONS = [
    Perturbation("as it is", lambda m: m),
    *[
        Perturbation(f"boundary noise {p}", lambda m, p=p: _edge(m, p, 1), allowed=ROUGH)
        for p in (0.05, 0.1, 0.2, 0.3)
    ],
    Perturbation("boundary noise, another", lambda m: _edge(m, 0.2, 2), allowed=ROUGH),
    *[Perturbation(f"slices off by {n} pixels", lambda m, n=n: _jitter(m, n), allowed=ROUGH) for n in (1, 2)],
    Perturbation("an island", lambda m: _islands(m, 1, 1)),
    Perturbation("ten islands", lambda m: _islands(m, 10, 2)),
    Perturbation("a large island", lambda m: _islands(m, 1, 6)),
    Perturbation("a small hole", lambda m: _holes(m, 1)),
    Perturbation("a large hole", lambda m: _holes(m, 4)),
    Perturbation("a tunnel", _tunnel, _must("surface_handles"), allowed=ROUGH | ANATOMY),
    Perturbation("a small leak", lambda m: _leak(m, 0.15), _must("head_leak_percent"), allowed=ANATOMY),
    Perturbation("a leak", lambda m: _leak(m, 0.3), _must("head_leak_percent"), allowed=ANATOMY),
    Perturbation("a large leak", lambda m: _leak(m, 0.6), flags=_must("head_misfit_mm"), allowed=ANATOMY),
    Perturbation("a thin neck", lambda m: _neck(m, 8.0), _must("neck_share"), allowed=ANATOMY),
    Perturbation("no neck", lambda m: _neck(m, 0.0), _must("no_anatomical_frame")),
    Perturbation(
        "a quarter of the head cut", lambda m: _cut_head(m, 0.25), _must("touches_scan_top"), allowed=ANATOMY
    ),
    Perturbation(
        "half the head cut", lambda m: _cut_head(m, 0.5), _must("touches_scan_top"), allowed=ANATOMY
    ),
    Perturbation(
        "a missing slice",
        lambda m: _without(m, 0.4),
        _must("below_head_mm"),
        allowed=ANATOMY,
    ),
    Perturbation(
        "a missing slice in the head",
        lambda m: _without(m, 0.85),
        _must("no_anatomical_frame"),
        allowed=ANATOMY,
    ),
    Perturbation(
        "two missing slices", lambda m: _without(m, 0.2, 0.6), _must("below_head_mm"), allowed=ANATOMY
    ),
    Perturbation("contact with the scan's side", _trim_side, _must("touches_scan_side"), allowed=ANATOMY),
    Perturbation("half the size", lambda m: _scaled(m, 0.5), _must("head_radius_mm"), allowed=ANATOMY),
    Perturbation(
        "one and a half the size", lambda m: _scaled(m, 1.5), _must("head_radius_mm"), allowed=ANATOMY
    ),
    *[Perturbation(f"{f} the size", lambda m, f=f: _scaled(m, f)) for f in (0.9, 1.1)],
    Perturbation("a right femur", _mirrored, side="right"),
    Perturbation("the wrong side", lambda m: m, _must("neck_share"), allowed=ANATOMY, side="right"),
    Perturbation("a mirrored mask on the wrong side", _mirrored, _must("neck_share"), allowed=ANATOMY),
    *[
        # Turned, the flat lower end is cut obliquely.
        Perturbation(
            f"turned by {d} degrees",
            lambda m, d=d, a=a: _rotated(m, d, a),
            allowed=ROUGH | {"distal_slab_share"},
        )
        for d, a in ((8, (0, 1)), (-8, (0, 2)), (8, (1, 2)))
    ],
    *[
        Perturbation(f"oblique axes {angles}", lambda m, a=angles: _oblique(m, *a))
        for angles in ((10, 0, 0), (0, -12, 5), (5, 8, 20))
    ],
    Perturbation("a stub at the lower end", _stub, _must("distal_slab_share"), allowed=ANATOMY | ROUGH),
    *[
        Perturbation(
            f"a thorn of {n} pixels",
            lambda m, n=n, h=h: _thorn(m, n, h),
            _must("contact_radius_mm"),
            allowed=frozenset({"tet_not_manifold"}),
        )
        for n, h in ((3, 1), (8, 2))
    ],
    Perturbation("the head alone", lambda m: _part(m, 0.6, 1.0), _must("below_head_mm"), allowed=ANATOMY),
    Perturbation(
        "the shaft alone", lambda m: _part(m, 0.0, 0.3), _must("below_head_mm"), allowed=ANATOMY | ROUGH
    ),
    Perturbation("nothing", lambda m: _only(m), refused="empty"),
    Perturbation("everything", lambda m: _with(m, np.ones(m.shape)), refused="whole image"),
    Perturbation("one voxel", lambda m: _only(m, (20, 20, 10)), refused="thin|thick"),
    Perturbation(
        "one slice",
        lambda m: _only(m, np.s_[10:30, 10:30, 12]),
        _must("no_anatomical_frame"),
        allowed=ANATOMY | {"hex_volume_error_percent"},
    ),
]
