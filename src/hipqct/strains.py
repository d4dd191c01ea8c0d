"""Strains from nodal displacements, and the load at which they reach a limit."""

from dataclasses import dataclass

import numpy as np

from hipqct.errors import SolverError
from hipqct.mesh import HEX_CORNERS, TET_EDGES, HexMesh, TetMesh

MEASURES = ("principal", "effective")


@dataclass(frozen=True)
class Criterion:
    """When a linear model counts as failed: a strain beyond its limit in some share of the bone.

    Args:
        measure: ``principal``, the larger of the first principal strain over ``tension`` and the third, taken
            positive, over ``compression`` (Schileo et al. 2014, J Biomech 47:3531); ``effective``, the
            strain sqrt(2 U / E) of the energy density U over ``tension`` (Pistoia et al. 2002, Bone 30:842).
        tension, compression: limits of strain, positive.
        volume_percent: of the volume looked at that must be beyond; 0: the first element.
        bone_from_mpa: softer elements are no bone, as marrow and fat within the cortex; 0: all are.
        apart_mm: elements nearer than this to a loaded or held node are not looked at.
    """

    measure: str
    tension: float
    compression: float
    volume_percent: float
    bone_from_mpa: float
    apart_mm: float

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {MEASURES}, got {self.measure!r}")


def element_strains(mesh: HexMesh | TetMesh, displacement_mm: np.ndarray) -> np.ndarray:
    """Small-strain tensors at the elements' centroids, shape ``(m, 3, 3)``.

    Args:
        displacement_mm: of every node, shape ``(n, 3)``.
    """
    slopes = _hex_slopes(mesh) if mesh.cells.shape[1] == 8 else _tet_slopes(mesh)
    gradient = np.einsum("mni,mnj->mij", displacement_mm[mesh.cells], slopes)
    return (gradient + gradient.transpose(0, 2, 1)) / 2


def _hex_slopes(mesh):
    """Derivatives of the eight shape functions by world coordinates at the centroid, shape ``(m, 8, 3)``."""
    local = (2.0 * HEX_CORNERS - 1) / 8
    jacobian = np.einsum("ni,mnj->mij", local, mesh.points_mm[mesh.cells])
    return np.einsum("ni,mij->mnj", local, np.linalg.inv(jacobian).transpose(0, 2, 1))


def _tet_slopes(mesh):
    """Derivatives of the ten shape functions at the centroid of straight-edged elements, ``(m, 10, 3)``.

    There a corner's function has no slope, and that of an edge has the sum of its ends' linear slopes.
    """
    corners = mesh.points_mm[mesh.cells[:, :4]]
    edges = (corners[:, 1:] - corners[:, :1]).transpose(0, 2, 1)
    linear = np.linalg.inv(edges)
    linear = np.concatenate([-linear.sum(axis=1, keepdims=True), linear], axis=1)
    of_edges = linear[:, TET_EDGES[:, 0]] + linear[:, TET_EDGES[:, 1]]
    return np.concatenate([np.zeros_like(linear), of_edges], axis=1)


def energy_density_mpa(strains: np.ndarray, modulus_mpa: np.ndarray, poissons_ratio: float) -> np.ndarray:
    """Strain energy per volume (MPa, that is mJ/mm3) of isotropic linear elastic elements."""
    shear = modulus_mpa / (2 * (1 + poissons_ratio))
    first = modulus_mpa * poissons_ratio / ((1 + poissons_ratio) * (1 - 2 * poissons_ratio))
    trace = np.trace(strains, axis1=1, axis2=2)
    return first * trace**2 / 2 + shear * np.einsum("mij,mij->m", strains, strains)


def utilisation(strains, modulus_mpa, poissons_ratio: float, criterion: Criterion) -> np.ndarray:
    """Each element's strain over the criterion's limit: 1 is at the limit."""
    if criterion.measure == "effective":
        energy_mpa = energy_density_mpa(strains, modulus_mpa, poissons_ratio)
        return np.sqrt(2 * energy_mpa / modulus_mpa) / criterion.tension
    principal = np.linalg.eigvalsh(strains)
    return np.maximum(principal[:, 2] / criterion.tension, -principal[:, 0] / criterion.compression)


def failure_factor(used: np.ndarray, volumes_mm3: np.ndarray, looked_at: np.ndarray, criterion: Criterion):
    """Factor on the load at which the criterion is met, and the element that meets it; linear model.

    Args:
        used: from `utilisation`; volumes_mm3: of the elements; looked_at: which elements count.

    Raises:
        SolverError: no element counts.
    """
    elements = np.flatnonzero(looked_at)
    if not len(elements):
        raise SolverError(
            f"no element of {criterion.bone_from_mpa:g} MPa or more lies more than {criterion.apart_mm:g} mm "
            "from all that is loaded or held, so there is no failure load: choose a smaller "
            "solve/criterion/apart_mm or bone_from_mpa in the configuration"
        )
    order = elements[np.argsort(-used[elements], kind="stable")]
    beyond = np.cumsum(volumes_mm3[order]) - volumes_mm3[order]
    place = np.searchsorted(beyond, criterion.volume_percent / 100 * volumes_mm3[elements].sum(), "right") - 1
    return 1 / float(used[order[place]]), int(order[place])
