"""Material laws: equivalent density to ash density to Young's modulus, and materials in bins.

A law is data (``resources/materials``) with its constants, units, range and citation. It states the
density it takes and gives, and refuses any other: K2HPO4- and HA-equivalent, ash and apparent densities
differ by 10% to 70%, and so would the stiffness.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hipqct.errors import MeshError

MG_CM3_PER_G_CM3 = 1000.0


@dataclass(frozen=True)
class DensityLaw:
    """Linear law from one density to another: ``gives = slope * takes + intercept``, in g/cm3."""

    name: str
    takes: str
    gives: str
    slope: float
    intercept_g_cm3: float
    citation: str
    confidence: str


@dataclass(frozen=True)
class ModulusLaw:
    """Young's modulus in MPa by pieces over density in g/cm3: ``factor * density**exponent + offset``.

    Args:
        pieces: ``(up_to_g_cm3, factor_mpa, exponent, offset_mpa)`` ascending; the last goes up to infinity.
        valid_g_cm3: range of the source's specimens, in which the law was measured.
    """

    name: str
    takes: str
    pieces: tuple[tuple[float, float, float, float], ...]
    valid_g_cm3: tuple[float, float]
    citation: str
    confidence: str


@dataclass(frozen=True)
class MaterialBins:
    """Elements by modulus: ``bin_of_cell`` indexes ``modulus_mpa``, the mean of each bin, ascending."""

    bin_of_cell: np.ndarray
    modulus_mpa: np.ndarray
    largest_error: float


def law_from_record(name: str, record: dict) -> DensityLaw | ModulusLaw:
    """A law from its data record (see ``resources/materials/README.md`` for the keys).

    Raises:
        MeshError: a key is missing, unknown or not a number where it must be.
    """
    record = dict(record)
    kind = record.pop("kind", None)
    record.pop("note", None)
    try:
        if kind == "density":
            return DensityLaw(name, **record)
        if kind == "modulus":
            pieces = tuple(_piece(piece) for piece in record.pop("pieces"))
            low, high = (float(limit) for limit in record.pop("valid_g_cm3"))
            law = ModulusLaw(name, pieces=pieces, valid_g_cm3=(low, high), **record)
            if not _ascending_to_infinity(pieces):
                raise ValueError("pieces must ascend, and only the last has no up_to_g_cm3")
            return law
    except (TypeError, ValueError, KeyError) as error:
        raise MeshError(
            f"material law {name} cannot be read: {error}; compare it with the shipped laws"
        ) from error
    raise MeshError(f"material law {name}: kind must be density or modulus, got {kind!r}")


def _piece(piece: dict) -> tuple[float, float, float, float]:
    limit = piece.get("up_to_g_cm3")
    numbers = (piece["factor_mpa"], piece["exponent"], piece.get("offset_mpa", 0.0))
    return (math.inf if limit is None else float(limit), *(float(number) for number in numbers))


def _ascending_to_infinity(pieces) -> bool:
    limits = [piece[0] for piece in pieces]
    return bool(limits) and limits[-1] == math.inf and all(a < b for a, b in pairwise(limits))


def convert_density(density_g_cm3, basis: str, laws: list[DensityLaw]) -> tuple[np.ndarray, str]:
    """Pass a density in g/cm3 of some basis (``K2HPO4``, ``HA``, ``ash``, ...) through laws in order.

    Returns:
        The density in g/cm3 and the basis it then has.

    Raises:
        MeshError: a law takes a density of another basis.
    """
    for law in laws:
        _check_basis(law, basis)
        density_g_cm3 = law.slope * np.asarray(density_g_cm3, dtype=float) + law.intercept_g_cm3
        basis = law.gives
    return np.asarray(density_g_cm3, dtype=float), basis


def youngs_modulus_mpa(law: ModulusLaw, density_g_cm3, basis: str, minimum_mpa: float) -> np.ndarray:
    """Young's modulus in MPa, at least ``minimum_mpa``; densities at or below zero get the minimum.

    Raises:
        MeshError: the density is of another basis than the law's, or the minimum is not above zero.
    """
    _check_basis(law, basis)
    if not minimum_mpa > 0:
        raise MeshError(
            f"the minimum modulus must be above 0 MPa, got {minimum_mpa:g}: mend it in the configuration"
        )
    density_g_cm3 = np.asarray(density_g_cm3, dtype=float)
    positive = np.maximum(density_g_cm3, 0.0)
    piece = np.searchsorted([limit for limit, *_ in law.pieces[:-1]], positive, side="left")
    factor, exponent, offset = (np.array([p[i] for p in law.pieces])[piece] for i in (1, 2, 3))
    modulus_mpa = factor * positive**exponent + offset
    return np.where(density_g_cm3 > 0, np.maximum(modulus_mpa, minimum_mpa), minimum_mpa)


def share_outside(law: ModulusLaw, density_g_cm3, weights=None) -> float:
    """Share (0 to 1) of the densities, by weight, that lie outside the range the law was measured in."""
    density_g_cm3 = np.asarray(density_g_cm3)
    low, high = law.valid_g_cm3
    return float(np.average((density_g_cm3 < low) | (density_g_cm3 > high), weights=weights))


def bin_modulus(modulus_mpa: np.ndarray, width: float) -> MaterialBins:
    """Group moduli into geometric bins of relative ``width`` (0.05 is 5%), each with the mean of its members.

    The first bin starts at the smallest modulus. A width of 0 gives every distinct modulus a bin of its own.
    ``largest_error`` is the largest relative difference between an element's modulus and its bin's.
    """
    if not 0 <= width < 1:
        raise ValueError(f"width must be 0 or more and below 1, got {width}")
    if width == 0:
        distinct, bin_of_cell = np.unique(modulus_mpa, return_inverse=True)
        return MaterialBins(bin_of_cell, distinct, 0.0)
    place = np.floor(np.log(modulus_mpa / modulus_mpa.min()) / math.log1p(width)).astype(int)
    _, bin_of_cell = np.unique(place, return_inverse=True)
    mean_mpa = np.bincount(bin_of_cell, modulus_mpa) / np.bincount(bin_of_cell)
    error = np.abs(mean_mpa[bin_of_cell] / modulus_mpa - 1)
    return MaterialBins(bin_of_cell, mean_mpa, float(error.max()))


def material_name(index: int) -> str:
    """Name of the element set and the material of a bin, counted from 0."""
    return f"MAT_{index + 1:04d}"


def _check_basis(law: DensityLaw | ModulusLaw, basis: str):
    if law.takes != basis:
        raise MeshError(
            f"material law {law.name} takes {law.takes} density, got {basis}: "
            "choose laws that fit the scan's calibration in the configuration"
        )
