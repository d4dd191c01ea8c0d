"""How well masks and volumes agree with their references."""

import warnings

import numpy as np
from scipy import ndimage, stats

# Half the width of Bland-Altman's limits of agreement in standard deviations (95% of a normal distribution).
LIMITS_SD = 1.96
HAUSDORFF_PERCENT = 95
BOOTSTRAPS, FEWEST_FOR_INTERVAL = 2000, 3


def _counts(reference: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives and true negatives over all voxels."""
    reference, predicted = np.asarray(reference, bool), np.asarray(predicted, bool)
    if reference.shape != predicted.shape:
        raise ValueError(f"masks must have one shape, got {reference.shape} and {predicted.shape}")
    both, in_reference, in_predicted = (
        int(np.count_nonzero(m)) for m in (reference & predicted, reference, predicted)
    )
    return both, in_predicted - both, in_reference - both, reference.size - in_reference - in_predicted + both


def dice(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Dice coefficient, twice the overlap over the sum of both masks; the order does not matter.

    Raises:
        ValueError: both masks are empty, or their shapes differ.
    """
    both, false_positive, false_negative, _ = _counts(reference, predicted)
    if both + false_positive + false_negative == 0:
        raise ValueError("dice needs a voxel in at least one mask, got two empty masks")
    return 2 * both / (2 * both + false_positive + false_negative)


def sensitivity(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the reference's voxels that are predicted.

    Raises:
        ValueError: the reference is empty, or the shapes differ.
    """
    both, _, false_negative, _ = _counts(reference, predicted)
    if both + false_negative == 0:
        raise ValueError("sensitivity needs a voxel in the reference, got an empty mask")
    return both / (both + false_negative)


def specificity(reference: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the voxels outside the reference that are not predicted; depends on the image's size.

    Raises:
        ValueError: the reference fills the image, or the shapes differ.
    """
    _, false_positive, _, neither = _counts(reference, predicted)
    if neither + false_positive == 0:
        raise ValueError("specificity needs a voxel outside the reference, got a full mask")
    return neither / (neither + false_positive)


def surface_distances_mm(
    a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each surface voxel of ``a`` to the nearest of ``b``, and from ``b`` to ``a``, in mm.

    A surface voxel belongs to the mask and has a face neighbour outside it. Beyond the image nothing is
    known: the cut face of a shaft that leaves the scan is no surface. Distances run between voxel centres.

    Raises:
        ValueError: a mask is empty or fills the image, or their shapes differ.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise ValueError(f"masks must have one shape, got {a.shape} and {b.shape}")
    if not (a.any() and b.any()):
        raise ValueError("surface distances need a voxel in each mask, got an empty mask")
    if a.all() or b.all():
        raise ValueError("surface distances need a surface in each mask, got a mask that fills the image")
    tight = ndimage.find_objects((a | b).astype(np.uint8))[0]
    box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in tight)
    surfaces = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (a[box], b[box])]
    to_a, to_b = (ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces)
    return to_b[surfaces[0]], to_a[surfaces[1]]


def hausdorff95_mm(a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """95% Hausdorff distance in mm: the larger of the two directed 95th percentiles.

    So do Metrics Reloaded (Maier-Hein et al. 2024, Nat Methods 21:195) and MONAI; other tools take the
    percentile of both directions pooled, which is never larger. Surfaces as in `surface_distances_mm`.

    Raises:
        ValueError: a mask is empty, or their shapes differ.
    """
    return _percentile95_mm(surface_distances_mm(a, b, spacing_mm))


def _percentile95_mm(distances_mm) -> float:
    return float(max(np.percentile(d, HAUSDORFF_PERCENT) for d in distances_mm))


def average_surface_distance_mm(
    a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, float, float]
) -> float:
    """Average symmetric surface distance in mm: the mean over the surface voxels of both masks together.

    Heimann et al. 2009 (IEEE Trans Med Imaging 28:1251). Surfaces as in `surface_distances_mm`.

    Raises:
        ValueError: a mask is empty, or their shapes differ.
    """
    return float(np.concatenate(surface_distances_mm(a, b, spacing_mm)).mean())


def relative_error_percent(
    reference: np.ndarray | float, predicted: np.ndarray | float
) -> np.ndarray | float:
    """``100 * (predicted - reference) / reference``: positive where the prediction is too large.

    Raises:
        ValueError: a reference is not positive.
    """
    if not np.all(np.asarray(reference) > 0):
        raise ValueError(f"reference must be positive, got {reference}")
    return 100 * (predicted - reference) / reference


def score_masks(
    reference: np.ndarray, predicted: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """All scores of a mask against its reference: Dice, sensitivity, specificity, HD95 and ASD.

    Raises:
        ValueError: as the single scores.
    """
    distances_mm = surface_distances_mm(reference, predicted, spacing_mm)
    return {
        "dice": dice(reference, predicted),
        "sensitivity": sensitivity(reference, predicted),
        "specificity": specificity(reference, predicted),
        "hausdorff95_mm": _percentile95_mm(distances_mm),
        "surface_distance_mm": float(np.concatenate(distances_mm).mean()),
    }


def bootstrap_interval(
    statistic, *samples: np.ndarray, groups: np.ndarray | None = None, fewest: int = FEWEST_FOR_INTERVAL
) -> tuple[float, float]:
    """95% percentile interval of a statistic over `BOOTSTRAPS` resamples of the cases; NaN for too few.

    Args:
        statistic: maps as many lists as given to a number; several samples are resampled together.
        fewest: cases, or groups, that an interval needs.
        groups: which cases belong together (hips of one patient): whole groups are resampled and counted.
    """
    cases = range(len(samples[0])) if groups is None else groups
    members = [np.flatnonzero(np.asarray(cases) == case) for case in dict.fromkeys(cases)]
    if len(members) < fewest:
        return float("nan"), float("nan")

    def of_groups(drawn):
        held = np.concatenate([members[int(i)] for i in drawn])
        return statistic(*(sample[held] for sample in samples))

    with warnings.catch_warnings():
        # Where all cases are alike the interval is a point.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(len(members)),),
            of_groups,
            n_resamples=BOOTSTRAPS,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def volume_agreement(reference_mm3: np.ndarray, predicted_mm3: np.ndarray) -> dict:
    """Agreement of predicted with reference volumes over a cohort, shape (n,) each, in mm3.

    Returns:
        ``n``; ``volume_mean_mm3`` and ``volume_sd_mm3`` of the reference (ddof 0, as the paper's Table 1);
        ``mae_mm3``; ``rmse_mm3``; ``r2`` and ``r2_p``, see `determination`; ``re_min_percent`` and
        ``re_max_percent``, see `relative_error_percent`; and ``bias_mm3``, ``loa_low_mm3``, ``loa_high_mm3``:
        mean difference, predicted minus reference, and 1.96 SD (ddof 1) below and above it (Bland and Altman
        1986, Lancet 1:307). NaN where n does not allow a number: all for n = 0, the limits for n = 1.

    Raises:
        ValueError: not two lists of the same length, or a reference that is not positive.
    """
    reference_mm3, predicted_mm3 = np.asarray(reference_mm3, float), np.asarray(predicted_mm3, float)
    if reference_mm3.ndim != 1 or reference_mm3.shape != predicted_mm3.shape:
        raise ValueError(f"volumes must be two lists, got {reference_mm3.shape} and {predicted_mm3.shape}")
    n = len(reference_mm3)
    difference_mm3 = predicted_mm3 - reference_mm3
    error_percent = relative_error_percent(reference_mm3, predicted_mm3)
    if n == 0:
        reference_mm3 = predicted_mm3 = difference_mm3 = error_percent = np.full(1, np.nan)
    r2, r2_p = determination(reference_mm3, predicted_mm3)
    bias_mm3 = difference_mm3.mean()
    limit_mm3 = LIMITS_SD * np.std(difference_mm3, ddof=1) if n > 1 else float("nan")
    agreement = {
        "volume_mean_mm3": reference_mm3.mean(),
        "volume_sd_mm3": reference_mm3.std(),
        "mae_mm3": np.abs(difference_mm3).mean(),
        "rmse_mm3": np.sqrt(np.mean(difference_mm3**2)),
        "r2": r2,
        "r2_p": r2_p,
        "re_min_percent": error_percent.min(),
        "re_max_percent": error_percent.max(),
        "bias_mm3": bias_mm3,
        "loa_low_mm3": bias_mm3 - limit_mm3,
        "loa_high_mm3": bias_mm3 + limit_mm3,
    }
    return {"n": n} | {name: float(value) for name, value in agreement.items()}


def determination(reference: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Coefficient of determination, and the two-sided p-value of the Pearson correlation.

    The first is 1 - SS_res / SS_tot, which equals 1 - RMSE^2 / SD^2 (ddof 0): it is negative where the mean
    of the references predicts better. NaN where the references are all alike; p also for n < 3 and where the
    predictions are all alike.
    """
    if np.ptp(reference) == 0:
        return float("nan"), float("nan")
    r2 = 1 - np.sum((predicted - reference) ** 2) / np.sum((reference - reference.mean()) ** 2)
    correlated = len(reference) > 2 and np.ptp(predicted) > 0
    return float(r2), float(stats.pearsonr(reference, predicted).pvalue) if correlated else float("nan")
