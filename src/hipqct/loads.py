"""Load cases of a femur: directions in its anatomical frame, and the node sets that are loaded and held."""

from dataclasses import dataclass

import numpy as np

from hipqct.anatomy import SHAFT_FROM_RADII, FemurFrame
from hipqct.errors import MeshError
from hipqct.mesh import DISTAL_SLAB, Mesh, Surface

HEAD, TROCHANTER = "HEAD_", "TROCHANTER_"
# Nodes of the head lie within this many radii of its centre.
HEAD_REACH = 1.3


@dataclass(frozen=True)
class LoadCase:
    """How a femur is loaded: its head is pushed by a frictionless rigid cap, its distal slab is held.

    The direction of the push lies ``angle_to_shaft_deg`` from the shaft (pointing down), in the plane of
    neck and shaft turned about the shaft by ``posterior_deg`` to the back: 0 pushes down the shaft, 90
    straight to the outside.

    Args:
        name: ``stance`` or ``fall``, or what the user calls it.
        head_cap_deg: the cap is embedded up to a plane perpendicular to the push that cuts the head's
            sphere at this angle about it: a volume, whose stiffness does not depend on how a mesh draws the
            surface.
        contact_depth_mm: the trochanter rests on a frictionless plate perpendicular to the push, embedded so
            deep; 0: no plate. The plate ends where the shaft begins.
        distal: ``clamped``: the slab's nodes are held; ``hinged``: the slab is rigid and may turn about the
            axis through its centroid that is perpendicular to shaft and push.
        displacement_mm: the cap's; the models are linear, so it only scales.
        source: where angles and fixation come from.
    """

    name: str
    angle_to_shaft_deg: float
    posterior_deg: float
    head_cap_deg: float
    contact_depth_mm: float
    distal: str
    displacement_mm: float
    source: str

    @property
    def head_set(self) -> str:
        """Name of the set of nodes under the cap."""
        return f"{HEAD}{self.name.upper()}"

    @property
    def trochanter_set(self) -> str | None:
        """Name of the set of nodes on the plate, if there is one."""
        return f"{TROCHANTER}{self.name.upper()}" if self.contact_depth_mm else None


def push_direction(case: LoadCase, frame: FemurFrame) -> np.ndarray:
    """Unit vector (LPS) in which the head is pushed."""
    angle, turn = np.radians([case.angle_to_shaft_deg, case.posterior_deg])
    outward = np.cos(turn) * frame.lateral + np.sin(turn) * frame.posterior
    return -np.cos(angle) * frame.shaft_axis + np.sin(angle) * outward


def hinge_axis(case: LoadCase, frame: FemurFrame) -> np.ndarray:
    """Unit vector perpendicular to shaft and push."""
    axis = np.cross(frame.shaft_axis, push_direction(case, frame))
    if np.linalg.norm(axis) < 1e-6:
        raise MeshError(f"load case {case.name} pushes along the shaft, so a hinge has no axis: clamp it")
    return axis / np.linalg.norm(axis)


def add_load_sets(mesh: Mesh, frame: FemurFrame, cases: list[LoadCase], surface: Surface) -> None:
    """Add the cap's and the plate's node sets of every case to a mesh, apart from the held slab.

    Cap and plate are placed by the frame and the bone's smooth surface, not by the mesh's own outermost
    nodes: a millimetre of the plate's depth moves the stiffness of a fall by a tenth. How deep the nodes of a
    set really reach, from the sphere's or the surface's outermost point, goes to the mesh's facts
    (``set_depths_mm``).

    Raises:
        MeshError: a set would be empty, or a push would lay the shaft and not the trochanter on the plate.
    """
    free = np.setdiff1d(np.arange(len(mesh.points_mm)), mesh.node_sets[DISTAL_SLAB])
    points_mm = mesh.points_mm[free]
    for case in cases:
        push = push_direction(case, frame)
        offset_mm = points_mm - frame.head_center_mm
        on_head = np.linalg.norm(offset_mm, axis=1) < HEAD_REACH * frame.head_radius_mm
        rim_mm = np.cos(np.radians(case.head_cap_deg)) * frame.head_radius_mm
        capped = on_head & (-(offset_mm @ push) >= rim_mm)
        apex_mm = frame.head_radius_mm - frame.head_center_mm @ push
        sets = {case.head_set: (free[capped], -push, apex_mm)}
        if case.trochanter_set:
            plate_mm = _plate_height_mm(case, frame, surface.points_mm)
            embedded = points_mm @ push >= plate_mm - case.contact_depth_mm
            nodes = free[embedded & _is_trochanteric(points_mm, frame) & ~capped]
            sets[case.trochanter_set] = nodes, push, plate_mm
        for name, (nodes, outward, outermost_mm) in sets.items():
            if not len(nodes):
                raise MeshError(
                    f"load case {case.name}: no node for {name}; the bone is not where it should be, or "
                    "cap or plate are less deep than an element"
                )
            mesh.node_sets[name] = nodes
            deepest_mm = (mesh.points_mm[nodes] @ outward).min()
            mesh.facts.setdefault("set_depths_mm", {})[name] = float(outermost_mm - deepest_mm)


