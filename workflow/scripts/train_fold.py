"""Train the model of one fold."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.training import train_fold

with step(snakemake):
    cohort, fold = snakemake.wildcards.cohort, int(snakemake.wildcards.fold)
    train_fold(*snakemake.input, Path(snakemake.output.plan).parent, cohort, fold, snakemake.params.settings)
