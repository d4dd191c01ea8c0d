"""Solve the load cases of one femur."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.solve import solve_mesh

with step(snakemake):
    p, place = snakemake.params, (Path(snakemake.input.facts).parent, snakemake.output.solution)
    solve_mesh(*place, p.cases, p.model, p.criterion, snakemake.config["solve"]["minutes"], snakemake.threads)
