"""Seeds of phantoms, set apart by use: disjoint ranges, so that no phantom of one can ever enter another."""

DEMO_SEEDS = range(1, 1_000)
CASE_SEEDS = range(1_000, 100_000)
TRAIN_SEEDS = range(100_000, 200_000)
VALIDATION_SEEDS = range(200_000, 300_000)
TEST_SEEDS = range(300_000, 400_000)
COHORT_SEEDS = range(1_000_000, 1_000_000_000)

SEEDS = {
    "the demo": DEMO_SEEDS,
    "single phantoms": CASE_SEEDS,
    "training": TRAIN_SEEDS,
    "validation": VALIDATION_SEEDS,
    "tests": TEST_SEEDS,
    "cohorts": COHORT_SEEDS,
}
