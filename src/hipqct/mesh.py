"""Mesh types and what can be measured on them: area, enclosed volume, closedness, Jacobians."""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Corners of a C3D8 in its node order (VTK's too): the lower face round, then the upper face round.
HEX_CORNERS = np.array(
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
)
# The three neighbours of each corner, ordered so that their triple product is the corner Jacobian.
HEX_CORNER_NEIGHBOURS = np.array(
    [(1, 3, 4), (2, 0, 5), (3, 1, 6), (0, 2, 7), (7, 5, 0), (4, 6, 1), (5, 7, 2), (6, 4, 3)]
)

# Edges of a tetrahedron in the order of a C3D10's mid-edge nodes (VTK's too).
TET_EDGES = np.array([(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)])
TET_FACES = np.array([(1, 2, 3), (0, 3, 2), (0, 1, 3), (0, 2, 1)])  # outward
# What a support holds at the lower end: stuffed tetrahedra are chamfered at the face itself.
DISTAL_SLAB, DISTAL_SLAB_MM = "DISTAL_SLAB", 6.0


@dataclass(frozen=True)
class Surface:
    """A triangulated surface in LPS world millimetres.

    Args:
        points_mm: vertices, shape ``(n, 3)``.
        triangles: vertex indices, shape ``(m, 3)``, counter-clockwise seen from outside.
    """

    points_mm: np.ndarray
    triangles: np.ndarray


@dataclass(frozen=True)
class Mesh:
    """A mesh of cubes or of quadratic tetrahedra in LPS world millimetres.

    Args:
        points_mm: nodes, shape ``(n, 3)``.
        cells: node indices, all Jacobians positive: ``(m, 8)`` in C3D8 order, or ``(m, 10)`` in C3D10 order,
            four corners, then the middles of `TET_EDGES`.
        cell_data: one value per cell by name, as the mean of an image over the cell's part inside the mask.
        node_sets: name to node indices, 0-based, ascending.
        facts: what building it found (element size, cubes dropped).
    """

    points_mm: np.ndarray
    cells: np.ndarray
    cell_data: dict[str, np.ndarray] = field(default_factory=dict)
    node_sets: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)

    @property
    def element(self) -> str:
        """Abaqus' name of the elements, ``C3D8`` or ``C3D10``."""
        return f"C3D{self.cells.shape[1]}"


