"""From a solver's displacements and reactions to stiffness, strains and an estimate of the failure load."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from hipqct.errors import SolverError
from hipqct.material import SOLVED_MODULUS
from hipqct.mesh import DISTAL_SLAB, HEX_CORNERS, TET_EDGES, Mesh, cell_volumes_mm3

MEASURES = ("principal", "effective")
EVERY_NODE, HINGE = "NALL", "HINGE"  # node sets of the decks
LARGEST_IMBALANCE = 1e-3  # of the force; solved models have 1e-6, from the digits that CalculiX prints


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


def element_strains(mesh: Mesh, displacement_mm: np.ndarray) -> np.ndarray:
    """Small-strain tensors at the elements' centroids, shape ``(m, 3, 3)``.

    Args:
        displacement_mm: of every node, shape ``(n, 3)``.
    """
    shapes_per_mm = _hex_shape_gradients(mesh) if mesh.element == "C3D8" else _tet_shape_gradients(mesh)
    gradient = np.einsum("mni,mnj->mij", displacement_mm[mesh.cells], shapes_per_mm)
    return (gradient + gradient.transpose(0, 2, 1)) / 2


def _hex_shape_gradients(mesh: Mesh) -> np.ndarray:
    """Gradients (1/mm) of the eight shape functions at the centroid, shape ``(m, 8, 3)``."""
    local = (2.0 * HEX_CORNERS - 1) / 8
    jacobian = np.einsum("ni,mnj->mij", local, mesh.points_mm[mesh.cells])
    return np.einsum("ni,mij->mnj", local, np.linalg.inv(jacobian).transpose(0, 2, 1))


def _tet_shape_gradients(mesh: Mesh) -> np.ndarray:
    """Gradients (1/mm) of the ten shape functions at the centroid of straight-edged elements, ``(m, 10, 3)``.

    There a corner's function has gradient 0, and that of an edge the sum of its ends' linear gradients.
    """
    corners = mesh.points_mm[mesh.cells[:, :4]]
    edges = (corners[:, 1:] - corners[:, :1]).transpose(0, 2, 1)
    linear = np.linalg.inv(edges)
    linear = np.concatenate([-linear.sum(axis=1, keepdims=True), linear], axis=1)
    of_edges = linear[:, TET_EDGES[:, 0]] + linear[:, TET_EDGES[:, 1]]
    return np.concatenate([np.zeros_like(linear), of_edges], axis=1)


def energy_density_mpa(strains: np.ndarray, modulus_mpa: np.ndarray, poissons_ratio: float) -> np.ndarray:
    """Strain energy per volume (MPa, that is mJ/mm3) of isotropic linear elastic elements, shape ``(m,)``."""
    shear_modulus_mpa = modulus_mpa / (2 * (1 + poissons_ratio))
    lame_lambda_mpa = modulus_mpa * poissons_ratio / ((1 + poissons_ratio) * (1 - 2 * poissons_ratio))
    trace = np.trace(strains, axis1=1, axis2=2)
    return lame_lambda_mpa * trace**2 / 2 + shear_modulus_mpa * np.einsum("mij,mij->m", strains, strains)


def utilisation(
    strains: np.ndarray, modulus_mpa: np.ndarray, poissons_ratio: float, criterion: Criterion
) -> np.ndarray:
    """Each element's strain over the criterion's limit, shape ``(m,)``: 1 is at the limit.

    Args:
        strains: tensors, shape ``(m, 3, 3)``.
        modulus_mpa: shape ``(m,)``.
    """
    if criterion.measure == "effective":
        energy_mpa = energy_density_mpa(strains, modulus_mpa, poissons_ratio)
        return np.sqrt(2 * energy_mpa / modulus_mpa) / criterion.tension
    principal = np.linalg.eigvalsh(strains)
    return np.maximum(principal[:, 2] / criterion.tension, -principal[:, 0] / criterion.compression)


def failure_factor(
    used: np.ndarray, volumes_mm3: np.ndarray, looked_at: np.ndarray, criterion: Criterion
) -> tuple[float, int]:
    """Factor on the load at which the criterion is met, and the element that meets it; linear model.

    Args:
        used: from `utilisation`, shape ``(m,)``.
        volumes_mm3: of the elements, shape ``(m,)``.
        looked_at: which elements count, boolean, shape ``(m,)``.

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


