"""Write the tables of the cohort."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.cohort import aggregate_cohort

with step(snakemake):
    folder = Path(snakemake.output.subjects).parent
    aggregate_cohort(snakemake.input.sheet, "results", folder, snakemake.params.solving)
