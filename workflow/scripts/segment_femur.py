"""Segment one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.segmentation import segment_femur

with step(snakemake):
    i, p, models = snakemake.input, snakemake.params, [Path(plan).parent for plan in snakemake.input.plans]
    segment_femur(i.roi, *snakemake.output, models, *p.windows, p.device, snakemake.threads)
