"""What other programs need for the same elements and cubes, and which of their figures a results file keeps.

ciclope writes voxel models, py_bonemat_abaqus (GPL, an oracle only) integrates over tetrahedra.
"""

import importlib.util
import time
from importlib.metadata import version
from pathlib import Path

import meshio
import numpy as np
from committed import describe_machine

import hipqct
from hipqct.hexahedra import build_hexahedra
from hipqct.image import Image
from hipqct.io.meshes import write_inp
from hipqct.mapping import mean_over_tetrahedra
from hipqct.material import bin_modulus
from hipqct.tetrahedra import build_tetrahedra

# Figures by the peer that they need.
PEERS = {
    "py_bonemat_abaqus": (
        "mapping_speedup_vs_py_bonemat",
        "mapping_s",
        "mapping_mean_difference_hu",
        "mapping_spread_hu",
    ),
    "ciclope": ("hex_speedup_vs_ciclope",),
}
REPEATS, ORACLE_ELEMENTS, PARTS, POISSON = 3, 100, 8, 0.3


def compare_peers(mask: Image, ct: Image, folder: Path) -> dict:
    """Figures of every peer that can be used, with what they were measured with (``{peer}_measured``)."""
    found = {}
    for peer, compare in (("py_bonemat_abaqus", compare_mapping), ("ciclope", compare_ciclope)):
        if figures := compare(mask, ct, folder):
            found |= figures | {mark_of(peer): measured_with() | {"peer": version(peer)}}
    return found


def measured_with() -> dict:
    """What figures that are kept must share with those beside them."""
    return {"machine": describe_machine(1), "hipqct": hipqct.__version__}


def mark_of(peer: str) -> str:
    return f"{peer}_measured"


def missing_peers(result: dict) -> str | None:
    """A sentence that names the peers that were not measured; None where all were."""
    missing = [peer for peer in PEERS if mark_of(peer) not in result]
    if not missing:
        return None
    return (
        f"{' and '.join(missing)} cannot be used, so nothing was compared with them: run `make bench`, or "
        "pip install --require-hashes --no-deps -r requirements/peers.txt"
    )


def without_peers(result: dict) -> dict:
    """The figures that need no peer."""
    of_peers = {key for peer, keys in PEERS.items() for key in (mark_of(peer), *keys)}
    return {key: value for key, value in result.items() if key not in of_peers}


def keep_peers(result: dict, before: dict) -> None:
    """Put figures before of peers that were not measured into ``result`` if of this machine and version.

    Others are dropped, and named.
    """
    for peer, keys in PEERS.items():
        found = [key for key in keys if key in before]
        if mark_of(peer) in result or not found:
            continue
        if measured_with().items() <= before.get(mark_of(peer), {}).items():
            result |= {key: before[key] for key in (*found, mark_of(peer))}
        else:
            print(f"dropped, being of another machine or version: {peer} ({', '.join(found)})")


def quickest(work) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def compare_mapping(mask: Image, ct: Image, folder: Path) -> dict:
    """Our integration against py_bonemat's on the same elements: ratio of times, mean difference (HU)."""
    spec = importlib.util.find_spec("py_bonemat_abaqus")
    if spec is None:
        return {}
    # As published its module does not load under Python 3, for the sake of one class that is not needed here.
    source = (Path(spec.submodule_search_locations[0]) / "classes.py").read_text(encoding="utf-8")
    oracle: dict = {}
    exec(source[: source.index("class linear_hex")], oracle)
    quad_tet, vtk_data = oracle["quad_tet"], oracle["vtk_data"]
    mesh = build_tetrahedra(mask)
    ours_s = quickest(lambda: mean_over_tetrahedra(mesh, ct, PARTS, {"hu": lambda hu: hu}))
    ours = mean_over_tetrahedra(mesh, ct, PARTS, {"hu": lambda hu: hu})["hu"]
    axes = [ct.origin_mm[i] + ct.spacing_mm[i] * np.arange(ct.shape[i]) for i in range(3)]
    image = vtk_data(*(axis.tolist() for axis in axes), ct.array.ravel(order="F"))
    chosen = np.linspace(0, len(mesh.cells) - 1, ORACLE_ELEMENTS).astype(int)
    started = time.perf_counter()
    theirs = [
        quad_tet(0, [mesh.points_mm[i].tolist() for i in mesh.cells[cell]], mesh.cells[cell]).integral(
            PARTS, image
        )
        for cell in chosen
    ]
    theirs_s = (time.perf_counter() - started) * len(mesh.cells) / ORACLE_ELEMENTS
    return {
        "mapping_speedup_vs_py_bonemat": theirs_s / ours_s,
        "mapping_s": ours_s,
        "mapping_mean_difference_hu": float(np.abs(ours[chosen] - theirs).mean()),
        "mapping_spread_hu": float(np.std(ours)),
    }


def compare_ciclope(mask: Image, ct: Image, folder: Path) -> dict:
    """ciclope's voxel model against ours: the same 3-mm cubes, from array to .inp."""
    try:
        from ciclope.core.voxelFE import mesh2voxelfe, vol2ugrid
    except (ImportError, AttributeError) as error:
        print(f"ciclope cannot be used ({error}): its comparison is left out")
        return {}

    class Block(meshio.CellBlock):
        """ciclope takes meshio's blocks apart as the tuples they once were."""

        def __getitem__(self, i):
            return (self.type, self.data)[i]

    mesh = build_hexahedra(mask, {"hu": ct.array})
    corner = mesh.points_mm[mesh.cells].min(axis=1)
    place = np.rint((corner - corner.min(axis=0)) / 3.0).astype(int)
    volume = np.zeros(place.max(axis=0)[::-1] + 1, np.uint8)
    grey = np.clip(1 + (mesh.cell_data["hu"] + 200) / 8, 1, 255).astype(np.uint8)
    volume[tuple(place.T[::-1])] = grey
    template = folder / "template.inp"
    template.write_text("** no step\n")

    def theirs():
        grid = vol2ugrid(volume, [3.0, 3.0, 3.0], GVmin=0)
        grid.cells = [Block(block.type, block.data) for block in grid.cells]
        mesh2voxelfe(grid, str(template), str(folder / "ciclope.inp"), keywords=["NSET", "ELSET"])

    def ours():
        bins = bin_modulus(1000.0 + 60.0 * grey, 0)
        write_inp(mesh, folder / "ours.inp", ["benchmark"], bins, POISSON)

    ours_s = quickest(lambda: (build_hexahedra(mask, {"hu": ct.array}), ours()))
    return {"hex_speedup_vs_ciclope": quickest(theirs) / ours_s}
