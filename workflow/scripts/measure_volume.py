"""Measure one femur."""

from hipqct.smk import step
from hipqct.steps.evaluation import measure_volume

with step(snakemake):
    i, p = snakemake.input, snakemake.params
    measure_volume(i.mask, i.resampled, i.bone, snakemake.output.volume, p.slope, p.intercept, p.basis)
