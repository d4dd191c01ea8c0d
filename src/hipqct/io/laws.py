"""Material laws from JSON files."""

import json
from pathlib import Path

import hipqct
from hipqct.errors import MeshError
from hipqct.material import DensityLaw, ModulusLaw, law_from_record

LAWS_FOLDER = Path(hipqct.__file__).resolve().parents[2] / "resources" / "materials"


def law_files(folder) -> list[Path]:
    """The JSON files of a folder of laws, shipped ones and the user's, in order of their names."""
    return sorted(Path(folder).glob("*.json"))


def read_laws(folder) -> dict[str, DensityLaw | ModulusLaw]:
    """All laws in the JSON files of a folder, by name.

    Raises:
        MeshError: there are none, a file or a law cannot be read, or a name stands twice.
    """
    laws = {}
    for path in law_files(folder):
        try:
            records = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
        except ValueError as error:
            raise MeshError(f"material laws in {path} are no valid JSON: {error}") from error
        if not isinstance(records, dict):
            raise MeshError(f"material laws in {path} must be one JSON object of laws by name")
        for name, record in records.items():
            if name in laws:
                raise MeshError(
                    f"material law {name} stands twice in {folder}: rename the one in {path.name}"
                )
            try:
                laws[name] = law_from_record(name, record)
            except MeshError as error:
                raise MeshError(f"{path}: {error}") from error
    if not laws:
        raise MeshError(
            f"no material laws (*.json) in {folder}: correct mesh/laws_folder in the configuration"
        )
    return laws


def _without_twins(pairs: list[tuple]) -> dict:
    """A JSON object; ValueError where a key stands twice, of which JSON's readers keep the last."""
    names = [name for name, _ in pairs]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twins)} stands twice")
    return dict(pairs)


def choose_laws(
    folder, basis: str, density_laws: dict[str, list[str]], modulus_law: str
) -> tuple[list[DensityLaw], ModulusLaw]:
    """The laws that lead from a calibration's density to Young's modulus.

    Args:
        folder: of the laws' files.
        basis: of the calibration.
        density_laws: names of laws by basis, in order; modulus_law: the name of the last one.

    Raises:
        MeshError: a law is missing or of the wrong kind, or does not take what the one before it gives.
    """
    laws = read_laws(folder)
    if basis not in density_laws:
        raise MeshError(
            f"no density laws for a calibration in {basis}: name some as density_laws in the configuration"
        )
    chosen, density = [], basis
    for name, kind in [*((name, DensityLaw) for name in density_laws[basis]), (modulus_law, ModulusLaw)]:
        law = laws.get(name)
        if not isinstance(law, kind):
            names = ", ".join(sorted(key for key, law in laws.items() if isinstance(law, kind)))
            raise MeshError(f"material law {name} is unknown or of the wrong kind: choose from {names}")
        if law.takes != density:
            raise MeshError(
                f"material law {name} takes {law.takes} density, got {density}: choose laws that fit the "
                "scan's calibration and each other in the configuration"
            )
        chosen.append(law)
        density = law.gives if kind is DensityLaw else None
    return chosen[:-1], chosen[-1]
