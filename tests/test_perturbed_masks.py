"""Spoilt masks mesh and say what is wrong with them, or are refused with the sentence that fits."""

import json

import numpy as np
import pytest
from perturbations import OPTIONS, PERTURBATIONS, Perturbation, femur

from hipqct.errors import MeshError
from hipqct.io.images import write_image
from hipqct.steps.mesh import export_mesh


def export(perturbation: Perturbation, folder) -> dict:
    """Facts of the mesh of a spoilt mask."""
    mask = perturbation.change(femur())
    hu = np.where(mask.array, 300, -50).astype(np.int16)
    write_image(mask, folder / "mask.nii.gz")
    write_image(mask.with_array(hu), folder / "ct.nii.gz")
    paths = (folder / "mask.nii.gz", folder / "ct.nii.gz", folder / "mesh")
    export_mesh(*paths, perturbation.side, OPTIONS, "K2HPO4")
    return json.loads((folder / "mesh/mesh.json").read_text())


def test_there_are_more_than_thirty():
    assert len({p.name for p in PERTURBATIONS if p.name != "as it is"}) >= 33


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: p.name)
def test_a_spoilt_mask_is_told_or_refused(perturbation, tmp_path):
    if perturbation.refused:
        with pytest.raises(MeshError, match=perturbation.refused):
            export(perturbation, tmp_path)
        assert not (tmp_path / "mesh").exists()
        return
    facts = export(perturbation, tmp_path)
    assert perturbation.is_right(set(facts["flags"])), facts["flags"]
    assert facts["surface"]["closed"] and facts["tet"]["min_volume_mm3"] > 0
    assert facts["tet"]["min_dihedral_deg"] > 10 and facts["hex"]["min_jacobian_mm3"] > 0
