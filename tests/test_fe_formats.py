"""What is written for FEBio, Nastran and ANSYS comes back the same through readers that are not ours."""

import re
from dataclasses import replace

import mapdl_archive
import meshio
import numpy as np
import pytest
from body_factory import bar, tet_bar
from febio_python.feb import Feb

from hipqct.io.fe_formats import WRITERS
from hipqct.material import bin_modulus

HEADER = ["a bar -- for tests", "units: mm, N, MPa", "frame: LPS"]
PLACE_MM = np.array([140.25, -33.3, 801.0])  # whole millimetres too
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
    moduli = {material.name: material.parameters["E"] for material in back.get_materials()}
    assert {material.parameters["v"] for material in back.get_materials()} == {0.31}
    first = min(min(corners) for _, corners in found.values())
    ids = sorted(found)
    assert len(ids) == len(mesh.cells)
    for cell, number in enumerate(ids):
        name, corners = found[number]
        assert np.array_equal(np.array(corners) - first, mesh.cells[cell])
        assert moduli[name] == pytest.approx(bins.modulus_mpa[bins.bin_of_cell[cell]])
    sets = {found.name: found.ids for found in back.get_nodesets()}
    assert all((sets[name] == nodes).all() for name, nodes in mesh.node_sets.items())
    assert {domain.name: domain.mat for domain in back.get_mesh_domains()} == {n: n for n in moduli}


@pytest.fixture
def read_bdf(monkeypatch):
    """pyNastran's reader, which asks for a function that NumPy 2.4 has dropped."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    from pyNastran.bdf.bdf import BDF

    def read(path):
        back = BDF(debug=None)
        back.read_bdf(str(path), punch=False)
        return back

    return read


@pytest.mark.parametrize("moduli_mpa", [(500.123456, 17_000.0), (10.0, 1.25e-5)])
def test_nastran_reads_the_bulk_data(model, tmp_path, read_bdf, moduli_mpa):
    """Whole numbers too: without a decimal point Nastran refuses them as coordinates and moduli."""
    mesh, bins = model
    bins = replace(bins, modulus_mpa=np.array(moduli_mpa))
    path, text = write((mesh, bins), tmp_path, "bdf")
    back = read_bdf(path)
    count = len(mesh.points_mm)
    places_mm = [back.nodes[number].get_position() for number in range(1, count + 1)]
    assert len(back.nodes) == count and np.allclose(places_mm, mesh.points_mm, rtol=1e-8)
    elements = [back.elements[number] for number in range(1, len(mesh.cells) + 1)]
    assert {element.type for element in elements} == {"CHEXA" if mesh.cells.shape[1] == 8 else "CTETRA"}
    assert ([element.node_ids for element in elements] == mesh.cells + 1).all()
    assert ([element.pid for element in elements] == bins.bin_of_cell + 1).all()
    assert {number: part.mid for number, part in back.properties.items()} == {1: 1, 2: 2}
    found = [(back.materials[number].e, back.materials[number].nu) for number in (1, 2)]
    assert np.allclose(found, [(modulus_mpa, 0.31) for modulus_mpa in moduli_mpa], rtol=1e-8)
    sets = back.case_control_deck.subcases[0].params
    numbers = re.findall(r"\$ node set (\d+) is (\w+)", text)
    assert [name for _, name in numbers] == list(mesh.node_sets)
    for number, name in numbers:
        assert (expand_set(sets[f"SET {number}"][0]) == mesh.node_sets[name] + 1).all()
    assert (meshio.read(path).cells[0].data == mesh.cells).all()


def expand_set(entries) -> list[int]:
    """Numbers of a Nastran set, whose ranges are written ``1 THRU 16``."""
    numbers = []
    for entry in entries:
        first, _, last = str(entry).partition(" THRU ")
        numbers += range(int(first), int(last or first) + 1)
    return sorted(numbers)


def test_comments_with_breaks_and_dashes_stay_comments(tmp_path):
    """As citations of a user's own laws may have them."""
    for name in WRITERS:
        paths = tmp_path / f"odd.{name}", tmp_path / f"plain.{name}"
        for path, header in zip(paths, (["a --- b\nMAT1,1,2.", *HEADER], ["a", *HEADER]), strict=True):
            WRITERS[name](MESHES["hex"], path, header, None, 0.3)
        odd, plain = (path.read_text().splitlines() for path in paths)
        assert len(odd) == len(plain) and sum(a != b for a, b in zip(odd, plain, strict=True)) == 1
    assert len(Feb(filepath=str(tmp_path / "odd.feb")).get_nodes()) == 1


def test_without_materials_they_are_geometry(tmp_path):
    for name, word in (("feb", "<material"), ("bdf", "MAT1"), ("cdb", "MP,EX")):
        path = tmp_path / f"bare.{name}"
        WRITERS[name](MESHES["hex"], path, HEADER, None, 0.3)
        assert word not in path.read_text()
