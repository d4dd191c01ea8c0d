"""From all hips to the cohort's tables, figures and report."""


# They take seconds. Whether there is CalculiX is asked on the machine that plans the run; a cluster's nodes may
# differ, so the tables are made there too.
localrules:
    aggregate_cohort,
    draw_figures,
    write_report,


rule aggregate_cohort:
    input:
        sheet=config["samples"],
        scans=every_scan([rules.import_scan.output.facts]),
        hips=every_hip(
            [
                rules.measure_volume.output.volume,
                rules.export_mesh.output.facts,
                rules.draw_qc.output.picture,
            ]
        ),
        evaluated=every_hip(rules.evaluate_mask.output, has_reference),
        solved=every_hip(rules.solve_mesh.output, can_be_solved),
    output:
        subjects="<cohort>/subjects.tsv",
        segmentation="<cohort>/segmentation.tsv",
        volume_agreement="<cohort>/volume_agreement.tsv",
        failures="<cohort>/failures.tsv",
        summary="<cohort>/summary.json",
    log:
        "<logs>/aggregate_cohort.log",
    benchmark:
        "<benchmarks>/aggregate_cohort.tsv"
    resources:
        mem_mb=2000,
    params:
        solving=SOLVING,
        rows=sheet_hash(SUBJECTS.values(), ("sex", "age", "group", "exclude")),
        revision=revisions.AGGREGATE_COHORT,
    message:
        "Write the cohort's tables."
    script:
        "../scripts/aggregate_cohort.py"


rule draw_figures:
    input:
        subjects=rules.aggregate_cohort.output.subjects,
    output:
        figures=directory("<cohort>/figures"),
    log:
        "<logs>/draw_figures.log",
    benchmark:
        "<benchmarks>/draw_figures.tsv"
    resources:
        mem_mb=2000,
    params:
        revision=revisions.DRAW_FIGURES,
    message:
        "Draw the cohort's figures."
    script:
        "../scripts/draw_figures.py"


rule write_report:
    input:
        tables=rules.aggregate_cohort.output,
        figures=rules.draw_figures.output.figures,
    output:
        report="<cohort>/report.html",
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    resources:
        mem_mb=2000,
    params:
        revision=revisions.WRITE_REPORT,
    message:
        "Write the cohort's report."
    script:
        "../scripts/write_report.py"
