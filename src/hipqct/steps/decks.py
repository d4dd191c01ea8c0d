"""Meshes with materials and load cases to the files of a hip's mesh folder."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from hipqct.anatomy import FemurFrame
from hipqct.io.calculix import write_load_case
from hipqct.io.fe_formats import WRITERS
from hipqct.io.files import replace_when_done
from hipqct.io.meshes import write_inp, write_vtu
from hipqct.loads import LoadCase, hinge_axis, push_direction
from hipqct.material import SOLVED_MODULUS, MaterialBins
from hipqct.mesh import DISTAL_SLAB, Mesh

LOAD_CASES = "load_cases"


def write_model(
    name: str,
    mesh: Mesh,
    bins: MaterialBins | None,
    facts: dict,
    formats: list[str],
    folder: Path,
) -> None:
    """Write ``{name}.inp``, ``{name}.vtu`` and other formats.

    Args:
        name: ``hex`` or ``tet``, the model's key in the facts of mesh.json.
        bins: None writes geometry without materials.
        formats: keys of `hipqct.io.fe_formats.WRITERS`.
    """
    header, ratio = _header(facts, name), facts["poissons_ratio"]
    write_inp(mesh, folder / f"{name}.inp", header, bins, ratio)
    for suffix in formats:
        WRITERS[suffix](mesh, folder / f"{name}.{suffix}", header, bins, ratio)
    write_vtu(mesh, folder / f"{name}.vtu", _cell_arrays(mesh, bins, facts["uncalibrated"]))


def remove_optional(folder: Path) -> None:
    """Remove models in formats of ``mesh/formats`` and load cases: what of them will be written is not known
    to the workflow, so nothing else removes those of an earlier export."""
    for suffix in WRITERS:
        for model in folder.glob(f"*.{suffix}"):
            model.unlink()
    for deck in (folder / LOAD_CASES).glob("*.inp"):
        deck.unlink()


def write_picture(mesh: Mesh, frame: FemurFrame | None, facts: dict, path: Path) -> None:
    """Draw the voxel model with its load cases (mesh.png)."""
    from hipqct.mesh_view import PNG_SETTINGS, draw_model

    marks = ["UNCALIBRATED"] if facts["uncalibrated"] else []
    lines = [
        f"{facts['side']} femur, {facts['hex']['elements']} cubes of {facts['hex']['cube_mm']:g} mm",
        *marks,
    ]
    flags = ", ".join(facts["flags"]) or "none"
    figure = draw_model(mesh, frame, facts["load_cases"], f"{'; '.join(lines)}; flags: {flags}")
    with replace_when_done(path) as temporary:
        figure.savefig(temporary, **PNG_SETTINGS)


def write_load_cases(
    name: str, mesh: Mesh, frame: FemurFrame, cases: list[LoadCase], facts: dict, folder: Path
) -> None:
    """Write ``load_cases/{name}_{case}.inp`` for every load case; the folder is there even without."""
    (folder / LOAD_CASES).mkdir(parents=True, exist_ok=True)
    for case in cases:
        push = push_direction(case, frame)
        hinge = hinge_axis(case, frame) if case.distal == "hinged" else None
        header = [*_header(facts, name), *_case_lines(case, push, hinge, frame, facts["distal_slab_mm"])]
        path = folder / LOAD_CASES / f"{name}_{case.name}.inp"
        write_load_case(mesh, path, f"../{name}.inp", case, push, hinge, header)


def load_case_facts(cases: list[LoadCase], frame: FemurFrame) -> dict:
    """Every load case with its directions and sets, for mesh.json."""
    return {
        case.name: asdict(case)
        | {
            "push": push_direction(case, frame).tolist(),
            "hinge": hinge_axis(case, frame).tolist() if case.distal == "hinged" else None,
            "head_set": case.head_set,
            "trochanter_set": case.trochanter_set,
        }
        for case in cases
    }


def _case_lines(case: LoadCase, push, hinge, frame: FemurFrame, slab_mm: float) -> list[str]:
    axes = "the shaft's own" if frame.has_own_shaft else "the scan's, for want of 20 mm of shaft"
    held = "held" if hinge is None else "rigid, free to turn about {:.6f} {:.6f} {:.6f}".format(*hinge)
    lines = [
        f"load case {case.name}: {case.source}",
        f"push {case.angle_to_shaft_deg:g} deg from the shaft (downwards), plane of neck and shaft turned "
        f"{case.posterior_deg:g} deg to the back: {push[0]:.6f} {push[1]:.6f} {push[2]:.6f}",
        f"shaft axis: {axes}",
        f"{case.head_set}: frictionless rigid cap, {case.head_cap_deg:g} deg about the push, moved by "
        f"{case.displacement_mm:g} mm; the force is the sum of its reactions",
        f"{DISTAL_SLAB}, lowest {slab_mm:g} mm: {held}",
    ]
    if case.trochanter_set:
        lines.append(
            f"{case.trochanter_set}: frictionless plate square to the push, bone within "
            f"{case.contact_depth_mm:g} mm of its surface's farthest point"
        )
    return lines


def _header(facts: dict, name: str) -> list[str]:
    """Lines on top of the deck: what it is, units, frame, calibration, laws with their sources."""
    mesh = facts[name]
    kinds = {
        "hex": "voxel hexahedral model of a femur, C3D8",
        "tet": "quadratic tetrahedral model of a femur, C3D10",
    }
    sizes, integration = _size_lines(mesh, name)
    depths = ", ".join(f"{key} {depth_mm:.2f}" for key, depth_mm in mesh["set_depths_mm"].items())
    lines = [
        f"{facts['software']}: {kinds[name]}",
        "units: mm, N, MPa",
        "frame: LPS of the scan (x to the left, y to the back, z to the head)",
        sizes,
        f"{mesh['nodes']} nodes, {mesh['elements']} elements",
        "flags: " + (", ".join(facts["flags"]) or "none"),
        f"node sets reach into the bone (mm): {depths}",
    ]
    if facts["anatomy"] is not None:
        asked = facts["distal_cut_mm"]
        cut = "as scanned" if asked is None else f"to be cut at {asked:g} mm"
        lines.append(
            f"the bone ends {facts['anatomy']['below_head_mm']:.1f} mm below the head's centre, {cut}"
        )
    return [*lines, *integration, *_material_lines(facts, name)]


def _size_lines(mesh: dict, name: str) -> tuple[str, list[str]]:
    """The elements' size and quality, and how tetrahedra were integrated."""
    if name == "hex":
        return (
            f"cubes of {mesh['cube_mm']:g} mm, bone fraction at least {mesh['bone_fraction_min']:g} "
            f"of the {mesh['shape']}"
        ), []
    beyond = "the bone's go on" if mesh["beyond_mask"] == "extend" else "the scan's"
    return (
        f"edges of about {mesh['size_mm']:g} mm, dihedral angles from {mesh['min_dihedral_deg']:.1f} deg"
    ), [f"integrated at {mesh['points_per_edge']} points per edge; values beyond the mask: {beyond}"]


