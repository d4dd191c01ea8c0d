"""Solve the load cases of one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.solve import solve_mesh

with step(snakemake):
    folder = Path(snakemake.input.facts).parent
    solve_mesh(folder, snakemake.output.solution, **snakemake.params.options, threads=snakemake.threads)
