"""The real workflow on four small synthetic subjects, one of them with a truncated slice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from .conftest import COHORT, ROOT, make_study

GOOD = ("S001", "S002", "S004")


def truncate_one_slice(study):
    """Cut a slice of S003 short; returns what to call to mend it."""
    path = sorted((study.folder / "scans/S003/dicom").iterdir())[5]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return lambda: path.write_bytes(whole)


@pytest.fixture(scope="module")
def study(tmp_path_factory, phantoms):
    """The study after a run in which S003 was truncated."""
    study = make_study(tmp_path_factory.mktemp("study"), phantoms)
    study.mend = truncate_one_slice(study)
    study.first_run = study.run()
    return study


def test_a_bad_scan_stops_neither_the_others_nor_the_tables(study):
    assert study.first_run.returncode != 0
    status = {row["subject"]: row["status"] for row in study.table("subjects")}
    assert status == {subject: "done" if subject in GOOD else "failed" for subject in COHORT}
    (failure,) = study.table("failures")
    assert (failure["subject"], failure["side"], failure["step"]) == ("S003", "left", "import_scan")
    assert "truncated" in failure["reason"].lower()
    assert failure["reason"].count("\n") == 0
    assert not (study.folder / "results/subjects/S003/ct.nii.gz").exists()


def test_every_promised_file_of_a_good_subject_is_there(study):
    for subject in GOOD:
        for name in ("../ct.nii.gz", "../scan.json", "../resampled.nii.gz", "roi.h5", "probability.h5"):
            assert study.path(subject, name).exists(), (subject, name)
        for name in ("mask.nii.gz", "mask_native.nii.gz", "qc.png", "mesh/surface.stl", "mesh/hex.inp"):
            assert study.path(subject, name).exists(), (subject, name)
        volume = json.loads(study.path(subject, "volume.json").read_text())
        assert 30_000 < volume["volume_mm3"] < 300_000
        evaluation = json.loads(study.path(subject, "evaluation.json").read_text())
        assert evaluation["dice"] > 0.8  # coarse pixels: the real measure is the demo's
        assert study.path(subject, "mesh/load_cases/hex_fall.inp").exists()
    assert (study.folder / "results/cohort/report.html").exists()
    solved = [row["fall_stiffness_n_mm"] for row in study.table("subjects") if row["subject"] in GOOD]
    if shutil.which("ccx"):
        assert all(float(stiffness) > 100 for stiffness in solved)
    else:
        assert solved == [""] * 3 and "CalculiX (ccx) is not installed" in study.first_run.stderr
    assert {row["cohort"]: row["n"] for row in study.table("segmentation")} == {
        "all": "3",
        "male": "2",
        "female": "1",
    }


def times(study) -> dict[str, float]:
    """When each result, logs apart, was last written."""
    results = study.folder / "results"
    files = [path for folder in ("subjects", "cohort") for path in (results / folder).rglob("*.*")]
    return {str(path.relative_to(results)): path.stat().st_mtime for path in files}


def test_the_mended_scan_runs_its_own_jobs_and_the_cohorts_only(study):
    before = times(study)
    study.mend()
    run = study.run()
    assert run.returncode == 0, run.stderr[-3000:]
    written = {name for name, time in times(study).items() if before.get(name) != time}
    assert {name.split("/")[0] for name in written} == {"subjects", "cohort"}
    assert all(name.startswith(("subjects/S003/", "cohort/")) for name in written)
    assert [row["status"] for row in study.table("subjects")] == ["done"] * 4
    assert study.table("failures") == []
    again = study.run("--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def edit_config(study, old: str, new: str):
    """Replace a text of the study's configuration, that must be there."""
    config = study.folder / "config/config.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def planned(study, *arguments: str) -> dict[str, int]:
    """How many jobs of each rule a run would have."""
    run = study.run("--dry-run", *arguments)
    assert run.returncode == 0, run.stderr[-3000:]
    if "Nothing to be done" in run.stdout + run.stderr:
        return {}
    rows = (run.stdout + run.stderr).split("Job stats:")[-1].split("total")[0].splitlines()
    return {
        words[0]: int(words[1]) for words in map(str.split, rows) if len(words) == 2 and words[1].isdigit()
    }


