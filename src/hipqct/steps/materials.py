"""Density and stiffness of a mesh's elements from a calibrated scan, and what was used for them."""

from dataclasses import asdict

import numpy as np

from hipqct.density import bone_mineral_content_mg, calibrate
from hipqct.errors import MeshError, SheetError
from hipqct.image import Image
from hipqct.io.laws import read_laws
from hipqct.mapping import mean_over_tetrahedra
from hipqct.material import (
    MG_CM3_PER_G_CM3,
    DensityLaw,
    MaterialBins,
    ModulusLaw,
    bin_modulus,
    convert_density,
    share_outside,
    youngs_modulus_mpa,
)
from hipqct.mesh import HexMesh, TetMesh, tet_volumes_mm3


class Calibration:
    """A scan's calibration with the laws that lead from it to Young's modulus.

    Args:
        slope, intercept: mg/cm3 of ``basis`` equivalent per HU, and mg/cm3.
        options: of `hipqct.steps.mesh`.

    Raises:
        MeshError: a law is missing, or of the wrong kind.
    """

    def __init__(self, slope: float, intercept: float, basis: str, options: dict):
        self.slope, self.intercept, self.basis, self.options = slope, intercept, basis, options
        self.density_laws, self.modulus_law = _choose_laws(basis, options)

    def density_mg_cm3(self, hu: np.ndarray) -> np.ndarray:
        """Density in mg/cm3 of the scan's basis."""
        return calibrate(hu, self.slope, self.intercept)

    def modulus_mpa(self, hu: np.ndarray) -> np.ndarray:
        """Young's modulus by the laws, at least the option's minimum."""
        density_g_cm3, basis = self._law_density_g_cm3(self.density_mg_cm3(hu))
        return youngs_modulus_mpa(self.modulus_law, density_g_cm3, basis, self.options["minimum_modulus_mpa"])

    def _law_density_g_cm3(self, density_mg_cm3):
        return convert_density(density_mg_cm3 / MG_CM3_PER_G_CM3, self.basis, self.density_laws)

    def check_mask(self, ct: Image, mask: Image) -> float:
        """Mineral (mg) in the mask; SheetError when its mean density is not positive."""
        mean_mg_cm3 = float(self.density_mg_cm3(ct.array[mask.array]).mean())
        if mean_mg_cm3 <= 0:
            raise SheetError(
                f"slope {self.slope:g} and intercept {self.intercept:g} give a mean density "
                f"of {mean_mg_cm3:.1f} mg/cm3 in the mask: mend the calibration in the sample sheet"
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

    def element_facts(self, mesh: HexMesh | TetMesh, bins: MaterialBins, volumes_mm3: np.ndarray) -> dict:
        """How density and moduli of a mesh's elements came out."""
        modulus_mpa, density_mg_cm3 = mesh.cell_data["youngs_modulus_mpa"], mesh.cell_data["density_mg_cm3"]
        law_density_g_cm3, _ = self._law_density_g_cm3(density_mg_cm3)
        share = volumes_mm3 / volumes_mm3.sum()
        at_minimum = modulus_mpa <= self.options["minimum_modulus_mpa"]
        outside = share_outside(self.modulus_law, law_density_g_cm3, share)
        return {
            "modulus_min_mpa": float(modulus_mpa.min()),
            "modulus_max_mpa": float(modulus_mpa.max()),
            "at_minimum_percent": 100 * float(share[at_minimum].sum()),
            "outside_validity_percent": 100 * outside,
            "bins": len(bins.modulus_mpa),
            "largest_binning_error_percent": 100 * bins.largest_error,
            "mineral_mesh_mg": bone_mineral_content_mg((density_mg_cm3 * share).sum(), volumes_mm3.sum()),
        }


def add_hex_materials(mesh: HexMesh, calibration: Calibration) -> tuple[MaterialBins, dict]:
    """Density per cube from its mean ``hu``, and modulus by the law where the cube has no mean of it yet."""
    return _add_materials(mesh, calibration, np.full(len(mesh.cells), mesh.facts["cube_mm"] ** 3))


def add_tet_materials(mesh: TetMesh, ct: Image, calibration: Calibration | None, parts: int):
    """CT number, density and modulus per tetrahedron, integrated over it; bins and facts, None uncalibrated.

    ``average: density`` takes the law of the element's mean density (Bonemat's version 2), ``modulus`` the
    mean of the law over the element (version 3; Taddei et al. 2007, Med Eng Phys 29:973).

    Args:
        parts: of an edge, for the integration.
    """
    of_points = {"hu": lambda hu: hu}
    if calibration and calibration.options["average"] == "modulus":
        of_points["youngs_modulus_mpa"] = calibration.modulus_mpa
    mesh.cell_data.update(mean_over_tetrahedra(mesh, ct, parts, of_points))
    if calibration is None:
        return None, None
    return _add_materials(mesh, calibration, tet_volumes_mm3(mesh.points_mm, mesh.cells))


def _add_materials(mesh: HexMesh | TetMesh, calibration: Calibration, volumes_mm3: np.ndarray):
    # The calibration is linear: the mean density is the density of the mean CT number.
    mesh.cell_data["density_mg_cm3"] = calibration.density_mg_cm3(mesh.cell_data["hu"])
    if "youngs_modulus_mpa" not in mesh.cell_data:
        mesh.cell_data["youngs_modulus_mpa"] = calibration.modulus_mpa(mesh.cell_data["hu"])
    bins = bin_modulus(mesh.cell_data["youngs_modulus_mpa"], calibration.options["bin_width"])
    return bins, calibration.element_facts(mesh, bins, volumes_mm3)


def _choose_laws(basis: str, options: dict) -> tuple[list[DensityLaw], ModulusLaw]:
    """The laws that the options name for a calibration's basis; MeshError where one is missing."""
    laws = read_laws(options["laws_folder"])
    if basis not in options["density_laws"]:
        raise MeshError(
            f"no density laws for a calibration in {basis}: name some as density_laws in the configuration"
        )
    chosen = []
    named = [(name, DensityLaw) for name in options["density_laws"][basis]] + [
        (options["modulus_law"], ModulusLaw)
    ]
    for name, kind in named:
        if not isinstance(laws.get(name), kind):
            names = ", ".join(sorted(key for key, law in laws.items() if isinstance(law, kind)))
            raise MeshError(f"material law {name} is unknown or of the wrong kind: choose from {names}")
        chosen.append(laws[name])
    return chosen[:-1], chosen[-1]


def _law_facts(law: ModulusLaw) -> dict:
    facts = asdict(law)
    keys = ("up_to_g_cm3", "factor_mpa", "exponent", "offset_mpa")
    facts["pieces"] = [dict(zip(keys, piece, strict=True)) for piece in law.pieces]
    facts["pieces"][-1]["up_to_g_cm3"] = None
    return facts
