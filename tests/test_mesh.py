"""The step: from mask and scan to the mesh files and their description."""

import json

import meshio
import numpy as np
import pytest
import trimesh
from body_factory import femur_like
from decks import read_deck
from shipped import mesh_options

from hipqct.errors import MeshError, SheetError
from hipqct.image import Image
from hipqct.io.images import write_image
from hipqct.steps.mesh import export_mesh

OUTPUTS = ("surface.stl", "surface.vtp", "hex.inp", "hex.vtu", "tet.inp", "tet.vtu", "mesh.png", "mesh.json")


def place(mask: Image) -> Image:
    """The same voxels somewhere oblique in a scanner, with air above and beside."""
    c, s = np.cos(0.1), np.sin(0.1)
    direction = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    voxels = np.pad(mask.array, ((5, 5), (5, 5), (0, 4)))
    return Image(voxels, mask.spacing_mm, (20.0, -150.0, 700.0), direction)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    mask = place(femur_like())
    noise = np.random.default_rng(3).normal(0, 20, mask.shape)
    hu = np.where(mask.array, 350.0 + noise, -80.0)
    write_image(mask, folder / "mask.nii.gz")
    write_image(mask.with_array(hu.astype(np.int16)), folder / "resampled.nii.gz")
    return folder, mask


def export(scan_folder, out, options=None, **calibration):
    paths = (scan_folder / "mask.nii.gz", scan_folder / "resampled.nii.gz")
    export_mesh(*paths, out, "right", mesh_options(**options or {}), **{"basis": "K2HPO4"} | calibration)
    return json.loads((out / "mesh.json").read_text())


def test_a_calibrated_scan_gives_a_model_with_materials(scan, tmp_path):
    folder, mask = scan
    facts = export(folder, tmp_path, slope=0.8, intercept=-5.0)
    volume_mm3 = mask.array.sum() * mask.voxel_volume_mm3
    assert facts["flags"] == ["shaft_length_mm"] and not facts["uncalibrated"]
    assert facts["mask"]["volume_mm3"] == pytest.approx(volume_mm3, rel=1e-6)
    assert abs(facts["surface"]["volume_error_percent"]) < 0.1
    assert facts["surface"]["euler_number"] == 2
    assert facts["hex"]["volume_mm3"] == pytest.approx(volume_mm3, rel=0.03)
    assert facts["hex"]["min_jacobian_mm3"] == pytest.approx(27.0)
    material = facts["material"] | facts["hex"]["material"]
    assert material["calibration"] == {"slope": 0.8, "intercept": -5.0, "basis": "K2HPO4"}
    assert material["density_laws"][0]["name"] == "keyak1994_ash"
    assert material["modulus_law"]["pieces"][-1]["up_to_g_cm3"] is None
    ash_g_cm3 = 1.06 * (0.8 * 350 - 5) / 1000 + 0.0389
    law_mpa = 5307 * ash_g_cm3 + 469
    assert material["modulus_min_mpa"] < law_mpa < material["modulus_max_mpa"]
    assert material["mineral_mesh_mg"] == pytest.approx(material["mineral_mask_mg"], rel=0.02)
    deck = read_deck(tmp_path / "hex.inp")
    assert len(deck["material"]) == material["bins"]
    assert {name: len(cells) for name, cells in deck["elset"].items()} | {
        "ALL": facts["hex"]["elements"]
    } == (facts["hex"]["element_sets"])
    assert any("mm, N, MPa" in line for line in deck["comments"])
    assert any("LPS" in line for line in deck["comments"])
    assert "UNCALIBRATED" not in (tmp_path / "hex.inp").read_text()
    back = meshio.read(tmp_path / "hex.vtu")
    assert {"hu", "bone_fraction", "density_mg_cm3", "youngs_modulus_mpa", "material"} <= set(back.cell_data)
    tet = facts["tet"]
    assert abs(tet["volume_error_percent"]) < 0.1
    assert tet["min_dihedral_deg"] > 10
    assert tet["material"]["mineral_mesh_mg"] == pytest.approx(material["mineral_mask_mg"], rel=0.05)
    deck = read_deck(tmp_path / "tet.inp")
    assert set(deck["types"].values()) == {"C3D10"}
    assert len(deck["material"]) == tet["material"]["bins"]
    assert len(meshio.read(tmp_path / "tet.vtu").cells_dict["tetra10"]) == tet["elements"]
    assert trimesh.load(tmp_path / "surface.stl").is_volume


