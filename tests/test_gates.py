"""Every gate can fail, becomes a flag of its name, and an error where the configuration wants one."""

import json
from copy import deepcopy
from dataclasses import replace

import meshio
import numpy as np
import pytest
from perturbations import OPTIONS, femur
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hipqct.anatomy import find_frame
from hipqct.errors import MeshError
from hipqct.gates import (
    check_gates,
    head_above_mask_mm,
    hex_facts,
    mask_facts,
    missing_mm,
    outline_facts,
    surface_facts,
    tet_facts,
)
from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.io.images import write_image
from hipqct.mesh import Surface
from hipqct.steps.mesh import export_mesh
from hipqct.surface import extract_surface
from hipqct.tetrahedra import build_tetrahedra


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Folder of a femur's mask and scan."""
    folder, mask = tmp_path_factory.mktemp("scan"), femur()
    write_image(mask, folder / "mask.nii.gz")
    write_image(mask.with_array(np.where(mask.array, 300, -50).astype(np.int16)), folder / "ct.nii.gz")
    return folder


def export(scan, out, **options) -> dict:
    paths = (scan / "mask.nii.gz", scan / "ct.nii.gz", out)
    export_mesh(*paths, "left", OPTIONS | options, "K2HPO4", slope=0.8, intercept=0.0)
    return json.loads((out / "mesh.json").read_text())


def test_a_cut_head_is_told_whichever_way_the_slices_are_ordered():
    array = femur().array.copy()
    array = array[:, :, : int(np.flatnonzero(array.any(axis=(0, 1)))[-1])]  # the scan ends within the head
    ascending = Image(array, (0.8, 0.8, 3.0))
    descending = Image(array[:, :, ::-1], (0.8, 0.8, 3.0), direction=np.diag([1.0, 1.0, -1.0]))
    assert mask_facts(ascending)["touches_highest_slice"]
    assert mask_facts(descending)["touches_highest_slice"]
    whole = Image(
        np.pad(array, ((0, 0), (0, 0), (0, 3)))[:, :, ::-1], (0.8, 0.8, 3.0), direction=np.diag([1.0, 1, -1])
    )
    assert not mask_facts(whole)["touches_highest_slice"]


@pytest.fixture(scope="module")
def facts(scan, tmp_path_factory) -> dict:
    return export(scan, tmp_path_factory.mktemp("mesh"))


def failed(facts: dict, **parts) -> set[str]:
    """Gates that a hip does not pass once parts of its facts are others."""
    facts = deepcopy(facts)
    for name, part in parts.items():
        facts[name] |= part
    return {name for name, gate in check_gates(facts, OPTIONS["gates"]).items() if not gate["passed"]}


def test_a_calibrated_femur_is_asked_every_question_and_told_its_shaft_is_short(facts):
    assert set(facts["gates"]) == set(OPTIONS["gates"])
    assert facts["flags"] == ["shaft_length_mm"]
    gate = facts["gates"]["shaft_length_mm"]
    assert gate["value"] == facts["anatomy"]["shaft_length_mm"] < gate["low"] == 20
    assert not facts["anatomy"]["has_own_shaft"]


def test_a_long_shaft_passes_and_has_its_own_axis(facts):
    frame = find_frame(long_femur(), "left")
    assert frame.shaft_length_mm > 30 and frame.has_own_shaft
    assert failed(facts, anatomy=frame.facts()) == set()


def test_an_element_that_is_inside_out_is_told(facts):
    tets, hexes = build_tetrahedra(femur(), 8.0), build_hexahedra(femur(), {}, 5.0)
    tets.cells[7, :2] = tets.cells[7, 1::-1]
    hexes.cells[7] = hexes.cells[7, [4, 5, 6, 7, 0, 1, 2, 3]]
    volume_mm3 = facts["mask"]["volume_mm3"]
    found = failed(facts, tet=tet_facts(tets, volume_mm3, None), hex=hex_facts(hexes, volume_mm3, None))
    assert {"tet_min_volume_mm3", "hex_min_jacobian_mm3"} <= found


def test_a_flat_element_is_told(facts):
    assert "tet_min_volume_mm3" in failed(facts, tet={"min_volume_mm3": 0.0})
    assert "hex_min_jacobian_mm3" in failed(facts, hex={"min_jacobian_mm3": 0.0})


def test_a_hole_in_the_surface_is_told(facts):
    surface = extract_surface(femur())
    torn = Surface(surface.points_mm, surface.triangles[1:])
    assert "surface_not_manifold" in failed(facts, surface=surface_facts(torn, facts["mask"]["volume_mm3"]))


