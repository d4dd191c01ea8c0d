"""Turn a probability map into masks."""

from hipqct.smk import step
from hipqct.steps.mask import threshold_bone

with step(snakemake):
    i, o = snakemake.input, snakemake.output
    threshold_bone(i.probability, i.resampled, i.ct, o.mask, o.mask_native, o.bone)
