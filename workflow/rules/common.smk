"""What all rules share: the checked configuration and the sample sheet."""

import functools
import os
import shutil
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from hipqct import revisions
from hipqct.errors import ModelError, SheetError
from hipqct.io.laws import LAWS_FOLDER, law_files
from hipqct.io.models import check_crop_settings, plan_hash
from hipqct.io.walk import files_state
from hipqct.settings import check_bases, check_settings
from hipqct.sheet import (
    ANYWHERE,
    demo_files,
    first_rows,
    is_labelled,
    read_sheet,
    sheet_hash,
)
from hipqct.smk import (
    find_models,
    finish_cohort,
    job_states,
    may_use_gpu,
    note_interrupts,
)

PROJECT = Path(workflow.basedir)

try:
    check_settings(config, PROJECT / "workflow/schemas/config.schema.yaml")
    # The demo's scans are made by the rules of demo.smk and need not exist yet. A job on a cluster, which reads
    # the sheet anew, is not kept from its own subject by a scan of another that was moved meanwhile.
    MADE_HERE = [path.resolve() for path in demo_files("results/phantoms")]
    SUBJECTS = {
        subject.subject: subject
        for subject in read_sheet(
            config["samples"], MADE_HERE if workflow.is_main_process else [ANYWHERE]
        )
    }
    check_bases(SUBJECTS.values(), config["mesh"])
    MODELS = find_models(
        config["segment"]["model"],
        PROJECT,
        expand(
            "results/training/{cohort}/fold-{fold}",
            cohort=config["train"]["cohorts"],
            fold=range(config["train"]["folds"]),
        ),
    )
except SheetError as error:
    raise WorkflowError(str(error)) from None

# Jobs that were interrupted are no failures: tables and results stay as they are.
INTERRUPTS = note_interrupts() if workflow.is_main_process else []

# One (subject, side) for every hip to do.
HIPS = [
    (s.subject, side) for s in SUBJECTS.values() if not s.exclude for side in s.sides
]


def row(wildcards):
    """The sample sheet's row of a job's subject."""
    try:
        return SUBJECTS[wildcards.subject]
    except KeyError:
        raise WorkflowError(
            f"{wildcards.subject} is no subject of {config['samples']}; correct the name or add a row"
        ) from None


def from_sheet(column):
    """Look a column of the sheet up for a job's subject."""
    return lambda wildcards: getattr(row(wildcards), column)


@functools.cache
def state_of(path):
    """A hash of a file's or folder's contents' names, sizes and times; none for what the demo's rules make.

    Snakemake looks at the path's own time, which stays when a slice is overwritten in place.
    """
    return None if path.resolve() in MADE_HERE else f"files {files_state(path)}"


def stop(error):
    """End the run. Where an input function fails otherwise, Snakemake goes on with a result that is there."""
    raise SystemExit(f"The run is refused before any job: {error}")


@functools.cache
def check_models():
    """Refuse models that are not there, or cannot take the crops of this configuration, once they are needed.

    They are no inputs of any job: a model of this study's own training would be trained anew before the next
    hip is segmented, whatever changed among the labelled scans.
    """
    crop = [config["crop"][key] for key in ("pixels", "pixel_mm")]
    try:
        for model in find_models(config["segment"]["model"], PROJECT):
            check_crop_settings(model, *crop, config["resample"]["slice_mm"])
    except (ModelError, SheetError) as error:
        stop(error)


def crop_for_models(wildcards):
    """A hip's crop, if the models can take it."""
    check_models()
    return str(rules.crop_hip.output.roi).format(**wildcards)


def divisible_sheet(wildcards):
    """The sheet, if its labelled hips can be divided: else the run ends before its first job."""
    from hipqct.steps.training_set import plan_folds

    try:
        plan_folds(SUBJECTS.values(), DIVISION)
    except SheetError as error:
        stop(f"{config['samples']}: {error}")
    return ancient(config["samples"])  # what counts of it are the params


def calibration_basis(wildcards):
    """What a subject's calibration counts in."""
    return row(wildcards).basis or config["density"]["basis"]


def inference_gpus(wildcards):
    """How many GPUs inference asks for; asked late, since the executor is not known while the rules are read."""
    return int(may_use_gpu(config["segment"]["device"], workflow))


def reference_mask(wildcards):
    """The ground-truth mask of a hip."""
    reference = row(wildcards).reference
    if wildcards.side not in reference:
        raise WorkflowError(
            f"{wildcards.subject} has no reference_{wildcards.side} in {config['samples']}: nothing to evaluate"
        )
    return reference[wildcards.side]


def material_laws():
    """The files of material laws, shipped and the user's: an edited or added one makes the meshes again."""
    folder = config["mesh"].get("laws_folder", LAWS_FOLDER)
    return [os.path.relpath(path) for path in law_files(folder)]


# A scan without calibration has no moduli: there is nothing to solve, unless the configuration gives one.
def has_modulus(subject):
    """Whether a hip's models have materials."""
    return (
        subject.slope is not None
        or config["mesh"]["uncalibrated_modulus_mpa"] is not None
    )


SOLVING = bool(config["solve"]["cases"]) and shutil.which("ccx") is not None
if config["solve"]["cases"] and not SOLVING and workflow.is_main_process:
    logger.warning(
        "CalculiX (ccx) is not installed: finite-element models are written but not solved. "
        "Install it (apt-get install calculix-ccx), or set solve/cases to [] in the configuration."
    )


def every_scan(paths):
    """These files of all subjects that have a hip to do."""
    return expand(paths, subject=sorted({subject for subject, _ in HIPS}))


def every_hip(paths, which=lambda subject, side: True):
    """These files of all hips to do, or of those among them that ``which`` is true of."""
    hips = [hip for hip in HIPS if which(SUBJECTS[hip[0]], hip[1])]
    return [
        path.format(subject=subject, side=side)
        for path in map(str, paths)
        for subject, side in hips
    ]


def has_reference(subject, side):
    """Whether a hip has a reference to be evaluated against."""
    return side in subject.reference


def can_be_solved(subject, side):
    """Whether a hip's models are solved in this run."""
    return SOLVING and has_modulus(subject)


def check_overrides(workflow):
    """Refuse threads and resources that are set for none of the rules; Snakemake would leave them out in silence."""
    settings = workflow.resource_settings
    named = {*settings.overwrite_threads, *settings.overwrite_resources}
    unknown = sorted(named - {rule.name for rule in workflow.rules})
    if unknown:
        raise WorkflowError(
            f"set-threads or set-resources name {', '.join(unknown)}, and no rule is called so; "
            "correct the name in the profile or on the command line"
        )


def report_failures(workflow):
    """After failed jobs, write the cohort's files from the complete hips, if wanted or there already."""
    # Snakemake 9 notes a SIGTERM here, and Ctrl-C nowhere.
    interrupted = INTERRUPTS or getattr(workflow.scheduler, "_user_kill", None)
    wanted = any(job.rule.name == "aggregate_cohort" for job in workflow.dag.jobs)
    if (wanted or os.path.exists("results/cohort")) and not interrupted:
        states = job_states(workflow.dag)
        finish_cohort(config["samples"], "results", "results/cohort", SOLVING, states)