def evaluate_case(
    mesh: Mesh, case: dict, printed: dict, poissons_ratio: float, criterion: Criterion
) -> tuple[dict, dict[str, np.ndarray]]:
    """Numbers of a solved case, and cell arrays: strains, energy density, share of the criterion's limits.

    Args:
        mesh: with its `SOLVED_MODULUS`.
        case: of mesh.json.
        printed: by node set, from `hipqct.io.calculix.run_solver`.

    Raises:
        SolverError: the displacements are not those of the mesh's nodes, the reactions do not balance, or no
            element counts.
    """
    check_nodes(case["name"], printed[EVERY_NODE]["nodes"], len(mesh.points_mm))
    force_n = float(printed[case["head_set"]]["force_n"].sum(axis=0) @ np.array(case["push"]))
    reaction_balance = check_balance(case["name"], printed, force_n)
    moment_balance = check_moments(case, printed, mesh, force_n)
    strains = element_strains(mesh, printed[EVERY_NODE]["displacement_mm"])
    modulus_mpa = mesh.cell_data[SOLVED_MODULUS]
    used = utilisation(strains, modulus_mpa, poissons_ratio, criterion)
    principal = np.linalg.eigvalsh(strains)
    failure, looked_at = _failure(mesh, case, principal, used, criterion)
    factor = failure.pop("factor")
    numbers = {
        "force_n": force_n,
        "displacement_mm": case["displacement_mm"],
        "stiffness_n_mm": force_n / case["displacement_mm"],
        "reaction_balance": reaction_balance,
        "moment_balance": moment_balance,
        "work_mj": 0.5 * force_n * case["displacement_mm"],
        "failure_load_n": force_n * factor,
        "failure_displacement_mm": case["displacement_mm"] * factor,
        **failure,
    }
    fields = {
        "principal_strains": principal[:, ::-1],
        "energy_density_mpa": energy_density_mpa(strains, modulus_mpa, poissons_ratio),
        "share_of_limit": used,
        "looked_at": looked_at.astype(np.uint8),
    }
    return numbers, fields


def _failure(
    mesh: Mesh, case: dict, principal: np.ndarray, used: np.ndarray, criterion: Criterion
) -> tuple[dict, np.ndarray]:
    """The factor on the load and the element that decides, and which elements were looked at, ``(m,)``.

    ``principal``: strains, ascending, shape ``(m, 3)``; ``used``: from `utilisation`.
    """
    modulus_mpa = mesh.cell_data[SOLVED_MODULUS]
    volumes_mm3 = cell_volumes_mm3(mesh)
    middles_mm = mesh.points_mm[mesh.cells].mean(axis=1)
    sets = [name for name in (case["head_set"], case["trochanter_set"], DISTAL_SLAB) if name]
    touched = np.concatenate([mesh.node_sets[name] for name in sets])
    apart = cKDTree(mesh.points_mm[touched]).query(middles_mm)[0] > criterion.apart_mm
    bone = modulus_mpa >= criterion.bone_from_mpa
    factor, element = failure_factor(used, volumes_mm3, apart & bone, criterion)
    tension = principal[element, 2] / criterion.tension >= -principal[element, 0] / criterion.compression
    failure = {
        "factor": factor,
        "failure_element": element + 1,
        "failure_place_mm": middles_mm[element].tolist(),
        "failure_in": "tension" if tension else "compression",
        "failure_modulus_mpa": float(modulus_mpa[element]),
        "soft_percent": 100 * float(volumes_mm3[apart & ~bone].sum() / volumes_mm3[apart].sum()),
    }
    return failure, apart & bone


def check_nodes(name: str, nodes: np.ndarray, count: int) -> None:
    """SolverError where the displacements are not those of every node of the mesh, in order."""
    if not np.array_equal(nodes, np.arange(1, count + 1)):
        raise SolverError(
            f"load case {name}: CalculiX printed displacements of {len(nodes)} nodes that are not the mesh's "
            f"1 to {count}; make the mesh again"
        )


def check_balance(name: str, printed: dict, force_n: float) -> float:
    """The sum of all reactions over the force; SolverError where they do not cancel."""
    reactions_n = [found["force_n"].sum(axis=0) for found in printed.values() if "force_n" in found]
    balance = float(np.linalg.norm(np.sum(reactions_n, axis=0)) / abs(force_n))
    _refuse_imbalance(name, "reactions", balance)
    return balance


def check_moments(case: dict, printed: dict, mesh: Mesh, force_n: float) -> float:
    """The reactions' moment about the held slab over force times longest arm; SolverError where it is not 0.

    A hinge carries moments of its own, but none about its axis: there only that one must vanish.
    """
    middle_mm = mesh.points_mm[mesh.node_sets[DISTAL_SLAB]].mean(axis=0)
    moment_n_mm = np.zeros(3)
    for name, found in printed.items():
        if "force_n" in found and name != HINGE:  # which lies in the middle itself
            arms_mm = mesh.points_mm[found["nodes"] - 1] - middle_mm
            moment_n_mm += np.cross(arms_mm, found["force_n"]).sum(axis=0)
    if case["hinge"] is not None:
        moment_n_mm = moment_n_mm @ np.array(case["hinge"])
    longest_mm = np.linalg.norm(mesh.points_mm - middle_mm, axis=1).max()
    balance = float(np.linalg.norm(moment_n_mm) / (abs(force_n) * longest_mm))
    _refuse_imbalance(case["name"], "moments", balance)
    return balance


def _refuse_imbalance(name: str, what: str, share: float) -> None:
    if not share < LARGEST_IMBALANCE:
        raise SolverError(
            f"load case {name}: the {what} miss balance by {100 * share:.2g}% of the force, so the "
            "solver's answer cannot be trusted; look at the mesh, or choose another element size"
        )
