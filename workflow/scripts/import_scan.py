"""Import one scan."""

from hipqct.smk import step
from hipqct.steps.image import import_scan

with step(snakemake):
    import_scan(snakemake.input.scan, *snakemake.output, snakemake.params.series_uid)
