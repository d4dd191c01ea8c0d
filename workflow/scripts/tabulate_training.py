"""Write the accuracy of the trained models."""

from hipqct.smk import step
from hipqct.steps.accuracy import tabulate_training

with step(snakemake):
    tested = dict(zip(snakemake.params.cohorts, snakemake.input.tested, strict=True))
    tabulate_training(tested, snakemake.output.accuracy, snakemake.output.figures)