def test_surface_and_cubes_lie_on_each_other_and_on_the_mask_in_the_world(scan, tmp_path):
    folder, mask = scan
    export(folder, tmp_path)
    center_mm = mask.to_world(np.argwhere(mask.array)).mean(axis=0)
    assert np.allclose(trimesh.load(tmp_path / "surface.stl").center_mass, center_mm, atol=0.3)
    back = meshio.read(tmp_path / "hex.vtu")
    assert np.allclose(back.points[back.cells_dict["hexahedron"]].mean(axis=(0, 1)), center_mm, atol=0.3)


def test_without_a_calibration_there_are_no_moduli_and_every_file_says_so(scan, tmp_path):
    facts = export(scan[0], tmp_path)
    assert facts["uncalibrated"] and set(facts["flags"]) == {"uncalibrated", "shaft_length_mm"}
    assert facts["material"] is None
    for name in ("hex.inp", "tet.inp"):
        text = (tmp_path / name).read_text()
        assert "UNCALIBRATED" in text and "*MATERIAL" not in text and "*ELASTIC" not in text
    back = meshio.read(tmp_path / "hex.vtu")
    assert set(back.cell_data) == {"hu", "bone_fraction", "uncalibrated"}
    assert np.abs(back.cell_data["hu"][0] - 350).max() < 60


def test_what_an_earlier_run_left_goes(scan, tmp_path):
    """Files of another model beside mesh.json would be taken for this one's."""
    folder, _ = scan
    coarse = {"cube_mm": 6.0, "tet_mm": 6.0}
    export(folder, tmp_path, coarse | {"formats": ["bdf", "feb"]}, slope=0.8, intercept=-5.0)
    assert (tmp_path / "tet.bdf").exists() and list((tmp_path / "load_cases").iterdir())
    export(folder, tmp_path, coarse | {"formats": ["feb"]})
    assert not list(tmp_path.glob("*.bdf")) and not list((tmp_path / "load_cases").iterdir())
    assert "<E>" not in (tmp_path / "hex.feb").read_text()
    with pytest.raises(MeshError, match="gate uncalibrated"):
        export(folder, tmp_path, coarse | {"formats": ["feb"], "gate_errors": ["uncalibrated"]})
    assert not list(tmp_path.glob("*.feb"))


def test_the_same_scan_gives_the_same_bytes(scan, tmp_path):
    """Every file, the load cases' decks and other solvers' formats among them."""
    found = []
    for name in ("a", "b"):
        export(scan[0], tmp_path / name, {"formats": ["feb", "bdf", "cdb"]}, slope=0.8, intercept=-5.0)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    models = [f"{model}.{suffix}" for model in ("hex", "tet") for suffix in ("feb", "bdf", "cdb")]
    decks = [f"load_cases/{model}_{case}.inp" for model in ("hex", "tet") for case in ("stance", "fall")]
    assert set(found[0]) == {*OUTPUTS, *models, *decks}
    assert found[0] == found[1]


def test_vtus_tell_units_frame_and_the_modulus_of_the_deck(scan, tmp_path):
    export(scan[0], tmp_path, slope=0.8, intercept=-5.0)
    for model in ("hex", "tet"):
        back = meshio.read(tmp_path / f"{model}.vtu")
        assert set(back.field_data) == {"units_mm_N_MPa", "frame_LPS"}
        deck = read_deck(tmp_path / f"{model}.inp")
        of_set = {name: deck["material"][deck["section"][name]][0] for name in deck["section"]}
        solved = back.cell_data["material_modulus_mpa"][0]
        for name, cells in deck["elset"].items():
            if name != "ALL":
                np.testing.assert_allclose(solved[np.array(cells) - 1], of_set[name], rtol=1e-8)
        own = back.cell_data["youngs_modulus_mpa"][0]
        assert 0 < np.abs(solved / own - 1).max() < 0.05
    assert b"units_mm_N_MPa" in (tmp_path / "surface.vtp").read_bytes()


