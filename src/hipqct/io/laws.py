"""Material laws from JSON files."""

from pathlib import Path

from hipqct.errors import MeshError
from hipqct.io.files import read_json
from hipqct.material import DensityLaw, ModulusLaw, law_from_record


def read_laws(folder) -> dict[str, DensityLaw | ModulusLaw]:
    """All laws in the JSON files of a folder, by name.

    Raises:
        MeshError: there are none, a file or a law cannot be read, or a name stands twice.
    """
    laws = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            records = read_json(path)
        except ValueError as error:
            raise MeshError(f"material laws in {path} are no valid JSON: {error}") from error
        for name, record in records.items():
            if name in laws:
                raise MeshError(
                    f"material law {name} stands twice in {folder}: rename the one in {path.name}"
                )
            laws[name] = law_from_record(name, record)
    if not laws:
        raise MeshError(f"no material laws (*.json) in {folder}: mend mesh/laws_folder in the configuration")
    return laws
