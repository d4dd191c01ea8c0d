"""Density and stiffness of a mesh's elements from a calibrated scan, and what was used for them."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np

from hipqct.density import bone_mineral_content_mg, calibrate
from hipqct.errors import SheetError
from hipqct.image import Image
from hipqct.mapping import mean_over_tetrahedra
from hipqct.material import (
    MG_CM3_PER_G_CM3,
    UNIT,
    Density,
    DensityLaw,
    MaterialBins,
    ModulusLaw,
    bin_modulus,
    convert_density,
    outside_validity,
    youngs_modulus_mpa,
)
from hipqct.mesh import Mesh, tet_volumes_mm3
from hipqct.mesh_options import laws_for

AT_MINIMUM = "at_minimum"  # cell array: share of an element (0 to 1) with the minimum modulus


class Calibration:
    """A scan's calibration with the laws that lead from it to Young's modulus.

    Args:
        slope, intercept: mg/cm3 of ``basis`` equivalent per HU, and mg/cm3.
        options: the configuration's ``mesh``.

    Raises:
        MeshError: a law is missing, or of the wrong kind.
    """

    def __init__(self, slope: float, intercept: float, basis: str, options: dict):
        self.slope, self.intercept, self.basis, self.options = slope, intercept, basis, options
        self.density_laws, self.modulus_law = laws_for(options, basis)

    def density_mg_cm3(self, hu: np.ndarray) -> np.ndarray:
        """Density in mg/cm3 of the scan's basis."""
        return calibrate(hu, self.slope, self.intercept)

    def modulus_mpa(self, hu: np.ndarray) -> np.ndarray:
        """Young's modulus by the laws, at least the option's minimum."""
        density = convert_density(self._scan_density(hu), self.density_laws)
        return youngs_modulus_mpa(self.modulus_law, density, self.options["minimum_modulus_mpa"])

    def is_at_minimum(self, hu: np.ndarray) -> np.ndarray:
        """1 where the modulus is the option's minimum, else 0."""
        return (self.modulus_mpa(hu) <= self.options["minimum_modulus_mpa"]).astype(float)

    def is_outside(self, step: int, hu: np.ndarray) -> np.ndarray:
        """1 where what a law gets lies outside its range, else 0; ``step`` counts the laws from 0."""
        density = convert_density(self._scan_density(hu), self.density_laws[:step])
        return outside_validity(self.laws[step], density).astype(float)

    def fields(self) -> dict[str, Callable]:
        """What is wanted of every element, by name, as functions of the CT number.

        They apply to an element's mean CT number with ``average: density``; with ``modulus`` to the voxels,
        and elements get the means.
        """
        outside = {outside_name(law): partial(self.is_outside, step) for step, law in enumerate(self.laws)}
        return {"youngs_modulus_mpa": self.modulus_mpa, AT_MINIMUM: self.is_at_minimum, **outside}

    def voxel_fields(self) -> dict[str, Callable]:
        """Those of `fields` that are taken from the voxels."""
        return self.fields() if self.options["average"] == "modulus" else {}

    @property
    def laws(self) -> list[DensityLaw | ModulusLaw]:
        """All laws in order."""
        return [*self.density_laws, self.modulus_law]

    def _scan_density(self, hu: np.ndarray) -> Density:
        return Density(self.density_mg_cm3(hu) / MG_CM3_PER_G_CM3, self.basis, UNIT)

    def check_mask(self, ct: Image, mask: Image) -> float:
        """Mineral (mg) in the mask; SheetError when its mean density is not positive."""
        mean_mg_cm3 = float(self.density_mg_cm3(ct.array[mask.array]).mean())
        if mean_mg_cm3 <= 0:
            raise SheetError(
                f"slope {self.slope:g} and intercept {self.intercept:g} give a mean density "
                f"of {mean_mg_cm3:.1f} mg/cm3 in the mask: correct the calibration in the sample sheet"
            )
        return bone_mineral_content_mg(mean_mg_cm3, float(mask.array.sum()) * mask.voxel_volume_mm3)

    def facts(self) -> dict:
        """Calibration and laws with their sources, for mesh.json."""
        shared = ("average", "poissons_ratio", "minimum_modulus_mpa", "bin_width")
        return {
            "calibration": {"slope": self.slope, "intercept": self.intercept, "basis": self.basis},
            "density_laws": [asdict(law) for law in self.density_laws],
            "modulus_law": _law_facts(self.modulus_law),
            **{key: self.options[key] for key in shared},
        }

    def element_facts(self, mesh: Mesh, bins: MaterialBins, volumes_mm3: np.ndarray) -> dict:
        """How density and moduli of a mesh's elements came out; shares are of the mesh's volume."""
        modulus_mpa, density_mg_cm3 = mesh.cell_data["youngs_modulus_mpa"], mesh.cell_data["density_mg_cm3"]
        share = volumes_mm3 / volumes_mm3.sum()
        outside_percent = {
            law.name: 100 * float(share @ mesh.cell_data[outside_name(law)]) for law in self.laws
        }
        return {
            "modulus_min_mpa": float(modulus_mpa.min()),
            "modulus_max_mpa": float(modulus_mpa.max()),
            "at_minimum_percent": 100 * float(share @ mesh.cell_data[AT_MINIMUM]),
            "outside_validity_percent": outside_percent[self.modulus_law.name],
            "outside_validity_percent_by_law": outside_percent,
            "bins": len(bins.modulus_mpa),
            "largest_binning_error_percent": 100 * bins.largest_error,
            "mineral_mesh_mg": bone_mineral_content_mg((density_mg_cm3 * share).sum(), volumes_mm3.sum()),
        }


