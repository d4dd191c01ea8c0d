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

    text = "Make synthetic hip phantoms: scans, femur masks and truth."
    phantoms = commands.add_parser("phantom", help=text, description=text)
    add_phantom_commands(phantoms.add_subparsers(required=True, metavar="one|cohort"))

    summary = add("summary", print_summary, "Say where the results are and how well the masks fit.")
    summary.add_argument("--results", type=Path, default=Path("results"))
    return parser


def add_phantom_commands(commands) -> None:
    """`hipqct phantom one` and `hipqct phantom cohort`."""
    one = commands.add_parser("one", help="Write one phantom.", description=write_phantom.__doc__)
    one.set_defaults(run=write_phantom)
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--sex", choices=("F", "M"))
    one.add_argument("--age", type=int)
    one.add_argument("--dicom", action="store_true", help="also write the scan as a DICOM series")

    cohort = commands.add_parser(
        "cohort", help="Write a cohort with the paper's femur volumes.", description=write_cohort.__doc__
    )
    cohort.set_defaults(run=write_cohort)
    cohort.add_argument("folder", type=Path, metavar="DIR", help="the same command goes on where it stopped")
    cohort.add_argument("--women", type=int, default=216)
    cohort.add_argument("--men", type=int, default=181)
    cohort.add_argument("--seed", type=int, default=1)
    cohort.add_argument("--format", choices=("dicom", "nifti"), default="dicom")
    cohort.add_argument("--processes", type=int, default=1, help="phantoms at a time, up to 1.2 GB each")
    cohort.add_argument("--table-only", action="store_true", help="draw it and compare it, make no scans")


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
    """Write one phantom: its scan, the masks of both femurs and the truth."""
    from hipqct.steps.phantom import make_phantom, write_phantom_dicom

    folder = options.folder
    parameters = {"subject": folder.name, "seed": options.seed, "sex": options.sex, "age": options.age}
    names = ("ct.nii.gz", "left_femur.nii.gz", "right_femur.nii.gz", "truth.json")
    make_phantom(parameters, *(folder / name for name in names))
    if options.dicom:
        write_phantom_dicom(folder / "ct.nii.gz", folder / "truth.json", folder / "dicom")
    print(f"the synthetic phantom is in {folder}")


def write_cohort(options) -> None:
    """Write a cohort whose femur volumes are distributed as in the paper, and its sample sheet."""
    from hipqct.phantom.cohort import summarise_rows
    from hipqct.steps.phantom import make_cohort, plan_cohort

    rows = plan_cohort(options.folder, options.women, options.men, options.seed, options.processes)
    print("sex\tn\tages\tslices of 3 mm\tleft femur, mm3\tpaper's Table 1, mm3")
    for row in summarise_rows(rows):
        ours, paper = (f"{row[p + 'mean_mm3']:,.0f} +- {row[p + 'sd_mm3']:,.0f}" for p in ("", "paper_"))
        print(row["sex"], row["n"], row["ages"], row["slices"], ours, paper, sep="\t")
    if options.table_only:
        return

    def report(done, total):
        bar = "#" * (30 * done // total)
        print(f"\r[{bar:<30}] {done} of {total} phantoms", end="", file=sys.stderr, flush=True)

    make_cohort(options.folder, rows, options.format, options.processes, report)
    print(f"\nthe cohort is in {options.folder}; its sample sheet is {options.folder / 'samples.tsv'}")


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