def _material_lines(facts: dict, name: str) -> list[str]:
    """Calibration, laws and materials, or that there are none."""
    shared, material = facts["material"], facts[name]["material"]
    if shared is None:
        modulus_mpa = facts["uncalibrated_modulus_mpa"]
        materials = f"one modulus of {modulus_mpa:g} MPa for all" if modulus_mpa else "no materials"
        return [f"UNCALIBRATED: the scan has no density calibration, so this deck has {materials}"]
    scan = shared["calibration"]
    laws = [*shared["density_laws"], shared["modulus_law"]]
    part = "the part of each cube inside the mask" if name == "hex" else "each element"
    return [
        f"density mg/cm3 {scan['basis']} = {_linear(scan['slope'], 'HU', scan['intercept'])}",
        *(f"law {law['name']}: {_formula(law)}; {law['citation']}; {law['confidence']}" for law in laws),
        f"mean {shared['average']} over {part}",
        f"minimum modulus {shared['minimum_modulus_mpa']:g} MPa",
        f"Poisson's ratio {shared['poissons_ratio']:g}",
        f"{material['bins']} materials in bins of {100 * shared['bin_width']:g}%, mean of the bin, "
        f"largest binning error {material['largest_binning_error_percent']:.2f}%",
    ]


def _linear(slope: float, variable: str, intercept: float) -> str:
    return f"{slope:.9g} {variable} {'-' if intercept < 0 else '+'} {abs(intercept):.9g}"


def _formula(law: dict) -> str:
    """A law's constants as they are listed in mesh.json, and the range of its specimens."""
    if "pieces" in law:
        variable, pieces = f"rho_{law['takes']}", []
        for piece in law["pieces"]:
            power = "" if piece["exponent"] == 1 else f"^{piece['exponent']:g}"
            value = f"{piece['factor_mpa']:g} {variable}{power}"
            if piece["offset_mpa"]:
                value = _linear(piece["factor_mpa"], f"{variable}{power}", piece["offset_mpa"])
            limit = piece["up_to_g_cm3"]
            pieces.append(f"{value} up to {limit:g}" if limit is not None else value)
        formula = f"E (MPa) = {', then '.join(pieces)}"
    else:
        formula = (
            f"rho_{law['gives']} = {_linear(law['slope'], 'rho_' + law['takes'], law['intercept_g_cm3'])}"
        )
    low, high = ("unknown" if end is None else f"{end:g}" for end in law["valid_g_cm3"])
    return f"{formula} ({law['unit']}, specimens from {low} to {high})"


def _cell_arrays(mesh: Mesh, bins: MaterialBins | None, uncalibrated: bool) -> dict:
    """Cell arrays of the VTU: the mesh's own, number and modulus of the material, ``uncalibrated``."""
    arrays = dict(mesh.cell_data)
    if uncalibrated:
        arrays["uncalibrated"] = np.ones(len(mesh.cells), np.uint8)
    if bins is not None:
        arrays["material"] = (bins.bin_of_cell + 1).astype(np.int32)
        arrays[SOLVED_MODULUS] = bins.modulus_mpa[bins.bin_of_cell]
    return arrays