def outside_name(law: DensityLaw | ModulusLaw) -> str:
    """Cell array of the share of an element (0 to 1) for which a law is used outside its range."""
    return f"outside_{law.name}"


def add_hex_materials(mesh: Mesh, calibration: Calibration) -> tuple[MaterialBins, dict]:
    """Density per cube from its mean ``hu``, and the calibration's fields where it has no means of them."""
    return _add_materials(mesh, calibration, np.full(len(mesh.cells), mesh.facts["cube_mm"] ** 3))


def add_tet_materials(
    mesh: Mesh, ct: Image, calibration: Calibration | None, parts: int
) -> tuple[MaterialBins | None, dict | None]:
    """CT number, density and modulus per tetrahedron, integrated over it; bins and facts, None uncalibrated.

    ``average: density`` takes the law of the element's mean density (Bonemat's version 2), ``modulus`` the
    mean over the element of the voxels' moduli (version 3; Taddei et al. 2007, Med Eng Phys 29:973).

    Args:
        parts: of an edge, for the integration.
    """
    of_voxels = {"hu": lambda hu: hu} | (calibration.voxel_fields() if calibration else {})
    mesh.cell_data.update(mean_over_tetrahedra(mesh, ct, parts, of_voxels))
    if calibration is None:
        return None, None
    return _add_materials(mesh, calibration, tet_volumes_mm3(mesh.points_mm, mesh.cells))


def _add_materials(
    mesh: Mesh, calibration: Calibration, volumes_mm3: np.ndarray
) -> tuple[MaterialBins, dict]:
    # The calibration is linear: the mean density is the density of the mean CT number.
    mesh.cell_data["density_mg_cm3"] = calibration.density_mg_cm3(mesh.cell_data["hu"])
    for name, function in calibration.fields().items():
        if name not in mesh.cell_data:
            mesh.cell_data[name] = function(mesh.cell_data["hu"])
    bins = bin_modulus(mesh.cell_data["youngs_modulus_mpa"], calibration.options["bin_width"])
    return bins, calibration.element_facts(mesh, bins, volumes_mm3)


def _law_facts(law: ModulusLaw) -> dict:
    facts = asdict(law)
    keys = ("up_to_g_cm3", "factor_mpa", "exponent", "offset_mpa")
    facts["pieces"] = [dict(zip(keys, piece, strict=True)) for piece in law.pieces]
    facts["pieces"][-1]["up_to_g_cm3"] = None
    return facts
