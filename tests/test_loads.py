"""Load cases: directions by the anatomy, sets on the bone they mean."""

import numpy as np
import pytest
from perturbations import femur

from hipqct.anatomy import find_frame
from hipqct.errors import MeshError
from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.loads import (
    LoadCase,
    add_load_sets,
    contact_radii_mm,
    hinge_axis,
    push_direction,
)
from hipqct.mesh import DISTAL_SLAB
from hipqct.surface import extract_surface
from hipqct.tetrahedra import build_tetrahedra


def case(name="fall", angle=100.0, turn=15.0, depth_mm=6.0, distal="hinged") -> LoadCase:
    return LoadCase(name, angle, turn, 40.0, depth_mm, distal, 1.0, "a test")


STANCE = case("stance", 20.0, 0.0, 0.0, "clamped")


@pytest.fixture(scope="module")
def frame():
    return find_frame(femur(), "left")


@pytest.fixture(scope="module")
def surface():
    return extract_surface(femur())


def test_pushes_have_the_angles_they_are_named_by(frame):
    assert push_direction(STANCE, frame) @ -frame.shaft_axis == pytest.approx(np.cos(np.radians(20)))
    assert push_direction(STANCE, frame) @ frame.posterior == pytest.approx(0)
    fall = push_direction(case(), frame)
    assert np.linalg.norm(fall) == pytest.approx(1)
    assert fall @ frame.shaft_axis == pytest.approx(np.sin(np.radians(10)))  # the knee is off the ground
    assert np.arctan2(fall @ frame.posterior, fall @ frame.lateral) == pytest.approx(np.radians(15))


def test_a_hinge_is_square_to_shaft_and_push(frame):
    axis = hinge_axis(case(), frame)
    assert [axis @ frame.shaft_axis, axis @ push_direction(case(), frame)] == pytest.approx([0, 0], abs=1e-9)
    with pytest.raises(MeshError, match="along the shaft"):
        hinge_axis(case(angle=0.0), frame)


@pytest.mark.parametrize("build", [lambda m: build_hexahedra(m, {}, 4.0), lambda m: build_tetrahedra(m, 5.0)])
def test_sets_lie_where_they_should_and_apart(frame, surface, build):
    mesh = build(femur())
    add_load_sets(mesh, frame, [STANCE, case()], surface)
    sets = {name: set(nodes.tolist()) for name, nodes in mesh.node_sets.items()}
    for name in ("HEAD_STANCE", "HEAD_FALL", "TROCHANTER_FALL"):
        assert sets[name] and not sets[name] & sets[DISTAL_SLAB]
    assert not sets["HEAD_FALL"] & sets["TROCHANTER_FALL"]
    push = push_direction(case(), frame)
    cap_mm, plate_mm = (mesh.points_mm[mesh.node_sets[name]] for name in ("HEAD_FALL", "TROCHANTER_FALL"))
    rim_mm = frame.head_radius_mm * np.cos(np.radians(40))
    assert ((cap_mm - frame.head_center_mm) @ push <= -rim_mm + 1e-9).all()
    farthest_mm = (surface.points_mm @ push).max()
    assert (plate_mm @ push >= farthest_mm - 6.0).all()
    assert (plate_mm @ push).min() > (cap_mm @ push).max()
    assert "TROCHANTER_STANCE" not in sets


def with_long_shaft(mask: Image, mm: float) -> Image:
    """The lowest section goes on straight down."""
    more = round(mm / mask.spacing_mm[2])
    array = np.concatenate([np.repeat(mask.array[:, :, :1], more, axis=2), mask.array], axis=2)
    return Image(array, mask.spacing_mm, tuple(mask.to_world([0, 0, -more])))


def test_a_long_shaft_does_not_rest_on_the_trochanters_plate():
    """At 90 degrees the plate holds the trochanter alone; at 75 the shaft would reach it first."""
    long = with_long_shaft(femur(), 120.0)
    frame, surface = find_frame(long, "left"), extract_surface(long)
    mesh = build_hexahedra(long, {}, 4.0)
    add_load_sets(mesh, frame, [case(angle=90.0)], surface)
    below_head_mm = (
        frame.head_center_mm - mesh.points_mm[mesh.node_sets["TROCHANTER_FALL"]]
    ) @ frame.shaft_axis
    assert below_head_mm.max() < 3.6 * frame.head_radius_mm
    with pytest.raises(MeshError, match=r"the shaft reaches \d+ mm beyond the trochanter"):
        add_load_sets(build_hexahedra(long, {}, 4.0), frame, [case(angle=75.0)], surface)
    with pytest.raises(MeshError, match="larger angle_to_shaft_deg"):
        contact_radii_mm([case(angle=75.0)], frame, surface)


@pytest.mark.parametrize("depth_mm", [3.0, 6.0])
def test_the_bone_on_the_plate_is_as_blunt_as_a_ball_of_its_radius(frame, depth_mm):
    """A sphere in the trochanter's place gives its own radius, however deep the plate; no plate, nothing."""
    radius_mm, spacing_mm = 20.0, np.array([0.8, 0.8, 1.0])
    points_mm = (np.indices((70, 70, 60)).reshape(3, -1).T - [35, 35, 30]) * spacing_mm
    ball = (np.linalg.norm(points_mm, axis=1) < radius_mm).reshape(70, 70, 60)
    place_mm = frame.neck_center_mm + 45 * frame.lateral
    image = Image(ball, tuple(spacing_mm), tuple(place_mm - [35, 35, 30] * spacing_mm))
    cases = [STANCE, case(depth_mm=depth_mm)]
    assert contact_radii_mm(cases, frame, extract_surface(image)) == {
        "fall": pytest.approx(radius_mm, abs=1.5)
    }


def test_a_head_that_is_not_there_is_told(frame, surface):
    mesh = build_hexahedra(femur(), {}, 4.0)
    mesh.points_mm[:] += 500.0
    with pytest.raises(MeshError, match="HEAD_STANCE"):
        add_load_sets(mesh, frame, [STANCE], surface)
