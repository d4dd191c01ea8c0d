"""Draw a mask over its scan."""

from hipqct.smk import step
from hipqct.steps.mask import draw_qc

with step(snakemake):
    i = snakemake.input
    draw_qc(i.resampled, i.mask, i.roi, i.volume, snakemake.output.picture)
