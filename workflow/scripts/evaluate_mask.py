"""Compare a mask with its reference."""

from hipqct.smk import step
from hipqct.steps.mask import evaluate_mask

with step(snakemake):
    i = snakemake.input
    evaluate_mask(i.mask, i.roi, i.reference, snakemake.output.evaluation)
