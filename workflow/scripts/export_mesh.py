"""Mesh one femur."""

from hipqct.smk import step
from hipqct.steps.mesh import export_mesh

with step(snakemake):
    i, p = snakemake.input, snakemake.params
    export_mesh(i.mask, i.resampled, *snakemake.output, p.options, p.slope, p.intercept, p.basis)
