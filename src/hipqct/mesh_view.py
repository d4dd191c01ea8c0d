"""A picture of a hip's finite-element model: stiffness outside and inside, and its load cases."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hipqct.anatomy import FemurFrame
from hipqct.mesh import DISTAL_SLAB, Mesh, unshared_faces

# Faces of a C3D8 by its corners, seen from outside counter-clockwise.
HEX_FACES = np.array([(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)])
COLOURS, PLAIN = "viridis", "#cfcfcf"
SET_COLOURS = {"HEAD": "#d62728", "TROCHANTER": "#ff7f0e", "DISTAL": "#1f77b4"}
SET_ROLES = {"HEAD": "pushed", "TROCHANTER": "supported", "DISTAL": "held"}
LIGHT = np.array([0.3, -0.8, 0.5])  # in view coordinates: across, depth (towards the back), up
AMBIENT, FAINT_AMBIENT = 0.55, 0.88  # shading; faint where colours are read off a bar
STIFFNESS_RANGE_MPA = (100.0, 20_000.0)
SCALE_BAR_MM = 20
ARROW_MM = 25
PNG_SETTINGS = {"dpi": 110, "metadata": {"Software": "hipqct"}}


def draw_model(mesh: Mesh, frame: FemurFrame | None, cases: dict, title: str) -> Figure:
    """Draw the voxel model from the front and the back, cut open, and each load case's sets and push.

    Args:
        mesh: with ``youngs_modulus_mpa`` for stiffness, else ``hu`` is drawn.
        frame: views lie in the plane of neck and shaft; without one, in the frontal plane of the scan.
        cases: of mesh.json, by name.
        title: above the picture.
    """
    view = _view(frame)
    panels = [("front", False, False), ("back", True, False), ("cut through head and shaft", False, True)]
    figure = Figure(figsize=(3.4 * (len(panels) + len(cases)), 5.4), layout="constrained")
    axes = figure.subplots(1, len(panels) + len(cases), squeeze=False)[0]
    values, norm, label = _values(mesh)
    for ax, (name, from_back, cut) in zip(axes, panels, strict=False):
        cells = _behind(mesh, frame, view) if cut else np.arange(len(mesh.cells))
        turned = view * np.array([[-1], [-1], [1]]) if from_back else view
        _draw(ax, mesh, cells, turned, ScalarMappable(norm, COLOURS).to_rgba(values)[:, :3], FAINT_AMBIENT)
        ax.set_title(name, fontsize=10)
        for letter, place in zip("LR" if from_back else "RL", (0.02, 0.98), strict=True):
            ax.text(place, 0.98, letter, transform=ax.transAxes, ha="center", va="top", fontsize=9)
    for ax, (name, case) in zip(axes[len(panels) :], cases.items(), strict=True):
        _draw_case(ax, mesh, view, case, frame)
        ax.set_title(f"{name}: push\n{_out_of_plane(view @ np.array(case['push']))}", fontsize=10)
    _share_scale(axes)
    _scale_bar(axes[0])
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, shrink=0.7, label=label, aspect=30, extend="both")
    figure.suptitle(title, fontsize=11)
    return figure


def _view(frame: FemurFrame | None) -> np.ndarray:
    """Unit rows: to the right, away from the viewer, up on the picture; the patient's right is left."""
    if frame is None:
        return np.eye(3)
    across = frame.lateral if frame.side == "left" else -frame.lateral
    return np.stack([across, frame.posterior, frame.shaft_axis])


def _values(mesh: Mesh) -> tuple[np.ndarray, Normalize, str]:
    """What colours the cells: values ``(m,)``, their scale and its label."""
    if "youngs_modulus_mpa" in mesh.cell_data:
        values = mesh.cell_data["youngs_modulus_mpa"]
        return values, LogNorm(*STIFFNESS_RANGE_MPA, clip=True), "Young's modulus (MPa)"
    values = mesh.cell_data["hu"]
    return values, Normalize(-100, 1500, clip=True), "mean CT number (HU), no calibration"


