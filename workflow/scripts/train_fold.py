"""Train the model of one fold."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.training import train_fold

with step(snakemake):
    who, how = snakemake.wildcards, (snakemake.params.settings, snakemake.threads)
    train_fold(*snakemake.input, Path(snakemake.output.plan).parent, who.cohort, int(who.fold), *how)
