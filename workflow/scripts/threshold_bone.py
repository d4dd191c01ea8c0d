"""Turn a probability map into masks."""

from hipqct.smk import step
from hipqct.steps.evaluation import threshold_bone

with step(snakemake):
    threshold_bone(*snakemake.input, *snakemake.output)
