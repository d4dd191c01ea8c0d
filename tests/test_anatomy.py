"""The frame found in a mask is the anatomy that made it."""

import numpy as np
import pytest
from perturbations import SCANNER, SEED, femur
from scipy.spatial.transform import Rotation

from hipqct.anatomy import find_frame
from hipqct.errors import AnatomyError
from hipqct.image import Image
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import sample_parameters


def angle_deg(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


PARAMETERS = sample_parameters(SEED, cut_edge_mm=0.0, metal_side="", **SCANNER)


@pytest.fixture(scope="module")
def phantom():
    return generate_phantom(PARAMETERS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_head_and_neck_of_a_phantom_are_found(phantom, side):
    frame = find_frame(getattr(phantom, f"{side}_femur"), side)
    truth = {name: np.array(place) for name, place in phantom.truth["landmarks_mm"][side].items()}
    head, shape = truth["head_center"], getattr(PARAMETERS, side)
    assert np.linalg.norm(frame.head_center_mm - head) < 2.5
    assert frame.head_radius_mm == pytest.approx(shape.head_radius_mm, abs=1.0)
    assert angle_deg(frame.neck_axis, truth["shaft_point"] - head) < 6
    assert frame.head_coverage == 1 and frame.leak_mm3 < 200


def test_axes_are_square_and_point_outward_backward_and_up():
    for side, mask in (("left", femur()), ("right", mirrored(femur()))):
        frame = find_frame(mask, side)
        axes = np.stack([frame.lateral, frame.posterior, frame.shaft_axis])
        assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)
        assert frame.lateral[0] * (1 if side == "left" else -1) > 0.5  # LPS: x to the patient's left
        assert frame.posterior[1] > 0.5 and frame.shaft_axis[2] > 0.9


def mirrored(mask: Image) -> Image:
    return Image(mask.array[::-1], mask.spacing_mm, mask.origin_mm)


def test_a_mirrored_femur_has_the_mirrored_frame():
    left, right = find_frame(femur(), "left"), find_frame(mirrored(femur()), "right")
    assert right.head_radius_mm == pytest.approx(left.head_radius_mm, rel=1e-6)
    assert right.neck_area_mm2 == pytest.approx(left.neck_area_mm2, rel=1e-4)
    assert np.allclose(right.neck_axis * [-1, 1, 1], left.neck_axis, atol=1e-4)
    assert np.allclose(right.posterior * [-1, 1, 1], left.posterior, atol=1e-4)


def test_an_oblique_scan_gives_the_turned_frame():
    turn = Rotation.from_euler("xyz", [6, -9, 12], degrees=True).as_matrix()
    mask = femur()
    straight = find_frame(Image(mask.array, mask.spacing_mm), "left")
    oblique = find_frame(Image(mask.array, mask.spacing_mm, (10.0, 20.0, 30.0), turn), "left")
    assert np.allclose(oblique.head_center_mm, turn @ straight.head_center_mm + [10, 20, 30], atol=0.5)
    assert angle_deg(oblique.neck_axis, turn @ straight.neck_axis) < 2
    assert angle_deg(oblique.lateral, turn @ straight.lateral) < 3


def test_a_long_shaft_gives_its_own_axis():
    """A rod from the head down, leaning by 8 degrees, under a neck and a head."""
    spacing_mm, shape = (1.5, 1.5, 3.0), (80, 60, 80)
    x, y, z = np.indices(shape) * np.reshape(spacing_mm, (3, 1, 1, 1))
    lean = np.tan(np.radians(8))
    shaft = (x - 75 + (z - 160) * lean) ** 2 + (y - 45) ** 2 < 14**2
    head = (x - 30) ** 2 + (y - 45) ** 2 + (z - 205) ** 2 < 23**2
    along = np.clip(((x - 30) * 45 + (z - 205) * -40) / (45**2 + 40**2), 0, 1)
    neck = (x - 30 - 45 * along) ** 2 + (y - 45) ** 2 + (z - 205 + 40 * along) ** 2 < 15**2
    frame = find_frame(Image((shaft & (z < 175)) | head | neck, spacing_mm), "left")
    assert frame.shaft_length_mm > 60
    assert angle_deg(frame.shaft_axis, [-lean, 0, 1]) < 1
    assert angle_deg(frame.neck_axis, [45, 0, -40]) < 3
    assert frame.neck_area_mm2 == pytest.approx(np.pi * 15**2, rel=0.1)


def test_what_has_no_anatomy_is_refused():
    empty = np.zeros((30, 30, 30), bool)
    with pytest.raises(AnatomyError, match="empty"):
        find_frame(Image(empty, (1.0, 1.0, 3.0)), "left")
    rod = empty.copy()
    rod[10:20, 10:20] = True
    with pytest.raises(AnatomyError, match=r"head|neck"):
        find_frame(Image(rod, (1.0, 1.0, 3.0)), "left")
