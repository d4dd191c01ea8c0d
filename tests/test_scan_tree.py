"""Scans in a tree of folders are found as the import would choose them, and what was chosen is told."""

import os
import shutil

import pytest
from dicom_factory import grid, write_series
from pydicom.uid import generate_uid

from hipqct import cli
from hipqct.io.scans import check_scan, find_scans, read_scan
from hipqct.sheet import read_sheet

FEWER = grid(shape=(24, 20, 15))


def names(letter: str, count: int = 18) -> list[str]:
    return [f"{letter}{k:02d}.dcm" for k in range(count)]


def test_the_lower_series_number_is_chosen_as_a_number_and_the_tie_is_told(tmp_path):
    study = generate_uid()
    write_series(tmp_path / "P1/bone", SeriesNumber=10, StudyInstanceUID=study, ConvolutionKernel="B70f")
    write_series(tmp_path / "P1/soft", SeriesNumber=2, StudyInstanceUID=study, ConvolutionKernel="B30s")
    (row,) = find_scans(tmp_path)
    assert read_scan(row["scan"], row["series_uid"])[1]["series_number"] == 2
    assert read_scan(tmp_path / "P1")[1]["series_number"] == 2
    took, left = row["note"].split("2 series fit equally well: took ")[1].split("; left ")
    assert "kernel B30s" in took and "kernel B70f" in left


def test_a_series_in_two_folders_is_ranked_as_a_whole(tmp_path):
    study = generate_uid()
    paths = write_series(tmp_path / "P1/disk1", SeriesNumber=2, StudyInstanceUID=study, names=names("a"))
    write_series(tmp_path / "P1/disk2", FEWER, SeriesNumber=1, StudyInstanceUID=study, names=names("b", 15))
    for path in paths[9:]:
        path.rename(tmp_path / "P1/disk2" / path.name)
    (row,) = find_scans(tmp_path)
    ct, facts = read_scan(row["scan"], row["series_uid"])
    assert (facts["series_number"], ct.shape[2], row["subject"]) == (2, 18, "P1")
    assert "equally well" not in row["note"]


def test_a_copy_of_a_scan_is_told_and_takes_no_place(tmp_path):
    write_series(tmp_path / "A")
    shutil.copytree(tmp_path / "A", tmp_path / "A_backup")
    (tmp_path / "A_backup/IM0017.dcm").unlink()
    write_series(tmp_path / "B", PatientID="another")
    rows = find_scans(tmp_path)
    assert [row["subject"] for row in rows] == ["A", "B"]
    assert rows[0]["note"] == "the same images lie in A_backup too: keep one copy"
    assert check_scan(rows[0]["scan"], rows[0]["series_uid"]) == []


def test_links_are_followed_once(tmp_path, caplog):
    tree, store = tmp_path / "tree", tmp_path / "store"
    write_series(store / "P2", PatientID="2")
    write_series(tree / "P1", PatientID="1")
    (tree / "P2").symlink_to(store / "P2")
    (tree / "P0-is-P1").symlink_to(tree / "P1")
    (tree / "P1/up").symlink_to(tree)
    (tree / "P3").symlink_to(store / "P3")
    rows = find_scans(tree)
    assert [(row["subject"], row["note"]) for row in rows] == [("P1", None), ("P2", None)]
    assert "P3 is a broken symbolic link" in caplog.text


def test_names_that_a_sheet_cannot_hold_are_left_out_and_told(tmp_path, capsys):
    write_series(tmp_path / "scans/good", PatientID="0")
    odd = (b"latin-\xfc", b"two\nlines", b"end ", "nel\x85".encode())
    for k, name in enumerate(odd, start=1):
        write_series(tmp_path / "scans" / os.fsdecode(name), PatientID=f"odd{k}")
    write_series(tmp_path / "scans" / "mid\x85dle", PatientID="6")
    sheet = tmp_path / "scans/samples.tsv"
    assert cli.main(["samples", str(tmp_path / "scans"), "-o", str(sheet)]) == 0
    told = capsys.readouterr()
    assert "2 scans are in" in told.out
    assert told.err.count("left out: ") == len(odd)
    assert r"left out: 'latin-\udcfc' is no name that a sheet can hold; rename it" in told.err
    assert {subject.subject for subject in read_sheet(sheet)} == {"good", "mid-dle"}
    assert sheet.read_text().count("# left out: ") == len(odd)


def test_ages_of_a_written_sheet_are_fit_for_it(tmp_path, capsys):
    write_series(tmp_path / "old", PatientID="1", PatientBirthDate="19000101", StudyDate="20230101")
    write_series(tmp_path / "unborn", PatientID="2", PatientBirthDate="20240101", StudyDate="20230101")
    cli.main(["samples", str(tmp_path), "-o", str(tmp_path / "samples.tsv")])
    assert [subject.age for subject in read_sheet(tmp_path / "samples.tsv")] == [None, None]


def test_a_folder_named_like_a_home_is_found_again(tmp_path):
    write_series(tmp_path / "~nobody-here")
    cli.main(["samples", str(tmp_path), "-o", str(tmp_path / "samples.tsv")])
    (subject,) = read_sheet(tmp_path / "samples.tsv")
    assert subject.scan.samefile(tmp_path / "~nobody-here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path, caplog):
    write_series(tmp_path / "good")
    (tmp_path / "bad").mkdir(mode=0)
    assert len(find_scans(tmp_path)) == 1
    assert "bad cannot be read" in caplog.text
