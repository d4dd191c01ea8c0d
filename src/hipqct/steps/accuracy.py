"""What the trained models do on the test set that none of them has seen."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hipqct.cohort import CHOSEN_ON_TEST, COHORTS, TEXT_COLUMNS, accuracy_table, subject_table
from hipqct.errors import AnatomyError
from hipqct.folds import TEST
from hipqct.io.dataset import Dataset
from hipqct.io.models import read_model
from hipqct.io.tables import read_table, write_table
from hipqct.metrics import relative_error_percent, score_masks
from hipqct.phantom import SYNTHETIC

log = logging.getLogger(__name__)


def judge_models(
    dataset_path, plan_paths, tested_path, cohort: str, windows: Sequence, device: str, threads: int
) -> None:
    """Segment the test set by the mean of a cohort's models and write one row of scores per hip.

    A hip whose probabilities show no femur has the status ``failed``. Where one of the models was chosen on
    the test set (``selection: paper``) all have the flag ``chosen_on_test``.

    Args:
        plan_paths: plan.json of the folds' models.
        windows: step, blend and ends of a `hipqct.predict.WindowScheme`, as at inference.
    """
    from hipqct.engine import load_engine
    from hipqct.predict import WindowScheme
    from hipqct.segment import segment_crop

    scheme = WindowScheme(*windows)
    models = [read_model(Path(path).parent) for path in plan_paths]
    chosen_on_test = any(plan["training"].get("selection") == "paper" for plan, _ in models)
    networks = [(load_engine(plan["network"], weights, device, threads), plan) for plan, weights in models]
    rows = []
    with Dataset(dataset_path) as data:
        for hip in [hip for hip in data.hips(COHORTS[cohort]) if hip.fold == TEST]:
            ct, reference, voxel_mm3 = hip.ct[()], hip.mask[()] > 0, float(np.prod(hip.spacing_mm))
            row = {"subject": hip.subject, "side": hip.side, "sex": hip.sex, "age": hip.age}
            row["group"] = hip.patient
            flags = [SYNTHETIC] * (data.data == SYNTHETIC) + [CHOSEN_ON_TEST] * chosen_on_test
            try:  # crops of a set for left models are left ones already
                bone = segment_crop(networks, ct, hip.spacing_mm, scheme)
            except AnatomyError as error:
                log.warning("%s: %s", hip.name, error)
                rows.append(row | {"status": "failed", "flags": flags})
                continue
            reference_mm3, predicted_mm3 = (voxel_mm3 * int(m.sum()) for m in (reference, bone.mask.array))
            rows.append(
                row
                | {"status": "done", "flags": flags + bone.flags, "otsu_threshold": bone.otsu_threshold}
                | score_masks(reference, bone.mask.array, hip.spacing_mm)
                | {"volume_mm3": predicted_mm3, "volume_reference_mm3": reference_mm3}
                | {"volume_predicted_mm3": predicted_mm3}
                | {"relative_error_percent": relative_error_percent(reference_mm3, predicted_mm3)}
            )
    write_table(subject_table(rows), tested_path)


def tabulate_training(tested_paths: dict[str, str], table_path, figures_dir) -> None:
    """Write the accuracy of every cohort's models on their test sets, and the figures of each.

    Args:
        tested_paths: by cohort, the tables of `judge_models`.
    """
    from hipqct.figures import draw_all

    tested = {cohort: read_table(path, TEXT_COLUMNS) for cohort, path in tested_paths.items()}
    write_table(accuracy_table(tested), table_path)
    for cohort, table in tested.items():
        draw_all(table, Path(figures_dir) / cohort)
