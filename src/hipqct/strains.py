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

# Places within elements: local coordinates (-1 to 1) in a C3D8, shares of the four corners in a C3D10.
CENTROID = {"C3D8": np.zeros(3), "C3D10": np.full(4, 0.25)}
# Gauss points of equal weight that integrate the energy of cubes and of straight-edged tetrahedra exactly.
GAUSS_POINTS = {
    "C3D8": (2.0 * HEX_CORNERS - 1) / np.sqrt(3),
    "C3D10": np.full((4, 4), (5 - np.sqrt(5)) / 20) + np.sqrt(0.2) * np.eye(4),
}


@dataclass(frozen=True)
class Criterion:
    """When a linear model counts as failed: a strain beyond its limit in some share of the bone.

    Args:
        measure: ``principal``, the larger of the first principal strain over ``tension`` and the third, taken
            positive, over ``compression`` (Schileo et al. 2014, J Biomech 47:3531): of tetrahedra at their
            corners, where the strains of all elements that meet are averaged, as there; of cubes at their
            centroids. ``effective``, the strain sqrt(2 U / E) of an element's mean energy density U over
            ``tension`` (Pistoia et al. 2002, Bone 30:842).
        tension, compression: limits of strain, positive.
        volume_percent: of the volume looked at that must be beyond; 0: the first element, or its corner.
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


def element_strains(mesh: Mesh, displacement_mm: np.ndarray, place: np.ndarray | None = None) -> np.ndarray:
    """Small-strain tensors at one place in every element, shape ``(m, 3, 3)``.

    Args:
        displacement_mm: of every node, shape ``(n, 3)``.
        place: as in `GAUSS_POINTS`; None: the centroid.
    """
    place = CENTROID[mesh.element] if place is None else place
    gradients = _hex_shape_gradients if mesh.element == "C3D8" else _tet_shape_gradients
    gradient = np.einsum("mni,mnj->mij", displacement_mm[mesh.cells], gradients(mesh, place))
    return (gradient + gradient.transpose(0, 2, 1)) / 2


def _hex_shape_gradients(mesh: Mesh, place: np.ndarray) -> np.ndarray:
    """Gradients (1/mm) of the eight shape functions, shape ``(m, 8, 3)``."""
    signs = 2.0 * HEX_CORNERS - 1
    factors = 1 + signs * place
    others = [factors[:, 1] * factors[:, 2], factors[:, 0] * factors[:, 2], factors[:, 0] * factors[:, 1]]
    local = signs * np.stack(others, axis=1) / 8
    jacobian = np.einsum("ni,mnj->mij", local, mesh.points_mm[mesh.cells])
    return np.einsum("ni,mij->mnj", local, np.linalg.inv(jacobian).transpose(0, 2, 1))


def _tet_shape_gradients(mesh: Mesh, place: np.ndarray) -> np.ndarray:
    """Gradients (1/mm) of the ten shape functions of straight-edged elements, shape ``(m, 10, 3)``."""
    corners = mesh.points_mm[mesh.cells[:, :4]]
    edges = (corners[:, 1:] - corners[:, :1]).transpose(0, 2, 1)
    linear = np.linalg.inv(edges)
    linear = np.concatenate([-linear.sum(axis=1, keepdims=True), linear], axis=1)
    first, second = TET_EDGES.T
    of_edges = place[first, None] * linear[:, second] + place[second, None] * linear[:, first]
    return np.concatenate([(4 * place[:, None] - 1) * linear, 4 * of_edges], axis=1)


def corner_strains(mesh: Mesh, displacement_mm: np.ndarray) -> np.ndarray:
    """Strain tensors at the corners of tetrahedra, the mean over the elements that meet there, ``(n, 3, 3)``.

    Nodes within edges are no corners and have 0.
    """
    total, count = np.zeros((len(mesh.points_mm), 3, 3)), np.zeros(len(mesh.points_mm))
    for corner, place in enumerate(np.eye(4)):
        np.add.at(total, mesh.cells[:, corner], element_strains(mesh, displacement_mm, place))
        np.add.at(count, mesh.cells[:, corner], 1)
    return total / np.maximum(count, 1)[:, None, None]


def energy_density_mpa(strains: np.ndarray, modulus_mpa: np.ndarray, poissons_ratio: float) -> np.ndarray:
    """Strain energy per volume (MPa, that is mJ/mm3) of isotropic linear elastic elements, shape ``(m,)``."""
    shear_modulus_mpa = modulus_mpa / (2 * (1 + poissons_ratio))
    lame_lambda_mpa = modulus_mpa * poissons_ratio / ((1 + poissons_ratio) * (1 - 2 * poissons_ratio))
    trace = np.trace(strains, axis1=1, axis2=2)
    return lame_lambda_mpa * trace**2 / 2 + shear_modulus_mpa * np.einsum("mij,mij->m", strains, strains)


def mean_energy_density_mpa(
    mesh: Mesh, displacement_mm: np.ndarray, modulus_mpa: np.ndarray, poissons_ratio: float
) -> np.ndarray:
    """Each element's mean strain energy per volume (MPa), shape ``(m,)``: over all, the work done."""
    places = GAUSS_POINTS[mesh.element]
    return sum(
        energy_density_mpa(element_strains(mesh, displacement_mm, place), modulus_mpa, poissons_ratio)
        for place in places
    ) / len(places)