def test_tetrahedra_that_meet_in_an_edge_only_are_told(facts):
    """Of all that hold one edge inside the bone, two that share no face stay: four faces meet in it."""
    mesh = build_tetrahedra(femur(), 8.0)
    corners = mesh.cells[:, :4]
    edge = np.setdiff1d(corners, mesh.node_sets["SURFACE"])[0]
    other = np.setdiff1d(corners[(corners == edge).any(1)], [edge, *mesh.node_sets["SURFACE"]])[0]
    ring = np.flatnonzero(((corners == edge) | (corners == other)).sum(axis=1) == 2)
    first = ring[0]
    apart = next(i for i in ring if len(np.intersect1d(corners[i], corners[first])) == 2)
    cells = np.delete(mesh.cells, [i for i in ring if i not in (first, apart)], axis=0)
    torn = type(mesh)(mesh.points_mm, cells, {}, mesh.node_sets, mesh.facts)
    assert "tet_not_manifold" in failed(facts, tet=tet_facts(torn, facts["mask"]["volume_mm3"], None))


@pytest.mark.parametrize("model", ["hex", "tet"])
def test_sets_without_nodes_and_nodes_in_two_sets_are_told(facts, model):
    mesh = build_hexahedra(femur(), {}, 5.0) if model == "hex" else build_tetrahedra(femur(), 8.0)
    measure = hex_facts if model == "hex" else tet_facts
    slab, far = mesh.node_sets["DISTAL_SLAB"], np.array([len(mesh.points_mm) - 1])

    def told(**sets):
        mesh.node_sets.update(sets)
        found = failed(facts, **{model: measure(mesh, facts["mask"]["volume_mm3"], None)})
        return found & {f"{model}_empty_sets", f"{model}_sets_overlap"}

    assert told(HEAD_FALL=far, HEAD_STANCE=far) == set()  # of two cases: solved apart
    assert told(TROCHANTER_FALL=far[:0]) == {f"{model}_empty_sets"}
    assert told(TROCHANTER_FALL=far) == {f"{model}_sets_overlap"}
    assert told(TROCHANTER_FALL=slab[:1]) == {f"{model}_sets_overlap"}
    assert told(TROCHANTER_FALL=far - 1, HEAD_STANCE=slab) == {f"{model}_sets_overlap"}


def test_a_gate_named_an_error_stops_the_hip_with_its_value_and_limit(scan, tmp_path):
    with pytest.raises(
        MeshError, match=r"gate shaft_length_mm is not passed: [0-9.]+ where at least 20 is allowed"
    ):
        export(scan, tmp_path, gate_errors=["head_radius_mm", "shaft_length_mm"])
    assert list(tmp_path.iterdir()) == []


def test_a_gate_of_the_mask_stops_the_hip_before_any_work_on_meshes(scan, tmp_path, monkeypatch):
    monkeypatch.setattr("hipqct.steps.mesh.smooth_level_set", lambda mask: pytest.fail("meshed"))
    with pytest.raises(MeshError, match=r"gate shaft_length_mm"):
        export(scan, tmp_path, gate_errors=["shaft_length_mm"])


def test_a_femur_is_cut_to_the_length_asked_for(scan, tmp_path):
    whole, cut = export(scan, tmp_path / "a"), export(scan, tmp_path / "b", distal_cut_mm=60)
    assert whole["anatomy"]["below_head_mm"] > 75
    assert cut["anatomy"]["below_head_mm"] == pytest.approx(60, abs=2.0)
    assert cut["whole_below_head_mm"] == whole["whole_below_head_mm"] == whole["anatomy"]["below_head_mm"]
    assert np.allclose(cut["anatomy"]["head_center_mm"], whole["anatomy"]["head_center_mm"], atol=0.3)
    lowest_mm = cut["anatomy"]["head_center_mm"][2] - cut["anatomy"]["below_head_mm"]
    for model, nodes in (("hex", "hex.vtu"), ("tet", "tet.vtu")):
        mesh = meshio.read(tmp_path / "b" / nodes)
        assert mesh.points[:, 2].min() == pytest.approx(lowest_mm, abs=0.5), model
    assert cut["mask"]["volume_mm3"] < 0.9 * whole["mask"]["volume_mm3"]
    assert abs(cut["tet"]["volume_error_percent"]) < 0.5
    assert cut["flags"] == ["shaft_length_mm"]
    text = (tmp_path / "b/hex.inp").read_text()
    assert (
        f"ends {cut['anatomy']['below_head_mm']:.1f} mm below the head's centre, to be cut at 60 mm" in text
    )


def long_femur() -> Image:
    """The femur with 45 mm more of shaft, straight on."""
    mask = femur()
    longer = np.repeat(mask.array[:, :, :1], 15, axis=2)
    return Image(np.concatenate([longer, mask.array], axis=2), mask.spacing_mm)


