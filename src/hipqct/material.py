"""Material laws: equivalent density to ash density to Young's modulus, and materials in bins.

A law is data (``resources/materials``) with its constants, unit, range and citation. It states the
density it takes and gives, and refuses one of another basis or unit: K2HPO4- and HA-equivalent, ash and
apparent densities differ by 10% to 70%, and so would the stiffness.
"""

import math
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from hipqct.errors import MeshError

MG_CM3_PER_G_CM3 = 1000.0
UNIT = "g/cm3"  # of every law: their constants are in it
# Cell array of the binned modulus, which the decks hold, beside the element's own ``youngs_modulus_mpa``.
SOLVED_MODULUS = "material_modulus_mpa"


@dataclass(frozen=True)
class Density:
    """Densities with what they are of (``K2HPO4``, ``HA``, ``ash``, ``apparent``, ...) and their unit."""

    values: np.ndarray
    basis: str
    unit: str


@dataclass(frozen=True)
class DensityLaw:
    """Linear law from one density to another: ``gives = slope * takes + intercept``.

    Args:
        takes, gives: bases; unit: of both.
        valid_g_cm3: range of the density taken in which the law was measured; None for an end not known.
    """

    name: str
    takes: str
    gives: str
    unit: str
    slope: float
    intercept_g_cm3: float
    valid_g_cm3: tuple[float | None, float | None]
    citation: str
    confidence: str


@dataclass(frozen=True)
class ModulusLaw:
    """Young's modulus in MPa by pieces over density: ``factor * density**exponent + offset``.

    Args:
        unit: of the density taken.
        pieces: ``(up_to_g_cm3, factor_mpa, exponent, offset_mpa)`` ascending; the last goes up to infinity.
        valid_g_cm3: range of the source's specimens; None for an end not known.
    """

    name: str
    takes: str
    unit: str
    pieces: tuple[tuple[float, float, float, float], ...]
    valid_g_cm3: tuple[float | None, float | None]
    citation: str
    confidence: str


@dataclass(frozen=True)
class MaterialBins:
    """Elements by modulus: ``bin_of_cell`` indexes ``modulus_mpa``, the mean of each bin, ascending."""

    bin_of_cell: np.ndarray
    modulus_mpa: np.ndarray
    largest_error: float


KINDS = {"density": DensityLaw, "modulus": ModulusLaw}


def law_from_record(name: str, record: dict) -> DensityLaw | ModulusLaw:
    """A law from its data record (see ``resources/materials/README.md`` for the keys).

    Raises:
        MeshError: a key is missing, unknown or holds what it must not.
    """
    try:
        if not isinstance(record, dict) or record.get("kind") not in KINDS:
            raise ValueError('must be an object with "kind": "density" or "kind": "modulus"')
        law = KINDS[record["kind"]]
        values = {key: value for key, value in record.items() if key not in ("kind", "note")}
        known = {field.name for field in fields(law)} - {"name"}
        for word, keys in (("missing", known - set(values)), ("unknown", set(values) - known)):
            if keys:
                raise ValueError(f"{', '.join(sorted(keys))} {word}")
        return law(name, **{key: READERS.get(key, _text)(key, value) for key, value in values.items()})
    except ValueError as error:
        raise MeshError(
            f"material law {name}: {error}; resources/materials/README.md explains the keys"
        ) from error


def _text(key: str, value) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be text, got {value!r}")
    return value


def _unit(key: str, value) -> str:
    if value != UNIT:
        raise ValueError(f"{key} must be {UNIT}, got {value!r}")
    return value


def _number(key: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be a number, got {value!r}")
    return float(value)


def _range(key: str, value) -> tuple[float | None, float | None]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{key} must be [low, high], null for an end not known, got {value!r}")
    low, high = (None if end is None else _number(key, end) for end in value)
    if low is not None and high is not None and low >= high:
        raise ValueError(f"{key} must ascend, got {value}")
    return low, high


def _pieces(key: str, value) -> tuple[tuple[float, float, float, float], ...]:
    known = {"up_to_g_cm3", "factor_mpa", "exponent", "offset_mpa"}
    if not isinstance(value, list) or not all(isinstance(p, dict) and set(p) <= known for p in value):
        raise ValueError(f"{key} must be a list of objects of {', '.join(sorted(known))}, got {value!r}")
    defaults = {"up_to_g_cm3": None, "offset_mpa": 0.0, "factor_mpa": None, "exponent": None}
    pieces = []
    for piece in (defaults | piece for piece in value):
        limit = piece.pop("up_to_g_cm3")
        numbers = [_number(name, piece[name]) for name in ("factor_mpa", "exponent", "offset_mpa")]
        pieces.append((math.inf if limit is None else _number("up_to_g_cm3", limit), *numbers))
    limits = [piece[0] for piece in pieces]
    if not limits or limits[-1] != math.inf or not all(a < b for a, b in pairwise(limits)):
        raise ValueError(f"{key} must ascend, and the last alone has no up_to_g_cm3")
    return tuple(pieces)


READERS = {
    "unit": _unit,
    "slope": _number,
    "intercept_g_cm3": _number,
    "valid_g_cm3": _range,
    "pieces": _pieces,
}


def convert_density(density: Density, laws: list[DensityLaw]) -> Density:
    """Pass a density through laws in order.

    Raises:
        MeshError: a law takes a density of another basis or unit.
    """
    for law in laws:
        _check_density(law, density)
        values = law.slope * np.asarray(density.values, dtype=float) + law.intercept_g_cm3
        density = Density(values, law.gives, law.unit)
    return density


def youngs_modulus_mpa(law: ModulusLaw, density: Density, minimum_mpa: float) -> np.ndarray:
    """Young's modulus in MPa, at least ``minimum_mpa``; densities at or below zero get the minimum.

    Raises:
        MeshError: the density is of another basis or unit than the law's, or the minimum is not above zero.
    """
    _check_density(law, density)
    if not minimum_mpa > 0:
        raise MeshError(
            f"the minimum modulus must be above 0 MPa, got {minimum_mpa:g}: correct it in the configuration"
        )
    density_g_cm3 = np.asarray(density.values, dtype=float)
    positive = np.maximum(density_g_cm3, 0.0)
    piece = np.searchsorted([limit for limit, *_ in law.pieces[:-1]], positive, side="left")
    factor, exponent, offset = (np.array([p[i] for p in law.pieces])[piece] for i in (1, 2, 3))
    modulus_mpa = factor * positive**exponent + offset
    return np.where(density_g_cm3 > 0, np.maximum(modulus_mpa, minimum_mpa), minimum_mpa)


def outside_validity(law: DensityLaw | ModulusLaw, density: Density) -> np.ndarray:
    """Which densities lie outside the range the law was measured in; an end not known bounds nothing.

    Raises:
        MeshError: the density is of another basis or unit than the law takes.
    """
    _check_density(law, density)
    density_g_cm3 = np.asarray(density.values, dtype=float)
    low, high = law.valid_g_cm3
    below = density_g_cm3 < (-math.inf if low is None else low)
    return below | (density_g_cm3 > (math.inf if high is None else high))


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


def _check_density(law: DensityLaw | ModulusLaw, density: Density):
    if (law.takes, law.unit) != (density.basis, density.unit):
        raise MeshError(
            f"material law {law.name} takes {law.takes} density in {law.unit}, got {density.basis} in "
            f"{density.unit}: choose laws that fit the scan's calibration in the configuration"
        )
