"""From the crop of a hip to the femur's mask, its volume and density, and what to look at."""


rule segment_femur:
    input:
        roi=crop_for_models,
    output:
        probability="<side>/probability.h5",
    log:
        "<logs>/segment_femur/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/segment_femur/{subject}.{side}.tsv"
    threads: 4
    resources:
        mem_mb=3200 + 800 * len(MODELS),
        gpu=inference_gpus,
        # So many hips that wait for it are computed ahead by a job that has started TensorFlow on a GPU (some 15 s);
        # none where the command names what it wants.
        hips_ahead=lambda wildcards: 0 if workflow.dag_settings.targets else 31,
    params:
        windows=[config["segment"][key] for key in ("step", "blend", "ends")],
        device=config["segment"]["device"],
        models=[plan_hash(model) for model in MODELS],
        revision=revisions.SEGMENT_FEMUR,
    message:
        "Segment the {wildcards.side} femur of {wildcards.subject}."
    script:
        "../scripts/segment_femur.py"


rule threshold_bone:
    input:
        probability=rules.segment_femur.output.probability,
        resampled=rules.resample_ct.output.ct,
        ct=rules.import_scan.output.ct,
    output:
        mask="<side>/mask.nii.gz",
        mask_native="<side>/mask_native.nii.gz",
        bone="<side>/bone.json",
    log:
        "<logs>/threshold_bone/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/threshold_bone/{subject}.{side}.tsv"
    resources:
        mem_mb=4000,
    params:
        revision=revisions.THRESHOLD_BONE,
    message:
        "Threshold the {wildcards.side} femur of {wildcards.subject}."
    script:
        "../scripts/threshold_bone.py"


rule measure_volume:
    input:
        mask=rules.threshold_bone.output.mask,
        bone=rules.threshold_bone.output.bone,
        resampled=rules.resample_ct.output.ct,
        scan=rules.import_scan.output.facts,
    output:
        volume="<side>/volume.json",
    log:
        "<logs>/measure_volume/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/measure_volume/{subject}.{side}.tsv"
    resources:
        mem_mb=3000,
    params:
        slope=from_sheet("slope"),
        intercept=from_sheet("intercept"),
        basis=calibration_basis,
        revision=revisions.MEASURE_VOLUME,
    message:
        "Measure the {wildcards.side} femur of {wildcards.subject}."
    script:
        "../scripts/measure_volume.py"


rule evaluate_mask:
    input:
        mask=rules.threshold_bone.output.mask,
        roi=rules.crop_hip.output.roi,
        reference=reference_mask,
    output:
        evaluation="<side>/evaluation.json",
    log:
        "<logs>/evaluate_mask/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/evaluate_mask/{subject}.{side}.tsv"
    resources:
        mem_mb=4000,
    params:
        reference_state=lambda wildcards: state_of(reference_mask(wildcards)),
        revision=revisions.EVALUATE_MASK,
    message:
        "Evaluate the {wildcards.side} femur of {wildcards.subject} against its reference."
    script:
        "../scripts/evaluate_mask.py"


rule draw_qc:
    input:
        resampled=rules.resample_ct.output.ct,
        mask=rules.threshold_bone.output.mask,
        roi=rules.crop_hip.output.roi,
        volume=rules.measure_volume.output.volume,
    output:
        picture="<side>/qc.png",
    log:
        "<logs>/draw_qc/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/draw_qc/{subject}.{side}.tsv"
    resources:
        mem_mb=3000,
    params:
        revision=revisions.DRAW_QC,
    message:
        "Draw the {wildcards.side} femur of {wildcards.subject}."
    script:
        "../scripts/draw_qc.py"
