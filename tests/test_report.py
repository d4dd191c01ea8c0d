"""The report is one page that needs nothing else, and hides neither failures nor phantoms."""

import base64
import re

import pytest
from cohort_factory import Hip, Results, cohort

from hipqct import report
from hipqct.steps.cohort import aggregate_cohort, draw_figures, write_report


def make_report(folder, hips, change=lambda study: None) -> str:
    study = Results(folder, hips)
    change(study)
    aggregate_cohort(study.sheet, study.results, study.cohort)
    draw_figures(study.cohort / "subjects.tsv", study.cohort / "figures")
    write_report(study.cohort, study.results, study.cohort / "report.html")
    return (study.cohort / "report.html").read_text(encoding="utf-8")


def test_the_page_is_self_contained(tmp_path):
    page = make_report(tmp_path, cohort(4))
    assert not re.search(r"https?://|<link|<script|@import", page)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 3 + 4  # figures and pictures
    assert all(source.startswith("data:image/") for source in sources)


def test_pictures_and_figures_can_be_decoded(tmp_path):
    page = make_report(tmp_path, cohort(2))
    (jpeg, *_) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert base64.b64decode(jpeg)[:2] == b"\xff\xd8"
    (svg, *_) = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert b"</svg>" in base64.b64decode(svg)


def test_failures_stand_on_the_page_with_their_reason_escaped(tmp_path):
    reason = "Slice 5 <of 60> is cut short & unreadable."
    page = make_report(tmp_path, cohort(3), lambda s: s.fail("import_scan", "S002", reason))
    assert "2 hips done, 1 failed, 0 excluded" in " ".join(page.split())
    assert "Slice 5 &lt;of 60&gt; is cut short &amp; unreadable." in page
    assert "import_scan" in page


def test_all_well_has_no_list_of_failures(tmp_path):
    assert "<h2>Failed" not in make_report(tmp_path, cohort(2))


def test_phantoms_are_announced(tmp_path):
    page = make_report(tmp_path / "all", [Hip("A", phantom=True), Hip("B", phantom=True)])
    assert "Every scan of this cohort is a digital phantom" in page
    page = " ".join(make_report(tmp_path / "some", [Hip("A", phantom=True), Hip("B")]).split())
    assert "1 of the 2 hips that are done come from digital phantoms" in page
    assert "phantom" not in make_report(tmp_path / "none", [Hip("A")])


def test_nothing_but_failures_still_makes_a_page(tmp_path):
    page = make_report(tmp_path, [Hip("A")], lambda s: s.fail("import_scan", "A", "No slices."))
    assert "No slices." in page
    assert "<img" not in page


def test_the_page_tells_how_its_numbers_were_made(tmp_path):
    def change(study):
        study.write("B", "left", "{side}/bone.json", {})

    page = make_report(tmp_path, [Hip("A"), Hip("B"), Hip("C")], change)
    windows = "window step 8, uniform blend, ends as-is"
    network = f"tiny (weights aaaaaaaa), {windows} (2 hips); not recorded (1 hip)"
    assert "openvino on cpu (2 hips)" in page
    assert network in page
    assert "area, slab-centred (3 hips)" in page
    assert re.search(r"Software: Python 3\.\d+\.\d+, hipqct \d", page)


def test_subjects_called_na_or_007_keep_their_names(tmp_path):
    page = make_report(tmp_path, [Hip("NA"), Hip("007")])
    assert ">NA</td>" in page
    assert ">007</td>" in page


def test_flagged_pictures_come_first_and_the_rest_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_PICTURES", 2)
    hips = [Hip("A"), Hip("B", flags=["several_parts"]), Hip("C")]
    page = " ".join(make_report(tmp_path, hips).split())
    captions = re.findall(r"jpeg;base64,[^>]+></label> <figcaption>([^<]+)", page)
    assert captions == ["B, left: several_parts", "A, left"]
    assert "1 more are in the results folder" in page


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("volume_mm3", 123456.7, "123,457"),
        ("relative_error_percent", -1.234, "−1.23"),
        ("r2_p", 1e-9, "&lt; 0.001"),
        ("dice", 0.98, "0.9800"),
        ("n", 12, "12"),
        ("dice", float("nan"), ""),
    ],
)
def test_cells_have_the_digits_worth_reading(column, value, text):
    assert report._cell(column, value).replace("<", "&lt;") == text


def test_headings_carry_units():
    assert report._heading("volume_mean_mm3") == "volume mean (mm³)"
    assert report._heading("integral_density_mg_cm3") == "integral density (mg/cm³)"
    assert report._heading("age") == "age (years)"
    assert report._heading("mae_mm3") == "MAE (mm³)"
