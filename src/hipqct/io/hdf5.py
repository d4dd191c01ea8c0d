"""Crops and probability maps as HDF5: voxels in compressed chunks, with their place in the world."""

from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from hipqct.errors import ScanError
from hipqct.image import Image
from hipqct.io.files import replace_when_done

ROI, PROBABILITY, DISAGREEMENT = "ct_hu", "probability", "disagreement"
PROBABILITY_STEPS = 255  # stored as uint8: a probability is kept to within 0.002
CHUNK_SLICES = 8
PLACE = ("spacing_mm", "origin_mm", "direction")


def write_roi(image: Image, path, attributes: dict) -> None:
    """Write a crop (HU, int16) and what is known of it to roi.h5; arrays stay ``[x, y, z]``."""
    stored = image.with_array(np.asarray(image.array, np.int16))
    _write({ROI: stored}, path, {"units": "HU", **attributes})


def read_roi(path) -> tuple[Image, dict]:
    """Read a crop written by `write_roi`: the image and its attributes; ScanError when it is none."""
    return _read(path, ROI)


def read_roi_spacing(path) -> tuple[float, float, float]:
    """The voxels (mm) of a crop by `write_roi`, read without the others; ScanError when it is none."""
    with _open(path, ROI) as data:
        return tuple(float(mm) for mm in data.attrs["spacing_mm"])


def write_probability(image: Image, path, attributes: dict, disagreement: np.ndarray | None = None) -> None:
    """Write a probability map (0..1) as uint8, 255 times the probability, rounded.

    ``disagreement`` is the standard deviation between several models, stored beside it in the same way.

    Raises:
        ValueError: values outside 0..1 or NaN.
    """
    if not (image.array.min() >= 0 and image.array.max() <= 1):
        raise ValueError(f"probability must lie in 0..1, got {image.array.min()} to {image.array.max()}")
    maps = {PROBABILITY: image.with_array(_to_steps(image.array))}
    if disagreement is not None:
        maps[DISAGREEMENT] = image.with_array(_to_steps(disagreement))
    _write(maps, path, {"scale": 1 / PROBABILITY_STEPS, **attributes})


def _to_steps(array: np.ndarray) -> np.ndarray:
    return np.rint(array * PROBABILITY_STEPS).astype(np.uint8)


def read_probability(path) -> tuple[Image, dict]:
    """Read a map written by `write_probability` as float32 in 0..1; ScanError when it is none."""
    image, attributes = _read(path, PROBABILITY)
    return image.with_array(image.array.astype(np.float32) / PROBABILITY_STEPS), attributes


def read_facts(path) -> dict:
    """The attributes of a map by `write_probability`, without its voxels; ScanError when it is none."""
    with _open(path, PROBABILITY) as data:
        return _attributes(data)


def _write(images: dict[str, Image], path, attributes: dict) -> None:
    with replace_when_done(path) as temporary, h5py.File(temporary, "w") as file:
        for name, image in images.items():
            nx, ny, nz = image.shape
            chunks = (nx, ny, min(CHUNK_SLICES, nz))
            data = file.create_dataset(
                name, data=image.array, chunks=chunks, compression="gzip", shuffle=True
            )
            data.attrs["axes"] = "x, y, z; LPS world millimetres"
            data.attrs["spacing_mm"] = image.spacing_mm
            data.attrs["origin_mm"] = image.origin_mm
            data.attrs["direction"] = image.direction
            for key, value in attributes.items():
                data.attrs[key] = value


def _read(path, name: str) -> tuple[Image, dict]:
    with _open(path, name) as data:
        attributes, place, array = _attributes(data), {key: data.attrs[key] for key in PLACE}, data[()]
    return Image(array, **place), attributes


@contextmanager
def _open(path, name: str) -> Iterator[h5py.Dataset]:
    try:
        with h5py.File(path, "r") as file:
            yield file[name]
    except (OSError, KeyError) as error:
        raise ScanError(f"{path} is not a complete file with '{name}': delete it and run again.") from error


def _attributes(data: h5py.Dataset) -> dict:
    """All but the place in the world."""
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in data.attrs.items()
        if key not in PLACE
    }