def turned(mask: Image, degrees: tuple[float, float]) -> Image:
    """The same bone, lying otherwise in a scan of 1.5 mm voxels that ends straight across the shaft."""
    turn = Rotation.from_euler("xy", degrees, degrees=True).as_matrix()
    centre_mm = mask.to_world((np.array(mask.shape) - 1) / 2)
    shape, spacing_mm = (130, 110, 140), (1.5, 1.5, 1.5)
    grid = Image.empty(shape, spacing_mm, centre_mm - 1.5 * (np.array(shape) - 1) / 2)
    points_mm = grid.to_world(np.argwhere(np.ones(shape))) - centre_mm
    index = mask.to_index(points_mm @ turn + centre_mm)  # the inverse turn
    inside = ndimage.map_coordinates(mask.array.astype(np.float32), index.T, order=1, cval=0.0)
    array = inside.reshape(shape) >= 0.5
    array[:, :, : int(np.flatnonzero(array.any(axis=(0, 1)))[0]) + 9] = False
    return grid.with_array(array)


def export_image(mask: Image, folder, **options) -> dict:
    folder.mkdir()
    write_image(mask, folder / "mask.nii.gz")
    write_image(mask.with_array(np.where(mask.array, 300, -50).astype(np.int16)), folder / "ct.nii.gz")
    return export(folder, folder / "mesh", **options)


def test_measures_to_the_cut_do_not_hang_on_how_the_leg_lay(tmp_path):
    """But for what turning costs; along the scan's slices they change by several percent in eight degrees."""
    square, along = [], []
    for number, degrees in enumerate(((0, 0), (8, 0), (0, 8), (0, -8))):
        facts = export_image(turned(long_femur(), degrees), tmp_path / str(number), distal_cut_mm=70)
        cut = facts["to_cut"]
        assert cut["square_to"] == "shaft" and "distal_cut_missing_mm" not in facts["flags"]
        assert cut["mineral_mg"] == pytest.approx(cut["volume_mm3"] * 0.8 * 300 / 1000)
        square.append(cut["volume_mm3"])
        along.append(facts["mask"]["volume_mm3"])
    assert np.ptp(square) < 0.02 * np.mean(square) and np.ptp(along) > 0.05 * np.mean(along)


def test_a_cut_femur_keeps_the_axis_of_the_shaft_that_was_cut_off(tmp_path):
    facts = export_image(turned(long_femur(), (0, 8)), tmp_path / "hip", distal_cut_mm=60)
    whole = find_frame(turned(long_femur(), (0, 8)), "left")
    assert np.allclose(facts["anatomy"]["shaft_axis"], whole.shaft_axis, atol=0.01)
    assert facts["anatomy"]["has_own_shaft"] and "shaft_length_mm" not in facts["flags"]
    assert abs(whole.shaft_axis[0]) > 0.05  # not the scan's


def test_a_scan_too_short_for_the_length_asked_for_is_told(scan, tmp_path):
    facts = export(scan, tmp_path, distal_cut_mm=140)
    assert set(facts["flags"]) == {"shaft_length_mm", "distal_cut_missing_mm"}
    gate = facts["gates"]["distal_cut_missing_mm"]
    assert gate["value"] == pytest.approx(140 - facts["anatomy"]["below_head_mm"])
    assert facts["to_cut"]["square_to"] == "scan"


def test_an_end_that_the_plane_does_not_reach_everywhere_is_too_short():
    """A shaft turned against its slices ends higher on one side."""
    mask = turned(long_femur(), (0, 8))
    frame = find_frame(mask, "left")
    assert missing_mm(mask, frame, frame.below_head_mm) > 2
    assert missing_mm(mask, frame, frame.below_head_mm - 20) == 0


def test_a_stub_below_the_shaft_is_no_length():
    mask = long_femur()
    mask.array[:, :, :10] = False
    frame = find_frame(mask, "left")
    middle = np.argwhere(mask.array[:, :, 10]).mean(axis=0).astype(int)
    cut_mm = frame.below_head_mm + 8
    assert missing_mm(mask, frame, cut_mm) == pytest.approx(8, abs=3)
    longer = mask.with_array(mask.array.copy())
    longer.array[middle[0] : middle[0] + 3, middle[1] : middle[1] + 3, 4:10] = True
    assert missing_mm(longer, frame, cut_mm) == missing_mm(mask, frame, cut_mm)
    upside = Image(longer.array[:, :, ::-1], mask.spacing_mm, longer.to_world((0, 0, mask.shape[2] - 1)))
    upside = replace(upside, direction=np.diag([1.0, 1, -1]))
    assert missing_mm(upside, frame, cut_mm) == pytest.approx(missing_mm(mask, frame, cut_mm))


