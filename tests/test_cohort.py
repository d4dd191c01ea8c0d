"""The tables name every hip, count the ones that are done, and leave nothing unsaid."""

import os
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from cohort_factory import CALIBRATED, MESH, Hip, Results, cohort

from hipqct.cohort import SUBJECT_COLUMNS, TEXT_COLUMNS, flag_other_lengths, subject_table
from hipqct.errors import HipqctError
from hipqct.io.files import hash_file, read_json, write_json
from hipqct.io.tables import read_table, write_table
from hipqct.steps.cohort import aggregate_cohort


def aggregate(folder, hips, change=lambda study: None, states=MappingProxyType({}), **options) -> Results:
    """The tables of a run that stopped early; ``states`` None: of one in which no job failed."""
    study = Results(folder, hips)
    change(study)
    aggregate_cohort(study.sheet, study.results, study.cohort, states=states, **options)
    return study


def test_all_went_well_leaves_only_the_header_of_failures(tmp_path):
    study = aggregate(tmp_path, cohort(4))
    assert (study.cohort / "failures.tsv").read_text() == "subject\tside\tstep\treason\n"
    rows = study.table("subjects")
    assert [row["subject"] for row in rows] == ["S001", "S002", "S003", "S004"]
    assert {row["status"] for row in rows} == {"done"}
    assert tuple(rows[0]) == SUBJECT_COLUMNS


def test_scores_are_means_and_sample_sds_per_cohort(tmp_path):
    hips = cohort(12)
    study = aggregate(tmp_path, hips)
    rows = {row["cohort"]: row for row in study.table("segmentation")}
    assert {name: row["n"] for name, row in rows.items()} == {"all": "12", "male": "6", "female": "6"}
    for name, sexes in {"all": "FM", "male": "M", "female": "F"}.items():
        scores = [hip.scores for hip in hips if hip.sex in sexes]
        expected = {}
        for score in scores[0]:
            values = np.array([found[score] for found in scores])
            expected |= {f"{score}_mean": values.mean(), f"{score}_sd": values.std(ddof=1)}
        found = {
            column: float(cell)
            for column, cell in rows[name].items()
            if column not in ("cohort", "n", "failed", "seen_in_training")
        }
        assert found == pytest.approx(expected, rel=1e-6)


def test_volume_agreement_has_the_contracts_columns_and_numbers(tmp_path):
    hips = cohort(12)
    study = aggregate(tmp_path, hips)
    row = study.table("volume_agreement")[0]
    expected = "cohort n volume_mean_mm3 volume_sd_mm3 mae_mm3 rmse_mm3 r2 r2_p re_min_percent re_max_percent"
    assert list(row) == [
        *expected.split(),
        "bias_mm3",
        "loa_low_mm3",
        "loa_high_mm3",
        "failed",
        "seen_in_training",
    ]
    reference_mm3, error_percent = np.array([(hip.reference_mm3, hip.error_percent) for hip in hips]).T
    difference_mm3 = reference_mm3 * error_percent / 100
    limit_mm3 = 1.96 * difference_mm3.std(ddof=1)
    numbers = {
        "n": 12,
        "volume_mean_mm3": reference_mm3.mean(),
        "volume_sd_mm3": reference_mm3.std(),
        "mae_mm3": np.abs(difference_mm3).mean(),
        "rmse_mm3": np.sqrt((difference_mm3**2).mean()),
        "r2": 1 - (difference_mm3**2).mean() / reference_mm3.var(),
        "re_min_percent": error_percent.min(),
        "re_max_percent": error_percent.max(),
        "bias_mm3": difference_mm3.mean(),
        "loa_low_mm3": difference_mm3.mean() - limit_mm3,
        "loa_high_mm3": difference_mm3.mean() + limit_mm3,
    }
    assert {name: float(row[name]) for name in numbers} == pytest.approx(numbers, rel=1e-6)


