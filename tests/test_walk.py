"""What is found below a folder, and whether a scan's files have changed."""

import os
from pathlib import Path

import pytest

from hipqct.io.walk import files_state


@pytest.fixture
def scan(tmp_path) -> Path:
    """A folder of two slices, one folder down."""
    for name in ("series/1.dcm", "series/2.dcm"):
        path = tmp_path / "scan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"slice")
        os.utime(path, (1e9, 1e9))
    return tmp_path / "scan"


def change(path: Path, content: bytes, seconds: float):
    """Overwrite a file in place."""
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))


def test_the_same_files_have_the_same_state_wherever_they_lie(scan, tmp_path):
    before = files_state(scan)
    scan.rename(tmp_path / "moved")
    assert files_state(tmp_path / "moved") == before


@pytest.mark.parametrize(
    ("content", "seconds"),
    [(b"other", 1e9 + 60), (b"longer", 1e9), (b"older", 9e8)],
    ids=["time", "size", "old"],
)
def test_a_slice_overwritten_in_place_changes_the_state(scan, content, seconds):
    before = files_state(scan)
    change(scan / "series/2.dcm", content, seconds)
    assert files_state(scan) != before
    change(scan / "series/2.dcm", b"slice", 1e9)
    assert files_state(scan) == before


def test_a_slice_more_or_less_changes_the_state(scan):
    states = [files_state(scan)]
    change(scan / "series/3.dcm", b"slice", 1e9)
    states.append(files_state(scan))
    for name in ("1.dcm", "3.dcm"):
        (scan / "series" / name).unlink()
    states.append(files_state(scan))
    assert len({*states}) == 3


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("ct.mhd", "ElementDataFile = ct.raw\n"),
        ("ct.nhdr", "NRRD0004\ndata file: ct.raw\n"),
        ("ct.mhd", "ElementDataFile = LIST\nct.raw\n"),
    ],
)
def test_voxels_beside_a_header_count(tmp_path, name, header):
    (tmp_path / name).write_text(header)
    change(tmp_path / "ct.raw", b"voxels", 1e9)
    before = files_state(tmp_path / name)
    change(tmp_path / "ct.raw", b"Voxels", 1e9 + 60)
    assert files_state(tmp_path / name) != before


def test_other_files_beside_an_image_do_not_count(tmp_path):
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(b"voxels")
    before = files_state(image)
    (tmp_path / "notes.txt").write_text("none")
    assert files_state(image) == before


@pytest.mark.parametrize(
    "header", ["ElementDataFile = LIST\nslices/1.raw\n", "ElementDataFile = s/%02d.raw 1 1 1\n"]
)
def test_of_several_files_those_count_that_the_header_names(tmp_path, header):
    (tmp_path / "ct.mhd").write_text(header)
    for name in ("slices/1.raw", "s/01.raw"):
        (tmp_path / name).parent.mkdir()
        change(tmp_path / name, b"voxels", 1e9)
    before = files_state(tmp_path / "ct.mhd")
    (tmp_path / "notes.txt").write_text("none")
    assert files_state(tmp_path / "ct.mhd") == before
    for name in ("slices/1.raw", "s/01.raw"):
        change(tmp_path / name, b"Voxels", 1e9 + 60)
    assert files_state(tmp_path / "ct.mhd") != before


def test_what_file_managers_leave_behind_does_not_count(scan):
    before = files_state(scan)
    for name in (".DS_Store", "Thumbs.db", ".nfs0001"):
        (scan / "series" / name).write_bytes(b"none")
    assert files_state(scan) == before


def test_what_cannot_be_looked_at_is_left_out(scan, tmp_path, monkeypatch):
    """Its own job says what is wrong with it, and the others are done."""
    (tmp_path / "broken.dcm").symlink_to(tmp_path / "gone.dcm")
    (tmp_path / "nul.mhd").write_bytes(b"ElementDataFile = ct\0.raw\n")
    for path in ("gone.mhd", "gone.dcm", "broken.dcm", "nul.mhd"):
        assert len(files_state(tmp_path / path)) == 64
    good = files_state(scan)

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "is_symlink", refuse)
    assert files_state(scan) != good
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert len(files_state(scan)) == 64
