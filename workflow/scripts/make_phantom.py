"""Make one synthetic phantom."""

from hipqct.smk import step
from hipqct.steps.phantom import make_phantom

with step(snakemake):
    make_phantom(snakemake.params.phantom, *snakemake.output)
