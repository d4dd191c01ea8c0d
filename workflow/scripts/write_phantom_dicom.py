"""Write a phantom as a DICOM series."""

from hipqct.smk import step
from hipqct.steps.phantom import write_phantom_dicom

with step(snakemake):
    write_phantom_dicom(*snakemake.input, *snakemake.output)