def _behind(mesh: Mesh, frame: FemurFrame | None, view: np.ndarray) -> np.ndarray:
    """Numbers of the cells behind the plane through head and shaft."""
    middles = mesh.points_mm[mesh.cells].mean(axis=1) @ view[1]
    level = middles.mean() if frame is None else frame.head_center_mm @ view[1]
    return np.flatnonzero(middles >= level)


def _out_of_plane(push: np.ndarray) -> str:
    """How far a push (unit vector in view coordinates) leaves the plane of the picture, in words."""
    angle_deg = np.degrees(np.arcsin(np.clip(push[1], -1, 1)))
    if abs(angle_deg) < 0.5:
        return "in the plane of the picture"
    return f"{abs(angle_deg):.0f} deg {'away from' if angle_deg > 0 else 'towards'} the viewer"


def _draw(
    ax: Axes,
    mesh: Mesh,
    cells: np.ndarray,
    view: np.ndarray,
    colours: np.ndarray,
    ambient: float = AMBIENT,
) -> None:
    """Boundary faces of some cells that face the viewer, far ones first; ``colours``: RGB of all cells."""
    faces = mesh.cells[cells][:, HEX_FACES].reshape(-1, 4)
    owner = np.repeat(cells, len(HEX_FACES))
    outer = unshared_faces(faces)
    corners = mesh.points_mm[faces[outer]] @ view.T
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    seen = normal[:, 1] < -1e-6
    corners, normal, owner = corners[seen], normal[seen], owner[outer][seen]
    order = np.argsort(-corners[:, :, 1].mean(axis=1), kind="stable")
    light = ambient + (1 - ambient) * np.clip(normal @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    shaded = np.clip(colours[owner] * light[:, None], 0, 1)[order]
    polygons = corners[order][:, :, [0, 2]]
    ax.add_collection(PolyCollection(polygons, facecolors=shaded, edgecolors=shaded, linewidths=0.2))
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.axis("off")


def _draw_case(ax: Axes, mesh: Mesh, view: np.ndarray, case: dict, frame: FemurFrame) -> None:
    """The model in grey with the case's node sets in colour and its push as an arrow."""
    colours = np.tile(_rgb(PLAIN), (len(mesh.cells), 1))
    patches = []
    for name in (case["head_set"], case["trochanter_set"], DISTAL_SLAB):
        if name:
            place = name.split("_")[0]
            touched = np.isin(mesh.cells, mesh.node_sets[name]).any(axis=1)
            colours[touched] = _rgb(SET_COLOURS[place])
            patches.append(Patch(color=SET_COLOURS[place], label=f"{name}: {SET_ROLES[place]}"))
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=8, frameon=False)
    _draw(ax, mesh, np.arange(len(mesh.cells)), view, colours)
    push = view @ np.array(case["push"])
    tip = view @ frame.head_center_mm - push * frame.head_radius_mm
    start = tip - push * ARROW_MM
    ax.annotate(
        "", xy=tip[[0, 2]], xytext=start[[0, 2]], arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 2}
    )
    ax.plot(*start[[0, 2]], alpha=0)  # the arrow's tail counts for the limits
    ax.autoscale_view()


def _rgb(colour: str) -> np.ndarray:
    """Red, green and blue, 0 to 1, of ``#rrggbb``."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _share_scale(axes: np.ndarray) -> None:
    """The same millimetres per inch, and the same height, in all panels."""
    limits = np.array([(*ax.get_xlim(), *ax.get_ylim()) for ax in axes])
    half_mm = (limits[:, 1] - limits[:, 0]).max() / 2
    for ax, (left, right, _, _) in zip(axes, limits, strict=True):
        middle = (left + right) / 2
        ax.set(xlim=(middle - half_mm, middle + half_mm), ylim=(limits[:, 2].min(), limits[:, 3].max()))


def _scale_bar(ax: Axes) -> None:
    """A bar of `SCALE_BAR_MM` in the lower left corner."""
    x, y = ax.get_xlim()[0], ax.get_ylim()[0]
    ax.plot([x, x + SCALE_BAR_MM], [y, y], color="black", linewidth=2)
    ax.text(x + SCALE_BAR_MM / 2, y, f"{SCALE_BAR_MM} mm", ha="center", va="bottom", fontsize=8)