def test_a_corrected_sheet_counts_though_its_time_is_old(study):
    """As of a copy that kept its time, or one that was ready before the run ended."""
    sheet = study.folder / "config/samples.tsv"
    text = sheet.read_text()
    of_cohort = dict.fromkeys(("aggregate_cohort", "draw_figures", "write_report", "all"), 1)
    for corrected, jobs in ((text.replace("\tF\t70", "\tM\t70"), of_cohort), (text, {})):
        sheet.write_text(corrected)
        os.utime(sheet, (1e9, 1e9))
        assert planned(study) == jobs


def test_a_slice_or_reference_changed_in_place_counts_though_times_are_old(study):
    """The times that Snakemake looks at stay: that of the slice's folder, and one older than the results."""
    scans = study.folder / "scans"
    for path, rule in (
        (sorted((scans / "S001/dicom").iterdir())[5], "import_scan"),
        (scans / "S002/left_femur.nii.gz", "evaluate_mask"),
    ):
        before = path.stat()
        os.utime(path, (1e9, 1e9))
        assert planned(study)[rule] == 1
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert planned(study) == {}


def test_a_clusters_job_does_not_mind_another_subjects_scan_that_was_moved(study):
    """It reads the sheet anew; the run itself does mind."""
    scan = study.folder / "scans/S004/ct.nii.gz"
    target = "results/subjects/S001/left/volume.json"
    as_job = ("--mode", "remote", "--target-jobs", "measure_volume:subject=S001,side=left")
    scan.rename(scan.with_name("moved.nii.gz"))
    try:
        job = study.run(target, "--dry-run", *as_job, "--allowed-rules", "measure_volume")
        assert job.returncode == 0, job.stderr[-3000:]
        assert study.run(target, "--dry-run").returncode != 0
    finally:
        scan.with_name("moved.nii.gz").rename(scan)


def test_what_was_removed_is_made_again(study):
    removed = ["probability.h5", "roi.h5", "mask_native.nii.gz", "mesh/hex.inp", "../scan.json"]
    contents = {name: study.path("S001", name).read_bytes() for name in removed}
    for name in removed:
        study.path("S001", name).unlink()
    plan = planned(study)
    made_again = ("import_scan", "crop_hip", "segment_femur", "threshold_bone", "export_mesh")
    assert [plan[name] for name in made_again] == [1] * 5
    for name, content in contents.items():
        study.path("S001", name).write_bytes(content)


def test_a_format_that_is_added_hides_no_other_change(study):
    """Snakemake would look at no parameter of a job that has an output it has not written yet."""
    target = "results/subjects/S001/left/mesh/mesh.json"
    changes = (("  formats: []", "  formats: [feb]"), ("  cube_mm: 3.0", "  cube_mm: 4.0"))
    for old, new in changes:
        edit_config(study, old, new)
    assert study.run(target).returncode == 0
    assert study.path("S001", "mesh/hex.feb").exists()
    assert json.loads(study.path("S001", "mesh/mesh.json").read_text())["hex"]["cube_mm"] == 4
    for old, new in changes:
        edit_config(study, new, old)
    assert study.run(target).returncode == 0
    assert not study.path("S001", "mesh/hex.feb").exists()
    assert json.loads(study.path("S001", "mesh/mesh.json").read_text())["hex"]["cube_mm"] == 3


def test_a_model_that_is_not_there_is_refused_though_results_are(study):
    edit_config(study, "model: resources/models/medium", "model: resources/models/medum")
    run = study.run("--dry-run")
    assert run.returncode != 0
    assert "segment/model: resources/models/medum holds no model" in run.stdout + run.stderr
    edit_config(study, "model: resources/models/medum", "model: resources/models/medium")


def test_crops_that_the_model_cannot_take_are_refused_though_results_are(study):
    config = study.folder / "config/config.yaml"
    shipped = config.read_text()
    config.write_text(shipped.replace("pixel_mm: 0.8", "pixel_mm: 0.7"))
    run = study.run()
    config.write_text(shipped)
    assert run.returncode != 0 and "crop/pixel_mm is 0.7, not 0.8 as the model" in run.stdout + run.stderr
    assert "Execute" not in run.stdout + run.stderr


