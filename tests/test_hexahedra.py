"""The voxel mesh: volume, orientation, overlap means, sets, symmetry."""

from dataclasses import replace

import numpy as np
import pytest
from body_factory import QCT_SPACING_MM, femur_like

from hipqct.errors import MeshError
from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.mesh import corner_jacobians_mm3
from hipqct.surface import smooth_level_set


def rotation_z_y(a, b) -> np.ndarray:
    ca, sa, cb, sb = np.cos(a), np.sin(a), np.cos(b), np.sin(b)
    return np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]]) @ np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])


@pytest.mark.parametrize("cube_mm", [3.0, 2.0])
def test_cubes_hold_the_masks_volume_and_none_is_inverted(cube_mm):
    mask = femur_like()
    mesh = build_hexahedra(mask, {}, cube_mm)
    volume_mm3 = mask.array.sum() * mask.voxel_volume_mm3
    assert len(mesh.cells) * cube_mm**3 == pytest.approx(volume_mm3, rel=0.03)
    assert np.allclose(corner_jacobians_mm3(mesh.points_mm, mesh.cells), cube_mm**3)
    assert mesh.cell_data["bone_fraction"].min() >= 0.5 - 1e-9
    assert len(np.unique(mesh.cells)) == len(mesh.points_mm)  # no node without an element


@pytest.mark.parametrize("pixel_mm", [0.9, 0.85, 0.95])
def test_half_filled_cubes_count_whatever_the_files_float32_makes_of_the_spacing(pixel_mm):
    mask = femur_like((pixel_mm, pixel_mm, 3.0))
    stored = replace(mask, spacing_mm=tuple(float(np.float32(mm)) for mm in mask.spacing_mm))
    meshes = [build_hexahedra(image, {}) for image in (mask, stored)]
    assert len(meshes[0].cells) == len(meshes[1].cells)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, 1, -1), (-1, -1, 1)])
def test_jacobians_are_positive_in_any_frame(flip):
    mask = femur_like()
    direction = rotation_z_y(0.4, -0.2) @ np.diag(flip)
    mesh = build_hexahedra(Image(mask.array, mask.spacing_mm, (10, -200, 800), direction), {})
    assert np.allclose(corner_jacobians_mm3(mesh.points_mm, mesh.cells), 27.0)


def test_an_oblique_scan_gives_the_straight_mesh_turned():
    mask = femur_like()
    direction, origin_mm = rotation_z_y(0.3, 0.25), np.array([10.0, -200.0, 800.0])
    straight = build_hexahedra(mask, {})
    oblique = build_hexahedra(Image(mask.array, mask.spacing_mm, origin_mm, direction), {})
    assert np.array_equal(oblique.cells, straight.cells)
    assert np.allclose(oblique.points_mm, straight.points_mm @ direction.T + origin_mm, atol=1e-9)


def test_a_mirrored_mask_gives_the_mirrored_mesh():
    mask = femur_like()
    width_mm = (mask.shape[0] - 1) * mask.spacing_mm[0]
    mesh = build_hexahedra(mask, {})
    mirrored = build_hexahedra(mask.with_array(mask.array[::-1]), {})
    expected_mm = mesh.points_mm * (-1, 1, 1) + (width_mm, 0, 0)
    assert np.allclose(*(np.array(sorted(map(tuple, p.round(6)))) for p in (expected_mm, mirrored.points_mm)))


def test_means_are_exact_over_the_part_inside_the_mask():
    """A field linear in space: the mean over cubes wholly inside is its value at the cube's centre."""
    mask = Image(np.ones((22, 22, 7), bool), QCT_SPACING_MM)
    mask.array[0], mask.array[-1] = False, False
    x, y, z = np.indices(mask.shape) * np.reshape(QCT_SPACING_MM, (3, 1, 1, 1))
    ct = np.where(mask.array, 3 * x - 2 * y + 5 * z, -1024.0)
    mesh = build_hexahedra(mask, {"hu": ct}, 4.0)
    inside = mesh.cell_data["bone_fraction"] > 1 - 1e-9
    assert inside.sum() > 20
    assert mesh.cell_data["hu"].min() > -100  # no air from outside the mask in any mean
    weight = np.array([3, -2, 5])
    flat = build_hexahedra(mask, {"hu": np.full(mask.shape, 7.0)}, 4.0)
    assert np.allclose(flat.cell_data["hu"], 7.0)
    aligned = build_hexahedra(
        mask, {"hu": ct}, 2.4
    )  # three pixels: cubes and voxels share their faces in x, y
    centers_mm = aligned.points_mm[aligned.cells].mean(axis=1)
    x_y_only = build_hexahedra(mask, {"hu": 3 * x - 2 * y}, 2.4)
    full = aligned.cell_data["bone_fraction"] > 1 - 1e-9
    expected = centers_mm @ (weight * (1, 1, 0))
    assert np.allclose(x_y_only.cell_data["hu"][full], expected[full], atol=1.3)  # half-pixel steps at most


