"""Judge a cohort's models on the test set."""

from hipqct.smk import granted_device, step
from hipqct.steps.accuracy import judge_models

with step(snakemake):
    i, w, p = snakemake.input, snakemake.wildcards, snakemake.params
    device = granted_device(p.device, snakemake.resources.gpu)
    judge_models(i.dataset, i.plans, *snakemake.output, w.cohort, p.windows, device, snakemake.threads)