@pytest.mark.parametrize(("cube_mm", "slab_mm"), [(3.0, 6.0), (2.5, 5.0), (5.0, 5.0)])
def test_the_depths_that_sets_really_have_are_told(scan, tmp_path, cube_mm, slab_mm):
    facts = export(scan[0], tmp_path, {"cube_mm": cube_mm}, slope=0.8, intercept=-5.0)
    depths = facts["hex"]["set_depths_mm"]
    assert set(depths) == {"DISTAL_SLAB", "HEAD_STANCE", "HEAD_FALL", "TROCHANTER_FALL"}
    assert depths["DISTAL_SLAB"] == slab_mm
    radius_mm = facts["anatomy"]["head_radius_mm"]
    cap_mm = radius_mm * (1 - np.cos(np.radians(40)))
    for model in ("hex", "tet"):
        found = facts[model]["set_depths_mm"]
        size_mm = cube_mm if model == "hex" else 3.0
        assert cap_mm - 2 * size_mm < found["HEAD_FALL"] <= cap_mm
        assert 6 - 2 * size_mm < found["TROCHANTER_FALL"] <= 6
        assert found["DISTAL_SLAB"] <= 6
        for deck in (f"{model}.inp", f"load_cases/{model}_fall.inp"):
            header = " ".join(read_deck(tmp_path / deck)["comments"])
            words = ", ".join(f"{name} {depth_mm:.2f}" for name, depth_mm in found.items())
            assert f"node sets reach into the bone (mm): {words}" in header


def test_a_mean_modulus_is_not_the_modulus_of_the_mean(scan, tmp_path):
    """Noise inside a cube, below the straight range of the law: the mean of a convex law is higher."""
    results = [
        export(scan[0], tmp_path, {"average": average}, slope=0.4, intercept=0.0)
        for average in ("density", "modulus")
    ]
    for mesh in ("hex", "tet"):
        lowest_mpa = [facts[mesh]["material"]["modulus_min_mpa"] for facts in results]
        assert lowest_mpa[1] > lowest_mpa[0]


def test_bone_at_the_minimum_and_outside_the_laws_is_counted_by_volume(tmp_path):
    """Every other column of voxels is fat: no element is all fat, yet half of the bone is."""
    mask = place(femur_like())
    fat = mask.array & (np.indices(mask.shape)[0] % 2 == 0)
    hu = np.where(fat, -200, np.where(mask.array, 600, -80)).astype(np.int16)
    write_image(mask, tmp_path / "mask.nii.gz")
    write_image(mask.with_array(hu), tmp_path / "resampled.nii.gz")
    for average, share_percent in (("modulus", 50), ("density", 0)):
        facts = export(tmp_path, tmp_path, {"average": average}, slope=1.0, intercept=0.0)
        for model in ("hex", "tet"):
            material = facts[model]["material"]
            outside = material["outside_validity_percent_by_law"]
            assert set(outside) == {"keyak1994_ash", "keyak_three_range"}
            assert material["outside_validity_percent"] == outside["keyak_three_range"]
            for percent in (material["at_minimum_percent"], *outside.values()):
                assert percent == pytest.approx(share_percent, abs=4), (average, model)
            array = meshio.read(tmp_path / f"{model}.vtu").cell_data["at_minimum"][0]
            assert array.mean() == pytest.approx(share_percent / 100, abs=0.04)
            assert (array == 1).mean() < 0.04