def test_a_box_of_whole_cubes_comes_back_exactly():
    mask = Image(np.zeros((30, 30, 10), bool), (1.0, 1.0, 3.0))
    mask.array[6:18, 9:21, 2:8] = True
    hu = np.random.default_rng(1).normal(500, 100, mask.shape)
    mesh = build_hexahedra(mask, {"hu": hu})
    assert len(mesh.cells) == 4 * 4 * 6
    assert np.allclose(mesh.points_mm.min(axis=0), (5.5, 8.5, 4.5))
    assert np.allclose(mesh.points_mm.max(axis=0), (17.5, 20.5, 22.5))
    blocks = hu[6:18, 9:21, 2:8].reshape(4, 3, 4, 3, 6).mean(axis=(1, 3))
    assert np.allclose(mesh.cell_data["hu"], blocks.transpose(2, 1, 0).ravel())
    assert {name: len(nodes) for name, nodes in mesh.node_sets.items()} == {
        "DISTAL_FACE": 25,
        "DISTAL_SLAB": 75,
        "PROXIMAL": 25,
        "SURFACE": 5 * 5 * 7 - 3 * 3 * 5,
    }


@pytest.mark.parametrize("up", [1, -1])
def test_the_distal_face_is_the_lowest_and_flat(up):
    mask = femur_like()
    direction = np.diag([1.0, 1.0, up])
    voxels = mask.array[:, :, ::up]
    origin_mm = (0, 0, 0) if up > 0 else (0, 0, (mask.shape[2] - 1) * 3.0)
    mesh = build_hexahedra(Image(voxels, mask.spacing_mm, origin_mm, direction), {})
    assert np.allclose(mesh.points_mm[mesh.node_sets["DISTAL_FACE"], 2], -1.5)
    assert np.allclose(mesh.points_mm[mesh.node_sets["PROXIMAL"], 2], mesh.points_mm[:, 2].max())


def test_cubes_that_hang_on_by_an_edge_are_dropped():
    mask = Image(np.zeros((12, 12, 6), bool), (3.0, 3.0, 3.0))
    mask.array[2:8, 2:8, 1:5] = True
    mask.array[8, 8, 1:3] = True  # meets the block along an edge only
    mask.array[8, 7, 1] = False
    mesh = build_hexahedra(mask, {}, 3.0)
    assert len(mesh.cells) == 6 * 6 * 4


def test_a_higher_bone_fraction_takes_fewer_cubes():
    mask = femur_like()
    counts = [len(build_hexahedra(mask, {}, 3.0, fraction).cells) for fraction in (0.3, 0.5, 0.7)]
    assert counts[0] > counts[1] > counts[2]


def test_a_mask_thinner_than_half_a_cube_is_refused():
    mask = Image(np.zeros((30, 30, 10), bool), QCT_SPACING_MM)
    mask.array[14, 5:25, 2:8] = True
    with pytest.raises(MeshError, match="thick enough"):
        build_hexahedra(mask, {})


def test_impossible_numbers_are_programming_errors():
    mask = femur_like()
    for arguments in ((0.0, 0.5), (3.0, 0.0), (3.0, 1.1)):
        with pytest.raises(ValueError, match="must be"):
            build_hexahedra(mask, {}, *arguments)
    with pytest.raises(ValueError, match="shape"):
        build_hexahedra(mask, {"hu": np.zeros((2, 2, 2))})


@pytest.mark.parametrize("up", [1, -1])
@pytest.mark.parametrize("cube_mm", [3.0, 1.5])
def test_cubes_of_the_smooth_surface_hold_its_volume_on_the_same_grid(cube_mm, up):
    mask = femur_like()
    origin_mm = (0, 0, 0) if up > 0 else (0, 0, (mask.shape[2] - 1) * 3.0)
    mask = Image(mask.array[:, :, ::up], mask.spacing_mm, origin_mm, np.diag([1.0, 1.0, up]))
    smooth, rough = (build_hexahedra(mask, {"hu": mask.array}, cube_mm, shape=s) for s in ("surface", "mask"))
    volume_mm3 = mask.array.sum() * mask.voxel_volume_mm3
    assert len(smooth.cells) * cube_mm**3 == pytest.approx(volume_mm3, rel=0.01)
    assert smooth.points_mm[:, 2].min() == pytest.approx(rough.points_mm[:, 2].min())
    assert np.allclose(smooth.cell_data["hu"], 1)
    with pytest.raises(ValueError, match="shape"):
        build_hexahedra(mask, {}, shape="rough")


def test_cubes_of_the_smooth_surface_fit_a_ball_better_than_those_of_its_thick_slices():
    spacing_mm, radius_mm = QCT_SPACING_MM, 18.0
    axes = [(np.arange(int(56 / s)) - (int(56 / s) - 1) / 2) * s for s in spacing_mm]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = Image(x**2 + y**2 + z**2 < radius_mm**2, spacing_mm)
    middle_mm = mask.to_world((np.array(mask.shape) - 1) / 2)
    expected, wrong = 4 / 3 * np.pi * radius_mm**3 / 1.5**3, {}
    for shape in ("mask", "surface"):
        mesh = build_hexahedra(mask, {}, 1.5, shape=shape)
        distance_mm = np.linalg.norm(mesh.points_mm[mesh.cells].mean(axis=1) - middle_mm, axis=1)
        inside = (distance_mm < radius_mm).sum()
        wrong[shape] = len(mesh.cells) - inside + abs(expected - inside)
    assert wrong["surface"] < wrong["mask"]


def test_a_smooth_surface_that_cannot_hold_the_masks_volume_is_refused():
    mask = femur_like()
    level_set = smooth_level_set(mask)
    vanished = replace(level_set, values=np.full_like(level_set.values, -9.0))
    with pytest.raises(MeshError, match="no smooth surface within 5 mm of the mask's holds the mask's"):
        build_hexahedra(mask, {}, shape="surface", level_set=vanished)
