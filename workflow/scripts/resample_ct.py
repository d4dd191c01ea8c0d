"""Resample one CT scan to thicker slices."""

from hipqct.smk import step
from hipqct.steps.image import resample_ct

with step(snakemake):
    o, p = snakemake.output, snakemake.params
    resample_ct(snakemake.input.ct, o.ct, o.facts, p.slice_mm, p.method, p.phase, p.tail)
