"""Draw a mask over its scan."""

from hipqct.smk import step
from hipqct.steps.evaluation import draw_qc

with step(snakemake):
    draw_qc(*snakemake.input, *snakemake.output)