def test_a_hydroxyapatite_calibration_takes_its_own_laws(scan, tmp_path):
    facts = export(scan[0], tmp_path, slope=0.8, intercept=-5.0, basis="HA")
    assert [law["name"] for law in facts["material"]["density_laws"]] == ["schileo2008_ash"]
    with pytest.raises(MeshError, match="keyak1994_ash takes K2HPO4"):
        laws = {"density_laws": {"HA": ["keyak1994_ash"]}}
        export(scan[0], tmp_path, laws, slope=0.8, intercept=-5.0, basis="HA")


@pytest.mark.parametrize(
    ("options", "calibration", "error", "word"),
    [
        ({}, {"slope": 0.8}, SheetError, "both"),
        ({}, {"slope": -0.8, "intercept": 0.0}, SheetError, "slope"),
        ({}, {"slope": 0.1, "intercept": -900.0}, SheetError, "mean density"),
        ({}, {"slope": 0.8, "intercept": 0.0, "basis": "CaCO3"}, MeshError, "CaCO3"),
        ({"modulus_law": "keller"}, {"slope": 0.8, "intercept": 0.0}, MeshError, "keyak_three_range"),
        ({"modulus_law": "keyak1994_ash"}, {"slope": 0.8, "intercept": 0.0}, MeshError, "wrong kind"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_no_file(scan, tmp_path, options, calibration, error, word):
    with pytest.raises(error, match=word):
        export(scan[0], tmp_path, options, **calibration)
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_mask_become_flags(tmp_path):
    mask = place(femur_like())
    top = np.flatnonzero(mask.array.any(axis=(0, 1)))[-1]
    mask = Image(
        mask.array[:, :, : top - 2], mask.spacing_mm, mask.origin_mm, mask.direction
    )  # the head is cut
    solid_voxels = mask.array.sum()
    mask.array[:3, :3, 3] = True  # an island at the image's corner is dropped
    mask.array[36:40, 38:42, 8] = False  # a cavity in the shaft is filled
    write_image(mask, tmp_path / "mask.nii.gz")
    write_image(mask.with_array(np.full(mask.shape, 300, np.int16)), tmp_path / "resampled.nii.gz")
    facts = export(tmp_path, tmp_path, slope=8.0, intercept=0.0)
    assert set(facts["flags"]) == {
        "touches_scan_top",
        "head_above_mask_mm",
        "head_coverage",
        "shaft_length_mm",
        "hex_modulus_max_mpa",
        "tet_modulus_max_mpa",
    }
    assert facts["mask"]["volume_mm3"] == pytest.approx(solid_voxels * mask.voxel_volume_mm3)
    assert facts["mask"]["touches_lowest_slice"]


def test_masks_that_cannot_be_meshed_are_refused(scan, tmp_path):
    _, mask = scan
    ct_path = tmp_path / "resampled.nii.gz"
    write_image(mask.with_array(np.zeros(mask.shape, np.int16)), ct_path)
    write_image(mask.with_array(np.zeros(mask.shape, bool)), tmp_path / "mask.nii.gz")
    with pytest.raises(MeshError, match="empty"):
        export(tmp_path, tmp_path)
    write_image(Image(mask.array, mask.spacing_mm), tmp_path / "mask.nii.gz")
    with pytest.raises(MeshError, match="grid"):
        export(tmp_path, tmp_path)


@pytest.mark.parametrize("case", ["real-hip-ct", "real-shape", "real-anatomy"])
def test_real_femurs_mesh_cleanly(shared_data, case):
    from hipqct.hexahedra import build_hexahedra
    from hipqct.io.images import read_image
    from hipqct.mesh import enclosed_volume_mm3, euler_number
    from hipqct.solid import solid_mask
    from hipqct.surface import extract_surface

    path = shared_data / case / "left_femur.nii.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    mask = read_image(path)
    mask = mask.with_array(solid_mask(mask.array > 0))
    volume_mm3 = mask.array.sum() * mask.voxel_volume_mm3
    surface = extract_surface(mask)
    assert euler_number(surface) == 2
    assert enclosed_volume_mm3(surface) == pytest.approx(volume_mm3, rel=1e-3)
    mesh = build_hexahedra(mask, {})
    assert len(mesh.cells) * 27.0 == pytest.approx(volume_mm3, rel=0.02)
