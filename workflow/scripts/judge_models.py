"""Judge a cohort's models on the test set."""

from hipqct.smk import step
from hipqct.steps.accuracy import judge_models

with step(snakemake):
    i, w, p = snakemake.input, snakemake.wildcards, snakemake.params
    judge_models(i.dataset, i.plans, *snakemake.output, w.cohort, p.windows, p.device, snakemake.threads)
