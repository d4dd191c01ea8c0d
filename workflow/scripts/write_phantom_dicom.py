"""Write a phantom as a DICOM series."""

from hipqct.smk import step
from hipqct.steps.phantom import write_phantom_dicom

with step(snakemake):
    i = snakemake.input
    write_phantom_dicom(i.ct, i.truth, snakemake.output.dicom)
