"""Mask to meshes: the closed surface, the voxel hexahedral and the quadratic tetrahedral model."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import hipqct
from hipqct.anatomy import FemurFrame, find_frame
from hipqct.density import bone_mineral_content_mg
from hipqct.errors import AnatomyError, MeshError, SheetError
from hipqct.gates import (
    check_gates,
    head_above_mask_mm,
    hex_facts,
    mask_facts,
    missing_mm,
    outline_facts,
    surface_facts,
    tet_facts,
)
from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.io.files import write_json
from hipqct.io.images import read_image
from hipqct.io.meshes import write_stl, write_vtp
from hipqct.loads import LoadCase, add_load_sets, contact_radii_mm
from hipqct.mapping import extend_beyond
from hipqct.material import MaterialBins, bin_modulus
from hipqct.mesh import Mesh, Surface
from hipqct.solid import cut_below, share_above, solid_mask
from hipqct.steps.decks import (
    load_case_facts,
    remove_optional,
    write_load_cases,
    write_model,
    write_picture,
)
from hipqct.steps.materials import Calibration, add_hex_materials, add_tet_materials
from hipqct.surface import LevelSet, extract_surface, smooth_level_set
from hipqct.tetrahedra import build_tetrahedra


def export_mesh(
    mask_path,
    resampled_path,
    folder,
    side: str,
    options: dict,
    basis: str,
    slope: float | None = None,
    intercept: float | None = None,
) -> None:
    """Write surface.stl and .vtp, hex and tet as inp and VTU, a deck per load case, mesh.png and mesh.json.

    Without a calibration (``slope`` None) the models are geometry with CT numbers, marked ``uncalibrated`` in
    the decks' headers, the VTUs and the JSON: no materials and no load cases, unless the options give one
    modulus for all of the bone.

    Args:
        side: ``left`` or ``right``.
        options: the configuration's ``mesh``, checked against its schema.
        basis: what a calibration counts in, ``K2HPO4`` or ``HA``.
        slope, intercept: calibration in mg/cm3 per HU and mg/cm3 of ``basis`` equivalent.

    Raises:
        MeshError: the mask cannot be meshed, the laws do not fit, or a gate named in ``gate_errors`` fails.
        SheetError: the calibration is half given or impossible.
    """
    folder = Path(folder)
    remove_optional(folder)  # first, lest a failed export leave them
    calibration = _read_calibration(slope, intercept, basis, options)
    mask, ct = _read_images(mask_path, resampled_path)
    mask, frame, femur = _prepare_femur(ct, mask, side, calibration, options)
    facts = _shared_facts(side, calibration, options) | femur | {"outline": outline_facts(ct, mask)}
    if calibration:
        facts["material"] = calibration.facts() | {"mineral_mask_mg": calibration.check_mask(ct, mask)}
    _judge(facts, options)  # what the mask alone tells, before any work on meshes
    level_set = smooth_level_set(mask)
    surface = extract_surface(mask, level_set)
    models = {
        "hex": _build_hex(mask, ct, level_set, calibration, options),
        "tet": _build_tet(mask, ct, level_set, calibration, options),
    }
    cases = [LoadCase(name, **case) for name, case in options["load_cases"].items()]
    facts["contact_radii_mm"] = contact_radii_mm(cases, frame, surface) if frame else {}
    cases = cases if frame and models["hex"][1] else []
    for mesh, _, _ in models.values():
        add_load_sets(mesh, frame, cases, surface)
    facts |= _model_facts(surface, models, facts["mask"]["volume_mm3"])
    facts["load_cases"] = load_case_facts(cases, frame)
    facts |= _judge(facts, options)
    title = f"{facts['software']} surface, mm, LPS{', UNCALIBRATED' if facts['uncalibrated'] else ''}"
    write_stl(surface, folder / "surface.stl", title)
    write_vtp(surface, folder / "surface.vtp", title)
    for name, (mesh, bins, _) in models.items():
        write_model(name, mesh, bins, facts, options["formats"], folder)
        write_load_cases(name, mesh, frame, cases, facts, folder)
    write_picture(models["hex"][0], frame, facts, folder / "mesh.png")
    write_json(facts, folder / "mesh.json")


def _read_calibration(slope, intercept, basis: str, options: dict) -> Calibration | None:
    if (slope is None) != (intercept is None):
        raise SheetError(
            f"calibration needs both slope and intercept, got slope {slope} and intercept {intercept}: "
            "fill in or empty both in the sample sheet"
        )
    return None if slope is None else Calibration(slope, intercept, basis, options)


def _read_images(mask_path, resampled_path) -> tuple[Image, Image]:
    mask, ct = read_image(mask_path), read_image(resampled_path)
    if not mask.same_grid(ct):
        raise MeshError(
            f"{mask_path} is not on the grid of {resampled_path}: make both from the same scan again"
        )
    return mask, ct


def _prepare_femur(
    ct: Image, mask: Image, side: str, calibration: Calibration | None, options: dict
) -> tuple[Image, FemurFrame | None, dict]:
    """The mask as one solid, cut to length if asked; its frame; and what mesh.json tells of both.

    A femur is cut and measured by the frame of the whole, and described by that of what is left: shafts of
    one length have their axes from one stretch. Where too little is left for an axis, the whole's is kept.
    """
    mask = mask.with_array(solid_mask(mask.array))
    as_found = mask_facts(mask, options["distal_slab_mm"])
    frame, no_frame = _find_frame(mask, side)
    whole, to_cut = frame, None
    if frame and options["distal_cut_mm"] is not None:
        to_cut = _measure_to_cut(ct, mask, whole, calibration, options["distal_cut_mm"])
        cut = cut_below(mask, frame.head_center_mm, options["distal_cut_mm"])
        mask = mask.with_array(solid_mask(cut.array))
        frame, no_frame = _find_frame(mask, side)
        if frame and not frame.has_own_shaft:
            frame = replace(frame, shaft_axis=whole.shaft_axis, shaft_length_mm=whole.shaft_length_mm)
        # Of the cut femur, but for where the mask that it was cut from touches the image's other sides.
        ends = ("volume_mm3", "touches_lowest_slice", "distal_slab_share")
        of_cut = mask_facts(mask, options["distal_slab_mm"])
        as_found |= {key: of_cut[key] for key in ends}
    return (
        mask,
        frame,
        {
            "mask": as_found,
            "distal_cut_mm": options["distal_cut_mm"],
            "whole_below_head_mm": whole.below_head_mm if whole else None,
            "to_cut": to_cut,
            "anatomy": frame.facts() if frame else None,
            "head_above_mask_mm": head_above_mask_mm(mask, frame) if frame else None,
            "no_anatomical_frame": no_frame,
        },
    )


def _measure_to_cut(
    ct: Image, mask: Image, frame: FemurFrame, calibration: Calibration | None, distal_cut_mm: float
) -> dict:
    """Volume and mineral of a femur down to a plane so far below the head's centre.

    The plane is square to the shaft, or to the scan's axis where there is too little shaft, and takes its
    share of every voxel: the measures do not hang on how the leg lay, nor on where the slices fall.
    ``missing_mm`` tells how far above the plane the mask ends.
    """
    share = share_above(mask, frame.head_center_mm, frame.shaft_axis, distal_cut_mm)
    facts = {
        "square_to": "shaft" if frame.has_own_shaft else "scan",
        "volume_mm3": float(share.sum()) * mask.voxel_volume_mm3,
        "missing_mm": missing_mm(mask, frame, distal_cut_mm),
    }
    if calibration:
        mean_mg_cm3 = np.average(calibration.density_mg_cm3(ct.array[mask.array]), weights=share)
        facts["mineral_mg"] = bone_mineral_content_mg(mean_mg_cm3, facts["volume_mm3"])
    return facts


def _shared_facts(side: str, calibration: Calibration | None, options: dict) -> dict:
    """What mesh.json tells of both models before they are made."""
    return {
        "software": f"hipqct {hipqct.__version__}",
        "frame": "LPS",
        "units": {"length": "mm", "force": "N", "stress": "MPa", "density": "mg/cm3"},
        "side": side,
        "uncalibrated": calibration is None,
        "uncalibrated_modulus_mpa": None if calibration else options["uncalibrated_modulus_mpa"],
        "poissons_ratio": options["poissons_ratio"],
        "distal_slab_mm": options["distal_slab_mm"],
        "material": None,
    }


def _model_facts(surface: Surface, models: dict, volume_mm3: float) -> dict:
    """What mesh.json tells of the surface and of each model."""
    describe = {"hex": hex_facts, "tet": tet_facts}
    return {"surface": surface_facts(surface, volume_mm3)} | {
        name: describe[name](mesh, volume_mm3, bins) | {"material": material}
        for name, (mesh, bins, material) in models.items()
    }


def _find_frame(mask: Image, side: str) -> tuple[FemurFrame | None, str]:
    """The anatomical frame, or None and why there is none: the models are then written without load cases."""
    try:
        return find_frame(mask, side), ""
    except AnatomyError as error:
        return None, str(error)


def _judge(facts: dict, options: dict) -> dict:
    """Gates and flags of what is known so far; MeshError for a gate that the options make an error."""
    gates = check_gates(facts, options["gates"])
    failed = [name for name, gate in gates.items() if not gate["passed"]]
    for name in failed:
        if name in options["gate_errors"]:
            gate = gates[name]
            bounds = {"at least": gate["low"], "at most": gate["high"]}
            allowed = " and ".join(f"{word} {n:g}" for word, n in bounds.items() if n is not None)
            raise MeshError(
                f"gate {name} is not passed: {gate['value']:.4g} where {allowed} is allowed; look at the "
                "segmentation, or correct gates and gate_errors in the configuration"
            )
    return {"gates": gates, "flags": failed}


def _build_hex(mask: Image, ct: Image, level_set: LevelSet, calibration: Calibration | None, options: dict):
    """The voxel model with, if calibrated, its material bins and their facts.

    ``average: density`` takes the law of a cube's mean density; ``modulus`` the mean of the law over the
    cube's voxels, which is stiffer where density varies inside a cube.
    """
    images = {"hu": ct.array}
    for name, function in (calibration.voxel_fields() if calibration else {}).items():
        images[name] = np.zeros(ct.shape, np.float32)
        images[name][mask.array] = function(ct.array[mask.array])
    mesh = build_hexahedra(
        mask,
        images,
        options["cube_mm"],
        options["bone_fraction_min"],
        options["hex_shape"],
        level_set,
        options["distal_slab_mm"],
    )
    if calibration:
        return mesh, *add_hex_materials(mesh, calibration)
    return mesh, _one_material(mesh, options), None


def _build_tet(mask: Image, ct: Image, level_set: LevelSet, calibration: Calibration | None, options: dict):
    """The tetrahedral model with, if calibrated, its material bins and their facts.

    ``beyond_mask: extend`` continues the bone's CT numbers beyond the mask before integrating, so that
    elements at its edge do not take in the fat and muscle next to it; with ``scan`` they do, as Bonemat's.
    """
    mesh = build_tetrahedra(mask, options["tet_mm"], level_set, options["distal_slab_mm"])
    mesh.facts.update({key: options[key] for key in ("points_per_edge", "beyond_mask")})
    if options["beyond_mask"] == "extend":
        ct = extend_beyond(ct, mask)
    bins, material = add_tet_materials(mesh, ct, calibration, options["points_per_edge"])
    return mesh, bins or _one_material(mesh, options), material


def _one_material(mesh: Mesh, options: dict) -> MaterialBins | None:
    """The one modulus of an uncalibrated model, if the options give one."""
    if options["uncalibrated_modulus_mpa"] is None:
        return None
    mesh.cell_data["youngs_modulus_mpa"] = np.full(
        len(mesh.cells), float(options["uncalibrated_modulus_mpa"])
    )
    return bin_modulus(mesh.cell_data["youngs_modulus_mpa"], 0)
