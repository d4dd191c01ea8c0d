"""What one mesh option asks of another, and of the files of material laws; the schema says all else of them.

Values as shipped stand in config/config.yaml alone; kinds, ranges and choices in
workflow/schemas/config.schema.yaml.
"""

from hipqct.errors import MeshError
from hipqct.io.laws import LAWS_FOLDER, choose_laws
from hipqct.material import DensityLaw, ModulusLaw


def option_faults(options: dict, basis: str) -> list[str]:
    """What is wrong with options that the schema lets pass.

    Args:
        options: the configuration's ``mesh``; basis: of the cohort's calibrations.
    """
    faults = [
        f"mesh/gates/{name}: the lower limit {low:g} is above the upper one, {high:g}"
        for name, (low, high) in options["gates"].items()
        if low is not None and high is not None and low > high
    ]
    faults += [
        f"mesh/load_cases/{name}: a push along the shaft leaves a hinge no axis: clamp the slab"
        for name, case in options["load_cases"].items()
        if case["distal"] == "hinged" and case["angle_to_shaft_deg"] in (0, 180)
    ]
    return faults + law_faults(options, basis)


def law_faults(options: dict, basis: str) -> list[str]:
    """What is wrong with the material laws, for each calibration basis that the options name and this one."""
    faults = []
    for each in dict.fromkeys([*options["density_laws"], basis]):
        try:
            laws_for(options, each)
        except MeshError as error:
            faults.append(f"mesh/density_laws/{each}: {error}")
    return faults


def laws_for(options: dict, basis: str) -> tuple[list[DensityLaw], ModulusLaw]:
    """The laws that the options choose for a calibration, from the shipped folder unless they name another.

    Raises:
        MeshError: see `hipqct.io.laws.choose_laws`.
    """
    folder = options.get("laws_folder", LAWS_FOLDER)
    return choose_laws(folder, basis, options["density_laws"], options["modulus_law"])
