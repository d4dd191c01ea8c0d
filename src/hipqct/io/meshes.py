"""Meshes to files: STL, VTP, VTU, and Abaqus/CalculiX input decks. The same mesh gives the same bytes."""

import base64
import textwrap

import meshio
import numpy as np

from hipqct.io.files import replace_when_done
from hipqct.material import MaterialBins, material_name
from hipqct.mesh import Mesh, Surface

MESHIO_TYPES = {"C3D8": "hexahedron", "C3D10": "tetra10"}

STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
STL_HEADER_BYTES = 80
# Abaqus allows 256 characters in a line and 16 entries in a line of a set.
COMMENT_WIDTH = 100
SET_ENTRIES_PER_LINE = 16
# Units and frame for readers of VTU and VTP are in the names of these arrays; the values are 1.
FIELD_NAMES = ("units_mm_N_MPa", "frame_LPS")
FIELD_DATA = "<FieldData>\n{}\n</FieldData>\n".format(
    "\n".join(
        f'<DataArray type="UInt8" Name="{name}" NumberOfTuples="1" format="ascii">1</DataArray>'
        for name in FIELD_NAMES
    )
)
VTP = """<?xml version="1.0"?>
<!-- {title} -->
<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">
<PolyData>
{field_data}<Piece NumberOfPoints="{points}" NumberOfPolys="{polys}">
<Points>
<DataArray type="Float64" Name="Points" NumberOfComponents="3" format="binary">{coordinates}</DataArray>
</Points>
<Polys>
<DataArray type="Int64" Name="connectivity" format="binary">{connectivity}</DataArray>
<DataArray type="Int64" Name="offsets" format="binary">{offsets}</DataArray>
</Polys>
</Piece>
</PolyData>
</VTKFile>
"""