def test_a_subjects_failure_lists_both_sides(tmp_path):
    hips = [Hip("A", sides=("left", "right")), Hip("B")]
    study = aggregate(tmp_path, hips, lambda s: s.fail("import_scan", "A", "Slice 5 is cut short."))
    failures = study.table("failures")
    assert [(f["subject"], f["side"], f["step"]) for f in failures] == [
        ("A", "left", "import_scan"),
        ("A", "right", "import_scan"),
    ]
    assert {f["reason"] for f in failures} == {"Slice 5 is cut short."}
    assert [row["status"] for row in study.table("subjects")] == ["failed", "failed", "done"]


def test_older_results_below_a_new_failure_do_not_count(tmp_path):
    study = aggregate(tmp_path, [Hip("A"), Hip("B")], lambda s: s.fail("resample_ct", "A", "Uneven slices."))
    failed, done = study.table("subjects")
    assert (failed["status"], failed["volume_mm3"], failed["dice"]) == ("failed", "", "")
    assert done["status"] == "done"
    assert study.table("segmentation")[0]["n"] == "1"


def test_one_side_may_fail_alone(tmp_path):
    hips = [Hip("A", sides=("left", "right"))]
    study = aggregate(tmp_path, hips, lambda s: s.fail("crop_hip", "A.right", "There is no right hip."))
    assert [row["status"] for row in study.table("subjects")] == ["done", "failed"]
    assert study.table("failures")[0]["side"] == "right"


def test_a_killed_job_is_named_with_its_log(tmp_path):
    def kill(study):
        for name in ("probability.h5", "mask.nii.gz"):
            study.path("A", "left", "{side}/" + name).unlink()

    (failure,) = aggregate(tmp_path, [Hip("A")], kill).table("failures")
    assert failure["step"] == "segment_femur"
    assert failure["reason"].endswith("logs/segment_femur/A.left.log.")


@pytest.mark.parametrize("name", ["ct.nii.gz", "{side}/mask_native.nii.gz", "{side}/probability.h5"])
def test_a_file_that_was_removed_takes_no_other_with_it(tmp_path, name):
    """As when ct.nii.gz goes to save space: without a failure nothing tells against the rest."""
    study = Results(tmp_path, [Hip("A"), Hip("B")])
    study.path("A", "left", name).unlink()
    kept = sorted((study.results / "subjects").rglob("*"))
    with pytest.raises(HipqctError, match="again, without a target"):
        aggregate_cohort(study.sheet, study.results, study.cohort)
    assert [row["status"] for row in study.table("subjects")] == ["failed", "done"]
    aggregate_cohort(study.sheet, study.results, study.cohort, states={})
    assert sorted((study.results / "subjects").rglob("*")) == kept
    assert not (study.cohort / "summary.json").exists()


def test_results_that_only_look_old_are_kept(tmp_path):
    """Snakemake may have judged in an earlier run that they are up to date."""
    study = Results(tmp_path, [Hip("A")])
    os.utime(study.path("A", "left", "{side}/volume.json"), (1_000_000, 1_000_000))
    kept = sorted((study.results / "subjects").rglob("*"))
    aggregate_cohort(study.sheet, study.results, study.cohort, states={})
    assert [row["step"] for row in study.table("failures")] == ["measure_volume"]
    assert sorted((study.results / "subjects").rglob("*")) == kept


def test_results_that_the_run_did_not_make_again_go(tmp_path):
    states = {("measure_volume", "A", "left"): False}
    study = aggregate(tmp_path, [Hip("A")], states=states)
    assert not study.path("A", "left", "{side}/volume.json").exists()
    assert study.path("A", "left", "{side}/mask.nii.gz").exists()


def test_results_older_than_their_input_count_unless_the_run_stopped_early(tmp_path):
    def age(study):
        picture = study.path("A", "left", "{side}/qc.png")
        os.utime(picture, (1_000_000, 1_000_000))

    assert aggregate(tmp_path / "well", [Hip("A")], age, states=None).table("failures") == []
    stopped = aggregate(tmp_path / "stopped", [Hip("A")], age)
    assert stopped.table("failures")[0]["step"] == "draw_qc"


def test_excluded_hips_are_listed_with_their_reason_and_not_counted(tmp_path):
    study = aggregate(tmp_path, [Hip("A", exclude="motion"), Hip("B")])
    excluded, _ = study.table("subjects")
    assert (excluded["status"], excluded["exclude"], excluded["volume_mm3"]) == ("excluded", "motion", "")
    assert study.table("failures") == []
    assert study.table("segmentation")[0]["n"] == "1"


