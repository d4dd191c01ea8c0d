"""One integer per step, given to its rule as a param.

Snakemake does not see edits in this package. Raise a step's number when its results change: that step and
those below run again for everyone. A refactor that changes no number leaves it alone.
"""

IMPORT_SCAN = 6
RESAMPLE_CT = 2
CROP_HIP = 4
SEGMENT_FEMUR = 7
THRESHOLD_BONE = 5
MEASURE_VOLUME = 7
EVALUATE_MASK = 4
EXPORT_MESH = 14
SOLVE_MESH = 4
DRAW_QC = 4
AGGREGATE_COHORT = 9
DRAW_FIGURES = 4
WRITE_REPORT = 5
MAKE_PHANTOM = 7
WRITE_PHANTOM_DICOM = 1
DIVIDE_COHORT = 3
BUILD_DATASET = 7
TRAINING_CROPS = 2  # of phantoms, for `hipqct train` and benchmarks
TRAIN_FOLD = 8
JUDGE_MODELS = 5
TABULATE_TRAINING = 3
