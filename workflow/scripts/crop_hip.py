"""Crop one hip."""

from hipqct.smk import step
from hipqct.steps.image import crop_hip

with step(snakemake):
    p = snakemake.params
    side = snakemake.wildcards.side
    crop_hip(snakemake.input.ct, snakemake.output.roi, side, p.pixels, p.pixel_mm, p.center_mm)
