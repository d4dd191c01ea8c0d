"""Segment one femur."""

from hipqct.smk import granted_device, step
from hipqct.steps.segmentation import segment_femur

with step(snakemake):
    i, o, p, r = snakemake.input, snakemake.output, snakemake.params, snakemake.resources
    device = granted_device(p.device, r.gpu)
    segment_femur(i.roi, o.probability, i.plans, *p.windows, device, snakemake.threads, r.hips_ahead)
