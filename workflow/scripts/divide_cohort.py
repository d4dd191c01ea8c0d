"""Divide the labelled hips into folds and a test set."""

from hipqct.smk import step
from hipqct.steps.training_set import divide_cohort

with step(snakemake):
    divide_cohort(snakemake.input.sheet, "results", snakemake.output.folds, snakemake.params.settings)
