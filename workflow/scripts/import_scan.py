"""Import one scan."""

from hipqct.smk import step
from hipqct.steps.image import import_scan

with step(snakemake):
    o = snakemake.output
    import_scan(snakemake.input.scan, o.ct, o.facts, snakemake.params.series_uid)
