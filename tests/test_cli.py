"""The command says in one sentence what is wrong, and its sheets and checks fit together."""

import argparse

import numpy as np
import pytest
from cohort_factory import Hip, Results, cohort
from conftest import ROOT
from dicom_factory import write_series

from hipqct import __version__, cli
from hipqct.image import Image
from hipqct.io import scan_tree
from hipqct.io.images import write_image
from hipqct.phantom.seeds import SEEDS
from hipqct.sheet import read_sheet
from hipqct.steps.cohort import aggregate_cohort


@pytest.fixture
def scans(tmp_path):
    """Two DICOM studies, one NIfTI scan, and a mask that is no scan."""
    write_series(tmp_path / "scans/anna/ct")
    write_series(tmp_path / "scans/bert/ct", PatientSex="M", PatientAge="061Y")
    body = np.full((20, 18, 18), -1000, np.int16)
    body[4:16, 4:14] = 40
    write_image(Image(body, (3.0, 3.0, 4.0)), tmp_path / "scans/carl.nii.gz")
    write_image(Image((body > 0).astype(np.uint8), (3.0, 3.0, 4.0)), tmp_path / "scans/carl_mask.nii.gz")
    return tmp_path / "scans"


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_a_written_sheet_reads_back_and_its_scans_pass_the_check(scans, tmp_path, capsys):
    sheet = tmp_path / "config/samples.tsv"
    status, out, _ = run(capsys, "samples", scans, "-o", sheet)
    assert status == 0
    assert "3 scans" in out
    subjects = {subject.subject: subject for subject in read_sheet(sheet)}
    assert set(subjects) == {"anna", "bert", "carl"}
    assert (subjects["bert"].sex, subjects["bert"].age) == ("M", 61)
    assert subjects["carl"].scan.samefile(scans / "carl.nii.gz")
    assert "\t../scans/" in sheet.read_text()
    status, out, err = run(capsys, "check", "--samples", sheet)
    assert (status, out) == (0, "anna\tok\t\nbert\tok\t\ncarl\tok\t\n")
    assert err == "3 subjects checked, 0 will be refused\n"


def test_standard_output_holds_the_sheet_alone_with_absolute_paths(scans, tmp_path, capsys):
    status, out, _ = run(capsys, "samples", scans)
    assert status == 0
    (tmp_path / "elsewhere.tsv").write_text(out)
    assert len(read_sheet(tmp_path / "elsewhere.tsv")) == 3


def test_a_sheet_someone_has_filled_in_is_not_overwritten(scans, tmp_path, capsys):
    (tmp_path / "samples.tsv").write_text("mine")
    status, _, err = run(capsys, "samples", scans, "-o", tmp_path / "samples.tsv")
    assert status == 1
    assert "is there already" in err
    assert (tmp_path / "samples.tsv").read_text() == "mine"


def test_a_scan_that_will_be_refused_makes_the_check_fail(scans, tmp_path, capsys):
    (scans / "anna/ct/IM0007.dcm").unlink()
    (scans / "carl.nii.gz").write_bytes(b"no image")
    sheet = tmp_path / "samples.tsv"
    assert run(capsys, "samples", scans, "-o", sheet)[0] == 0
    status, out, err = run(capsys, "check", "--samples", sheet)
    assert status == 1
    severities = {line.split("\t")[0]: line.split("\t")[1] for line in out.splitlines()}
    assert severities == {"anna": "error", "bert": "ok", "carl": "error"}
    assert "2 will be refused" in err


def test_the_check_compares_the_sheet_with_the_headers(scans, tmp_path, capsys):
    header = "subject\tscan\tsex\tage\tside\treference_right"
    (scans / "broken.nii.gz").write_bytes(b"no image")
    rows = [
        "A\tscans/bert\tF\t61\tleft\t",
        "B\tscans/bert\tM\t25\tleft\tscans/carl_mask.nii.gz",
        "C\tscans/carl.nii.gz\tM\t25\tright\tscans/broken.nii.gz",
    ]
    (tmp_path / "samples.tsv").write_text("\n".join([header, *rows]) + "\n")
    status, out, _ = run(capsys, "check", "--samples", tmp_path / "samples.tsv")
    found = [line.split("\t") for line in out.splitlines()]
    assert status == 1
    assert found[:4] == [
        ["A", "warning", "the header says sex M, the sheet F"],
        ["B", "warning", "the header says 61 years, the sheet 25"],
        ["B", "warning", "reference_right is not used: side is left"],
        ["B", "warning", "the same scan as A: it counts twice"],
    ]
    assert found[4][:2] == ["C", "error"] and found[4][2].startswith("reference_right: ")
    assert len(found) == 5


