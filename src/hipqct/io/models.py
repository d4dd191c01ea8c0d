"""A trained model is a folder: plan.json, weights.h5 and MODEL_CARD.md.

weights.h5 holds one dataset per weight, named as in `hipqct.network.weight_shapes`; kernels may be float16,
vectors stay float32. It may come in pieces, weights.h5.000 and so on. plan.json says what the weights mean
and what data they fit.
"""

import hashlib
import io
import json
import math
import os
from pathlib import Path

import h5py
import numpy as np
from h5py import h5f, h5g, h5p

from hipqct.errors import ModelError
from hipqct.image import Image
from hipqct.io.files import hash_file, read_json, replace_when_done, write_json
from hipqct.network import SIDES, check_weights, weight_shapes

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
MOST_PIECES = 1000  # of a weights file: their numbers have three digits
# Compact, and readable by HDF5 1.10 and later; the latest would be what only the writer's own version reads.
HDF5_LAYOUT = (h5f.LIBVER_V110, h5f.LIBVER_V110)
SPACING_TOLERANCE = 0.01  # relative; 1% of 192 pixels is 1.5 mm over the whole crop, less than one slice


def write_weights(weights: dict[str, np.ndarray], path, kernel_dtype: str = "float32") -> None:
    """Write weights; kernels as ``kernel_dtype`` (float16 halves the file), everything else as float32.

    The same weights give the same bytes, whenever they are written: HDF5 keeps no times.
    """
    untimed = h5p.create(h5p.GROUP_CREATE)
    untimed.set_obj_track_times(False)
    with replace_when_done(path) as temporary, _new_untimed_file(temporary) as file:
        for name, weight in weights.items():
            layer = name.rpartition("/")[0]
            if layer not in file:
                h5g.create(file.id, layer.encode(), gcpl=untimed)
            packed = "gzip" if _is_kernel(name) else None
            values = _as_stored(name, weight, kernel_dtype)
            file.create_dataset(name, data=values, compression=packed, track_times=False)


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")


def _as_stored(name: str, weight: np.ndarray, kernel_dtype: str) -> np.ndarray:
    return weight.astype(kernel_dtype if _is_kernel(name) else np.float32)


def _new_untimed_file(path: Path) -> h5py.File:
    """A new file whose root group has no time of its making, which h5py.File cannot be asked for."""
    access, creation = h5p.create(h5p.FILE_ACCESS), h5p.create(h5p.FILE_CREATE)
    access.set_libver_bounds(*HDF5_LAYOUT)
    creation.set_obj_track_times(False)
    return h5py.File(h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access))


def read_weights(path) -> dict[str, np.ndarray]:
    """Read weights, a path or a file object, as float32 by name; ModelError when it is not a weights file."""
    try:
        with h5py.File(path, "r") as file:
            return {name: weight.astype(np.float32) for name, weight in _collect(file).items()}
    except (OSError, RuntimeError) as error:  # h5py raises the latter on what its HDF5 is too old for
        raise ModelError(f"{path} cannot be read as weights ({error}): copy the model again.") from error