def contact_radii_mm(cases: list[LoadCase], frame: FemurFrame, surface: Surface) -> dict[str, float]:
    """How blunt the bone is that rests on a plate, for every case with one, by its name.

    It is the radius of a sphere from which a plate so deep cuts off as large a section. A trochanter has
    about that of a head; a thorn of the mask, which would hold the bone alone and let it rock, has a few mm.
    """
    corners_mm = surface.points_mm[surface.triangles]
    areas_mm2 = np.cross(corners_mm[:, 1] - corners_mm[:, 0], corners_mm[:, 2] - corners_mm[:, 0]) / 2
    middles_mm = corners_mm.mean(axis=1)
    trochanteric, radii_mm = _is_trochanteric(middles_mm, frame), {}
    for case in cases:
        if depth_mm := case.contact_depth_mm:
            push = push_direction(case, frame)
            plate_mm = _plate_height_mm(case, frame, surface.points_mm)
            embedded = trochanteric & (middles_mm @ push >= plate_mm - depth_mm)
            section_mm2 = np.maximum(areas_mm2[embedded] @ push, 0).sum()
            radii_mm[case.name] = float(section_mm2 / (2 * np.pi * depth_mm) + depth_mm / 2)
    return radii_mm


def _plate_height_mm(case: LoadCase, frame: FemurFrame, points_mm: np.ndarray) -> float:
    """How far the trochanter reaches along the push, from the world's origin."""
    reach_mm = points_mm @ push_direction(case, frame)
    lateral, trochanteric = _is_lateral(points_mm, frame), _is_trochanteric(points_mm, frame)
    plate_mm = float(reach_mm[trochanteric].max(initial=-np.inf))
    beyond_mm = float(reach_mm[lateral].max(initial=-np.inf)) - plate_mm
    if beyond_mm > case.contact_depth_mm:
        raise MeshError(
            f"load case {case.name}: the shaft reaches {beyond_mm:.0f} mm beyond the trochanter along the "
            "push and would lie on the plate in its place: give the case a larger angle_to_shaft_deg, cut "
            "the shaft (mesh/distal_cut_mm), or leave the plate out (contact_depth_mm: 0)"
        )
    return plate_mm


def overlapping_nodes(mesh: Mesh) -> int:
    """Nodes in two sets that must be apart: the distal slab, and a case's head and trochanter."""
    count = 0
    for name, head in mesh.node_sets.items():
        if name.startswith(HEAD):
            plate = mesh.node_sets.get(TROCHANTER + name.removeprefix(HEAD), [])
            together = np.concatenate([head, plate, mesh.node_sets[DISTAL_SLAB]])
            count += len(together) - len(np.unique(together))
    return count


def _is_lateral(points_mm: np.ndarray, frame: FemurFrame) -> np.ndarray:
    return (points_mm - frame.neck_center_mm) @ frame.lateral > 0


def _is_trochanteric(points_mm: np.ndarray, frame: FemurFrame) -> np.ndarray:
    """Lateral of the neck, and above the shaft proper."""
    below_head_mm = (frame.head_center_mm - points_mm) @ frame.shaft_axis
    return _is_lateral(points_mm, frame) & (below_head_mm < SHAFT_FROM_RADII * frame.head_radius_mm)
