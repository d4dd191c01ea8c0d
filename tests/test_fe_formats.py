"""What is written for FEBio, Nastran and ANSYS comes back the same through readers that are not ours."""

import re
from xml.etree import ElementTree

import mapdl_archive
import meshio
import numpy as np
import pytest
from febio_python.feb import Feb
from test_ccx import bar, tet_bar

from hipqct.io.fe_formats import WRITERS
from hipqct.material import bin_modulus

HEADER = ["a bar -- for tests", "units: mm, N, MPa", "frame: LPS"]
PLACE_MM = np.array([140.25, -33.3, 801.7])
MESHES = {"hex": bar(), "tet": tet_bar()}
for shifted in MESHES.values():
    shifted.points_mm[:] += PLACE_MM


@pytest.fixture(params=MESHES)
def model(request):
    mesh = MESHES[request.param]
    moduli_mpa = np.where(np.arange(len(mesh.cells)) % 3 == 0, 500.123456, 17_000.0)
    return mesh, bin_modulus(moduli_mpa, 0)


def write(model, folder, name):
    mesh, bins = model
    path = folder / f"model.{name}"
    WRITERS[name](mesh, path, HEADER, bins, 0.31)
    text = path.read_text()
    assert "mm, N, MPa" in text and "LPS" in text
    return path, text


def test_ansys_reads_the_archive(model, tmp_path):
    mesh, bins = model
    path, text = write(model, tmp_path, "cdb")
    back = mapdl_archive.Archive(str(path), parse_vtk=False)
    assert np.allclose(back.nodes[:, :3], mesh.points_mm, atol=1e-9)
    assert (back.nnum == np.arange(1, len(mesh.points_mm) + 1)).all()
    elements = np.array([element[10:] for element in back.elem])
    assert (elements == mesh.cells + 1).all()
    assert (np.array([element[0] for element in back.elem]) == bins.bin_of_cell + 1).all()
    for name, nodes in mesh.node_sets.items():
        assert (back.node_components[name] == nodes + 1).all()
    moduli = {int(n): float(e) for n, e in re.findall(r"MP,EX,(\d+),(\S+)", text)}
    assert moduli == pytest.approx(dict(enumerate(bins.modulus_mpa.tolist(), start=1)))


def test_febio_reads_the_file(model, tmp_path):
    mesh, bins = model
    path, _ = write(model, tmp_path, "feb")
    back = Feb(filepath=str(path))
    nodes = np.concatenate([part.coordinates for part in back.get_nodes()])
    assert np.allclose(nodes, mesh.points_mm, rtol=1e-6)
    found = {}
    for part in back.get_elements():
        for number, corners in zip(part.ids, part.connectivity, strict=True):
            found[int(number)] = (part.name, tuple(int(c) for c in corners))
    root = ElementTree.parse(path).getroot()
    moduli = {m.get("name"): float(m.find("E").text) for m in root.iter("material")}
    assert {m.find("v").text for m in root.iter("material")} == {"0.31"}
    first = min(min(corners) for _, corners in found.values())
    ids = sorted(found)
    assert len(ids) == len(mesh.cells)
    for cell, number in enumerate(ids):
        name, corners = found[number]
        assert np.array_equal(np.array(corners) - first, mesh.cells[cell])
        assert moduli[name] == pytest.approx(bins.modulus_mpa[bins.bin_of_cell[cell]])
    sets = {s.get("name"): np.array(s.text.split(","), int) - 1 for s in root.iter("NodeSet")}
    assert all((sets[name] == nodes).all() for name, nodes in mesh.node_sets.items())
    assert {d.get("name"): d.get("mat") for d in root.iter("SolidDomain")} == {n: n for n in moduli}


def test_nastran_reads_the_bulk_data(model, tmp_path):
    mesh, bins = model
    path, text = write(model, tmp_path, "bdf")
    back = meshio.read(path)
    assert np.allclose(back.points, mesh.points_mm, rtol=1e-8)
    assert (back.cells[0].data == mesh.cells).all()
    assert (np.concatenate(back.cell_data["nastran:ref"]) == bins.bin_of_cell + 1).all()
    moduli = {int(line[8:24]): float(line[24:40]) for line in text.splitlines() if line.startswith("MAT1*")}
    assert moduli == pytest.approx(dict(enumerate(bins.modulus_mpa.tolist(), start=1)))
    joined = text.replace(",\n", ",")
    for number, name in re.findall(r"\$ node set (\d+) is (\w+)", text):
        ids = re.search(rf"SET {number} = (.*)", joined)[1].split(",")
        assert (np.array(ids, int) - 1 == mesh.node_sets[name]).all()


def test_without_materials_they_are_geometry(tmp_path):
    for name, word in (("feb", "<material"), ("bdf", "MAT1"), ("cdb", "MP,EX")):
        path = tmp_path / f"bare.{name}"
        WRITERS[name](MESHES["hex"], path, HEADER, None, 0.3)
        assert word not in path.read_text()
