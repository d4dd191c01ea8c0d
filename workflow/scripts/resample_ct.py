"""Resample one CT scan to thicker slices."""

from hipqct.smk import step
from hipqct.steps.image import resample_ct

with step(snakemake):
    p = snakemake.params
    resample_ct(snakemake.input.ct, *snakemake.output, p.slice_mm, p.method, p.phase, p.tail)
