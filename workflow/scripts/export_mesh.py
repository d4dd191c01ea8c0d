"""Mesh one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.mesh import export_mesh

with step(snakemake):
    scan, side, p = snakemake.input, snakemake.wildcards.side, snakemake.params
    folder = Path(snakemake.output.facts).parent
    export_mesh(scan.mask, scan.resampled, folder, side, p.options, p.slope, p.intercept, p.basis)