def test_unknown_sex_counts_in_all_only(tmp_path):
    study = aggregate(tmp_path, [Hip("A", sex=""), Hip("B", sex="F")])
    counts = {row["cohort"]: row["n"] for row in study.table("volume_agreement")}
    assert counts == {"all": "2", "male": "0", "female": "1"}


def test_missing_values_stay_empty(tmp_path):
    study = aggregate(tmp_path, [Hip("A", error_percent=None, density_mg_cm3=None)])
    (row,) = study.table("subjects")
    empty = ("integral_density_mg_cm3", "bone_mineral_content_mg", "dice", "volume_reference_mm3", "exclude")
    assert [row[column] for column in empty] == [""] * len(empty)
    agreement = study.table("volume_agreement")[0]
    assert (agreement["n"], agreement["r2"]) == ("0", "")


def test_flags_of_all_steps_come_once_each(tmp_path):
    def flag(study):
        study.write("A", "left", "{side}/mesh/mesh.json", MESH | {"flags": ["several_parts", "thin"]})

    (row,) = aggregate(tmp_path, [Hip("A", flags=["several_parts"])], flag).table("subjects")
    assert row["flags"] == "several_parts,thin"


def test_tables_read_back_as_they_were(tmp_path):
    table = pd.DataFrame(
        {
            "subject": ["NA", "007", '"q'],
            "reason": ["two\nlines\tand a tab", None, "nan"],
            "volume_mm3": [123456.789, np.nan, 0.1],
            "n": [1, 2, 3],
        }
    )
    write_table(table, tmp_path / "t.tsv")
    back = read_table(tmp_path / "t.tsv", TEXT_COLUMNS)
    assert back["subject"].tolist() == ["NA", "007", '"q']
    assert back["reason"].tolist()[0] == "two lines and a tab"
    assert back["reason"].isna().tolist() == [False, True, False]
    np.testing.assert_allclose(back["volume_mm3"], table["volume_mm3"], rtol=1e-7)


def solve(study, subject: str, mesh_sha256: str = "", **cases: float) -> None:
    """Leave a hip's solved load cases, by default of the mesh that is there."""
    hip = study.results / "subjects" / subject / "left"
    study.write(subject, "left", "{side}/mesh/mesh.json", CALIBRATED)
    numbers = {name: {"stiffness_n_mm": n, "failure_load_n": 2 * n} for name, n in cases.items()}
    sha256 = mesh_sha256 or hash_file(hip / "mesh/mesh.json")
    write_json({"mesh_sha256": sha256, "cases": numbers}, hip / "solution/summary.json")


def test_solved_load_cases_have_columns_also_the_users_own(tmp_path):
    def change(study):
        solve(study, "S001", stance=1000.0, fall=800.0)
        solve(study, "S002", stance=1100.0, stairs=700.0)

    rows = aggregate(tmp_path, cohort(3), change).table("subjects")
    assert [row["stance_stiffness_n_mm"] for row in rows] == ["1000", "1100", ""]
    assert [row["fall_failure_load_n"] for row in rows] == ["1600", "", ""]
    assert [row["stairs_stiffness_n_mm"] for row in rows] == ["", "700", ""]
    assert list(rows[0])[-1] == "flags"


def test_a_hip_without_a_load_case_to_solve_is_no_failure(tmp_path):
    """As a calibrated stump of a shaft: its mesh is flagged, and its solution holds no case."""

    def change(study):
        solve(study, "S001")
        solve(study, "S002", fall=800.0)

    study = aggregate(tmp_path, cohort(2), change)
    assert study.table("failures") == []
    assert [row["fall_stiffness_n_mm"] for row in study.table("subjects")] == ["", "800"]
    assert (study.results / "subjects/S001/left/solution/summary.json").exists()
    assert (study.cohort / "summary.json").exists()


