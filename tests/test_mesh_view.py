"""The picture of a model shows what it says, on one scale, and the same picture each time."""

import numpy as np
import pytest
from perturbations import femur

from hipqct.anatomy import find_frame
from hipqct.hexahedra import build_hexahedra
from hipqct.loads import LoadCase, add_load_sets, push_direction
from hipqct.mesh_view import draw_model
from hipqct.surface import extract_surface

FALL = LoadCase("fall", 100.0, 15.0, 40.0, 6.0, "hinged", 1.0, "a test")


@pytest.fixture(scope="module")
def drawn():
    mask = femur()
    frame = find_frame(mask, "left")
    mesh = build_hexahedra(mask, {"youngs_modulus_mpa": np.full(mask.shape, 900.0)}, 4.0)
    add_load_sets(mesh, frame, [FALL], extract_surface(mask))
    case = {"head_set": "HEAD_FALL", "trochanter_set": "TROCHANTER_FALL", "push": push_direction(FALL, frame)}
    return mesh, frame, draw_model(mesh, frame, {"fall": case}, "a title")


def test_every_panel_is_there_on_one_scale(drawn):
    *panels, colours = drawn[2].axes
    assert [ax.get_title() for ax in panels][:2] == ["front", "back"] and "fall" in panels[-1].get_title()
    assert len({round(float(np.ptp(ax.get_xlim())), 6) for ax in panels}) == 1
    assert len({ax.get_ylim() for ax in panels}) == 1
    assert "Young's modulus" in colours.get_ylabel()


def test_pushed_and_supported_cubes_are_coloured_and_the_head_is_inside(drawn):
    """Seen from the front, a left femur's head points to the patient's right: to the picture's left."""
    faces = drawn[2].axes[3].collections[0]
    colours = faces.get_facecolor()[:, :3]
    middles = np.array([path.vertices[:4].mean(axis=0) for path in faces.get_paths()])
    red = (colours[:, 0] > 2 * colours[:, 1]) & (colours[:, 0] > 2 * colours[:, 2])
    blue = colours[:, 2] > 2 * colours[:, 0]
    assert red.any() and blue.any()
    assert middles[red, 0].mean() < middles[:, 0].mean()
    assert middles[blue, 1].max() < middles[red, 1].min()


def test_without_frame_and_moduli_ct_numbers_are_drawn():
    mask = femur()
    figure = draw_model(build_hexahedra(mask, {"hu": np.full(mask.shape, 300.0)}, 5.0), None, {}, "bare")
    assert len(figure.axes) == 4 and "no calibration" in figure.axes[-1].get_ylabel()
