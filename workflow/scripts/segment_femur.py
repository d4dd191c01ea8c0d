"""Segment one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.segmentation import segment_femur

with step(snakemake):
    i, p, model = snakemake.input, snakemake.params, Path(snakemake.input.plan).parent
    segment_femur(i.roi, *snakemake.output, model, *p.windows, p.device, snakemake.threads)
