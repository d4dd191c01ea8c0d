"""A trained model is a folder: plan.json, weights.h5 and MODEL_CARD.md.

weights.h5 holds one dataset per weight, named as in `hipqct.network.weight_shapes`; kernels may be float16,
vectors stay float32. plan.json says what the weights mean and what data they fit.
"""

import hashlib
from pathlib import Path

import h5py
import numpy as np

from hipqct.errors import ModelError
from hipqct.image import Image
from hipqct.io.files import read_json, replace_when_done, write_json
from hipqct.network import check_weights, weight_shapes

PLAN_KEYS = (
    "name",
    "network",
    "side",
    "pixel_mm",
    "slice_mm",
    "window",
    "normalisation",
    "training",
    "weights_sha256",
)
SPACING_TOLERANCE = 0.01  # relative; 1% of 192 pixels is 1.5 mm over the whole crop, less than one slice


def write_weights(weights: dict[str, np.ndarray], path, kernel_dtype: str = "float32") -> None:
    """Write weights; kernels as ``kernel_dtype`` (float16 halves the file), everything else as float32."""
    with replace_when_done(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        for name, weight in weights.items():
            if name.endswith("/kernel"):
                file.create_dataset(name, data=weight.astype(kernel_dtype), compression="gzip")
            else:
                file.create_dataset(name, data=weight.astype(np.float32))


def read_weights(path) -> dict[str, np.ndarray]:
    """Read weights as float32 by name; ModelError when the file is not a readable weights file."""
    weights = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            weights[name] = item[()].astype(np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise ModelError(f"{path} cannot be read as weights ({error}): copy the model again.") from error
    return weights


def write_checkpoint(state: dict[str, np.ndarray], step: int, path) -> None:
    """Write a training's state (any dtype) after ``step`` steps."""
    with replace_when_done(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["step"] = step
        for name, values in state.items():
            file.create_dataset(name, data=values)


def read_checkpoint(path) -> tuple[dict[str, np.ndarray], int]:
    """State and step of `write_checkpoint`."""
    with h5py.File(path, "r") as file:
        return {name: dataset[()] for name, dataset in file.items()}, int(file.attrs["step"])


def write_model(model_dir, plan: dict, weights: dict[str, np.ndarray], kernel_dtype: str = "float32") -> None:
    """Write weights.h5 and, last, plan.json with the weights' SHA-256 added to ``plan``."""
    model_dir = Path(model_dir)
    check_weights(weights, plan["network"])
    write_weights(weights, model_dir / "weights.h5", kernel_dtype)
    write_json(plan | {"weights_sha256": _sha256(model_dir / "weights.h5")}, model_dir / "plan.json")


def read_plan(model_dir) -> dict:
    """Read and check plan.json.

    Raises:
        ModelError: the folder or file is not there, or a key is missing or impossible.
    """
    path = Path(model_dir) / "plan.json"
    try:
        plan = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): set segment/model to a model folder.") from error
    missing = [key for key in PLAN_KEYS if key not in plan]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}: it is no plan of a hipqct model.")
    low, high = plan["normalisation"]["clip_hu"]
    if (
        plan["side"] != "left"
        or not low < high
        or min(plan["pixel_mm"], plan["slice_mm"], *plan["window"]) <= 0
    ):
        raise ModelError(f"{path} is wrong: side must be left, clip_hu rising, spacings and window positive.")
    try:
        weight_shapes(plan["network"])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} describes an impossible network: {error}.") from error
    return plan


def read_model(model_dir) -> tuple[dict, dict[str, np.ndarray]]:
    """Plan and weights of a model folder.

    Raises:
        ModelError: as `read_plan`, or the weights are missing, altered or another network's.
    """
    plan, path = read_plan(model_dir), Path(model_dir) / "weights.h5"
    if not path.is_file():
        raise ModelError(f"{path} is missing: copy the model folder again.")
    if _sha256(path) != plan["weights_sha256"]:
        raise ModelError(f"{path} is not the file that plan.json names (SHA-256): copy the model again.")
    weights = read_weights(path)
    check_weights(weights, plan["network"])
    return plan, weights


def check_crop(roi: Image, plan: dict, roi_path) -> None:
    """Refuse a crop whose size, pixels or slices are not those that the model was trained on (ModelError)."""
    if list(roi.shape[:2]) != list(plan["window"][:2]):
        found, wanted = (" x ".join(map(str, size[:2])) for size in (roi.shape, plan["window"]))
        raise ModelError(
            f"{roi_path} is {found} pixels but the model '{plan['name']}' needs {wanted}: set crop/pixels to "
            "the model's, or choose a model trained for this."
        )
    wanted_mm = (plan["pixel_mm"], plan["pixel_mm"], plan["slice_mm"])
    if not np.allclose(roi.spacing_mm, wanted_mm, rtol=SPACING_TOLERANCE, atol=0):
        found, wanted = (" x ".join(f"{mm:g}" for mm in spacing) for spacing in (roi.spacing_mm, wanted_mm))
        raise ModelError(
            f"{roi_path} has voxels of {found} mm but the model '{plan['name']}' needs {wanted} mm: set "
            "crop/pixel_mm and resample/slice_mm to the model's, or choose a model trained for these."
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
