"""Make one synthetic phantom."""

from hipqct.smk import step
from hipqct.steps.phantom import make_phantom

with step(snakemake):
    o = snakemake.output
    make_phantom(snakemake.params.phantom, o.ct, o.left, o.right, o.truth)
