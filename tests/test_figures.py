"""Figures say n, unit and whether the scans are synthetic, for any cohort; the same table, the same bytes."""

import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from cohort_factory import cohort

from hipqct.cohort import subject_table
from hipqct.figures import FIGURES, caption, draw_all, draw_segmentation
from hipqct.metrics import volume_agreement

EVALUATED = ("volume_agreement", "segmentation")


def table(count=12, **changes):
    """The table of so many hips that are done; ``changes`` replace columns of all of them."""
    hips = [
        {
            "subject": hip.subject,
            "side": "left",
            "sex": hip.sex,
            "status": "done",
            "volume_mm3": hip.reference_mm3,
            "integral_density_mg_cm3": hip.density_mg_cm3,
            "dice": 0.98,
            "hausdorff95_mm": 1.0,
            "surface_distance_mm": 0.3,
            "volume_reference_mm3": hip.reference_mm3,
            "volume_predicted_mm3": hip.reference_mm3 * 1.01,
            "relative_error_percent": 1.0,
            "flags": [],
        }
        | changes
        for hip in cohort(count)
    ]
    return subject_table(hips)


def draw(subjects, folder) -> dict[str, str]:
    """All words of each figure."""
    draw_all(subjects, folder)
    words = {}
    for path in folder.iterdir():
        nodes = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
        words[path.stem] = "\n".join("".join(node.itertext()) for node in nodes)
    return words


def test_the_same_table_gives_the_same_bytes_whatever_the_users_style(tmp_path):
    draw_all(table(), tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True}):
        draw_all(table(), tmp_path / "b")
    for name in FIGURES:
        assert (tmp_path / "a" / f"{name}.svg").read_bytes() == (tmp_path / "b" / f"{name}.svg").read_bytes()


def test_axes_carry_units_and_n(tmp_path):
    words = draw(table(12), tmp_path / "figures")
    assert set(words) == set(FIGURES)
    assert "reference volume (cm³)" in words["volume_agreement"]
    assert "women (n = 6)" in words["volume_agreement"]
    assert "integral density (mg/cm³)" in words["measures"]
    assert "n = 12" in words["segmentation"]


def test_the_agreement_in_the_figure_is_that_of_the_table(tmp_path):
    hips = table(12)
    expected = volume_agreement(hips["volume_reference_mm3"], hips["volume_predicted_mm3"])
    words = draw(hips, tmp_path / "figures")["volume_agreement"]
    assert f"R² (identity) {expected['r2']:.4f}" in words
    assert f"RMSE {expected['rmse_mm3'] / 1000:.2f} cm³" in words
    assert f"bias: {expected['bias_mm3'] / 1000:.2f}" in words
    assert f"+1.96 SD: {expected['loa_high_mm3'] / 1000:.2f}" in words


def test_no_axis_shows_an_impossible_dice():
    assert draw_segmentation(table(3, dice=1.0)).axes[0].get_ylim()[1] == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_hips_are_drawn_without_a_word_of_protest(tmp_path, count, recwarn):
    words = draw(table(count), tmp_path / "figures")
    assert set(words) == set(FIGURES)
    assert not recwarn.list
    assert ("1.96 SD" in words["volume_agreement"]) == (count > 1)


def test_without_references_only_the_measures_are_drawn(tmp_path):
    none = {"dice": None, "volume_reference_mm3": None, "integral_density_mg_cm3": None}
    words = draw(table(4, **none), tmp_path / "figures")
    assert set(words) == {"measures"}
    assert "no values" in words["measures"]  # uncalibrated: an empty density panel says so


def test_nothing_done_leaves_an_empty_folder_and_no_older_figure(tmp_path):
    draw_all(table(2), tmp_path / "figures")
    draw_all(table(2, status="failed"), tmp_path / "figures")
    assert list((tmp_path / "figures").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_figures_of_phantoms_say_so(tmp_path):
    words = draw(table(4, flags=["synthetic"]), tmp_path / "figures")
    assert all("synthetic scans (digital hip phantoms)" in text for text in words.values())
    mixed = table(4)
    mixed.loc[0, "flags"] = "synthetic"
    assert "1 of 4 hips are synthetic" in draw(mixed, tmp_path / "mixed")["measures"]
    assert "synthetic" not in "".join(draw(table(4), tmp_path / "real").values())


def test_captions_count_the_hips_drawn():
    assert "12 hips: women (n = 6), men (n = 6)." in caption("measures", table(12))
    assert "sex unknown (n = 3)" in caption("measures", table(3, sex=""))
    assert "Synthetic scans" in caption("segmentation", table(2, flags=["synthetic"]))
