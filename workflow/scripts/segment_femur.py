"""Segment one femur."""

from hipqct.smk import find_models, granted_device, step
from hipqct.steps.segmentation import segment_femur

with step(snakemake):
    i, o, p, r = snakemake.input, snakemake.output, snakemake.params, snakemake.resources
    models = find_models(snakemake.config["segment"]["model"], f"{snakemake.scriptdir}/../..")
    device = granted_device(p.device, r.gpu)
    segment_femur(i.roi, o.probability, models, p.windows, device, snakemake.threads, r.hips_ahead)