def write_stl(surface: Surface, path, title: str = "hipqct surface, mm, LPS") -> None:
    """Write a binary STL in mm, LPS. Points become float32: about 0.00003 mm at 300 mm from the origin."""
    corners = surface.points_mm[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records = np.zeros(len(corners), STL_TRIANGLE)
    records["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    records["corners"] = corners
    header = title.encode("ascii", "replace")[:STL_HEADER_BYTES].ljust(STL_HEADER_BYTES)
    with replace_when_done(path) as temporary, temporary.open("wb") as file:
        file.write(header + np.uint32(len(records)).astype("<u4").tobytes() + records.tobytes())


def write_vtp(surface: Surface, path, title: str = "hipqct surface, mm, LPS") -> None:
    """Write VTK's XML format in mm, LPS, in full precision and with shared points, unlike an STL."""
    count = len(surface.triangles)
    text = VTP.format(
        title=title.replace("--", "- -"),
        field_data=FIELD_DATA,
        points=len(surface.points_mm),
        polys=count,
        coordinates=_base64(surface.points_mm, "<f8"),
        connectivity=_base64(surface.triangles, "<i8"),
        offsets=_base64(3 * np.arange(1, count + 1), "<i8"),
    )
    with replace_when_done(path) as temporary:
        temporary.write_text(text, encoding="ascii", errors="replace", newline="\n")


def _base64(array: np.ndarray, kind: str) -> str:
    """An array as VTK's inline binary: number of bytes, then the bytes."""
    data = np.ascontiguousarray(array, kind).tobytes()
    return base64.b64encode(np.uint64(len(data)).astype("<u8").tobytes() + data).decode("ascii")


def write_vtu(mesh: Mesh, path, cell_data: dict[str, np.ndarray], point_data=None) -> None:
    """Write the elements as binary VTU with cell and point arrays, and each node set as a 0/1 point array.

    Units and frame are the names of two field arrays (`FIELD_DATA`); meshio knows no text arrays.
    """
    point_data = dict(point_data or {})
    for name, nodes in mesh.node_sets.items():
        point_data[name] = np.zeros(len(mesh.points_mm), np.uint8)
        point_data[name][nodes] = 1
    grid = meshio.Mesh(
        mesh.points_mm,
        [(MESHIO_TYPES[mesh.element], mesh.cells)],
        point_data=point_data,
        cell_data={name: [np.asarray(values)] for name, values in cell_data.items()},
    )
    with replace_when_done(path) as temporary:
        meshio.write(temporary, grid, file_format="vtu", binary=True, compression="zlib")
        text = temporary.read_bytes()
        start = text.index(b"<UnstructuredGrid>") + len(b"<UnstructuredGrid>")
        temporary.write_bytes(text[:start] + b"\n" + FIELD_DATA.encode("ascii") + text[start:])


def read_vtu(path) -> Mesh:
    """Read what `write_vtu` wrote: the mesh with its cell arrays and node sets (point arrays of bytes)."""
    grid = meshio.read(path)
    (cells,) = grid.cells
    sets = {
        name: np.flatnonzero(values) for name, values in grid.point_data.items() if values.dtype == np.uint8
    }
    return Mesh(grid.points, cells.data, {name: values[0] for name, values in grid.cell_data.items()}, sets)


def write_inp(
    mesh: Mesh,
    path,
    header: list[str],
    bins: MaterialBins | None = None,
    poissons_ratio: float = 0.3,
) -> None:
    """Write an Abaqus/CalculiX deck of the mesh: nodes, C3D8 or C3D10 elements, sets, materials.

    Numbers start at 1. The deck holds no step: a load case includes it (``*INCLUDE, INPUT=hex.inp``).
    Element set ``ALL`` is every element; ``MAT_0001`` and on are the bins, each with a linear elastic
    material (MPa) and a solid section. Without bins the deck is geometry only.

    Args:
        header: lines of the comment on top.
    """
    parts = [deck_comment(header), _nodes(mesh.points_mm), _elements(mesh)]
    parts += [_set("*NSET, NSET=" + name, nodes) for name, nodes in mesh.node_sets.items()]
    if bins is not None:
        parts += _materials(bins, poissons_ratio)
    with replace_when_done(path) as temporary:
        temporary.write_text("".join(parts), encoding="ascii", errors="replace", newline="\n")


def deck_comment(lines: list[str]) -> str:
    """Lines as comments of a deck, wrapped."""
    wrapped = [part for line in lines for part in textwrap.wrap(str(line), COMMENT_WIDTH) or [""]]
    return "".join(f"** {line}\n" for line in wrapped)


def _nodes(points_mm: np.ndarray) -> str:
    rows = np.column_stack([np.arange(1, len(points_mm) + 1), points_mm])
    return "*NODE, NSET=NALL\n" + ("%d, %.9g, %.9g, %.9g\n" * len(rows)) % tuple(rows.ravel().tolist())


def _elements(mesh: Mesh) -> str:
    rows = np.column_stack([np.arange(1, len(mesh.cells) + 1), mesh.cells + 1])
    lines = (", ".join(["%d"] * rows.shape[1]) + "\n") * len(rows)
    return f"*ELEMENT, TYPE={mesh.element}, ELSET=ALL\n" + lines % tuple(rows.ravel().tolist())


def _set(keyword: str, members: np.ndarray) -> str:
    numbers = [str(number) for number in (np.asarray(members) + 1).tolist()]
    starts = range(0, len(numbers), SET_ENTRIES_PER_LINE)
    return keyword + "\n" + "".join(", ".join(numbers[i : i + SET_ENTRIES_PER_LINE]) + "\n" for i in starts)


def _materials(bins: MaterialBins, poissons_ratio: float) -> list[str]:
    order = np.argsort(bins.bin_of_cell, kind="stable")
    counts = np.bincount(bins.bin_of_cell, minlength=len(bins.modulus_mpa))
    members = np.split(order, np.cumsum(counts)[:-1])
    parts = []
    for index, (modulus_mpa, cells) in enumerate(zip(bins.modulus_mpa, members, strict=True)):
        name = material_name(index)
        parts.append(_set(f"*ELSET, ELSET={name}", cells))
        parts.append(f"*MATERIAL, NAME={name}\n*ELASTIC\n{modulus_mpa:.9g}, {poissons_ratio:.9g}\n")
        parts.append(f"*SOLID SECTION, ELSET={name}, MATERIAL={name}\n")
    return parts
