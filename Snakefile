"""hipqct: from quantitative CT hip scans to femur masks, volumes, densities, meshes and cohort tables."""

from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


# Names for the rules; the layout itself is fixed (docs/results.md), and steps know it too.
pathvars:
    logs="results/logs",
    benchmarks="results/benchmarks",
    phantom="results/phantoms/{subject}",
    subject="results/subjects/{subject}",
    side="results/subjects/{subject}/{side}",
    cohort="results/cohort",
    training="results/training",


# Ignored unless Snakemake is started with --sdm apptainer: an image with this project installed, built by its user.
container: "hipqct.sif"


wildcard_constraints:
    subject=r"[A-Za-z0-9_-]+",
    side="left|right",


include: "workflow/rules/common.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/image.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/mesh.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/training.smk"


rule all:
    default_target: True
    input:
        rules.aggregate_cohort.output,
        rules.draw_figures.output,
        rules.write_report.output,
        # Asked for here, these are made again when someone has removed them; the tables would not miss them.
        every_scan([*rules.import_scan.output, *rules.resample_ct.output]),
        every_hip([*rules.crop_hip.output, *rules.segment_femur.output]),
        every_hip([*rules.threshold_bone.output, *rules.measure_volume.output]),
        every_hip([*rules.export_mesh.output, *rules.draw_qc.output]),
        rules.aggregate_cohort.input,


check_overrides(workflow)


# A failed hip keeps the cohort's rules from running; its tables are then written from the complete ones.
onerror:
    report_failures(workflow)
