"""Measure one femur."""

from hipqct.smk import step
from hipqct.steps.mask import measure_volume

with step(snakemake):
    i, p = snakemake.input, snakemake.params
    calibration = (p.basis, p.slope, p.intercept)
    measure_volume(i.mask, i.resampled, i.bone, i.scan, snakemake.output.volume, *calibration)
