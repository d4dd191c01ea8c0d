"""`snakemake train` on four small synthetic subjects: folds, training set, models, accuracy."""

import pytest
import yaml

from hipqct.io.models import read_model
from hipqct.io.tables import read_table

from .conftest import COHORT, make_study

SMALL = {
    "cohorts": ["all"], "folds": 2, "test_share": 0.25, "network": "compact", "epochs": 1, "batch": 2,
    "patch": [32, 32, 8],
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory, phantoms):
    """The study after a training of one epoch."""
    study = make_study(tmp_path_factory.mktemp("training"), phantoms)
    config = study.folder / "config/config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["train"] |= SMALL
    settings["segment"]["step"] = 16
    config.write_text(yaml.safe_dump(settings))
    study.first_run = study.run("train")
    return study


def test_a_training_goes_from_scans_to_models_and_their_accuracy(study):
    assert study.first_run.returncode == 0, study.first_run.stderr[-3000:]
    training = study.folder / "results/training"
    folds = read_table(training / "folds.tsv")
    assert sorted(folds["subject"]) == sorted(COHORT)
    assert sorted(folds["fold"]) == [-1, 0, 0, 1]
    for fold in range(2):
        plan, _ = read_model(training / f"all/fold-{fold}")
        assert plan["training"]["data"] == "synthetic"
        parts = {"validation": folds["fold"] == fold, "training": folds["fold"] == 1 - fold}
        for name, chosen in parts.items():
            assert plan["training"]["hips"][name] == [f"{s}_left" for s in sorted(folds["subject"][chosen])]
        assert (training / f"all/fold-{fold}/curves.png").is_file()
    tested = read_table(training / "all/test.tsv")
    assert tested["subject"].tolist() == folds.loc[folds["fold"] == -1, "subject"].tolist()
    assert read_table(training / "accuracy.tsv")["cohort"].tolist() == ["all"]


def test_a_second_call_has_nothing_to_do(study):
    again = study.run("train")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_corrected_age_trains_nothing_for_hips_that_its_models_segment(study):
    """Models are as they are until `train` is asked for."""
    config, sheet = study.folder / "config/config.yaml", study.folder / "config/samples.tsv"
    shipped, before = config.read_text(), sheet.read_text()
    settings = yaml.safe_load(shipped)
    settings["segment"]["model"] = "results/training/all/fold-0"
    config.write_text(yaml.safe_dump(settings))
    sheet.write_text(before.replace("\tF\t70", "\tF\t71"))
    plan = study.run("-n")
    config.write_text(shipped)
    sheet.write_text(before)
    assert plan.returncode == 0 and "segment_femur" in plan.stdout
    assert not any(rule in plan.stdout for rule in ("train_fold", "build_dataset", "divide_cohort"))


def test_too_few_labelled_scans_are_told_before_any_training(study):
    config = study.folder / "config/config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["train"]["folds"] = 10
    (study.folder / "config/ten.yaml").write_text(yaml.safe_dump(settings))
    run = study.run("train", "--configfile", str(study.folder / "config/ten.yaml"))
    assert run.returncode != 0
    assert "10 folds need" in run.stdout + run.stderr
    assert "Execute" not in run.stdout + run.stderr
    assert (study.folder / "results/training/all/fold-0/plan.json").is_file()
