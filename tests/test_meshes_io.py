"""Mesh files, read back by readers that are not ours."""

import meshio
import numpy as np
import pytest
import trimesh
from body_factory import femur_like
from decks import read_deck
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkFiltersVerdict import vtkCellSizeFilter
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader, vtkXMLUnstructuredGridReader

from hipqct.hexahedra import build_hexahedra
from hipqct.io.meshes import write_inp, write_stl, write_vtp, write_vtu
from hipqct.material import bin_modulus
from hipqct.mesh import enclosed_volume_mm3, hex_volumes_mm3, tet_volumes_mm3
from hipqct.surface import extract_surface
from hipqct.tetrahedra import build_tetrahedra


@pytest.fixture(scope="module")
def mask():
    return femur_like()


@pytest.fixture(scope="module")
def mesh(mask):
    return build_hexahedra(mask, {"hu": np.indices(mask.shape)[2] * 40.0})


@pytest.fixture(scope="module")
def bins(mesh):
    return bin_modulus(100.0 + mesh.cell_data["hu"] * 3.3, 0.05)


def test_a_stl_keeps_the_surface(tmp_path, mask):
    surface = extract_surface(mask)
    write_stl(surface, tmp_path / "s.stl")
    back = trimesh.load(tmp_path / "s.stl", file_type="stl")
    assert len(back.faces) == len(surface.triangles)
    assert back.is_volume
    assert back.volume == pytest.approx(enclosed_volume_mm3(surface), rel=1e-5)
    assert meshio.read(tmp_path / "s.stl").cells_dict["triangle"].shape == surface.triangles.shape
    # An ASCII file would begin with this word; readers guess the kind by it.
    assert not (tmp_path / "s.stl").read_bytes().startswith(b"solid")


def read_by_vtk(reader, path):
    reader.SetFileName(str(path))
    reader.Update()
    grid = reader.GetOutput()
    assert {"units_mm_N_MPa", "frame_LPS"} <= {
        grid.GetFieldData().GetArrayName(i) for i in range(grid.GetFieldData().GetNumberOfArrays())
    }
    return grid


def arrays_of(data) -> dict[str, np.ndarray]:
    """Arrays of a VTK grid's points or cells by name."""
    return {data.GetArrayName(i): vtk_to_numpy(data.GetArray(i)) for i in range(data.GetNumberOfArrays())}


