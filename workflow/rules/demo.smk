"""The demo cohort: synthetic phantoms, their ground truth, and their scans as DICOM."""

import csv

from hipqct.sheet import DEMO

with open(DEMO, encoding="utf-8") as sheet:
    PHANTOMS = {line["subject"]: line for line in csv.DictReader(sheet, delimiter="\t")}


rule make_phantom:
    output:
        ct="<phantom>/ct.nii.gz",
        left="<phantom>/left_femur.nii.gz",
        right="<phantom>/right_femur.nii.gz",
        truth="<phantom>/truth.json",
    log:
        "<logs>/make_phantom/{subject}.log",
    benchmark:
        "<benchmarks>/make_phantom/{subject}.tsv"
    resources:
        mem_mb=3000,
    params:
        phantom=lambda wildcards: PHANTOMS[wildcards.subject],
        revision=revisions.MAKE_PHANTOM,
    message:
        "Make the synthetic phantom {wildcards.subject}."
    script:
        "../scripts/make_phantom.py"


rule write_phantom_dicom:
    input:
        ct=rules.make_phantom.output.ct,
        truth=rules.make_phantom.output.truth,
    output:
        dicom=directory("<phantom>/dicom"),
    log:
        "<logs>/write_phantom_dicom/{subject}.log",
    benchmark:
        "<benchmarks>/write_phantom_dicom/{subject}.tsv"
    resources:
        mem_mb=2000,
    params:
        revision=revisions.WRITE_PHANTOM_DICOM,
    message:
        "Write the phantom {wildcards.subject} as a DICOM series."
    script:
        "../scripts/write_phantom_dicom.py"
