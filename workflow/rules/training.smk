"""Training and cross-validation on the scans that have reference masks: `snakemake train`."""

TRAIN = config["train"]
FOLDS = range(TRAIN["folds"])
LABELLED = [(s, side) for s, side in HIPS if side in SUBJECTS[s].reference]
LABELLED_ROWS = [s for s in SUBJECTS.values() if is_labelled(s)]
DIVISION = {
    key: TRAIN[key] for key in ("folds", "test_share", "seed", "group_by", "cohorts")
}


wildcard_constraints:
    cohort="all|male|female",
    fold=r"\d+",


rule divide_cohort:
    input:
        sheet=divisible_sheet,
    output:
        folds="<training>/folds.tsv",
    log:
        "<logs>/divide_cohort.log",
    benchmark:
        "<benchmarks>/divide_cohort.tsv"
    resources:
        mem_mb=1000,
    params:
        settings=DIVISION,
        rows=sheet_hash(LABELLED_ROWS, ("sex", "age", "group")),
        patients=lambda wildcards: first_rows(LABELLED_ROWS),
        revision=revisions.DIVIDE_COHORT,
    message:
        "Divide the labelled hips into folds and a test set."
    script:
        "../scripts/divide_cohort.py"


rule build_dataset:
    input:
        folds=rules.divide_cohort.output.folds,
        sheet=ancient(config["samples"]),
        crops=[
            str(rules.crop_hip.output.roi).format(subject=s, side=side)
            for s, side in LABELLED
        ],
        references=[
            os.path.relpath(SUBJECTS[s].reference[side]) for s, side in LABELLED
        ],
    output:
        dataset="<training>/dataset.h5",
    log:
        "<logs>/build_dataset.log",
    benchmark:
        "<benchmarks>/build_dataset.tsv"
    resources:
        mem_mb=2000,
    params:
        side=TRAIN["side"],
        reference_states=lambda wildcards: [
            state_of(SUBJECTS[s].reference[side]) for s, side in LABELLED
        ],
        revision=revisions.BUILD_DATASET,
    message:
        "Write the training set."
    script:
        "../scripts/build_dataset.py"


rule train_fold:
    input:
        dataset=rules.build_dataset.output.dataset,
    output:
        weights="<training>/{cohort}/fold-{fold}/weights.h5",
        plan="<training>/{cohort}/fold-{fold}/plan.json",
        history="<training>/{cohort}/fold-{fold}/history.tsv",
        curves="<training>/{cohort}/fold-{fold}/curves.png",
    log:
        "<logs>/train_fold/{cohort}.{fold}.log",
    benchmark:
        "<benchmarks>/train_fold/{cohort}.{fold}.tsv"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=1,
    params:
        settings=TRAIN,
        revision=revisions.TRAIN_FOLD,
    message:
        "Train fold {wildcards.fold} of the cohort '{wildcards.cohort}'."
    script:
        "../scripts/train_fold.py"


rule judge_models:
    input:
        dataset=rules.build_dataset.output.dataset,
        plans=expand(rules.train_fold.output.plan, fold=FOLDS, allow_missing=True),
        weights=expand(rules.train_fold.output.weights, fold=FOLDS, allow_missing=True),
    output:
        tested="<training>/{cohort}/test.tsv",
    log:
        "<logs>/judge_models/{cohort}.log",
    benchmark:
        "<benchmarks>/judge_models/{cohort}.tsv"
    threads: 4
    resources:
        mem_mb=4000 + 800 * len(FOLDS),
        runtime=480,
        gpu=inference_gpus,
    params:
        windows=[config["segment"][key] for key in ("step", "blend", "ends")],
        device=config["segment"]["device"],
        revision=revisions.JUDGE_MODELS,
    message:
        "Judge the models of the cohort '{wildcards.cohort}' on the test set."
    script:
        "../scripts/judge_models.py"


rule tabulate_training:
    input:
        tested=expand(rules.judge_models.output.tested, cohort=TRAIN["cohorts"]),
    output:
        accuracy="<training>/accuracy.tsv",
        figures=directory("<training>/figures"),
    log:
        "<logs>/tabulate_training.log",
    benchmark:
        "<benchmarks>/tabulate_training.tsv"
    resources:
        mem_mb=2000,
    params:
        cohorts=TRAIN["cohorts"],
        revision=revisions.TABULATE_TRAINING,
    message:
        "Write the accuracy of the trained models."
    script:
        "../scripts/tabulate_training.py"


rule train:
    input:
        rules.tabulate_training.output,