@pytest.fixture(scope="module")
def bright() -> Image:
    """CT numbers of the femur: a cortex of 1000 HU, marrow of -30, muscle of 50."""
    mask = femur()
    depth_mm = ndimage.distance_transform_edt(mask.array, sampling=mask.spacing_mm)
    hu = np.where(mask.array, np.where(depth_mm < 3, 1000, -30), 50)
    return mask.with_array(hu.astype(np.int16))


def grown(mask: Image, pixels: int) -> Image:
    plane = ndimage.generate_binary_structure(3, 1)[:, :, 1:2]
    change = ndimage.binary_dilation if pixels > 0 else ndimage.binary_erosion
    return mask.with_array(change(mask.array, plane, abs(pixels)))


def test_an_outline_that_lies_on_the_bone_passes(bright):
    found = outline_facts(bright, femur())
    assert found["bone_outside_percent"] < 3 and found["no_bone_percent"] < 9


@pytest.mark.parametrize(("mm", "gate"), [(-2.4, "bone_outside_percent"), (3.2, "no_bone_percent")])
def test_an_outline_beside_the_bone_is_told(bright, facts, mm, gate):
    mask = grown(femur(), round(mm / bright.spacing_mm[0]))
    assert gate in failed(facts, outline=outline_facts(bright, mask))


def test_coarse_pixels_of_the_mask_itself_are_not_outside(bright):
    coarse = Image(bright.array[::3, ::3], (bright.spacing_mm[0] * 3,) * 2 + (3.0,))
    assert coarse.spacing_mm[0] > 4
    mask = coarse.with_array(femur().array[::3, ::3])
    assert outline_facts(coarse, mask)["bone_outside_percent"] == 0


def test_a_lump_of_muscle_is_told(bright, facts):
    mask = femur()
    middle = np.argwhere(mask.array).mean(axis=0)
    offset_mm = (np.moveaxis(np.indices(mask.shape), 0, -1) - middle) * mask.spacing_mm
    lump = ((offset_mm - [0, -45, 0]) ** 2).sum(axis=-1) < 25**2
    found = failed(facts, outline=outline_facts(bright, mask.with_array(mask.array | lump)))
    assert found == {"no_bone_percent", "shaft_length_mm"}


def test_an_outline_without_any_bone_near_it_is_told(facts):
    mask = femur()
    found = outline_facts(mask.with_array(np.full(mask.shape, 50, np.int16)), mask)
    assert found == {"bone_outside_percent": 0.0, "no_bone_percent": 100.0}
    assert failed(facts, outline=found) == {"no_bone_percent", "shaft_length_mm"}


def test_a_head_without_its_top_is_told():
    mask = femur()
    frame = find_frame(mask, "left")
    assert head_above_mask_mm(mask, frame) < 2.5
    top = int(np.flatnonzero(mask.array.any(axis=(0, 1)))[-1])
    cut = mask.array.copy()
    cut[:, :, top - 2 :] = False
    cut = mask.with_array(cut)
    assert head_above_mask_mm(cut, find_frame(cut, "left")) > 2.5
    for image, centre in ((mask, frame), (cut, find_frame(cut, "left"))):
        upside = Image(image.array[:, :, ::-1], image.spacing_mm, direction=np.diag([1.0, 1, -1]))
        height = head_above_mask_mm(upside, find_frame(upside, "left"))
        assert height == pytest.approx(head_above_mask_mm(image, centre), abs=0.3)


def test_the_slab_that_is_held_is_as_deep_as_asked_for(scan, tmp_path):
    facts = export(scan, tmp_path, distal_slab_mm=12)
    assert facts["hex"]["set_depths_mm"]["DISTAL_SLAB"] == 12
    assert 10 < facts["tet"]["set_depths_mm"]["DISTAL_SLAB"] <= 12
    assert "DISTAL_SLAB, lowest 12 mm: held" in (tmp_path / "load_cases/hex_stance.inp").read_text()


def test_a_gate_named_an_error_that_is_passed_stops_nothing(scan, tmp_path):
    assert export(scan, tmp_path, gate_errors=["head_radius_mm"])["flags"] == ["shaft_length_mm"]


def test_a_limit_of_the_configuration_counts_for_the_error_too(scan, tmp_path):
    gates = OPTIONS["gates"] | {"head_radius_mm": [30, 31]}
    with pytest.raises(MeshError, match="at least 30 and at most 31"):
        export(scan, tmp_path, gates=gates, gate_errors=["head_radius_mm"])
