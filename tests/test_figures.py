"""Figures say n, unit and whether the scans are synthetic, for any cohort; the same table, the same bytes."""

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from cohort_factory import cohort
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from hipqct.cohort import subject_table
from hipqct.figures import (
    FIGURES,
    SCORE_PANELS,
    SETTINGS,
    caption,
    draw_all,
    draw_measures,
    draw_segmentation,
    draw_volume_agreement,
)
from hipqct.metrics import volume_agreement
from hipqct.points import MOST_VECTORS, STYLE, WIDEST, spread

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
            **hip.scores,
            "volume_reference_mm3": hip.reference_mm3,
            "volume_predicted_mm3": hip.reference_mm3 * (1 + hip.error_percent / 100),
            "relative_error_percent": hip.error_percent,
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


def test_figures_of_agreement_tell_hips_seen_in_training(tmp_path):
    subjects = table()
    subjects.loc[:2, "flags"] = "seen_in_training"
    told = "3 of 12 hips were seen in training: their agreement is too good"
    words = draw(subjects, tmp_path)
    assert {name: told in text for name, text in words.items()} == {
        "measures": False, "segmentation": True, "volume_agreement": True
    }  # fmt: skip
    assert f" {told}." in caption("segmentation", subjects)
    assert "seen in training" not in caption("measures", subjects)


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


def in_order(x, y) -> np.ndarray:
    x, y = np.asarray(x, float), np.asarray(y, float)
    return np.stack([x, y], axis=1)[np.argsort(x)]


def test_points_lie_where_the_volumes_are():
    hips = table(12)
    scatter, difference = draw_volume_agreement(hips).axes
    reference_cm3, predicted_cm3 = (hips[f"volume_{name}_mm3"] / 1000 for name in ("reference", "predicted"))
    drawn, expected = scatter.collections[0].get_offsets(), in_order(reference_cm3, predicted_cm3)
    np.testing.assert_allclose(in_order(*np.asarray(drawn).T), expected)
    drawn = difference.collections[0].get_offsets()
    expected = in_order((reference_cm3 + predicted_cm3) / 2, predicted_cm3 - reference_cm3)
    np.testing.assert_allclose(in_order(*np.asarray(drawn).T), expected)
    heights = {line.get_ydata()[0] for line in difference.lines if len(line.get_ydata()) == 2}
    agreement = volume_agreement(1000 * reference_cm3, 1000 * predicted_cm3)
    lines = [agreement[name] / 1000 for name in ("loa_low_mm3", "bias_mm3", "loa_high_mm3")]
    assert sorted(heights) == pytest.approx(sorted([0, *lines]))


def test_points_have_the_colour_and_marker_of_their_sex_and_neither_lies_on_top():
    hips = table(60)
    points = draw_volume_agreement(hips).axes[0].collections[0]
    sex_of = dict(zip((hips["volume_reference_mm3"] / 1000).round(6), hips["sex"], strict=True))
    drawn = [sex_of[round(float(x), 6)] for x, _ in points.get_offsets()]
    assert [to_hex(colour).upper() for colour in points.get_facecolors()] == [STYLE[sex][0] for sex in drawn]
    corners = [len(path.vertices) for path in points.get_paths()]
    assert {sex: {n for s, n in zip(drawn, corners, strict=True) if s == sex} for sex in "FM"} == {
        "F": {26},  # a circle's curves
        "M": {5},
    }
    changes = sum(a != b for a, b in pairwise(drawn))
    assert changes > 20  # one after the other there would be a single one


def test_lines_are_drawn_over_the_points():
    for axes in draw_volume_agreement(table(12)).axes:
        points = axes.collections[0].get_zorder()
        lines = [line for line in axes.lines if np.ptp(line.get_ydata()) > 0 or line.get_ydata()[0] != 0]
        assert len(lines) >= 2 and all(line.get_zorder() > points for line in lines)


def test_columns_show_every_value_its_median_and_its_quartiles():
    hips = table(12)
    for axes, (column, *_) in zip(draw_segmentation(hips).axes, SCORE_PANELS, strict=True):
        points, medians = axes.collections[0::2], axes.collections[1::2]
        boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        for x, sexes in enumerate(("FM", "M", "F")):
            values = hips.loc[hips["sex"].isin(list(sexes)), column].to_numpy(float)
            drawn = np.asarray(points[x].get_offsets())
            np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(values))
            assert np.abs(drawn[:, 0] - x).max() <= WIDEST
            assert medians[x].get_segments()[0][:, 1] == pytest.approx([np.median(values)] * 2)
            box = boxes[x].get_y(), boxes[x].get_y() + boxes[x].get_height()
            assert box == pytest.approx(tuple(np.percentile(values, [25, 75])))