def test_measures_to_a_common_length_are_those_of_the_cut_femur(tmp_path):
    cut = {"whole_below_head_mm": 95.0, "to_cut": {"volume_mm3": 70_000.0, "mineral_mg": 17_500.0}}

    def change(study):
        for subject, mesh in (("S001", cut), ("S002", cut | {"flags": ["distal_cut_missing_mm"]})):
            study.write(subject, "left", "{side}/mesh/mesh.json", MESH | mesh)
        study.write(
            "S003", "left", "{side}/mesh/mesh.json", MESH | cut | {"to_cut": {"volume_mm3": 70_000.0}}
        )
        study.write("S001", "left", "scan.json", {"flags": [], "kvp": 120.0, "kernel": "B30s"})
        volume = read_json(study.path("S001", "left", "{side}/volume.json"))
        volume["calibration"] = {"slope": 0.8, "intercept": -2.0, "basis": "HA"}
        study.write("S001", "left", "{side}/volume.json", volume)

    first, short, uncalibrated, whole = aggregate(tmp_path, cohort(4), change, solving=False).table(
        "subjects"
    )
    names = ("volume_to_cut_mm3", "integral_density_to_cut_mg_cm3", "bone_mineral_content_to_cut_mg")
    assert [first[name] for name in names] == ["70000", "250", "17500"]
    assert [short[name] for name in names] == [whole[name] for name in names] == ["", "", ""]
    assert [uncalibrated[name] for name in names] == ["70000", "", ""]
    assert (first["below_head_mm"], whole["below_head_mm"]) == ("95", "")
    scanned = ("slope", "intercept", "basis", "kvp", "kernel")
    assert [first[name] for name in scanned] == ["0.8", "-2", "HA", "120", "B30s"]
    assert [whole[name] for name in scanned] == [""] * 5


def test_hips_whose_bone_ends_elsewhere_are_flagged():
    def hip(subject, below_head_mm):
        return {"subject": subject, "below_head_mm": below_head_mm, "flags": []}

    hips = [hip(f"S{i}", mm) for i, mm in enumerate((95, 98, 101, 109, 88.9))]
    hips += [hip("no frame", None), {"subject": "failed"}]
    flag_other_lengths(hips)
    assert [h["subject"] for h in hips if h.get("flags")] == ["S3"]  # the median is 98 mm
    table = subject_table(hips)
    assert table["below_head_mm"].tolist()[:2] == [95, 98] and table["flags"][3] == "other_length"


@pytest.mark.parametrize(
    ("ends_mm", "flagged"),
    [((90, 109, 90, 109), [1, 3]), ((100, 119), [1]), ((100, 109), []), ((90, 90, 90, 109, 109), [3, 4])],
)
def test_of_two_lengths_one_is_told_apart(ends_mm, flagged):
    """The middle between both would be near enough to each."""
    hips = [{"below_head_mm": float(mm), "flags": []} for mm in ends_mm]
    flag_other_lengths(hips)
    assert [i for i, hip in enumerate(hips) if hip["flags"]] == flagged


def test_one_scan_under_two_names_is_flagged(tmp_path):
    """By its series; a copy without one by volume and mean CT number. The other side is another bone."""

    def change(study):
        for subject in ("S001", "S002"):
            study.write(subject, "left", "scan.json", {"flags": [], "series": "0123456789ab"})
        study.write("S003", "left", "scan.json", {"flags": [], "series": "another"})
        same = read_json(study.path("S004", "left", "{side}/volume.json"))
        study.write("S005", "left", "{side}/volume.json", same)
        study.write("S006", "right", "scan.json", {"flags": [], "series": "0123456789ab"})
        study.write("S006", "right", "{side}/volume.json", same)

    hips = [*cohort(5), Hip("S006", sides=("right",))]
    rows = aggregate(tmp_path, hips, change).table("subjects")
    assert [row["flags"] for row in rows] == ["same_scan", "same_scan", "", "same_scan", "same_scan", ""]


def test_a_hip_whose_mesh_failed_is_flagged_whatever_the_gate(tmp_path):
    study = aggregate(tmp_path, cohort(2), lambda s: s.fail("export_mesh", "S001.left", "A gate failed."))
    assert [row["flags"] for row in study.table("subjects")] == ["no_mesh", ""]
    assert [row["status"] for row in study.table("subjects")] == ["done", "done"]


