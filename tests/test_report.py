"""The report is one page that needs nothing else, and hides neither failures nor phantoms."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cohort_factory import CALIBRATED, Hip, Results, cohort
from PIL import Image as Picture

from hipqct import report
from hipqct.cohort import segmentation_table, subject_table, volume_agreement_table
from hipqct.flags import ANY_USE, most_urgent_first
from hipqct.io.tables import write_table
from hipqct.steps.cohort import aggregate_cohort, draw_figures, write_report

DOCS = Path(__file__).resolve().parents[1] / "docs"


def make_report(folder, hips, change=lambda study: None) -> str:
    study = Results(folder, hips)
    change(study)
    aggregate_cohort(study.sheet, study.results, study.cohort, states={})
    draw_figures(study.cohort / "subjects.tsv", study.cohort / "figures")
    write_report(study.cohort, study.results, study.cohort / "report.html")
    return (study.cohort / "report.html").read_text(encoding="utf-8")


def rows_of(page: str, caption: str) -> dict[str, list[str]]:
    """The cells of one table's rows, by the row's first."""
    body = page.split(f"<caption>{caption}</caption>")[1].split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    return {name: cells for name, *cells in rows}


def page_of(folder, hips: list[dict], failures=(), pictures: bool = False) -> str:
    """The page of a cohort of these rows, without a run: columns that a row lacks are those of a hip done."""
    usual = {"side": "left", "status": "done", "volume_mm3": 90_000.0, "flags": []}
    rows = [usual | {"subject": f"S{number:04d}"} | hip for number, hip in enumerate(hips, 1)]
    subjects = subject_table(rows)
    names = ["subject", "side", "step", "reason"]
    failed = pd.DataFrame(list(failures), columns=names)
    write_table(subjects, folder / "cohort/subjects.tsv")
    write_table(segmentation_table(subjects), folder / "cohort/segmentation.tsv")
    write_table(volume_agreement_table(subjects), folder / "cohort/volume_agreement.tsv")
    write_table(failed, folder / "cohort/failures.tsv")
    for row in rows if pictures else ():
        path = folder / "subjects" / row["subject"] / row["side"] / "qc.png"
        path.parent.mkdir(parents=True)
        Picture.new("RGB", (8, 8)).save(path)
    return report.render_report(folder / "cohort", folder)


def captions(page: str) -> list[str]:
    """Those of the pictures."""
    return re.findall(r"jpeg;base64,[^>]+></label> <figcaption>([^<]+)", " ".join(page.split()))


def section(page: str, name: str) -> str:
    """Text of a section, tags taken out."""
    (inside,) = re.findall(rf'<section id="{name}".*?</section>', page, re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


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


def test_scores_of_hips_seen_in_training_are_told(tmp_path):
    hips = [Hip("A", flags=["seen_in_training"]), Hip("B")]
    page = " ".join(make_report(tmp_path, hips).split())
    assert page.count("seen in training</th>") == 2
    assert rows_of(page, "Segmentation")["all"][:2] == ["2", "1"]


def test_all_well_has_no_list_of_failures(tmp_path):
    page = make_report(tmp_path, cohort(2))
    assert "<h2>Failures" not in page and "later step" not in page


def test_counts_agree_with_the_list_of_failures(tmp_path):
    """A hip whose model was not solved is done; the page must not say that nothing failed above its name."""
    hips = [*cohort(3), Hip("X", exclude="motion")]

    def change(study):
        study.fail("import_scan", "S001", "No slices.")
        study.write("S002", "left", "{side}/mesh/mesh.json", CALIBRATED)
        study.fail("solve_mesh", "S002.left", "CalculiX failed.")

    page = make_report(tmp_path, hips, change)
    told = "2 hips done (of 1 of them a later step failed), 1 failed, 1 excluded."
    assert told in " ".join(page.split())
    listed = section(page, "failures")
    assert "S001 left failed import_scan No slices." in listed
    assert "S002 left done solve_mesh CalculiX failed." in listed


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
    assert ">NA</th>" in page
    assert ">007</th>" in page


def test_flagged_pictures_come_first_and_the_rest_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_PICTURES", 2)
    hips = [Hip("A"), Hip("B", flags=["several_parts"]), Hip("C")]
    page = " ".join(make_report(tmp_path, hips).split())
    assert captions(page) == ["B, left: several_parts", "A, left"]
    assert "1 more picture is in the results folder" in page
    assert "flagged hip" not in section(page, "pictures")


def test_the_one_hip_that_may_be_of_no_use_is_not_lost_among_seventy_with_more_flags(tmp_path):
    hips = [{"flags": ["phantom_model", "scan_warnings", "other_settings"]} for _ in range(70)]
    hips += [{"flags": ["phantom_model"]} for _ in range(9)]
    hips += [{"flags": ["phantom_model", "implausible_volume"], "side": "right"}]
    page = page_of(tmp_path, hips, pictures=True)
    shown = captions(page)
    assert len(shown) == report.MAX_PICTURES == 60
    assert shown[0] == "S0080, right: phantom_model, implausible_volume"
    told = section(page, "pictures")
    assert "20 more pictures are in the results folder" in told
    assert "11 of them are of flagged hips: S0060 left; S0061 left;" in told and "S0070 left. " in told + " "
    assert "Flags that every hip carries count nothing here: phantom_model." in told


def test_flags_that_rule_out_any_use_come_before_rare_ones_and_those_before_many():
    flags = [[], ["uncalibrated"], ["other_length", "uncalibrated"], ["low_confidence"], ["low_confidence"]]
    flags += [["metal", "kink", "knot"], ["touches_scan_end"], ["metal", "kink"]]
    hips = [{"subject": str(number), "status": "done", "flags": hip} for number, hip in enumerate(flags)]
    ranked = most_urgent_first(subject_table([*hips, {"subject": "not done", "status": "failed"}]))
    assert "".join(ranked["subject"]) == "63452" + "7" + "10"
    assert ranked["flagged"].tolist() == [True] * 7 + [False]


def test_what_rules_out_any_use_is_what_the_documentation_says():
    (told,) = re.findall(r"\*\*Any use:\*\*(.*?)\n-", (DOCS / "results.md").read_text(encoding="utf-8"), re.S)
    named = set(re.findall(r"`(\w+)`", told)) - {"phantom_model"}
    assert named <= ANY_USE
    gates = (DOCS / "meshes.md").read_text(encoding="utf-8")
    assert all(f"`{flag}`" in gates and re.match("head_|neck_", flag) for flag in ANY_USE - named)


def test_without_references_no_empty_table_opens_the_page(tmp_path):
    sizes = {"volume_mm3": (80_000, 90_000, 110_000), "integral_density_mg_cm3": (200.0, 300.0, None)}
    rows = [{"sex": sex, "basis": "HA"} | {k: v[i] for k, v in sizes.items()} for i, sex in enumerate("FMM")]
    page = page_of(tmp_path, rows)
    assert 'id="segmentation"' not in page and 'id="volume-agreement"' not in page
    told = section(page, "volume-and-density")
    volume = f"{np.mean(sizes['volume_mm3']):,.0f} ± {np.std(sizes['volume_mm3'], ddof=1):,.0f}"
    density = f"250.0 ± {np.std([200, 300], ddof=1):.1f} (n = 2)"
    assert f"all 3 {volume} {density}" in told
    assert "men 2 100,000 ± 14,142 300.0 (n = 1)" in told and "women 1 80,000 200.0" in told
    assert "Densities are in HA." in told and "cut" not in told and "mineral" not in told


def test_stiffness_and_measures_to_the_cut_are_shown_where_there_are_any(tmp_path):
    solved = {"fall_stiffness_n_mm": 4950.4, "fall_failure_load_n": 1933.4, "volume_to_cut_mm3": 70_000}
    page = page_of(tmp_path, [solved | {"stairs_stiffness_n_mm": 12.0, "flags": ["metal"]}, {}])
    told = section(page, "hips")
    assert "status flags volume (mm³)" in told
    assert "fall stiffness (N/mm) fall failure load (N) stairs stiffness (N/mm) S0001" in told
    assert "done metal 90,000 70,000 4,950 1,933 12" in told
    assert "stance" not in told and "“To cut”" in section(page, "volume-and-density")


def test_a_long_table_is_folded_and_what_failed_or_is_flagged_stands_open(tmp_path):
    rows = [{"flags": ["metal"]} if n == 7 else {} for n in range(report.MAX_ROWS + 1)]
    rows[3] = {"status": "failed", "volume_mm3": None}
    page = page_of(tmp_path, rows, failures=[("S0004", "left", "import_scan", "No slices.")])
    urgent, folded = page.split("<details>")
    assert ">S0004</th>" in urgent.split("<h3>Hips to look at")[1]
    assert ">S0008</th>" in urgent and ">S0007</th>" not in urgent
    assert "<summary>All 201 hips</summary>" in folded and ">S0007</th>" in folded
    assert "<details>" not in page_of(tmp_path / "short", rows[:50])


class Outline(HTMLParser):
    """Ids, links to them, and what a reader without eyes or mouse needs."""

    def __init__(self, page: str):
        super().__init__()
        self.ids, self.links, self.headings, self.regions, self.inputs = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if tag == "a" else []
        self.headings += [attrs.get("scope")] if tag == "th" else []
        self.regions += [attrs] if attrs.get("class") == "scroll" else []
        self.inputs += [attrs] if tag == "input" else []


def test_the_page_is_found_through_by_links_and_keyboard(tmp_path):
    page = make_report(tmp_path, cohort(4), lambda s: s.fail("import_scan", "S002", "No slices."))
    outline = Outline(page)
    assert len(set(outline.ids)) == len(outline.ids)
    assert sorted(outline.links) == sorted(f"#{name}" for name in outline.ids)
    assert set(outline.headings) == {"col", "row"}
    assert all(r["tabindex"] == "0" and r["role"] == "region" and r["aria-label"] for r in outline.regions)
    assert [i["aria-label"] for i in outline.inputs] == [f"Enlarge S00{n}, left" for n in (1, 3, 4)]
    assert not re.search(r"input \{[^}]*display: none", page)  # such a box has no focus
    assert page.count("<caption>") == page.count("<table>")
    assert page.index('id="pictures"') < page.index('id="hips"')


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("volume_mm3", 123456.7, "123,457"),
        ("relative_error_percent", -1.234, "−1.23"),
        ("relative_error_percent", -0.001, "0.00"),
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
    assert report._heading("fall_stiffness_n_mm") == "fall stiffness (N/mm)"
    assert report._heading("stance_failure_load_n") == "stance failure load (N)"
    assert report._heading("mae_mm3") == "MAE (mm³)"


def test_hips_without_a_score_are_counted_beside_the_scores(tmp_path):
    page = make_report(tmp_path / "all", [Hip("A"), Hip("B")])
    assert "not scored</th>" not in page

    hips = [Hip("A"), Hip("B"), Hip("C"), Hip("D", sex="M")]

    def change(study):
        for name in "BCD":
            study.fail("evaluate_mask", f"{name}.left", "The reference is empty.")

    page = make_report(tmp_path / "three", hips, change)
    assert page.count("not scored</th>") == 2
    for caption in ("Segmentation", "Volume agreement"):
        rows = rows_of(page, caption)
        assert {name: row[:2] for name, row in rows.items()} == {
            "all": ["1", "3"],
            "men": ["0", "1"],
            "women": ["1", "2"],
        }


def test_scores_are_not_left_out_where_all_evaluations_failed(tmp_path):
    page = make_report(tmp_path, [Hip("A")], lambda s: s.fail("evaluate_mask", "A.left", "It is empty."))
    assert {name: row[:2] for name, row in rows_of(page, "Segmentation").items()} == {
        "all": ["0", "1"],
        "women": ["0", "1"],
    }
