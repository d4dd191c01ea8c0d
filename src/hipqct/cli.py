"""The command `hipqct`: sample sheets, checks before a long run, phantoms, and what a run has given."""

import argparse
import logging
import sys
from pathlib import Path

from hipqct import __version__
from hipqct.errors import HipqctError


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (1 after an error, told in one sentence)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except HipqctError as error:
        print(f"hipqct: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    parser = argparse.ArgumentParser(prog="hipqct", description=__doc__)
    parser.add_argument("--version", action="version", version=f"hipqct {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, text):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    samples = add("samples", write_samples, "Write a sample sheet for a folder of scans.")
    samples.add_argument("folder", type=Path, metavar="DIR", help="tree of DICOM, NIfTI, NRRD or MetaImage")
    samples.add_argument("-o", "--output", type=Path, help="sheet to write (default: standard output)")

    check = add("check", check_scans, "Read every scan's header and say what is wrong, per subject.")
    check.add_argument("--samples", type=Path, default=Path("config/samples.tsv"), help="the sample sheet")

    phantom = add("phantom", write_phantom, "Write one synthetic hip phantom: scan, femur masks and truth.")
    phantom.add_argument("folder", type=Path, metavar="DIR")
    phantom.add_argument("--seed", type=int, required=True)
    phantom.add_argument("--sex", choices=("F", "M"))
    phantom.add_argument("--age", type=int)
    phantom.add_argument("--dicom", action="store_true", help="also write the scan as a DICOM series")

    summary = add("summary", print_summary, "Say where the results are and how well the masks fit.")
    summary.add_argument("--results", type=Path, default=Path("results"))
    return parser


def write_samples(options) -> None:
    """`hipqct samples DIR`: paths are written relative to the sheet, or absolute on standard output."""
    import os

    from hipqct.io.files import replace_when_done
    from hipqct.io.scans import find_scans

    columns = ("subject", "scan", "series_uid", "sex", "age", "side", "exclude")
    lines = ["\t".join(columns)]
    rows = find_scans(options.folder)
    for found in rows:
        scan = Path(found["scan"]).resolve()
        if options.output:
            scan = Path(os.path.relpath(scan, options.output.resolve().parent))
        cells = {**found, "scan": scan, "side": "left"}
        lines.append("\t".join("" if cells.get(c) is None else str(cells[c]) for c in columns))
        if found.get("note"):
            print(f"{found['subject']}: {found['note']}", file=sys.stderr)
    text = "\n".join(lines) + "\n"
    if not options.output:
        print(text, end="")
        return
    with replace_when_done(options.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{len(rows)} scans are in {options.output}; run `hipqct check --samples {options.output}` next")


def check_scans(options) -> int:
    """`hipqct check`: one line per subject and finding; exit status 1 when a scan will be refused."""
    from hipqct.io.scans import check_scan
    from hipqct.sheet import read_sheet

    phantoms = Path("results/phantoms")
    subjects = read_sheet(options.samples, made_here=[phantoms])
    refused = 0
    for subject in subjects:
        if subject.exclude:
            print(f"{subject.subject}\texcluded\t{subject.exclude}")
            continue
        if not subject.scan.exists():
            print(f"{subject.subject}\tphantom\tthe workflow will make this synthetic scan")
            continue
        findings = check_scan(subject.scan, subject.series_uid)
        refused += any(finding.severity == "error" for finding in findings)
        for finding in findings:
            print(f"{subject.subject}\t{finding.severity}\t{finding.text}")
        if not findings:
            print(f"{subject.subject}\tok\t")
    print(f"{len(subjects)} subjects checked, {refused} will be refused", file=sys.stderr)
    return int(refused > 0)


def write_phantom(options) -> None:
    """`hipqct phantom DIR --seed N`."""
    from hipqct.steps.phantom import make_phantom, write_phantom_dicom

    folder = options.folder
    parameters = {"subject": folder.name, "seed": options.seed, "sex": options.sex, "age": options.age}
    names = ("ct.nii.gz", "left_femur.nii.gz", "right_femur.nii.gz", "truth.json")
    make_phantom(parameters, *(folder / name for name in names))
    if options.dicom:
        write_phantom_dicom(folder / "ct.nii.gz", folder / "truth.json", folder / "dicom")
    print(f"the synthetic phantom is in {folder}")


def print_summary(options) -> None:
    """`hipqct summary`: the mean Dice and where tables, pictures and report are."""
    import pandas as pd

    from hipqct.cohort import is_synthetic
    from hipqct.errors import SheetError

    cohort = options.results / "cohort"
    if not (cohort / "subjects.tsv").exists():
        raise SheetError(f"there are no tables in {cohort}; run snakemake first")
    subjects = pd.read_csv(cohort / "subjects.tsv", sep="\t", dtype={"subject": str})
    agreement = pd.read_csv(cohort / "segmentation.tsv", sep="\t").set_index("cohort").loc["all"]
    counts = subjects["status"].value_counts()
    print(", ".join(f"{counts.get(status, 0)} hips {status}" for status in ("done", "failed", "excluded")))
    if agreement["n"]:
        kind = " synthetic" if is_synthetic(subjects) else ""
        print(f"mean Dice of {agreement['n']:.0f}{kind} hips: {agreement['dice_mean']:.4f}")
    print(f"tables    {cohort}/*.tsv\nfigures   {cohort}/figures/*.svg\nreport    {cohort}/report.html")
    print(f"pictures  {options.results}/subjects/*/*/qc.png\nmeshes    {options.results}/subjects/*/*/mesh/")