def test_a_solution_of_an_older_mesh_does_not_count(tmp_path):
    study = aggregate(tmp_path, cohort(1), lambda s: solve(s, "S001", "of another mesh", fall=800.0))
    assert study.table("subjects")[0]["fall_stiffness_n_mm"] == ""
    assert "no solution of this mesh" in study.table("failures")[0]["reason"]


def test_a_solver_that_was_killed_is_named_and_tried_again(tmp_path):
    """It leaves neither a result nor a record."""

    def change(study):
        solve(study, "S001", fall=800.0)
        study.write("S002", "left", "{side}/mesh/mesh.json", CALIBRATED)

    study = aggregate(tmp_path, cohort(2), change)
    assert [row["status"] for row in study.table("subjects")] == ["done", "done"]
    (failure,) = study.table("failures")
    assert (failure["subject"], failure["step"]) == ("S002", "solve_mesh")
    assert not (study.cohort / "summary.json").exists()


def test_a_failed_phantom_is_forgotten_when_the_scan_is_another(tmp_path):
    hips = [Hip("S001", phantom=True), Hip("S002")]

    def change(study):
        for subject in ("S001", "S002"):
            study.fail("make_phantom", subject, "No memory.")

    study = aggregate(tmp_path, hips, change)
    assert [row["status"] for row in study.table("subjects")] == ["failed", "done"]


MESHED = MESH | {
    "hex": {"cube_mm": 3, "shape": "mask", "bone_fraction_min": 0.5},
    "tet": {"size_mm": 3, "beyond_mask": "extend"},
    "distal_slab_mm": 6,
    "distal_cut_mm": None,
    "anatomy": None,
}


def test_hips_of_other_settings_are_flagged(tmp_path):
    def change(study):
        for subject in ("S001", "S002", "S003"):
            study.write(subject, "left", "{side}/mesh/mesh.json", MESHED)
        study.write("S004", "left", "{side}/mesh/mesh.json", MESHED | {"distal_slab_mm": 9})
        bone = read_json(study.path("S002", "left", "{side}/bone.json"))
        bone["network"] |= {"device": "gpu", "engine": "tensorflow"}  # the same numbers
        study.write("S002", "left", "{side}/bone.json", bone)
        study.write("S003", "left", "{side}/bone.json", {"network": bone["network"] | {"step": 4}})

    rows = aggregate(tmp_path, cohort(4), change).table("subjects")
    assert ["other_settings" in row["flags"] for row in rows] == [False, False, True, True]


def test_meshes_and_solutions_that_do_not_count_are_not_compared(tmp_path):
    """The one mesh that was made by today's settings is not the odd one among those that wait for it."""
    names = ("S001", "S002", "S003")

    def change(study):
        for name in names:
            study.write(name, "left", "{side}/mesh/mesh.json", MESHED | {"distal_slab_mm": 9})
        study.write("S001", "left", "{side}/mesh/mesh.json", MESHED)

    states = {("export_mesh", name, "left"): name == "S001" for name in names}
    study = aggregate(tmp_path / "meshes", cohort(3), change, states=states)
    assert [row["flags"] for row in study.table("subjects")] == ["", "no_mesh", "no_mesh"]

    def solved_otherwise(study):
        for name in names:
            solve(study, name, fall=800.0)
            path = study.path(name, "left", "{side}/solution/summary.json")
            limits = {"measure": "principal", "tension": 0.01, "compression": 0.01, "volume_percent": 2}
            limits |= {"bone_from_mpa": 100, "apart_mm": 5 if name == "S001" else 9}
            write_json(read_json(path) | {"model": "hex", "criterion": limits}, path)

    study = aggregate(tmp_path / "solved", cohort(3), solved_otherwise)
    assert [row["flags"] for row in study.table("subjects")] == ["other_settings", "", ""]
    study = aggregate(tmp_path / "not now", cohort(3), solved_otherwise, solving=False)
    assert [row["flags"] for row in study.table("subjects")] == ["", "", ""]


