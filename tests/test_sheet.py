from pathlib import Path

import pytest

from hipqct.errors import SheetError
from hipqct.sheet import demo_files, first_rows, read_sheet, sheet_hash


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "left.nii.gz").touch()
    return tmp_path


def write(folder, *lines, header="subject\tscan\tsex\tage\tside\tslope\tintercept"):
    path = folder / "samples.tsv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def faults(path):
    with pytest.raises(SheetError) as caught:
        read_sheet(path)
    return str(caught.value)


def test_row_comes_with_types(folder):
    path = write(folder, "007\tscan\tF\t67\tboth\t0.8\t-2")
    (subject,) = read_sheet(path)
    assert subject.subject == "007"
    assert subject.scan.samefile(folder / "scan")
    assert (subject.sex, subject.age, subject.sides) == ("F", 67.0, ("left", "right"))
    assert (subject.slope, subject.intercept) == (0.8, -2.0)


def test_empty_cells_take_defaults(folder):
    (subject,) = read_sheet(write(folder, "A\tscan"))
    assert (subject.sex, subject.age, subject.slope, subject.sides) == (None, None, None, ("left",))


def test_spreadsheet_habits_are_forgiven(folder):
    path = folder / "samples.tsv"
    path.write_bytes("\ufeffsubject\tscan\t\t\r\n\r\n# a note\r\n A \t scan \t\t\r\n".encode())
    assert [s.subject for s in read_sheet(path)] == ["A"]


def test_all_faults_come_at_once_with_line_column_and_fix(folder):
    text = faults(
        write(
            folder,
            "A\tscan\tX",
            "",
            "A\tmissing\tF\tyoung\tboth\t0.8",
            "b c\tscan\tF\t200\tupper\t0.0008\t0",
        )
    )
    assert "line 2, sex: 'X': use F or M" in text
    assert "line 4, scan: 'missing': there is no such file or folder" in text
    assert "line 4, age: 'young': give a number in years" in text
    assert "line 4, slope: slope and intercept go together" in text
    assert "line 4, subject: 'A' stands in line 2 too" in text
    assert "line 5, subject: 'b c': use letters, digits, _ and - only" in text
    assert "line 5, side: 'upper': use left, right or both" in text
    assert "line 5, slope: 0.0008: must be between 0.05 and 15 mg/cm3 per HU" in text
    assert "line 5, age: 200: must be between 0 and 120 years" in text


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("subject\tscan\tgender", "unknown column 'gender'"),
        ("subject\tscan\treference_letf", "did you mean 'reference_left'?"),
        ("subject\tsex", "column 'scan' is missing"),
        ("subject\tscan\tscan", "column 'scan' stands twice"),
        ("subject,scan", "separated by tabs"),
    ],
)
def test_bad_header(folder, header, expected):
    assert expected in faults(write(folder, "A\tscan", header=header))


