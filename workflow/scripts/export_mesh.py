"""Mesh one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.mesh import export_mesh

with step(snakemake):
    i, p, here = snakemake.input, snakemake.params, Path(snakemake.output.facts).parent
    export_mesh(i.mask, i.resampled, here, snakemake.wildcards.side, p.options, p.basis, p.slope, p.intercept)