def write_checkpoint(path, state: dict[str, np.ndarray], best: dict[str, np.ndarray], record: dict) -> None:
    """Write a training's state, the best weights so far, and what else must be known to go on (as JSON)."""
    with replace_when_done(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["record"] = json.dumps(record)
        for group, arrays in (("state", state), ("best", best)):
            for name, values in arrays.items():
                file.create_dataset(f"{group}/{name}", data=values)


def read_checkpoint(path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict]:
    """State, best weights and record of `write_checkpoint`; ModelError when the file is none."""
    try:
        with h5py.File(path, "r") as file:
            found = [_collect(file[group]) for group in ("state", "best")]
            return *found, json.loads(file.attrs["record"])
    except (OSError, KeyError) as error:
        raise ModelError(
            f"{path} is no checkpoint ({error}): delete it, training starts anew then."
        ) from error


def _collect(group) -> dict[str, np.ndarray]:
    arrays = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    group.visititems(collect)
    return arrays


def write_model(
    model_dir,
    plan: dict,
    weights: dict[str, np.ndarray],
    kernel_dtype: str = "float32",
    piece_mb: float | None = None,
) -> None:
    """Write weights.h5 and, last, plan.json with the weights' SHA-256 added to ``plan``.

    A folder that holds this very model already stays as it is. With ``piece_mb`` the weights come in pieces
    of at most so many MB (1e6 bytes) instead (ValueError where they would be more than can be numbered).
    """
    path = Path(model_dir) / "weights.h5"
    check_weights(weights, plan["network"])
    if _holds_model(model_dir, plan, weights, kernel_dtype, piece_mb):
        return
    write_weights({name: weights[name] for name in weight_shapes(plan["network"])}, path, kernel_dtype)
    content = path.read_bytes()
    size = len(content) if piece_mb is None else int(piece_mb * 1e6)
    if not 0 < len(content) <= MOST_PIECES * size:
        raise ValueError(
            f"pieces must be of {len(content) / MOST_PIECES / 1e6:.3g} MB or more, got {piece_mb}"
        )
    for old in _pieces(path):
        old.unlink()
    if piece_mb is not None:
        for i in range(0, len(content), size):
            path.with_name(f"{path.name}.{i // size:03d}").write_bytes(content[i : i + size])
        path.unlink()
    write_json(plan | {"weights_sha256": hashlib.sha256(content).hexdigest()}, path.with_name("plan.json"))


def _holds_model(model_dir, plan: dict, weights: dict, kernel_dtype: str, piece_mb: float | None) -> bool:
    """Whether a folder has a model with this plan, these weights as they would be stored, and such pieces."""
    try:
        known, stored = read_model(model_dir)
    except ModelError:
        return False
    files, most = weights_files(model_dir), math.inf if piece_mb is None else int(piece_mb * 1e6)
    *full, last = (file.stat().st_size for file in files)
    in_pieces = files[0].name != "weights.h5"
    cut_alike = in_pieces == (piece_mb is not None) and last <= most and all(size == most for size in full)
    same_plan = known == json.loads(json.dumps(plan)) | {"weights_sha256": known["weights_sha256"]}
    same = (np.array_equal(stored[n], _as_stored(n, weights[n], kernel_dtype)) for n in stored)
    return cut_alike and same_plan and all(same)


def weights_files(model_dir) -> list[Path]:
    """The files of a model's weights: weights.h5, there or yet to be written, or its pieces in order."""
    path = Path(model_dir) / "weights.h5"
    return [path] if path.is_file() else _pieces(path) or [path]


def _pieces(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.[0-9][0-9][0-9]"))


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
        plan["side"] not in SIDES
        or not low < high
        or min(plan["pixel_mm"], plan["slice_mm"], *plan["window"]) <= 0
    ):
        raise ModelError(
            f"{path} is wrong: side must be left or both, clip_hu rising, spacings and window positive."
        )
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
    plan, path, files = read_plan(model_dir), Path(model_dir) / "weights.h5", weights_files(model_dir)
    if not files[0].is_file():
        raise ModelError(f"{path} is missing: copy the model folder again.")
    content = b"".join(file.read_bytes() for file in files)
    if hashlib.sha256(content).hexdigest() != plan["weights_sha256"]:
        raise ModelError(f"{path} is not the file that plan.json names (SHA-256): copy the model again.")
    weights = read_weights(io.BytesIO(content))
    check_weights(weights, plan["network"])
    return plan, weights


def check_crop_settings(model_dir, pixels: int, pixel_mm: float | None, slice_mm: float) -> None:
    """Refuse settings of crops that a model cannot take, before any crop is made (ModelError).

    Args:
        pixels, pixel_mm, slice_mm: the config's ``crop`` and ``resample/slice_mm``; raw pixels (None) are
            known only with the crop, see `check_crop`.
    """
    plan = read_plan(model_dir)
    pixel_mm = plan["pixel_mm"] if pixel_mm is None else pixel_mm
    found = {"crop/pixels": pixels, "crop/pixel_mm": pixel_mm, "resample/slice_mm": slice_mm}
    wanted = dict(zip(found, (plan["window"][0], plan["pixel_mm"], plan["slice_mm"]), strict=True))
    unlike = [key for key in found if not np.isclose(found[key], wanted[key], rtol=SPACING_TOLERANCE, atol=0)]
    if unlike:
        faults = ", ".join(f"{key} is {found[key]:g}, not {wanted[key]:g}" for key in unlike)
        raise ModelError(
            f"{faults} as the model '{plan['name']}' needs: set these, or choose another segment/model"
        )


def plan_hash(model_dir) -> str | None:
    """A hash of plan.json, which names the weights; None where there is none yet."""
    plan = Path(model_dir) / "plan.json"
    return hash_file(plan) if plan.exists() else None


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