def test_a_hip_whose_model_was_not_solved_is_done_and_named(tmp_path):
    def change(study):
        solve(study, "S001", fall=800.0)
        study.fail("solve_mesh", "S001.left", "CalculiX failed on hex_fall.inp.")

    study = aggregate(tmp_path, cohort(2), change)
    assert [row["status"] for row in study.table("subjects")] == ["done", "done"]
    (failure,) = study.table("failures")
    assert (failure["subject"], failure["step"]) == ("S001", "solve_mesh")
    assert study.table("subjects")[0]["fall_stiffness_n_mm"] == ""  # not what an older run found
    assert not (study.results / "subjects/S001/left/solution").exists()
    assert not (study.cohort / "summary.json").exists()


@pytest.mark.parametrize(
    ("step", "lost", "kept"),
    [
        ("export_mesh", "fall_stiffness_n_mm", "dice"),
        ("evaluate_mask", "dice", "fall_stiffness_n_mm"),
        ("draw_qc", None, "dice"),
    ],
)
def test_a_step_after_the_volume_costs_its_own_columns_only(tmp_path, step, lost, kept):
    def change(study):
        for subject in ("S001", "S002"):
            solve(study, subject, fall=800.0)
        study.fail(step, "S001.left", "The mask is odd.")

    study = aggregate(tmp_path, cohort(2), change)
    row, other = study.table("subjects")
    assert row["status"] == "done" and float(row["volume_mm3"]) > 0 and row[kept]
    assert lost is None or (row[lost] == "" and other[lost] != "")
    (failure,) = study.table("failures")
    assert (failure["subject"], failure["step"], failure["reason"]) == ("S001", step, "The mask is odd.")
    assert not (study.cohort / "summary.json").exists()


def test_hips_that_failed_are_counted_beside_the_scores_they_are_missing_from(tmp_path):
    hips = [Hip("A"), Hip("B"), Hip("C", sex="M"), Hip("D", error_percent=None), Hip("E", exclude="motion")]

    def change(study):
        study.fail("crop_hip", "A.left", "There is no left hip.")
        study.fail("evaluate_mask", "C.left", "The reference is empty.")
        study.fail("crop_hip", "D.left", "There is no left hip.")  # nothing to evaluate it against

    study = aggregate(tmp_path, hips, change)
    for table in ("segmentation", "volume_agreement"):
        found = {row["cohort"]: (row["n"], row["failed"]) for row in study.table(table)}
        assert found == {"all": ("1", "2"), "male": ("0", "1"), "female": ("1", "1")}
    assert [row["reference"] for row in study.table("subjects")] == ["yes", "yes", "yes", "", "yes"]


def test_hips_seen_in_training_are_counted_beside_the_scores_they_make_too_good(tmp_path):
    hips = [Hip("A", flags=["seen_in_training"]), Hip("B"), Hip("C", sex="M")]
    hips.append(Hip("D", flags=["seen_in_training"], error_percent=None))  # in no score
    study = aggregate(tmp_path, hips)
    for table in ("segmentation", "volume_agreement"):
        found = {row["cohort"]: (row["n"], row["seen_in_training"]) for row in study.table(table)}
        assert found == {"all": ("3", "1"), "male": ("1", "0"), "female": ("2", "1")}


def test_a_failed_solution_is_forgotten_when_there_is_nothing_to_solve_any_more(tmp_path):
    """As when a scan's calibration is withdrawn: no job would ever take the record away."""

    def change(study):
        study.fail("solve_mesh", "S001.left", "CalculiX failed on hex_fall.inp.")
        study.write("S001", "left", "{side}/mesh/mesh.json", MESH | {"uncalibrated": True})

    study = aggregate(tmp_path, cohort(2), change)
    assert study.table("failures") == [] and (study.cohort / "summary.json").exists()


def test_a_run_that_solves_nothing_leaves_out_what_earlier_ones_found(tmp_path):
    def change(study):
        solve(study, "S001", fall=800.0)
        study.fail("solve_mesh", "S002.left", "CalculiX failed on hex_fall.inp.")

    study = aggregate(tmp_path, cohort(2), change, solving=False)
    assert study.table("failures") == [] and (study.cohort / "summary.json").exists()
    assert study.table("subjects")[0]["fall_stiffness_n_mm"] == ""
