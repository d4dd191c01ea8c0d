"""Mesh one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.mesh import export_mesh

with step(snakemake):
    folder, side, p = Path(snakemake.output.facts).parent, snakemake.wildcards.side, snakemake.params
    export_mesh(*snakemake.input[:2], folder, side, p.options, p.slope, p.intercept, p.basis)
