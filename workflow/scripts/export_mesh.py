"""Mesh one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.mesh import export_mesh

with step(snakemake):
    folder, p = Path(snakemake.output.facts).parent, snakemake.params
    export_mesh(*snakemake.input, folder, p.options, p.slope, p.intercept, p.basis)