def test_a_path_that_cannot_be_looked_at_is_a_fault_of_its_cell(folder, monkeypatch):
    text = faults(write(folder, "A\t~nobody-of-this-name/scan", "B\tscans/{G}/ref.nii.gz"))
    assert "line 2, scan: '~nobody-of-this-name/scan': there is no such user; write the path out" in text
    assert "line 3, scan: 'scans/{G}/ref.nii.gz': Snakemake reads {G} as a wildcard; rename it" in text

    def exists(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", exists)
    assert "line 2, scan: 'scan': cannot be read (Permission denied); correct" in faults(
        write(folder, "A\tscan")
    )


def test_a_name_that_means_nothing_is_no_group(folder):
    header = "subject\tscan\tgroup"
    assert "line 2, group: 'NA': give a name, or leave it empty" in faults(
        write(folder, "A\tscan\tNA", header=header)
    )
    assert read_sheet(write(folder, "A\tscan\tN1", header=header))[0].group == "N1"


def test_a_row_that_looks_like_a_comment_is_not_dropped(folder):
    path = write(folder, "#7\tA\tscan", "8\tB\tscan", header="group\tsubject\tscan")
    assert "line 2: a line that starts with # is a comment, and this one has cells" in faults(path)
    path = write(folder, "# two groups", "8\tB\tscan", header="group\tsubject\tscan")
    assert [subject.subject for subject in read_sheet(path)] == ["B"]
    path = write(folder, "#A\tscan", "B\tscan")
    assert [subject.subject for subject in read_sheet(path)] == ["B"]


def test_sheet_without_rows_or_file(folder):
    assert "no subjects stand below the header" in faults(write(folder))
    assert "no such sample sheet" in faults(folder / "nowhere.tsv")
    assert "cannot be read as a sample sheet: is a directory" in faults(folder)
    (folder / "unicode.tsv").write_bytes("subject\tscan".encode("utf-16"))
    assert "save it as tab-separated text in UTF-8" in faults(folder / "unicode.tsv")


def test_paths_keep_their_names_when_what_holds_them_moves(folder, monkeypatch):
    """Snakemake compares the names of a job's inputs with those of its last run."""
    (folder / "study/config").mkdir(parents=True)
    (folder / "study/data/A").mkdir(parents=True)
    (folder / "share").symlink_to(folder / "study/data")
    lines = ("B\t../data/A", f"C\t{folder}/share/A")
    write(folder / "study/config", *lines, header="subject\tscan")
    monkeypatch.chdir(folder / "study")
    for sheet in ("config/samples.tsv", folder / "study/config/samples.tsv"):
        assert [s.scan for s in read_sheet(sheet)] == [Path("data/A"), folder / "share/A"]
    (folder / "study").rename(folder / "moved")
    monkeypatch.chdir(folder / "moved")
    (folder / "share").unlink()
    (folder / "share").symlink_to(folder / "moved/data")
    assert [s.scan for s in read_sheet("config/samples.tsv")] == [Path("data/A"), folder / "share/A"]


def test_the_folder_above_a_linked_sheet_is_that_of_the_links_target(folder, monkeypatch):
    (folder / "far/config").mkdir(parents=True)
    (folder / "far/data").mkdir()
    write(folder / "far/config", "A\t../data", header="subject\tscan")
    (folder / "near").mkdir()
    (folder / "near/config").symlink_to(folder / "far/config")
    monkeypatch.chdir(folder / "near")
    assert read_sheet("config/samples.tsv")[0].scan.samefile(folder / "far/data")


def test_scan_may_be_missing_only_where_the_workflow_makes_it_or_it_is_excluded(folder, monkeypatch):
    path = write(folder, "A\tphantoms/A/dicom")
    assert "no such file or folder" in faults(path)
    assert read_sheet(path, made_here=(folder / "phantoms",))[0].subject == "A"
    demo = demo_files(folder / "phantoms")
    for cell in ("phantoms/A/dicom", "phantoms/S001/dicm"):
        with pytest.raises(SheetError, match=f"{cell}': there is no such file or folder"):
            read_sheet(write(folder, f"A\t{cell}"), demo)
    assert read_sheet(write(folder, "A\tphantoms/S001/dicom"), demo)[0].subject == "A"
    monkeypatch.setattr("hipqct.sheet.DEMO", folder / "no project")
    assert demo_files(folder / "phantoms") == []
    excluded = write(folder, "A\tgone\tmotion", header="subject\tscan\texclude")
    assert read_sheet(excluded)[0].exclude == "motion"


@pytest.mark.parametrize("cell", ["0", "1", "0.0", "no", "NA", "#N/A", "FALSE", "-"])
def test_what_is_no_reason_excludes_nobody(folder, cell):
    path = write(folder, f"A\tscan\t{cell}", header="subject\tscan\texclude")
    assert "exclude: " in faults(path) and "give a reason in words" in faults(path)


def test_an_open_quotation_mark_swallows_nothing(folder):
    path = write(folder, 'A\tscan\t"x\t0.8\t0', header="subject\tscan\tgroup\tslope\tintercept")
    assert 'line 2: a quotation mark (") is not closed' in faults(path)
    path = write(folder, 'A\tscan\t"x, y"', header="subject\tscan\tgroup")
    assert read_sheet(path)[0].group == "x, y"


def test_names_that_differ_by_capitals_alone_share_a_folder_on_some_disks(folder):
    assert "'a' stands in line 2 too" in faults(write(folder, "A\tscan", "a\tscan"))


def test_a_subject_may_have_a_calibration_of_its_own_basis(folder):
    header = "subject\tscan\tslope\tintercept\tbasis"
    (subject,) = read_sheet(write(folder, "A\tscan\t0.8\t0\tHA", header=header))
    assert subject.basis == "HA"
    assert "basis: 'CaHA': use K2HPO4 or HA" in faults(write(folder, "A\tscan\t0.8\t0\tCaHA", header=header))


def test_centres_and_references(folder):
    header = "subject\tscan\treference_left\tcenter_left\tcenter_right"
    (subject,) = read_sheet(write(folder, "A\tscan\tleft.nii.gz\t92.5,-10,640", header=header))
    assert subject.center_mm == {"left": (92.5, -10.0, 640.0)}
    assert subject.reference["left"].samefile(folder / "left.nii.gz")
    assert "give x,y,z in LPS millimetres" in faults(write(folder, "A\tscan\t\t92.5", header=header))
    assert "give x,y,z in LPS millimetres" in faults(write(folder, "A\tscan\t\tnan,0,0", header=header))


@pytest.mark.parametrize("series_uid", ["1.2.840.113619.2.55", "eb3af9b5943f"])
def test_a_series_is_named_by_its_uid_or_by_its_hash_in_scan_json(folder, series_uid):
    header = "subject\tscan\tseries_uid"
    assert read_sheet(write(folder, f"A\tscan\t{series_uid}", header=header))[0].series_uid == series_uid
    assert "give a DICOM UID" in faults(write(folder, "A\tscan\tseries 3", header=header))


def test_rows_with_one_scan_are_one_patient_by_the_first(folder):
    (folder / "other").mkdir()
    subjects = read_sheet(write(folder, "B\tscan", "A\tother", "C\tscan"))
    assert first_rows(subjects) == ["B", "A", "B"]


def test_the_hash_of_a_sheet_tells_its_cells_not_its_times(folder):
    def hash_of(*lines):
        return sheet_hash(read_sheet(write(folder, *lines)), ("sex", "age"))

    before = hash_of("A\tscan\tF\t67\tleft\t0.8\t0")
    assert hash_of("A\tscan\tF\t67\tleft\t0.9\t0") == before  # another column
    assert hash_of("A\tscan\tF\t68\tleft\t0.8\t0") != before
    assert hash_of("A\tscan\tF\t67\tboth\t0.8\t0") != before


def test_a_row_whose_first_cell_is_empty_is_no_comment(folder):
    path = write(folder, "\t#2\tB\tscan", header="age\tgroup\tsubject\tscan")
    (subject,) = read_sheet(path)
    assert (subject.subject, subject.group) == ("B", "#2")
    path = write(folder, " #2\tB\tscan", header="group\tsubject\tscan")
    assert "line 2: a line that starts with # is a comment, and this one has cells" in faults(path)
    assert "line 2, subject: ''" in faults(write(folder, "\t#scan"))


def test_a_line_ends_where_editors_end_it(folder):
    (folder / "sc\x85an").mkdir()
    (subject,) = read_sheet(write(folder, "A\tsc\x85an"))
    assert subject.scan.samefile(folder / "sc\x85an")


def test_an_underscore_is_no_part_of_a_number(folder):
    text = faults(write(folder, "A\tscan\tF\t6_5\tleft\t0_8\t1_0"))
    assert all(
        f"line 2, {column}: '{cell}': give" in text for column, cell in (("age", "6_5"), ("slope", "0_8"))
    )
    assert "give x,y,z" in faults(write(folder, "A\tscan\t1,2,6_4", header="subject\tscan\tcenter_left"))
