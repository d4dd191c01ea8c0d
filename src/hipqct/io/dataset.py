"""A training set as one HDF5 file: crops and their truth in compressed chunks, read in windows."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import h5py
import numpy as np

from hipqct.errors import ModelError
from hipqct.io.files import replace_when_done
from hipqct.solid import surface_distance_um

FORMAT = 5
CHUNK = (48, 48, 16)  # voxels; a patch of 96 x 96 x 32 touches some 30 of them


@dataclass(frozen=True)
class Hip:
    """One labelled hip: HU (int16) and femur (bool or uint8), ``(x, y, z)``, and whose it is.

    ``spacing_mm`` is that of its voxels, None: as the training set's. ``distance_um`` (int16) is from
    `hipqct.solid.surface_distance_um`, None: to be taken from the mask.
    """

    subject: str
    side: str
    ct: np.ndarray
    mask: np.ndarray
    sex: str = ""
    age: float | None = None
    fold: int = 0
    patient: str = ""  # whose hips stay together, the subject unless told
    spacing_mm: tuple[float, float, float] | None = None
    distance_um: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The hip's name in the file."""
        return f"{self.subject}_{self.side}"


def write_dataset(hips: Iterable[Hip], path, plan: dict) -> None:
    """Write hips one after the other; only one is in memory at a time.

    The file gets a hash of what training reads of it: not of ages and patients, which only decide the folds.
    The same hips may give other bytes, since compression does not begin from the same memory each time.

    Args:
        plan: ``side`` (left: right hips stand here mirrored; both: as they are), ``spacing_mm`` to train with
            and ``data`` (``synthetic``, or empty).
    """
    with replace_when_done(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs.update({key: plan[key] for key in ("side", "spacing_mm", "data")})
        hashes = []
        for hip in hips:
            group = file.create_group(hip.name)
            age = np.nan if hip.age is None else float(hip.age)
            known = {"subject": hip.subject, "side": hip.side, "sex": hip.sex or "", "fold": int(hip.fold)}
            spacing_mm = [float(mm) for mm in hip.spacing_mm or plan["spacing_mm"]]
            known |= {"spacing_mm": spacing_mm}
            group.attrs.update(known | {"age": age, "patient": hip.patient or hip.subject})
            digest = hashlib.sha256(repr(known).encode())
            distance_um = hip.distance_um
            if distance_um is None:
                distance_um = surface_distance_um(hip.mask, spacing_mm)
            arrays = {"ct": hip.ct.astype(np.int16), "mask": hip.mask.astype(np.uint8)}
            for key, array in (arrays | {"distance_um": distance_um}).items():
                digest.update(repr(array.shape).encode() + array.tobytes())
                chunks = tuple(min(c, n) for c, n in zip(CHUNK, array.shape, strict=True))
                group.create_dataset(key, data=array, chunks=chunks, compression="lzf", shuffle=True)
            hashes.append(digest.hexdigest())
        content = repr((plan["side"], [float(v) for v in plan["spacing_mm"]], plan["data"], sorted(hashes)))
        file.attrs["content_sha256"] = hashlib.sha256(content.encode()).hexdigest()


def hash_crop(ct: np.ndarray) -> str:
    """SHA-256 of a crop's HU and its shape, by which it is known again; mirrored it is another."""
    return hashlib.sha256(repr(ct.shape).encode() + np.asarray(ct, "<i2").tobytes()).hexdigest()


class Dataset:
    """A training set that is open for reading; use it in a ``with`` block.

    Its hips' ``ct``, ``mask`` and ``distance_um`` are HDF5 datasets: indexing reads that window from the
    disk. Nothing is cached: HDF5 would keep a megabyte for each of hundreds of hips. ``sha256`` is that of
    the contents.
    """

    def __init__(self, path):
        try:
            self.file = h5py.File(path, "r", rdcc_nbytes=0)
            if self.file.attrs["format"] != FORMAT:
                raise KeyError(f"format {self.file.attrs['format']}, not {FORMAT}")
            self.side, self.data = (str(self.file.attrs[key]) for key in ("side", "data"))
            self.sha256 = str(self.file.attrs["content_sha256"])
            self.spacing_mm = tuple(float(v) for v in self.file.attrs["spacing_mm"])
        except (OSError, KeyError) as error:
            raise ModelError(f"{path} is no training set ({error}): build it again.") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def hips(self, sex: str | None = None) -> list[Hip]:
        """The hips of all, or of one sex, in the file's (alphabetical) order."""
        found = []
        for group in self.file.values():
            a = group.attrs
            if sex in (None, a["sex"]):
                age = None if np.isnan(a["age"]) else float(a["age"])
                arrays = (group["ct"], group["mask"])
                known = (a["sex"], age, int(a["fold"]), a["patient"], tuple(map(float, a["spacing_mm"])))
                found.append(Hip(a["subject"], a["side"], *arrays, *known, group["distance_um"]))
        return found