def test_measures_show_cm3_and_take_the_common_length_where_every_hip_has_it():
    hips = table(12)
    shown = draw_measures(hips).axes
    assert [axes.get_ylabel() for axes in shown] == [
        "femur volume in the scan (cm³)",
        "integral density (mg/cm³)",
    ]
    drawn = np.sort(shown[0].collections[0].get_offsets()[:, 1])
    np.testing.assert_allclose(drawn, np.sort(hips["volume_mm3"] / 1000))
    hips["volume_to_cut_mm3"] = hips["volume_mm3"] * 0.8
    volume, density = draw_measures(hips).axes
    assert (volume.get_ylabel(), density.texts[0].get_text()) == (
        "femur volume to the cut (cm³)",
        "no values",
    )
    np.testing.assert_allclose(
        np.sort(volume.collections[0].get_offsets()[:, 1]), np.sort(hips["volume_mm3"] * 0.8 / 1000)
    )
    assert "down to the common cut" in caption("measures", hips)
    hips.loc[3, "volume_to_cut_mm3"] = np.nan
    assert draw_measures(hips).axes[0].get_ylabel() == "femur volume in the scan (cm³)"
    assert "cut" not in caption("measures", hips)


def test_spread_follows_the_density_and_leaves_one_alone_in_the_middle():
    values = np.sort(np.random.default_rng(0).normal(0, 1, 3000))
    beside = np.abs(spread(values, (-5, 5)))
    assert beside[np.abs(values) < 0.3].max() == pytest.approx(WIDEST, rel=0.05)
    assert beside[np.abs(values) > 2.5].max() < 0.1 * WIDEST
    assert spread(np.array([7.0]), (0, 10)).tolist() == [0]
    assert np.ptp(spread(np.ones(50), (0, 1))) > WIDEST


def test_many_points_are_a_picture_within_the_drawing(tmp_path):
    few, many = table(12), table(MOST_VECTORS + 2)
    for name in EVALUATED:
        assert not any(c.get_rasterized() for axes in FIGURES[name][0](few).axes for c in axes.collections)
    draw_all(many, tmp_path / "figures")
    text = (tmp_path / "figures/volume_agreement.svg").read_text(encoding="utf-8")
    assert text.count("<image") == 2 and len(text) < 200_000
    draw_all(many, tmp_path / "again")
    assert (tmp_path / "again/volume_agreement.svg").read_text(encoding="utf-8") == text


def texts_apart(figure, texts) -> bool:
    """Whether no text touches another, as drawn."""
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: (box.x0, box.y0))
    return not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


@pytest.mark.parametrize("count", [12, 400, 3000])
def test_labels_below_columns_do_not_meet(count):
    with matplotlib.style.context(SETTINGS, after_reset=True):
        figure = draw_segmentation(table(count))
        assert texts_apart(figure, [text for axes in figure.axes for text in axes.get_xticklabels()])


def test_labels_of_limits_that_are_close_do_not_meet_and_no_zero_is_negative():
    hips = table(12)
    hips["volume_predicted_mm3"] = hips["volume_reference_mm3"] + np.where(np.arange(12) % 2, 19, -20.0)
    with matplotlib.style.context(SETTINGS, after_reset=True):
        figure = draw_volume_agreement(hips)
        labels = figure.axes[1].texts
        assert [text.get_text() for text in labels] == ["−1.96 SD: −0.04", "bias: 0.00", "+1.96 SD: 0.04"]
        assert texts_apart(figure, labels)


def test_both_panels_of_the_agreement_have_one_height():
    figure = draw_volume_agreement(table(12))
    figure.draw_without_rendering()
    left, right = (axes.get_window_extent() for axes in figure.axes)
    assert (left.y0, left.height) == pytest.approx((right.y0, right.height), abs=1)


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
    assert "2 of them with the flag other_settings" in caption(
        "segmentation", table(2, flags=["thin", "other_settings"])
    )
    assert "12 hips: women (n = 6), men (n = 6)." in caption("measures", table(12))
    assert "sex unknown (n = 3)" in caption("measures", table(3, sex=""))
    assert "Synthetic scans" in caption("segmentation", table(2, flags=["synthetic"]))
