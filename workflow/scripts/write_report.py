"""Write the report of the cohort."""

from pathlib import Path

from hipqct.smk import step
from hipqct.steps.cohort import write_report

with step(snakemake):
    report = snakemake.output.report
    write_report(Path(report).parent, "results", report)
