"""Write crops and reference masks into one training set."""

from hipqct.smk import step
from hipqct.steps.training_set import build_dataset

with step(snakemake):
    i, o = snakemake.input, snakemake.output
    build_dataset(i.folds, "results", i.sheet, o.dataset, snakemake.params.side)
