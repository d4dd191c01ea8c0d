"""How many voxels of a turned and scaled training patch get the wrong label, by what the truth is taken from.

    python benchmarks/compare_truths.py [--phantoms 4]

Patches of synthetic hips are turned and scaled as training does it, each four times. Wrong is a voxel unlike
the continuous femur, half of it or more inside. The truth is taken from the crop's mask, linear between
voxels and cut at a half; from the distance to that mask's surface; from the distance to the surface of the
mask on the scan's own voxels, as of labelled scans; or from the distance to the continuous femur, as of
phantoms.
"""

import argparse
from pathlib import Path

import numpy as np
from committed import write_results
from scipy.spatial.transform import Rotation

from hipqct.augment import Augmentation, cut_patch
from hipqct.crop import crop_roi, locate_hip
from hipqct.image import Image, index_along
from hipqct.phantom.generate import femur_distance_mm, femur_mask, generate_phantom
from hipqct.phantom.parameters import PhantomParameters, sample_parameters
from hipqct.phantom.seeds import VALIDATION_SEEDS
from hipqct.phantom.shapes import occupancy
from hipqct.resample import distance_to_mask_mm, resample_mask_slices, resample_slices
from hipqct.solid import surface_distance_um

RESULTS = Path(__file__).parent / "results" / "truths.json"
SIZE, PATCHES, SUBSLICES = (128, 128, 32), 4, 3
DEGREES, SCALES = (-15.0, 15.0), (0.85, 1.15)  # as the shipped recipe has them


def patch_grid(roi: Image, centre, augmentation: Augmentation, along_z: float = 0.0) -> Image:
    """Where the voxels of a patch of `SIZE` lie, as `cut_patch` takes them, moved by a part of a slice."""
    turn = Rotation.from_euler("xyz", augmentation.rotation_deg, degrees=True).as_matrix()
    spacing_mm = np.array(roi.spacing_mm) / augmentation.scale
    first = np.array([0.0, 0.0, along_z]) - (np.array(SIZE) - 1) / 2
    return Image.empty(SIZE, spacing_mm, roi.to_world(centre) + turn @ (spacing_mm * first), turn)


def continuous_truth(parameters: PhantomParameters, roi: Image, centre, augmentation: Augmentation):
    """A patch's voxels of which half lies in the femur, and those that do not lie beyond the crop."""
    shares = []
    for part in (np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5:
        grid = patch_grid(roi, centre, augmentation, part)
        shares.append(occupancy(femur_distance_mm(parameters, "left", grid), grid.spacing_mm[0]))
    grid, within = patch_grid(roi, centre, augmentation), np.ones(SIZE, bool)
    for axis, n in enumerate(roi.shape):
        index = index_along(roi, axis, grid)
        within &= (index >= 0) & (index <= n - 1)
    return np.mean(shares, axis=0) >= 0.5, within


def wrong_percents(seed: int) -> list[dict[str, float]]:
    """For every patch of a phantom's left hip, wrong voxels in per cent of its femur's, by the source."""
    parameters = sample_parameters(seed)
    phantom = generate_phantom(parameters)
    resampled, _ = resample_slices(phantom.ct)
    roi = crop_roi(resampled, locate_hip(resampled, "left"))
    mask = femur_mask(parameters, "left", roi).array
    reference = resample_mask_slices(phantom.left_femur, roi).array
    reference_mm = distance_to_mask_mm(phantom.left_femur, roi)
    surface_mm = femur_distance_mm(parameters, "left", roi)
    sources = {  # femur lies below the level
        "mask": (-mask.astype(np.float32), -0.5),
        "distance_of_mask": (surface_distance_um(mask, roi.spacing_mm), 0),
        "distance_of_reference": (surface_distance_um(reference, roi.spacing_mm, reference_mm), 0),
        "distance_of_surface": (surface_distance_um(mask, roi.spacing_mm, surface_mm), 0),
    }
    rng, found = np.random.default_rng(seed), []
    for _ in range(PATCHES):
        changes = Augmentation(tuple(rng.uniform(*DEGREES, 3)), rng.uniform(*SCALES))
        centre = np.argwhere(mask).mean(axis=0) + rng.uniform(-0.25, 0.25, 3) * SIZE
        truth, within = continuous_truth(parameters, roi, centre, changes)
        patches = {
            name: cut_patch(array, roi.spacing_mm, centre, SIZE, changes) < level
            for name, (array, level) in sources.items()
        }
        femur = np.count_nonzero(truth & within)
        found.append(
            {name: 100 * np.count_nonzero((p != truth) & within) / femur for name, p in patches.items()}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args()
    found = [row for seed in VALIDATION_SEEDS[: options.phantoms] for row in wrong_percents(seed)]
    wrong = {name: [row[name] for row in found] for name in found[0]}
    result = {f"wrong_percent_{name}_mean": float(np.mean(values)) for name, values in wrong.items()}
    result |= {f"wrong_percent_{name}_max": float(np.max(values)) for name, values in wrong.items()}
    write_results(result | {"n": len(found), "data": "synthetic"}, options.out)


if __name__ == "__main__":
    main()
