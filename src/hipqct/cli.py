"""Sample sheets, checks before a long run, synthetic phantoms, training on them, and what a run has given."""

import argparse
import io
import logging
import math
import sys
from pathlib import Path

from hipqct import __version__
from hipqct.errors import HipqctError
from hipqct.options import (
    ShowDefaults,
    add_cohort_options,
    add_phantom_options,
    add_training_options,
)
from hipqct.phantom.seeds import SEEDS

INTERRUPTED = 130  # what shells expect of a program that was stopped by Ctrl-C
SAMPLES_HELP = "sheet to write; an existing one is not overwritten (default: standard output)"
TRAIN_HELP = "Train a model on synthetic phantoms made on the spot; no internet connection is needed."
SHEET_COLUMNS = ("subject", "scan", "series_uid", "sex", "age", "side", "exclude", "slope", "intercept")


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status (1 after an error, told in one sentence)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hipqct").setLevel(logging.INFO)  # progress, to standard error
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be no text
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (HipqctError, OSError) as error:
        print(f"hipqct: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hipqct: stopped", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    parser = argparse.ArgumentParser(prog="hipqct", description=__doc__)
    parser.add_argument("--version", action="version", version=f"hipqct {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, text):
        command = commands.add_parser(name, help=text, description=text, formatter_class=ShowDefaults)
        command.set_defaults(run=run)
        return command

    samples = add("samples", write_samples, "Write a sample sheet for a folder of scans.")
    samples.add_argument("folder", type=Path, metavar="DIR", help="tree of DICOM, NIfTI, NRRD or MetaImage")
    samples.add_argument("-o", "--output", type=Path, help=SAMPLES_HELP)

    check = add("check", check_scans, "Read every scan's header and say what is wrong, per subject.")
    check.add_argument("--samples", type=Path, default=Path("config/samples.tsv"), help="the sample sheet")

    text = "Make synthetic hip phantoms: scans, femur masks and truth."
    phantoms = commands.add_parser("phantom", help=text, description=text)
    add_phantom_commands(phantoms.add_subparsers(required=True, metavar="one|cohort"))

    add_training_options(add("train", train_on_phantoms, TRAIN_HELP))

    summary = add("summary", print_summary, "Say where the results are and how well the masks fit.")
    text = "folder that the workflow wrote"
    summary.add_argument("--results", type=Path, default=Path("results"), help=text)
    return parser


def add_phantom_commands(commands) -> None:
    """`hipqct phantom one` and `hipqct phantom cohort`."""
    for name, run, add_options, text in (
        ("one", write_phantom, add_phantom_options, "Write one phantom."),
        ("cohort", write_cohort, add_cohort_options, "Write a cohort with the paper's femur volumes."),
    ):
        command = commands.add_parser(name, help=text, description=run.__doc__, formatter_class=ShowDefaults)
        command.set_defaults(run=run)
        add_options(command)


def train_on_phantoms(options) -> None:
    """`hipqct train`: without ``--steps`` as many as fit into ``--minutes``, or the recipe's number."""
    import os

    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    from hipqct.augment import Ranges
    from hipqct.steps import phantom_training

    recipe = ("batch", "steps", "steps_per_epoch", "learning_rate", "final_learning_rate", "alpha", "seed")
    choices = {name: getattr(options, name) for name in (*recipe, "precision")}
    choices |= {"patch": tuple(options.patch), "clip_hu": tuple(options.clip_hu)}
    choices["ranges"] = Ranges().times(options.augmentation)
    if options.steps is None and math.isinf(options.minutes):
        del choices["steps"]
    same = ("phantoms", "validation", "preset", "backend", "dropout", "fold_norm", "minutes", "processes")
    wanted = phantom_training.PhantomTraining(
        **{name: getattr(options, name) for name in (*same, "threads", "piece_mb")},
        choices=choices,
        first_model_dir=options.first_model,
        kernel_dtype="float16" if options.float16 else "float32",
    )
    phantom_training.train_on_phantoms(options.folder, wanted, _report_phantoms)
    print(f"the model is in {options.folder}: plan.json, weights.h5, history.tsv, curves.png")


def _report_phantoms(done: int, total: int) -> None:
    bar = "#" * (30 * done // total)
    print(f"\r[{bar:<30}] {done} of {total} phantoms", end="", file=sys.stderr, flush=True)


def write_samples(options) -> None:
    """`hipqct samples DIR`: paths are written relative to the sheet, or absolute on standard output.

    What is to be known of a row goes to standard error, and below the rows as a comment, which stays.
    """
    import csv

    from hipqct.errors import ScanError, SheetError
    from hipqct.io.files import replace_when_done
    from hipqct.io.scans import find_scans

    if options.output and options.output.exists():
        raise SheetError(f"{options.output} is there already; move it away, or give another name")
    found = find_scans(options.folder)
    if not found:
        raise ScanError(f"there is no CT scan below {options.folder}; give the folder that holds the scans")
    text = io.StringIO()
    rows = csv.DictWriter(text, SHEET_COLUMNS, delimiter="\t", lineterminator="\n", extrasaction="ignore")
    rows.writeheader()
    notes, written = [], 0
    for scan in found:
        path = _path_for(scan["scan"], options.output)
        if _is_fit_for_sheet(path):
            rows.writerow(scan | {"scan": path, "side": "left"})
            written += 1
            notes += [f"{scan['subject']}: {scan['note']}"] if scan["note"] else []
        else:
            notes.append(f"left out: {path!a} is no name that a sheet can hold; rename it, and run again")
    for note in notes:
        line = " ".join(note.split()).encode("utf-8", "backslashreplace").decode()
        print(line, file=sys.stderr)
        text.write(f"# {line}\n")
    if not options.output:
        print(text.getvalue(), end="")
        return
    with replace_when_done(options.output) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    print(f"{written} scans are in {options.output}; run `hipqct check --samples {options.output}` next")


def _path_for(scan: str, sheet: Path | None) -> str:
    """A scan's path as the sheet should name it."""
    import os

    path = Path(scan).resolve()
    if not sheet:
        return str(path)
    relative = os.path.relpath(path, sheet.resolve().parent)
    return f"./{relative}" if relative.startswith("~") else relative


def _is_fit_for_sheet(path: str) -> bool:
    """Whether a cell of the sheet, which is trimmed UTF-8 on one line, can hold a path."""
    is_text = path.encode("utf-8", "replace").decode() == path
    return is_text and path == path.strip() and not set(path) & set("\n\r\0")


def check_scans(options) -> int:
    """`hipqct check`: one line per subject and finding; exit status 1 when a scan will be refused."""
    from hipqct.sheet import demo_files, read_sheet
    from hipqct.steps.check import check_subjects

    subjects = read_sheet(options.samples, made_here=demo_files("results/phantoms"))
    refused = 0
    for subject, findings in check_subjects(subjects):
        refused += any(severity == "error" for severity, _ in findings)
        for severity, text in findings:
            print(subject.subject, severity, text, sep="\t", flush=True)
    print(f"{len(subjects)} subjects checked, {refused} will be refused", file=sys.stderr)
    return int(refused > 0)


def write_phantom(options) -> None:
    """Write one phantom: its scan, the masks of both femurs and the truth."""
    from hipqct.steps.phantom import make_one

    for part in ("training", "validation"):
        seeds = SEEDS[part]
        if options.seed in seeds:
            seen = f"the shipped models were made with phantoms of seeds {seeds[0]} to {seeds[-1]} ({part})"
            print(f"{seen}, with this one or its kin: it is no test of them", file=sys.stderr)
    parameters = {"seed": options.seed, "sex": options.sex, "age": options.age, "slice_mm": options.slice_mm}
    make_one(parameters, options.folder, options.dicom)
    print(f"the synthetic phantom is in {options.folder}")


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

    make_cohort(options.folder, rows, options.format, options.processes, _report_phantoms)
    print(f"\nthe cohort is in {options.folder}; its sample sheet is {options.folder / 'samples.tsv'}")


def print_summary(options) -> None:
    """`hipqct summary`: the mean Dice and where tables, pictures and report are."""
    from hipqct.cohort import TEXT_COLUMNS, is_synthetic
    from hipqct.errors import SheetError
    from hipqct.folds import SEEN_IN_TRAINING
    from hipqct.io.tables import read_table
    from hipqct.report import count_hips

    cohort = options.results / "cohort"
    if not (cohort / "subjects.tsv").exists():
        raise SheetError(f"there are no tables in {cohort}; run snakemake first")
    subjects = read_table(cohort / "subjects.tsv", TEXT_COLUMNS)
    agreement = read_table(cohort / "segmentation.tsv").set_index("cohort").loc["all"]
    counts = count_hips(subjects, read_table(cohort / "failures.tsv", TEXT_COLUMNS))
    print(", ".join(f"{counts[status]} hips {status}" for status in ("done", "failed", "excluded")))
    if counts["later"]:
        print(f"of {counts['later']} hips that are done a later step failed: see {cohort}/failures.tsv")
    if agreement["n"]:
        kind = " synthetic" if is_synthetic(subjects) else ""
        print(f"mean Dice of {agreement['n']:.0f}{kind} hips: {agreement['dice_mean']:.4f}")
    if agreement[SEEN_IN_TRAINING]:
        print(f"{agreement[SEEN_IN_TRAINING]:.0f} of them were seen in training: the mean is too good")
    if agreement["failed"]:
        print(f"{agreement['failed']:.0f} hips with a reference have no score: they or their scoring failed")
    print(f"tables    {cohort}/*.tsv\nfigures   {cohort}/figures/*.svg\nreport    {cohort}/report.html")
    print(f"pictures  {options.results}/subjects/*/*/qc.png\nmeshes    {options.results}/subjects/*/*/mesh/")