def surface_area_mm2(surface: Surface) -> float:
    """Sum of the triangles' areas in mm2."""
    a, b, c = (surface.points_mm[surface.triangles[:, i]] for i in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def enclosed_volume_mm3(surface: Surface) -> float:
    """Volume inside a closed surface in mm3 by the divergence theorem; negative when it is inside out."""
    points_mm = surface.points_mm - surface.points_mm.mean(axis=0)
    a, b, c = (points_mm[surface.triangles[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def is_closed(surface: Surface) -> bool:
    """Whether every edge lies in exactly two triangles that run through it in opposite directions."""
    starts, ends = surface.triangles.ravel(), np.roll(surface.triangles, -1, axis=1).ravel()
    n = len(surface.points_mm)
    forward = np.sort(row_keys(np.stack([starts, ends], axis=1), n))
    backward = np.sort(row_keys(np.stack([ends, starts], axis=1), n))
    return bool((np.diff(forward) > 0).all() and (forward == backward).all())


def row_keys(rows: np.ndarray, points: int) -> np.ndarray:
    """One integer for each row of point numbers, ordered as the rows are: what `np.unique` sorts fastest.

    Args:
        rows: shape ``(n, k)``, numbers below ``points``. Keys of pairs can be compared between calls; those
            of longer rows need not when ``points`` to the power of ``k`` passes 64 bits.
    """
    keys, beyond = rows[:, 0].astype(np.int64), points
    for column in rows.T[1:]:
        if beyond * points > np.iinfo(np.int64).max:
            distinct, keys = np.unique(keys, return_inverse=True)
            beyond = len(distinct)
        keys, beyond = keys * points + column, beyond * points
    return keys


def unshared_faces(faces: np.ndarray) -> np.ndarray:
    """Places of the faces, shape ``(n, k)`` of point numbers, whose points are no other face's."""
    keys = row_keys(np.sort(faces, axis=1), int(faces.max()) + 1)
    _, first, count = np.unique(keys, return_index=True, return_counts=True)
    return first[count == 1]


def boundary_faces(tets: np.ndarray) -> np.ndarray:
    """Faces that belong to one tetrahedron (corners first) alone, outward, shape ``(n, 3)``."""
    faces = tets[:, TET_FACES].reshape(-1, 3)
    return faces[unshared_faces(faces)]


def largest_body(points_mm: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """Which tetrahedra ``(m, 4)`` belong to the largest face-connected set by volume, boolean, ``(m,)``."""
    keys = row_keys(np.sort(tets[:, TET_FACES].reshape(-1, 3), axis=1), len(points_mm))
    order = np.argsort(keys, kind="stable")
    shared = keys[order[1:]] == keys[order[:-1]]
    pairs = order[1:][shared] // 4, order[:-1][shared] // 4
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(tets), len(tets)))
    _, body = connected_components(graph, directed=False)
    return body == np.bincount(body, tet_volumes_mm3(points_mm, tets)).argmax()


def euler_number(surface: Surface) -> int:
    """Vertices - edges + triangles: 2 for one ball-like body, 2 less for every handle."""
    edges = np.sort(surface.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edge_count = len(np.unique(row_keys(edges, len(surface.points_mm))))
    vertex_count = len(np.unique(surface.triangles))
    return int(vertex_count - edge_count + len(surface.triangles))


def corner_jacobians_mm3(points_mm: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Jacobian at each corner of hexahedra, shape ``(m, 8)``; all positive in a valid C3D8 mesh."""
    corners = points_mm[cells]
    edges = corners[:, HEX_CORNER_NEIGHBOURS] - corners[:, :, None, :]
    return np.einsum("mci,mci->mc", edges[:, :, 0], np.cross(edges[:, :, 1], edges[:, :, 2]))


def hex_volumes_mm3(points_mm: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Volumes of parallelepipeds (such as cubes) in C3D8 order, shape ``(m,)``."""
    return corner_jacobians_mm3(points_mm, cells)[:, 0]


def tet_volumes_mm3(points_mm: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """Signed volumes of tetrahedra (corners first), shape ``(m,)``; negative ones are inside out."""
    a, b, c, d = (points_mm[tets[:, i]] for i in range(4))
    return np.einsum("ij,ij->i", np.cross(b - a, c - a), d - a) / 6


def outward(points_mm: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """The same tetrahedra, changed in place, all with positive volume."""
    turned = tet_volumes_mm3(points_mm, tets) < 0
    tets[turned] = tets[turned][:, [1, 0, 2, 3]]
    return tets


def cell_volumes_mm3(mesh: Mesh) -> np.ndarray:
    """Volumes of a mesh's cubes or tetrahedra, shape ``(m,)``."""
    volumes_mm3 = hex_volumes_mm3 if mesh.element == "C3D8" else tet_volumes_mm3
    return volumes_mm3(mesh.points_mm, mesh.cells)


def dihedral_angles_deg(points_mm: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """The six angles between the faces of each tetrahedron (corners first), in degrees, shape ``(m, 6)``."""
    corners = points_mm[tets[:, :4]]
    angles = []
    for i, j in TET_EDGES:
        k, m = sorted({0, 1, 2, 3} - {i, j})
        along = corners[:, j] - corners[:, i]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        sides = [corners[:, other] - corners[:, i] for other in (k, m)]
        sides = [side - np.einsum("ij,ij->i", side, along)[:, None] * along for side in sides]
        cosine = np.einsum("ij,ij->i", *sides) / np.prod([np.linalg.norm(s, axis=1) for s in sides], axis=0)
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return np.stack(angles, axis=1)