def effective_strain(energy_mpa: np.ndarray, modulus_mpa: np.ndarray) -> np.ndarray:
    """The strain (>= 0) that would store as much energy under uniaxial stress, Pistoia et al. 2002."""
    return np.sqrt(2 * energy_mpa / modulus_mpa)


def share_of_limits(principal: np.ndarray, criterion: Criterion) -> np.ndarray:
    """Principal strains, ascending along the last axis, over the criterion's limits: 1 is at the limit."""
    return np.maximum(principal[..., 2] / criterion.tension, -principal[..., 0] / criterion.compression)


def utilisation(
    mesh: Mesh,
    displacement_mm: np.ndarray,
    principal: np.ndarray,
    energy_mpa: np.ndarray,
    criterion: Criterion,
) -> tuple[np.ndarray, np.ndarray]:
    """Each element's strain over the criterion's limit, ``(m,)``, and its principal strains, ``(m, 3)``.

    Args:
        mesh: with its `SOLVED_MODULUS`.
        principal: principal strains at the centroids, ascending, shape ``(m, 3)``.
        energy_mpa: from `mean_energy_density_mpa`.
    """
    if criterion.measure == "effective":
        return effective_strain(energy_mpa, mesh.cell_data[SOLVED_MODULUS]) / criterion.tension, principal
    if mesh.element == "C3D10":
        at_corners = np.linalg.eigvalsh(corner_strains(mesh, displacement_mm))[mesh.cells[:, :4]]
        worst = share_of_limits(at_corners, criterion).argmax(axis=1)
        principal = at_corners[np.arange(len(worst)), worst]
    return share_of_limits(principal, criterion), principal


def failure_factor(
    used: np.ndarray, volumes_mm3: np.ndarray, looked_at: np.ndarray, criterion: Criterion
) -> tuple[float, int]:
    """Factor on the load at which the criterion is met, and the element that meets it; linear model.

    Args:
        used: each element's strain over its limit, shape ``(m,)``.
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
    """Numbers of a solved case, and cell arrays: strains at centroids, mean energy, share of the limits.

    Args:
        mesh: with its `SOLVED_MODULUS`.
        case: of mesh.json.
        printed: by node set, from `hipqct.io.calculix.run_solver`.

    Raises:
        SolverError: the displacements are not those of the mesh's nodes, the reactions do not balance, or no
            element counts.
    """
    check_nodes(case["name"], printed[EVERY_NODE]["nodes"], len(mesh.points_mm))
    pushes_n = printed[case["head_set"]]["force_n"] @ np.array(case["push"])
    force_n = float(pushes_n.sum())
    reaction_balance = check_balance(case["name"], printed, force_n)
    moment_balance = check_moments(case, printed, mesh, force_n)
    displacement_mm, modulus_mpa = printed[EVERY_NODE]["displacement_mm"], mesh.cell_data[SOLVED_MODULUS]
    energy_mpa = mean_energy_density_mpa(mesh, displacement_mm, modulus_mpa, poissons_ratio)
    at_centroids = np.linalg.eigvalsh(element_strains(mesh, displacement_mm))
    used, principal = utilisation(mesh, displacement_mm, at_centroids, energy_mpa, criterion)
    failure, looked_at = _failure(mesh, case, principal, used, criterion)
    factor = failure.pop("factor")
    numbers = {
        "force_n": force_n,
        "displacement_mm": case["displacement_mm"],
        "stiffness_n_mm": force_n / case["displacement_mm"],
        "reaction_balance": reaction_balance,
        "moment_balance": moment_balance,
        "pull_percent": 100 * float(-pushes_n[pushes_n < 0].sum() / pushes_n[pushes_n > 0].sum()),
        "work_mj": 0.5 * force_n * case["displacement_mm"],
        "failure_load_n": force_n * factor,
        "failure_displacement_mm": case["displacement_mm"] * factor,
        **failure,
    }
    fields = {
        "principal_strains": at_centroids[:, ::-1],
        "energy_density_mpa": energy_mpa,
        "share_of_limit": used,
        "looked_at": looked_at.astype(np.uint8),
    }
    return numbers, fields


def _failure(
    mesh: Mesh, case: dict, principal: np.ndarray, used: np.ndarray, criterion: Criterion
) -> tuple[dict, np.ndarray]:
    """The factor on the load and the element that decides, and which elements were looked at, ``(m,)``.

    ``principal``: strains, ascending, shape ``(m, 3)``; ``used``: both from `utilisation`.
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
        "left_out_percent": 100 * float(volumes_mm3[~apart].sum() / volumes_mm3.sum()),
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
