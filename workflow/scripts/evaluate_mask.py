"""Compare a mask with its reference."""

from hipqct.smk import step
from hipqct.steps.evaluation import evaluate_mask

with step(snakemake):
    evaluate_mask(*snakemake.input, *snakemake.output)