def test_excluded_scans_are_not_read_and_phantoms_need_not_exist(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "subject\tscan\texclude\nA\tnowhere\tmotion\nB\tresults/phantoms/S001/dicom\t\n"
    (tmp_path / "samples.tsv").write_text(rows)
    status, out, _ = run(capsys, "check", "--samples", "samples.tsv")
    assert status == 0
    assert out.splitlines()[0] == "A\texcluded\tmotion"
    assert out.splitlines()[1].startswith("B\tphantom\t")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "--samples", "missing.tsv"), "no such sample sheet"),
        (("samples", "missing"), "is not a folder"),
        (("samples", "."), "there is no CT scan"),
        (("summary",), "run snakemake first"),
    ],
)
def test_errors_are_one_sentence_and_status_one(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("hipqct: ")
    assert words in err


def test_a_folder_that_cannot_be_written_is_one_sentence(scans, tmp_path, capsys):
    (tmp_path / "file").touch()
    status, _, err = run(capsys, "samples", scans, "-o", tmp_path / "file/samples.tsv")
    assert status == 1
    assert err.splitlines()[-1].startswith("hipqct: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            (
                f"phantom one P --seed 1 --slice-mm {value}",
                f"--slice-mm: must be a number from 0.6 to 5, got {value}",
            )
            for value in ("0", "inf", "-2", "nan", "300", "20", "thin")
        ),
        ("phantom one P --seed 1 --age -50", "--age: must be a whole number from 18 to 110, got -50"),
        ("phantom one P --seed 1 --age 1000", "--age: must be a whole number from 18 to 110, got 1000"),
        ("phantom one P --seed -1", "--seed: must be a whole number from 0, got -1"),
        ("phantom one P --seed 1.5", "--seed: must be a whole number from 0, got 1.5"),
        ("phantom cohort P --processes 0", "--processes: must be a whole number from 1, got 0"),
        ("train M --phantoms -1", "--phantoms: must be a whole number from 1 to 100000, got -1"),
        ("train M --phantoms 100001", "--phantoms: must be a whole number from 1 to 100000, got 100001"),
        ("train M --validation 0", "--validation: must be a whole number from 1 to 100000, got 0"),
        ("train M --validation -1", "--validation: must be a whole number from 1 to 100000, got -1"),
        ("train M --piece-mb -1", "--piece-mb: must be a number from 0.05 on, got -1"),
        ("train M --piece-mb inf", "--piece-mb: must be a number from 0.05 on, got inf"),
        ("train M --learning-rate nan", "--learning-rate: must be a number from 1e-12 on, got nan"),
        ("train M --alpha -1", "--alpha: must be a number from 0 on, got -1"),
        ("train M --dropout 1", "--dropout: must be a number from 0 to 0.99, got 1"),
        ("train M --augmentation -1", "--augmentation: must be a number from 0 on, got -1"),
        ("train M --clip-hu nan 1", "--clip-hu: must be a number from -32768 to 32767, got nan"),
        (
            "train M --seed 4294967296",
            "--seed: must be a whole number from 0 to 2147483647, got 4294967296",
        ),
        ("train M --minutes nan", "--minutes: must be a number from 0 on, got nan"),
    ],
)
def test_options_out_of_range_are_one_sentence(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_docs_tell_the_seeds_that_are_set_apart():
    text = (ROOT / "docs/phantoms.md").read_text(encoding="utf-8")
    for seeds in SEEDS.values():
        assert f"| {seeds[0]:,} to {seeds[-1]:,} |" in text


def test_wrong_usage_is_status_two(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sampels"])
    assert stop.value.code == 2
    assert "samples" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hipqct {__version__}\n"


def test_ctrl_c_ends_without_a_traceback(monkeypatch, tmp_path, capsys):
    def stop(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("hipqct.io.scans.find_scans", stop)
    assert run(capsys, "samples", tmp_path) == (130, "", "hipqct: stopped\n")


def test_huge_trees_tell_how_far_they_are(scans, monkeypatch, caplog, capsys):
    monkeypatch.setattr(scan_tree, "FILES_PER_MESSAGE", 10)
    monkeypatch.setattr(scan_tree, "IMAGES_PER_MESSAGE", 1)
    run(capsys, "samples", scans)
    assert "30 files read, 1 series found so far" in caplog.messages
    assert "1 of 2 image files read" in caplog.messages


def test_the_summary_names_the_mean_dice_and_the_files(tmp_path, capsys):
    study = Results(tmp_path, cohort(3))
    aggregate_cohort(study.sheet, study.results, study.cohort)
    status, out, _ = run(capsys, "summary", "--results", study.results)
    assert status == 0
    assert "3 hips done, 0 hips failed, 0 hips excluded" in out
    assert "mean Dice of 3 hips: 0.98" in out
    assert f"{study.cohort}/report.html" in out
    assert "failed:" not in out and "seen in training" not in out


def test_the_summary_tells_what_makes_the_mean_too_good(tmp_path, capsys):
    hips = [Hip("A", flags=["seen_in_training"]), Hip("B"), Hip("C"), Hip("D")]
    study = Results(tmp_path, hips)
    study.fail("evaluate_mask", "C.left", "The reference is empty.")
    study.fail("draw_qc", "D.left", "No room.")
    aggregate_cohort(study.sheet, study.results, study.cohort, states={})
    _, out, _ = run(capsys, "summary", "--results", study.results)
    assert "of 2 hips that are done a later step failed: see" in out
    assert "mean Dice of 3 hips" in out
    assert "1 hips with a reference have no score" in out
    assert "1 of them were seen in training: the mean is too good" in out


def test_every_option_has_help_and_shows_its_default():
    parsers, options = [cli.build_parser()], []
    while parsers:
        for action in parsers.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
            else:
                options.append(action)
    assert [action.dest for action in options if not action.help] == []
    train = cli.build_parser()._subparsers._group_actions[0].choices["train"].format_help()
    for shown in ("(default: 2)", "(default: tensorflow)", "(default: 0)", "(default: the preset's)"):
        assert shown in " ".join(train.split())
    assert "default: None" not in train and "default: False" not in train
