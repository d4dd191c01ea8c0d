"""Mesh files, read back by readers that are not ours."""

import base64
from xml.etree import ElementTree

import meshio
import numpy as np
import pytest
import trimesh
from decks import read_deck
from test_hexahedra import femur_like

from hipqct.hexahedra import build_hexahedra
from hipqct.io.meshes import write_inp, write_stl, write_vtp, write_vtu
from hipqct.material import bin_modulus
from hipqct.mesh import enclosed_volume_mm3
from hipqct.surface import extract_surface


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


def test_a_vtp_keeps_the_surface_to_the_last_bit(tmp_path, mask):
    """Read by the format's definition; VTK 9.7.2 itself reads the same (tried by hand)."""
    surface = extract_surface(mask)
    write_vtp(surface, tmp_path / "s.vtp", "a title")
    root = ElementTree.parse(tmp_path / "s.vtp").getroot()
    assert root.attrib["type"] == "PolyData" and root.attrib["header_type"] == "UInt64"
    piece = root.find("PolyData/Piece")
    assert int(piece.attrib["NumberOfPolys"]) == len(surface.triangles)
    arrays = {}
    for array in piece.iter("DataArray"):
        data = base64.b64decode(array.text)
        assert int.from_bytes(data[:8], "little") == len(data) - 8
        arrays[array.attrib["Name"]] = np.frombuffer(
            data[8:], {"Float64": "<f8", "Int64": "<i8"}[array.attrib["type"]]
        )
    assert np.array_equal(arrays["Points"].reshape(-1, 3), surface.points_mm)
    assert np.array_equal(arrays["connectivity"].reshape(-1, 3), surface.triangles)
    assert np.array_equal(arrays["offsets"], 3 * np.arange(1, len(surface.triangles) + 1))


def test_a_vtu_keeps_cells_fields_and_sets(tmp_path, mesh, bins):
    arrays = mesh.cell_data | {"youngs_modulus_mpa": bins.modulus_mpa[bins.bin_of_cell]}
    write_vtu(mesh, tmp_path / "h.vtu", arrays)
    back = meshio.read(tmp_path / "h.vtu")
    assert np.array_equal(back.points, mesh.points_mm)
    assert np.array_equal(back.cells_dict["hexahedron"], mesh.cells)
    assert set(back.cell_data) == {"bone_fraction", "hu", "youngs_modulus_mpa"}
    for name, values in arrays.items():
        assert np.array_equal(back.cell_data[name][0], values)
    for name, nodes in mesh.node_sets.items():
        assert np.array_equal(np.flatnonzero(back.point_data[name]), nodes)


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
