"""Draw the figures of the cohort."""

from hipqct.smk import step
from hipqct.steps.cohort import draw_figures

with step(snakemake):
    draw_figures(snakemake.input.subjects, snakemake.output.figures)