def test_a_vtp_keeps_the_surface_to_the_last_bit(tmp_path, mask):
    surface = extract_surface(mask)
    write_vtp(surface, tmp_path / "s.vtp", "a title")
    grid = read_by_vtk(vtkXMLPolyDataReader(), tmp_path / "s.vtp")
    assert np.array_equal(vtk_to_numpy(grid.GetPoints().GetData()), surface.points_mm)
    triangles = vtk_to_numpy(grid.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    assert np.array_equal(triangles, surface.triangles)


@pytest.mark.parametrize(("kind", "vtk_type"), [("hex", 12), ("tet", 24)])
def test_a_vtu_keeps_cells_fields_and_sets(tmp_path, mask, mesh, kind, vtk_type):
    mesh = mesh if kind == "hex" else build_tetrahedra(mask, 6.0)
    arrays = mesh.cell_data | {"youngs_modulus_mpa": np.linspace(10.0, 17_000.0, len(mesh.cells))}
    write_vtu(mesh, tmp_path / "h.vtu", arrays)
    grid = read_by_vtk(vtkXMLUnstructuredGridReader(), tmp_path / "h.vtu")
    assert np.array_equal(vtk_to_numpy(grid.GetPoints().GetData()), mesh.points_mm)
    assert {grid.GetCellType(i) for i in range(grid.GetNumberOfCells())} == {vtk_type}
    cells = vtk_to_numpy(grid.GetCells().GetConnectivityArray()).reshape(mesh.cells.shape)
    assert np.array_equal(cells, mesh.cells)
    found = arrays_of(grid.GetCellData())
    assert set(found) == set(arrays)
    assert all(np.array_equal(found[name], values) for name, values in arrays.items())
    sets = arrays_of(grid.GetPointData())
    assert set(sets) == set(mesh.node_sets)
    assert all(np.array_equal(np.flatnonzero(sets[name]), nodes) for name, nodes in mesh.node_sets.items())
    # VTK's own volume of every cell, from its shape functions' order of nodes.
    sizes = vtkCellSizeFilter()
    sizes.SetInputData(grid)
    sizes.Update()
    volumes_mm3 = arrays_of(sizes.GetOutput().GetCellData())["Volume"]
    measure = hex_volumes_mm3 if kind == "hex" else tet_volumes_mm3
    assert np.allclose(volumes_mm3, measure(mesh.points_mm, mesh.cells), rtol=1e-6)


def test_a_deck_keeps_nodes_elements_sets_and_materials(tmp_path, mesh, bins):
    write_inp(mesh, tmp_path / "h.inp", ["units: mm, N, MPa", "frame: LPS"], bins, 0.3)
    deck = read_deck(tmp_path / "h.inp")
    assert deck["comments"] == ["units: mm, N, MPa", "frame: LPS"]
    assert list(deck["nodes"]) == list(range(1, len(mesh.points_mm) + 1))
    assert np.allclose(list(deck["nodes"].values()), mesh.points_mm, rtol=1e-8, atol=1e-8)
    assert np.array_equal(list(deck["elements"].values()), mesh.cells + 1)
    assert set(deck["types"].values()) == {"C3D8"}
    for name, nodes in mesh.node_sets.items():
        assert np.array_equal(deck["nset"][name], nodes + 1)
    assert deck["section"] == {name: name for name in deck["elset"]}
    assert sorted(cell for cells in deck["elset"].values() for cell in cells) == list(
        range(1, len(mesh.cells) + 1)
    )
    modulus_mpa = {cell: deck["material"][name][0] for name, cells in deck["elset"].items() for cell in cells}
    assert np.allclose(
        [modulus_mpa[i + 1] for i in range(len(mesh.cells))], bins.modulus_mpa[bins.bin_of_cell]
    )
    assert {ratio for _, ratio in deck["material"].values()} == {0.3}
    back = meshio.read(tmp_path / "h.inp")
    assert np.array_equal(back.cells_dict["hexahedron"], mesh.cells)
    assert all(np.array_equal(back.point_sets[name], nodes) for name, nodes in mesh.node_sets.items())


def test_a_deck_without_bins_is_geometry_only(tmp_path, mesh):
    write_inp(mesh, tmp_path / "h.inp", ["UNCALIBRATED"])
    text = (tmp_path / "h.inp").read_text()
    assert "*MATERIAL" not in text and "*SOLID SECTION" not in text and "*ELASTIC" not in text
    assert text.startswith("** UNCALIBRATED\n")


def test_no_line_of_a_deck_is_too_long_for_a_solver(tmp_path, mesh, bins):
    write_inp(mesh, tmp_path / "h.inp", ["word " * 200, "Grüße\nnext"], bins)
    lines = (tmp_path / "h.inp").read_text(encoding="ascii").splitlines()
    assert max(map(len, lines)) <= 132
    assert all(line.startswith("**") for line in lines[: lines.index("*NODE, NSET=NALL")])


def test_the_same_mesh_gives_the_same_bytes(tmp_path, mask, mesh, bins):
    surface = extract_surface(mask)
    for name in ("a", "b"):
        write_stl(surface, tmp_path / f"{name}.stl")
        write_inp(mesh, tmp_path / f"{name}.inp", ["x"], bins)
        write_vtu(mesh, tmp_path / f"{name}.vtu", mesh.cell_data)
    for suffix in ("stl", "inp", "vtu"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 6  # no temporary file is left
