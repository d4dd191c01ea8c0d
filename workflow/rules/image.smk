"""From a scan to the crop of one hip."""


rule import_scan:
    input:
        scan=from_sheet("scan"),
    output:
        ct="<subject>/ct.nii.gz",
        facts="<subject>/scan.json",
    log:
        "<logs>/import_scan/{subject}.log",
    benchmark:
        "<benchmarks>/import_scan/{subject}.tsv"
    resources:
        mem_mb=4000,
    params:
        series_uid=from_sheet("series_uid"),
        scan_state=lambda wildcards: state_of(row(wildcards).scan),
        revision=revisions.IMPORT_SCAN,
    message:
        "Import the scan of {wildcards.subject}."
    script:
        "../scripts/import_scan.py"


rule resample_ct:
    input:
        ct=rules.import_scan.output.ct,
    output:
        ct="<subject>/resampled.nii.gz",
        facts="<subject>/resampled.json",
    log:
        "<logs>/resample_ct/{subject}.log",
    benchmark:
        "<benchmarks>/resample_ct/{subject}.tsv"
    resources:
        mem_mb=4000,
    params:
        slice_mm=config["resample"]["slice_mm"],
        method=config["resample"]["method"],
        phase=config["resample"]["phase"],
        tail=config["resample"]["tail"],
        revision=revisions.RESAMPLE_CT,
    message:
        "Resample {wildcards.subject} to {params.slice_mm} mm slices."
    script:
        "../scripts/resample_ct.py"


rule crop_hip:
    input:
        ct=rules.resample_ct.output.ct,
    output:
        roi="<side>/roi.h5",
    log:
        "<logs>/crop_hip/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/crop_hip/{subject}.{side}.tsv"
    resources:
        mem_mb=3000,
    params:
        pixels=config["crop"]["pixels"],
        pixel_mm=config["crop"]["pixel_mm"],
        center_mm=lambda wildcards: row(wildcards).center_mm.get(wildcards.side),
        revision=revisions.CROP_HIP,
    message:
        "Crop the {wildcards.side} hip of {wildcards.subject}."
    script:
        "../scripts/crop_hip.py"
