"""Segment one femur."""

from hipqct.smk import step
from hipqct.steps.segmentation import segment_femur

with step(snakemake):
    p = snakemake.params
    probability = snakemake.output.probability
    segment_femur(snakemake.input.roi, probability, p.model, p.step, p.device, snakemake.threads)