def test_an_edited_or_added_material_law_makes_the_mesh_again_and_nothing_before_it(study):
    target = "results/subjects/S001/left/mesh/mesh.json"
    laws = study.folder / "materials/laws.json"
    for change in (
        lambda: laws.write_text(laws.read_text().replace('"slope": 1.06,', '"slope": 1.07,')),
        lambda: (study.folder / "materials/mine.json").write_text("{}"),
    ):
        before = times(study)
        change()
        run = study.run(target)
        assert run.returncode == 0, run.stderr[-3000:]
        written = {name for name, time in times(study).items() if before.get(name) != time}
        assert written and all(name.startswith("subjects/S001/left/mesh/") for name in written)
        slope = json.loads((study.folder / target).read_text())["material"]["density_laws"][0]["slope"]
        assert slope == 1.07
    assert "Nothing to be done" in study.run(target).stderr


def heed_interrupts() -> None:
    """Undo what a script's background job passes on, in which these tests may run: ignoring Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupting_a_run_leaves_tables_and_results(study):
    """As Ctrl-C does: a signal to the whole group of processes."""
    before = times(study)
    tables = {path: path.read_bytes() for path in (study.folder / "results/cohort").glob("*.*")}
    command = [*study.command("--forcerun", "resample_ct")]
    run = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts,
    )
    results = [study.path(subject, "../resampled.nii.gz") for subject in GOOD]
    while run.poll() is None and all(path.exists() for path in results):  # a job that starts removes its own
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    run.communicate(timeout=120)
    assert run.returncode != 0
    assert {path: path.read_bytes() for path in tables} == tables
    kept = [name for name in before if "/left/" in name]
    assert len(kept) > 40 and not [n for n in kept if not (study.folder / "results" / n).exists()]


def test_one_subject_runs_alone(tmp_path, phantoms):
    study = make_study(tmp_path, phantoms)
    run = study.run("results/subjects/S001/left/volume.json")
    assert run.returncode == 0, run.stderr[-3000:]
    assert study.path("S001", "volume.json").exists()
    assert [p.name for p in (tmp_path / "results/subjects").iterdir()] == ["S001"]
    assert not (tmp_path / "results/cohort").exists()


def test_a_failing_single_target_leaves_the_cohort_alone(tmp_path, phantoms):
    study = make_study(tmp_path, phantoms)
    truncate_one_slice(study)
    assert study.run("results/subjects/S003/left/volume.json").returncode != 0
    assert not (tmp_path / "results/cohort").exists()


def test_a_bad_sheet_or_configuration_stops_before_any_job(tmp_path, phantoms):
    study = make_study(tmp_path, phantoms)
    sheet = tmp_path / "config/samples.tsv"
    good = sheet.read_text()
    sheet.write_text(good.replace("\tF\t70", "\tW\t70"))
    run = study.run()
    assert run.returncode != 0
    assert "line 2, sex: 'W': use F or M" in run.stdout + run.stderr
    sheet.write_text(good)
    config = tmp_path / "config/config.yaml"
    shipped = config.read_text()
    for old, new, words in (
        ("pixels: 192", "pixels: 100", "crop/pixels: 100 is not a multiple of 8"),
        ("pixel_mm: 0.8", "pixel_mm: 0.7", "crop/pixel_mm is 0.7, not 0.8 as the model 'medium' needs"),
        ("modulus_mpa: 10.0", "modulus_mpa: 20000", "mesh/minimum_modulus_mpa: 20000 is greater than"),
        ("  hex_shape: mask\n", "", "mesh: 'hex_shape' is a required property"),
    ):
        config.write_text(shipped.replace(old, new))
        run = study.run()
        assert run.returncode != 0 and words in run.stdout + run.stderr
    assert not (tmp_path / "results").exists()


def test_an_excluded_subject_is_listed_and_not_run(tmp_path, phantoms):
    study = make_study(tmp_path, phantoms)
    sheet = tmp_path / "config/samples.tsv"
    sheet.write_text(sheet.read_text().replace("\tleft\t\t", "\tleft\tmotion\t"))
    run = study.run()
    assert run.returncode == 0, run.stderr[-3000:]
    assert {row["status"] for row in study.table("subjects")} == {"excluded"}
    assert not (tmp_path / "results/subjects").exists()


def test_the_project_as_cloned_plans_its_demo():
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--cores", "2", "--nolock"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert all(f"S00{n}" in run.stdout + run.stderr for n in range(1, 6))
